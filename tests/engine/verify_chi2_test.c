/* Speculative decoding with real seeds against the exact law: chi-square of the first two tokens, for every kind of
 * tree.
 *
 * A test fails below a p-value of 1e-6. The non-centrality of an error of total variation TV is at least 4 N TV^2, so
 * with 63 degrees of freedom an error of TV is found in 99.9 % of runs from N = 37 / TV^2: 0.43 % at N = 2e6 (the long
 * run), 2.7 % at N = 5e4 (each of the 45 others). What can be computed exactly is in verify_law_test; this one proves
 * that the numbers are keyed and used as they should be. Seeds are fixed: the result is the same in every run. */
#include "toy.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHARE 10 /* sanitizers are slow: a tenth of the steps */
#else
#define SHARE 1
#endif

#define N(array) (sizeof(array) / sizeof *(array))

/* Quantile of chi-square at 1 - 1e-6 (Wilson and Hilferty); 131.7 for 63 degrees of freedom. */
static double bound(int freedom) {
    double v = 2.0 / (9 * freedom);
    return freedom * pow(1 - v + 4.7534 * sqrt(v), 3);
}

/* Chi-square of counts against probabilities, over its bound; cells that expect less than 10 are pooled. A count where
 * the probability is 0 is infinitely bad. */
static double badness(const double *count, const double *probability, int n_cells, double total) {
    double chi2 = 0, pooled_p = 0, pooled = 0;
    int freedom = -1;
    for (int i = 0; i < n_cells; i++) {
        double expected = total * probability[i];
        if (probability[i] == 0) {
            if (count[i] > 0)
                return INFINITY;
        } else if (expected < 10) {
            pooled_p += probability[i];
            pooled += count[i];
        } else {
            chi2 += pow(count[i] - expected, 2) / expected;
            freedom++;
        }
    }
    if (total * pooled_p >= 10) {
        chi2 += pow(pooled - total * pooled_p, 2) / (total * pooled_p);
        freedom++;
    }
    return chi2 / bound(freedom);
}

/* how must be the one that random reads its seed from. */
static double measure(toy_run *run, sli_sampling *how, int n) {
    int32_t vocab = run->toy->vocab, text[16] = {2, 1};
    double count[TOY_V * TOY_V] = {0}, probability[TOY_V * TOY_V], p[TOY_V], p2[TOY_V];
    for (int i = 0; i < n; i++) {
        how->seed.seed = (uint64_t)i * 0x9e3779b97f4a7c15u;
        int32_t emitted = toy_step(run, text, 2);
        if (emitted < 2)
            toy_step(run, text, 3);
        count[text[2] * vocab + text[3]]++;
    }
    toy_p(run->toy, how, text, 2, p);
    for (int32_t a = 0; a < vocab; a++) {
        text[2] = a;
        toy_p(run->toy, how, text, 3, p2);
        for (int32_t b = 0; b < vocab; b++)
            probability[a * vocab + b] = p[a] * p2[b];
    }
    return badness(count, probability, vocab * vocab, n);
}

static const sli_sampling settings[] = {
    {.temperature = 0.7}, {.temperature = 1, .top_k = 3}, {.temperature = 1, .top_p = 0.9}};

static const toy_plan plans[] = {
    {.name = "chain 1", .level = {{REP(1)}}},
    {.name = "chain 2", .level = {{REP(1)}, {REP(1)}}},
    {.name = "chain 3", .level = {{REP(1)}, {REP(1)}, {REP(1)}}},
    {.name = "REP 1", .level = {{REP(1)}, {REP(1)}}, .quirks = TOY_ADAPTIVE},
    {.name = "REP 2", .level = {{REP(2)}, {REP(1)}}},
    {.name = "REP 3", .level = {{REP(3)}, {REP(2)}}, .quirks = TOY_ADAPTIVE},
    {.name = "NOREP 1", .level = {{NOREP(1)}, {NOREP(2)}}},
    {.name = "NOREP 2", .level = {{NOREP(2)}, {NOREP(1)}}},
    {.name = "NOREP 3", .level = {{NOREP(3)}}},
    {.name = "DET 1", .level = {{DET(1)}, {DET(1)}}},
    {.name = "DET 2", .level = {{DET(2)}, {DET(2)}}},
    {.name = "DET 3", .level = {{DET(3)}, {DET(1)}}},
    {.name = "mixed 1", .level = {{REP(1), DET(1)}, {NOREP(1)}}},
    {.name = "mixed 2", .level = {{DET(1), NOREP(2)}, {REP(1)}}},
    {.name = "mixed 3", .level = {{NOREP(2), REP(1), DET(2)}}},
};

