/* RoPE on a device against the reference: the same bits. And back. */
#include "testhost_rows.h"

#include "kernels.h"

enum { POSITIONS = 300 };

static void try_rope(slt_host *h, sl_dtype dtype, int64_t rows, int64_t heads, int64_t dim, int32_t n_rot,
                     uint32_t interleaved) {
    const int64_t ld = heads * dim + 8, half = n_rot / 2, count = rows * ld;
    float *x = slt_values(count, (uint64_t)(rows + dim), 2), *first = slt_alloc(count, 4);
    float *cosine = slt_alloc(POSITIONS * half, 4), *sine = slt_alloc(POSITIONS * half, 4),
          *position = slt_alloc(rows, 4);
    for (int64_t i = 0; i < POSITIONS * half; i++) {
        const double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        cosine[i] = (float)cos(angle), sine[i] = (float)sin(angle);
    }
    for (int64_t r = 0; r < rows; r++)
        position[r] = (float)((r * 37 + 5) % POSITIONS);
    slk_rope_params p = {.x = slt_upload_as(h, dtype, x, count),
                         .position = slt_upload(h, position, rows * 4),
                         .cos = slt_upload(h, cosine, POSITIONS * half * 4),
                         .sin = slt_upload(h, sine, POSITIONS * half * 4),
                         .ldx = ld,
                         .ldx_head = dim,
                         .heads = (int32_t)heads,
                         .n_rot = n_rot,
                         .n_positions = POSITIONS,
                         .interleaved = interleaved};
    memcpy(first, x, (size_t)count * 4);
    assert_int_equal(slk_cuda_rope(&h->k, h->lane, &p, rows, dtype), SL_OK);
    float *got = slt_download_as(h, dtype, p.x, count);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = (int64_t)position[r] * half;
        const slk_rope ref = {.x = x + r * ld,
                              .ldx = ld,
                              .ld_head = dim,
                              .cos_row = cosine + at,
                              .sin_row = sine + at,
                              .ld_trig = half,
                              .heads = heads,
                              .n_rot = n_rot,
                              .interleaved = interleaved};
        slk_kernels_for(SLK_ISA_REF)->rope(&ref, 0, 1);
    }
    for (int64_t i = 0; i < count; i++)
        x[i] = slt_rounded(dtype, x[i]);
    char what[128];
    snprintf(what, sizeof what, "rope %s [%d, %d, %d], %d rotate%s", slt_name(dtype), (int)rows, (int)heads, (int)dim,
             n_rot, interleaved ? ", interleaved" : "");
    slt_close_to(what, x, got, count, 0, 0);
    p.inverse = 1;
    assert_int_equal(slk_cuda_rope(&h->k, h->lane, &p, rows, dtype), SL_OK);
    float *back = slt_download_as(h, dtype, p.x, count);
    slt_close_to(what, first, back, count, 0, dtype == SL_F32 ? 2e-6 : 0.04);
    free(x), free(first), free(cosine), free(sine), free(position), free(got), free(back);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    for (uint32_t interleaved = 0; interleaved < 2; interleaved++)
        for (int t = 0; t < 2; t++) {
            const sl_dtype dtype = t ? SL_BF16 : SL_F32;
            try_rope(h, dtype, 1, 32, 128, 128, interleaved);
            try_rope(h, dtype, 7, 3, 64, 32, interleaved);
            try_rope(h, dtype, 100, 1, 10, 6, interleaved);
            try_rope(h, dtype, 3, 5, 256, 256, interleaved);
        }
}

static void test_off_the_table(void **state) {
    slt_host *h = slt_get(state);
    float ones[4] = {1, 1, 1, 1}, position[3] = {4, -1, 0.5f}, x[6] = {1, 2, 3, 4, 5, 6};
    const slk_rope_params p = {.x = slt_upload(h, x, sizeof x),
                               .position = slt_upload(h, position, sizeof position),
                               .cos = slt_upload(h, ones, sizeof ones),
                               .sin = slt_upload(h, ones, sizeof ones),
                               .ldx = 2,
                               .ldx_head = 2,
                               .heads = 1,
                               .n_rot = 2,
                               .n_positions = 4};
    assert_int_equal(slk_cuda_rope(&h->k, h->lane, &p, 3, SL_F32), SL_OK);
    slt_download(h, x, p.x, sizeof x);
    for (int i = 0; i < 6; i++)
        if (!isnan(x[i]))
            fail_msg("a position that the table does not hold: element %d is %g, expected NaN", i, (double)x[i]);
    assert_int_equal(slk_cuda_rope(&h->k, h->lane, &p, 3, SL_F16), SL_E_UNIMPLEMENTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_off_the_table)};
    return cmocka_run_group_tests_name("rope_cuda", tests, slt_setup, slt_teardown);
}
