/* The quantiser of kivi: the sheet's invariants. */
#include "sl_minmax.c"

#include "half.h"
#include "sl_test.h"

enum { N = 128, D = 64 };

static void random_group(uint64_t *rng, float *x, int64_t n, float middle, float spread) {
    for (int64_t i = 0; i < n; i++)
        x[i] = middle + spread * test_normal(rng);
}

/* |x - x^| <= s / 2, and what the rounding of m and s to f16 adds: the rows above m + most s are cut to it, those below
 * m to m. A group of values that codes can tell keeps its codes, s and m when it is coded again. */
static void errors_are_bounded_and_codes_stable(void **state) {
    (void)state;
    uint64_t rng = 3;
    static const int bits[] = {2, 4, 8};
    for (int t = 0; t < 3000; t++) {
        float x[N], again[N];
        uint8_t code[N], second[N];
        uint16_t s, m, s2, m2;
        const int b = bits[t % 3], n = 32 << t / 3 % 3, most = (1 << b) - 1;
        random_group(&rng, x, n, 2 * test_normal(&rng), 0.1f + (float)test_uniform(&rng));
        sl_minmax_group(x, 1, n, b, code, &s, &m);
        const float scale = slk_f32_of_f16(s), low = slk_f32_of_f16(m);
        float least = x[0], largest = x[0];
        for (int i = 0; i < n; i++) {
            least = fminf(least, x[i]);
            largest = fmaxf(largest, x[i]);
            assert_true(code[i] <= most);
        }
        const float slack = fabsf(low) / 2048 + (float)most * scale / 2048 + 1e-6f;
        assert_true(fabsf(low - least) <= fabsf(least) / 2048 + 1e-6f);
        assert_true(fabsf(scale * (float)most - (largest - least)) <= (largest - least) / 2048 + 1e-6f);
        for (int i = 0; i < n; i++) {
            again[i] = (float)code[i] * scale + low;
            if (!(fabsf(again[i] - x[i]) <= scale / 2 + slack))
                fail_msg("%d bits: %g became %g, scale %g", b, (double)x[i], (double)again[i], (double)scale);
            float exact = (x[i] - low) / scale;
            exact = exact < 0 ? 0 : exact > (float)most ? (float)most : exact;
            assert_true((float)code[i] == rintf(exact));
        }
        int lowest = 0, highest = 0;
        for (int i = 0; i < n; i++)
            lowest |= code[i] == 0, highest |= code[i] == most;
        if (!lowest || !highest)
            continue; /* the rounding of m or s moved an end of the group */
        sl_minmax_group(again, 1, n, b, second, &s2, &m2);
        assert_int_equal(m, m2);
        assert_int_equal(s, s2);
        assert_memory_equal(code, second, (size_t)n);
    }
}

/* f16 as the kernels have it, for all of them and for numbers in between. */
static void halves_are_halves(void **state) {
    (void)state;
    uint64_t rng = 1;
    for (uint32_t h = 0; h < 0x10000; h++)
        if ((h & 0x7c00) != 0x7c00) {
            assert_true(sl_f32_of_f16((uint16_t)h) == slk_f32_of_f16((uint16_t)h));
            assert_true(sl_f32_of_f16(f16_of(sl_f32_of_f16((uint16_t)h))) == sl_f32_of_f16((uint16_t)h));
            float next = slk_f32_of_f16((uint16_t)h) * (1 + 0x1p-11f * (float)test_uniform(&rng)) + 1e-8f;
            if (fabsf(next) < 65500)
                assert_true(sl_f32_of_f16(f16_of(next)) == slk_f32_of_f16(slk_f16_of_f32(next)));
        }
}

