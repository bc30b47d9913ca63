/* Loops of bench_ceiling.h in AVX-512. */
#include <immintrin.h>

#include "bench_ceiling.h"
#include "isa.h"

enum { SUMS = 16 };

static uint64_t read_all(const void *data, int64_t bytes) {
    const char *p = data;
    __m512i sum[8];
    for (int j = 0; j < 8; j++)
        sum[j] = _mm512_setzero_si512();
    for (int64_t i = 0; i < bytes; i += 512)
        for (int j = 0; j < 8; j++)
            sum[j] = _mm512_add_epi64(sum[j], _mm512_load_si512(p + i + 64 * j));
    for (int j = 1; j < 8; j++)
        sum[0] = _mm512_xor_si512(sum[0], sum[j]);
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

static double multiply_add(int64_t rounds, float *sink) {
    const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    __m512 y[SUMS];
    for (int j = 0; j < SUMS; j++)
        y[j] = _mm512_set1_ps((float)j);
    for (int64_t r = 0; r < rounds; r++)
        for (int j = 0; j < SUMS; j++)
            y[j] = _mm512_fmadd_ps(y[j], a, b);
    for (int j = 1; j < SUMS; j++)
        y[0] = _mm512_add_ps(y[0], y[j]);
    *sink = _mm512_cvtss_f32(y[0]);
    return 2.0 * 16 * SUMS * (double)rounds;
}

const slk_ceiling slk_ceiling_avx512 = {"avx512", SLK_ISA_AVX512, read_all, multiply_add, NULL};
