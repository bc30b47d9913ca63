/* argmax and top-k on a device against the reference: the same ids in the same order. */
#include "testhost_rows.h"

#include "kernels.h"

enum { RANDOM, EQUAL, FEW_VALUES, NANS, ALL_NAN, ZEROS, INFINITE, SUBNORMAL, SORTED, NARROW, KINDS };
static const char *const kind_names[] = {
    "random", "equal",     "few values", "some NaN",      "all NaN", "zeros of both signs",
    "-inf",   "subnormal", "ascending",  "close together"};

static void make_row(float *x, int64_t n, int kind, uint64_t seed) {
    slt_random(x, n, seed);
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i];
        switch (kind) {
        case EQUAL: x[i] = -3.5f; break;
        case FEW_VALUES: x[i] = (float)(int)(v * 4); break;
        case NANS: x[i] = v < -0.2f ? NAN : v > 0.9f ? -NAN : v; break;
        case ALL_NAN: x[i] = NAN; break;
        case ZEROS: x[i] = v < 0 ? -0.0f : 0.0f; break;
        case INFINITE: x[i] = v < 0.3f ? -INFINITY : v > 0.99f ? INFINITY : v; break;
        case SUBNORMAL: x[i] = v * 1e-39f; break;
        case SORTED: x[i] = (float)i - 1000; break;
        case NARROW: x[i] = 12 + v * 1e-4f; break;
        default: x[i] = v * 10; break;
        }
    }
}

static void try_topk(slt_host *h, int64_t rows, int64_t n, int64_t k, int64_t gap, int kind, int64_t offset) {
    const int64_t stride = n + gap, count = rows * stride + offset;
    float *x = slt_alloc(count, 4), *value = slt_alloc(rows * k, 4), *want_value = slt_alloc(k, 4);
    int32_t *id = slt_alloc(rows * k, 4), *want = slt_alloc(k, 4);
    for (int64_t r = 0; r < rows; r++)
        make_row(x + offset + r * stride, n, kind < 0 ? (int)(r % KINDS) : kind, (uint64_t)(n * 31 + r));
    for (int64_t r = 0; r < rows; r++) /* what stands in the gap would win */
        for (int64_t i = 0; i < gap; i++)
            x[offset + r * stride + n + i] = 1e30f;
    const float *dx = slt_upload(h, x, count * 4);
    const slk_topk_params p = {.x = dx + offset,
                               .id = slt_device(h, rows * k * 4),
                               .value = slt_device(h, rows * k * 4),
                               .stride = stride,
                               .n = (int32_t)n,
                               .k = (int32_t)k};
    assert_int_equal(slk_cuda_topk(&h->k, h->lane, &p, rows), SL_OK);
    slt_download(h, id, p.id, rows * k * 4);
    slt_download(h, value, p.value, rows * k * 4);
    for (int64_t r = 0; r < rows; r++) {
        slk_kernels_for(SLK_ISA_REF)->topk(x + offset + r * stride, n, k, want_value, want);
        for (int64_t i = 0; i < k; i++)
            if (id[r * k + i] != want[i] || value[r * k + i] != want_value[i])
                fail_msg(
                    "top %d of %d x %d (gap %d, offset %d, %s), row %d, place %d: id %d value %.9g, expected %d, %.9g",
                    (int)k, (int)rows, (int)n, (int)gap, (int)offset, kind_names[kind < 0 ? r % KINDS : kind], (int)r,
                    (int)i, id[r * k + i], (double)value[r * k + i], want[i], (double)want_value[i]);
    }
    free(x), free(value), free(want_value), free(id), free(want);
}

static void test_argmax(void **state) {
    slt_host *h = slt_get(state);
    for (int kind = 0; kind < KINDS; kind++) {
        try_topk(h, 1, 128256, 1, 0, kind, 0);
        try_topk(h, 3, 1001, 1, 2, kind, 1);
    }
    try_topk(h, 1, 1, 1, 0, RANDOM, 0);
    try_topk(h, 2, 3, 1, 0, RANDOM, 0);
    try_topk(h, 128, 32000, 1, 0, -1, 0);
    try_topk(h, 300, 4097, 1, 0, -1, 0);
    try_topk(h, 2, 2000000, 1, 0, -1, 0);
}

static void test_topk(void **state) {
    slt_host *h = slt_get(state);
    for (int kind = 0; kind < KINDS; kind++) {
        try_topk(h, 1, 128256, 64, 0, kind, 0);
        try_topk(h, 2, 131072, 4096, 0, kind, 0);
        try_topk(h, 2, 1000, 1000, 3, kind, 0);
        try_topk(h, 2, 4099, 50, 0, kind, 3);
    }
    try_topk(h, 2, 2, 2, 0, RANDOM, 0);
    try_topk(h, 5, 7, 3, 1, -1, 0);
    try_topk(h, 128, 128256, 20, 0, -1, 0);
    try_topk(h, 33, 8192, 4096, 0, -1, 0);
    try_topk(h, 2, 4096, 4096, 0, -1, 0);
    try_topk(h, 10, 300000, 64, 1, -1, 0); /* longer than what is kept in shared memory */
    try_topk(h, 10, 500000, 4095, 0, -1, 0);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 65536);
    slk_topk_params p = {.x = m, .id = m, .n = 8192, .k = 0, .stride = 8192};
    assert_int_equal(slk_cuda_topk(&h->k, h->lane, &p, 1), SL_E_RANGE);
    p.k = 8193;
    assert_int_equal(slk_cuda_topk(&h->k, h->lane, &p, 1), SL_E_RANGE);
    p.k = 4097;
    assert_int_equal(slk_cuda_topk(&h->k, h->lane, &p, 1), SL_E_UNIMPLEMENTED);
    p.k = 4;
    assert_int_equal(slk_cuda_topk(&h->k, h->lane, &p, 0), SL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_argmax), cmocka_unit_test(test_topk),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("select_cuda", tests, slt_setup, slt_teardown);
}
