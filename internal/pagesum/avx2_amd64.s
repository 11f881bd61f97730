#include "textflag.h"

// func mixRowsAVX2(lane *[32]uint32, rows *byte, n int)
TEXT ·mixRowsAVX2(SB), NOSPLIT, $0-24
	MOVQ lane+0(FP), DI
	MOVQ rows+8(FP), SI
	MOVQ n+16(FP), CX
	MOVL $16777619, AX
	MOVQ AX, X8
	VPBROADCASTD X8, Y8
	VMOVDQU 0(DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3

row:
	VPXOR   0(SI), Y0, Y4
	VPXOR   32(SI), Y1, Y5
	VPXOR   64(SI), Y2, Y6
	VPXOR   96(SI), Y3, Y7
	VPMULLD Y8, Y4, Y0
	VPMULLD Y8, Y5, Y1
	VPMULLD Y8, Y6, Y2
	VPMULLD Y8, Y7, Y3
	VPSRLD  $17, Y4, Y4
	VPSRLD  $17, Y5, Y5
	VPSRLD  $17, Y6, Y6
	VPSRLD  $17, Y7, Y7
	VPXOR   Y4, Y0, Y0
	VPXOR   Y5, Y1, Y1
	VPXOR   Y6, Y2, Y2
	VPXOR   Y7, Y3, Y3
	ADDQ    $128, SI
	DECQ    CX
	JNZ     row

	VMOVDQU Y0, 0(DI)
	VMOVDQU Y1, 32(DI)
	VMOVDQU Y2, 64(DI)
	VMOVDQU Y3, 96(DI)
	VZEROUPPER
	RET

// The weights of the bytes of a run in the second sum, and pairs of ones.
DATA weights<>+0(SB)/8, $0x191a1b1c1d1e1f20
DATA weights<>+8(SB)/8, $0x1112131415161718
DATA weights<>+16(SB)/8, $0x090a0b0c0d0e0f10
DATA weights<>+24(SB)/8, $0x0102030405060708
GLOBL weights<>(SB), RODATA|NOPTR, $32

// func adlerAVX2(a, b uint32, runs *byte, n int) (newA, newB uint32)
//
// Y0 sums the bytes, Y1 the weighted bytes, Y2 the first sum before each run:
// a run adds 32 times that to the second sum.
TEXT ·adlerAVX2(SB), NOSPLIT, $0-32
	MOVL  a+0(FP), AX
	MOVL  b+4(FP), BX
	MOVQ  runs+8(FP), SI
	MOVQ  n+16(FP), CX
	MOVL  CX, DX
	IMULL AX, DX
	SHLL  $5, DX
	ADDL  DX, BX // 32 n a
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y7, Y7, Y7
	VMOVDQU weights<>(SB), Y5
	VPCMPEQW Y6, Y6, Y6
	VPSRLW $15, Y6, Y6

run:
	VMOVDQU    (SI), Y3
	VPADDD     Y0, Y2, Y2
	VPSADBW    Y7, Y3, Y4
	VPADDD     Y4, Y0, Y0
	VPMADDUBSW Y5, Y3, Y3
	VPMADDWD   Y6, Y3, Y3
	VPADDD     Y3, Y1, Y1
	ADDQ       $32, SI
	DECQ       CX
	JNZ        run

	VPSLLD       $5, Y2, Y2
	VPADDD       Y2, Y1, Y1
	VEXTRACTI128 $1, Y0, X3
	VPADDD       X3, X0, X0
	VPSHUFD      $0x4e, X0, X3
	VPADDD       X3, X0, X0
	VMOVD        X0, DX
	ADDL         DX, AX
	VEXTRACTI128 $1, Y1, X3
	VPADDD       X3, X1, X1
	VPSHUFD      $0x4e, X1, X3
	VPADDD       X3, X1, X1
	VPSHUFD      $0xb1, X1, X3
	VPADDD       X3, X1, X1
	VMOVD        X1, DX
	ADDL         DX, BX
	MOVL         AX, newA+24(FP)
	MOVL         BX, newB+28(FP)
	VZEROUPPER
	RET
