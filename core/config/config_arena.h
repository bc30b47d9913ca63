/* A pool of small, long-lived blocks that die together: the texts and nodes of a configuration. A zeroed sli_arena is
 * empty and valid. Not thread-safe. */
#ifndef SLUICE_CORE_POOL_H
#define SLUICE_CORE_POOL_H

#include <stddef.h>

#include "sl_error.h"

typedef struct sli_arena {
    struct sli_arena_block *blocks;
} sli_arena;

/* Zeroed memory aligned for any type, NULL when there is none. */
void *sli_arena_alloc(sli_arena *pool, size_t bytes);
/* Copy of n bytes of text plus a NUL. */
char *sli_arena_text(sli_arena *pool, const char *text, size_t n);
char *sli_arena_printf(sli_arena *pool, const char *fmt, ...) SL_PRINTF(2, 3);
/* Room for one more element behind n of size bytes each: returns items or a doubled copy, *cap follows; NULL: no
 * memory. */
void *sli_arena_grow(sli_arena *pool, void *items, int n, int *cap, size_t size);
void sli_arena_free(sli_arena *pool); /* frees the blocks; the pool is empty afterwards */

#endif
