/* Matrix products of "sl.exec/1" on a device, against sums in double over the same rounded values: every pair of types,
 * bias, residual in place and apart, strides, counts of rows that come and go, replays of a graph, refusals. */
#include "cuda_module.h"

#include <math.h>

#include "sl_half.h"
#include "sl_tensor.h"

static const sli_cuda_api *api;
static uint64_t seed = 1;

static uint32_t next(void) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33);
}

/* ---- elements -------------------------------------------------------------------------------------------------- */

static float e4m3(uint8_t code) {
    const int e = code >> 3 & 15, m = code & 7;
    const float a = e == 0 ? ldexpf((float)m, -9) : ldexpf((float)(8 + m), e - 10);
    return code & 0x80 ? -a : a;
}

static float bf16(uint16_t code) {
    const uint32_t u = (uint32_t)code << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static uint16_t to_bf16(float x) { /* nearest even; finite */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static double element(const void *data, sl_dtype dtype, int64_t i) {
    switch (dtype) {
    case SL_F32: return ((const float *)data)[i];
    case SL_BF16: return bf16(((const uint16_t *)data)[i]);
    case SL_F16: return sl_f32_of_f16(((const uint16_t *)data)[i]);
    case SL_F8_E4M3: return e4m3(((const uint8_t *)data)[i]);
    case SL_I8: return ((const int8_t *)data)[i];
    default: return ((const int32_t *)data)[i];
    }
}

static void *random_elements(sl_dtype dtype, int64_t n) {
    const int64_t size = sl_dtype_bits(dtype) / 8;
    unsigned char *p = malloc((size_t)(n * size));
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)(int32_t)(next() % 2001) / 1000.0f - 1.0f;
        switch (dtype) {
        case SL_F32: ((float *)(void *)p)[i] = x; break;
        case SL_BF16: ((uint16_t *)(void *)p)[i] = to_bf16(x); break;
        case SL_F16: ((uint16_t *)(void *)p)[i] = sl_f16_of_f32(x); break;
        case SL_I32: ((int32_t *)(void *)p)[i] = (int32_t)(next() % 1000); break;
        case SL_F8_E4M3: p[i] = (uint8_t)((next() & 0x80) | next() % 0x48); break; /* up to 4 */
        default: p[i] = (uint8_t)next(); break;
        }
    }
    return p;
}

/* ---- one product ----------------------------------------------------------------------------------------------- */

enum { APART = 1u << 16 }; /* the residual is not y */

typedef struct shape {
    int64_t n, k, max_rows, gap_x, gap_y;
} shape;

typedef struct product {
    sli_cuda *cuda;
    sl_gemm_impl *gemm;
    sl_dtype in, out;
    uint32_t epilogue;
    shape s;
    void *x, *w, *bias, *residual, *row_scale, *column_scale; /* host */
    void *d_x, *d_w, *d_y, *d_bias, *d_residual, *d_row_scale, *d_column_scale;
    int64_t y_count;
} product;

static void *upload(sli_cuda *cuda, const void *data, int64_t bytes) {
    void *d = api->alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN);
    SL_ERROR(err);
    assert_non_null(d);
    assert_int_equal(api->exec->copy(api->lane(cuda, 0), d, data, bytes), SL_OK);
    assert_int_equal(api->exec->sync(api->lane(cuda, 0), &err), SL_OK);
    return d;
}

static void fill_y(product *p, const void *y) {
    const int64_t size = sl_dtype_bits(p->out) / 8;
    SL_ERROR(err);
    assert_int_equal(api->exec->copy(api->lane(p->cuda, 0), p->d_y, y, p->y_count * size), SL_OK);
    assert_int_equal(api->exec->sync(api->lane(p->cuda, 0), &err), SL_OK);
}

static sl_gemm_run run_of(const product *p, int64_t rows) {
    return (sl_gemm_run){.struct_size = SL_SIZE(sl_gemm_run),
                         .x = p->d_x,
                         .w = p->d_w,
                         .y = p->d_y,
                         .bias = p->d_bias,
                         .residual = p->epilogue & APART ? p->d_residual : p->d_y,
                         .row_scale = p->d_row_scale,
                         .column_scale = p->d_column_scale,
                         .rows = rows,
                         .ldx = p->s.k + p->s.gap_x,
                         .ldy = p->s.n + p->s.gap_y};
}

