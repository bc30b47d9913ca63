/* shadowkv in the engine: equal to dense when it keeps everything; when it does not, its tokens depend on nothing but
 * the text; later prompts, forks and cuts; what it holds by the ledger is what it said. */
#include "e2e.h"

#include "engine/engine.h"

enum { N_PROMPTS = 5, N_PROMPT = 240, N_TOKENS = 16 };

#define SHADOW "kvcache.plugin=shadowkv", "kvcache.min_prompt=0", "engine.validate=yes"
#define WHOLE SHADOW, "kvcache.rank=4096", "kvcache.sparse_budget=4096", "kvcache.outlier_chunks=3"
#define LOSSY SHADOW, "kvcache.rank=24", "kvcache.sparse_budget=32", "kvcache.outlier_chunks=3"

static e2e_prompt prompts[N_PROMPTS]; /* of different lengths around N_PROMPT */
static int32_t ids[N_PROMPTS][N_PROMPT + 8 * N_PROMPTS];
static int32_t question[17]; /* a later prompt */
static char draft[PATH_MAX + 32];

static sluice_engine *opened(const char *const *sets) { return e2e_open("models/tiny", sets); }

static void tokens_of(const char *const *sets, int together, int32_t out[N_PROMPTS][N_TOKENS], sluice_stats *stats) {
    sluice_engine *e = opened(sets);
    e2e_output o[N_PROMPTS];
    sluice_sampling greedy = e2e_greedy(N_TOKENS);
    e2e_continue(e, prompts, N_PROMPTS, together, &greedy, o);
    for (int i = 0; i < N_PROMPTS; i++)
        memcpy(out[i], o[i].tokens, sizeof out[i]);
    e2e_outputs_free(o, N_PROMPTS);
    if (stats != NULL)
        sluice_get_stats(e, stats);
    sluice_close(e);
}

static int same(int32_t a[N_PROMPTS][N_TOKENS], int32_t b[N_PROMPTS][N_TOKENS]) {
    return memcmp(a, b, sizeof(int32_t) * N_PROMPTS * N_TOKENS) == 0;
}

/* ---- everything kept
 * ------------------------------------------------------------------------------------------------------ */

static void whole_is_dense(void **state) {
    (void)state;
    int32_t dense[N_PROMPTS][N_TOKENS], got[N_PROMPTS][N_TOKENS];
    sluice_stats stats;
    tokens_of(NO_SETS, 1, dense, NULL);
    tokens_of(SETS(WHOLE), 1, got, &stats);
    assert_true(same(dense, got));
    assert_int_equal(stats.allocs_in_steps, 0);
    tokens_of(SETS(WHOLE, "kvcache.svd=exact"), 5, got, &stats);
    assert_true(same(dense, got));
    assert_int_equal(stats.allocs_in_steps, 0);
    tokens_of(SETS(WHOLE, "kvcache.warm=yes", "kvcache.host_values=no", "kvcache.svd=gram"), 5, got, NULL);
    assert_true(same(dense, got));
    tokens_of(SETS(WHOLE, "speculation.plugin=prompt_lookup"), 5, got, &stats);
    assert_true(same(dense, got) && stats.accepted > 0);
    /* a prompt that is too short for factors */
    tokens_of(SETS("kvcache.plugin=shadowkv", "kvcache.min_prompt=1000"), 5, got, NULL);
    assert_true(same(dense, got));
    tokens_of(SETS(LOSSY), 1, got, NULL);
    assert_false(same(dense, got)); /* these prompts can tell */
}

/* Logits behind a later prompt, the earlier one being factored. */
static float *later_logits(const char *const *sets) {
    sluice_engine *e = opened(sets);
    sluice_session *s = e2e_session(e, prompts[0].ids, prompts[0].n_ids);
    free(e2e_logits(e, s, 1));
    assert_int_equal(sluice_session_append(s, question, 17, NULL), SLUICE_OK);
    float *logits = e2e_logits(e, s, 17);
    sluice_close(e);
    return logits;
}

static double worst(const float *a, const float *b, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabs((double)a[i] - b[i]) > most ? fabs((double)a[i] - b[i]) : most;
    return most;
}

