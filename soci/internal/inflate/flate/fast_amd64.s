//go:build !purego && !noasm

#include "go_asm.h"
#include "textflag.h"

// bytes[c] is c: where a literal is copied from. 31 more are read and not used.
#define B8(i) \
	DATA bytes<>+(i)(SB)/1, $(i); \
	DATA bytes<>+(i+1)(SB)/1, $(i+1); \
	DATA bytes<>+(i+2)(SB)/1, $(i+2); \
	DATA bytes<>+(i+3)(SB)/1, $(i+3); \
	DATA bytes<>+(i+4)(SB)/1, $(i+4); \
	DATA bytes<>+(i+5)(SB)/1, $(i+5); \
	DATA bytes<>+(i+6)(SB)/1, $(i+6); \
	DATA bytes<>+(i+7)(SB)/1, $(i+7)

#define B64(i) \
	B8(i); B8(i+8); B8(i+16); B8(i+24); B8(i+32); B8(i+40); B8(i+48); B8(i+56)

B64(0)
B64(64)
B64(128)
B64(192)
GLOBL bytes<>(SB), RODATA|NOPTR, $288

// literal[i] is what takes the place of a distance behind a literal: no bits, and far
// enough to be copied by 16 bytes, if the place it is copied from were not another one.
#define L8(i) \
	DATA literal<>+(i)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+8)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+16)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+24)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+32)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+40)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+48)(SB)/8, $0x0010000000100000; \
	DATA literal<>+(i+56)(SB)/8, $0x0010000000100000

#define L512(i) \
	L8(i); L8(i+64); L8(i+128); L8(i+192); L8(i+256); L8(i+320); L8(i+384); L8(i+448)

L512(0)
L512(512)
L512(1024)
L512(1536)
GLOBL literal<>(SB), RODATA|NOPTR, $2048

// repeats[16*d:] shuffles a pattern of d bytes into 16, for 0 < d < 16.
DATA repeats<>+0x10(SB)/8, $0x0000000000000000
DATA repeats<>+0x18(SB)/8, $0x0000000000000000
DATA repeats<>+0x20(SB)/8, $0x0100010001000100
DATA repeats<>+0x28(SB)/8, $0x0100010001000100
DATA repeats<>+0x30(SB)/8, $0x0100020100020100
DATA repeats<>+0x38(SB)/8, $0x0002010002010002
DATA repeats<>+0x40(SB)/8, $0x0302010003020100
DATA repeats<>+0x48(SB)/8, $0x0302010003020100
DATA repeats<>+0x50(SB)/8, $0x0201000403020100
DATA repeats<>+0x58(SB)/8, $0x0004030201000403
DATA repeats<>+0x60(SB)/8, $0x0100050403020100
DATA repeats<>+0x68(SB)/8, $0x0302010005040302
DATA repeats<>+0x70(SB)/8, $0x0006050403020100
DATA repeats<>+0x78(SB)/8, $0x0100060504030201
DATA repeats<>+0x80(SB)/8, $0x0706050403020100
DATA repeats<>+0x88(SB)/8, $0x0706050403020100
DATA repeats<>+0x90(SB)/8, $0x0706050403020100
DATA repeats<>+0x98(SB)/8, $0x0605040302010008
DATA repeats<>+0xa0(SB)/8, $0x0706050403020100
DATA repeats<>+0xa8(SB)/8, $0x0504030201000908
DATA repeats<>+0xb0(SB)/8, $0x0706050403020100
DATA repeats<>+0xb8(SB)/8, $0x04030201000a0908
DATA repeats<>+0xc0(SB)/8, $0x0706050403020100
DATA repeats<>+0xc8(SB)/8, $0x030201000b0a0908
DATA repeats<>+0xd0(SB)/8, $0x0706050403020100
DATA repeats<>+0xd8(SB)/8, $0x0201000c0b0a0908
DATA repeats<>+0xe0(SB)/8, $0x0706050403020100
DATA repeats<>+0xe8(SB)/8, $0x01000d0c0b0a0908
DATA repeats<>+0xf0(SB)/8, $0x0706050403020100
DATA repeats<>+0xf8(SB)/8, $0x000e0d0c0b0a0908
GLOBL repeats<>(SB), RODATA|NOPTR, $256

