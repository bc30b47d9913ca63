/* Activations and softmax against double. */
#include "kernels_test.h"

static double want_act(int gelu, double g) {
    const double u = 2 * 0.79788456080286535588 * (g + 0.044715 * g * g * g);
    return g / (1 + exp(gelu ? -u : -g));
}

/* Division, exponential (2 ulp), sum and product: below 6 ulp; where exp overflows f32 the result is 0 instead of less
 * than 1e-36. gelu's argument u carries its own rounding, which the exponential multiplies by |u| <= 90. */
static void test_acts(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 47;
    enum { N = 4099 };
    float *g = test_normals(&rng, N, 4), *up = test_normals(&rng, N, 1), *y = test_alloc(N * sizeof *y),
          *part = test_alloc(N * sizeof *y);
    static const float special[] = {0,      -0.0f, 1e-30f, -1e-30f, 80,     -80,     88.8f,
                                    -88.8f, 1000,  -1000,  3e38f,   -1e19f, INFINITY};
    memcpy(g, special, sizeof special);
    for (int i = 0; i < n_tables; i++)
        for (int gelu = 0; gelu < 2; gelu++)
            for (int with_up = 0; with_up < 2; with_up++) {
                slk_act p = {.gate = g, .up = with_up ? up : NULL, .y = y, .ld_gate = N, .ld_up = N, .ldy = N, .n = N};
                const slk_act_fn fn = gelu ? tables[i]->gelu_mul : tables[i]->silu_mul;
                fn(&p, 0, 1);
                for (int j = 0; j < N; j++) {
                    const double want = isinf(g[j]) ? INFINITY : want_act(gelu, g[j]) * (with_up ? up[j] : 1);
                    if (isinf(g[j]) ? !isinf(y[j]) : !(fabs(y[j] - want) <= (gelu ? 2e-5 : 4e-7) * fabs(want) + 1e-35))
                        fail_msg("%s(%.9g): %.9g, expected %.9g",
                                 gelu ? tables[i]->gelu_mul_name : tables[i]->silu_mul_name, (double)g[j], (double)y[j],
                                 want);
                }
                for (int at = 0; at < N;) { /* an element does not depend on where it stands */
                    const int n = test_range(&rng, 1, N - at < 50 ? N - at : 50);
                    slk_act q = {.gate = g + at, .up = with_up ? up + at : NULL, .y = part + at, .n = n};
                    fn(&q, 0, 1);
                    at += n;
                }
                check_bits("pieces", y, part, N);
            }
    /* rows with strides, in place */
    for (int i = 0; i < n_tables; i++) {
        float a[3 * 20], b[3 * 20];
        memcpy(a, g + 100, sizeof a), memcpy(b, g + 100, sizeof b);
        slk_act p = {.gate = a, .up = up, .y = a, .ld_gate = 20, .ld_up = 17, .ldy = 20, .n = 17};
        tables[i]->silu_mul(&p, 1, 3);
        for (int r = 0; r < 3; r++)
            for (int j = 0; j < 20; j++) {
                const double want = r > 0 && j < 17 ? want_act(0, b[r * 20 + j]) * up[r * 17 + j] : b[r * 20 + j];
                assert_true(fabs(a[r * 20 + j] - want) <= 4e-7 * fabs(want));
            }
    }
    free(g), free(up), free(y), free(part);
}

static void test_softmax(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 53;
    for (int i = 0; i < n_tables; i++)
        for (int n = 0; n <= 300; n = n < 40 ? n + 1 : n + 37) {
            float *x = test_normals(&rng, (size_t)n, n % 3 ? 3.0f : 300.0f);
            float *y = test_alloc((size_t)n * sizeof *y);
            if (n > 3)
                x[n / 2] = -INFINITY;
            double max = -INFINITY, sum = 0;
            for (int j = 0; j < n; j++)
                y[j] = x[j], max = fmax(max, x[j]);
            for (int j = 0; j < n; j++)
                sum += exp(x[j] - max);
            const float lse = tables[i]->softmax(y, n);
            assert_true(n == 0 ? lse == -INFINITY : fabs(lse - (max + log(sum))) <= 1e-6 * (1 + fabs(max)));
            for (int j = 0; j < n; j++) { /* 2 ulp of exp, the sum's error, two roundings, and that of x - max */
                const double want = exp(x[j] - max) / sum;
                const double bound = n > 3 && j == n / 2 ? 0 : (1e-6 + 0x1p-24 * (max - x[j])) * want + 1e-37;
                if (!(fabs(y[j] - want) <= bound))
                    fail_msg("%s n=%d: %.9g, expected %.9g", tables[i]->softmax_name, n, (double)y[j], want);
            }
            for (int j = 0; j < n; j++)
                y[j] = -INFINITY;
            assert_true(tables[i]->softmax(y, n) == -INFINITY);
            for (int j = 0; j < n; j++)
                assert_true(y[j] == 0);
            free(x), free(y);
        }
}

/* The exponential itself, seen through softmax of {0, x}: exp(x) = y[1] / y[0]. Two ulp, and what the division adds. */
static void test_exp(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    for (int i = 0; i < n_tables; i++)
        for (double x = -87; x <= 0; x += 0.00731) {
            float pair[2] = {0, (float)x};
            tables[i]->softmax(pair, 2);
            const double want = exp((double)(float)x), got = (double)pair[1] / pair[0];
            if (!(fabs(got - want) <= 4 * 0x1p-23 * want))
                fail_msg("%s: exp(%.9g) = %.9g, expected %.9g", tables[i]->softmax_name, x, got, want);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_acts), cmocka_unit_test(test_softmax),
                                       cmocka_unit_test(test_exp)};
    return cmocka_run_group_tests_name("act", tests, NULL, NULL);
}
