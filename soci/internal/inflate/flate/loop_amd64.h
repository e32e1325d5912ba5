// The fast loop: the body of a function. The file that includes it defines
//
//	LITERALS    the table that literals are copied from
//	SYMBOL      bytes of output per symbol
//	STORE       stores the lowest byte of AX as a symbol
//	SCALE(x)    multiplies by SYMBOL
//	COPIED      bytes of a match that are copied in any case: 32, and by
//	COPY_REST   the rest
//
// A decoder spends most of its time on mispredicted branches, because it cannot
// be predicted whether a literal or a match follows. So an iteration decodes a
// literal, if one follows, with conditional moves, and then a symbol of either
// kind. It handles a literal as a match of length one whose source is selected
// by another move and whose distance takes no bits.
//
// Registers:
//
//	SI, DI  the tables
//	BX      the bit buffer; the bits above the R12 valid ones are the next bits or zero
//	R12     the number of valid bits, in the low six bits; the others are arbitrary
//	R13     the next byte of the input
//	R8, R9  the next byte of the output, the start of the window
//	DX      the entry of the next symbol
//
// Guaranteed bits: 56 at the start of an iteration; 45 after a literal; 34
// after the first level of a code, and 25 after the second, or 29 after a
// length; 56 before and 28 after a distance, of which the next entry takes 11.
	MOVQ l+0(FP), AX
	LEAQ LITERALS, CX
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
iterate:
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
	STORE
	LEAQ    SYMBOL(R8), R14
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
	// The next symbol: a match, or a literal as a match of length one without a
	// distance.
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
	SCALE(BP)
	ADDQ    same, BP
	TESTL   DX, DX
	CMOVQMI noDist, R11
	CMOVLMI one, R14
	SCALE(R14)
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
	SCALE(R11)
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
	COPY_REST
	CMPL    R14, $COPIED
	JHI     long
	ADDQ    R14, R8
	JMP     iterate

long:
	ADDQ R8, R14
	ADDQ $COPIED, R8
	ADDQ $COPIED, AX

more:
	MOVOU (AX), X0
	MOVOU X0, (R8)
	MOVOU 16(AX), X0
	MOVOU X0, 16(R8)
	ADDQ  $32, R8
	ADDQ  $32, AX
	CMPQ  R8, R14
	JLO   more
	MOVQ  R14, R8
	JMP   iterate

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
	JMP   iterate

before:
	// A literal has no distance that could be too large.
	TESTL DX, DX
	JMI   copy
	JMP   corrupt

literals:
	// In a block with few matches: up to four literals, with branches that are
	// predicted.
	TESTL $(const_litFlag|const_specialFlag), DX
	JEQ   symbol
	JPL   special
	LITERAL
	TESTL DX, DX
	JPL   iterate
	LITERAL
	TESTL DX, DX
	JPL   iterate
	LITERAL
	TESTL DX, DX
	JPL   iterate
	LITERAL
	JMP   iterate

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
