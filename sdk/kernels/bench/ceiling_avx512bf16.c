/* Products of bf16 in AVX-512: vdpbf16ps. */
#include <immintrin.h>

#include "bench_ceiling.h"
#include "isa.h"

enum { SUMS = 16 };

static double dot(int64_t rounds, float *sink) {
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f)),
                   b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.01f), _mm512_set1_ps(-0.01f));
    __m512 y[SUMS];
    for (int j = 0; j < SUMS; j++)
        y[j] = _mm512_set1_ps((float)j);
    for (int64_t r = 0; r < rounds; r++)
        for (int j = 0; j < SUMS; j++)
            y[j] = _mm512_dpbf16_ps(y[j], a, b);
    for (int j = 1; j < SUMS; j++)
        y[0] = _mm512_add_ps(y[0], y[j]);
    *sink = _mm512_cvtss_f32(y[0]);
    return 4.0 * 16 * SUMS * (double)rounds;
}

const slk_ceiling slk_ceiling_avx512bf16 = {"avx512-bf16", SLK_ISA_AVX512BF16, NULL, NULL, dot};
