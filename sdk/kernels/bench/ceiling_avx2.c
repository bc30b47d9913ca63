/* Loops of bench_ceiling.h in AVX2 and FMA. */
#include <immintrin.h>

#include "bench_ceiling.h"
#include "isa.h"

enum { SUMS = 12 }; /* more than latency times units, and they fit the registers */

static uint64_t read_all(const void *data, int64_t bytes) {
    const char *p = data;
    __m256i sum[8];
    for (int j = 0; j < 8; j++)
        sum[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < bytes; i += 256)
        for (int j = 0; j < 8; j++)
            sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256((const __m256i *)(const void *)(p + i + 32 * j)));
    for (int j = 1; j < 8; j++)
        sum[0] = _mm256_xor_si256(sum[0], sum[j]);
    return (uint64_t)_mm256_extract_epi64(sum[0], 0) ^ (uint64_t)_mm256_extract_epi64(sum[0], 2);
}

static double multiply_add(int64_t rounds, float *sink) {
    const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    __m256 y[SUMS];
    for (int j = 0; j < SUMS; j++)
        y[j] = _mm256_set1_ps((float)j);
    for (int64_t r = 0; r < rounds; r++)
        for (int j = 0; j < SUMS; j++)
            y[j] = _mm256_fmadd_ps(y[j], a, b);
    for (int j = 1; j < SUMS; j++)
        y[0] = _mm256_add_ps(y[0], y[j]);
    *sink = _mm256_cvtss_f32(y[0]);
    return 2.0 * 8 * SUMS * (double)rounds;
}

const slk_ceiling slk_ceiling_avx2 = {"avx2", SLK_ISA_AVX2, read_all, multiply_add, NULL};
