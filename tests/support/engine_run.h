/* engine_run.h - an engine on models/tiny for tests of plugins: opened with overrides, driven by requests or row by row,
 * and looked into: which tokens each head still holds, what attention saw. */
#ifndef SLUICE_TEST_ENGINE_RUN_H
#define SLUICE_TEST_ENGINE_RUN_H

#include "sl_test.h"

#include "engine/engine.h"
#include "sl_error.h"

static const char run_text[] =
    "Once upon a time there was a little girl who lived in a house in the woods with her mother, and every morning she "
    "went out to look for mushrooms and berries and flowers. One day she met an old man with a long white beard who sat "
    "under a tree and was mending a shoe. \"Good morning,\" said the girl, \"where is the other shoe?\" The old man looked "
    "up and laughed. \"The other shoe,\" he said, \"is on the foot of the king, and the king will not give it back until "
    "somebody tells him a story that he has not heard before. Do you know such a story?\" The girl thought for a while.";

static inline const char *run_place(const char *variable, const char *below) {
    static char slots[4][4096];
    static int next;
    char *out = slots[next++ % 4];
    const char *base = getenv(variable);
    assert_non_null(base);
    snprintf(out, sizeof slots[0], "%s/%s", base, below);
    return out;
}

/* sets: "section.key=value", NULL at the end. Returns the code; *out only when it is SLUICE_OK. */
static inline int run_try_open(const char *const *sets, sluice_engine **out, sluice_error *err) {
    char model[4200];
    const char *all[32] = {model, "engine.max_context=512", "engine.max_seqs=5", "engine.validate=yes", "sampling.temperature=0",
                           "kvcache.page=16"};
    int n = 6;
    setenv("SLUICE_PLUGIN_PATH", run_place("SLUICE_BUILD", "plugins"), 1);
    snprintf(model, sizeof model, "model.path=%s", run_place("SLUICE_SOURCE", "models/tiny"));
    for (const char *const *set = sets; *set != NULL; set++)
        if (strncmp(*set, "kvcache.plugin=", strlen("kvcache.plugin=")) == 0)
            n = 5; /* another store has no pages */
    for (; *sets != NULL && n < 32; sets++)
        all[n++] = *sets;
    sluice_options options = {.sets = all, .n_sets = n};
    return sluice_open(&options, out, err);
}