static void check(product *p, int64_t rows, const void *y0) {
    const int64_t size = sl_dtype_bits(p->out) / 8, ldx = p->s.k + p->s.gap_x, ldy = p->s.n + p->s.gap_y;
    void *y = malloc((size_t)(p->y_count * size));
    SL_ERROR(err);
    assert_non_null(y);
    assert_int_equal(api->exec->copy(api->lane(p->cuda, 0), y, p->d_y, p->y_count * size), SL_OK);
    if (api->exec->sync(api->lane(p->cuda, 0), &err) != SL_OK)
        fail_msg("%s", err.text);
    const double in_error = p->in == SL_F8_E4M3 ? 1e-3 : 1e-5, out_error = p->out == SL_BF16  ? 1.0 / 256
                                                                           : p->out == SL_F16 ? 1.0 / 2048
                                                                                              : 1e-6;
    double worst = 0;
    for (int64_t t = 0; t < p->s.max_rows; t++)
        for (int64_t j = 0; j < ldy; j++) {
            if (t * ldy + j >= p->y_count)
                continue;
            const double got = element(y, p->out, t * ldy + j);
            if (t >= rows || j >= p->s.n) { /* nothing else is written */
                if (memcmp((char *)y + (t * ldy + j) * size, (const char *)y0 + (t * ldy + j) * size, (size_t)size) !=
                    0)
                    fail_msg("row %d, element %d was written: %d rows of %dx%d", (int)t, (int)j, (int)rows, (int)p->s.n,
                             (int)p->s.k);
                continue;
            }
            double sum = 0, size_of_sum = 0;
            for (int64_t i = 0; i < p->s.k; i++) {
                const double a = element(p->x, p->in, t * ldx + i) * element(p->w, p->in, j * p->s.k + i);
                sum += a, size_of_sum += fabs(a);
            }
            if (p->epilogue & SL_EPILOGUE_SCALE_ROWS) {
                const double f = element(p->row_scale, SL_F32, t) * element(p->column_scale, SL_F32, j);
                sum *= f, size_of_sum *= fabs(f);
            }
            const double multiplied = sum;
            if (p->epilogue & SL_EPILOGUE_BIAS)
                sum += element(p->bias, p->out, j), size_of_sum += 1;
            if (p->epilogue & SL_EPILOGUE_RESIDUAL)
                sum += p->epilogue & APART ? element(p->residual, p->out, t * p->s.n + j)
                                           : element(y0, p->out, t * ldy + j),
                    size_of_sum += 1;
            /* The library may round the product to y's type before it adds what is below 1: bias, and what y held. */
            const int n_added = !!(p->epilogue & SL_EPILOGUE_BIAS) + !!(p->epilogue & SL_EPILOGUE_RESIDUAL);
            const double alone = n_added == 0 ? 0 : fabs(multiplied) + (n_added - 1);
            const double bound = p->in == SL_I8 ? 0 : in_error * size_of_sum + out_error * (fabs(sum) + alone);
            const double error = fabs(got - sum);
            if (!(error <= bound))
                fail_msg(
                    "%s into %s, epilogue %#x, %d rows of %dx%d: row %d, element %d: %.9g, expected %.9g within %.3g",
                    sl_dtype_name(p->in), sl_dtype_name(p->out), p->epilogue, (int)rows, (int)p->s.n, (int)p->s.k,
                    (int)t, (int)j, got, sum, bound);
            worst = error > worst ? error : worst;
        }
    free(y);
    (void)worst;
}

