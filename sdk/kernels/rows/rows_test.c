/* Row helpers: conversions over all bit patterns, dot, axpy, gather. */
#include "kernels_test.h"

static void test_widen_all(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint16_t *in = test_alloc(65536 * sizeof *in);
    float *out = test_alloc(65536 * sizeof *out);
    for (int i = 0; i < 65536; i++)
        in[i] = (uint16_t)i;
    for (int t = 0; t < n_tables; t++)
        for (int bf = 0; bf < 2; bf++) {
            (bf ? tables[t]->f32_of_bf16 : tables[t]->f32_of_f16)(out, in, 65536);
            for (int i = 0; i < 65536; i++) {
                double want; /* from the fields, by the definition of the format */
                const int sign = i >> 15, exp = bf ? i >> 7 & 255 : i >> 10 & 31, man = bf ? i & 127 : i & 1023;
                const int bits = bf ? 7 : 10, top = bf ? 255 : 31, bias = bf ? 127 : 15;
                if (exp == top)
                    want = man ? NAN : INFINITY;
                else
                    want = ldexp(exp ? man + (1 << bits) : man, (exp ? exp : 1) - bias - bits);
                want = sign ? -want : want;
                if (isnan(want) ? !isnan(out[i]) : !(out[i] == want && !signbit(out[i]) == !sign))
                    fail_msg("%s of 0x%04x: %.9g, expected %.9g", bf ? "bf16" : "f16", (unsigned)i, (double)out[i],
                             want);
            }
        }
    free(in), free(out);
}

/* Nearest of the two neighbours, the even one when halfway: checked against the table of all values. */
static void test_narrow(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    for (int bf = 0; bf < 2; bf++) {
        const int infinity = bf ? 0x7f80 : 0x7c00, per = 3, n = infinity * per;
        float *in = test_alloc((size_t)(2 * n) * sizeof *in);
        uint16_t *want = test_alloc((size_t)(2 * n) * sizeof *want), *out = test_alloc((size_t)(2 * n) * sizeof *out);
        for (int i = 0; i < infinity; i++) {
            const float lo = bf ? slk_f32_of_bf16((uint16_t)i) : slk_f32_of_f16((uint16_t)i);
            /* the value after the largest is where infinity would stand */
            const double hi = i + 1 == infinity ? (bf ? 0x1p128 : 65536.0)
                              : bf              ? slk_f32_of_bf16((uint16_t)(i + 1))
                                                : slk_f32_of_f16((uint16_t)(i + 1));
            const float mid = (float)(((double)lo + hi) / 2);
            in[i * per] = lo, want[i * per] = (uint16_t)i;
            in[i * per + 1] = mid, want[i * per + 1] = (uint16_t)(i + (i & 1));
            in[i * per + 2] = nextafterf(mid, INFINITY), want[i * per + 2] = (uint16_t)(i + 1);
        }
        for (int i = 0; i < n; i++)
            in[n + i] = -in[i], want[n + i] = (uint16_t)(want[i] | 0x8000);
        for (int t = 0; t < n_tables; t++) {
            const slk_narrow_fn fn = bf ? tables[t]->bf16_of_f32 : tables[t]->f16_of_f32;
            fn(out, in, 2 * n);
            for (int i = 0; i < 2 * n; i++)
                if (out[i] != want[i])
                    fail_msg("%s of %.9g: 0x%04x, expected 0x%04x", bf ? "bf16" : "f16", (double)in[i], out[i],
                             want[i]);
            const float odd[5] = {NAN, -NAN, INFINITY, 3.4e38f, slk_f32_of_bits(0x7f800001u)};
            uint16_t h[5];
            fn(h, odd, 5);
            assert_true((h[0] & 0x7fff) > infinity && (h[1] & 0x7fff) > infinity && (h[4] & 0x7fff) > infinity);
            assert_true(h[2] == infinity);
            assert_true(h[3] == (bf ? 0x7f80 : 0x7c00));
        }
        free(in), free(want), free(out);
    }
}

static void test_dot_axpy(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 59;
    for (int t = 0; t < n_tables; t++)
        for (int n = 0; n < 600; n = n < 150 ? n + 1 : n + 61) {
            float *a = test_normals(&rng, (size_t)n, 1), *b = test_normals(&rng, (size_t)n, 1),
                  *y = test_alloc((size_t)n * sizeof *y);
            double sum = 0, size = 0;
            for (int i = 0; i < n; i++)
                y[i] = b[i], sum += (double)a[i] * b[i], size += fabs((double)a[i] * b[i]);
            assert_true(fabs(tables[t]->dot(a, b, n) - sum) <= 8 * 0x1p-24 * size);
            tables[t]->axpy(0.37f, a, y, n);
            for (int i = 0; i < n; i++)
                assert_true(y[i] == fmaf(0.37f, a[i], b[i]));
            free(a), free(b), free(y);
        }
}

static void test_gather(void **state) {
    (void)state;
    uint16_t src[10 * 7], dst[4 * 6];
    for (int i = 0; i < 70; i++)
        src[i] = (uint16_t)i;
    memset(dst, 0xff, sizeof dst);
    const int32_t index[4] = {9, 0, 3, 3};
    slk_gather_rows(dst, 6 * 2, src, 7 * 2, index, 4, 5 * 2);
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 6; i++)
            assert_int_equal(dst[r * 6 + i], i < 5 ? index[r] * 7 + i : 0xffff);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_widen_all), cmocka_unit_test(test_narrow),
                                       cmocka_unit_test(test_dot_axpy), cmocka_unit_test(test_gather)};
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
