/* Maps against their definitions: dense matrices built from the formulas, in f64. */
#include "sl_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sl_map.h"
#include "sl_tensor.h"

static uint64_t state = 7;
static float draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 11) / (double)(1ull << 52) - 1);
}

static sl_tensor tensor(float *data, int ndim, const int64_t *shape) {
    sl_tensor t;
    sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, ndim, shape);
    return t;
}

/* Order 4, not symmetric: A A^T = 4 I. */
static const float four[16] = {1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, -1, -1, -1, 1, 1};

/* Element [i][j] of kron(A_1 .., S) by its definition. */
static double element(const int32_t *orders, const float *a, int64_t m, int64_t n, int64_t i, int64_t j) {
    double value = __builtin_parityll((uint64_t)((i % m) & (j % m))) ? -1 : 1;
    int64_t rest = n;
    for (; orders != NULL && *orders != 0; orders++) {
        rest /= *orders;
        value *= a[i / rest % *orders * *orders + j / rest % *orders];
        a += *orders * *orders;
    }
    return value / sqrt((double)n);
}

static void check_hadamard(const int32_t *orders, int n_orders, int64_t m, int64_t stride, int with_signs,
                           int64_t repeats) {
    float a[64], signs[512];
    int64_t n = m, elements = 0;
    for (int i = 0; i < n_orders; i++) {
        memcpy(a + elements, four, sizeof four);
        elements += 16;
        n *= orders[i];
    }
    for (int64_t i = 0; i < n; i++)
        signs[i] = draw() < 0 ? -1 : 1;
    sl_map map = {.struct_size = SL_SIZE(sl_map), .kind = SL_MAP_HADAMARD, .n = n, .stride = stride, .orders = orders};
    if (elements > 0)
        map.a = tensor(a, 1, &elements);
    if (with_signs)
        map.signs = tensor(signs, 1, &n);
    int64_t width = n * stride * repeats;
    assert_null(sl_map_fault(&map, width));
    assert_true(n * stride == 1 || sl_map_fault(&map, width + 1) != NULL);
    float *x = malloc(sizeof *x * (size_t)(2 * width)), *y = malloc(sizeof *y * (size_t)(2 * width));
    for (int64_t i = 0; i < 2 * width; i++)
        y[i] = x[i] = draw();
    sl_map_rows(&map, 0, y, 2, width);
    for (int64_t block = 0; block < 2 * repeats; block++)
        for (int64_t s = 0; s < stride; s++)
            for (int64_t i = 0; i < n; i++) {
                double sum = 0;
                for (int64_t j = 0; j < n; j++)
                    sum +=
                        element(orders, a, m, n, i, j) * (with_signs ? signs[j] : 1) * x[(block * n + j) * stride + s];
                assert_true(fabs(sum - y[(block * n + i) * stride + s]) < 1e-5);
            }
    sl_map_rows(&map, 1, y, 2, width);
    for (int64_t i = 0; i < 2 * width; i++)
        assert_true(fabsf(x[i] - y[i]) < 1e-5f);
    double row[512], norm = 0, before = 0;
    for (int64_t i = 0; i < n && stride == 1; i++)
        row[i] = x[i], before += row[i] * row[i];
    if (stride == 1) {
        sl_map_hadamard_f64(&map, 0, row, n);
        for (int64_t i = 0; i < n; i++)
            norm += row[i] * row[i];
        assert_true(fabs(norm - before) < 1e-12 * before);
        sl_map_hadamard_f64(&map, 1, row, n);
        for (int64_t i = 0; i < n; i++)
            assert_true(fabs(row[i] - x[i]) < 1e-13);
    }
    free(x);
    free(y);
}

static void test_hadamard(void **test_state) {
    (void)test_state;
    static const int32_t one[] = {4, 0}, two[] = {4, 4, 0};
    check_hadamard(NULL, 0, 1, 1, 0, 3);
    check_hadamard(NULL, 0, 64, 1, 1, 2);
    check_hadamard(NULL, 0, 8, 16, 0, 1);
    check_hadamard(one, 1, 8, 1, 1, 1);
    check_hadamard(one, 1, 1, 5, 0, 2);
    check_hadamard(two, 2, 2, 3, 1, 1);
    check_hadamard(two, 2, 16, 1, 0, 1);
}

