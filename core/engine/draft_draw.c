/* See draft_draw.h. */
#include "draft_draw.h"

#include <assert.h>
#include <math.h>

#include "sluice/host.h"

#include "sl_error.h"

static sl_status check(const sl_draft_q *q, sl_error *err) {
    for (int64_t i = 0; i < q->n; i++) {
        if (q->id != NULL && q->id[i] <= (i > 0 ? q->id[i - 1] : -1))
            return sl_fail(err, SL_E_DATA, "q: id %d at place %lld is not ascending", q->id[i], (long long)i);
        if (!(q->weight[i] >= 0 && q->weight[i] < INFINITY))
            return sl_fail(err, SL_E_DATA, "q: weight %g at place %lld", q->weight[i], (long long)i);
    }
    return SL_OK;
}

static int32_t draw(sli_draft_draw *d, const sli_dist *q) {
    return d->random->draw(d->random->ctx, SL_RNG_DRAFT, d->position, d->count++, q);
}

sl_status sli_draft_draw_one(sli_draft_draw *d, const sl_draft_q *q, int32_t *token, sl_error *err) {
    SL_TRY(check(q, err));
    sli_dist all = {q->id, q->weight, q->n, sli_dist_sum(q->id, q->weight, q->n)};
    if (!(all.sum > 0 && all.sum < INFINITY))
        return sl_fail(err, SL_E_DATA, "q: %lld weights with the sum %g", (long long)q->n, all.sum);
    *token = draw(d, &all);
    return SL_OK;
}

sl_status sli_draft_draw_children(sli_draft_draw *d, uint32_t kind, const int32_t *id, double *weight, int64_t size,
                                  int32_t k, int32_t *token, int32_t *n, sl_error *err) {
    assert(kind == SL_DRAFT_REP || kind == SL_DRAFT_NOREP);
    assert(k <= SL_MAX_TREE_NODES);
    double taken[SL_MAX_TREE_NODES];
    const sl_draft_q q = {SL_SIZE(sl_draft_q), id, weight, size};
    sli_dist left = {id, weight, size, sli_dist_sum(id, weight, size)};
    SL_TRY(check(&q, err));
    if (!(left.sum > 0 && left.sum < INFINITY))
        return sl_fail(err, SL_E_DATA, "q: %lld weights with the sum %g", (long long)size, left.sum);
    for (*n = 0; *n < k && left.sum > 0; ++*n) {
        token[*n] = draw(d, &left);
        if (kind == SL_DRAFT_REP)
            continue;
        double *w = &weight[sli_dist_find(id, size, token[*n])];
        taken[*n] = *w;
        *w = 0;
        left.sum = sli_dist_sum(id, weight, size);
    }
    for (int32_t i = 0; kind == SL_DRAFT_NOREP && i < *n; i++)
        weight[sli_dist_find(id, size, token[i])] = taken[i];
    return SL_OK;
}
