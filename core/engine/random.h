/* random.h - the random choices of sampling and verification, behind two functions: the one from seeds that the engine
 * uses, and whatever a test puts in its place to enumerate all outcomes. */
#ifndef SLUICE_CORE_RANDOM_H
#define SLUICE_CORE_RANDOM_H

#include <stdint.h>

#include "dist.h"

typedef struct sli_random {
    void *ctx;
    /* 1 with probability min(1, p / q), 0 otherwise. p, q in [0, 1], q > 0; p = 0 is never accepted. */
    int (*accept)(void *ctx, uint32_t position, uint32_t child, double p, double q);
    /* A token with probability weight / sum. purpose: SL_RNG_TARGET, _RESIDUAL or _DRAFT. */
    int32_t (*draw)(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d);
} sli_random;

/* Numbers from a seed. race: draw by race wherever the core draws (drafts are always drawn by inverse CDF, since their
 * numbers are counted and not tied to a token). */
typedef struct sli_seed {
    uint64_t seed;
    uint32_t sample;
    uint32_t race;
} sli_seed;

/* from is borrowed as long as the result is used. */
sli_random sli_random_seeded(const sli_seed *from);

/* The test of speculative sampling: u * q < p, strict and without a division, so that p = 0 never passes and p >= q
 * always does (u < 1). */
static inline int sli_accepts(double u, double p, double q) { return u * q < p; }

#endif
