/* medusa through libsluice: with lossless acceptance tokens are those of plain decoding, greedy and sampled, alone and
 * together, for random heads in every layout and with any setting; typical acceptance says that it is none. */
#include "e2e.h"

#include "tiny_heads.h"

enum { N_PROMPTS = 40, N_TOKENS = 16, TOGETHER = 5 };

#define MEDUSA "speculation.plugin=medusa", "engine.validate=yes"

static e2e_prompts prompts;
static medusa_heads heads;

static void check_lossless(sluice_engine *e) {
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_int_equal(stats.allocs_in_steps, 0);
    assert_int_equal(stats.lossless, 1);
    assert_true(stats.drafted > 0);
}

/* ---- lossless -------------------------------------------------------------------------------------------------------
 */

static void greedy_is_plain(void **state) {
    (void)state;
    const char *files[] = {heads.shared, heads.own, heads.whole, heads.near};
    for (int i = 0; i < 4; i++) {
        sluice_engine *e = e2e_open(
            "models/tiny", i == 2 ? SETS(MEDUSA, files[i], "speculation.nodes=16", "speculation.num_layers=2")
                                  : SETS(MEDUSA, files[i], i == 3 ? "speculation.nodes=64" : "speculation.nodes=16"));
        e2e_check_greedy("medusa", e, prompts.prompt, 8, 1); /* all forty: prompts40_test */
        e2e_check_greedy("medusa", e, prompts.prompt, 8, TOGETHER);
        check_lossless(e);
        sluice_close(e);
    }
}

static void sampled_is_plain(void **state) {
    (void)state;
    static const sluice_sampling how[] = {
        {.temperature = 0.8, .top_p = 1, .repeat_penalty = 1, .max_tokens = N_TOKENS, .ignore_eos = 1, .seed = 11},
        {.temperature = 1.2,
         .top_k = 30,
         .top_p = 0.9,
         .repeat_penalty = 1.1,
         .penalty_last_n = 16,
         .max_tokens = N_TOKENS,
         .ignore_eos = 1,
         .seed = 12},
        {.temperature = 0.7,
         .top_p = 0.95,
         .min_p = 0.02,
         .repeat_penalty = 1,
         .race = 1,
         .max_tokens = N_TOKENS,
         .ignore_eos = 1,
         .seed = 13},
    };
    sluice_engine *plain = e2e_open("models/tiny", SETS("speculation.plugin=none"));
    sluice_engine *drafted = e2e_open("models/tiny", SETS(MEDUSA, heads.near, "speculation.nodes=12"));
    for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
        e2e_output expected[N_PROMPTS], got[N_PROMPTS];
        int n = h == 0 ? N_PROMPTS : 6;
        e2e_continue(plain, prompts.prompt, n, TOGETHER, &how[h], expected);
        for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
            e2e_continue(drafted, prompts.prompt, n, together, &how[h], got);
            for (int i = 0; i < n; i++)
                e2e_check_tokens(prompts.prompt[i].text, expected[i].tokens, expected[i].n, got[i].tokens, got[i].n);
            e2e_outputs_free(got, n);
        }
        e2e_outputs_free(expected, n);
    }
    check_lossless(drafted);
    sluice_stats stats;
    sluice_get_stats(drafted, &stats);
    assert_true(stats.accepted > 0); /* near: heads that say what the model's head says */
    sluice_close(drafted);
    sluice_close(plain);
}

static void every_setting_is_plain(void **state) {
    (void)state;
    static const struct {
        const char *name, *set[3];
        int32_t depth; /* of the tree */
    } settings[] = {
        {"num_heads = 2", {"speculation.num_heads=2"}, 2},
        {"topk = 1", {"speculation.topk=1"}, 3},
        {"topk = 40 and paths", {"speculation.topk=40", "speculation.tree=0 1 39 0,0 0,21 0,0,0"}, 3},
        {"auto", {"speculation.tree=auto", "speculation.nodes=9"}, 3},
        {"another tree", {"speculation.tree=vicuna_13b_stage2", "speculation.nodes=128"}, 3},
        {"small steps", {"engine.max_rows=20", "engine.prefill_chunk=3"}, 2}, /* 4 nodes each: 0 00 1 */
        {"one worker of bf16", {"engine.compute=bf16", "speculation.nodes=8"}, 0},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        sluice_engine *e =
            settings[i].set[1] != NULL
                ? e2e_open("models/tiny", SETS(MEDUSA, heads.shared, settings[i].set[0], settings[i].set[1]))
                : e2e_open("models/tiny", SETS(MEDUSA, heads.shared, settings[i].set[0]));
        sluice_stats stats;
        if (settings[i].depth > 0) {
            e2e_check_greedy(settings[i].name, e, prompts.prompt, TOGETHER, TOGETHER);
            sluice_get_stats(e, &stats);
            if (stats.drafted_by_depth[settings[i].depth - 1] == 0 || stats.drafted_by_depth[settings[i].depth] != 0)
                fail_msg("%s: trees are not of depth %d", settings[i].name, settings[i].depth);
        } else { /* golden tokens are of f32: compared with plain decoding */
            e2e_output expected[TOGETHER], got[TOGETHER];
            sluice_sampling greedy = e2e_greedy(N_TOKENS);
            sluice_engine *plain = e2e_open("models/tiny", SETS(settings[i].set[0]));
            e2e_continue(plain, prompts.prompt, TOGETHER, 1, &greedy, expected);
            e2e_continue(e, prompts.prompt, TOGETHER, TOGETHER, &greedy, got);
            for (int j = 0; j < TOGETHER; j++)
                e2e_check_tokens(settings[i].name, expected[j].tokens, expected[j].n, got[j].tokens, got[j].n);
            e2e_outputs_free(expected, TOGETHER);
            e2e_outputs_free(got, TOGETHER);
            sluice_close(plain);
        }
        check_lossless(e);
        sluice_close(e);
    }
}

