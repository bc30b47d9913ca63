/* See random.h. */
#include "random.h"

#include "sluice/host.h"

#include "rng.h"

static int accept(void *ctx, uint32_t position, uint32_t child, double p, double q) {
    const sli_seed *s = ctx;
    return sli_accepts(sli_rng_uniform(s->seed, s->sample, position, SL_RNG_ACCEPT, child), p, q);
}

static int32_t draw(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d) {
    const sli_seed *s = ctx;
    if (s->race && purpose != SL_RNG_DRAFT)
        return sli_dist_race(d, s->seed, s->sample, position, purpose);
    return sli_dist_draw(d, sli_rng_uniform(s->seed, s->sample, position, purpose, child));
}

sli_random sli_random_seeded(const sli_seed *from) { return (sli_random){(void *)from, accept, draw}; }
