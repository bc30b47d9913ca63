/* The search without a model: the Gaussian process against scikit-learn's numbers, the rules of the search, its state.
 */
#include "sl_test.h"

#include "engine/rng.h"
#include "swift_gp_golden.h"

/* The code under test is that of the package, compiled into this program. */
#include "swift_gp.c"

#include "swift_search.c"

/* ---- the Gaussian process ---------------------------------------------------------------------------------------- */

static void check_predictions(swift_gp *gp, const double *mean, const double *deviation, double eps) {
    for (int i = 0; i < GOLDEN_AT; i++) {
        double m, d;
        swift_gp_predict(gp, golden_at + i * GOLDEN_DIM, &m, &d);
        if (!(fabs(m - mean[i]) < eps) || !(fabs(d - deviation[i]) < eps))
            fail_msg("point %d: %.12g +- %.12g, expected %.12g +- %.12g", i, m, d, mean[i], deviation[i]);
        assert_true(fabs(swift_gp_bound(gp, golden_at + i * GOLDEN_DIM) - (m + 2.5 * d)) < 1e-12);
    }
}

static void process_is_scikit_learns(void **state) {
    (void)state;
    double *memory = calloc((size_t)swift_gp_size(GOLDEN_DIM, GOLDEN_N + 3), sizeof *memory);
    swift_gp gp;
    assert_non_null(memory);
    swift_gp_place(&gp, GOLDEN_DIM, GOLDEN_N + 3, memory);
    for (int i = 0; i < GOLDEN_N; i++)
        swift_gp_tell(&gp, golden_x + i * GOLDEN_DIM, golden_y[i]);
    swift_gp_fit_length(&gp, golden_fixed_length);
    assert_true(fabs(gp.likelihood - golden_fixed_likelihood) < 1e-9);
    check_predictions(&gp, golden_fixed_mean, golden_fixed_deviation, 1e-9);
    swift_gp_fit(&gp);
    assert_true(fabs(gp.likelihood - golden_fitted_likelihood) < 1e-6);
    assert_true(fabs(gp.length / golden_fitted_length - 1) < 1e-2);
    check_predictions(&gp, golden_fitted_mean, golden_fitted_deviation, 1e-3);
    free(memory);
}

static void process_of_few_or_equal_points(void **state) {
    (void)state;
    enum { D = 4, CAP = 3 };
    double memory[128] = {0}, x[D] = {1, 0, 1, 0}, mean, deviation;
    assert_true(swift_gp_size(D, CAP) <= 128);
    swift_gp gp;
    swift_gp_place(&gp, D, CAP, memory);
    for (int i = 0; i < 5; i++) { /* the same point, the same value, more often than there is room */
        swift_gp_tell(&gp, x, 0.25);
        swift_gp_fit(&gp);
        swift_gp_predict(&gp, x, &mean, &deviation);
        assert_true(fabs(mean - 0.25) < 1e-12 && deviation >= 0 && deviation < 0.2);
    }
    assert_int_equal(gp.n, CAP);
}

/* ---- the search -------------------------------------------------------------------------------------------------- */

static const swift_rules ordinary = {.max_score = 0.95,
                                     .bayes_interval = 5,
                                     .max_opt_iter = 60,
                                     .max_tolerance_iter = 1000,
                                     .seed = 1,
                                     .n_layers = 12,
                                     .n_skipped = 9,
                                     .bayes = 1};

static void *open_search(swift_search *s, const swift_rules *rules) {
    void *memory = calloc(1, (size_t)swift_search_bytes(rules));
    assert_non_null(memory);
    s->uniform = sli_rng_uniform;
    swift_search_place(s, rules, memory);
    return memory;
}

static int32_t ones(const swift_search *s, const uint8_t *z) {
    int32_t n = 0;
    for (int32_t i = 0; i < s->dim; i++)
        n += z[i];
    return n;
}

