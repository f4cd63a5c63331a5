#include "textflag.h"

// func vfork() (pid int)
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-8
	MOVD	$0x4111, R0 // CLONE_VM, CLONE_VFORK and SIGCHLD
	MOVD	$0, R1      // on this stack
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8    // clone
	SVC
	MOVD	R0, pid+0(FP)
	RET
