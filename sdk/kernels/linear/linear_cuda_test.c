/* Few rows times plain weights on a device, against sums in double; rows alone and among others. */
#include "linear_check_test.h"

#include "half.h"

static const char *const names[] = {"bf16", "f16", "f32"};
static const sl_dtype dtypes[] = {SL_BF16, SL_F16, SL_F32};

/* Weights in a type, at row stride ldw, and their values on the host. */
static float *put_weights(slt_host *h, check_data *d, int kind, int64_t ldw) {
    const int64_t rows = check_rows(&d->c), k = d->c.k, count = (rows - 1) * ldw + k,
                  bytes = dtypes[kind] == SL_F32 ? 4 : 2;
    float *w = check_alloc(rows * k * 4);
    char *stored = check_alloc(count * bytes);
    memset(stored, 0xff, (size_t)(count * bytes)); /* gaps are NaN */
    slt_random(w, rows * k, 21);
    for (int64_t i = 0; i < rows * k; i++) {
        char *at = stored + (i / k * ldw + i % k) * bytes;
        const uint16_t bits = kind == SLK_LINEAR_BF16 ? slt_bf16(w[i]) : slk_f16_of_f32(w[i]);
        if (kind == SLK_LINEAR_F32) {
            memcpy(at, &w[i], 4);
            continue;
        }
        memcpy(at, &bits, 2);
        w[i] = kind == SLK_LINEAR_BF16 ? slt_float(bits) : slk_f32_of_f16(bits);
    }
    d->p.w = slt_upload(h, stored, count * bytes);
    d->p.ldw = ldw;
    free(stored);
    return w;
}

static void try_linear(slt_host *h, int kind, check_case c, int64_t ldw) {
    c.name = names[kind];
    check_data d = check_make(h, c);
    float *w = put_weights(h, &d, kind, ldw);
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, kind, &d.p), SL_OK);
    check_values(h, &d, d.x, w, 2e-6);
    if (!c.residual && !c.y_bf16) {
        check_alone(h, &d, kind, 1);
        if (c.t > 8)
            check_alone(h, &d, kind, 7);
    }
    free(w);
    check_free(&d);
}

static void test_rows(void **state) {
    slt_host *h = slt_get(state);
    for (int kind = 0; kind < 3; kind++)
        for (int t = 1; t <= 17; t++)
            try_linear(h, kind, (check_case){.t = t, .n = 80, .k = 584, .ldx = 584, .ldy = 80, .act = -1}, 584);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t shapes[][3] = {/* t, n, k */
                                        {1, 1, 8},        {1, 16, 64},    {2, 17, 72},    {5, 33, 504},
                                        {3, 100, 4096},   {16, 47, 520},  {17, 48, 1032}, {33, 31, 2056},
                                        {1, 4096, 256},   {9, 6000, 136}, {4, 40000, 64}, {1, 20, 14336},
                                        {16, 1000, 1024}, {64, 64, 640},  {40, 5000, 72}};
    for (int kind = 0; kind < 3; kind++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            try_linear(h, kind,
                       (check_case){.t = shapes[i][0],
                                    .n = shapes[i][1],
                                    .k = shapes[i][2],
                                    .ldx = shapes[i][2] + 8 * (int)(i % 3),
                                    .ldy = shapes[i][1] + (int)(i % 4),
                                    .act = -1},
                       shapes[i][2] + 8 * (int64_t)(i % 2));
}

static void test_epilogues(void **state) {
    slt_host *h = slt_get(state);
    for (int kind = 0; kind < 3; kind++)
        for (int t = 1; t < 40; t += 9)
            for (int e = 0; e < 6; e++)
                try_linear(h, kind,
                           (check_case){.t = t,
                                        .n = 77,
                                        .k = 392,
                                        .ldx = 400,
                                        .ldy = 77 + e,
                                        .bias = e % 2,
                                        .residual = e / 2,
                                        .y_bf16 = e / 2 < 2 && e % 3 == 0,
                                        .act = -1},
                           392);
}

static void test_act_mul(void **state) {
    slt_host *h = slt_get(state);
    for (int kind = 0; kind < 2; kind++)
        for (int act = 0; act < 4; act++)
            for (int t = 1; t < 20; t += 6)
                for (int e = 0; e < 4; e++)
                    try_linear(h, kind,
                               (check_case){.t = t,
                                            .n = 75 + e,
                                            .k = 264,
                                            .ldx = 264,
                                            .ldy = 80,
                                            .bias = e / 2,
                                            .y_bf16 = e % 2,
                                            .act = act},
                               264);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 1 << 16);
    const slk_linear_params good = {.x = m, .w = m, .y = m, .ldx = 64, .ldw = 64, .ldy = 16, .t = 1, .n = 16, .k = 64};
    slk_linear_params p = good;
    p.k = 60;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_BF16, &p), SL_E_INVALID);
    p = good, p.ldw = 65;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_BF16, &p), SL_E_INVALID);
    p = good, p.x = (char *)m + 2;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_BF16, &p), SL_E_INVALID);
    p = good, p.act_mul = 1;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_F32, &p), SL_E_UNIMPLEMENTED);
}

