/* swift in company, through libsluice: the law of sampled drafts, the search, other techniques beside it, forks and
 * cuts, requests that follow each other. */
#include "e2e.h"

enum { N_PROMPTS = 40, N_TOKENS = 16, TOGETHER = 5 };

#define SWIFT "speculation.plugin=swift", "engine.validate=yes"
#define PLAIN "speculation.plugin=none"

static e2e_prompts prompts;

static sluice_engine *opened(const char *const *sets) { return e2e_open("models/tiny", sets); }

static void check_lossless(sluice_engine *e, sluice_stats *stats) {
    sluice_get_stats(e, stats);
    assert_int_equal(stats->allocs_in_steps, 0);
    assert_int_equal(stats->lossless, 1);
    assert_true(stats->drafted > 0);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

/* Drawn trees declared NOREP: the joint law of two tokens, 3 x 3 outcomes, against the exact one from the logits. */
static void norep_sampling_keeps_the_law(void **state) {
    (void)state;
    enum { K = 3, RUNS = 600 };
    sluice_engine *e =
        opened(SETS("speculation.plugin=swift", "speculation.stop_threshold=0", "speculation.max_draft=2"));
    const e2e_prompt *p = &prompts.prompt[0];
    sluice_info info;
    sluice_get_info(e, &info);
    int32_t token[K], second[K][K], *text = malloc(sizeof *text * (size_t)(p->n_ids + 1));
    double first_p[K], joint[K][K];
    int64_t seen[K][K] = {{0}};
    assert_non_null(text);
    memcpy(text, p->ids, sizeof *text * (size_t)p->n_ids);
    for (int a = -1; a < K; a++) { /* the three best of a row, and their probabilities among themselves */
        if (a >= 0)
            text[p->n_ids] = token[a];
        int64_t n = p->n_ids + (a >= 0);
        float *all = e2e_logits_of(e, text, n), *row = all + (n - 1) * info.vocab;
        int32_t *to = a < 0 ? token : second[a];
        double weight[K], sum = 0;
        for (int k = 0; k < K; k++) {
            to[k] = 0;
            for (int32_t v = 1; v < info.vocab; v++)
                to[k] = row[v] > row[to[k]] ? v : to[k];
            sum += weight[k] = exp(row[to[k]]);
            row[to[k]] = -INFINITY;
        }
        for (int k = 0; k < K; k++)
            *(a < 0 ? &first_p[k] : &joint[a][k]) = weight[k] / sum * (a < 0 ? 1 : first_p[a]);
        free(all);
    }
    sluice_session *prompt = e2e_session(e, p->ids, p->n_ids);
    sluice_sampling how = {
        .temperature = 1, .top_k = K, .top_p = 1, .repeat_penalty = 1, .max_tokens = 4, .ignore_eos = 1};
    sluice_reset_stats(e);
    for (int i = 0; i < RUNS; i++) {
        how.seed = (uint64_t)i + 1;
        sluice_session *fork = NULL;
        assert_int_equal(sluice_session_fork(prompt, -1, &fork, NULL), SLUICE_OK);
        assert_int_equal(sluice_generate(e, &fork, 1, &how, 1, NULL, NULL, NULL), SLUICE_OK);
        const int32_t *got = sluice_session_tokens(fork) + p->n_ids;
        int a = 0, b = 0;
        while (a < K && token[a] != got[0])
            a++;
        while (a < K && b < K && second[a][b] != got[1])
            b++;
        assert_true(a < K && b < K);
        seen[a][b]++;
        sluice_session_close(fork);
    }
    double chi2 = 0;
    for (int a = 0; a < K; a++)
        for (int b = 0; b < K; b++) {
            double expected = RUNS * joint[a][b];
            chi2 += ((double)seen[a][b] - expected) * ((double)seen[a][b] - expected) / expected;
        }
    sluice_stats stats;
    check_lossless(e, &stats);
    print_message("# chi-square %.1f with 8 degrees of freedom; %lld of %lld nodes accepted\n", chi2,
                  (long long)stats.accepted, (long long)stats.drafted);
    assert_true(stats.accepted > RUNS / 10 && chi2 < 42); /* p < 1e-6 */
    free(text);
    sluice_close(e);
}

/* ---- searching --------------------------------------------------------------------------------------------------- */

static void search_finds_a_set(void **state) {
    (void)state;
    double best[2];
    for (int again = 0; again < 2; again++) {
        sluice_engine *e =
            opened(SETS(SWIFT, "speculation.optimise=yes", "speculation.context_window=6", "speculation.max_score=1",
                        "speculation.bayes=yes", "speculation.bayes_interval=5"));
        sluice_stats stats;
        assert_int_equal(e2e_metric(e, "swift.tries"), 0);
        assert_int_equal(e2e_metric(e, "swift.skipped_attention") + e2e_metric(e, "swift.skipped_ffn"),
                         4); /* layers 1 and 3 in both halves */
        e2e_check_greedy("searching", e, prompts.prompt, 20, again ? TOGETHER : 1);
        check_lossless(e, &stats);
        double tries = e2e_metric(e, "swift.tries");
        assert_true(tries > 20);
        assert_int_equal(e2e_metric(e, "swift.tries_bayes"), floor(tries / 5));
        assert_int_equal(e2e_metric(e, "swift.skipped_attention") + e2e_metric(e, "swift.skipped_ffn"), 3); /* S */
        assert_true(e2e_metric(e, "swift.sets_kept") >= 1);
        best[again] = e2e_metric(e, "swift.best_score");
        print_message("# %.0f tries, %.0f sets kept, matchness %.2f\n", tries, e2e_metric(e, "swift.sets_kept"),
                      best[again]);
        assert_true(best[again] > 0 && best[again] <= 1);
        sluice_close(e);
    }
    /* off after the stop rule */
    sluice_engine *e = opened(SETS(SWIFT, "speculation.optimise=yes", "speculation.context_window=4",
                                   "speculation.max_opt_iter=7", "speculation.max_score=1"));
    e2e_check_greedy("searching", e, prompts.prompt, 10, 1);
    assert_int_equal(e2e_metric(e, "swift.tries"), 8);
    sluice_close(e);
    /* every third step: fewer tries of the same text */
    e = opened(SETS(SWIFT, "speculation.optimise=yes", "speculation.context_window=4", "speculation.opt_interval=3",
                    "speculation.max_score=1"));
    e2e_check_greedy("searching", e, prompts.prompt, 10, 1);
    double few = e2e_metric(e, "swift.tries");
    sluice_close(e);
    e = opened(SETS(SWIFT, "speculation.optimise=yes", "speculation.context_window=4", "speculation.max_score=1"));
    e2e_check_greedy("searching", e, prompts.prompt, 10, 1);
    assert_true(few > 0 && few * 2 < e2e_metric(e, "swift.tries"));
    sluice_close(e);
}

/* ---- company ----------------------------------------------------------------------------------------------------- */

static void beside_others(void **state) {
    (void)state;
    static const struct {
        const char *set[4];
        int identical; /* to plain decoding with the same settings */
    } company[] = {
        {{"kvcache.page=16"}, 1},
        {{"kvcache.dtype=bf16", "kvcache.page=1"}, 1},
        {{"kvcache.dtype=f16"}, 1},
        {{"quant.plugin=rtn", "quant.bits=8"}, 1},
        {{"quant.plugin=rtn", "quant.bits=4"}, 1},
        {{"attention.plugin=tidaldecode", "attention.token_budget=32", "attention.min_context=32"}, 1},
        {{"attention.plugin=tidaldecode", "attention.token_budget=32", "attention.select_heads=query"}, 1},
        {{"kvcache.policy.plugin=snapkv", "kvcache.policy.budget=24", "kvcache.policy.window=8"},
         1}, /* drops rows of prompts only */
        {{"kvcache.policy.plugin=h2o", "kvcache.policy.budget=32", "engine.deterministic=no"}, 0},
        {{"kvcache.policy.plugin=h2o", "kvcache.policy.budget=24", "kvcache.policy.window=8",
          "kvcache.policy.decode_interval=0"},
         1},
        {{"kvcache.policy.plugin=streaming", "kvcache.policy.budget=32", "engine.deterministic=no"}, 0},
    };
    enum { N = 5, LONG = 30 };
    for (size_t i = 0; i < sizeof company / sizeof *company; i++) {
        const char *plain[8] = {PLAIN}, *swift[16] = {SWIFT, "speculation.stop_threshold=0.2", "speculation.topk=3"};
        int n_plain = 1, n_swift = 4;
        for (int j = 0; j < 4 && company[i].set[j] != NULL; j++)
            plain[n_plain++] = swift[n_swift++] = company[i].set[j];
        e2e_output expected[N], got[N];
        sluice_sampling how = e2e_greedy(LONG);
        sluice_engine *e = opened(plain);
        e2e_continue(e, prompts.prompt, N, TOGETHER, &how, expected);
        sluice_close(e);
        swift[n_swift++] = "speculation.optimise=yes", swift[n_swift++] = "speculation.context_window=8";
        e = opened(swift);
        for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
            e2e_continue(e, prompts.prompt, N, together, &how, got);
            for (int j = 0; j < N; j++)
                if (company[i].identical)
                    e2e_check_tokens(company[i].set[0], expected[j].tokens, expected[j].n, got[j].tokens, got[j].n);
                else
                    assert_int_equal(got[j].n, LONG);
            e2e_outputs_free(got, N);
        }
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        assert_int_equal(stats.allocs_in_steps, 0);
        assert_true(stats.drafted > 0);
        print_message("# %s: %.0f tries, %.0f refused\n", company[i].set[0], e2e_metric(e, "swift.tries"),
                      e2e_metric(e, "swift.tries_refused"));
        assert_true(e2e_metric(e, "swift.tries") + e2e_metric(e, "swift.tries_refused") > 0);
        e2e_outputs_free(expected, N);
        sluice_close(e);
    }
}