static void every_tree_has_the_law_of_plain_sampling(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 8);
    for (size_t s = 0; s < N(settings); s++)
        for (size_t p = 0; p < N(plans); p++) {
            sli_sampling how = settings[s];
            how.seed.race = p % 2;
            toy_fill_random(&t, 40 + s, 0.8, p % 3 == 0 ? NULL : &settings[s]);
            const sli_random random = sli_random_seeded(&how.seed);
            toy_run run = {&t, &plans[p], &how, &random, sli_verify, (int32_t)(p & 1), 1};
            double bad = measure(&run, &how, 50000 / SHARE);
            if (!(bad < 1))
                fail_msg("%s, setting %zu: chi-square is %g of its bound", plans[p].name, s, bad);
        }
    toy_close(&t);
}

static void a_long_run(void **state) {
    (void)state;
    static const toy_plan plan = {
        .name = "as deep and wide as it draws", .level = {{REP(2)}, {REP(2)}}, .quirks = TOY_ADAPTIVE};
    toy t;
    toy_open(&t, 8);
    toy_fill_random(&t, 77, 0.8, NULL);
    sli_sampling how = settings[0];
    const sli_random random = sli_random_seeded(&how.seed);
    toy_run run = {&t, &plan, &how, &random, sli_verify, SLI_FORM_A, 1};
    double bad = measure(&run, &how, 2000000 / SHARE);
    if (!(bad < 1))
        fail_msg("chi-square is %g of its bound", bad);
    toy_close(&t);
}

/* ---- numbers that are not independent must be caught ------------------------------------------------------------- */

static double shared_number(void *ctx, uint32_t position) {
    return sli_rng_uniform(((sli_seed *)ctx)->seed, 0, position, 0, 0);
}
static int accept_shared(void *ctx, uint32_t position, uint32_t child, double p, double q) {
    (void)child;
    return sli_accepts(shared_number(ctx, position), p, q);
}
static int accept_own(void *ctx, uint32_t position, uint32_t child, double p, double q) {
    return sli_accepts(sli_rng_uniform(((sli_seed *)ctx)->seed, 0, position, SL_RNG_ACCEPT, child), p, q);
}
/* The residual shares the number of the test; or the draft does. */
static int32_t draw_residual_shared(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d) {
    double own = sli_rng_uniform(((sli_seed *)ctx)->seed, 0, position, purpose, child);
    return sli_dist_draw(d, purpose == SL_RNG_RESIDUAL ? shared_number(ctx, position) : own);
}
static int32_t draw_draft_shared(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d) {
    double own = sli_rng_uniform(((sli_seed *)ctx)->seed, 0, position, purpose, child);
    return sli_dist_draw(d, purpose == SL_RNG_DRAFT ? shared_number(ctx, position + child) : own);
}
static int32_t draw_own(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d) {
    return sli_dist_draw(d, sli_rng_uniform(((sli_seed *)ctx)->seed, 0, position, purpose, child));
}

static void numbers_used_twice_are_caught(void **state) {
    (void)state;
    const struct {
        sli_random random;
        toy_plan plan;
        int caught;
    } cases[] = {
        {{NULL, accept_own, draw_own}, {.name = "independent numbers", .level = {{REP(2)}}}, 0},
        {{NULL, accept_shared, draw_residual_shared}, {.name = "test and residual share one", .level = {{REP(1)}}}, 1},
        {{NULL, accept_shared, draw_draft_shared}, {.name = "draft and test share one", .level = {{REP(1)}}}, 1},
        {{NULL, accept_shared, draw_own}, {.name = "all tests share one", .level = {{REP(3)}}}, 1},
    };
    toy t;
    toy_open(&t, 8);
    toy_fill_random(&t, 40, 0.8, NULL);
    for (size_t i = 0; i < N(cases); i++) {
        sli_sampling how = settings[0];
        sli_random random = cases[i].random;
        random.ctx = &how.seed;
        toy_run run = {&t, &cases[i].plan, &how, &random, sli_verify, SLI_FORM_A, 1};
        double bad = measure(&run, &how, 200000);
        if ((bad >= 1) != cases[i].caught)
            fail_msg("%s: chi-square is %g of its bound", cases[i].plan.name, bad);
    }
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tree_has_the_law_of_plain_sampling),
        cmocka_unit_test(a_long_run),
        cmocka_unit_test(numbers_used_twice_are_caught),
    };
    return cmocka_run_group_tests_name("verify_chi2", tests, NULL, NULL);
}
