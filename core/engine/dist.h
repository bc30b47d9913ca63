/* dist.h - a discrete distribution over token ids, its sum in a fixed order, and the two ways of drawing from it.
 *
 * The order of every sum depends on the ids alone, never on batch, threads or on how the list came about: that is what
 * makes a draw of the verify path equal, bit for bit, to the draw of plain sampling. */
#ifndef SLUICE_CORE_DIST_H
#define SLUICE_CORE_DIST_H

#include <stdint.h>

/* Ids of one block are summed one after the other, then the blocks. */
enum { SLI_SUM_BLOCK = 1024 };

/* Unnormalised weights of the ids that are kept; every other id has weight 0. */
typedef struct sli_dist {
    const int32_t *id;    /* [n] ascending; NULL: ids are 0 .. n - 1 */
    const double *weight; /* [n] finite, not negative */
    int64_t n;
    double sum; /* sli_dist_sum of the above, > 0 */
} sli_dist;

double sli_dist_sum(const int32_t *id, const double *weight, int64_t n);

/* Place of a token in the list, -1 if it is not there. */
int64_t sli_dist_find(const int32_t *id, int64_t n, int32_t token);

/* Inverse CDF: the first id with u * sum < prefix sum; the last id of positive weight if rounding leaves none. u in
 * [0, 1). Never an id of weight 0. */
int32_t sli_dist_draw(const sli_dist *d, double u);

/* Race: argmin of -ln(1 - u_v) / weight_v over the ids v, u_v = uniform(seed, sample, position, purpose, child = v);
 * ties go to the lowest id. The same law as sli_dist_draw without a sum that depends on order. */
int32_t sli_dist_race(const sli_dist *d, uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose);

#endif
