package cache

import "golang.org/x/sys/windows"

// Go maps ENOSPC to no Windows error, so the system's own number is compared.
const errQuota = windows.ERROR_DISK_FULL
