/* Sums, look-up and the two ways of drawing. */
#include "sl_test.h"

#include "sluice/host.h"

#include "engine/dist.h"
#include "engine/rng.h"

static sli_dist make(const int32_t *id, const double *weight, int64_t n) {
    return (sli_dist){id, weight, n, sli_dist_sum(id, weight, n)};
}

static void sums_do_not_depend_on_how_the_list_came_about(void **state) {
    (void)state;
    enum { V = 5000 };
    static double dense[V], sparse[V];
    static int32_t id[V];
    uint64_t s = 5;
    for (int round = 0; round < 50; round++) {
        int n = 0;
        for (int i = 0; i < V; i++) {
            dense[i] = test_uniform(&s) < 0.5 ? 0 : exp(20 * test_uniform(&s) - 10);
            if (dense[i] > 0 || test_uniform(&s) < 0.1)
                id[n] = i, sparse[n++] = dense[i];
        }
        sli_dist a = make(NULL, dense, V), b = make(id, sparse, n);
        assert_true(a.sum == b.sum);
        double naive = 0;
        for (int i = 0; i < V; i++)
            naive += dense[i];
        assert_true(fabs(a.sum / naive - 1) < 1e-12);
        for (int i = 0; i < 200; i++) {
            double u = test_uniform(&s);
            assert_int_equal(sli_dist_draw(&a, u), sli_dist_draw(&b, u));
        }
        assert_int_equal(sli_dist_find(id, n, id[n / 2]), n / 2);
        assert_int_equal(sli_dist_find(id, n, -1), -1);
        assert_int_equal(sli_dist_find(id, n, V), -1);
    }
}

static void draws_by_inverse_cdf(void **state) {
    (void)state;
    const int32_t id[] = {3, 1500, 1501, 4000};
    const double weight[] = {0, 1, 0, 3};
    sli_dist d = make(id, weight, 4);
    assert_true(d.sum == 4);
    assert_int_equal(sli_dist_draw(&d, 0), 1500); /* an id of weight 0 is never drawn, not even by u = 0 */
    assert_int_equal(sli_dist_draw(&d, 0.2499999), 1500);
    assert_int_equal(sli_dist_draw(&d, 0.25), 4000); /* strict: u S < prefix sum */
    assert_int_equal(sli_dist_draw(&d, 1 - 0x1p-53), 4000);
    /* A sum that claims more than there is: the last id of positive weight. */
    const double tail[] = {1, 1, 0, 0};
    sli_dist short_of = {id, tail, 4, 4};
    assert_int_equal(sli_dist_draw(&short_of, 0.9), 1500);
}

static void every_draw_respects_the_prefix_sums(void **state) {
    (void)state;
    enum { V = 3000 };
    static double weight[V];
    uint64_t s = 9;
    for (int i = 0; i < V; i++)
        weight[i] = exp(30 * test_uniform(&s) - 30);
    sli_dist d = make(NULL, weight, V);
    for (int i = 0; i < 20000; i++) {
        double u = i == 0 ? 1 - 0x1p-53 : test_uniform(&s);
        int32_t t = sli_dist_draw(&d, u);
        assert_true(t == 0 || !(u * d.sum < sli_dist_sum(NULL, weight, t)));
        assert_true(u * d.sum < sli_dist_sum(NULL, weight, t + 1));
    }
}

static void a_race_has_the_same_law(void **state) {
    (void)state;
    enum { N = 200000 };
    const int32_t id[] = {2, 5, 6, 900, 70000};
    const double weight[] = {1, 0, 2, 4, 1};
    sli_dist d = make(id, weight, 5);
    double count[5] = {0}, chi2 = 0;
    for (uint32_t i = 0; i < N; i++)
        count[sli_dist_find(id, 5, sli_dist_race(&d, 77, 0, i, SL_RNG_TARGET))]++;
    assert_true(count[1] == 0);
    for (int i = 0; i < 5; i++)
        chi2 += weight[i] == 0 ? 0 : pow(count[i] - N * weight[i] / 8, 2) / (N * weight[i] / 8);
    assert_true(chi2 < 30.7); /* 3 degrees of freedom, p-value 1e-6 */
    /* The winner by definition. */
    for (uint32_t position = 0; position < 1000; position++) {
        int best = -1;
        double least = 0;
        for (int i = 0; i < 5; i++) {
            double a = -log(1 - sli_rng_uniform(9, 1, position, SL_RNG_TARGET, (uint32_t)id[i])) / weight[i];
            if (weight[i] > 0 && (best < 0 || a < least))
                best = id[i], least = a;
        }
        assert_int_equal(sli_dist_race(&d, 9, 1, position, SL_RNG_TARGET), best);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_do_not_depend_on_how_the_list_came_about),
        cmocka_unit_test(draws_by_inverse_cdf),
        cmocka_unit_test(every_draw_respects_the_prefix_sums),
        cmocka_unit_test(a_race_has_the_same_law),
    };
    return cmocka_run_group_tests_name("dist", tests, NULL, NULL);
}
