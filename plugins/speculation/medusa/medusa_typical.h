/* medusa_typical.h - typical acceptance: a drafted token stays if the target finds it likely enough for the entropy it
 * has there. Not lossless.
 *
 * At a node with distribution p: threshold = min(eps, delta exp(-H)), H = -sum p ln(p + 1e-5); a child x is acceptable
 * iff p(x) > threshold. Of the paths of acceptable nodes the longest stays (ties: the larger sum of ln p). p is the
 * request's own distribution: softmax(z / T) unless it has penalties, top-k and the like. */
#ifndef MEDUSA_TYPICAL_H
#define MEDUSA_TYPICAL_H

#include "sluice/speculation.h"

typedef struct medusa_typical {
    const sl_host *host;
    const sl_sample *sample;
    const sl_rng *rng;
    double eps, delta;
    int fast;       /* the token behind the path is the most likely one; 0: drawn from what is above the threshold */
    int32_t *id;    /* [vocab] */
    double *weight; /* [vocab] */
} medusa_typical;

double medusa_typical_threshold(const double *weight, int64_t n, double sum, double eps, double delta);

/* Temperature 0: exact matching of the most likely token, as plain greedy decoding. */
sl_status medusa_typical_accept(const medusa_typical *m, sl_accept *io);

#endif