/* A quantised target: heads that share its output head go through the quantiser. */
static void quantised_is_plain(void **state) {
    (void)state;
    e2e_output expected[TOGETHER], got[TOGETHER];
    sluice_sampling greedy = e2e_greedy(N_TOKENS);
    sluice_engine *plain = e2e_open("models/tiny", SETS("quant.plugin=rtn", "quant.bits=8"));
    sluice_engine *drafted =
        e2e_open("models/tiny", SETS(MEDUSA, heads.near, "speculation.nodes=12", "quant.plugin=rtn", "quant.bits=8"));
    e2e_continue(plain, prompts.prompt, TOGETHER, 1, &greedy, expected);
    e2e_continue(drafted, prompts.prompt, TOGETHER, TOGETHER, &greedy, got);
    for (int j = 0; j < TOGETHER; j++)
        e2e_check_tokens("rtn", expected[j].tokens, expected[j].n, got[j].tokens, got[j].n);
    check_lossless(drafted);
    e2e_outputs_free(expected, TOGETHER);
    e2e_outputs_free(got, TOGETHER);
    sluice_close(plain);
    sluice_close(drafted);
}

/* A session that is forked, cut and given other tokens drafts nothing of its past. */
static void forks_and_cuts(void **state) {
    (void)state;
    sluice_engine *plain = e2e_open("models/tiny", NO_SETS);
    sluice_engine *drafted =
        e2e_open("models/tiny", SETS(MEDUSA, heads.near, "speculation.nodes=16", "engine.max_seqs=4"));
    sluice_engine *engines[] = {plain, drafted};
    e2e_output out[2][4];
    for (int i = 0; i < 2; i++) {
        sluice_sampling greedy = e2e_greedy(12);
        sluice_error err;
        sluice_session *s = e2e_session(engines[i], prompts.prompt[3].ids, prompts.prompt[3].n_ids), *fork = NULL;
        e2e_generate(engines[i], &s, 1, &greedy, 1, &out[i][0]);
        assert_int_equal(sluice_session_fork(s, -1, &fork, &err), SLUICE_OK); /* goes on where the parent stands */
        sluice_session *both[] = {s, fork};
        e2e_generate(engines[i], both, 2, &greedy, 1, &out[i][1]);
        assert_int_equal(sluice_session_truncate(s, prompts.prompt[3].n_ids + 5, &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(s, prompts.prompt[7].ids + 1, 3, &err), SLUICE_OK);
        e2e_generate(engines[i], &s, 1, &greedy, 1, &out[i][3]);
        sluice_session_close(fork);
        sluice_session_close(s);
    }
    for (int j = 0; j < 4; j++)
        e2e_check_tokens("forks and cuts", out[0][j].tokens, out[0][j].n, out[1][j].tokens, out[1][j].n);
    check_lossless(drafted);
    e2e_outputs_free(out[0], 4);
    e2e_outputs_free(out[1], 4);
    sluice_close(plain);
    sluice_close(drafted);
}

/* ---- typical acceptance -------------------------------------------------------------------------------------------
 */

#define TYPICAL MEDUSA, "speculation.acceptance=typical", "engine.deterministic=no", "speculation.nodes=16"

/* Greedy tokens from prompts [0, n), whatever the temperature says. */
static void check_like_greedy(const char *what, sluice_engine *e, double temperature, int n) {
    e2e_output got[N_PROMPTS];
    sluice_sampling how = e2e_greedy(N_TOKENS);
    how.temperature = temperature;
    how.seed = 5;
    e2e_continue(e, prompts.prompt, n, TOGETHER, &how, got);
    for (int i = 0; i < n; i++)
        e2e_check_tokens(what, prompts.prompt[i].greedy, N_TOKENS, got[i].tokens, got[i].n);
    e2e_outputs_free(got, n);
}

static void typical_at_its_ends(void **state) {
    (void)state;
    sluice_stats stats;
    sluice_engine *e = e2e_open("models/tiny", SETS(TYPICAL, heads.near));
    check_like_greedy("temperature 0", e, 0, N_PROMPTS);
    sluice_get_stats(e, &stats);
    assert_int_equal(stats.lossless, 0);
    assert_int_equal(stats.allocs_in_steps, 0);
    sluice_close(e);
    e = e2e_open("models/tiny",
                 SETS(TYPICAL, heads.near, "speculation.posterior_threshold=1", "speculation.posterior_alpha=1e9"));
    check_like_greedy("eps = 1", e, 0.7, 10);
    sluice_get_stats(e, &stats);
    assert_true(stats.drafted > 0);
    assert_int_equal(stats.accepted, 0); /* a token a step */
    sluice_close(e);
    e = e2e_open("models/tiny", SETS(TYPICAL, heads.shared, "speculation.posterior_threshold=0"));
    e2e_output got[1];
    sluice_sampling how = e2e_greedy(41); /* one behind the prompt, ten steps of four */
    how.temperature = 1;
    sluice_reset_stats(e);
    e2e_continue(e, prompts.prompt, 1, 1, &how, got);
    sluice_get_stats(e, &stats);
    assert_int_equal(got[0].n, 41);
    assert_int_equal(stats.steps, 10); /* whatever is drafted stays: three heads deep, and one token more */
    assert_int_equal(stats.accepted, 30);
    e2e_outputs_free(got, 1);
    sluice_close(e);
}

static void typical_is_repeatable(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS(TYPICAL, heads.near, "speculation.fast=no"));
    e2e_output first[TOGETHER], again[TOGETHER];
    sluice_sampling how = e2e_greedy(N_TOKENS);
    how.temperature = 0.9;
    how.seed = 21;
    e2e_continue(e, prompts.prompt, TOGETHER, 1, &how, first);
    e2e_continue(e, prompts.prompt, TOGETHER, TOGETHER, &how, again); /* the drafts, and so the tokens, are the same */
    int differs = 0;
    for (int i = 0; i < TOGETHER; i++) {
        e2e_check_tokens("again", first[i].tokens, first[i].n, again[i].tokens, again[i].n);
        differs |= memcmp(first[i].tokens, prompts.prompt[i].greedy, sizeof(int32_t) * N_TOKENS) != 0;
    }
    assert_true(differs); /* it was drawn */
    e2e_outputs_free(first, TOGETHER);
    e2e_outputs_free(again, TOGETHER);
    sluice_close(e);
}