/* may_refuse: shapes that a library need not have a kernel for; what it takes must be right. */
static void try_product(sl_dtype in, sl_dtype out, uint32_t epilogue, shape s, int may_refuse, uint32_t deterministic) {
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    const sl_lane *lane = api->lane(cuda, 0);
    const int64_t ldx = s.k + s.gap_x, ldy = s.n + s.gap_y, in_size = sl_dtype_bits(in) / 8,
                  out_size = sl_dtype_bits(out) / 8;
    SL_ERROR(err);
    const sli_cuda_shapes shapes = {.max_rows = s.max_rows,
                                    .max_seqs = 1,
                                    .max_context = 128,
                                    .heads = 4,
                                    .kv_heads = 4,
                                    .head_dim = 64,
                                    .n_layers = 1,
                                    .vocab = 128,
                                    .width = s.n > s.k ? s.n : s.k,
                                    .deterministic = deterministic};
    if (api->ops_reserve(cuda, &shapes, &err) != SL_OK)
        fail_msg("%s", err.text);
    product p = {.cuda = cuda, .in = in, .out = out, .epilogue = epilogue, .s = s};
    const sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                               .n = s.n,
                               .k = s.k,
                               .max_rows = s.max_rows,
                               .x_dtype = in,
                               .w_dtype = in,
                               .y_dtype = out,
                               .compute = in == SL_I8 ? SL_I32 : SL_F32,
                               .epilogue = epilogue & 0xffff};
    const sl_status created = api->exec->gemm_create(NULL, lane, &desc, &p.gemm, &err);
    if (created == SL_E_UNIMPLEMENTED && may_refuse) {
        print_message("%s into %s, %dx%d: refused: %s\n", sl_dtype_name(in), sl_dtype_name(out), (int)s.n, (int)s.k,
                      err.text);
        api->close(cuda);
        return;
    }
    if (created != SL_OK)
        fail_msg("%s into %s, epilogue %#x, %dx%d: %s", sl_dtype_name(in), sl_dtype_name(out), epilogue, (int)s.n,
                 (int)s.k, err.text);
    p.y_count = s.max_rows * ldy;
    p.x = random_elements(in, s.max_rows * ldx);
    p.w = random_elements(in, s.n * s.k);
    p.bias = random_elements(out, s.n);
    p.residual = random_elements(out, s.max_rows * s.n);
    p.row_scale = random_elements(SL_F32, s.max_rows);
    p.column_scale = random_elements(SL_F32, s.n);
    void *y0 = random_elements(out, p.y_count);
    p.d_x = upload(cuda, p.x, s.max_rows * ldx * in_size);
    p.d_w = upload(cuda, p.w, s.n * s.k * in_size);
    p.d_y = upload(cuda, y0, p.y_count * out_size);
    p.d_bias = upload(cuda, p.bias, s.n * out_size);
    p.d_residual = upload(cuda, p.residual, s.max_rows * s.n * out_size);
    p.d_row_scale = upload(cuda, p.row_scale, s.max_rows * 4);
    p.d_column_scale = upload(cuda, p.column_scale, s.n * 4);
    const int64_t counts[] = {s.max_rows, 1, 2, s.max_rows / 2 + 1, 1, s.max_rows - 1, 0};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        const sl_gemm_run run = run_of(&p, counts[i]);
        fill_y(&p, y0);
        const sl_status status = api->exec->gemm(lane, p.gemm, &run);
        if (status == SL_E_UNIMPLEMENTED && may_refuse)
            continue;
        if (status != SL_OK)
            fail_msg("%d rows: %s", (int)counts[i], api->fault(cuda));
        check(&p, counts[i], y0);
    }
    if (!may_refuse) { /* a count that was not seen before, first met in a capture; replayed over new contents */
        const sl_gemm_run run = run_of(&p, s.max_rows / 3 + 1);
        sli_cuda_graph *graph = NULL;
        assert_int_equal(api->capture_begin(cuda, &err), SL_OK);
        if (api->exec->gemm(lane, p.gemm, &run) != SL_OK)
            fail_msg("captured: %s", api->fault(cuda));
        if (api->capture_end(cuda, &graph, &err) != SL_OK)
            fail_msg("captured: %s", err.text);
        for (int i = 0; i < 2; i++) {
            fill_y(&p, y0);
            assert_int_equal(api->graph_launch(cuda, graph, &err), SL_OK);
            check(&p, run.rows, y0);
        }
        api->graph_destroy(cuda, graph);
    }
    api->exec->gemm_destroy(NULL, p.gemm);
    free(p.x), free(p.w), free(p.bias), free(p.residual), free(p.row_scale), free(p.column_scale), free(y0);
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

enum { BIAS = SL_EPILOGUE_BIAS, RESIDUAL = SL_EPILOGUE_RESIDUAL, SCALES = SL_EPILOGUE_SCALE_ROWS };

static void test_half(void **state) {
    (void)state;
    static const uint32_t epilogues[] = {0, BIAS, RESIDUAL, RESIDUAL | APART, BIAS | RESIDUAL};
    for (uint32_t i = 0; i < 5; i++) {
        try_product(SL_BF16, SL_BF16, epilogues[i], (shape){512, 256, 64, 0, 0}, 0, i % 2);
        try_product(SL_BF16, SL_F32, epilogues[i], (shape){384, 320, 33, 64, 128}, 0, i % 2);
        try_product(SL_F16, SL_F16, epilogues[i], (shape){256, 128, 17, 8, 0}, 0, 0);
        try_product(SL_F16, SL_F32, epilogues[i], (shape){128, 512, 40, 0, 8}, 0, 0);
    }
    try_product(SL_BF16, SL_F32, 0, (shape){1000, 72, 129, 0, 0}, 0, 0);
    try_product(SL_BF16, SL_BF16, BIAS, (shape){129, 65, 9, 0, 0}, 1, 0);
}

static void test_single(void **state) {
    (void)state;
    try_product(SL_F32, SL_F32, 0, (shape){256, 128, 40, 0, 0}, 0, 0);
    try_product(SL_F32, SL_F32, BIAS | RESIDUAL, (shape){131, 67, 19, 5, 3}, 0, 1);
}

