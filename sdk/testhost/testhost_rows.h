/* Rows of any float dtype for tests of kernels: made, uploaded, fetched and compared in f32. */
#ifndef SLUICE_TESTHOST_ROWS_H
#define SLUICE_TESTHOST_ROWS_H

#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"

static inline void *slt_alloc(int64_t n, size_t size) {
    void *p = calloc((size_t)(n > 0 ? n : 1), size);
    assert_non_null(p);
    return p;
}
static inline int64_t slt_element(sl_dtype dtype) { return dtype == SL_F32 ? 4 : 2; }
static inline const char *slt_name(sl_dtype dtype) {
    return dtype == SL_F32 ? "f32" : dtype == SL_F16 ? "f16" : "bf16";
}

/* Uniform in [-scale, scale). */
static inline float *slt_values(int64_t n, uint64_t seed, float scale) {
    float *x = slt_alloc(n, sizeof *x);
    slt_random(x, n, seed);
    for (int64_t i = 0; i < n; i++)
        x[i] *= scale;
    return x;
}

static inline uint16_t slt_narrow(sl_dtype dtype, float x) {
    return dtype == SL_F16 ? slk_f16_of_f32(x) : slk_bf16_of_f32(x);
}
static inline float slt_widen(sl_dtype dtype, uint16_t x) {
    return dtype == SL_F16 ? slk_f32_of_f16(x) : slk_f32_of_bf16(x);
}
static inline float slt_rounded(sl_dtype dtype, float x) {
    return dtype == SL_F32 ? x : slt_widen(dtype, slt_narrow(dtype, x));
}

/* x in that dtype on the device; x itself is rounded to it, so that references see what the kernel sees. */
static inline void *slt_upload_as(slt_host *h, sl_dtype dtype, float *x, int64_t n) {
    if (dtype == SL_F32)
        return slt_upload(h, x, 4 * n);
    uint16_t *t = slt_alloc(n, sizeof *t);
    for (int64_t i = 0; i < n; i++) {
        t[i] = slt_narrow(dtype, x[i]);
        x[i] = slt_widen(dtype, t[i]);
    }
    void *p = slt_upload(h, t, 2 * n);
    free(t);
    return p;
}
static inline float *slt_download_as(slt_host *h, sl_dtype dtype, const void *device, int64_t n) {
    float *x = slt_alloc(n, sizeof *x);
    if (dtype == SL_F32) {
        slt_download(h, x, device, 4 * n);
        return x;
    }
    uint16_t *t = slt_alloc(n, sizeof *t);
    slt_download(h, t, device, 2 * n);
    for (int64_t i = 0; i < n; i++)
        x[i] = slt_widen(dtype, t[i]);
    free(t);
    return x;
}

/* One rounding of that dtype, or a little of f32 arithmetic. */
static inline double slt_tolerance(sl_dtype dtype) {
    return dtype == SL_F32 ? 4e-6 : dtype == SL_F16 ? 0x1p-10 : 0x1p-7;
}

/* |got - want| <= rtol |want| + atol everywhere; want NaN: got NaN. Prints the largest error. */
static inline void slt_close_to(const char *what, const float *want, const float *got, int64_t n, double rtol,
                                double atol) {
    int64_t bad = 0, worst = -1;
    double largest = -1;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(want[i]) && isnan(got[i]))
            continue;
        const double error = want[i] == got[i] ? 0 : fabs((double)got[i] - want[i]);
        bad += !(error <= rtol * fabs((double)want[i]) + atol);
        if (!(error <= largest))
            largest = error, worst = i;
    }
    if (bad > 0)
        fail_msg("%s: %lld of %lld off, largest error %g at %lld: %.9g, expected %.9g", what, (long long)bad,
                 (long long)n, largest, (long long)worst, (double)got[worst], (double)want[worst]);
}

static inline void slt_same_bytes(const char *what, const void *want, const void *got, int64_t bytes) {
    const unsigned char *a = want, *b = got;
    for (int64_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %lld is %02x, expected %02x", what, (long long)i, b[i], a[i]);
}

#endif