/* The kernel of batches, which adds in an order of its own, whatever T is. */
static void test_batch(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t shapes[][3] = {/* t, n, k */
                                        {1, 1, 8},       {8, 128, 64},     {17, 100, 584},
                                        {33, 300, 2056}, {64, 129, 4096},  {64, 4096, 520},
                                        {40, 6144, 264}, {64, 640, 14336}, {50, 36000, 72}};
    if (slk_cuda_linear_batch(&h->k, h->lane, &(slk_linear_params){.x = h, .w = h, .y = h, .n = 8, .k = 8}) ==
        SL_E_UNIMPLEMENTED) {
        print_message("skipped: the kernel of batches needs compute capability 9.0\n");
        return;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int e = 0; e < 6; e++) {
            const int act = e == 4 ? SL_ACT_SILU : -1;
            check_case c = {.name = "batch",
                            .t = shapes[i][0],
                            .n = shapes[i][1],
                            .k = shapes[i][2],
                            .ldx = shapes[i][2] + 8 * (int)(i % 3),
                            .ldy = shapes[i][1] + e,
                            .bias = e % 2,
                            .residual = act < 0 ? e / 2 : 0,
                            .y_bf16 = e == 0 || e == 4,
                            .act = act};
            check_data d = check_make(h, c);
            const int64_t ldw = c.k + 8 * (int64_t)(i % 2);
            float *w = put_weights(h, &d, SLK_LINEAR_BF16, ldw);
            assert_int_equal(slk_cuda_linear_batch(&h->k, h->lane, &d.p), SL_OK);
            check_values(h, &d, d.x, w, 2e-6);
            if (!c.residual && !c.y_bf16) {
                check_alone(h, &d, CHECK_BATCH, 1);
                check_alone(h, &d, CHECK_BATCH, c.t < 17 ? 1 : 17);
            }
            free(w);
            check_free(&d);
        }
}

/* y [t, n] of `in` with all that finish can do: eight values a thread or one; bf16: both sides. */
static void try_finish(slt_host *h, int n, int scaled, int bf16, int act_mul) {
    enum { T = 5, MOST = 2304 };
    static float in[T * 2 * MOST], col[2 * MOST], row[T], bias[2 * MOST], residual[T * MOST], y[T * MOST];
    static uint16_t half[T * 2 * MOST];
    slt_random(in, T * 2 * n, 1), slt_random(col, 2 * n, 2), slt_random(row, T, 3), slt_random(bias, 2 * n, 4);
    slt_random(residual, T * n, 5);
    for (int i = 0; bf16 && i < T * 2 * n; i++)
        half[i] = slt_bf16(in[i]), in[i] = slt_float(half[i]);
    const int64_t values = T * n;
    slk_finish_params p = {.in = bf16 ? slt_upload(h, half, 2 * values * 2) : slt_upload(h, in, 2 * values * 4),
                           .y = slt_device(h, values * (bf16 ? 2 : 4)),
                           .row_scale = scaled ? slt_upload(h, row, sizeof row) : NULL,
                           .col_scale = scaled ? slt_upload(h, col, 2 * n * 4) : NULL,
                           .bias = slt_upload(h, bias, 2 * n * 4),
                           .residual = slt_upload(h, residual, values * 4),
                           .ldi = 2 * n,
                           .ldy = n,
                           .ldr = n,
                           .t = T,
                           .n = n,
                           .act_mul = (uint32_t)act_mul,
                           .act = SL_ACT_SILU};
    assert_int_equal(slk_cuda_finish(&h->k, h->lane, bf16, bf16, &p), SL_OK);
    slt_download(h, bf16 ? (void *)half : y, p.y, values * (bf16 ? 2 : 4));
    for (int i = 0; i < values; i++) {
        const int t = i / n, j = i % n;
        const double low = scaled ? (double)row[t] * col[j] : 1, high = scaled ? (double)row[t] * col[n + j] : 1;
        double want = (double)in[t * 2 * n + j] * low + bias[j];
        if (act_mul)
            want = check_act(SL_ACT_SILU, want) * ((double)in[t * 2 * n + n + j] * high + bias[n + j]);
        want += residual[i];
        const double got = bf16 ? slt_float(half[i]) : y[i];
        if (!(fabs(got - want) < 1e-5 + (bf16 ? fabs(want) / 200 : 0)))
            fail_msg("N %d scaled %d bf16 %d act_mul %d: row %d, output %d: %g, not %g", n, scaled, bf16, act_mul, t, j,
                     got, want);
    }
}

static void test_finish(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 8; i++) {
        try_finish(h, 300, i / 4, i / 2 % 2, i % 2);
        try_finish(h, 2304, i / 4, i / 2 % 2, i % 2);
    }
}

static void test_widen(void **state) {
    slt_host *h = slt_get(state);
    enum { N = 9, K = 200, LDW = 208 };
    float w[N * LDW];
    uint16_t half[N * LDW], got[4 * K];
    slt_random(w, N * LDW, 1);
    for (int i = 0; i < N * LDW; i++)
        half[i] = slk_f16_of_f32(w[i]);
    for (uint32_t bits = 16; bits <= 32; bits += 16) {
        slk_widen_params p = {.w = bits == 16 ? slt_upload(h, half, sizeof half) : slt_upload(h, w, sizeof w),
                              .out = slt_device(h, sizeof got),
                              .ldw = LDW,
                              .row = 3,
                              .rows = 4,
                              .n = N,
                              .k = K,
                              .bits = bits};
        assert_int_equal(slk_cuda_widen(&h->k, h->lane, &p), SL_OK);
        slt_download(h, got, p.out, sizeof got);
        for (int i = 0; i < 4 * K; i++) {
            const int at = (3 + i / K) * LDW + i % K;
            assert_int_equal(got[i], slt_bf16(bits == 16 ? slk_f32_of_f16(half[at]) : w[at]));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows),      cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_epilogues), cmocka_unit_test(test_act_mul),
                                       cmocka_unit_test(test_batch),     cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_finish),    cmocka_unit_test(test_widen)};
    return cmocka_run_group_tests_name("linear_cuda", tests, slt_setup, slt_teardown);
}
