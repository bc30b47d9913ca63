/* eval.h - the tasks of `sluice eval`, and what they share. */
#ifndef SLUICE_CLI_EVAL_H
#define SLUICE_CLI_EVAL_H

#include <jansson.h>

#include "libsluice.h"

/* Each gets argv with the task's name in front and returns the exit status. */
int eval_choice(int argc, char **argv);
int eval_kld(int argc, char **argv);
int eval_ppl(int argc, char **argv);
int eval_retrieval(int argc, char **argv);
int eval_ruler(int argc, char **argv);
int eval_scbench(int argc, char **argv);
int eval_spec(int argc, char **argv);

/* Prints an object (stolen) as indented JSON; 0. */
int eval_print(json_t *object);
/* Writes "out of memory" and returns its code. */
int eval_no_memory(sluice_error *err);

/* ---- differences to an earlier run of the same task ------------------------------------------------------------ */

/* The JSON that an earlier run printed, NULL after writing an error. same: names of members (ended by NULL) that must
 * be equal in `now`, the object of this run, for the two to be comparable. */
json_t *eval_earlier(const char *path, const json_t *now, const char *const *same, sluice_error *err);

/* Mean of the differences d [n] with its 95 % interval (half width), Student's t over clusters: differences of one
 * cluster (a context) hang together. cluster [n] ascending numbers; NULL: each difference is one of its own. One
 * cluster: the half width is NaN. */
typedef struct eval_difference {
    double mean, half_width;
    int64_t n_clusters;
} eval_difference;
eval_difference eval_paired(const double *d, const int64_t *cluster, int64_t n);

/* The same of sums over clusters: d [n] is the sum of count [n] differences; the mean is that of a single one. */
eval_difference eval_paired_sums(const double *d, const int64_t *count, int64_t n);

/* {"file", "mean_difference", "half_width_95", "clusters"}; the caller adds what the task knows. */
json_t *eval_difference_json(const char *path, const eval_difference *difference);

#endif