/* How much of a set agrees with one that nobody knows: the scores of a model that is easy to search. */
static double agreement(const swift_search *s, const uint8_t *z) {
    double same = 0;
    for (int32_t i = 0; i < s->dim; i++)
        same += z[i] && (i * 7) % s->dim < s->rules.n_skipped;
    return same / s->rules.n_skipped;
}

static void numbers_of_the_paper(void **state) {
    (void)state;
    static const int32_t layers[][2] = {{32, 27}, {40, 34}, {12, 9}, {6, 3}};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        assert_int_equal(swift_n_skipped(layers[i][0], 0.45), layers[i][1]);
    assert_int_equal(swift_dim(40), 76);
    swift_search s;
    swift_rules rules = {.n_layers = 40, .n_skipped = 34, .max_opt_iter = 10};
    void *memory = open_search(&s, &rules);
    uint32_t attn[40], ffn[40];
    assert_int_equal(ones(&s, s.z), 38); /* not S: the start set is what it is */
    swift_masks(s.z, 40, attn, ffn);
    for (int32_t l = 0; l < 40; l++) {
        assert_int_equal(attn[l], l % 2 == 0 || l == 39);
        assert_int_equal(ffn[l], attn[l]);
    }
    free(memory);
}

static void sets_have_s_ones_and_the_best_stays(void **state) {
    (void)state;
    swift_search s;
    swift_rules rules = ordinary;
    rules.max_score = 1;
    void *memory = open_search(&s, &rules);
    uint8_t best[64];
    uint32_t attn[12], ffn[12];
    double last = 0;
    int n_bayes = 0;
    for (int i = 0; !s.done; i++) {
        swift_search_propose(&s);
        assert_int_equal(ones(&s, s.tried), ordinary.n_skipped);
        swift_masks(s.tried, 12, attn, ffn);
        assert_true(attn[0] && ffn[0] && attn[11] && ffn[11]);
        n_bayes += (i + 1) % 5 == 0;
        assert_int_equal(s.n_bayes, n_bayes);
        memcpy(best, s.z, (size_t)s.dim);
        double score = agreement(&s, s.tried);
        uint8_t tried[64];
        memcpy(tried, s.tried, (size_t)s.dim);
        int kept = swift_search_tell(&s, score);
        assert_int_equal(kept, score > last);
        assert_true(s.best >= last);
        assert_memory_equal(s.z, kept ? tried : best, (size_t)s.dim);
        if (i == 0)
            assert_true(kept); /* any score at all replaces the start set */
        last = s.best;
    }
    assert_int_equal(s.opt_iter, 61); /* it stops when the limit is exceeded */
    assert_int_equal(s.gp.n, 61);
    free(memory);
}

static void stops_by_its_rules(void **state) {
    (void)state;
    swift_search s;
    swift_rules rules = ordinary;
    rules.max_tolerance_iter = 3;
    rules.bayes = 0;
    void *memory = open_search(&s, &rules);
    assert_int_equal(s.gp.cap, 0);
    static const double scores[] = {0.5, 0.5, 0.4, 0.3, 0.6, 0.6, 0.1, 0.1};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        assert_false(s.done);
        swift_search_propose(&s);
        swift_search_tell(&s, scores[i]); /* the better set of the fifth try forgives the misses before it */
        assert_int_equal(s.tolerance, i == 0 || i == 4 ? 0 : i < 4 ? i : i - 4);
    }
    assert_false(s.done);
    swift_search_propose(&s);
    swift_search_tell(&s, 0); /* the fourth miss: more than 3 */
    assert_true(s.done);
    free(memory);

    memory = open_search(&s, &rules);
    swift_search_propose(&s);
    swift_search_tell(&s, 0.95);
    assert_false(s.done); /* not above */
    swift_search_propose(&s);
    swift_search_tell(&s, 0.96);
    assert_true(s.done);
    free(memory);

    for (int32_t n = 0; n <= 20; n += 20) { /* nothing to choose from */
        rules.n_skipped = n;
        memory = open_search(&s, &rules);
        assert_true(s.done);
        assert_int_equal(ones(&s, s.z), n);
        free(memory);
    }
}

