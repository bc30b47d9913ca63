/* page_pool.h - fixed-size pages with reference counts. Knows bytes and pages; nothing of sequences, layers or rows. */
#ifndef PAGED_PAGE_POOL_H
#define PAGED_PAGE_POOL_H

#include "sluice/host.h"

typedef struct paged_pool {
    const sl_host *host;
    const sl_mem *mem;
    int64_t page_bytes;
    char **base;        /* [n_ids] memory of each page; NULL: given back, the id waits in idle */
    int32_t *refs;      /* [n_ids] */
    int32_t *free_list; /* [n_free] page ids, last one first */
    int32_t *idle;      /* [n_idle] ids without memory */
    int32_t n_ids, n_free, n_idle;
} paged_pool;

void paged_pool_init(paged_pool *pool, const sl_host *host, const sl_mem *mem, int64_t page_bytes);
void paged_pool_finish(paged_pool *pool);

/* Adds n pages. SL_E_NO_MEMORY: nothing changed. */
sl_status paged_pool_add(paged_pool *pool, int64_t n);

/* Gives free pages back to the host until at most `keep` are left. */
void paged_pool_trim(paged_pool *pool, int64_t keep);

static inline int64_t paged_pool_bytes(const paged_pool *pool) {
    return (pool->n_ids - pool->n_idle) * pool->page_bytes;
}

/* A free page with one reference, or -1. */
int32_t paged_pool_take(paged_pool *pool);
static inline void paged_pool_share(paged_pool *pool, int32_t page) { pool->refs[page]++; }
void paged_pool_drop(paged_pool *pool, int32_t page);

#endif
