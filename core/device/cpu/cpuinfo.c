/* CPU detection by cpuid and XGETBV; see cpuinfo.h. */
#include "cpuinfo.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Parts of the register state that the operating system saves: xmm and ymm; opmask, upper zmm and zmm16-31 on top. */
enum { STATE_YMM = 0x06, STATE_ZMM = 0xe6 };

static uint32_t saved_state(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static uint32_t find_isa(void) {
    const uint32_t base = bit_FMA | bit_F16C | bit_AVX;
    const uint32_t wide = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || (c & base) != base)
        return 0;
    uint32_t state = saved_state();
    if ((state & STATE_YMM) != STATE_YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
        return 0;
    uint32_t isa = SL_ISA_AVX2;
    if ((state & STATE_ZMM) == STATE_ZMM && (b & wide) == wide) {
        isa |= SL_ISA_AVX512;
        if (c & (1u << 11))
            isa |= SL_ISA_AVX512_VNNI;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)))
            isa |= SL_ISA_AVX512_BF16;
    }
    return isa;
}

static void find_brand(char brand[64]) {
    uint32_t text[12], a, b, c, d;
    if (!__get_cpuid(0x80000000u, &a, &b, &c, &d) || a < 0x80000004u)
        return;
    for (uint32_t i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &text[4 * i], &text[4 * i + 1], &text[4 * i + 2], &text[4 * i + 3]);
    char raw[sizeof text + 1] = "";
    memcpy(raw, text, sizeof text);
    size_t begin = strspn(raw, " "), end = strlen(raw);
    while (end > begin && raw[end - 1] == ' ')
        end--;
    if (end > begin) {
        memcpy(brand, raw + begin, end - begin);
        brand[end - begin] = '\0';
    }
}
#else
static uint32_t find_isa(void) { return 0; }
static void find_brand(char brand[64]) { (void)brand; }
#endif

/* The mask of a large machine may not fit a cpu_set_t: ask again with a larger one. */
static int32_t find_cores(void) {
    for (int room = 1024; room <= 1 << 20; room *= 4) {
        size_t bytes = CPU_ALLOC_SIZE(room);
        cpu_set_t *set = CPU_ALLOC(room);
        if (set == NULL)
            break;
        int ok = sched_getaffinity(0, bytes, set) == 0, n = ok ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0)
            return n;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}

void sli_cpuinfo_read(sli_cpuinfo *out) {
    memset(out, 0, sizeof *out);
    strcpy(out->brand, "unknown");
    out->isa = find_isa();
    out->cores = find_cores();
    find_brand(out->brand);
}
