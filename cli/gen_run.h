/* gen_run.h - asks the questions of generated contexts and writes down what came of it. */
#ifndef SLUICE_CLI_GEN_RUN_H
#define SLUICE_CLI_GEN_RUN_H

#include <jansson.h>

#include "gen.h"
#include "prefill_cache.h"

typedef enum { GEN_FORCED, GEN_SINGLE, GEN_MULTI_TURN, GEN_MULTI_REQUEST, GEN_N_MODES } gen_mode;
extern const char *const gen_mode_names[GEN_N_MODES];
gen_mode gen_mode_named(const char *name); /* GEN_N_MODES: none */

typedef struct gen_run {
    sluice_engine *engine;
    prefill_cache *cache; /* NULL: contexts are computed */
    gen_mode mode;
    int golden; /* 1: log probability of the right answers too */
    /* what came of it */
    json_t *rows; /* array: one object a question */
    int64_t contexts;
    int64_t kv_prefill, kv_peak; /* bytes of cache: most at the end of a context's computation, most ever seen */
    double context_seconds;      /* sum, of contexts that were computed and not loaded */
    int64_t contexts_computed;
    double first_seconds; /* sum: from asking to the first token of the answer */
    int64_t first_answers;
    /* of the context at work */
    const gen_task *task;
    const gen_source *source;
    const gen_context *ctx;
} gen_run;

/* Asks all questions of a context in the run's mode and adds their rows. */
int gen_run_context(gen_run *r, const gen_task *task, const gen_source *source, const gen_context *ctx,
                    sluice_error *err);

/* Points of an output for a question, 0 .. 1. n_right of the n tokens of the right answer are those of the output. */
double gen_score(const gen_task *task, const gen_context *ctx, const gen_question *q, const char *output,
                 int64_t n_right);

#endif
