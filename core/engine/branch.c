/* See branch.h. */
#include "branch.h"

#include "draft_fork.h"
#include "sl_error.h"

/* Behind the ids of sessions and forks. */
static int32_t id_of(const sluice_engine *e, const sluice_session *s) {
    return sli_fork_ids_end(e->max_sessions) + s->id;
}

sl_status sli_branch_prepare(sluice_engine *e, sluice_session *s, int64_t begin, int64_t n_rows, int32_t *id,
                             sl_error *err) {
    *id = id_of(e, s);
    if (s->n_branch < 0) {
        SL_TRY(sli_network_seq_open(&e->target, *id, -1, 0, err));
        s->n_branch = 0;
    }
    if (begin > s->n_branch)
        return SL_E_RANGE;
    if (begin < s->n_branch) {
        SL_TRY(sli_network_seq_truncate(&e->target, *id, begin, err));
        s->n_branch = begin;
    }
    return sli_network_seq_grow(&e->target, *id, begin + n_rows, err);
}

void sli_branch_fork(sluice_engine *e, sluice_session *child, const sluice_session *parent) {
    if (parent->n_branch > 0 &&
        sli_network_seq_open(&e->target, id_of(e, child), id_of(e, parent), parent->n_branch, NULL) >= 0)
        child->n_branch = parent->n_branch;
}

void sli_branch_close(sluice_engine *e, sluice_session *s) {
    if (s->n_branch >= 0)
        sli_network_seq_close(&e->target, id_of(e, s));
    s->n_branch = -1;
}