/* ---- refusals -------------------------------------------------------------------------------------------------------
 */

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    medusa_setting other;
    medusa_file narrow = {.heads = 1, .blocks = 1, .hidden = 128, .vocab = TINY_VOCAB, .prefix = "", .scale = 1};
    medusa_heads_file(other, "narrow.safetensors", &narrow);
    const struct {
        const char *set[3], *words;
    } cases[] = {
        {{"engine.threads=1"}, "heads"},
        {{"speculation.heads=/nowhere.safetensors"}, "/nowhere.safetensors"},
        {{other}, "0.0.linear.weight"},
        {{heads.shared, "speculation.num_heads=4"}, "num_heads = 4"},
        {{heads.shared, "speculation.num_layers=2"}, "0.1.linear.weight"},
        {{heads.whole}, "num_layers = 1"},
        {{heads.own, "speculation.tree=auto"}, "accuracies"},
        {{heads.shared, "speculation.tree=0 0,1,1"}, "0,1,1"},
        {{heads.shared, "speculation.topk=65"}, "topk"},
        {{heads.shared, "speculation.acceptance=typical"}, "engine.deterministic"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sluice_error err;
        e2e_open_refused("models/tiny",
                         cases[i].set[1] != NULL ? SETS(MEDUSA, cases[i].set[0], cases[i].set[1])
                                                 : SETS(MEDUSA, cases[i].set[0]),
                         &err);
        if (strstr(err.text, cases[i].words) == NULL)
            fail_msg("the error does not say \"%s\": %s", cases[i].words, err.text);
    }
}

static int set_up(void **state) {
    (void)state;
    medusa_heads_write(&heads, "0.4 0.1 0.05; 0.3 0.1 0.05; 0.25 0.1 0.05");
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
        cmocka_unit_test(greedy_is_plain),        cmocka_unit_test(sampled_is_plain),
        cmocka_unit_test(every_setting_is_plain), cmocka_unit_test(quantised_is_plain),
        cmocka_unit_test(forks_and_cuts),         cmocka_unit_test(typical_at_its_ends),
        cmocka_unit_test(typical_is_repeatable),  cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests_name("medusa", tests, set_up, tear_down);
}
