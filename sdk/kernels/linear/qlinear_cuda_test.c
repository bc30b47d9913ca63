/* Few rows times packed weights on a device, against sums in double of the values that the packer gives back. */
#include "linear_check_test.h"

#include "linear_pack.h"
#include "sl_error.h"

typedef struct format_case {
    const char *name;
    uint32_t bits, asym, kind;
    int64_t group; /* 0: the row */
} format_case;

static const format_case formats[] = {
    {"int4 g128", 4, 0, SL_Q_INTEGER, 128}, {"int4 g32 asym", 4, 1, SL_Q_INTEGER, 32},
    {"int4 g96", 4, 0, SL_Q_INTEGER, 96},   {"int4 row asym", 4, 1, SL_Q_INTEGER, 0},
    {"int8 row", 8, 0, SL_Q_INTEGER, 0},    {"int8 g64 asym", 8, 1, SL_Q_INTEGER, 64},
    {"int8 g32", 8, 0, SL_Q_INTEGER, 32},   {"e4m3", 8, 0, SL_Q_E4M3, 0},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static int kind_of(const sl_q_format *f) {
    return f->kind == SL_Q_E4M3 ? SLK_LINEAR_E4M3 : f->bits == 8 ? SLK_LINEAR_INT8 : SLK_LINEAR_INT4;
}

static sl_q_format format_of(const format_case *f, int64_t n, int64_t k) {
    return (sl_q_format){SL_SIZE(sl_q_format), n, k, f->group, f->bits, f->asym, SL_Q_CUDA, f->kind};
}

/* Packs random weights, uploads the blob; their values. */
static float *put_blob(slt_host *h, const sl_q_format *f, const void **codes, const void **scale) {
    float *w = check_alloc(f->n * f->k * 4);
    const int64_t bytes = slk_linear_pack_bytes(f);
    assert_true(bytes > 0);
    void *blob = check_alloc(bytes);
    slt_random(w, f->n * f->k, 31);
    for (int64_t i = 0; i < f->n * f->k; i++)
        w[i] = w[i] * (0.2f + (float)(i / f->k % 3)) + (f->asymmetric ? 0.3f : 0.0f);
    const sl_tensor t = {.struct_size = SL_SIZE(sl_tensor),
                         .data = w,
                         .shape = {f->n, f->k},
                         .stride = {f->k, 1},
                         .dtype = SL_F32,
                         .ndim = 2};
    SL_ERROR(err);
    if (slk_linear_pack(NULL, f, &t, blob, &err) != SL_OK)
        fail_msg("%s", err.text);
    assert_int_equal(slk_linear_unpack(f, blob, w), SL_OK);
    *codes = slt_upload(h, blob, bytes);
    *scale = (const char *)*codes + slk_linear_scales_at(f);
    free(blob);
    return w;
}

/* x rounded to e4m3 on the device, compared with the host's rounding; d->p.x becomes it. Values replace d->x. */
static void round_x(slt_host *h, check_data *d) {
    const int64_t k = d->c.k, ld = (k + 15) / 16 * 16;
    uint8_t *got = check_alloc(d->c.t * ld);
    float *scale = check_alloc(d->c.t * 4);
    const slk_e4m3_rows_params p = {.x = d->p.x,
                                    .y = slt_device(h, d->c.t * ld),
                                    .scale = slt_device(h, d->c.t * 4),
                                    .ldx = d->p.ldx,
                                    .ldy = ld,
                                    .t = d->c.t,
                                    .k = d->c.k};
    assert_int_equal(slk_cuda_e4m3_rows(&h->k, h->lane, &p), SL_OK);
    slt_download(h, got, p.y, d->c.t * ld);
    slt_download(h, scale, p.scale, d->c.t * 4);
    for (int64_t t = 0; t < d->c.t; t++) {
        float most = 0;
        for (int64_t i = 0; i < k; i++)
            most = fmaxf(most, fabsf(d->x[t * d->c.ldx + i]));
        assert_true(scale[t] == (most > 0 ? most / 448.0f : 1.0f));
        for (int64_t i = 0; i < ld; i++) {
            const uint8_t want = i < k ? slk_e4m3_of_f32(d->x[t * d->c.ldx + i] / scale[t]) : 0;
            if (got[t * ld + i] != want)
                fail_msg("e4m3: row %d, input %d of %d: %02x, not %02x", (int)t, (int)i, (int)k, got[t * ld + i], want);
            if (i < k)
                d->x[t * d->c.ldx + i] = slk_f32_of_e4m3(want) * scale[t];
        }
    }
    d->p.x = p.y;
    d->p.x_scale = p.scale;
    d->p.ldx = ld;
    free(got), free(scale);
}

static void try_qlinear(slt_host *h, const format_case *fc, check_case c) {
    c.name = fc->name;
    check_data d = check_make(h, c);
    const sl_q_format f = format_of(fc, check_rows(&c), c.k);
    if (f.kind == SL_Q_E4M3)
        round_x(h, &d);
    float *w = put_blob(h, &f, &d.p.w, &d.p.scale);
    d.p.group = (int32_t)slk_linear_group(&f);
    d.p.asym = f.asymmetric;
    d.p.ldw = slk_linear_e4m3_stride(&f);
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, kind_of(&f), &d.p), SL_OK);
    /* Tensor cores of some architectures keep few bits of an e4m3 product's sum of 32. Codes of 4 bits are summed with
     * 16 added, which is taken off afterwards: four bits less of f32. */
    check_values(h, &d, d.x, w, f.kind == SL_Q_E4M3 ? 2e-4 : f.bits == 4 ? 2e-5 : 2e-6);
    if (!c.residual && !c.y_bf16) {
        check_alone(h, &d, kind_of(&f), 1);
        if (c.t > 8)
            check_alone(h, &d, kind_of(&f), 7);
    }
    free(w);
    check_free(&d);
}

