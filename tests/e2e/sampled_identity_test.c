/* Sampling. A drafter whose drafts carry no distribution (DET) must leave sampled tokens as they are without it: random
 * numbers are keyed by what is decided, not by steps. A drafter that draws (REP) may only keep the distribution, which
 * tests of the verifier prove by enumeration; here it runs and ends properly. */
#include "e2e.h"

static e2e_prompts golden;
static e2e_prompt prompt[8]; /* the short ones of them */
static int n_prompts;

typedef struct setting {
    const char *name;
    sluice_sampling sampling;
} setting;

static const int32_t bias_ids[] = {225, 266, 18};
static const float biases[] = {1.5f, -2.0f, 0.75f};

#define COMMON .max_tokens = 32, .ignore_eos = 1
static const setting settings[] = {
    {"temperature", {.temperature = 0.8, .top_p = 1, .repeat_penalty = 1, .seed = 1, COMMON}},
    {"top_k", {.temperature = 0.8, .top_k = 20, .top_p = 1, .repeat_penalty = 1, .seed = 2, COMMON}},
    {"top_p", {.temperature = 0.7, .top_p = 0.9, .repeat_penalty = 1, .seed = 3, COMMON}},
    {"min_p", {.temperature = 1.0, .top_p = 1, .min_p = 0.05, .repeat_penalty = 1, .seed = 4, COMMON}},
    {"penalties", {.temperature = 0.6, .top_k = 40, .top_p = 0.95, .repeat_penalty = 1.1, .presence_penalty = 0.2,
                   .frequency_penalty = 0.1, .penalty_last_n = 32, .seed = 5, COMMON}},
    {"bias", {.temperature = 0.8, .top_k = 50, .top_p = 1, .repeat_penalty = 1, .bias_id = bias_ids, .bias = biases, .n_bias = 3,
              .seed = 6, COMMON}},
    {"race", {.temperature = 0.8, .top_k = 20, .top_p = 0.95, .repeat_penalty = 1, .race = 1, .seed = 7, COMMON}},
    {"greedy with penalties", {.top_p = 1, .repeat_penalty = 1.2, .penalty_last_n = -1, COMMON}},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static sluice_engine *plain, *drafted, *recycled, *drawn;

/* The prompts one by one, or all in one call, must give what plain[] gives. */
static void check_same(const char *what, sluice_engine *engine, int together, const sluice_sampling *sampling, const e2e_output *expected) {
    e2e_output got[8];
    e2e_continue(engine, prompt, n_prompts, together, sampling, got);
    for (int i = 0; i < n_prompts; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s, %d together, prompt %s", what, together, prompt[i].name);
        e2e_check_tokens(name, expected[i].tokens, expected[i].n, got[i].tokens, got[i].n);
        assert_string_equal(expected[i].text, got[i].text);
        assert_int_equal(expected[i].finish, got[i].finish);
    }
    e2e_outputs_free(got, n_prompts);
}

static void test_identity(void **state) {
    const setting *s = *state;
    e2e_output expected[8];
    sluice_stats stats;
    e2e_continue(plain, prompt, n_prompts, 1, &s->sampling, expected);
    check_same("plain", plain, n_prompts, &s->sampling, expected);
    sluice_reset_stats(drafted);
    check_same("prompt_lookup", drafted, 1, &s->sampling, expected);
    check_same("prompt_lookup", drafted, n_prompts, &s->sampling, expected);
    sluice_get_stats(drafted, &stats);
    assert_true(stats.accepted > 0 && stats.accepted < stats.drafted);
    sluice_reset_stats(recycled);
    check_same("token_recycling", recycled, n_prompts, &s->sampling, expected);
    sluice_get_stats(recycled, &stats);
    assert_true(stats.accepted > 0 && stats.accepted < stats.drafted);
    e2e_outputs_free(expected, n_prompts);
}

/* Seed and sample index make the output; nothing else does. */
static void test_seeds(void **state) {
    (void)state;
    const e2e_prompt *p = &prompt[0];
    e2e_output first, again, other_seed, other_sample;
    sluice_sampling s = settings[0].sampling;
    e2e_continue(plain, p, 1, 1, &s, &first);
    e2e_continue(plain, p, 1, 1, &s, &again);
    s.seed++;
    e2e_continue(plain, p, 1, 1, &s, &other_seed);
    s.seed--;
    s.sample = 1;
    e2e_continue(plain, p, 1, 1, &s, &other_sample);
    e2e_check_tokens("the same seed", first.tokens, first.n, again.tokens, again.n);
    assert_memory_not_equal(first.tokens, other_seed.tokens, sizeof *first.tokens * (size_t)first.n);
    assert_memory_not_equal(first.tokens, other_sample.tokens, sizeof *first.tokens * (size_t)first.n);
    assert_memory_not_equal(other_seed.tokens, other_sample.tokens, sizeof *first.tokens * (size_t)first.n);
    e2e_outputs_free(&first, 1);
    e2e_outputs_free(&again, 1);
    e2e_outputs_free(&other_seed, 1);
    e2e_outputs_free(&other_sample, 1);
}

/* Requests of one call with settings of their own give what each gives alone. */
static void test_mixed_settings(void **state) {
    (void)state;
    sluice_session *sessions[8];
    sluice_sampling sampling[8];
    e2e_output together[8], alone;
    for (int i = 0; i < n_prompts; i++) {
        sampling[i] = settings[i].sampling;
        sampling[i].max_tokens = 16 + 7 * i;
        sessions[i] = e2e_session(drafted, prompt[i].ids, prompt[i].n_ids);
    }
    e2e_generate(drafted, sessions, n_prompts, sampling, 0, together);
    for (int i = 0; i < n_prompts; i++) {
        sluice_session_close(sessions[i]);
        e2e_continue(plain, &prompt[i], 1, 1, &sampling[i], &alone);
        e2e_check_tokens(settings[i].name, alone.tokens, alone.n, together[i].tokens, together[i].n);
        assert_int_equal(together[i].n, sampling[i].max_tokens);
        e2e_outputs_free(&alone, 1);
    }
    e2e_outputs_free(together, n_prompts);
}

static void test_drawn_drafts(void **state) {
    (void)state;
    sluice_reset_stats(drawn);
    for (int i = 0; i < N_SETTINGS; i++) {
        e2e_output out[8];
        e2e_continue(drawn, prompt, n_prompts, n_prompts, &settings[i].sampling, out);
        for (int j = 0; j < n_prompts; j++) {
            assert_int_equal(out[j].n, settings[i].sampling.max_tokens);
            assert_int_equal(out[j].finish, SLUICE_FINISH_LENGTH);
            char text[4096];
            assert_int_equal(sluice_detokenize(drawn, out[j].tokens, out[j].n, text, sizeof text, NULL), out[j].length);
            assert_memory_equal(text, out[j].text, out[j].length);
        }
        e2e_outputs_free(out, n_prompts);
    }
    sluice_stats stats;
    sluice_get_stats(drawn, &stats);
    assert_int_equal(stats.lossless, 1);
    /* draft and target are one model and one distribution: every draw from it is accepted */
    assert_true(stats.drafted > 0);
    assert_int_equal(stats.accepted, stats.drafted);
}

static int set_up(void **state) {
    (void)state;
    char draft[PATH_MAX + 32];
    e2e_prompts_read("tests/data/tiny/golden.json", &golden);
    for (int i = 0; i < golden.n; i++)
        if (golden.prompt[i].n_ids < 200)
            prompt[n_prompts++] = golden.prompt[i];
    assert_int_equal(n_prompts, 4);
    snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
    plain = e2e_open("models/tiny", NO_SETS);
    drafted = e2e_open("models/tiny", SETS("speculation.plugin=prompt_lookup"));
    recycled = e2e_open("models/tiny", SETS("speculation.plugin=token_recycling", "speculation.cut=12"));
    drawn = e2e_open("models/tiny", SETS("speculation.plugin=sps", "speculation.gamma=3", draft));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    sluice_close(plain);
    sluice_close(drafted);
    sluice_close(recycled);
    sluice_close(drawn);
    e2e_prompts_free(&golden);
    return 0;
}

int main(void) {
    static struct CMUnitTest tests[N_SETTINGS + 3];
    for (int i = 0; i < N_SETTINGS; i++)
        tests[i] = (struct CMUnitTest){settings[i].name, test_identity, NULL, NULL, (void *)(uintptr_t)&settings[i]};
    tests[N_SETTINGS] = (struct CMUnitTest)cmocka_unit_test(test_seeds);
    tests[N_SETTINGS + 1] = (struct CMUnitTest)cmocka_unit_test(test_mixed_settings);
    tests[N_SETTINGS + 2] = (struct CMUnitTest)cmocka_unit_test(test_drawn_drafts);
    return cmocka_run_group_tests_name("sampled_identity", tests, set_up, tear_down);
}
