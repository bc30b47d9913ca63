/* tidal_rig.h - the embedded model, driven step by step: batches of any stages, logits of all rows, taps. */
#ifndef SLUICE_TEST_TIDAL_RIG_H
#define SLUICE_TEST_TIDAL_RIG_H

#include "sl_test.h"

#include "engine/engine.h"
#include "sl_error.h"

enum { RIG_VOCAB = 4096, RIG_SETS = 16 };

static const char rig_text[] = "The captain looked at the sea for a long time before he spoke. The wind had fallen in "
                               "the night, and the ship lay still upon "
                               "the water, with all her sails hanging down and the men sitting about the deck in the "
                               "heat of the morning. There was nothing to "
                               "be done but to wait for the wind, he said, and he had waited for it before, in worse "
                               "places than this one, with less water in "
                               "the casks and fewer hands to pump. Nobody answered him. The boy went on with his work, "
                               "and the old man at the wheel, who had "
                               "nothing to steer by, went on holding it, because he had held it since the evening and "
                               "had not been told to let it go. Towards "
                               "noon a bird came over from the east and settled on the yard, and the captain looked at "
                               "the bird for a long time before he spoke.";

/* An engine on models/tiny (attention sets given as "a=b c=d"), or the error it was refused with in text. */
static inline sluice_engine *rig_try(const char *sets, char *text, size_t cap) {
    static char lines[RIG_SETS][512];
    const char *list[RIG_SETS];
    char copy[1024], *save = NULL;
    sluice_error error = {0};
    sluice_engine *e = NULL;
    int n = 0;
    snprintf(lines[n++], 512, "model.path=%s/models/tiny", getenv("SLUICE_SOURCE"));
    snprintf(lines[n++], 512, "plugins.path=%s/plugins", getenv("SLUICE_BUILD"));
    snprintf(lines[n++], 512, "engine.threads=2");
    snprintf(lines[n++], 512, "engine.max_context=1024");
    snprintf(copy, sizeof copy, "%s", sets);
    for (char *p = strtok_r(copy, "|", &save); p != NULL; p = strtok_r(NULL, "|", &save))
        snprintf(lines[n++], 512, "%s", p);
    for (int i = 0; i < n; i++)
        list[i] = lines[i];
    sluice_options options = {.sets = list, .n_sets = n};
    if (sluice_open(&options, &e, &error) < 0) {
        snprintf(text, cap, "%s", error.text);
        return NULL;
    }
    return e;
}

static inline sluice_engine *rig_open(const char *sets) {
    char text[1024];
    sluice_engine *e = rig_try(sets, text, sizeof text);
    if (e == NULL)
        fail_msg("%s: %s", sets, text);
    return e;
}

/* Tokens of the text, repeated until there are n of them. */
static inline void rig_tokens(sluice_engine *e, int32_t *out, int64_t n) {
    int32_t some[1024];
    int64_t have = sluice_tokenize(e, rig_text, strlen(rig_text), SLUICE_ADD_SPECIAL, some, 1024, NULL);
    assert_true(have > 100 && have <= 1024);
    for (int64_t i = 0; i < n; i++)
        out[i] = some[i % have];
}

/* ---- steps ----------------------------------------------------------------------------------------------------- */

typedef struct rig_rows {
    int32_t seq;
    int64_t n_past;
    uint32_t stage;
    const int32_t *token;
    const int32_t *parent; /* of a tree; NULL: a chain for VERIFY, else none */
    int32_t n;
} rig_rows;

static inline int32_t rig_seq(sluice_engine *e) {
    sluice_session *s;
    assert_int_equal(sluice_session_open(e, &s, NULL), SLUICE_OK);
    assert_int_equal(sli_network_seq_grow(&e->target, s->id, 1000, NULL), SL_OK);
    return s->id;
}

/* One step over all of `rows`; logits [rows of the step, vocab] or NULL; every row is committed. */
static inline void rig_step(sluice_engine *e, const rig_rows *rows, int n, const sli_pass *how, float *logits) {
    static int32_t path[1024], all[1024], chain[SL_MAX_TREE_NODES];
    static sl_tree trees[16];
    int32_t begin[17] = {0}, next[16];
    sli_batch *b = &e->work_batch;
    SL_ERROR(err);
    sli_batch_clear(b, 0, ++e->target.step);
    for (int32_t i = 0; i < SL_MAX_TREE_NODES; i++)
        chain[i] = i - 1;
    for (int i = 0; i < n; i++) {
        const rig_rows *r = &rows[i];
        trees[i] = (sl_tree){.struct_size = SL_SIZE(sl_tree),
                             .token = r->token,
                             .parent = r->parent != NULL ? r->parent : chain,
                             .n_nodes = r->n};
        sli_batch_add(b, r->seq, r->n_past, r->stage, r->token, r->n, r->stage == SL_STAGE_VERIFY ? &trees[i] : NULL,
                      NULL);
        begin[i + 1] = begin[i] + r->n;
        next[i] = -1;
        for (int32_t k = 0; k < r->n; k++)
            path[begin[i] + k] = k, all[begin[i] + k] = begin[i] + k;
    }
    sli_pass pass = how != NULL ? *how : (sli_pass){.batch = NULL};
    pass.batch = &b->view;
    sli_engine_step_begin(e);
    if (sli_network_begin(&e->target, &b->view, &err) < 0 || sli_network_forward(&e->target, &pass, &err) < 0 ||
        (logits != NULL && sli_network_head(&e->target, all, begin[n], logits, &err) < 0))
        fail_msg("%s", err.text);
    sl_commit commit = {SL_SIZE(sl_commit), &b->view, begin, path, next};
    assert_int_equal(sli_network_commit(&e->target, &commit, &err), SL_OK);
    sli_engine_step_end(e);
}

/* A sequence with the first n tokens as its prompt. */
static inline int32_t rig_prompt(sluice_engine *e, const int32_t *token, int32_t n) {
    int32_t seq = rig_seq(e);
    rig_step(e, &(rig_rows){seq, 0, SL_STAGE_PREFILL, token, NULL, n}, 1, NULL, NULL);
    return seq;
}

/* Logits [n, vocab] of n tokens decoded one by one. */
static inline void rig_decode(sluice_engine *e, int32_t seq, int64_t n_past, const int32_t *token, int32_t n,
                              float *logits) {
    for (int32_t i = 0; i < n; i++)
        rig_step(e, &(rig_rows){seq, n_past + i, SL_STAGE_DECODE, token + i, NULL, 1}, 1, NULL,
                 logits + (int64_t)i * RIG_VOCAB);
}

static inline void rig_cut(sluice_engine *e, int32_t seq, int64_t n) {
    assert_int_equal(sli_network_seq_truncate(&e->target, seq, n, NULL), SL_OK);
}

static inline int rig_same(const float *a, const float *b, int64_t rows) {
    return memcmp(a, b, sizeof *a * (size_t)(rows * RIG_VOCAB)) == 0;
}

#endif
