/* bench_ceiling.h - what this machine can do at most: bytes read a second, from memory and from cache, and operations a
 * second. The largest that the loops of any instruction set reach. */
#ifndef SLUICE_KERNELS_BENCH_CEILING_H
#define SLUICE_KERNELS_BENCH_CEILING_H

#include <stdint.h>

#include "bench_team.h"

/* Loops of one instruction set. */
typedef struct slk_ceiling {
    const char *name;
    uint32_t isa; /* SLK_ISA_* that must be there */
    /* Reads all of it. bytes: a multiple of 1024. Returns something that depends on it. */
    uint64_t (*read)(const void *data, int64_t bytes);
    /* Returns the operations (a multiplication and an addition are two) of `rounds` rounds in registers; *sink depends
     * on them. NULL: none of that kind. */
    double (*fma)(int64_t rounds, float *sink); /* f32 */
    double (*dot)(int64_t rounds, float *sink); /* products of bf16, sums in f32 */
} slk_ceiling;

extern const slk_ceiling slk_ceiling_ref, slk_ceiling_avx2, slk_ceiling_avx512, slk_ceiling_avx512bf16;

/* A second, of all threads together. */
typedef struct slk_ceilings {
    double memory, cache; /* bytes */
    double fma, dot;      /* operations; dot 0: the machine has no such instruction */
    const char *memory_name, *cache_name, *fma_name, *dot_name; /* whose loop it was */
} slk_ceilings;

/* Bytes of the buffer that is read for `cache`, of all threads together. */
enum { SLK_CACHE_BYTES = 256 * 1024 };

/* Measures with n threads, some `seconds` for each loop. pool: what memory is read from; far larger than the caches. */
void slk_ceilings_measure(slk_team *team, int n, double seconds, const void *pool, int64_t pool_bytes,
                          slk_ceilings *out);

#endif
