/* Linear layers through the module's table of operations, against sums in double: every way weights are stored, few
 * rows and many, deterministic and not, with each epilogue; and bit-equal rows in deterministic mode. */
#include "cuda_module.h"

#include <math.h>

#include "half.h"
#include "random_value.h"

static const sli_cuda_api *api;

typedef struct stored {
    const char *name;
    sl_dtype dtype; /* plain weights; 0: packed */
    sl_q_format format;
    int few;    /* rows up to which fast mode takes the same kernel */
    double eps; /* of a sum relative to its terms: fast mode may round weights to bf16 */
} stored;

static const stored kinds[] = {
    {"bf16", SL_BF16, {0}, 16, 2e-5},
    {"f16", SL_F16, {0}, 16, 3e-3},
    {"f32", SL_F32, {0}, 16, 3e-3},
    {"int8 row", 0, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}, 32, 3e-3},
    {"int4 g64 asym", 0, {SL_SIZE(sl_q_format), 0, 0, 64, 4, 1, SL_Q_CUDA, SL_Q_INTEGER}, 32, 3e-3},
    {"e4m3", 0, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_E4M3}, 16, 0.07}, /* x is rounded to 3 bits */
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

typedef struct epilogue {
    int bias, residual, y_bf16, act; /* residual: 1: y, 2: apart, with gaps; act: -1: none */
} epilogue;
static const epilogue epilogues[] = {{0, 0, 0, -1}, {1, 0, 1, -1}, {1, 1, 0, -1}, {0, 1, 0, -1},
                                     {1, 2, 0, -1}, {0, 2, 1, -1}, {0, 0, 1, 0},  {1, 0, 0, 1}};
enum { N_EPILOGUES = sizeof epilogues / sizeof *epilogues };

static void *need(int64_t bytes) {
    void *p = malloc((size_t)bytes + 16);
    assert_non_null(p);
    return p;
}

static float *random_floats(int64_t n, uint64_t seed) {
    float *x = need(n * 4);
    for (int64_t i = 0; i < n; i++)
        x[i] = slk_random_value(seed, (uint64_t)i);
    return x;
}

static void *to_device(sli_cuda *cuda, const void *data, int64_t bytes) {
    SL_ERROR(err);
    void *d = api->alloc(cuda, SL_DEVICE_CUDA, bytes, 256, SL_MEM_PLUGIN);
    assert_non_null(d);
    assert_int_equal(api->exec->copy(api->lane(cuda, 0), d, data, bytes), SL_OK);
    if (api->exec->sync(api->lane(cuda, 0), &err) != SL_OK)
        fail_msg("%s", err.text);
    return d;
}

static sl_tensor matrix(void *data, sl_dtype dtype, int64_t rows, int64_t width, int64_t stride) {
    return (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                       .data = data,
                       .shape = {rows, width},
                       .stride = {stride, 1},
                       .align = 16,
                       .dtype = dtype,
                       .ndim = 2,
                       .device = SL_DEVICE_CUDA};
}

/* Weights [rows, k] stored on the device, and their values on the host. */
static float *store(sli_cuda *cuda, const stored *kind, sl_q_format *f, int64_t rows, int64_t k, void **device) {
    float *w = random_floats(rows * k, 7);
    if (kind->dtype == 0) {
        SL_ERROR(err);
        *f = kind->format;
        f->n = rows, f->k = k;
        const int64_t bytes = api->ops->q_bytes(f);
        assert_true(bytes > 0);
        void *blob = need(bytes);
        const sl_tensor t = matrix(w, SL_F32, rows, k, k);
        if (api->ops->q_pack(NULL, f, &t, blob, &err) != SL_OK)
            fail_msg("%s", err.text);
        assert_int_equal(api->ops->q_unpack(NULL, f, blob, w), SL_OK);
        *device = to_device(cuda, blob, bytes);
        free(blob);
        return w;
    }
    uint16_t *half = need(rows * k * 2);
    for (int64_t i = 0; i < rows * k; i++) {
        half[i] = kind->dtype == SL_BF16 ? slk_bf16_of_f32(w[i]) : slk_f16_of_f32(w[i]);
        if (kind->dtype != SL_F32)
            w[i] = kind->dtype == SL_BF16 ? slk_f32_of_bf16(half[i]) : slk_f32_of_f16(half[i]);
    }
    *device = kind->dtype == SL_F32 ? to_device(cuda, w, rows * k * 4) : to_device(cuda, half, rows * k * 2);
    free(half);
    return w;
}

