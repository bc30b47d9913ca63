/* The matrices are Hadamard matrices, and sizes split as the method's table says. */
#include "paley.c"

#include "sl_test.h"

static void test_orthogonal(void **state) {
    (void)state;
    static float a[PALEY_MAX_ORDER * PALEY_MAX_ORDER];
    int n = 0;
    for (int32_t k = 1; k <= PALEY_MAX_ORDER; k++) {
        if (!paley_exists(k)) {
            assert_int_equal(paley_fill(k, a), 0);
            continue;
        }
        n++;
        assert_int_equal(k % 4, 0);
        assert_int_equal(paley_fill(k, a), 1);
        for (int32_t i = 0; i < k; i++)
            for (int32_t j = i; j < k; j++) {
                int dot = 0;
                for (int32_t c = 0; c < k; c++)
                    dot += (int)(a[i * k + c] * a[j * k + c]);
                if (dot != (i == j ? k : 0))
                    fail_msg("order %d: rows %d and %d have the product %d", k, i, j, dot);
            }
    }
    assert_true(n > 50);
    assert_false(paley_exists(92)); /* 91 and 45 are no prime powers */
    assert_true(paley_exists(344) && paley_exists(52) && paley_exists(100) && paley_exists(28));
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        int64_t n;
        int32_t orders[5];
    } sizes[] = {{768, {12}},
                 {896, {28}},
                 {1536, {12}},
                 {3584, {28}},
                 {4864, {76}},
                 {5120, {20}},
                 {5632, {44}},
                 {6912, {12, 12, 12}},
                 {8960, {20, 28}},
                 {9728, {76}},
                 {11008, {344}},
                 {12288, {12}},
                 {13824, {12, 12, 12}},
                 {14336, {28}},
                 {17408, {68}},
                 {18944, {148}},
                 {25600, {20, 20}},
                 {27648, {12, 12, 12}},
                 {28672, {28}},
                 {29568, {12, 28, 44}},
                 {53248, {52}},
                 {96, {12}},
                 {80, {20}},
                 {72, {36}},
                 {64, {0}},
                 {1, {0}}};
    int32_t orders[PALEY_MAX_FACTORS + 1];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_true(paley_split(sizes[i].n, 0, orders));
        for (int j = 0; j < 5; j++) {
            if (orders[j] != sizes[i].orders[j])
                fail_msg("%lld: factor %d is %d, expected %d", (long long)sizes[i].n, j, orders[j], sizes[i].orders[j]);
            if (orders[j] == 0)
                break;
        }
    }
    assert_false(paley_split(5461, 0, orders));
    assert_true(paley_split(11008, 172, orders)); /* a table of order 172 is cheaper than 344 */
    assert_int_equal(orders[0], 172);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_orthogonal), cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests_name("paley", tests, NULL, NULL);
}
