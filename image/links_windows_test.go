package image

import "syscall"

const tooManyLinks = syscall.Errno(1142)
