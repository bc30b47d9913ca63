/* Rows by index on a device, against the rows themselves: bit-equal. THE PATTERN for tests of kernels. */
#include "testhost_cmocka.h"

#include <stdlib.h>
#include <string.h>

static void try_gather(slt_host *h, int64_t rows, int32_t n, int64_t width, int64_t ldx, int64_t ldy, uint64_t seed) {
    /* the last row has no gap behind it: what reads or writes there is found */
    const int64_t x_count = (rows - 1) * ldx + width, y_count = n > 0 ? (n - 1) * ldy + width : 1;
    float *x = malloc((size_t)x_count * sizeof *x), *y = malloc((size_t)y_count * sizeof *y);
    int32_t *row = malloc(((size_t)n + 1) * sizeof *row);
    assert_true(x != NULL && y != NULL && row != NULL);
    slt_random(x, x_count, seed);
    for (int32_t i = 0; i <= n; i++)
        row[i] = (int32_t)(((uint64_t)i * 2654435761u + seed) % (uint64_t)rows);
    if (n > 1)
        row[0] = (int32_t)rows - 1, row[n - 1] = 0;
    const slk_gather_params p = {.x = slt_upload(h, x, x_count * 4),
                                 .row = slt_upload(h, row, (n + 1) * 4),
                                 .y = slt_device(h, y_count * 4),
                                 .width = width,
                                 .ldx = ldx,
                                 .ldy = ldy,
                                 .n = n};
    assert_int_equal(slk_cuda_gather(&h->k, h->lane, &p), SL_OK);
    slt_download(h, y, p.y, y_count * 4);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < (i + 1 < n ? ldy : width); j++) {
            uint32_t got, want = 0xffffffffu; /* gaps keep their poison */
            memcpy(&got, &y[i * ldy + j], sizeof got);
            if (j < width)
                memcpy(&want, &x[row[i] * ldx + j], sizeof want);
            if (got != want)
                fail_msg("%d of %d rows of %d, strides %d and %d: row %d, element %d: %08x, expected %08x", n,
                         (int)rows, (int)width, (int)ldx, (int)ldy, (int)i, (int)j, got, want);
        }
    free(x), free(y), free(row);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    try_gather(h, 1, 1, 4, 4, 4, 1);
    try_gather(h, 5, 0, 8, 8, 8, 2);
    try_gather(h, 7, 3, 4, 12, 8, 3);
    try_gather(h, 100, 257, 1020, 1024, 1020, 4); /* no multiple of the block */
    try_gather(h, 3, 1000, 2048, 2048, 2056, 5);
    try_gather(h, 64, 8, 12288, 12288, 12288, 6);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 4096);
    slk_gather_params p = {.x = m, .row = m, .y = m, .width = 8, .ldx = 8, .ldy = 8, .n = 1};
    p.width = 6;
    assert_int_equal(slk_cuda_gather(&h->k, h->lane, &p), SL_E_INVALID);
    p.width = 8, p.ldy = 9;
    assert_int_equal(slk_cuda_gather(&h->k, h->lane, &p), SL_E_INVALID);
    p.ldy = 8, p.n = -1;
    assert_int_equal(slk_cuda_gather(&h->k, h->lane, &p), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("gather_cuda", tests, slt_setup, slt_teardown);
}
