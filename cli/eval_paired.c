/* Paired differences between two runs of one task, see eval.h. */
#include <math.h>
#include <stdio.h>

#include "eval.h"

/* 97.5 % quantile of Student's t: the first thirty from the table, then its expansion, good to 1e-3. */
static double student(int64_t freedom) {
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                               2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
    if (freedom < 1)
        return NAN;
    return freedom <= 30 ? t[freedom - 1] : 1.95996 + 2.3723 / (double)freedom;
}

/* The sum of all residuals is zero; those of a cluster are summed before they are squared, which needs no assumption
 * about how they hang together. */
eval_difference eval_paired(const double *d, const int64_t *cluster, int64_t n) {
    eval_difference out = {0};
    for (int64_t i = 0; i < n; i++)
        out.mean += d[i] / (double)n;
    double squares = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += d[i] - out.mean;
        if (i + 1 == n || cluster == NULL || cluster[i + 1] != cluster[i]) {
            squares += sum * sum;
            sum = 0;
            out.n_clusters++;
        }
    }
    double g = (double)out.n_clusters;
    out.half_width = out.n_clusters < 2 ? NAN : student(out.n_clusters - 1) * sqrt(squares * g / (g - 1)) / (double)n;
    return out;
}

eval_difference eval_paired_sums(const double *d, const int64_t *count, int64_t n) {
    eval_difference out = {.n_clusters = n};
    double all = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        out.mean += d[i];
        all += (double)count[i];
    }
    out.mean /= all;
    for (int64_t i = 0; i < n; i++) {
        double left = d[i] - out.mean * (double)count[i];
        squares += left * left;
    }
    double g = (double)n;
    out.half_width = n < 2 ? NAN : student(n - 1) * sqrt(squares * g / (g - 1)) / all;
    return out;
}

json_t *eval_earlier(const char *path, const json_t *now, const char *const *same, sluice_error *err) {
    json_error_t where;
    json_t *before = json_load_file(path, 0, &where);
    if (before == NULL) {
        snprintf(err->text, sizeof err->text, "%s: line %d: %s", path, where.line, where.text);
        return NULL;
    }
    for (; *same != NULL; same++) {
        const json_t *was = json_object_get(before, *same), *is = json_object_get(now, *same);
        if (was != is && !json_equal(was, is)) { /* absent in both is equal, too */
            snprintf(err->text, sizeof err->text, "%s: its \"%s\" is not that of this run: nothing to compare", path,
                     *same);
            json_decref(before);
            return NULL;
        }
    }
    return before;
}

json_t *eval_difference_json(const char *path, const eval_difference *difference) {
    json_t *half = isnan(difference->half_width) ? json_null() : json_real(difference->half_width);
    return json_pack("{s:s, s:f, s:o, s:I}", "file", path, "mean_difference", difference->mean, "half_width_95", half,
                     "clusters", (json_int_t)difference->n_clusters);
}
