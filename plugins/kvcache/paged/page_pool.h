/* page_pool.h - fixed-size pages with reference counts. Knows bytes and pages; nothing of sequences, layers or rows. */
#ifndef PAGED_PAGE_POOL_H
#define PAGED_PAGE_POOL_H

#include "sluice/host.h"

typedef struct paged_slab paged_slab;

typedef struct paged_pool {
    const sl_host *host;
    const sl_mem *mem;
    int64_t page_bytes;
    paged_slab *slabs;   /* memory, a run of pages each; given back when the pool ends */
    char **base;         /* [n_pages] */
    int32_t *refs;       /* [n_pages] */
    int32_t *free_list;  /* [n_free] page ids, last one first */
    int32_t n_pages, n_free;
} paged_pool;

void paged_pool_init(paged_pool *pool, const sl_host *host, const sl_mem *mem, int64_t page_bytes);
void paged_pool_finish(paged_pool *pool);

/* Adds n pages. SL_E_NO_MEMORY: nothing changed. */
sl_status paged_pool_add(paged_pool *pool, int64_t n);

/* A free page with one reference, or -1. */
int32_t paged_pool_take(paged_pool *pool);
static inline void paged_pool_share(paged_pool *pool, int32_t page) { pool->refs[page]++; }
void paged_pool_drop(paged_pool *pool, int32_t page);

#endif
