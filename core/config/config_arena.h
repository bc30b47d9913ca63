/* A pool of small, long-lived blocks that die together: the texts and nodes of a configuration. A zeroed sli_pool is
 * empty and valid. Not thread-safe. */
#ifndef SLUICE_CORE_POOL_H
#define SLUICE_CORE_POOL_H

#include <stddef.h>

#include "sl_error.h"

typedef struct sli_pool {
    struct sli_pool_block *blocks;
} sli_pool;

/* Zeroed memory aligned for any type, NULL when there is none. */
void *sli_pool_alloc(sli_pool *pool, size_t bytes);
/* Copy of n bytes of text plus a NUL. */
char *sli_pool_text(sli_pool *pool, const char *text, size_t n);
char *sli_pool_printf(sli_pool *pool, const char *fmt, ...) SL_PRINTF(2, 3);
/* Room for one more element behind n of size bytes each: returns items or a doubled copy, *cap follows; NULL: no
 * memory. */
void *sli_pool_grow(sli_pool *pool, void *items, int n, int *cap, size_t size);
void sli_pool_free(sli_pool *pool); /* frees the blocks; the pool is empty afterwards */

#endif
