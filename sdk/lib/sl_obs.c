/* See sl_obs.h. */
#include "sl_obs.h"

/* Errors of columns [from, to) of the block that begins at b reach columns [first, n). */
static void feed(const sl_obs *o, double *w, const double *error, int64_t b, int64_t from, int64_t to, int64_t first) {
    for (int r = 0; r < o->rows; r++)
        for (int64_t j = from; j < to; j++) {
            double e = error[r * o->block + j - b];
            const double *u = o->u + j * o->n;
            double *row = w + r * o->n;
            for (int64_t k = first; e != 0 && k < o->n; k++)
                row[k] -= e * u[k];
        }
}

double sl_obs_run(const sl_obs *o, double *w, double *error) {
    double loss = 0, value[SL_OBS_ROWS];
    for (int64_t b = 0; b < o->n; b += o->block) {
        int64_t end = b + o->block < o->n ? b + o->block : o->n, fed = b;
        for (int64_t j = b; j < end; j++) {
            if (o->group > 0 && j % o->group == 0) {
                int64_t len = o->group < o->n - j ? o->group : o->n - j;
                if (j + len > end) { /* the group reaches beyond the block: its far end must be up to date */
                    feed(o, w, error, b, fed, j, end);
                    fed = j;
                }
                o->fit(o->user, w, j, len);
            }
            o->column(o->user, w, j, value);
            const double *u = o->u + j * o->n;
            for (int r = 0; r < o->rows; r++) {
                double *row = w + r * o->n, e = (row[j] - value[r]) / u[j];
                error[r * o->block + j - b] = e;
                loss += e * e;
                row[j] = value[r];
                for (int64_t k = j + 1; e != 0 && k < end; k++)
                    row[k] -= e * u[k];
            }
        }
        feed(o, w, error, b, fed, end, end);
    }
    return loss;
}
