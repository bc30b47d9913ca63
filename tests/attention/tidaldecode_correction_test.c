/* tidaldecode's cache correction in the engine: corrected rows are those that a dense pass writes, bit by bit; forks
 * keep their own; cuts and endings in the middle of it; drafts beside it. */
#include "tidal_rig.h"

enum { LAYERS = 6, K = 2, D = 64, PROMPT = 60, MAX_N = 700, ROW = K * D, LAYER_FLOATS = 2 * MAX_N * ROW };

#define SPARSE "attention.plugin=tidaldecode|attention.token_budget=32|attention.reselect_layers=4|"
#define CORRECTED SPARSE "attention.correction_period=256|attention.correction_chunk=64|"

static int32_t text[1000];
static double temperature; /* drafts of drawn text are mostly wrong */
static float ours[LAYERS][LAYER_FLOATS], dense[LAYERS][LAYER_FLOATS];

static sluice_session *prompt(sluice_engine *e, int32_t n) {
    sluice_session *s;
    assert_int_equal(sluice_session_open(e, &s, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_append(s, text, n, NULL), SLUICE_OK);
    return s;
}

static void generate(sluice_engine *e, sluice_session *const *s, int n_sessions, int32_t n) {
    sluice_sampling sampling;
    sluice_error err = {0};
    sluice_default_sampling(e, &sampling);
    sampling.temperature = temperature, sampling.seed = 5, sampling.max_tokens = n, sampling.ignore_eos = 1;
    if (sluice_generate(e, s, n_sessions, &sampling, 1, NULL, NULL, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
}

/* Rows [0, n) of all layers: n keys, then n values, each [K, D]. */
static void rows(sluice_engine *e, int32_t seq, int64_t n, float (*out)[LAYER_FLOATS]) {
    for (int32_t l = 0; l < LAYERS; l++) {
        const sli_store *store = e->target.layers[l].store;
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .lane = e->target.lane,
                           .buffer = out[l],
                           .end = n,
                           .bytes = 2 * n * ROW * (int64_t)sizeof(float),
                           .layer = l,
                           .seq = seq,
                           .direction = SL_COPY_EXPORT,
                           .dtype = SL_F32};
        assert_int_equal(store->api->copy_rows(store->self, &copy, NULL), SL_OK);
    }
}

/* How many leading rows of a session of n are those of a dense pass over its tokens. */
static int64_t clean(sluice_engine *e, const sluice_session *s, int64_t n) {
    static float logits[RIG_VOCAB];
    assert_in_range(n, 1, MAX_N);
    sluice_engine *plain = rig_open("attention.plugin=dense");
    sluice_session *p;
    assert_int_equal(sluice_session_open(plain, &p, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_append(p, s->tokens, n, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(p, 1, logits, NULL), SLUICE_OK);
    rows(plain, p->id, n, dense);
    rows(e, s->id, n, ours);
    sluice_close(plain);
    for (int64_t t = 0; t < n; t++)
        for (int32_t l = 0; l < LAYERS; l++)
            for (int v = 0; v < 2; v++)
                if (memcmp(ours[l] + (v * n + t) * ROW, dense[l] + (v * n + t) * ROW, sizeof(float) * ROW) != 0)
                    return t;
    return n;
}

static double counter(sluice_engine *e, const char *name);
static void collect(void *user, const char *piece, size_t length) {
    char *text_ = user;
    size_t used = strlen(text_);
    assert_true(used + length < 16384);
    memcpy(text_ + used, piece, length);
    text_[used + length] = '\0';
}
static double counter(sluice_engine *e, const char *name) {
    static char json[16384];
    char key[64];
    json[0] = '\0';
    assert_int_equal(sluice_stats_json(e, collect, json, NULL), SLUICE_OK);
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(json, key);
    assert_non_null(at);
    return atof(at + strlen(key));
}

static int take_text(void **state) {
    (void)state;
    sluice_engine *e = rig_open("attention.plugin=dense");
    rig_tokens(e, text, 1000);
    sluice_close(e);
    return 0;
}

/* The first 256 sparse steps end at token 316 (60 of prompt, the first token comes from it); behind it come the steps
 * in which the correction runs. */
static void corrected_rows_are_dense_rows(void **state) {
    (void)state;
    for (int drafts = 0; drafts < 2; drafts++) {
        char sets[512];
        temperature = drafts;
        const char *more =
            drafts ? "speculation.plugin=prompt_lookup|speculation.ngram_min=1" : "speculation.plugin=none";
        snprintf(sets, sizeof sets, SPARSE "%s", more);
        sluice_engine *e = rig_open(sets);
        sluice_session *s = prompt(e, PROMPT);
        generate(e, &s, 1, 300);
        int64_t before = clean(e, s, s->n_kv);
        assert_in_range(before, 32, PROMPT + 20); /* polluted soon behind the prompt */
        sluice_close(e);
        snprintf(sets, sizeof sets, CORRECTED "%s", more);
        e = rig_open(sets);
        s = prompt(e, PROMPT);
        generate(e, &s, 1, 257); /* the 256th step is over, the correction has begun with one chunk of 64 */
        int64_t some = clean(e, s, s->n_kv);
        if (!drafts) {
            assert_int_equal(s->n_kv, PROMPT + 256);
            assert_true(some >= PROMPT + 64 && some < PROMPT + 256);
        }
        generate(e, &s, 1, drafts ? 370 : 12);
        if (clean(e, s, s->n_kv) < PROMPT + 256)
            fail_msg("%lld of %lld rows are clean (drafts: %d)", (long long)clean(e, s, s->n_kv), (long long)s->n_kv,
                     drafts);
        assert_true(counter(e, "rows_corrected") >= 256);
        assert_true(clean(e, s, s->n_kv) < s->n_kv); /* what came meanwhile waits for the next time */
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        assert_int_equal(stats.allocs_in_steps, 0);
        assert_true(!drafts || (stats.accepted > 0 && stats.accepted < stats.drafted));
        temperature = 0;
        sluice_close(e);
    }
}

/* A second prompt behind sparse tokens was computed over polluted rows: it is corrected, too. */
static void later_prompts_are_corrected(void **state) {
    (void)state;
    sluice_engine *e = rig_open(CORRECTED);
    sluice_session *s = prompt(e, PROMPT);
    generate(e, &s, 1, 100);
    assert_int_equal(sluice_session_append(s, text + 300, 90, NULL), SLUICE_OK);
    generate(e, &s, 1, 175);
    assert_true(clean(e, s, s->n_kv) >= PROMPT + 100 + 90 + 150);
    sluice_close(e);
}

static void forks_keep_their_rows(void **state) {
    (void)state;
    static float before[LAYERS][LAYER_FLOATS];
    sluice_engine *e = rig_open(CORRECTED);
    sluice_session *s = prompt(e, PROMPT), *fork;
    generate(e, &s, 1, 250);
    assert_int_equal(sluice_session_fork(s, -1, &fork, NULL), SLUICE_OK);
    int64_t n = fork->n_kv;
    rows(e, fork->id, n, before);
    generate(e, &s, 1, 20);
    assert_true(clean(e, s, s->n_kv) >= PROMPT + 250);
    rows(e, fork->id, n, ours);
    for (int32_t l = 0; l < LAYERS; l++)
        assert_memory_equal(before[l], ours[l], sizeof(float) * 2 * (size_t)(n * ROW));
    generate(e, &fork, 1, 20); /* and has its own history */
    assert_true(clean(e, fork, fork->n_kv) >= PROMPT + 250);
    sluice_close(e);
}

/* Two sessions together; one is cut, one is closed in the middle of its correction, and another takes its id. */
static void cuts_and_ends_in_the_middle(void **state) {
    (void)state;
    sluice_engine *e = rig_open(CORRECTED);
    sluice_session *s[2] = {prompt(e, PROMPT), prompt(e, PROMPT + 10)};
    generate(e, s, 2, 258);
    assert_true(clean(e, s[0], s[0]->n_kv) < PROMPT + 256);
    assert_int_equal(sluice_session_truncate(s[0], 150, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_append(s[0], text + 500, 40, NULL), SLUICE_OK);
    sluice_session_close(s[1]);
    s[1] = prompt(e, 33);
    generate(e, s, 2, 30);
    assert_int_equal(memcmp(s[1]->tokens, text, 33 * sizeof *text), 0);
    assert_true(clean(e, s[1], 33) == 33);
    assert_true(clean(e, s[0], s[0]->n_kv) >= 150);
    generate(e, s, 1, 240); /* the next correction of what is left of it */
    assert_true(clean(e, s[0], s[0]->n_kv) >= 190 + 30);
    sluice_close(e);
}

static void refused(const char *sets, const char *says) {
    char why[1024];
    sluice_engine *e = rig_try(sets, why, sizeof why);
    if (e != NULL || strstr(why, says) == NULL)
        fail_msg("%s: %s", sets, e != NULL ? "was not refused" : why);
}

static void wrong_settings_are_refused(void **state) {
    (void)state;
    char sets[1024];
    refused(SPARSE "attention.correction_period=255", "neither 0 nor at least 256");
    refused(SPARSE "attention.correction_chunk=64", "for correction_period > 0 only");
    snprintf(sets, sizeof sets,
             "speculation.plugin=sps|draft.model.path=%s/models/tiny|draft.attention.plugin=tidaldecode|"
             "draft.attention.token_budget=32|draft.attention.correction_period=256",
             getenv("SLUICE_SOURCE"));
    refused(sets, "a draft model's rows are not corrected");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corrected_rows_are_dense_rows), cmocka_unit_test(later_prompts_are_corrected),
        cmocka_unit_test(forks_keep_their_rows),         cmocka_unit_test(cuts_and_ends_in_the_middle),
        cmocka_unit_test(wrong_settings_are_refused),
    };
    return cmocka_run_group_tests_name("tidaldecode_correction", tests, take_text, NULL);
}