static void test_packed(void **state) {
    (void)state;
    try_product(SL_F8_E4M3, SL_BF16, SCALES, (shape){512, 256, 64, 0, 0}, 1, 0);
    try_product(SL_F8_E4M3, SL_F32, SCALES, (shape){256, 512, 48, 16, 16}, 1, 0);
    try_product(SL_F8_E4M3, SL_F32, SCALES | RESIDUAL, (shape){256, 512, 48, 0, 0}, 1, 0);
    try_product(SL_F8_E4M3, SL_BF16, SCALES | BIAS, (shape){256, 128, 32, 0, 0}, 1, 0);
}

/* Bytes times bytes, exactly, the largest included; no shape of these may be refused. */
static void test_int8(void **state) {
    (void)state;
    try_product(SL_I8, SL_I32, 0, (shape){256, 512, 64, 0, 0}, 0, 0);
    try_product(SL_I8, SL_I32, 0, (shape){384, 4096, 100, 0, 0}, 0, 0);
    try_product(SL_I8, SL_I32, 0, (shape){512, 128, 48, 32, 64}, 0, 1);
    try_product(SL_I8, SL_I32, 0, (shape){100, 72, 17, 0, 0}, 1, 0);
}

static void test_refusals(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    static const struct {
        sl_dtype x, w, y, compute;
        uint32_t epilogue;
        int64_t n;
        sl_status expected;
        const char *text;
    } cases[] = {{SL_BF16, SL_F16, SL_F32, SL_F32, 0, 64, SL_E_UNIMPLEMENTED, "BF16 with F16"},
                 {SL_BF16, SL_BF16, SL_F16, SL_F32, 0, 64, SL_E_UNIMPLEMENTED, "into F16"},
                 {SL_F32, SL_F32, SL_F32, SL_BF16, 0, 64, SL_E_UNIMPLEMENTED, "sums in F32"},
                 {SL_BF16, SL_BF16, SL_F32, SL_F32, SCALES, 64, SL_E_UNIMPLEMENTED, "epilogue"},
                 {SL_F8_E4M3, SL_F8_E4M3, SL_F32, SL_F32, BIAS | SCALES, 64, SL_E_UNIMPLEMENTED, "epilogue"},
                 {SL_I8, SL_I8, SL_I32, SL_I32, RESIDUAL, 64, SL_E_UNIMPLEMENTED, "epilogue"},
                 {SL_BF16, SL_BF16, SL_F32, SL_F32, 0, 0, SL_E_INVALID, "above 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                                   .n = cases[i].n,
                                   .k = 64,
                                   .max_rows = 8,
                                   .x_dtype = cases[i].x,
                                   .w_dtype = cases[i].w,
                                   .y_dtype = cases[i].y,
                                   .compute = cases[i].compute,
                                   .epilogue = cases[i].epilogue};
        sl_gemm_impl *gemm = NULL;
        SL_ERROR(err);
        assert_int_equal(api->exec->gemm_create(NULL, api->lane(cuda, 0), &desc, &gemm, &err), cases[i].expected);
        if (gemm != NULL || strstr(err.text, cases[i].text) == NULL)
            fail_msg("case %zu: %s", i, err.text);
    }
    const sl_gemm_desc good = {.struct_size = SL_SIZE(sl_gemm_desc),
                               .n = 64,
                               .k = 64,
                               .max_rows = 8,
                               .x_dtype = SL_BF16,
                               .w_dtype = SL_BF16,
                               .y_dtype = SL_F32,
                               .compute = SL_F32,
                               .epilogue = BIAS};
    sl_gemm_impl *gemm = NULL;
    SL_ERROR(err);
    assert_int_equal(api->exec->gemm_create(NULL, api->lane(cuda, 1), &good, &gemm, &err), SL_E_UNIMPLEMENTED);
    if (api->exec->gemm_create(NULL, api->lane(cuda, 0), &good, &gemm, &err) != SL_OK)
        fail_msg("%s", err.text);
    void *m = api->alloc(cuda, SL_DEVICE_CUDA, 1 << 20, 256, SL_MEM_PLUGIN);
    sl_gemm_run run = {.struct_size = SL_SIZE(sl_gemm_run), .x = m, .w = m, .y = m, .rows = 8, .ldx = 64, .ldy = 64};
    assert_int_equal(api->exec->gemm(api->lane(cuda, 0), gemm, &run), SL_E_INVALID); /* no bias */
    run.bias = m, run.rows = 9;
    assert_int_equal(api->exec->gemm(api->lane(cuda, 0), gemm, &run), SL_E_INVALID);
    run.rows = 8, run.ldx = 63;
    assert_int_equal(api->exec->gemm(api->lane(cuda, 0), gemm, &run), SL_E_INVALID);
    assert_non_null(api->fault(cuda));
    api->close(cuda); /* with a product that nobody destroyed */
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

int main(void) {
    api = module_api();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_half), cmocka_unit_test(test_single),
                                       cmocka_unit_test(test_packed), cmocka_unit_test(test_int8),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("cuda_gemm", tests, NULL, NULL);
}
