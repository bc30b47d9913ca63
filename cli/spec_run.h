/* spec_run.h - generating behind prompts and counting what the steps gave. */
#ifndef SLUICE_CLI_SPEC_RUN_H
#define SLUICE_CLI_SPEC_RUN_H

#include "libsluice.h"
#include "spec_prompts.h"

typedef struct spec_how {
    double temperature;
    uint64_t seed; /* of the first prompt; the others follow */
    int32_t max_tokens, batch, warm_up;
} spec_how;

/* What was generated behind one prompt. */
typedef struct spec_output {
    int32_t *token;
    int64_t n;
    int too_long; /* prompt and output do not fit the context: it was left out */
} spec_output;

enum { SPEC_FRESH = 0, SPEC_LOOPING = 1 };

/* Counts of a category. A step counts once for each sequence that it decided tokens for; its tokens are looping when
 * the first of them is. The token that the prompt's own pass decides belongs to no step. */
typedef struct spec_tally {
    int64_t prompts, too_long, tokens, looping_tokens;
    int64_t steps[2], emitted[2]; /* SPEC_FRESH, SPEC_LOOPING */
    int64_t drafted, accepted, drafted_by_depth[SLUICE_MAX_DEPTH], accepted_by_depth[SLUICE_MAX_DEPTH];
    double rates; /* sum of tokens a second, by batch */
    int64_t n_rates;
    int64_t identical, compared;   /* outputs equal to plain decoding's */
    int64_t odd_prompt, odd_token; /* the first one that is not, counted over all prompts; -1 */
} spec_tally;

/* An engine, and what comes of it: all zeroed before. */
typedef struct spec_side {
    sluice_engine *engine;
    spec_output *output; /* [prompts->n] freed by spec_outputs_free */
    spec_tally *tally;   /* [n_categories] */
    double *pace;        /* [prompts->n] seconds a token in the decode steps of the batch that begins there; 0: none */
} spec_side;

/* Runs all prompts, `batch` of one category together, on each of n sides: batch by batch, so that what disturbs the
 * machine disturbs all of them; which one goes first changes from batch to batch. */
int spec_run(spec_side *side, int n, const spec_prompts *prompts, const spec_how *how, sluice_error *err);
void spec_outputs_free(spec_output *output, int n);

/* Notes in the tallies which outputs equal those of plain decoding. */
void spec_compare(const spec_prompts *prompts, const spec_output *plain, const spec_output *output, spec_tally *tally);
/* How much faster b's batches were than a's, in pairs of the same prompts: the median and the quartiles, over a
 * category or all of them (-1). Returns how many pairs there are; without any, v is left alone. */
int spec_pairs(const spec_prompts *prompts, const double *pace_a, const double *pace_b, int category, double v[3]);
/* Median of the paces of a category or of all (-1); 0: there is none. */
double spec_pace(const spec_prompts *prompts, const double *pace, int category);
/* Adds b to a. */
void spec_add(spec_tally *a, const spec_tally *b);

#endif
