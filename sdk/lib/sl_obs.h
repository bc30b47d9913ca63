/* Quantising with error feedback (OBS, as in GPTQ, arXiv 2210.17323, algorithm 1): column by column, the error of each
 * is made up for by the columns that are still to come. Shared by quantisers that differ in how a column becomes codes.
 */
#ifndef SLUICE_LIB_OBS_H
#define SLUICE_LIB_OBS_H

#include <stdint.h>

enum { SL_OBS_ROWS = 64 }; /* rows that a call takes at most */

typedef struct sl_obs {
    const double *u; /* [n, n]: sl_inverse_factor of the (damped) Hessian */
    int64_t n;       /* columns */
    int64_t block;   /* columns whose feedback reaches the rest of the row at once; >= 1 */
    int64_t group;   /* fit is called in front of each multiple of it; 0: never */
    /* The weights of columns [j, j + len) are final but for feedback among themselves. w: [rows, n], all feedback of
     * columns before j in it. */
    void (*fit)(void *user, const double *w, int64_t j, int64_t len);
    /* What becomes of column j: value [rows]. */
    void (*column)(void *user, const double *w, int64_t j, double *value);
    void *user;
    int rows;
} sl_obs;

/* w [rows, n] becomes what the codes stand for. error: [rows, block], scratch. Returns the sum of ((w - value) /
 * U_jj)^2, which is the quantisation error weighted with the Hessian: sum of d H d^T over the rows' differences d. */
double sl_obs_run(const sl_obs *o, double *w, double *error);

#endif
