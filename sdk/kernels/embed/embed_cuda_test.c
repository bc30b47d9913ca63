/* Rows of an embedding table: exact; zeros for padding and where there is no token. */
#include "testhost_rows.h"

static void try_embed(slt_host *h, sl_dtype dtype, int32_t vocab, int64_t n, int64_t rows, int64_t gap) {
    float *table = slt_values(vocab * n, (uint64_t)n, 1);
    const int64_t ldx = n + gap;
    int32_t *token = slt_alloc(rows, 4), *row_seq = slt_alloc(rows, 4);
    for (int64_t i = 0; i < rows; i++) {
        token[i] = (int32_t)((i * 7919 + 3) % vocab);
        row_seq[i] = i % 5 == 3 ? -1 : (int32_t)(i % 2);
        if (i % 7 == 4)
            token[i] = i % 2 ? -1 : vocab;
    }
    const slk_embed_params p = {.table = slt_upload_as(h, dtype, table, vocab * n),
                                .x = slt_device(h, rows * ldx * 4),
                                .row_seq = slt_upload(h, row_seq, rows * 4),
                                .token = slt_upload(h, token, rows * 4),
                                .ld_table = n,
                                .ldx = ldx,
                                .vocab = vocab,
                                .n = (int32_t)n};
    assert_int_equal(slk_cuda_embed(&h->k, h->lane, &p, rows, dtype), SL_OK);
    float *got = slt_download_as(h, SL_F32, p.x, rows * ldx);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) {
            const int none = row_seq[i] < 0 || token[i] < 0 || token[i] >= vocab;
            const float want = none ? 0 : table[token[i] * n + j];
            if (got[i * ldx + j] != want)
                fail_msg("embed %s, %d rows of %d: row %d (token %d), element %d: %g, expected %g", slt_name(dtype),
                         (int)rows, (int)n, (int)i, token[i], (int)j, (double)got[i * ldx + j], (double)want);
        }
    free(table), free(token), free(row_seq), free(got);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    const sl_dtype types[] = {SL_F32, SL_F16, SL_BF16};
    for (int t = 0; t < 3; t++) {
        try_embed(h, types[t], 97, 4096, 1, 0);
        try_embed(h, types[t], 31, 10, 40, 0); /* not by fours */
        try_embed(h, types[t], 11, 2880, 33, 1);
        try_embed(h, types[t], 5, 1028, 300, 4);
        try_embed(h, types[t], 1, 1, 3, 0);
    }
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 256);
    const slk_embed_params p = {
        .table = m, .x = m, .row_seq = m, .token = m, .vocab = 1, .n = 4, .ldx = 4, .ld_table = 4};
    assert_int_equal(slk_cuda_embed(&h->k, h->lane, &p, 1, SL_I8), SL_E_UNIMPLEMENTED);
    assert_int_equal(slk_cuda_embed(&h->k, h->lane, &p, 70000, SL_F32), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("embed_cuda", tests, slt_setup, slt_teardown);
}
