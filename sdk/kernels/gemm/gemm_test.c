/* Matrix products: every variant against exact sums, bit equality of rows whatever the call's shape, the packed
 * formats. */
#include "kernels_test.h"

#include "sl_error.h"

typedef struct problem {
    slk_gemm p;
    float *x, *w, *y, *bias, *residual; /* x, w: the values after rounding to the operands' dtypes */
    void *x_bits, *w_bits;
} problem;

enum { WITH_BIAS = 1, WITH_RESIDUAL = 2, WITH_ACCUMULATE = 4 };

static problem make(uint64_t *rng, int64_t T, int64_t N, int64_t K, uint32_t x_dtype, uint32_t w_dtype, slk_q_format q,
                    int epilogue) {
    problem a = {0};
    const int64_t pad_x = test_range(rng, 0, 3), pad_w = test_range(rng, 0, 3), pad_y = test_range(rng, 0, 3);
    a.p = (slk_gemm){.T = T,
                     .N = N,
                     .K = K,
                     .ldx = K + pad_x,
                     .ldw = K + pad_w,
                     .ldy = N + pad_y,
                     .ldr = N + pad_y,
                     .x_dtype = x_dtype,
                     .w_dtype = w_dtype,
                     .q = q,
                     .accumulate = (epilogue & WITH_ACCUMULATE) != 0};
    a.x = test_normals(rng, (size_t)(T * a.p.ldx), 1);
    a.w = test_normals(rng, (size_t)(N * a.p.ldw), 1);
    a.x_bits = test_as_dtype(x_dtype, a.x, (size_t)(T * a.p.ldx));
    if (w_dtype == SLK_W_PACKED) {
        a.w_bits = test_alloc((size_t)(N * slk_q_row_bytes(&q, K)));
        assert_int_equal(slk_q_pack(&q, a.w, a.p.ldw, N, K, a.w_bits, NULL), SL_OK);
        slk_q_unpack(&q, a.w_bits, N, K, a.w, a.p.ldw);
    } else {
        a.w_bits = test_as_dtype(w_dtype, a.w, (size_t)(N * a.p.ldw));
    }
    a.y = test_normals(rng, (size_t)(T * a.p.ldy), 1);
    a.bias = test_normals(rng, (size_t)N, 1);
    a.residual = test_normals(rng, (size_t)(T * a.p.ldr), 1);
    a.p.x = a.x_bits, a.p.w = a.w_bits, a.p.y = a.y;
    a.p.bias = epilogue & WITH_BIAS ? a.bias : NULL;
    a.p.residual = epilogue & WITH_RESIDUAL ? a.residual : NULL;
    return a;
}

static void drop(problem *a) {
    free(a->x), free(a->w), free(a->y), free(a->bias), free(a->residual), free(a->x_bits), free(a->w_bits);
}

/* Against sums in double. A chain of K / VL roundings errs by at most K / VL + 7 units of 2^-24 sum|x w|; with random
 * signs errors cancel, and 8 units hold for every size tried here. vdpbf16ps rounds twice a pair: the same bound. */
static void check_result(const char *name, const problem *a, const float *y_before, const float *y, int64_t n0,
                         int64_t n1) {
    const slk_gemm *p = &a->p;
    for (int64_t t = 0; t < p->T; t++)
        for (int64_t n = 0; n < p->ldy; n++) {
            const float got = y[t * p->ldy + n], before = y_before[t * p->ldy + n];
            if (n < n0 || n >= n1) {
                if (memcmp(&got, &before, sizeof got) != 0)
                    fail_msg("%s: wrote outside [%d,%d): row %d, column %d", name, (int)n0, (int)n1, (int)t, (int)n);
                continue;
            }
            double sum = 0, size = 1;
            for (int64_t k = 0; k < p->K; k++) {
                const double term = (double)a->x[t * p->ldx + k] * a->w[n * p->ldw + k];
                sum += term, size += fabs(term);
            }
            if (p->bias)
                sum += p->bias[n], size += fabs(p->bias[n]);
            if (p->residual)
                sum += p->residual[t * p->ldr + n], size += fabs(p->residual[t * p->ldr + n]);
            if (p->accumulate)
                sum += before, size += fabs(before);
            const double bound = 8 * 0x1p-24 * size;
            if (!(fabs(got - sum) <= bound))
                fail_msg("%s T=%d N=%d K=%d: y[%d,%d] = %.9g, expected %.9g within %.3g", name, (int)p->T, (int)p->N,
                         (int)p->K, (int)t, (int)n, (double)got, sum, bound);
        }
}

