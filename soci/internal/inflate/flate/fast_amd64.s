//go:build !purego && !noasm

#include "go_asm.h"
#include "textflag.h"

// The tables, and the two variants of the loop in loop_amd64.h.

// bytes[c] is c: the source of a literal. 31 bytes after it are read but not
// used.
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

// symbols[2*c:] is c as a symbol of 16 bits. 46 bytes after it are read but not
// used.
#define S4(i) \
	DATA symbols<>+(2*(i))(SB)/2, $(i); \
	DATA symbols<>+(2*(i)+2)(SB)/2, $(i+1); \
	DATA symbols<>+(2*(i)+4)(SB)/2, $(i+2); \
	DATA symbols<>+(2*(i)+6)(SB)/2, $(i+3)

#define S32(i) \
	S4(i); S4(i+4); S4(i+8); S4(i+12); S4(i+16); S4(i+20); S4(i+24); S4(i+28)

S32(0)
S32(32)
S32(64)
S32(96)
S32(128)
S32(160)
S32(192)
S32(224)
GLOBL symbols<>(SB), RODATA|NOPTR, $560

// literal[i] replaces the entry of a distance after a literal: it takes no
// bits, and is large enough for a copy in units of 16 bytes. The source of the
// copy is LITERALS.
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

// repeats[16*d:] is a shuffle that repeats a pattern of d bytes in 16, for 0 <
// d < 16.
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

// steps[d] is the number of bytes, of 16, that whole patterns of d bytes fill.
DATA steps<>+0(SB)/8, $0x0e0c0f100f101000
DATA steps<>+8(SB)/8, $0x0f0e0d0c0b0a0910
GLOBL steps<>(SB), RODATA|NOPTR, $16

#define end     0(SP)
#define room    8(SP)
#define noDist  16(SP)
#define one     24(SP)
#define same    32(SP)
#define plain   40(SP)

// REFILL fills a bit buffer to at least 56 bits.
#define REFILL(buf) \
	SHLXQ R12, (R13), AX; \
	ORQ   AX, buf; \
	MOVL  R12, AX; \
	NOTL  AX; \
	SHRL  $3, AX; \
	ANDL  $7, AX; \
	ADDQ  AX, R13; \
	ORL   $56, R12

// LITERAL decodes a literal.
#define LITERAL \
	SHRXQ DX, BX, BX; \
	SUBL  DX, R12; \
	SHRL  $16, DX; \
	MOVL  DX, AX; \
	STORE; \
	ADDQ  $SYMBOL, R8; \
	MOVL  BX, CX; \
	ANDL  $const_litMask, CX; \
	MOVL  (SI)(CX*4), DX

// func decode(l *loop) int
#define LITERALS     bytes<>(SB)
#define SYMBOL       1
#define STORE        MOVB AX, (R8)
#define SCALE(x)
#define COPIED       32
#define COPY_REST
TEXT ·decode(SB), NOSPLIT, $48-16
#include "loop_amd64.h"

#undef LITERALS
#undef SYMBOL
#undef STORE
#undef SCALE
#undef COPIED
#undef COPY_REST

// func decode16(l *loop) int
#define LITERALS     symbols<>(SB)
#define SYMBOL       2
#define STORE        MOVBLZX AX, AX; MOVW AX, (R8)
#define SCALE(x)     ADDL x, x
#define COPIED       48
#define COPY_REST    MOVOU 32(AX), X0; MOVOU X0, 32(R8)
TEXT ·decode16(SB), NOSPLIT, $48-16
#include "loop_amd64.h"
