/* The factor that quantisers with error feedback walk along: U upper triangular, H^-1 = U^T U. In f64, in place. */
#ifndef SLUICE_LIB_FACTOR_H
#define SLUICE_LIB_FACTOR_H

#include "sluice/host.h"

enum { SL_FACTOR_PANEL = 64 };

/* h      [n, n] symmetric, positive definite; becomes U, zeros below its diagonal
 * work   [SL_FACTOR_PANEL, n]
 * host, threads: whose workers help; threads NULL: the caller alone. The result does not depend on it.
 * SL_E_DATA: h is not positive definite; it is destroyed. [setup] */
sl_status sl_inverse_factor(double *h, int64_t n, double *work, const sl_host *host, const sl_threads *threads);

#endif
