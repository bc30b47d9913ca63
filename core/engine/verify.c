/* See verify.h. */
#include "verify.h"

#include <assert.h>
#include <math.h>

#include "sluice/host.h"

#include "base/ledger.h"
#include "sl_error.h"

struct sli_verifier {
    int32_t vocab;
    double *target[2]; /* [vocab] each: P and the P that comes after it */
    double *q;         /* [vocab] weights of Q */
    /* The Q that is loaded. */
    const int32_t *q_id;
    int64_t q_n;
    double q_sum;
    int32_t q_group; /* -1: none */
};

sl_status sli_verifier_create(int32_t vocab, sli_verifier **out, sl_error *err) {
    assert(vocab > 0);
    *out = NULL;
    sli_verifier *v = sli_alloc(SLI_TAG_SCRATCH, sizeof *v);
    if (v != NULL) {
        v->vocab = vocab;
        v->target[0] = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *v->target[0]);
        v->target[1] = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *v->target[1]);
        v->q = sli_calloc(SLI_TAG_SCRATCH, (size_t)vocab, sizeof *v->q);
        if (v->target[0] && v->target[1] && v->q) {
            *out = v;
            return SL_OK;
        }
    }
    sli_verifier_destroy(v);
    return sl_fail(err, SL_E_NO_MEMORY, "no memory for a verifier of %d tokens", vocab);
}

void sli_verifier_destroy(sli_verifier *v) {
    if (v == NULL)
        return;
    sli_free(v->target[0]);
    sli_free(v->target[1]);
    sli_free(v->q);
    sli_free(v);
}

/* ---- P and Q ----------------------------------------------------------------------------------------------------- */

static double mass(const int32_t *id, const double *weight, int64_t n, double sum, int32_t token) {
    int64_t at = sli_dist_find(id, n, token);
    return at < 0 ? 0 : weight[at] / sum;
}

static double *spare_target(const sli_verifier *v, const sli_dist *p) { return v->target[p->weight == v->target[0]]; }

/* P becomes the given weights. If nothing is left of it, the refusal was rounding noise (it has probability 0) and P
 * stays as it is. */
static void replace_target(sli_dist *p, const double *weight) {
    double sum = sli_dist_sum(p->id, weight, p->n);
    if (sum > 0) {
        p->weight = weight;
        p->sum = sum;
    }
}

static void take_out_of_target(const sli_verifier *v, sli_dist *p, int32_t token) {
    double *next = spare_target(v, p);
    for (int64_t i = 0; i < p->n; i++)
        next[i] = p->id[i] == token ? 0 : p->weight[i];
    replace_target(p, next);
}

/* P <- norm(max(0, P - Q)). Both lists are ascending. */
static void take_residual(const sli_verifier *v, sli_dist *p) {
    double *next = spare_target(v, p);
    int64_t k = 0;
    for (int64_t i = 0; i < p->n; i++) {
        double q = 0;
        if (v->q_id == NULL) {
            q = p->id[i] < v->q_n ? v->q[p->id[i]] : 0;
        } else {
            while (k < v->q_n && v->q_id[k] < p->id[i])
                k++;
            q = k < v->q_n && v->q_id[k] == p->id[i] ? v->q[k] : 0;
        }
        double left = p->weight[i] / p->sum - q / v->q_sum;
        next[i] = left > 0 ? left : 0;
    }
    replace_target(p, next);
}

static void take_out_of_q(sli_verifier *v, int32_t token) {
    v->q[sli_dist_find(v->q_id, v->q_n, token)] = 0;
    v->q_sum = sli_dist_sum(v->q_id, v->q, v->q_n);
}

