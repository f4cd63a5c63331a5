#include "textflag.h"

// func cloned(call, a, b, c, d, e, live uintptr, child *child) (pid int)
TEXT ·cloned(SB), NOSPLIT|NOFRAME, $0-72
	MOVQ	call+0(FP), AX
	MOVQ	a+8(FP), DI
	MOVQ	b+16(FP), SI
	MOVQ	c+24(FP), DX
	MOVQ	d+32(FP), R10
	MOVQ	e+40(FP), R8
	MOVQ	live+48(FP), R12
	MOVQ	child+56(FP), R13
	SYSCALL
	TESTQ	AX, AX
	JZ	child
	MOVQ	AX, pid+64(FP)
	RET
child: // on its own stack
	XORL	BP, BP
	XORPS	X15, X15
	MOVQ	R13, AX
	CALL	R12
	INT	$3
