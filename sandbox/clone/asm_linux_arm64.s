#include "textflag.h"

// func cloned(call, a, b, c, d, e, live uintptr, child *child) (pid int)
TEXT ·cloned(SB), NOSPLIT|NOFRAME, $0-72
	MOVD	call+0(FP), R8
	MOVD	a+8(FP), R0
	MOVD	b+16(FP), R1
	MOVD	c+24(FP), R2
	MOVD	d+32(FP), R3
	MOVD	e+40(FP), R4
	MOVD	live+48(FP), R19
	MOVD	child+56(FP), R20
	SVC
	CBZ	R0, child
	MOVD	R0, pid+64(FP)
	RET
child: // on its own stack
	MOVD	$0, R29
	MOVD	R20, R0
	CALL	(R19)
	BRK
