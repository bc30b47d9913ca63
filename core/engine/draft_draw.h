/* draft_draw.h - draws of a drafter from its q, keyed so that verification stays exact.
 *
 * The key holds the first position of the *step* and a running count, never the position of the token: a deep draw that
 * was refused would come again in the next step, after the shape of a tree had depended on it.
 */
#ifndef SLUICE_CORE_DRAFT_DRAW_H
#define SLUICE_CORE_DRAFT_DRAW_H

#include <stdint.h>

#include "sluice/step.h"

#include "random.h"

typedef struct sli_draft_draw {
    const sli_random *random;
    uint32_t position; /* of the first token that the step decides = number of committed tokens */
    uint32_t count;    /* draws so far in this step; 0 at its begin */
} sli_draft_draw;

/* One draw. SL_E_DATA: q is no distribution (ids not ascending or negative, a negative or infinite weight, sum 0). */
sl_status sli_draft_draw_one(sli_draft_draw *d, const sl_draft_q *q, int32_t *token, sl_error *err);

/* k draws of one kind, SL_DRAFT_REP or SL_DRAFT_NOREP; token: [k]. *n: how many there are, fewer than k when NOREP has
 * used up all tokens of positive weight. weight: that of q, [q->n]; NOREP sets entries to 0 and puts them back. */
sl_status sli_draft_draw_children(sli_draft_draw *d, uint32_t kind, const int32_t *id, double *weight, int64_t size,
                                  int32_t k, int32_t *token, int32_t *n, sl_error *err);

#endif
