/* sampler.h - from one row of logits to the processed distribution p that a token is drawn from.
 *
 * Order: penalties with the history, bias, temperature, top-k, top-p, min-p; ties go to the lower id. top-p keeps the
 * shortest prefix whose mass is >= top_p of the mass that top-k left, at least one token. Plain sampling and the
 * verification of drafts call the same function, which is what makes speculation lossless.
 */
#ifndef SLUICE_CORE_SAMPLER_H
#define SLUICE_CORE_SAMPLER_H

#include <stdint.h>

#include "sluice/sl.h"

#include "dist.h"
#include "random.h"
#include "sampling.h"

/* All memory that a call needs. One thread at a time. */
typedef struct sli_sampler sli_sampler;

/* vocab: length of a row, > 0. SL_E_NO_MEMORY. */
sl_status sli_sampler_create(int32_t vocab, sli_sampler **out, sl_error *err);
void sli_sampler_destroy(sli_sampler *s);

/* The tokens in front of the one to be decided: the committed ones, then those of a path in a draft tree. Ids outside
 * of the vocabulary (places of embeddings) count as nothing. The position of the token to be decided is their number.
 */
typedef struct sli_history {
    const int32_t *committed; /* [n_committed] */
    int64_t n_committed;
    const int32_t *path; /* [n_path] */
    int64_t n_path;
} sli_history;

/* One row: logits [vocab] f32; -INFINITY is a banned token. number: how errors name it. */
typedef struct sli_row {
    const float *logits;
    int32_t number;
    sli_history history;
} sli_row;

/* p of that row: ids ascending, weights exp((z - zmax) / temperature) > 0. Greedy: the best token alone, with weight 1.
 * out is borrowed from s until its next call. SL_E_RANGE: see sli_sampling_check. SL_E_DATA: a NaN or +inf, or no token
 * left; the row is named. */
sl_status sli_sampler_dist(sli_sampler *s, const sli_sampling *how, const sli_row *row, sli_dist *out, sl_error *err);

/* Plain sampling: draws the next token from p. */
sl_status sli_sampler_next(sli_sampler *s, const sli_sampling *how, const sli_row *row, const sli_random *random,
                           int32_t *token, sl_error *err);

typedef struct sli_logprob {
    int32_t token;
    double logprob; /* natural; -INFINITY for what p does not contain */
} sli_logprob;

/* Log probability under p of a token that was chosen, and the n_top most likely ones, best first (*n_found <= n_top of
 * them). Greedy: p of the same penalties and bias at temperature 1 without truncation, since its own p is a single one.
 */
sl_status sli_sampler_logprobs(sli_sampler *s, const sli_sampling *how, const sli_row *row, sli_logprob *chosen,
                               sli_logprob *top, int32_t n_top, int32_t *n_found, sl_error *err);

#endif