/* Forks and cuts in the middle of a text, requests that follow each other in one session, a context that gets full. */
static void forks_and_cuts(void **state) {
    (void)state;
    enum { FIRST = 11, SECOND = 23, CUT = 5 };
    int32_t expected[2][128];
    for (int pass = 0; pass < 2; pass++) {
        sluice_engine *e = opened(pass == 0 ? SETS(PLAIN, "engine.max_context=64")
                                            : SETS(SWIFT, "engine.max_context=64", "speculation.stop_threshold=0",
                                                   "speculation.optimise=yes", "speculation.context_window=3"));
        const e2e_prompt *p = &prompts.prompt[3];
        sluice_session *s = e2e_session(e, p->ids, p->n_ids), *fork = NULL;
        e2e_output o[2];
        sluice_sampling how = e2e_greedy(FIRST);
        e2e_generate(e, &s, 1, &how, 1, o);
        e2e_outputs_free(o, 1);
        assert_int_equal(sluice_session_fork(s, sluice_session_length(s) - 2, &fork, NULL), SLUICE_OK);
        assert_int_equal(sluice_session_truncate(s, sluice_session_length(s) - CUT, NULL), SLUICE_OK);
        assert_int_equal(sluice_session_append(s, p->ids, 3, NULL), SLUICE_OK);
        how.max_tokens = SECOND;
        e2e_generate(e, (sluice_session *const[]){s, fork}, 2, &how, 1, o);
        e2e_outputs_free(o, 2);
        how.max_tokens = -1; /* until the context is full */
        e2e_generate(e, (sluice_session *const[]){fork, s}, 2, &how, 1, o);
        e2e_outputs_free(o, 2);
        for (int i = 0; i < 2; i++) {
            const sluice_session *one = i ? fork : s;
            int64_t n = sluice_session_length(one);
            assert_int_equal(n, 64);
            if (pass == 0)
                memcpy(expected[i], sluice_session_tokens(one), sizeof(int32_t) * (size_t)n);
            else
                e2e_check_tokens(i ? "fork" : "cut", expected[i], n, sluice_session_tokens(one), n);
        }
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
        cmocka_unit_test(norep_sampling_keeps_the_law),
        cmocka_unit_test(search_finds_a_set),
        cmocka_unit_test(beside_others),
        cmocka_unit_test(forks_and_cuts),
    };
    return cmocka_run_group_tests_name("swift_company", tests, set_up, tear_down);
}
