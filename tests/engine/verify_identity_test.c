/* Token identity with plain decoding: greedy for every drafter, sampled with the same seed for every drafter whose
 * nodes are DET, whatever it knows. */
#include "toy.h"

#include "base/ledger.h"

enum { LENGTH = 60, PROMPT = 3 };

static const sli_sampling settings[] = {
    {.temperature = 1},
    {.temperature = 0.7, .top_k = 4},
    {.temperature = 0.9, .top_p = 0.8},
    {.temperature = 1.3, .min_p = 0.1, .seed = {.race = 1}},
    {.temperature = 0.8, .repeat_penalty = 1.3, .presence_penalty = 0.3, .frequency_penalty = 0.2, .penalty_last_n = 5},
    {.temperature = 1, .repeat_penalty = 1.2, .penalty_last_n = -1, .seed = {.race = 1}},
};

static const int32_t odd[] = {1, 7, 1};

/* All DET. */
static const toy_plan det_plans[] = {
    {.name = "nothing", .quirks = TOY_EMPTY},
    {.name = "chain of the best", .level = {{DET(1)}, {DET(1)}, {DET(1)}}},
    {.name = "tree of the best", .level = {{DET(3)}, {DET(2)}, {DET(2)}}},
    {.name = "random chain", .level = {{DET(1)}, {DET(1)}, {DET(1)}}, .quirks = TOY_RANDOM},
    {.name = "random tree", .level = {{DET(4)}, {DET(3)}, {DET(2)}}, .quirks = TOY_RANDOM},
    {.name = "duplicates", .level = {{DET_LIST(3, odd), DET(3)}, {DET(2)}}},
    {.name = "all tokens", .level = {{DET(8)}, {DET(8)}}},
    {.name = "same key", .level = {{DET(1)}, {DET(1)}, {DET(1)}}, .quirks = TOY_SAME_KEY},
};

static const toy_plan drawn_plans[] = {
    {.name = "REP", .level = {{REP(2)}, {REP(2)}, {REP(1)}}},
    {.name = "NOREP", .level = {{NOREP(3)}, {NOREP(2)}, {NOREP(1)}}},
    {.name = "mixed", .level = {{REP(1), DET(2)}, {DET(1), NOREP(2)}}},
};

#define N(array) (sizeof(array) / sizeof *(array))

static void plain(toy_run *run, int32_t *text) {
    for (int64_t n = PROMPT; n < LENGTH; n++)
        text[n] = toy_plain(run, text, n);
}

/* Returns the number of steps. The text may become longer than asked for; the engine cuts it. */
static int speculate(toy_run *run, int32_t *text) {
    int steps = 0;
    for (int64_t n = PROMPT; n < LENGTH; steps++)
        n += toy_step(run, text, n);
    return steps;
}

static void check_same(toy *t, const toy_plan *plan, const sli_sampling *how, uint64_t seed) {
    int32_t expected[LENGTH + 8] = {1, 0, 2}, got[LENGTH + 8] = {1, 0, 2};
    sli_sampling with_seed = *how;
    with_seed.seed.seed = seed;
    const sli_random random = sli_random_seeded(&with_seed.seed);
    toy_run run = {t, plan, &with_seed, &random, sli_verify, SLI_FORM_A, seed + 1};
    plain(&run, expected);
    speculate(&run, got);
    for (int i = 0; i < LENGTH; i++)
        if (got[i] != expected[i])
            fail_msg("%s, seed %d: token %d is %d, plain sampling gives %d", plan->name, (int)seed, i, got[i],
                     expected[i]);
}

static void det_drafts_do_not_change_a_token(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 8);
    for (size_t s = 0; s < N(settings); s++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            toy_fill_random(&t, 1000 + seed, 1.0, seed % 2 ? &settings[s] : NULL);
            for (size_t p = 0; p < N(det_plans); p++)
                check_same(&t, &det_plans[p], &settings[s], seed);
        }
    toy_close(&t);
}