static slk_gemm_fn kernel_of(const slk_kernels *k, const slk_gemm *p, const char **name) {
    if (p->w_dtype == SLK_W_PACKED)
        return *name = p->q.bits == 8 ? k->gemm_q8_name : k->gemm_q4_name, p->q.bits == 8 ? k->gemm_q8 : k->gemm_q4;
    if (p->x_dtype == SL_BF16)
        return *name = k->gemm_bf16_bf16_name, k->gemm_bf16_bf16;
    switch (p->w_dtype) {
    case SL_F16: return *name = k->gemm_f16_name, k->gemm_f16;
    case SL_BF16: return *name = k->gemm_bf16_name, k->gemm_bf16;
    default: return *name = k->gemm_f32_name, k->gemm_f32;
    }
}

static const struct {
    uint32_t x_dtype, w_dtype;
    slk_q_format q;
} operands[] = {{SL_F32, SL_F32, {0}},
                {SL_F32, SL_F16, {0}},
                {SL_F32, SL_BF16, {0}},
                {SL_BF16, SL_BF16, {0}},
                {SL_F32, SLK_W_PACKED, {8, 32, 0}},
                {SL_F32, SLK_W_PACKED, {8, 64, 1}},
                {SL_F32, SLK_W_PACKED, {8, 0, 0}},
                {SL_F32, SLK_W_PACKED, {4, 32, 0}},
                {SL_F32, SLK_W_PACKED, {4, 128, 1}},
                {SL_F32, SLK_W_PACKED, {4, 64, 0}},
                {SL_F32, SLK_W_PACKED, {4, 0, 1}}};
enum { N_OPERANDS = sizeof operands / sizeof *operands };

/* One problem through every table: right, and every row and column bit-equal when computed in other company. */
static void try_all(uint64_t *rng, int64_t T, int64_t N, int64_t K, int op, int epilogue) {
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    problem a = make(rng, T, N, K, operands[op].x_dtype, operands[op].w_dtype, operands[op].q, epilogue);
    const size_t n_y = (size_t)(T * a.p.ldy);
    float *before = test_alloc(n_y * sizeof *before), *whole = test_alloc(n_y * sizeof *whole);
    if (n_y > 0)
        memcpy(before, a.y, n_y * sizeof *before);
    for (int i = 0; i < n_tables; i++) {
        const char *name;
        const slk_gemm_fn fn = kernel_of(tables[i], &a.p, &name);
        const int64_t n0 = test_range(rng, 0, (int)N), n1 = test_range(rng, (int)n0, (int)N);
        if (n_y > 0)
            memcpy(a.y, before, n_y * sizeof *before);
        fn(&a.p, n0, n1);
        check_result(name, &a, before, a.y, n0, n1);

        if (n_y > 0)
            memcpy(a.y, before, n_y * sizeof *before);
        slk_gemm_run(tables[i], &a.p, 0, N);
        check_result(name, &a, before, a.y, 0, N);
        if (n_y > 0)
            memcpy(whole, a.y, n_y * sizeof *whole), memcpy(a.y, before, n_y * sizeof *before);
        for (int64_t t = 0, rows; t < T; t += rows) {
            rows = test_range(rng, 1, T - t < 6 ? (int)(T - t) : 6);
            slk_gemm part = a.p;
            part.T = rows, part.y = a.y + t * a.p.ldy;
            part.x = (const char *)a.p.x + t * a.p.ldx * (a.p.x_dtype == SL_F32 ? 4 : 2);
            part.residual = a.p.residual ? a.p.residual + t * a.p.ldr : NULL;
            for (int64_t n = 0, columns; n < N; n += columns) {
                columns = test_range(rng, 1, (int)(N - n));
                fn(&part, n, n + columns);
            }
        }
        check_bits(name, whole, a.y, n_y);
    }
    free(before), free(whole);
    drop(&a);
}

static void test_shapes(void **state) {
    (void)state;
    uint64_t rng = 11;
    for (int op = 0; op < N_OPERANDS; op++) {
        for (int64_t T = 0; T <= 9; T++)
            try_all(&rng, T, test_range(&rng, 0, 40), test_range(&rng, 0, 150), op, test_range(&rng, 0, 7));
        for (int i = 0; i < 6; i++)
            try_all(&rng, test_range(&rng, 1, 70), test_range(&rng, 1, 40), test_range(&rng, 1, 90), op,
                    test_range(&rng, 0, 7));
        try_all(&rng, 66, 9, 64, op, WITH_BIAS);
        try_all(&rng, 6, 17, 1, op, 0);
        try_all(&rng, 3, 17, 33, op, 0);
        try_all(&rng, 2, 10, 1200, op, WITH_RESIDUAL); /* several panels of k */
        try_all(&rng, 11, 19, 1101, op, WITH_RESIDUAL | WITH_ACCUMULATE);
    }
}