static void constant_and_strange_groups_stay_finite(void **state) {
    (void)state;
    static const float sets[][4] = {
        {3.1f, 3.1f, 3.1f, 3.1f}, {0, 0, 0, 0},   {1e-9f, 2e-9f, 0, 1e-9f},           {1e6f, -1e6f, 0, 3},
        {NAN, 1, 2, 3},           {1, NAN, 2, 3}, {INFINITY, -INFINITY, 1, INFINITY}, {70000, 70000, 70000, 70000}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int b = 2; b <= 8; b *= 2) {
            uint8_t code[4];
            uint16_t s, m;
            sl_minmax_group(sets[i], 1, 4, b, code, &s, &m);
            for (int k = 0; k < 4; k++) {
                assert_true(code[k] < 1 << b);
                float x = slk_f32_of_f16(s) * (float)code[k] + slk_f32_of_f16(m);
                assert_true(isfinite(x));
                if (i < 2) /* exact up to f16 of m */
                    assert_true(fabsf(x - sets[i][k]) <= sets[i][k] / 2048);
            }
        }
}

/* unpack(pack(c)) = c, through the functions that write rows and the one that reads them. */
static void packed_rows_come_back(void **state) {
    (void)state;
    uint64_t rng = 5;
    for (int b = 2; b <= 8; b *= 2)
        for (int n = 1; n <= 32; n += 31) {
            static float x[32 * D], y[D];
            static uint8_t codes[32 * D];
            uint16_t scales[D], minima[D], s, m;
            uint8_t code[N];
            random_group(&rng, x, n * D, 0, 1);
            memset(codes, 0xff, sizeof codes);
            sl_minmax_channels(x, n, D, b, codes, scales, minima);
            for (int d = 0; d < D; d++) {
                sl_minmax_group(x + d, D, n, b, code, &s, &m);
                for (int i = 0; i < n; i++) {
                    sl_minmax_values(codes + i * D * b / 8, scales, minima, D, 1, b, y);
                    assert_true(y[d] == (float)code[i] * slk_f32_of_f16(s) + slk_f32_of_f16(m));
                }
            }
            for (int i = 0; i < n; i++) {
                sl_minmax_row(x + i * D, D, 32, b, codes, scales, minima);
                sl_minmax_values(codes, scales, minima, D, 32, b, y);
                for (int g = 0; g < D / 32; g++) {
                    sl_minmax_group(x + i * D + g * 32, 1, 32, b, code, &s, &m);
                    for (int d = 0; d < 32; d++)
                        assert_true(y[g * 32 + d] == (float)code[d] * slk_f32_of_f16(s) + slk_f32_of_f16(m));
                }
            }
        }
}

/* Mean square error falls with bits and rises with the group. */
static void errors_fall_with_bits_and_rise_with_groups(void **state) {
    (void)state;
    static double error[9][129];
    for (int b = 2; b <= 8; b *= 2)
        for (int n = 32; n <= 128; n *= 2) {
            uint64_t rng = 7;
            for (int t = 0; t < 400; t++) {
                float x[N];
                uint8_t code[N];
                uint16_t s, m;
                random_group(&rng, x, N, 0, 1);
                for (int g = 0; g < N; g += n) {
                    sl_minmax_group(x + g, 1, n, b, code, &s, &m);
                    for (int i = 0; i < n; i++)
                        error[b][n] +=
                            pow((double)x[g + i] - (double)((float)code[i] * slk_f32_of_f16(s) + slk_f32_of_f16(m)), 2);
                }
            }
        }
    for (int n = 32; n <= 128; n *= 2)
        assert_true(error[2][n] > 4 * error[4][n] && error[4][n] > 4 * error[8][n]);
    for (int b = 2; b <= 8; b *= 2)
        assert_true(error[b][32] < error[b][64] && error[b][64] < error[b][128]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_are_halves),
        cmocka_unit_test(errors_are_bounded_and_codes_stable),
        cmocka_unit_test(constant_and_strange_groups_stay_finite),
        cmocka_unit_test(packed_rows_come_back),
        cmocka_unit_test(errors_fall_with_bits_and_rise_with_groups),
    };
    return cmocka_run_group_tests_name("kivi_quant", tests, NULL, NULL);
}