// steps[d] is how much of 16 bytes are whole patterns of d.
DATA steps<>+0(SB)/8, $0x0e0c0f100f101000
DATA steps<>+8(SB)/8, $0x0f0e0d0c0b0a0910
GLOBL steps<>(SB), RODATA|NOPTR, $16

// What the registers hold:
//
//	SI, DI  the tables
//	BX      the bit buffer; what is above its R12 bits is what comes or zero
//	R12     how many bits, in the low six bits; what is above is waste
//	R13     the next byte of the input
//	R8, R9  the next byte of the output, the begin of the window
//	DX      the entry of the next symbol
#define end     0(SP)
#define room    8(SP)
#define noDist  16(SP)
#define one     24(SP)
#define same    32(SP)
#define plain   40(SP)

// REFILL tops a bit buffer up to 56 bits at least.
#define REFILL(buf) \
	SHLXQ R12, (R13), AX; \
	ORQ   AX, buf; \
	MOVL  R12, AX; \
	NOTL  AX; \
	SHRL  $3, AX; \
	ANDL  $7, AX; \
	ADDQ  AX, R13; \
	ORL   $56, R12

// LITERAL takes a literal.
#define LITERAL \
	SHRXQ DX, BX, BX; \
	SUBL  DX, R12; \
	SHRL  $16, DX; \
	MOVB  DX, (R8); \
	INCQ  R8; \
	MOVL  BX, CX; \
	ANDL  $const_litMask, CX; \
	MOVL  (SI)(CX*4), DX

// func decode(l *loop) int
//
// The bits that are sure to be there: 56 at the begin of a turn; 45 behind a literal; 34
// behind the first level of a code, and 25 behind the second, or 29 behind a length;
// 56 before and 28 behind a distance, of which the next entry takes 11.
TEXT ·decode(SB), NOSPLIT, $48-16
	MOVQ l+0(FP), AX
	LEAQ bytes<>(SB), CX
	MOVQ CX, same
	LEAQ literal<>(SB), CX
	MOVQ CX, noDist
	MOVQ $1, one
	MOVQ loop_lit(AX), SI
	MOVQ loop_dist(AX), DI
	MOVQ loop_win(AX), R9
	MOVQ R9, R8
	ADDQ loop_op(AX), R8
	MOVQ R9, CX
	ADDQ loop_opLimit(AX), CX
	MOVQ CX, room
	MOVQ loop_in(AX), R13
	MOVQ R13, CX
	ADDQ loop_ip(AX), R13
	ADDQ loop_inLimit(AX), CX
	MOVQ CX, end
	MOVBLZX loop_plain(AX), CX
	MOVQ CX, plain
	MOVQ loop_bb(AX), BX
	MOVQ loop_nb(AX), R12
	REFILL(BX)
	MOVL BX, CX
	ANDL $const_litMask, CX
	MOVL (SI)(CX*4), DX

	PCALIGN $32
turn:
	CMPQ R8, room
	JAE  full
	CMPQ R13, end
	JHI  full
	REFILL(BX)
	CMPQ plain, $0
	JNE  literals

	// The first symbol, if it is a literal, without a branch.
	SHRXQ   DX, BX, R10
	MOVL    R10, CX
	ANDL    $const_litMask, CX
	MOVL    (SI)(CX*4), CX
	MOVL    DX, AX
	SHRL    $16, AX
	MOVB    AX, (R8)
	LEAQ    1(R8), R14
	MOVL    R12, R11
	SUBL    DX, R11
	TESTL   DX, DX
	CMOVQMI R10, BX
	CMOVLMI R11, R12
	CMOVQMI R14, R8
	CMOVLMI CX, DX
	TESTL   $const_specialFlag, DX
	JNE     special

symbol:
	// The next one: a match, or a literal as one that is one long and takes no distance.
	SHRXQ   DX, BX, R10
	BZHIQ   DX, BX, R14
	MOVL    DX, AX
	SHRL    $const_codeShift, AX
	SHRXQ   AX, R14, R14       // the extra bits of a length
	SUBL    DX, R12
	MOVL    R10, CX
	ANDL    $const_distMask, CX
	MOVQ    DI, R11
	MOVL    DX, BP
	SHRL    $16, BP
	ADDL    BP, R14
	MOVBLZX BP, BP
	ADDQ    same, BP
	TESTL   DX, DX
	CMOVQMI noDist, R11
	CMOVLMI one, R14
	MOVL    (R11)(CX*4), R11
	REFILL(R10)
	TESTL   $const_distSpecial, R11
	JNE     specialDist