/* E4M3 needs compute capability 8.9. */
static int n_formats(const slt_host *h) { return h->k.info.arch >= 890 ? N_FORMATS : N_FORMATS - 1; }

static void test_rows(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < n_formats(h); i++)
        for (int t = 1; t <= 17; t++)
            try_qlinear(h, &formats[i], (check_case){.t = t, .n = 80, .k = 584, .ldx = 584, .ldy = 80, .act = -1});
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t shapes[][3] = {/* t, n, k */
                                        {1, 1, 8},        {1, 16, 64},    {2, 17, 72},    {5, 33, 504},
                                        {3, 100, 4096},   {16, 47, 520},  {17, 48, 1032}, {33, 31, 2056},
                                        {1, 4096, 256},   {9, 6000, 136}, {4, 40000, 64}, {1, 20, 14336},
                                        {16, 1000, 1024}, {64, 64, 640},  {40, 5000, 72}};
    for (int i = 0; i < n_formats(h); i++)
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
            try_qlinear(h, &formats[i],
                        (check_case){.t = shapes[j][0],
                                     .n = shapes[j][1],
                                     .k = shapes[j][2],
                                     .ldx = shapes[j][2] + 8 * (int)(j % 3),
                                     .ldy = shapes[j][1] + (int)(j % 4),
                                     .act = -1});
}

static void test_epilogues(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < n_formats(h); i++)
        for (int t = 1; t < 40; t += 18)
            for (int e = 0; e < 6; e++)
                try_qlinear(h, &formats[i],
                            (check_case){.t = t,
                                         .n = 77,
                                         .k = 392,
                                         .ldx = 400,
                                         .ldy = 77 + e,
                                         .bias = e % 2,
                                         .residual = e / 2,
                                         .y_bf16 = e / 2 < 2 && e % 3 == 0,
                                         .act = -1});
}

static void test_act_mul(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < n_formats(h); i++)
        for (int t = 1; t < 20; t += 6)
            for (int e = 0; e < 4; e++)
                try_qlinear(h, &formats[i],
                            (check_case){.t = t,
                                         .n = 16 * (e + 4),
                                         .k = 264,
                                         .ldx = 264,
                                         .ldy = 16 * (e + 4) + 3,
                                         .bias = e / 2,
                                         .y_bf16 = e % 2,
                                         .act = e});
}

/* The kernel of one row, which adds in an order of its own: every sixteenth chunk or none for a warp, tiles of 32 rows
 * and parts of one, several tiles a block, groups of one chunk and of more. */
static void test_one(void **state) {
    slt_host *h = slt_get(state);
    static const format_case plain[] = {{"one g128", 4, 0, SL_Q_INTEGER, 128},
                                        {"one g256", 4, 0, SL_Q_INTEGER, 256},
                                        {"one row", 4, 0, SL_Q_INTEGER, 0}};
    static const int32_t shapes[][2] = {/* n, k */
                                        {1, 128},    {16, 2048},   {32, 4096},  {47, 1920},  {100, 2176},
                                        {6144, 256}, {40000, 128}, {64, 14336}, {9984, 2304}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
            for (int e = 0; e < (shapes[j][0] > 1000 ? 1 : 6); e++) {
                const int act = e == 4 && shapes[j][0] % 16 == 0 ? SL_ACT_SILU : -1;
                check_case c = {.name = plain[i].name,
                                .t = 1,
                                .n = shapes[j][0],
                                .k = shapes[j][1],
                                .ldx = shapes[j][1],
                                .ldy = shapes[j][0],
                                .bias = e % 2,
                                .residual = act < 0 ? e / 2 : 0,
                                .y_bf16 = e == 0 || act >= 0,
                                .act = act};
                check_data d = check_make(h, c);
                const sl_q_format f = format_of(&plain[i], check_rows(&c), c.k);
                float *w = put_blob(h, &f, &d.p.w, &d.p.scale);
                d.p.group = (int32_t)slk_linear_group(&f);
                assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &d.p), SL_OK);
                check_values(h, &d, d.x, w, 2e-6);
                free(w);
                check_free(&d);
            }
}

