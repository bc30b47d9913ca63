/* Partial results joined on a device, against the sums in double. */
#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>

static void try_merge(slt_host *h, int32_t rows, int32_t heads, int32_t dim, int f32, int f32_2, uint64_t seed) {
    const int64_t n = (int64_t)rows * heads, count = n * dim;
    float *o[2], *lse[2];
    void *d[2], *dl[2];
    for (int i = 0; i < 2; i++) {
        o[i] = malloc((size_t)count * sizeof(float));
        lse[i] = malloc((size_t)n * sizeof(float));
        slt_random(o[i], count, seed + (uint64_t)i);
        slt_random(lse[i], n, seed + 7 + (uint64_t)i);
        for (int64_t j = 0; j < n; j++)
            lse[i][j] = (j + i) % 5 == 4 || j % 11 == 10 ? -INFINITY : 20 * lse[i][j];
        const int wide = i == 0 ? f32 : f32_2;
        uint16_t *half = malloc((size_t)count * sizeof *half);
        for (int64_t j = 0; j < count; j++) {
            half[j] = slt_bf16(o[i][j]);
            if (!wide)
                o[i][j] = slt_float(half[j]);
            if (lse[i][j / dim] == -INFINITY) /* an empty part may hold anything */
                half[j] = 0xffff, o[i][j] = NAN;
        }
        d[i] = slt_upload(h, wide ? (void *)o[i] : (void *)half, count * (wide ? 4 : 2));
        dl[i] = slt_upload(h, lse[i], n * 4);
        free(half);
    }
    const slk_lse_merge_params p = {.o = d[0],
                                    .o2 = d[1],
                                    .lse = dl[0],
                                    .lse2 = dl[1],
                                    .o_row = (int64_t)heads * dim,
                                    .o_head = dim,
                                    .o2_row = (int64_t)heads * dim,
                                    .o2_head = dim,
                                    .rows = rows,
                                    .heads = heads,
                                    .dim = dim,
                                    .o_f32 = f32,
                                    .o2_f32 = f32_2};
    assert_int_equal(slk_cuda_lse_merge(&h->k, h->lane, &p), SL_OK);
    float *got = malloc((size_t)count * sizeof(float)), *got_lse = malloc((size_t)n * sizeof(float));
    uint16_t *half = malloc((size_t)count * sizeof *half);
    slt_download(h, f32 ? (void *)got : (void *)half, d[0], count * (f32 ? 4 : 2));
    for (int64_t j = 0; j < count && !f32; j++)
        got[j] = slt_float(half[j]);
    free(half);
    slt_download(h, got_lse, dl[0], n * 4);
    for (int64_t j = 0; j < n; j++) {
        const double a = (double)lse[0][j], b = (double)lse[1][j], top = fmax(a, b);
        if (top == -INFINITY) {
            assert_true(got_lse[j] == -INFINITY);
            continue;
        }
        const double wa = exp(a - top), wb = exp(b - top), want_lse = top + log(wa + wb);
        if (!(fabs((double)got_lse[j] - want_lse) <= 1e-5 * (1 + fabs(want_lse))))
            fail_msg("%d rows, %d heads of %d: lse %d: %g, expected %g", rows, heads, dim, (int)j, (double)got_lse[j],
                     want_lse);
        for (int32_t k = 0; k < dim; k++) {
            const double x = wa > 0 ? wa * (double)o[0][j * dim + k] : 0,
                         y = wb > 0 ? wb * (double)o[1][j * dim + k] : 0;
            const double want = (x + y) / (wa + wb);
            if (!(fabs((double)got[j * dim + k] - want) <= (f32 ? 1e-5 : 5e-3)))
                fail_msg("%d rows, %d heads of %d: %d, channel %d: %g, expected %g", rows, heads, dim, (int)j, k,
                         (double)got[j * dim + k], want);
        }
    }
    for (int i = 0; i < 2; i++)
        free(o[i]), free(lse[i]);
    free(got), free(got_lse);
}

static void test_merge(void **state) {
    slt_host *h = slt_get(state);
    try_merge(h, 1, 1, 64, 1, 1, 1);
    try_merge(h, 7, 3, 96, 0, 0, 2);
    try_merge(h, 33, 8, 128, 0, 1, 3);
    try_merge(h, 5, 13, 256, 1, 0, 4);
    try_merge(h, 2, 2, 2, 1, 1, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_merge)};
    return cmocka_run_group_tests_name("lse_merge_cuda", tests, slt_setup, slt_teardown);
}
