/* token_recycling through libsluice: tokens are those of plain decoding, greedy and sampled, alone and together, with
 * any setting. */
#include "e2e.h"

enum { N_PROMPTS = 40, N_TOKENS = 16, TOGETHER = 5 };

#define RECYCLING "speculation.plugin=token_recycling", "engine.validate=yes"
#define PLAIN "speculation.plugin=none"

static e2e_prompts prompts;

static sluice_engine *opened(const char *const *sets) { return e2e_open("models/tiny", sets); }

static void check_lossless(sluice_engine *e, sluice_stats *stats) {
    sluice_get_stats(e, stats);
    assert_int_equal(stats->allocs_in_steps, 0);
    assert_int_equal(stats->lossless, 1);
    assert_true(stats->drafted > 0 && stats->accepted > 0);
}

/* ---- the same tokens
 * ------------------------------------------------------------------------------------------------------ */

static void check_greedy(const char *what, sluice_engine *e, int n, int together) {
    e2e_check_greedy(what, e, prompts.prompt, n, together);
}

static void greedy_is_plain(void **state) {
    (void)state;
    sluice_engine *e = opened(SETS(RECYCLING));
    sluice_stats stats;
    check_greedy("token_recycling", e, N_PROMPTS, 1);
    check_lossless(e, &stats);
    int64_t drafted = 0;
    for (int i = 0; i < SLUICE_MAX_DEPTH; i++)
        drafted += stats.drafted_by_depth[i];
    assert_true(drafted <= stats.drafted); /* levels, not nodes */
    assert_true(stats.steps < N_PROMPTS * (N_TOKENS - 1));
    print_message("# 40 prompts: %.2f tokens a step, %lld of %lld nodes accepted\n",
                  (double)stats.emitted / (double)stats.steps, (long long)stats.accepted, (long long)stats.drafted);
    sluice_close(e);
    e = opened(SETS(RECYCLING, "speculation.cut=24"));
    check_greedy("token_recycling", e, N_PROMPTS, TOGETHER);
    check_lossless(e, &stats);
    sluice_close(e);
}

static void sampled_is_plain(void **state) {
    (void)state;
    e2e_output plain[N_PROMPTS], got[N_PROMPTS];
    sluice_sampling how = {
        .temperature = 0.8, .top_p = 1, .repeat_penalty = 1, .max_tokens = N_TOKENS, .ignore_eos = 1, .seed = 11};
    sluice_engine *e = opened(SETS(PLAIN));
    e2e_continue(e, prompts.prompt, N_PROMPTS, TOGETHER, &how, plain);
    sluice_close(e);
    for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
        sluice_stats stats;
        e = opened(SETS(RECYCLING, together == 1 ? "speculation.cut=81" : "speculation.cut=24"));
        e2e_continue(e, prompts.prompt, N_PROMPTS, together, &how, got);
        for (int i = 0; i < N_PROMPTS; i++)
            e2e_check_tokens(prompts.prompt[i].text, plain[i].tokens, plain[i].n, got[i].tokens, got[i].n);
        check_lossless(e, &stats);
        print_message("# temperature 0.8, %d together: %lld of %lld nodes accepted\n", together,
                      (long long)stats.accepted, (long long)stats.drafted);
        e2e_outputs_free(got, N_PROMPTS);
        sluice_close(e);
    }
    e2e_outputs_free(plain, N_PROMPTS);
}

/* Every parameter away from its default. */
static void every_setting_is_plain(void **state) {
    (void)state;
    static const struct {
        const char *name, *set[3];
        int32_t depth; /* of the tree */
    } settings[] = {
        {"cut = 8", {"speculation.cut=8"}, 3},
        {"topk = 2", {"speculation.topk=2"}, 6},
        {"topk = 16 and paths", {"speculation.topk=16", "speculation.template=0 1 15 0,0 0,9 0,0,0"}, 3},
        {"prune_empty = no", {"speculation.prune_empty=no"}, 6},
        {"scope = request", {"speculation.scope=request"}, 6},
        {"update_from_prompt = yes", {"speculation.update_from_prompt=yes"}, 6},
        {"small steps", {"engine.max_rows=64", "engine.prefill_chunk=3"}, 6}, /* the engine's limit cuts the tree */
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const char *sets[5] = {RECYCLING};
        for (int j = 0; j < 2 && settings[i].set[j] != NULL; j++)
            sets[j + 2] = settings[i].set[j];
        sluice_engine *e = opened(sets);
        sluice_stats stats;
        check_greedy(settings[i].name, e, TOGETHER, TOGETHER);
        check_greedy(settings[i].name, e, 3, 1);
        check_lossless(e, &stats);
        if (stats.drafted_by_depth[settings[i].depth - 1] == 0 || stats.drafted_by_depth[settings[i].depth] != 0)
            fail_msg("%s: trees are not of depth %d", settings[i].name, settings[i].depth);
        sluice_close(e);
    }
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/prompts40.json", &prompts);
    return prompts.n == N_PROMPTS && prompts.prompt[0].n_greedy == N_TOKENS ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_plain),
        cmocka_unit_test(sampled_is_plain),
        cmocka_unit_test(every_setting_is_plain),
    };
    return cmocka_run_group_tests_name("token_recycling", tests, set_up, tear_down);
}
