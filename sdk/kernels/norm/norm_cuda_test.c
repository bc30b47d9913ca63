/* RMS norm on a device against the reference; a row's bits do not depend on the other rows. */
#include "testhost_rows.h"

#include "kernels.h"

typedef struct shape {
    int64_t rows, heads, n, gap, offset; /* gap: elements between rows; offset: elements in front of the first */
} shape;

static void try_norm(slt_host *h, shape s, sl_dtype xt, sl_dtype yt, sl_dtype wt, int in_place) {
    const int64_t ld = s.heads * s.n + s.gap, count = s.rows * ld + s.offset;
    float *x = slt_values(count, (uint64_t)(s.n + s.rows), 3), *w = slt_values(s.n, 5, 1), *want = slt_alloc(count, 4);
    for (int64_t i = 0; s.rows > 2 && i < s.heads * s.n; i++) { /* a row of zeros, one of large values */
        x[s.offset + i] = 0;
        x[s.offset + ld + i] *= 1e15f;
    }
    void *dx = slt_upload_as(h, xt, x, count);
    void *dy = in_place ? dx : slt_device(h, count * slt_element(yt));
    const slk_norm_params p = {.x = (char *)dx + s.offset * slt_element(xt),
                               .w = slt_upload_as(h, wt, w, s.n),
                               .y = (char *)dy + s.offset * slt_element(yt),
                               .ldx = ld,
                               .ldx_head = s.n,
                               .ldy = ld,
                               .ldy_head = s.n,
                               .heads = (int32_t)s.heads,
                               .n = (int32_t)s.n,
                               .eps = 1e-5f,
                               .w_is_bf16 = wt == SL_BF16};
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, s.rows, xt, yt), SL_OK);
    float *got = slt_download_as(h, yt, dy, count);
    for (int64_t r = 0; r < s.rows; r++) {
        const int64_t at = s.offset + r * ld;
        const slk_norm ref = {.x = x + at, .y = want + at, .w = w, .ldx = s.n, .ldy = s.n, .n = s.n, .eps = 1e-5f};
        slk_kernels_for(SLK_ISA_REF)->rmsnorm(&ref, 0, s.heads);
        char what[160];
        snprintf(what, sizeof what, "norm %s -> %s, weights %s, [%d, %d, %d] offset %d gap %d%s, row %d", slt_name(xt),
                 slt_name(yt), slt_name(wt), (int)s.rows, (int)s.heads, (int)s.n, (int)s.offset, (int)s.gap,
                 in_place ? " in place" : "", (int)r);
        slt_close_to(what, want + at, got + at, s.heads * s.n, slt_tolerance(yt), 1e-6);
    }
    free(x), free(w), free(want), free(got);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    const shape shapes[] = {{1, 1, 4096, 0, 0},   {3, 1, 64, 0, 0},    {2, 1, 7, 0, 0},     {5, 1, 100, 4, 0},
                            {1, 1, 16384, 0, 0},  {2, 1, 8192, 0, 0},  {4, 1, 16383, 1, 1}, {17, 1, 2048, 0, 1},
                            {1, 1, 1, 0, 0},      {3, 4, 128, 256, 0}, {9, 8, 64, 0, 4},    {2, 3, 80, 0, 2},
                            {300, 1, 12288, 0, 0}};
    const sl_dtype types[] = {SL_F32, SL_BF16};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < 8; t++)
            try_norm(h, shapes[i], types[t & 1], types[t >> 1 & 1], types[t >> 2], 0);
    try_norm(h, shapes[0], SL_F32, SL_F32, SL_F32, 1);
    try_norm(h, shapes[9], SL_BF16, SL_BF16, SL_F32, 1);
}

static void test_rows_apart(void **state) {
    slt_host *h = slt_get(state);
    enum { ROWS = 33, N = 4096 };
    float *x = slt_values(ROWS * N, 3, 2), *w = slt_values(N, 4, 1);
    const char *dx = slt_upload(h, x, ROWS * N * 4), *dw = slt_upload(h, w, N * 4);
    char *all = slt_device(h, ROWS * N * 2), *one = slt_device(h, ROWS * N * 2);
    slk_norm_params p = {.x = dx, .w = dw, .y = all, .ldx = N, .ldy = N, .heads = 1, .n = N, .eps = 1e-6f};
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, ROWS, SL_F32, SL_BF16), SL_OK);
    for (int r = 0; r < ROWS; r++) {
        p.x = dx + r * N * 4, p.y = one + r * N * 2;
        assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, 1, SL_F32, SL_BF16), SL_OK);
    }
    uint16_t *a = slt_alloc(ROWS * N, 2), *b = slt_alloc(ROWS * N, 2);
    slt_download(h, a, all, ROWS * N * 2);
    slt_download(h, b, one, ROWS * N * 2);
    slt_same_bytes("rows alone and together", a, b, ROWS * N * 2);
    free(x), free(w), free(a), free(b);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 4096);
    slk_norm_params p = {.x = m, .w = m, .y = m, .ldx = 8, .ldy = 8, .heads = 1, .n = 8};
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, 1, SL_F16, SL_F32), SL_E_UNIMPLEMENTED);
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, 0, SL_F32, SL_F32), SL_OK);
    p.n = SLK_NORM_MAX + 1;
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, 1, SL_F32, SL_F32), SL_E_UNIMPLEMENTED);
    p.n = 0;
    assert_int_equal(slk_cuda_norm(&h->k, h->lane, &p, 1, SL_F32, SL_F32), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_rows_apart),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("norm_cuda", tests, slt_setup, slt_teardown);
}
