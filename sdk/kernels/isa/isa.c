/* CPU detection by cpuid and XGETBV. */
#include "isa.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Bits of XCR0 that the OS must have set: SSE|AVX for ymm, and opmask|zmm-high|zmm16-31 for zmm. */
enum { XCR0_YMM = 0x06, XCR0_ZMM = 0xe6 };

static uint32_t xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

uint32_t slk_isa_detect(void) {
    uint32_t a, b, c, d, isa = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return SLK_ISA_REF;
    const uint32_t saved = xcr0(), fma_f16c = bit_FMA | bit_F16C | bit_AVX;
    if ((saved & XCR0_YMM) != XCR0_YMM || (c & fma_f16c) != fma_f16c || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return SLK_ISA_REF;
    const uint32_t max_subleaf = a;
#if defined(SLK_HAVE_AVX2)
    if (b & bit_AVX2)
        isa |= SLK_ISA_AVX2;
#endif
#if defined(SLK_HAVE_AVX512)
    const uint32_t parts = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    if ((isa & SLK_ISA_AVX2) && (saved & XCR0_ZMM) == XCR0_ZMM && (b & parts) == parts) {
        isa |= SLK_ISA_AVX512;
        if (c & (1u << 11))
            isa |= SLK_ISA_AVX512VNNI;
#if defined(SLK_HAVE_AVX512BF16)
        if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)))
            isa |= SLK_ISA_AVX512BF16;
#endif
    }
#endif
    (void)max_subleaf;
    return isa;
}

#else
uint32_t slk_isa_detect(void) { return SLK_ISA_REF; }
#endif

int slk_isa_parse(const char *text, uint32_t *isa) {
    static const struct {
        const char *name;
        uint32_t need, may;
    } levels[] = {{"auto", 0, SLK_ISA_END - 1},
                  {"ref", 0, 0},
                  {"avx2", SLK_ISA_AVX2, SLK_ISA_AVX2},
                  {"avx512", SLK_ISA_AVX2 | SLK_ISA_AVX512, SLK_ISA_END - 1}};
    const uint32_t have = slk_isa_detect();
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(text, levels[i].name) == 0) {
            *isa = have & levels[i].may;
            return (have & levels[i].need) == levels[i].need ? 0 : -2;
        }
    return -1;
}

const char *slk_isa_name(uint32_t isa) {
    static const char *const wide[] = {"avx512", "avx512-bf16", "avx512-vnni", "avx512-bf16-vnni"};
    if (isa & SLK_ISA_AVX512)
        return wide[!!(isa & SLK_ISA_AVX512BF16) + 2 * !!(isa & SLK_ISA_AVX512VNNI)];
    return isa & SLK_ISA_AVX2 ? "avx2" : "ref";
}
