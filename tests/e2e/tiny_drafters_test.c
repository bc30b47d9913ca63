/* Drafts change nothing but the number of steps: greedy tokens of the embedded model with each drafter equal the golden
 * ones, one prompt alone and five together, and the drafts are accepted as they deserve. */
#include "e2e.h"

static e2e_prompts prompts;
static char draft_is_target[PATH_MAX + 32], draft_is_random[PATH_MAX + 32];

static sluice_stats run(const char *what, const char *const *sets) {
    sluice_engine *engine = e2e_open("models/tiny", sets);
    e2e_check_greedy(what, engine, prompts.prompt, prompts.n, 1);
    sluice_stats one;
    sluice_get_stats(engine, &one);
    e2e_check_greedy(what, engine, prompts.prompt, prompts.n, 5);
    sluice_stats all;
    sluice_get_stats(engine, &all);
    /* what was drafted for a sequence depends on that sequence alone */
    assert_int_equal(all.drafted, 2 * one.drafted);
    assert_int_equal(all.accepted, 2 * one.accepted);
    assert_int_equal(all.lossless, 1);
    int64_t drafted = 0, accepted = 0;
    for (int i = 0; i < SLUICE_MAX_DEPTH; i++) {
        drafted += all.drafted_by_depth[i];
        accepted += all.accepted_by_depth[i];
    }
    assert_int_equal(drafted, all.drafted); /* chains */
    assert_int_equal(accepted, all.accepted);
    sluice_close(engine);
    return one;
}

static int64_t decoded(void) {
    int64_t n = 0;
    for (int i = 0; i < prompts.n; i++)
        n += prompts.prompt[i].n_greedy;
    return n;
}

static void test_prompt_lookup(void **state) {
    (void)state;
    sluice_stats s = run("prompt_lookup", SETS("speculation.plugin=prompt_lookup"));
    assert_true(s.accepted > 0 && s.accepted < s.drafted);
    assert_true(s.steps < decoded());
    sluice_stats few = run("prompt_lookup, 2 tokens", SETS("speculation.plugin=prompt_lookup", "speculation.num_pred=2",
                                                           "speculation.match=latest", "speculation.full_window=no"));
    assert_true(few.accepted > 0 && few.drafted_by_depth[1] > 0);
    assert_int_equal(few.drafted_by_depth[2], 0);
}

static void test_draft_is_target(void **state) {
    (void)state;
    sluice_stats s = run("sps, draft is the target", SETS("speculation.plugin=sps", "speculation.gamma=4", draft_is_target));
    assert_true(s.drafted > 0);
    assert_int_equal(s.accepted, s.drafted);
    assert_true(s.steps < decoded() / 4);
}

static void test_draft_is_random(void **state) {
    (void)state;
    sluice_stats s = run("sps, random draft", SETS("speculation.plugin=sps", "speculation.gamma=3", draft_is_random));
    assert_true(s.drafted > 100);
    assert_true(s.accepted * 20 < s.drafted);
}

static void test_heuristic_schedule(void **state) {
    (void)state;
    sluice_stats s = run("sps, heuristic", SETS("speculation.plugin=sps", "speculation.schedule=heuristic", draft_is_target));
    assert_true(s.drafted > 0);
    assert_int_equal(s.accepted, s.drafted);
}

/* Trees; what one prompt taught drafts for the next. */
static void test_token_recycling(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("speculation.plugin=token_recycling", "speculation.cut=16"));
    e2e_check_greedy("token_recycling", e, prompts.prompt, prompts.n, 5);
    e2e_check_greedy("token_recycling", e, prompts.prompt, prompts.n, 1);
    sluice_stats s;
    sluice_get_stats(e, &s);
    assert_true(s.accepted > 0 && s.accepted < s.drafted);
    assert_true(s.steps < 2 * decoded());
    int64_t accepted = 0;
    for (int i = 0; i < SLUICE_MAX_DEPTH; i++) {
        assert_true(s.accepted_by_depth[i] <= s.drafted_by_depth[i]);
        accepted += s.accepted_by_depth[i];
    }
    assert_int_equal(accepted, s.accepted);
    sluice_close(e);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    snprintf(draft_is_target, sizeof draft_is_target, "draft.model.path=%s", e2e_path("models/tiny"));
    snprintf(draft_is_random, sizeof draft_is_random, "draft.model.path=%s", e2e_path("tests/data/random_draft"));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_lookup),
        cmocka_unit_test(test_draft_is_target),
        cmocka_unit_test(test_draft_is_random),
        cmocka_unit_test(test_heuristic_schedule),
        cmocka_unit_test(test_token_recycling),
    };
    return cmocka_run_group_tests_name("tiny_drafters", tests, set_up, tear_down);
}
