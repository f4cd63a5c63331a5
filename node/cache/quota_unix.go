//go:build !windows

package cache

import "syscall"

const errQuota = syscall.EDQUOT