static void later_prompts(void **state) {
    (void)state;
    sluice_engine *e = opened(NO_SETS);
    sluice_info info;
    sluice_get_info(e, &info);
    sluice_close(e);
    int64_t n = 17 * info.vocab;
    float *dense = later_logits(NO_SETS), *whole = later_logits(SETS(WHOLE)),
          *all = later_logits(SETS(WHOLE, "kvcache.prompt_select=all"));
    float *lossy = later_logits(SETS(LOSSY)),
          *chunked = later_logits(SETS(LOSSY, "engine.prefill_chunk=5", "engine.threads=2"));
    float *small_blocks = later_logits(SETS(LOSSY, "kvcache.row_block=3"));
    assert_true(worst(dense, whole, n) < 2e-3);
    assert_true(worst(dense, all, n) < 2e-3);
    assert_true(worst(dense, lossy, n) > 1e-2);
    assert_memory_equal(lossy, chunked, sizeof *lossy * (size_t)n);
    assert_memory_equal(lossy, small_blocks, sizeof *lossy * (size_t)n);
    float *const all_of_them[] = {dense, whole, all, lossy, chunked, small_blocks};
    for (int i = 0; i < 6; i++)
        free(all_of_them[i]);
}

/* ---- with loss: the same tokens in every company
 * ------------------------------------------------------------------------------ */

static void company(void **state) {
    (void)state;
    int32_t alone[N_PROMPTS][N_TOKENS], got[N_PROMPTS][N_TOKENS];
    tokens_of(SETS(LOSSY), 1, alone, NULL);
    const char *const *ways[] = {
        SETS(LOSSY, "engine.threads=2"),
        SETS(LOSSY, "engine.prefill_chunk=7"),
        SETS(LOSSY, "speculation.plugin=prompt_lookup"),
        SETS(LOSSY, "speculation.plugin=token_recycling", "speculation.cut=12"),
        SETS(LOSSY, "speculation.plugin=sps", draft),
        SETS(LOSSY, "speculation.plugin=token_recycling", "kvcache.row_block=5", "speculation.cut=12")};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (int together = i < 2 ? 5 : 1; together <= 5; together += 4) {
            sluice_stats stats;
            tokens_of(ways[i], together, got, &stats);
            if (!same(alone, got))
                fail_msg("way %zu, %d together: other tokens", i, together);
            assert_int_equal(stats.allocs_in_steps, 0);
            assert_true(i < 2 || (stats.drafted > 0 && stats.lossless == 1));
        }
}

/* ---- forks, cuts
 * ---------------------------------------------------------------------------------------------------------------- */

/* Two questions on one context, in forks, equal those of sessions that were fed all of it; what a child does its parent
 * does not see. */