static sl_status load_q(sli_verifier *v, const sli_tree *t, int32_t at, sl_error *err) {
    const sli_trial *trial = &t->trial[at];
    const sl_draft_q *q = trial->q;
    int32_t node = t->node_of[t->parent[trial->row]];
    v->q_group = -1;
    if (q->n < 1 || q->n > v->vocab)
        return sl_fail(err, SL_E_DATA, "draft node %d: q has %lld entries, expected 1 to %d", node, (long long)q->n,
                       v->vocab);
    for (int64_t i = 0; i < q->n; i++) {
        if (q->id != NULL && (q->id[i] < 0 || q->id[i] >= v->vocab || (i > 0 && q->id[i] <= q->id[i - 1])))
            return sl_fail(err, SL_E_DATA, "draft node %d: id %d of q is not ascending within [0, %d)", node, q->id[i],
                           v->vocab);
        if (!(q->weight[i] >= 0 && q->weight[i] < INFINITY))
            return sl_fail(err, SL_E_DATA, "draft node %d: q has the weight %g for token %d", node, q->weight[i],
                           q->id != NULL ? q->id[i] : (int32_t)i);
        v->q[i] = q->weight[i];
    }
    v->q_id = q->id;
    v->q_n = q->n;
    v->q_sum = sli_dist_sum(q->id, v->q, q->n);
    if (!(v->q_sum > 0 && v->q_sum < INFINITY))
        return sl_fail(err, SL_E_DATA, "draft node %d: the weights of q have the sum %g", node, v->q_sum);
    /* Children of a folded node may stand between those of one group: what the group drew before is out of Q. */
    for (int32_t i = t->trial_begin[t->parent[trial->row]]; i < at; i++)
        if (trial->kind == SL_DRAFT_NOREP && t->trial[i].group == trial->group)
            take_out_of_q(v, t->token[t->trial[i].row]);
    v->q_group = trial->group;
    return SL_OK;
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

static int32_t child_with(const sli_tree *t, int32_t row, int32_t token) {
    for (int32_t i = t->trial_begin[row]; i < t->trial_begin[row + 1]; i++)
        if (t->token[t->trial[i].row] == token)
            return t->trial[i].row;
    return -1;
}

/* How many trials of a row come before those that form A matches all at once: none where greedy, all under form B. */
static int32_t one_by_one(const sli_verify_job *job, int32_t row) {
    int32_t begin = job->tree->trial_begin[row], end = job->tree->trial_begin[row + 1];
    if (job->how->temperature == 0)
        return begin;
    while (job->form == SLI_FORM_A && end > begin && job->tree->trial[end - 1].kind == SL_DRAFT_DET)
        end--;
    return end;
}

/* One trial of its own. *accepted says how it ended; a refusal has changed P. */
static sl_status try_child(sli_verifier *v, const sli_verify_job *job, int32_t at, uint32_t position, uint32_t child,
                           sli_dist *p, int *accepted, sl_error *err) {
    const sli_trial *trial = &job->tree->trial[at];
    const sli_random *random = job->random;
    int32_t x = job->tree->token[trial->row];
    double px = mass(p->id, p->weight, p->n, p->sum, x);
    if (trial->kind == SL_DRAFT_DET) {
        *accepted = random->accept(random->ctx, position, child, px, 1);
        if (!*accepted)
            take_out_of_target(v, p, x);
        return SL_OK;
    }
    if (trial->group != v->q_group)
        SL_TRY(load_q(v, job->tree, at, err));
    double qx = v->q_sum > 0 ? mass(v->q_id, v->q, v->q_n, v->q_sum, x) : 0;
    if (!(qx > 0))
        return sl_fail(err, SL_E_DATA,
                       "draft node %d: its child %d has probability 0 in the q it is said to be drawn from",
                       job->tree->node_of[job->tree->parent[trial->row]], x);
    *accepted = random->accept(random->ctx, position, child, px, qx);
    if (*accepted)
        return SL_OK;
    take_residual(v, p);
    if (trial->kind == SL_DRAFT_NOREP)
        take_out_of_q(v, x);
    return SL_OK;
}

/* Where the walk goes from a row: *child, or -1 and the token that it stops with. */
static sl_status decide(sli_verifier *v, const sli_verify_job *job, int32_t row, uint32_t position, sli_dist p,
                        int32_t *child, int32_t *token, sl_error *err) {
    const sli_tree *t = job->tree;
    const sli_random *random = job->random;
    int32_t begin = t->trial_begin[row], end = t->trial_begin[row + 1], matched = one_by_one(job, row);
    v->q_group = -1;
    for (int32_t i = begin; i < matched; i++) {
        int accepted = 0;
        SL_TRY(try_child(v, job, i, position, (uint32_t)(i - begin), &p, &accepted, err));
        if (accepted) {
            *child = t->trial[i].row;
            return SL_OK;
        }
    }
    /* Only behind a refusal with nothing left to match is the number not the one of plain sampling. */
    uint32_t purpose = matched == end && end > begin ? SL_RNG_RESIDUAL : SL_RNG_TARGET;
    *token = random->draw(random->ctx, purpose, position, 0, &p);
    *child = child_with(t, row, *token);
    return SL_OK;
}

sl_status sli_verify(sli_verifier *v, sli_sampler *sampler, const sli_verify_job *job, int32_t *path, int32_t *n_path,
                     int32_t *next, sl_error *err) {
    const sli_tree *t = job->tree;
    int32_t token[SL_MAX_TREE_NODES]; /* of the path behind the forced rows */
    int32_t row = t->rows.n_forced, n = 0;
    assert(job->n_committed > t->rows.n_forced && job->committed[job->n_committed - 1] == t->token[row]);
    for (*n_path = 0; *n_path < row; ++*n_path)
        path[*n_path] = *n_path;
    for (;;) {
        path[(*n_path)++] = row;
        sli_row logits = {job->logits(job->ctx, row), row, {job->committed, job->n_committed, token, n}};
        sli_dist p;
        SL_TRY(sli_sampler_dist(sampler, job->how, &logits, &p, err));
        SL_TRY(decide(v, job, row, (uint32_t)(job->n_committed + n), p, &row, next, err));
        if (row < 0)
            return SL_OK;
        token[n++] = t->token[row];
    }
}
