/* bench_run.h - running one test of `sluice bench`: warm-up, repetitions, times to first token, memory. */
#ifndef SLUICE_CLI_BENCH_RUN_H
#define SLUICE_CLI_BENCH_RUN_H

#include "bench_test.h"
#include "libsluice.h"
#include "resident.h"

enum { BENCH_MAX_REPETITIONS = 100, BENCH_FIRST_TOKENS = 3 };

typedef struct bench_result {
    int repetitions;
    double seconds[BENCH_MAX_REPETITIONS], busy[BENCH_MAX_REPETITIONS]; /* busy: of a device */
    /* Of a prompt, from handing it over to its first token, sampler included, the mean over sessions; 0 of them: the
     * test has no prompt, or its prompt fills the context. */
    double first_token[BENCH_MAX_REPETITIONS];
    int n_first_tokens;
    /* Of decode steps, over all repetitions. */
    int64_t steps, emitted, drafted, accepted;
    int64_t drafted_by_depth[SLUICE_MAX_DEPTH], accepted_by_depth[SLUICE_MAX_DEPTH];
    double decode_seconds;
    sluice_stats stats;                          /* after the repetitions; graphs are those of this test */
    sluice_memory memory[3][SLUICE_MEMORY_ROWS]; /* SLUICE_HOST, _GPU, _PINNED; while the last sessions were open */
    resident resident;
    int64_t peak, gpu_peak; /* of the ledger, since the process began */
} bench_result;

/* Told before each run; what: "warm-up", "repetition", "first token". */
typedef void (*bench_tell_fn)(void *user, const char *what, int i, int n);

/* out: 0, or < 0 with an error. A result that stays in use from test to test keeps the peaks of the process. */
int bench_measure(sluice_engine *e, const bench_test *t, int repetitions, bench_tell_fn tell, void *user,
                  bench_result *out, sluice_error *err);

double bench_mean(const double *v, int n);
double bench_deviation(const double *v, int n); /* n - 1 in the denominator */
double bench_median(const double *v, int n);    /* n from 1 to BENCH_MAX_REPETITIONS */

#endif
