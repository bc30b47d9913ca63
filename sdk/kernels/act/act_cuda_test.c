/* act(gate) * up on a device against doubles: all activations, halves of one buffer, in place. */
#include "testhost_rows.h"

#include "sluice/ops.h"

static double activated(uint32_t act, double g) {
    switch (act) {
    case SL_ACT_SILU: return g / (1 + exp(-g));
    case SL_ACT_GELU_TANH: return 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)));
    case SL_ACT_RELU: return g > 0 ? g : 0;
    default: return 0.5 * g * (1 + erf(g * 0.7071067811865476));
    }
}

static void try_act(slt_host *h, uint32_t act, sl_dtype xt, sl_dtype yt, int64_t rows, int64_t n, int64_t gap,
                    int in_place) {
    const int64_t ld = 2 * n + gap; /* gate, then up, then the gap */
    float *x = slt_values(rows * ld, (uint64_t)(rows * n), 6);
    x[0] = -120, x[n > 1 ? 1 : 0] = 60;
    char *both = slt_upload_as(h, xt, x, rows * ld);
    const int64_t ldy = in_place ? ld : n;
    void *y = in_place ? (void *)both : slt_device(h, rows * n * slt_element(yt));
    const slk_act_mul_params p = {.gate = both,
                                  .up = both + n * slt_element(xt),
                                  .y = y,
                                  .ld_gate = ld,
                                  .ld_up = ld,
                                  .ldy = ldy,
                                  .n = (int32_t)n,
                                  .act = act};
    assert_int_equal(slk_cuda_act_mul(&h->k, h->lane, &p, rows, xt, yt), SL_OK);
    float *got = slt_download_as(h, yt, y, rows * ldy), *want = slt_alloc(n, 4);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++)
            want[i] = (float)(activated(act, x[r * ld + i]) * x[r * ld + n + i]);
        char what[128];
        snprintf(what, sizeof what, "act %u, %s -> %s, [%d, %d] gap %d%s, row %d", act, slt_name(xt), slt_name(yt),
                 (int)rows, (int)n, (int)gap, in_place ? " in place" : "", (int)r);
        slt_close_to(what, want, got + r * ldy, n, yt == SL_F32 ? 2e-5 : slt_tolerance(yt), 2e-5);
    }
    free(x), free(got), free(want);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    for (uint32_t act = SL_ACT_SILU; act <= SL_ACT_GELU; act++) {
        try_act(h, act, SL_BF16, SL_BF16, 1, 14336, 0, 0);
        try_act(h, act, SL_BF16, SL_BF16, 33, 1000, 8, 0);
        try_act(h, act, SL_F32, SL_BF16, 3, 1027, 0, 0); /* not by fours */
        try_act(h, act, SL_F32, SL_F32, 5, 64, 4, 0);
        try_act(h, act, SL_F32, SL_F32, 2, 1, 1, 0);
        try_act(h, act, SL_BF16, SL_BF16, 4, 512, 0, 1);
    }
}

/* y = residual + act(gate), as a block of a residual network: rows of y apart from each other, y on its residual. */
static void try_residual(slt_host *h, sl_dtype xt, sl_dtype yt, int64_t rows, int64_t n, int64_t ldy, int in_place) {
    float *x = slt_values(rows * n, (uint64_t)(rows + n), 6), *r = slt_values(rows * ldy, (uint64_t)n, 2);
    void *gate = slt_upload_as(h, xt, x, rows * n), *add = slt_upload_as(h, yt, r, rows * ldy);
    void *y = in_place ? add : slt_device(h, rows * ldy * slt_element(yt));
    const slk_act_mul_params p = {.gate = gate,
                                  .y = y,
                                  .residual = add,
                                  .ld_gate = n,
                                  .ldy = ldy,
                                  .ldr = ldy,
                                  .n = (int32_t)n,
                                  .act = SL_ACT_SILU};
    assert_int_equal(slk_cuda_act_mul(&h->k, h->lane, &p, rows, xt, yt), SL_OK);
    float *got = slt_download_as(h, yt, y, rows * ldy), *want = slt_alloc(n, 4);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < n; j++)
            want[j] = (float)(activated(SL_ACT_SILU, x[i * n + j]) + r[i * ldy + j]);
        char what[128];
        snprintf(what, sizeof what, "residual, %s -> %s, [%d, %d] of %d%s, row %d", slt_name(xt), slt_name(yt),
                 (int)rows, (int)n, (int)ldy, in_place ? " in place" : "", (int)i);
        slt_close_to(what, want, got + i * ldy, n, yt == SL_F32 ? 2e-5 : slt_tolerance(yt), 2e-5);
    }
    free(x), free(r), free(got), free(want);
}

static void test_residual(void **state) {
    slt_host *h = slt_get(state);
    for (int in_place = 0; in_place < 2; in_place++) {
        try_residual(h, SL_F32, SL_BF16, 1, 4096, 4096, in_place);
        try_residual(h, SL_F32, SL_BF16, 16, 4096, 4 * 4096, in_place);
        try_residual(h, SL_F32, SL_BF16, 3, 1027, 1030, in_place); /* not by fours */
        try_residual(h, SL_F32, SL_F32, 5, 64, 68, in_place);
        try_residual(h, SL_BF16, SL_BF16, 2, 10, 10, in_place);
    }
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 256);
    slk_act_mul_params p = {.gate = m, .up = m, .y = m, .n = 4, .ld_gate = 4, .ld_up = 4, .ldy = 4, .act = 9};
    assert_int_equal(slk_cuda_act_mul(&h->k, h->lane, &p, 1, SL_F32, SL_F32), SL_E_UNIMPLEMENTED);
    p.act = SL_ACT_SILU;
    assert_int_equal(slk_cuda_act_mul(&h->k, h->lane, &p, 1, SL_BF16, SL_F32), SL_E_UNIMPLEMENTED);
    p.n = 0;
    assert_int_equal(slk_cuda_act_mul(&h->k, h->lane, &p, 1, SL_F32, SL_F32), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_residual),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("act_cuda", tests, slt_setup, slt_teardown);
}