/* Products with packed weights are those with the unpacked weights, to the bit, on every vector variant. */
static void test_packed_is_exact(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 5;
    for (int op = 0; op < N_OPERANDS; op++) {
        if (operands[op].w_dtype != SLK_W_PACKED)
            continue;
        for (int64_t T = 1; T <= 7; T += 3) {
            problem a = make(&rng, T, 21, 300, SL_F32, SLK_W_PACKED, operands[op].q, 0);
            float *y = test_alloc((size_t)(T * a.p.ldy) * sizeof *y);
            for (int i = 1; i < n_tables; i++) { /* the reference sums by groups, in double */
                memset(a.y, 0, (size_t)(T * a.p.ldy) * sizeof *a.y);
                memset(y, 0, (size_t)(T * a.p.ldy) * sizeof *y);
                slk_gemm_run(tables[i], &a.p, 0, a.p.N);
                slk_gemm plain = a.p;
                plain.w = a.w, plain.w_dtype = SL_F32, plain.y = y;
                slk_gemm_run(tables[i], &plain, 0, a.p.N);
                check_bits("packed and unpacked", y, a.y, (size_t)(T * a.p.ldy));
            }
            free(y);
            drop(&a);
        }
    }
}

/* Residual may be the output itself. */
static void test_residual_in_place(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 77;
    for (int i = 0; i < n_tables; i++)
        for (int64_t T = 1; T <= 9; T += 4) {
            problem a = make(&rng, T, 23, 40, SL_F32, SL_F16, (slk_q_format){0}, WITH_RESIDUAL);
            slk_gemm_run(tables[i], &a.p, 0, 23);
            slk_gemm in_place = a.p;
            in_place.y = a.residual;
            slk_gemm_run(tables[i], &in_place, 0, 23);
            for (int64_t t = 0; t < T; t++)
                check_bits("in place", a.y + t * a.p.ldy, a.residual + t * a.p.ldr, 23);
            drop(&a);
        }
}

static void test_not_finite(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    for (int i = 0; i < n_tables; i++)
        for (int64_t T = 1; T <= 5; T += 4) {
            float x[5 * 20], w[3 * 20], y[5 * 3];
            for (int j = 0; j < 5 * 20; j++)
                x[j] = 1;
            for (int j = 0; j < 3 * 20; j++)
                w[j] = j < 20 ? 3e38f : 1e-42f; /* row 0 overflows, the others are sums of subnormals */
            w[59] = NAN;
            const slk_gemm p = {.x = x,
                                .ldx = 20,
                                .w = w,
                                .ldw = 20,
                                .y = y,
                                .ldy = 3,
                                .T = T,
                                .N = 3,
                                .K = 20,
                                .x_dtype = SL_F32,
                                .w_dtype = SL_F32};
            slk_gemm_run(tables[i], &p, 0, 3);
            for (int64_t t = 0; t < T; t++) {
                assert_true(isinf(y[t * 3]) && y[t * 3] > 0);
                assert_true(fabsf(y[t * 3 + 1] - 20e-42f) < 1e-43f);
                assert_true(isnan(y[t * 3 + 2]));
            }
        }
}

/* ---- formats --------------------------------------------------------------------------------------------------- */

static void test_pack_known(void **state) {
    (void)state;
    float w[32] = {0}, out[32];
    uint8_t block[36];
    /* symmetric int8: s = 127/127; halves go to even, -128 is out of reach of max|w| */
    w[0] = 127, w[1] = -127, w[2] = 0.5f, w[3] = 1.5f, w[4] = -2.5f;
    const slk_q_format s8 = {8, 32, 0};
    assert_int_equal(slk_q_row_bytes(&s8, 32), 34);
    assert_int_equal(slk_q_pack(&s8, w, 32, 1, 32, block, NULL), SL_OK);
    const uint8_t want8[] = {0x00, 0x3c, 255, 1, 128, 130, 126, 128};
    assert_memory_equal(block, want8, sizeof want8);
    /* symmetric int4: s = 7/7, -8 is reachable only through rounding of the scale; nibble 8 is zero */
    memset(w, 0, sizeof w);
    w[0] = 7, w[16] = -7, w[1] = 2.5f, w[17] = -3.5f;
    const slk_q_format s4 = {4, 32, 0};
    assert_int_equal(slk_q_row_bytes(&s4, 32), 18);
    assert_int_equal(slk_q_pack(&s4, w, 32, 1, 32, block, NULL), SL_OK);
    const uint8_t want4[] = {0x00, 0x3c, 0x1f, 0x4a, 0x88};
    assert_memory_equal(block, want4, sizeof want4);
    /* asymmetric int4: [-5, 10] in 15 steps of 1, z = 5 */
    memset(w, 0, sizeof w);
    w[0] = 10, w[16] = -5, w[1] = 3.5f;
    const slk_q_format a4 = {4, 32, 1};
    assert_int_equal(slk_q_row_bytes(&a4, 32), 20);
    assert_int_equal(slk_q_pack(&a4, w, 32, 1, 32, block, NULL), SL_OK);
    const uint8_t want_a4[] = {0x00, 0x3c, 5, 0, 0x0f, 0x59, 0x55};
    assert_memory_equal(block, want_a4, sizeof want_a4);
    slk_q_unpack(&a4, block, 1, 32, out, 32);
    assert_true(out[0] == 10 && out[16] == -5 && out[1] == 4 && out[2] == 0);
    /* asymmetric with positive weights only: 0 is forced into the range */
    for (int i = 0; i < 32; i++)
        w[i] = 15;
    assert_int_equal(slk_q_pack(&a4, w, 32, 1, 32, block, NULL), SL_OK);
    assert_true(block[2] == 0 && block[4] == 0xff);
    /* a group of zeros: s = 1, q = z = 0 */
    memset(w, 0, sizeof w);
    assert_int_equal(slk_q_pack(&a4, w, 32, 1, 32, block, NULL), SL_OK);
    const uint8_t zeros[] = {0x00, 0x3c, 0, 0, 0, 0};
    assert_memory_equal(block, zeros, sizeof zeros);
    /* a scale below f16's smallest does not become 0 */
    w[3] = 1e-8f;
    assert_int_equal(slk_q_pack(&s8, w, 32, 1, 32, block, NULL), SL_OK);
    assert_true(block[0] == 1 && block[1] == 0 && block[2 + 3] == 128);
}

