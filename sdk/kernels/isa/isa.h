/* Which instruction sets the kernels may use: a set of flags, found at run time or forced by the caller. */
#ifndef SLUICE_KERNELS_ISA_H
#define SLUICE_KERNELS_ISA_H

#include <stdint.h>

/* A flag of a higher level stands together with those below it: avx512 means SLK_ISA_AVX2 | SLK_ISA_AVX512. */
enum {
    SLK_ISA_REF = 0,              /* plain C, always there */
    SLK_ISA_AVX2 = 1u << 0,       /* AVX2, FMA and F16C */
    SLK_ISA_AVX512 = 1u << 1,     /* AVX-512 F, BW, VL and DQ */
    SLK_ISA_AVX512BF16 = 1u << 2, /* vdpbf16ps */
    SLK_ISA_AVX512VNNI = 1u << 3, /* vpdpbusd */
    SLK_ISA_END = 1u << 4
};

/* What this CPU can do and the operating system saves (XGETBV) and this build has code for.  [any] */
uint32_t slk_isa_detect(void);

/* "auto", "ref", "avx2" or "avx512" -> flags, cut down to what slk_isa_detect() has. Returns 0 and writes *isa; -1: not
 * a name; -2: this machine lacks that level (*isa then holds the best one below).  [any] */
int slk_isa_parse(const char *text, uint32_t *isa);

/* "ref", "avx2", "avx512", "avx512-bf16", "avx512-vnni" or "avx512-bf16-vnni"; static.  [any] */
const char *slk_isa_name(uint32_t isa);

#endif