static double act_of(int act, double x) {
    return act == SL_ACT_SILU ? x / (1 + exp(-x))
                              : 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

/* y as f32 values, [t, n] without gaps. */
static float *multiply(sli_cuda *cuda, const stored *kind, const sl_q_format *f, void *w, int64_t t, int64_t n,
                       int64_t k, const epilogue *e, const uint16_t *x, const float *bias, const float *residual) {
    const int64_t rows = e->act >= 0 ? 2 * n : n, ldy = n + 8, size = e->y_bf16 ? 2 : 4;
    const sl_lane *lane = api->lane(cuda, 0);
    float *host = need(t * ldy * 4);
    SL_ERROR(err);
    memset(host, 0, (size_t)(t * ldy * 4));
    for (int64_t i = 0; i < t * n; i++)
        host[i / n * ldy + i % n] = residual[i];
    void *dx = to_device(cuda, x, t * k * 2), *db = to_device(cuda, bias, rows * 4),
         *dr = to_device(cuda, host, t * ldy * 4);
    void *dy = e->residual == 1 ? dr : api->alloc(cuda, SL_DEVICE_CUDA, t * ldy * size, 256, SL_MEM_PLUGIN);
    sl_tensor tx = matrix(dx, SL_BF16, t, k, k), tw = matrix(w, kind->dtype, rows, k, k);
    sl_tensor ty = matrix(dy, e->y_bf16 ? SL_BF16 : SL_F32, t, n, ldy), tr = matrix(dr, SL_F32, t, n, ldy);
    sl_tensor tb = {
        .struct_size = SL_SIZE(sl_tensor), .data = db, .shape = {rows}, .stride = {1}, .dtype = SL_F32, .ndim = 1};
    const sl_op_gemm plain = {.struct_size = SL_SIZE(sl_op_gemm),
                              .lane = lane,
                              .x = &tx,
                              .w = &tw,
                              .y = &ty,
                              .bias = e->bias ? &tb : NULL,
                              .residual = e->residual ? &tr : NULL,
                              .compute = SL_BF16,
                              .act_mul = e->act >= 0,
                              .act = e->act >= 0 ? (uint32_t)e->act : 0};
    const sl_op_qgemm packed = {.struct_size = SL_SIZE(sl_op_qgemm),
                                .lane = lane,
                                .format = f,
                                .blob = w,
                                .x = &tx,
                                .y = &ty,
                                .bias = plain.bias,
                                .residual = plain.residual,
                                .act_mul = plain.act_mul,
                                .act = plain.act};
    const sl_status status = kind->dtype != 0 ? api->ops->gemm(NULL, &plain) : api->ops->qgemm(NULL, &packed);
    if (status != SL_OK)
        fail_msg("%s: %d rows of [%d, %d]: %d: %s", kind->name, (int)t, (int)n, (int)k, status, api->fault(cuda));
    assert_int_equal(api->exec->copy(lane, host, dy, t * ldy * size), SL_OK);
    if (api->exec->sync(lane, &err) != SL_OK)
        fail_msg("%s: %d rows of [%d, %d]: %s", kind->name, (int)t, (int)n, (int)k, err.text);
    float *y = need(t * n * 4);
    for (int64_t i = 0; i < t * n; i++) {
        const int64_t at = i / n * ldy + i % n;
        y[i] = e->y_bf16 ? slk_f32_of_bf16(((uint16_t *)(void *)host)[at]) : host[at];
    }
    free(host);
    api->release(cuda, SL_DEVICE_CUDA, dx);
    api->release(cuda, SL_DEVICE_CUDA, db);
    api->release(cuda, SL_DEVICE_CUDA, dr);
    if (dy != dr)
        api->release(cuda, SL_DEVICE_CUDA, dy);
    return y;
}

static double dot(const float *x, const float *w, int64_t k, double *size) {
    double sum = 0;
    for (int64_t i = 0; i < k; i++) {
        sum += (double)x[i] * w[i];
        *size += fabs((double)x[i] * w[i]);
    }
    return sum;
}

static void reserve(sli_cuda *cuda, int64_t max_rows, int64_t width, uint32_t deterministic) {
    SL_ERROR(err);
    const sli_cuda_shapes shapes = {.max_rows = max_rows,
                                    .max_seqs = 1,
                                    .max_context = 128,
                                    .heads = 4,
                                    .kv_heads = 4,
                                    .head_dim = 64,
                                    .n_layers = 1,
                                    .vocab = 128,
                                    .width = width,
                                    .deterministic = deterministic};
    if (api->ops_reserve(cuda, &shapes, &err) != SL_OK)
        fail_msg("%s", err.text);
}

static void try_kind(sli_cuda *cuda, const stored *kind, int64_t t, int64_t n, int64_t k, const epilogue *e,
                     int deterministic) {
    const int64_t rows = e->act >= 0 ? 2 * n : n;
    sl_q_format f = {0};
    void *device;
    float *w = store(cuda, kind, &f, rows, k, &device), *x = random_floats(t * k, 1), *bias = random_floats(rows, 2),
          *residual = random_floats(t * n, 3);
    uint16_t *bits = need(t * k * 2);
    for (int64_t i = 0; i < t * k; i++)
        bits[i] = slk_bf16_of_f32(x[i]), x[i] = slk_f32_of_bf16(bits[i]);
    float *y = multiply(cuda, kind, &f, device, t, n, k, e, bits, bias, residual);
    const int exact = kind->format.kind != SL_Q_E4M3 && (deterministic || t <= kind->few);
    const double eps = exact ? 2e-5 : kind->eps;
    double worst = 0;
    for (int64_t i = 0; i < t * n; i++) {
        double size = 0, size_up = 0, want = dot(x + i / n * k, w + i % n * k, k, &size), may;
        if (e->bias)
            want += bias[i % n];
        may = size * eps + 1e-5;
        if (e->act >= 0) {
            double up = dot(x + i / n * k, w + (n + i % n) * k, k, &size_up);
            if (e->bias)
                up += bias[n + i % n];
            const double gate = want, off = size_up * eps + 1e-5;
            want = act_of(e->act, gate) * up;
            /* gate and up may have been bf16 in between */
            may =
                1.2 * (may + fabs(gate) / 256) * (fabs(up) + off) + fabs(act_of(e->act, gate)) * (off + fabs(up) / 256);
        }
        if (e->residual)
            want += residual[i];
        if (e->y_bf16) /* rounded once or twice */
            may += (fabs(want) + (e->residual ? 1 : 0) + (e->bias ? 1 : 0)) / 128;
        const double off = fabs(y[i] - want) / may;
        if (!(off <= 1))
            fail_msg("%s, deterministic %d, T %d N %d K %d bias %d residual %d bf16 %d act %d: row %d, output %d: %g, "
                     "expected %g within %g",
                     kind->name, deterministic, (int)t, (int)n, (int)k, e->bias, e->residual, e->y_bf16, e->act,
                     (int)(i / n), (int)(i % n), (double)y[i], want, may);
        worst = off > worst ? off : worst;
    }
    print_message("%s, deterministic %d, T %d N %d K %d: largest error %.2f of what is allowed\n", kind->name,
                  deterministic, (int)t, (int)n, (int)k, worst);
    for (int64_t i = 0; deterministic && !e->residual && i < t; i += 13) { /* rows alone */
        float *one = multiply(cuda, kind, &f, device, 1, n, k, e, bits + i * k, bias, residual);
        if (memcmp(one, y + i * n, (size_t)n * 4) != 0)
            fail_msg("%s: T %d N %d K %d: row %d alone has other bits", kind->name, (int)t, (int)n, (int)k, (int)i);
        free(one);
    }
    api->release(cuda, SL_DEVICE_CUDA, device);
    free(w), free(x), free(bias), free(residual), free(bits), free(y);
}

static void test_all(int deterministic) {
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    reserve(cuda, 100, 384, (uint32_t)deterministic);
    for (int i = 0; i < N_KINDS; i++)
        for (int e = 0; e < N_EPILOGUES; e++)
            for (int64_t t = 1; t <= 100; t += 33) {
                try_kind(cuda, &kinds[i], t, 192, 336, &epilogues[e], deterministic);
                try_kind(cuda, &kinds[i], t, 150, 264, &epilogues[e], deterministic);
            }
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

static void test_fast(void **state) {
    (void)state;
    test_all(0);
}

/* One row times 4-bit weights in whole chunks, which has a kernel of its own in fast mode alone. */
static void test_one_row(void **state) {
    (void)state;
    static const stored kind = {
        "int4 g128", 0, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}, 32, 3e-3};
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    for (uint32_t deterministic = 0; deterministic < 2; deterministic++) {
        reserve(cuda, 2, 384, deterministic);
        for (int e = 0; e < N_EPILOGUES; e++)
            for (int64_t t = 1; t <= 2; t++)
                try_kind(cuda, &kind, t, 176, 384, &epilogues[e], (int)deterministic);
    }
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}
static void test_deterministic(void **state) {
    (void)state;
    test_all(1);
}

/* Weights wider than a panel: [2304, 14336] in three. */
static void test_panels(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    reserve(cuda, 70, 14336, 0);
    for (int i = 0; i < N_KINDS; i++)
        try_kind(cuda, &kinds[i], i < 3 ? 17 : 65, i < 3 ? 2304 : 2304 / 2, 14336, &epilogues[i % 2 ? 2 : 4], 0);
    api->close(cuda);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fast), cmocka_unit_test(test_one_row),
                                       cmocka_unit_test(test_deterministic), cmocka_unit_test(test_panels)};
    api = module_api();
    return cmocka_run_group_tests_name("cuda_linear", tests, NULL, NULL);
}
