#include "textflag.h"

// func vfork() (pid int)
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-8
	MOVL	$0x4111, DI // CLONE_VM, CLONE_VFORK and SIGCHLD
	XORL	SI, SI      // on this stack
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX     // clone
	POPQ	R12         // the return address: the child's calls will overwrite its place
	SYSCALL
	PUSHQ	R12
	MOVQ	AX, pid+0(FP)
	RET