static void greedy_is_greedy_for_every_draft(void **state) {
    (void)state;
    const sli_sampling greedy[] = {
        {.temperature = 0}, {.temperature = 0, .repeat_penalty = 1.5, .frequency_penalty = 0.3, .penalty_last_n = 6}};
    toy t;
    toy_open(&t, 8);
    for (size_t s = 0; s < N(greedy); s++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            toy_fill_random(&t, 5000 + seed, 1.0, NULL);
            if (seed % 4 == 0) /* many ties */
                for (int c = 0; c < 8; c++)
                    for (int v = 0; v < 8; v++)
                        t.target[c][v] = roundf(t.target[c][v]);
            for (size_t p = 0; p < N(det_plans); p++)
                check_same(&t, &det_plans[p], &greedy[s], seed);
            for (size_t p = 0; p < N(drawn_plans); p++)
                check_same(&t, &drawn_plans[p], &greedy[s], seed);
        }
    toy_close(&t);
}

static void an_oracle_is_always_accepted(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 8);
    toy_fill_random(&t, 3, 1.0, NULL);
    for (size_t s = 0; s <= N(settings); s++) {
        const sli_sampling greedy = {.temperature = 0}, *how = s < N(settings) ? &settings[s] : &greedy;
        int32_t text[LENGTH + 8] = {1, 0, 2}, got[LENGTH + 8] = {1, 0, 2};
        const toy_plan oracle = {.name = "oracle", .level = {{DET(1)}, {DET(1)}, {DET(1)}}, .oracle = text};
        const sli_random random = sli_random_seeded(&how->seed);
        toy_run run = {&t, &oracle, how, &random, sli_verify, SLI_FORM_A, 1};
        plain(&run, text);
        /* Three are accepted and one is added in each step; the last step may look behind the end of the known text. */
        assert_int_equal(speculate(&run, got), (LENGTH - PROMPT + 3) / 4);
        assert_memory_equal(got, text, LENGTH * sizeof *text);
    }
    toy_close(&t);
}

/* The published acceptance of a drafter that runs the same race on its own q. */
static void the_same_race_matches_as_often_as_it_should(void **state) {
    (void)state;
    enum { STEPS = 40000 };
    static const double p[4] = {.1, .2, .3, .4}, q[4] = {.5, .2, .2, .1};
    double expected = 0;
    for (int x = 0; x < 4; x++) {
        double sum = 0;
        for (int y = 0; y < 4; y++)
            sum += fmax(p[y] / p[x], q[y] / q[x]);
        expected += 1 / sum;
    }
    toy t;
    toy_open(&t, 4);
    toy_fill_known(&t);
    const toy_plan plan = {.name = "same race", .level = {{DET(1)}}, .quirks = TOY_SAME_KEY};
    sli_sampling how = {.temperature = 1, .seed = {.race = 1}};
    const sli_random random = sli_random_seeded(&how.seed);
    toy_run run = {&t, &plan, &how, &random, sli_verify, SLI_FORM_A, 1};
    int accepted = 0;
    for (how.seed.seed = 0; how.seed.seed < STEPS; how.seed.seed++) {
        int32_t text[8] = {0};
        accepted += toy_step(&run, text, 1) > 1;
    }
    double sigma = sqrt(expected * (1 - expected) / STEPS);
    assert_true(fabs((double)accepted / STEPS - expected) < 5 * sigma);
    toy_close(&t);
}

static void a_step_allocates_nothing(void **state) {
    (void)state;
    toy t;
    toy_open(&t, 8);
    toy_fill_random(&t, 3, 1.0, NULL);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    const sli_random random = sli_random_seeded(&settings[4].seed);
    for (size_t p = 0; p < N(drawn_plans); p++) {
        int32_t text[LENGTH + 8] = {1, 0, 2};
        toy_run run = {&t, &drawn_plans[p], &settings[4], &random, sli_verify, SLI_FORM_A, 1};
        speculate(&run, text);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.allocations, before.allocations);
    toy_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(det_drafts_do_not_change_a_token),
        cmocka_unit_test(greedy_is_greedy_for_every_draft),
        cmocka_unit_test(an_oracle_is_always_accepted),
        cmocka_unit_test(the_same_race_matches_as_often_as_it_should),
        cmocka_unit_test(a_step_allocates_nothing),
    };
    return cmocka_run_group_tests_name("verify_identity", tests, NULL, NULL);
}