/* Rows whose chunks are of very different sizes, with one value above the others, and of zeros. */
static void test_one_sizes(void **state) {
    slt_host *h = slt_get(state);
    enum { K = 4096, N = 48 };
    const format_case fc = {"one, sizes", 4, 0, SL_Q_INTEGER, 128};
    check_data d = check_make(h, (check_case){.name = fc.name, .t = 1, .n = N, .k = K, .ldx = K, .ldy = N, .act = -1});
    uint16_t x[K];
    for (int i = 0; i < K; i++) {
        const int of = i / 128;
        d.x[i] = of % 5 == 4 ? 0 : ldexpf(d.x[i], of % 5 * 3 - 6) * (i % 128 == of ? 300.0f : 1.0f);
        x[i] = slt_bf16(d.x[i]);
        d.x[i] = slt_float(x[i]);
    }
    d.p.x = slt_upload(h, x, sizeof x);
    const sl_q_format f = format_of(&fc, N, K);
    float *w = put_blob(h, &f, &d.p.w, &d.p.scale);
    d.p.group = 128;
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &d.p), SL_OK);
    check_values(h, &d, d.x, w, 2e-6);
    x[77] = 0x7fc0; /* one that is not a number makes all outputs likewise */
    d.p.x = slt_upload(h, x, sizeof x);
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &d.p), SL_OK);
    float *y = check_get(h, &d);
    for (int i = 0; i < N; i++)
        assert_true(isnan(y[i]));
    free(y), free(w);
    check_free(&d);
}

/* Blobs as bf16 rows: each value rounded once. */
static void test_widen(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < N_FORMATS; i++) {
        const sl_q_format f = format_of(&formats[i], 75, 328);
        if (f.kind == SL_Q_E4M3)
            continue;
        slk_widen_params p = {.row = 32,
                              .rows = 43,
                              .n = 75,
                              .k = 328,
                              .group = (int32_t)slk_linear_group(&f),
                              .asym = f.asymmetric,
                              .bits = f.bits,
                              .out = slt_device(h, 43 * 328 * 2)};
        p.groups = (328 + p.group - 1) / p.group;
        float *w = put_blob(h, &f, &p.w, &p.scale);
        uint16_t *got = check_alloc(43 * 328 * 2);
        assert_int_equal(slk_cuda_widen(&h->k, h->lane, &p), SL_OK);
        slt_download(h, got, p.out, 43 * 328 * 2);
        for (int j = 0; j < 43 * 328; j++)
            if (slt_float(got[j]) != slt_float(slt_bf16(w[32 * 328 + j])))
                fail_msg("%s: row %d, input %d: %g, not %g", formats[i].name, 32 + j / 328, j % 328,
                         (double)slt_float(got[j]), (double)w[32 * 328 + j]);
        free(w), free(got);
    }
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 1 << 16);
    const slk_linear_params good = {
        .x = m, .w = m, .y = m, .scale = m, .ldx = 64, .ldy = 16, .t = 1, .n = 16, .k = 64, .group = 64};
    slk_linear_params p = good;
    p.group = 48;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_INVALID);
    p = good, p.act_mul = 1, p.n = 8;
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_UNIMPLEMENTED);
    p = good, p.ldw = 64; /* no scales of x */
    assert_int_equal(slk_cuda_linear(&h->k, h->lane, SLK_LINEAR_E4M3, &p), SL_E_INVALID);
    p = good; /* half a chunk */
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_UNIMPLEMENTED);
    p = good, p.k = p.ldx = 128, p.group = 128, p.asym = 1;
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_UNIMPLEMENTED);
    p.asym = 0, p.t = 2;
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_UNIMPLEMENTED);
    p.t = 1, p.x = (char *)m + 2;
    assert_int_equal(slk_cuda_linear_one(&h->k, h->lane, SLK_LINEAR_INT4, &p), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows),      cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_epilogues), cmocka_unit_test(test_act_mul),
                                       cmocka_unit_test(test_one),       cmocka_unit_test(test_one_sizes),
                                       cmocka_unit_test(test_widen),     cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("qlinear_cuda", tests, slt_setup, slt_teardown);
}
