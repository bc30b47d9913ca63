/* paley.h - Hadamard matrices of orders that are no power of two, and how a size is made of them. */
#ifndef SLUICE_HADAMARD_PALEY_H
#define SLUICE_HADAMARD_PALEY_H

#include <stdint.h>

enum { PALEY_MAX_ORDER = 400, PALEY_MAX_FACTORS = 8 };

/* Is there a Paley matrix of that order? First construction: order q + 1, q = 3 mod 4 a prime power; second: 2 (q + 1),
 * q = 1 mod 4. Powers up to the third. [any] */
int paley_exists(int32_t order);

/* a [order, order] of +1 and -1 with a a^T = order I. Prime q before prime powers, the first construction before the
 * second. 0: there is none, or no memory. [setup] */
int paley_fill(int32_t order, float *a);

/* Splits n into orders of matrices (ascending, ended by 0) and a power of two: the odd part of n is split, each part
 * times at least 4; of all splits the least sum, then the fewest, then the first. extra: a further order that is there
 * (0: none), which need not be a multiple of 4 times an odd divisor. Answers 0 when there is no split; orders[0] = 0
 * for a power of two. [any] */
int paley_split(int64_t n, int32_t extra, int32_t orders[PALEY_MAX_FACTORS + 1]);

#endif
