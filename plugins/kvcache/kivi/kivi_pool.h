/* kivi_pool.h - blocks of one size with reference counts. Knows bytes; nothing of rows. */
#ifndef KIVI_POOL_H
#define KIVI_POOL_H

#include "sluice/host.h"

typedef struct kivi_pool {
    const sl_host *host;
    const sl_mem *mem;
    int64_t bytes;      /* of a block */
    char **base;        /* [n_ids] NULL: given back, the id waits in idle */
    int32_t *refs;      /* [n_ids] */
    int32_t *free_list; /* [n_free] ids, last one first */
    int32_t *idle;      /* [n_idle] ids without memory */
    int32_t n_ids, n_free, n_idle;
} kivi_pool;

void kivi_pool_init(kivi_pool *pool, const sl_host *host, const sl_mem *mem, int64_t bytes);
void kivi_pool_finish(kivi_pool *pool);
/* Makes n blocks free. SL_E_NO_MEMORY: nothing changed. */
sl_status kivi_pool_add(kivi_pool *pool, int64_t n);
/* Gives free blocks back to the host until at most `keep` are left. */
void kivi_pool_trim(kivi_pool *pool, int64_t keep);
/* A free block with one reference; -1: there is none. kivi_pool_get asks the host then: not in a step. */
int32_t kivi_pool_take(kivi_pool *pool);
int32_t kivi_pool_get(kivi_pool *pool);
/* -1 is legal and nothing. */
void kivi_pool_drop(kivi_pool *pool, int32_t id);
static inline int32_t kivi_pool_share(kivi_pool *pool, int32_t id) {
    if (id >= 0)
        pool->refs[id]++;
    return id;
}
static inline int64_t kivi_pool_bytes(const kivi_pool *pool) { return (pool->n_ids - pool->n_idle) * pool->bytes; }

#endif
