/* draft_taps.h - hidden rows of the target for the drafter ("sl.taps/1"): copied while a step computes, handed over
 * with observe once it is known which rows stay. */
#ifndef SLUICE_CORE_DRAFT_TAPS_H
#define SLUICE_CORE_DRAFT_TAPS_H

#include "network.h"

typedef struct sli_draft_taps sli_draft_taps;

/* Checks what is asked for and takes room for steps of max_rows rows and max_seqs sequences. n = 0: *out is NULL.
 * [setup] */
sl_status sli_draft_taps_create(const sli_network *net, const sl_tap *const *taps, int32_t n, int64_t max_rows,
                                int32_t max_seqs, sli_draft_taps **out, sl_error *err);
void sli_draft_taps_destroy(sli_draft_taps *t);

/* Does a tap want rows of prompts? NULL: no. */
int sli_draft_taps_want_prompt(const sli_draft_taps *t);

/* sli_tap_fn; user is the sli_draft_taps. */
void sli_draft_taps_take(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width);

/* The rows of a step that was computed last: tap by tap, in each the sequences in batch order that have such rows. The
 * list lives until the next call. */
sl_status sli_draft_taps_hand_over(sli_draft_taps *t, sli_network *net, const sl_commit *commit,
                                   const sl_tap_rows *const **out, int32_t *n, sl_error *err);

#endif