#define run_open(...) run_open_list((const char *const[]){__VA_ARGS__, NULL})
static inline sluice_engine *run_open_list(const char *const *sets) {
    sluice_engine *e = NULL;
    sluice_error err = {0};
    if (run_try_open(sets, &e, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    return e;
}

/* It is refused, and the reason contains `word`. */
#define run_refused(word, ...)                                                                                         \
    do {                                                                                                               \
        sluice_engine *refused_ = NULL;                                                                                \
        sluice_error why_ = {0};                                                                                       \
        assert_true(run_try_open((const char *const[]){__VA_ARGS__, NULL}, &refused_, &why_) < 0);                     \
        if (strstr(why_.text, word) == NULL)                                                                           \
            fail_msg("\"%s\" does not say \"%s\"", why_.text, word);                                                   \
    } while (0)

static inline sluice_session *run_session(sluice_engine *e, const int32_t *tokens, int64_t n) {
    sluice_session *s = NULL;
    sluice_error err = {0};
    if (sluice_session_open(e, &s, &err) != SLUICE_OK || sluice_session_append(s, tokens, n, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    return s;
}

static inline int64_t run_tokens(sluice_engine *e, int32_t *tokens, int64_t most) {
    int64_t n = sluice_tokenize(e, run_text, strlen(run_text), 0, tokens, most, NULL);
    assert_in_range(n, 100, 10000);
    return n < most ? n : most;
}

/* Generates n tokens for each session, greedily, all of them together. */
static inline void run_generate(sluice_engine *e, sluice_session *const *sessions, int n_sessions, int32_t n) {
    sluice_sampling p;
    sluice_error err = {0};
    sluice_default_sampling(e, &p);
    p.max_tokens = n;
    p.ignore_eos = 1;
    if (sluice_generate(e, sessions, n_sessions, &p, 1, NULL, NULL, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
}

/* Tokens behind the prompt of one session after generating n. */
static inline void run_once(sluice_engine *e, const int32_t *prompt, int64_t n_prompt, int32_t n, int32_t *out) {
    sluice_session *s = run_session(e, prompt, n_prompt);
    run_generate(e, &s, 1, n);
    memcpy(out, sluice_session_tokens(s) + n_prompt, sizeof *out * (size_t)n);
    sluice_session_close(s);
}

/* ---- looking in ------------------------------------------------------------------------------------------------------- */

/* Token indices that a head holds, ascending; returns how many. */
static inline int64_t run_held(sluice_engine *e, const sluice_session *s, int32_t layer, int32_t head, int32_t *token) {
    const sli_store *store = e->target.layers[layer].store;
    const sl_view *view;
    sli_batch_clear(&e->work_batch, 0, 0);
    sli_batch_add(&e->work_batch, s->id, s->n_kv, SL_STAGE_DECODE, NULL, 0, NULL, NULL);
    sl_rows rows = {SL_SIZE(sl_rows), &e->work_batch.view, NULL, NULL, 0, 0};
    assert_int_equal(store->api->view(store->self, e->target.lane, layer, &rows, NULL, &view), SL_OK);
    int64_t n = -1;
    for (int32_t i = 0; i < view->seqs[0]->n_segments; i++) {
        const sl_segment *g = view->seqs[0]->segments[i];
        if (head < g->head_begin || head >= g->head_begin + g->n_heads)
            continue;
        n = n < 0 ? 0 : n;
        for (int64_t k = 0; k < g->n_committed; k++)
            token[n++] = (int32_t)(g->token_index != NULL ? g->token_index[k] : g->token_base + k);
    }
    if (n < 0)
        fail_msg("no segment of head %d", head);
    return n;
}

/* Those of all heads of all layers behind one another. */
static inline int run_held_all(sluice_engine *e, const sluice_session *s, int32_t *token) {
    int n = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        for (int32_t h = 0; h < e->target.info->layers[l]->n_kv_heads; h++)
            n += (int)run_held(e, s, l, h, token + n);
    return n;
}

static inline int64_t run_bytes_kv(const sluice_engine *e) {
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    return stats.bytes_kv;
}

/* Rotated queries and keys of the last rows that were computed: [n_rows, H D] and [n_rows, K D] of each layer. */
typedef struct run_taps {
    float *q[64], *k[64];
} run_taps;

static inline void run_tap(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    run_taps *t = user;
    if (t == NULL || (point != SL_TAP_Q && point != SL_TAP_K))
        return;
    float **to = point == SL_TAP_Q ? &t->q[layer] : &t->k[layer];
    free(*to);
    *to = malloc(sizeof **to * (size_t)(n_rows * width));
    assert_non_null(*to);
    memcpy(*to, rows, sizeof **to * (size_t)(n_rows * width));
}

static inline void run_taps_free(run_taps *t) {
    for (int i = 0; i < 64; i++) {
        free(t->q[i]);
        free(t->k[i]);
    }
}

/* Computes the next n pending rows of a session, with all that follows a step. taps: NULL: nobody listens. */
static inline void run_rows(sluice_engine *e, sluice_session *s, int32_t n, uint32_t stage, run_taps *taps) {
    SL_ERROR(err);
    int32_t path[512], begin[2] = {0, n}, next = -1;
    for (int32_t i = 0; i < n; i++)
        path[i] = i;
    sli_batch_clear(&e->batch, 0, ++e->target.step);
    sli_batch_add(&e->batch, s->id, s->n_kv, stage, s->tokens + s->n_kv, n, NULL, NULL);
    e->n_prompt[0] = sli_prompt_end(s);
    sl_commit commit = {SL_SIZE(sl_commit), &e->batch.view, begin, path, &next};
    sl_status status = sli_network_seq_grow(&e->target, s->id, s->n_kv + n, &err);
    if (status >= 0)
        status = sli_network_begin(&e->target, &e->batch.view, &err);
    if (status >= 0)
        status = sli_network_forward(&e->target, &(sli_pass){.batch = &e->batch.view, .tap = run_tap, .tap_user = taps, .n_prompt = e->n_prompt},
                                     &err);
    if (status >= 0)
        status = sli_network_commit(&e->target, &commit, &err);
    s->n_kv += n;
    if (status >= 0)
        status = sli_engine_settle(e, &err);
    if (status < 0)
        fail_msg("%s", err.text);
}

/* ---- brute force --------------------------------------------------------------------------------------------------------- */

/* Adds the softmax probabilities of one query over keys key[0 .. n) to sum. */
static inline void run_softmax(const float *q, const float *const *key, int64_t n, int64_t d, double scale, double *sum) {
    double *p = malloc(sizeof *p * (size_t)n), most = -INFINITY, total = 0;
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        p[i] = 0;
        for (int64_t j = 0; j < d; j++)
            p[i] += (double)q[j] * key[i][j];
        p[i] *= scale;
        most = p[i] > most ? p[i] : most;
    }
    for (int64_t i = 0; i < n; i++)
        total += p[i] = exp(p[i] - most);
    for (int64_t i = 0; i < n; i++)
        sum[i] += p[i] / total;
    free(p);
}

/* chosen[i] in {0, 1} must be the k best of score[0 .. n); scores that differ by less than eps may change places. */
static inline void run_check_top(const double *score, int64_t n, int64_t k, const uint8_t *chosen, double eps) {
    double worst_in = INFINITY, best_out = -INFINITY;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += chosen[i];
        if (chosen[i])
            worst_in = score[i] < worst_in ? score[i] : worst_in;
        else
            best_out = score[i] > best_out ? score[i] : best_out;
    }
    assert_int_equal(count, k);
    if (worst_in < best_out - eps)
        fail_msg("a row with score %.9g stays, one with %.9g goes", worst_in, best_out);
}

#endif
