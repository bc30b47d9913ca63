/* See decide.h. */
#include "decide.h"

#include "accept.h"
#include "sl_error.h"

typedef struct tree_logits {
    const float *logits;
    int64_t vocab;
} tree_logits;

static const float *row_of(void *ctx, int32_t row) {
    const tree_logits *t = ctx;
    return t->logits + row * t->vocab;
}

sl_status sli_decide(sluice_engine *e, sluice_session *s, const float *logits, int32_t *path, int32_t *n_path,
                     int32_t *next, sl_error *err) {
    if (sli_accepts_itself(e))
        return sli_accept_draft(e, s, logits, path, n_path, next, err);
    const sli_sampling *how = &s->request->sampling;
    sli_random random = sli_random_seeded(&how->seed);
    if (s->tree == NULL) {
        sli_row row = {.logits = logits, .number = 0, .history = {.committed = s->tokens, .n_committed = s->n}};
        return sli_sampler_next(e->sampler, how, &row, &random, next, err);
    }
    tree_logits rows = {logits, e->target.info->vocab};
    sli_verify_job job = {.tree = s->draft,
                          .how = how,
                          .random = &random,
                          .committed = s->tokens,
                          .n_committed = s->n,
                          .logits = row_of,
                          .ctx = &rows,
                          .form = SLI_FORM_A};
    return sli_verify(e->verifier, e->sampler, &job, path, n_path, next, err);
}
