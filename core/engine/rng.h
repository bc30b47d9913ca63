/* rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). A number is a pure function of what it decides, so neither batching nor the order of work can change it. */
#ifndef SLUICE_CORE_RNG_H
#define SLUICE_CORE_RNG_H

#include <stdint.h>

void sli_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* u in [0, 1), a multiple of 2^-53.
 * seed      of the request
 * sample    index among the outputs of one request
 * position  0-based index of the token being decided, prompt included (SL_RNG_DRAFT: the step's first position)
 * purpose   SL_RNG_*
 * child     index among the numbers of that purpose at that position  [any] */
double sli_rng_uniform(uint64_t seed, uint32_t sample, uint32_t position, uint32_t purpose, uint32_t child);

#endif
