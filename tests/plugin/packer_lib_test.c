/* Helpers of packers: the factor of a Hessian, the walk with feedback, bit streams, f16. */
#include "sl_test.h"

#include "half.h"
#include "sl_bits.h"
#include "sl_factor.h"
#include "sl_half.h"
#include "sl_obs.h"

/* A fake pool that splits work, so that results cannot depend on it. */
static void split(const sl_host *host, int64_t n, int64_t grain, sl_range_fn fn, void *user) {
    (void)host;
    for (int64_t at = 0; at < n; at += 3 * grain)
        fn(user, at, at + 3 * grain < n ? at + 3 * grain : n, 0);
}
static const sl_threads threads = {.struct_size = SL_SIZE(sl_threads), .parallel_for = split};

static double *random_hessian(int64_t n, uint64_t seed) {
    double *h = calloc((size_t)(n * n), sizeof *h), *x = malloc(sizeof *x * (size_t)n);
    assert_true(h != NULL && x != NULL);
    for (int64_t t = 0; t < 2 * n; t++) {
        for (int64_t i = 0; i < n; i++)
            x[i] = test_normal(&seed);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                h[i * n + j] += x[i] * x[j];
    }
    free(x);
    return h;
}

/* H U^T U = 1, U is upper triangular, and workers do not matter. */
static void test_factor(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 63, 64, 65, 200};
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        int64_t n = sizes[c];
        double *h = random_hessian(n, 5), *u = malloc(sizeof *u * (size_t)(n * n)),
               *v = malloc(sizeof *v * (size_t)(n * n));
        double *work = malloc(sizeof *work * (size_t)(SL_FACTOR_PANEL * n)),
               *inverse = calloc((size_t)(n * n), sizeof *h);
        memcpy(u, h, sizeof *u * (size_t)(n * n));
        memcpy(v, h, sizeof *u * (size_t)(n * n));
        assert_int_equal(sl_inverse_factor(u, n, work, NULL, NULL), SL_OK);
        assert_int_equal(sl_inverse_factor(v, n, work, NULL, &threads), SL_OK);
        assert_memory_equal(u, v, sizeof *u * (size_t)(n * n));
        for (int64_t k = 0; k < n; k++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++)
                    inverse[i * n + j] += u[k * n + i] * u[k * n + j];
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t k = 0; k < n; k++)
                    sum += h[i * n + k] * inverse[k * n + j];
                if (!(fabs(sum - (i == j)) < 1e-8))
                    fail_msg("%d: H U^T U is %g at %d, %d", (int)n, sum, (int)i, (int)j);
                assert_true(j >= i ? u[i * n + i] > 0 : u[i * n + j] == 0);
            }
        free(h), free(u), free(v), free(work), free(inverse);
    }
    double bad[] = {1, 2, 2, 1}, work[2 * SL_FACTOR_PANEL];
    assert_int_equal(sl_inverse_factor(bad, 2, work, NULL, NULL), SL_E_DATA);
    double nan[] = {1, 0, 0, NAN};
    assert_int_equal(sl_inverse_factor(nan, 2, work, NULL, NULL), SL_E_DATA);
}

/* ---- the walk: rounding to whole numbers ---------------------------------------------------------------------------
 */

typedef struct walk {
    int64_t n;
    int rows, fits;
    double seen[4]; /* first weight of each group when it is fitted, row 0 */
} walk;

static void fit(void *user, const double *w, int64_t j, int64_t len) {
    walk *k = user;
    assert_true(len == (j < 30 ? 10 : k->n - j));
    k->seen[k->fits++] = w[j + len - 1]; /* the far end, which may lie behind the block */
}

static void column(void *user, const double *w, int64_t j, double *value) {
    const walk *k = user;
    for (int r = 0; r < k->rows; r++)
        value[r] = rint(w[r * k->n + j]);
}

static void test_walk(void **state) {
    (void)state;
    enum { N = 35, R = 3 };
    uint64_t seed = 9;
    double *u = random_hessian(N, 2), work[SL_FACTOR_PANEL * N], w[R * N], plain[R * N], error[R * 64];
    assert_int_equal(sl_inverse_factor(u, N, work, NULL, NULL), SL_OK);
    for (int i = 0; i < R * N; i++)
        plain[i] = 3 * test_normal(&seed);
    static const int64_t blocks[] = {1, 7, 10, 35, 64};
    double first_loss = 0, first[R * N], first_seen[4];
    for (int b = 0; b < 5; b++) {
        walk k = {.n = N, .rows = R};
        sl_obs o = {u, N, blocks[b], 10, fit, column, &k, R};
        memcpy(w, plain, sizeof w);
        double loss = sl_obs_run(&o, w, error);
        assert_int_equal(k.fits, 4);
        if (b == 0) { /* a walk without blocks, written out */
            double sum = 0, one[R * N];
            memcpy(one, plain, sizeof one);
            for (int j = 0; j < N; j++)
                for (int r = 0; r < R; r++) {
                    double q = rint(one[r * N + j]), e = (one[r * N + j] - q) / u[j * N + j];
                    sum += e * e;
                    for (int i = j; i < N; i++)
                        one[r * N + i] -= e * u[j * N + i];
                    one[r * N + j] = q;
                }
            assert_memory_equal(one, w, sizeof w);
            assert_true(fabs(sum - loss) < 1e-9 * sum);
            memcpy(first, w, sizeof w);
            memcpy(first_seen, k.seen, sizeof first_seen);
            first_loss = loss;
        }
        assert_memory_equal(first, w, sizeof w); /* whole numbers */
        assert_true(fabs(first_loss - loss) < 1e-9 * loss);
        for (int i = 0; i < 4; i++)
            assert_true(fabs(first_seen[i] - k.seen[i]) < 1e-9);
    }
    free(u);
}

static void test_bits(void **state) {
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        uint8_t stream[128] = {0}, codes[100];
        uint64_t seed = (uint64_t)bits;
        for (int i = 0; i < 100; i++)
            sl_bits_put(stream, i, bits, codes[i] = (uint8_t)(test_next(&seed) >> 20 & ((1u << bits) - 1)));
        for (int i = 0; i < 100; i++)
            assert_int_equal(sl_bits_get(stream, i, bits), codes[i]);
        assert_int_equal(stream[sl_bits_bytes(100, bits)], 0);
    }
}

/* The same as the kernels' conversions, for all f16 values and many f32 ones. */
static void test_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float a = sl_f32_of_f16((uint16_t)h), b = slk_f32_of_f16((uint16_t)h);
        assert_true(a == b || (isnan(a) && isnan(b)));
        if (!isnan(a))
            assert_int_equal(sl_f16_of_f32(a), h);
    }
    uint64_t seed = 4;
    for (int i = 0; i < 300000; i++) {
        uint32_t bits = (uint32_t)(test_next(&seed) >> 32);
        float x = slk_f32_of_bits(i % 2 ? bits : (bits & 0x807fffff) | (96 + bits / 7 % 50) << 23);
        if (!isnan(x) && sl_f16_of_f32(x) != slk_f16_of_f32(x))
            fail_msg("%a becomes %#x, expected %#x", (double)x, sl_f16_of_f32(x), slk_f16_of_f32(x));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_half),
    };
    return cmocka_run_group_tests_name("packer_lib", tests, NULL, NULL);
}