static void test_pack_properties(void **state) {
    (void)state;
    uint64_t rng = 3;
    for (int op = 0; op < N_OPERANDS; op++) {
        const slk_q_format q = operands[op].q;
        if (operands[op].w_dtype != SLK_W_PACKED)
            continue;
        enum { N = 5, K = 200 };
        float *w = test_normals(&rng, N * K, 1), *once = test_alloc(N * K * sizeof *once);
        const size_t bytes = (size_t)(N * slk_q_row_bytes(&q, K));
        uint8_t *packed = test_alloc(bytes), *again = test_alloc(bytes);
        assert_int_equal(slk_q_pack(&q, w, K, N, K, packed, NULL), SL_OK);
        slk_q_unpack(&q, packed, N, K, once, K);
        const int64_t g = slk_q_group(&q, K);
        for (int n = 0; n < N; n++)
            for (int64_t k0 = 0; k0 < K;
                 k0 += g) { /* no weight further off than half a step, plus the scale's rounding */
                float lo = 0, hi = 0;
                const int64_t end = k0 + g < K ? k0 + g : K;
                for (int64_t k = k0; k < end; k++)
                    lo = fminf(lo, w[n * K + k]), hi = fmaxf(hi, w[n * K + k]);
                const float levels = q.bits == 8 ? 255 : 15;
                const float step = q.asym ? (hi - lo) / levels : fmaxf(-lo, hi) / ((levels - 1) / 2);
                for (int64_t k = k0; k < end; k++)
                    assert_true(fabsf(w[n * K + k] - once[n * K + k]) <=
                                step * (q.asym ? 1.02f : 0.51f) + levels * step * 0x1p-11f);
            }
        /* position independence: the rows packed one by one are the same bytes */
        for (int n = 0; n < N; n++)
            assert_int_equal(slk_q_pack(&q, w + n * K, K, 1, K, again + n * slk_q_row_bytes(&q, K), NULL), SL_OK);
        assert_memory_equal(packed, again, bytes);
        free(w), free(once), free(packed), free(again);
    }
}

static void test_pack_refuses(void **state) {
    (void)state;
    float w[64];
    uint8_t out[256];
    const slk_q_format bad_bits = {5, 32, 0}, bad_group = {4, 48, 0}, good = {4, 32, 0};
    SL_ERROR(err);
    for (int i = 0; i < 64; i++)
        w[i] = 1;
    assert_int_equal(slk_q_pack(&bad_bits, w, 64, 1, 64, out, &err), SL_E_INVALID);
    assert_int_equal(slk_q_pack(&bad_group, w, 64, 1, 64, out, &err), SL_E_INVALID);
    w[40] = NAN;
    assert_int_equal(slk_q_pack(&good, w, 64, 1, 64, out, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "input 32"));
    assert_int_equal(slk_q_pack(&good, w, 64, 1, 64, out, NULL), SL_E_DATA);
    w[40] = 1e6f;
    assert_int_equal(slk_q_pack(&good, w, 64, 1, 64, out, &err), SL_E_RANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_packed_is_exact),
        cmocka_unit_test(test_residual_in_place),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_pack_known),
        cmocka_unit_test(test_pack_properties),
        cmocka_unit_test(test_pack_refuses),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
