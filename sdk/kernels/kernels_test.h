/* What the tests of the kernels share: the tables to try and random rows. */
#ifndef SLUICE_KERNELS_TEST_H
#define SLUICE_KERNELS_TEST_H

#include "sl_test.h"

#include "half.h"
#include "kernels.h"

/* Each set of flags that this machine can run, reference first. Returns how many. */
static inline int test_tables(const slk_kernels **tables) {
    int n = 0;
    for (uint32_t isa = 0; isa < SLK_ISA_END; isa++)
        if (slk_kernels_for(isa)->isa == isa)
            tables[n++] = slk_kernels_for(isa);
    return n;
}

static inline void *test_alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1); /* exact size: ASan sees a byte too far */
    assert_non_null(p);
    return p;
}

static inline float *test_normals(uint64_t *rng, size_t n, float scale) {
    float *x = test_alloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * test_normal(rng);
    return x;
}

/* The same numbers in another dtype; x itself is rounded to it, so that references see what the kernel sees. */
static inline void *test_as_dtype(uint32_t dtype, float *x, size_t n) {
    if (dtype == SL_F32) {
        float *out = test_alloc(n * sizeof *out);
        if (n > 0)
            memcpy(out, x, n * sizeof *out);
        return out;
    }
    uint16_t *out = test_alloc(n * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[i] = dtype == SL_F16 ? slk_f16_of_f32(x[i]) : slk_bf16_of_f32(x[i]);
        x[i] = dtype == SL_F16 ? slk_f32_of_f16(out[i]) : slk_f32_of_bf16(out[i]);
    }
    return out;
}

static inline int test_range(uint64_t *rng, int lo, int hi) {
    return lo + (int)(test_next(rng) % (uint64_t)(hi - lo + 1));
}

/* Bit equality; names the first difference. */
static inline void check_bits(const char *what, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s: bits differ at %zu: %.9g and %.9g", what, i, (double)a[i], (double)b[i]);
}

#endif