static void forks(void **state) {
    (void)state;
    sluice_engine *e = opened(SETS(LOSSY));
    sluice_sampling greedy = e2e_greedy(N_TOKENS);
    sluice_error err = {0};
    sluice_session *parent = e2e_session(e, prompts[1].ids, prompts[1].n_ids), *fork;
    int64_t n = prompts[1].n_ids;
    free(e2e_logits(e, parent, 1));
    for (int i = 0; i < 3; i++) {
        e2e_output a, b;
        const int32_t *asked = question + 3 * i;
        assert_int_equal(sluice_session_fork(parent, -1, &fork, &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(fork, asked, 8, &err), SLUICE_OK);
        e2e_generate(e, &fork, 1, &greedy, 1, &a);
        sluice_session *fresh = e2e_session(e, prompts[1].ids, n);
        free(e2e_logits(e, fresh, 1));
        assert_int_equal(sluice_session_append(fresh, asked, 8, &err), SLUICE_OK);
        e2e_generate(e, &fresh, 1, &greedy, 1, &b);
        e2e_check_tokens("a question in a fork", b.tokens, b.n, a.tokens, a.n);
        /* back to the end of the context, and the same question again */
        assert_int_equal(sluice_session_truncate(fork, n, &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(fork, asked, 8, &err), SLUICE_OK);
        e2e_outputs_free(&a, 1);
        e2e_generate(e, &fork, 1, &greedy, 1, &a);
        e2e_check_tokens("asked again", b.tokens, b.n, a.tokens, a.n);
        e2e_outputs_free(&a, 1);
        e2e_outputs_free(&b, 1);
        sluice_session_close(fork);
        sluice_session_close(fresh);
    }
    assert_true(sluice_session_fork(parent, 50, &fork, &err) < 0);
    assert_non_null(strstr(err.text, "factored"));
    assert_true(sluice_session_truncate(parent, 50, &err) < 0);
    assert_non_null(strstr(err.text, "50"));
    assert_int_equal(sluice_session_truncate(parent, 0, &err), SLUICE_OK);
    sluice_close(e);
}

/* ---- memory
 * ----------------------------------------------------------------------------------------------------------------------
 */

static void memory(void **state) {
    (void)state;
    sluice_engine *e = opened(SETS(LOSSY, "engine.validate=no")); /* a checking host adds guard bytes */
    sluice_stats before, after;
    sluice_get_stats(e, &before);
    sluice_session *s = e2e_session(e, prompts[0].ids, prompts[0].n_ids);
    free(e2e_logits(e, s, 1));
    sluice_get_stats(e, &after);
    const sli_store *store = e->target.layers[0].store;
    sl_kv_quote q = {
        .struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = prompts[0].n_ids, .stage = SL_STAGE_DECODE};
    assert_int_equal(store->api->quote(store->self, &q), SL_OK);
    double held = (double)(after.bytes_kv - before.bytes_kv);
    assert_true(fabs((double)q.bytes - held) <= 0.02 * held);
    assert_int_equal(after.bytes_kv_host - before.bytes_kv_host, q.bytes_host);
    assert_true(q.bytes_host > 0);
    sluice_session_close(s);
    sluice_get_stats(e, &after);
    assert_int_equal(after.bytes_kv, before.bytes_kv);
    assert_int_equal(after.bytes_kv_host, before.bytes_kv_host);
    sluice_close(e);
}

/* ---- refused
 * -----------------------------------------------------------------------------------------------------------------------
 */

static void refused(void **state) {
    (void)state;
    sluice_error err = {0};
    e2e_open_refused("models/tiny", SETS(SHADOW, "attention.plugin=tidaldecode"), &err);
    assert_non_null(strstr(err.text, "select tokens"));
    e2e_open_refused("models/tiny", SETS(SHADOW, "kvcache.policy.plugin=snapkv"), &err);
    assert_non_null(strstr(err.text, "kv.edit"));
    e2e_open_refused("models/tiny", SETS(SHADOW, "kvcache.sparse_budget=33"), &err);
    assert_non_null(strstr(err.text, "multiple"));
    e2e_open_refused("models/tiny", SETS(SHADOW, "kvcache.warm=yes", "speculation.plugin=prompt_lookup"), &err);
    assert_non_null(strstr(err.text, "warm"));
    e2e_open_refused("models/tiny", SETS(SHADOW, "kvcache.verify_select=shared", "speculation.plugin=prompt_lookup"),
                     &err);
    assert_non_null(strstr(err.text, "speculation"));
    sluice_engine *e = opened(SETS(SHADOW));
    sluice_session *s = e2e_session(e, prompts[0].ids, 30);
    free(e2e_logits(e, s, 1));
    assert_true(sluice_session_save(s, e2e_temp("session"), &err) < 0);
    assert_non_null(strstr(err.text, "does not export"));
    sluice_close(e);
}

static int read_prompts(void **state) {
    (void)state;
    e2e_prompts golden;
    e2e_prompts_read("tests/data/tiny/golden.json", &golden);
    snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
    int64_t total = 0, at = 0;
    static int32_t text[8192];
    for (int i = 0; i < golden.n; i++)
        for (int64_t k = 0; k < golden.prompt[i].n_ids && total < 8192; k++)
            text[total++] = golden.prompt[i].ids[k];
    for (int i = 0; i < N_PROMPTS; i++) {
        prompts[i].name = "";
        prompts[i].ids = ids[i];
        prompts[i].n_ids = N_PROMPT + 7 * i;
        for (int64_t k = 0; k < prompts[i].n_ids; k++)
            ids[i][k] = text[at++ % total];
    }
    memcpy(question, text, sizeof question);
    e2e_prompts_free(&golden);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_is_dense), cmocka_unit_test(later_prompts),
                                       cmocka_unit_test(company),        cmocka_unit_test(forks),
                                       cmocka_unit_test(memory),         cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, read_prompts, NULL);
}