/* Every sub-layer comes up, about equally often. */
static void random_sets_are_uniform(void **state) {
    (void)state;
    enum { TRIES = 4000 };
    swift_search s;
    swift_rules rules = ordinary;
    rules.bayes = 0;
    rules.max_opt_iter = rules.max_tolerance_iter = TRIES;
    void *memory = open_search(&s, &rules);
    int64_t count[20] = {0};
    for (int i = 0; i < TRIES; i++) {
        swift_search_propose(&s);
        for (int32_t k = 0; k < s.dim; k++)
            count[k] += s.tried[k];
        swift_search_tell(&s, 0);
    }
    double expected = TRIES * 9.0 / 20, sigma = sqrt(expected * (1 - 9.0 / 20));
    for (int32_t k = 0; k < 20; k++)
        assert_true(fabs((double)count[k] - expected) < 5 * sigma);
    free(memory);
}

/* Best score after all tries, the mean over seeds. */
static double found(int bayes) {
    double sum = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        swift_search s;
        swift_rules rules = ordinary;
        rules.seed = seed;
        rules.bayes = bayes;
        rules.max_score = 1;
        void *memory = open_search(&s, &rules);
        while (!s.done) {
            swift_search_propose(&s);
            swift_search_tell(&s, agreement(&s, s.tried));
        }
        sum += s.best / 8;
        free(memory);
    }
    return sum;
}

static void bayes_finds_better_sets(void **state) {
    (void)state;
    double random = found(0), bayes = found(1);
    print_message("# best score after 61 tries: random %.3f, every 5th by the Gaussian process %.3f\n", random, bayes);
    assert_true(bayes > random + 0.1);
}

static void goes_on_from_its_state(void **state) {
    (void)state;
    swift_search a, b, c;
    swift_rules other = ordinary;
    other.n_skipped = 8;
    void *memory_a = open_search(&a, &ordinary), *memory_b = open_search(&b, &ordinary),
         *memory_c = open_search(&c, &other);
    for (int i = 0; i < 13; i++) {
        swift_search_propose(&a);
        swift_search_tell(&a, agreement(&a, a.tried));
    }
    int64_t n = swift_search_save(&a, NULL, 0);
    char *bytes = malloc((size_t)n);
    assert_non_null(bytes);
    assert_int_equal(swift_search_save(&a, bytes, n - 1), n);
    assert_int_equal(swift_search_save(&a, bytes, n), n);
    assert_false(swift_search_load(&c, bytes, n)); /* other S */
    assert_false(swift_search_load(&b, bytes, n - 1));
    assert_false(swift_search_load(&b, bytes, 3));
    bytes[n - 1] = 7; /* no set */
    assert_false(swift_search_load(&b, bytes, n));
    swift_search_save(&a, bytes, n);
    assert_true(swift_search_load(&b, bytes, n));
    for (int i = 0; i < 12; i++) { /* two by the Gaussian process among them */
        swift_search_propose(&a);
        swift_search_propose(&b);
        assert_memory_equal(a.tried, b.tried, (size_t)a.dim);
        assert_int_equal(swift_search_tell(&a, agreement(&a, a.tried)), swift_search_tell(&b, agreement(&b, b.tried)));
        assert_memory_equal(a.z, b.z, (size_t)a.dim);
    }
    assert_true(a.best == b.best && a.tolerance == b.tolerance && a.opt_iter == b.opt_iter);
    free(bytes);
    free(memory_a);
    free(memory_b);
    free(memory_c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(process_is_scikit_learns), cmocka_unit_test(process_of_few_or_equal_points),
        cmocka_unit_test(numbers_of_the_paper),     cmocka_unit_test(sets_have_s_ones_and_the_best_stays),
        cmocka_unit_test(stops_by_its_rules),       cmocka_unit_test(random_sets_are_uniform),
        cmocka_unit_test(bayes_finds_better_sets),  cmocka_unit_test(goes_on_from_its_state),
    };
    return cmocka_run_group_tests_name("swift_search", tests, NULL, NULL);
}
