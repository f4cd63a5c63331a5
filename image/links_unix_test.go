//go:build unix

package image

import "syscall"

const tooManyLinks = syscall.EMLINK