static void test_matrices(void **test_state) {
    (void)test_state;
    float a[2 * 16], b[9] = {0, 1, 0, 0, 0, 1, -1, 0, 0}, x[48], y[48], d[4] = {1, 2, -4, 0.5f};
    for (int i = 0; i < 16; i++)
        a[i] = four[i] / 2, a[16 + i] = i % 5 == 0 ? -1 : 0;
    sl_map dense = {.struct_size = SL_SIZE(sl_map),
                    .kind = SL_MAP_DENSE,
                    .n = 4,
                    .stride = 3,
                    .a = tensor(a, 2, (int64_t[]){4, 4})};
    sl_map per_head = {.struct_size = SL_SIZE(sl_map),
                       .kind = SL_MAP_PER_HEAD,
                       .n = 4,
                       .stride = 1,
                       .a = tensor(a, 3, (int64_t[]){2, 4, 4})};
    sl_map kron = {.struct_size = SL_SIZE(sl_map),
                   .kind = SL_MAP_KRONECKER,
                   .n = 12,
                   .stride = 1,
                   .a = tensor(a, 2, (int64_t[]){4, 4}),
                   .b = tensor(b, 2, (int64_t[]){3, 3})};
    sl_map diagonal = {.struct_size = SL_SIZE(sl_map),
                       .kind = SL_MAP_DIAGONAL,
                       .n = 4,
                       .stride = 1,
                       .a = tensor(d, 1, (int64_t[]){4})};
    for (int i = 0; i < 48; i++)
        x[i] = draw();

    memcpy(y, x, sizeof y);
    assert_null(sl_map_fault(&dense, 12));
    sl_map_rows(&dense, 0, y, 1, 12);
    for (int i = 0; i < 4; i++)
        for (int s = 0; s < 3; s++) {
            float sum = 0;
            for (int j = 0; j < 4; j++)
                sum += a[i * 4 + j] * x[j * 3 + s];
            assert_true(fabsf(sum - y[i * 3 + s]) < 1e-6f);
        }
    memcpy(y, x, sizeof y);
    assert_null(sl_map_fault(&per_head, 8));
    assert_non_null(sl_map_fault(&per_head, 12));
    sl_map_rows(&per_head, 0, y, 2, 8);
    for (int i = 4; i < 8; i++)
        assert_true(y[i] == -x[i] && y[8 + i] == -x[8 + i]);
    memcpy(y, x, sizeof y);
    assert_null(sl_map_fault(&kron, 12));
    assert_non_null(sl_map_fault(&kron, 16));
    sl_map_rows(&kron, 0, y, 1, 12);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            float sum = 0;
            for (int j = 0; j < 4; j++)
                for (int l = 0; l < 3; l++)
                    sum += a[i * 4 + j] * b[k * 3 + l] * x[j * 3 + l];
            assert_true(fabsf(sum - y[i * 3 + k]) < 1e-6f);
        }
    sl_map_rows(&kron, 1, y, 1, 12); /* both factors are orthogonal */
    for (int i = 0; i < 12; i++)
        assert_true(fabsf(x[i] - y[i]) < 1e-6f);
    sl_map_rows(&diagonal, 0, y, 1, 4);
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(y[i] - x[i] * d[i]) < 1e-6f);
    sl_map_rows(&diagonal, 1, y, 1, 4);
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(y[i] - x[i]) < 1e-6f);
}

/* Values lie on the grid, within half a step, and the largest stays what it was. */
static void test_round(void **test_state) {
    (void)test_state;
    for (uint32_t bits = 2; bits <= 8; bits++)
        for (uint32_t asymmetric = 0; asymmetric < 2; asymmetric++) {
            sl_map map = {.struct_size = SL_SIZE(sl_map),
                          .kind = SL_MAP_ROUND,
                          .bits = bits,
                          .clip = 1,
                          .asymmetric = asymmetric};
            float x[32], y[32], low = 1, high = -1;
            for (int i = 0; i < 32; i++) {
                y[i] = x[i] = draw() + 0.25f;
                low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
            }
            float most = -low > high ? -low : high;
            float step = asymmetric ? (high - low) / (float)((1 << bits) - 1) : most / (float)((1 << (bits - 1)) - 1);
            assert_null(sl_map_fault(&map, 32));
            sl_map_rows(&map, 0, y, 1, 32);
            int exact = 0;
            for (int i = 0; i < 32; i++) {
                assert_true(fabsf(x[i] - y[i]) <= 0.5001f * step);
                exact += fabsf(x[i] - y[i]) < 1e-6f;
            }
            assert_true(exact >= 1 && exact < 32);
            float again[32];
            memcpy(again, y, sizeof y);
            sl_map_rows(&map, 0, again, 1, 32);
            for (int i = 0; i < 32; i++)
                assert_true(fabsf(again[i] - y[i]) < 1e-5f);
        }
    sl_map wrong = {.struct_size = SL_SIZE(sl_map), .kind = SL_MAP_ROUND, .bits = 9, .clip = 1};
    assert_non_null(sl_map_fault(&wrong, 32));
    float same[4] = {0, 0, 0, 0};
    wrong.bits = 4;
    sl_map_rows(&wrong, 0, same, 1, 4);
    assert_true(same[0] == 0 && same[3] == 0);
}

static void test_faults(void **test_state) {
    (void)test_state;
    static const int32_t three[] = {3, 0};
    sl_map map = {.struct_size = SL_SIZE(sl_map), .kind = SL_MAP_HADAMARD, .n = 12, .stride = 1};
    assert_non_null(sl_map_fault(&map, 12)); /* 12 is no power of two */
    map.orders = three;
    assert_non_null(sl_map_fault(&map, 12)); /* no matrix */
    map.kind = 99;
    assert_non_null(sl_map_fault(&map, 12));
    map.kind = SL_MAP_NONE;
    assert_null(sl_map_fault(&map, 12));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hadamard), cmocka_unit_test(test_matrices),
                                       cmocka_unit_test(test_round), cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