distance:
	SHRXQ R11, R10, BX
	BZHIQ R11, R10, AX
	SUBL  R11, R12
	MOVL  R11, CX
	SHRL  $const_codeShift, CX
	SHRXQ CX, AX, AX           // its extra bits
	SHRL  $16, R11
	ADDL  AX, R11
	MOVL  BX, CX
	ANDL  $const_litMask, CX
	MOVL  (SI)(CX*4), CX
	MOVQ  R8, AX
	SUBQ  R11, AX
	CMPQ  AX, R9
	JLO   before

copy:
	TESTL   DX, DX
	CMOVQMI BP, AX
	MOVL    CX, DX
	MOVOU   (AX), X0
	CMPL    R11, $16
	JLO     near
	MOVOU   X0, (R8)
	MOVOU   16(AX), X0
	MOVOU   X0, 16(R8)
	CMPL    R14, $32
	JHI     long
	ADDQ    R14, R8
	JMP     turn

long:
	ADDQ R8, R14

more:
	ADDQ  $32, R8
	ADDQ  $32, AX
	MOVOU (AX), X0
	MOVOU X0, (R8)
	MOVOU 16(AX), X0
	MOVOU X0, 16(R8)
	LEAQ  32(R8), CX
	CMPQ  CX, R14
	JLO   more
	MOVQ  R14, R8
	JMP   turn

near:
	ADDQ    R8, R14
	LEAQ    steps<>(SB), AX
	MOVBLZX (AX)(R11*1), CX
	SHLL    $4, R11
	LEAQ    repeats<>(SB), AX
	MOVOU   (AX)(R11*1), X1
	PSHUFB  X1, X0

again:
	MOVOU X0, (R8)
	ADDQ  CX, R8
	CMPQ  R8, R14
	JLO   again
	MOVQ  R14, R8
	JMP   turn

before:
	// A literal has no distance, so none that is too far.
	TESTL DX, DX
	JMI   copy
	JMP   corrupt

literals:
	// Of a block that has few matches: up to four, with branches that are foreseen.
	TESTL $(const_litFlag|const_specialFlag), DX
	JEQ   symbol
	JPL   special
	LITERAL
	TESTL DX, DX
	JPL   turn
	LITERAL
	TESTL DX, DX
	JPL   turn
	LITERAL
	TESTL DX, DX
	JPL   turn
	LITERAL
	JMP   turn

special:
	TESTL $const_subFlag, DX
	JEQ   last
	MOVL  DX, AX
	SHRL  $24, AX
	ANDL  $15, AX
	SHRQ  $const_litBits, BX
	SUBL  $const_litBits, R12
	BZHIQ AX, BX, CX
	SHRL  $8, DX
	MOVWLZX DX, DX
	ADDL  CX, DX
	MOVL  (SI)(DX*4), DX
	TESTL $const_specialFlag, DX
	JEQ   symbol

last:
	TESTL $const_endFlag, DX
	JEQ   corrupt
	SHRXQ DX, BX, BX
	SUBL  DX, R12
	MOVQ  $const_loopEnd, DX
	JMP   done

specialDist:
	TESTL $const_distSub, R11
	JEQ   corrupt
	MOVL  R11, AX
	SHRL  $8, AX
	ANDL  $15, AX
	SHRQ  $const_distBits, R10
	SUBL  $const_distBits, R12
	BZHIQ AX, R10, CX
	SHRL  $16, R11
	ADDL  CX, R11
	MOVL  (DI)(R11*4), R11
	TESTL $const_distSpecial, R11
	JEQ   distance

corrupt:
	MOVQ $const_loopCorrupt, DX
	JMP  done

full:
	MOVQ $const_loopFull, DX

done:
	MOVQ l+0(FP), AX
	SUBQ R9, R8
	MOVQ R8, loop_op(AX)
	SUBQ loop_in(AX), R13
	MOVQ R13, loop_ip(AX)
	ANDL $63, R12
	BZHIQ R12, BX, BX
	MOVQ BX, loop_bb(AX)
	MOVQ R12, loop_nb(AX)
	MOVQ DX, ret+8(FP)
	RET
