/* shadow_factor.h - the best rank-r product of a matrix: A ~ U Vt with orthonormal rows of Vt, three ways.
 *
 * Plain arrays; LAPACK does the dense eigen- and singular value problems. Results do not depend on the number of
 * workers: each element is summed by one of them, in one order. */
#ifndef SHADOWKV_FACTOR_H
#define SHADOWKV_FACTOR_H

#include "sl_error.h"
#include "sluice/host.h"

enum {
    SHADOW_SVD_RANDOMIZED, /* range finder with two power iterations; the Gram matrix where that is as cheap */
    SHADOW_SVD_EXACT,      /* the singular value decomposition of the whole matrix, f32 */
    SHADOW_SVD_GRAM        /* eigenvectors of A^T A, f64 */
};

typedef struct shadow_factor {
    const sl_host *host;
    const sl_mem *mem;
    const sl_threads *threads;
    uint32_t method; /* SHADOW_SVD_* */
} shadow_factor;

/* a: [rows, width] f32, row by row; destroyed. u: [rows, rank], vt: [rank, width] f32, written; the factor Vt has
 * orthonormal rows and U = A Vt^T, so that sum(u^2) over a column is a squared singular value. rank is at most rows and
 * width. SL_E_NO_MEMORY; SL_E_DATA: LAPACK did not converge, or the matrix is not finite. [setup] */
sl_status shadow_factorise(const shadow_factor *f, float *a, int64_t rows, int64_t width, int64_t rank, float *u,
                           float *vt, sl_error *err);

#endif
