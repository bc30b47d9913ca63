/* See page_pool.h. */
#include "page_pool.h"

#include <assert.h>
#include <stdlib.h>

struct paged_slab {
    paged_slab *next;
    void *memory;
};

void paged_pool_init(paged_pool *pool, const sl_host *host, const sl_mem *mem, int64_t page_bytes) {
    *pool = (paged_pool){.host = host, .mem = mem, .page_bytes = page_bytes};
}

void paged_pool_finish(paged_pool *pool) {
    while (pool->slabs != NULL) {
        paged_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        pool->mem->release(pool->host, SL_DEVICE_CPU, slab->memory);
        free(slab);
    }
    free(pool->base);
    free(pool->refs);
    free(pool->free_list);
    pool->base = NULL;
    pool->refs = pool->free_list = NULL;
    pool->n_pages = pool->n_free = 0;
}

/* Grows one of the pool's arrays to hold n elements; the old one stays valid on failure. */
static int widen(void *array, int64_t n, size_t size) {
    void *wider = realloc(*(void **)array, (size_t)n * size);
    if (wider == NULL)
        return 0;
    *(void **)array = wider;
    return 1;
}

sl_status paged_pool_add(paged_pool *pool, int64_t n) {
    if (n <= 0)
        return SL_OK;
    int64_t total = pool->n_pages + n;
    if (total > INT32_MAX || n > INT64_MAX / pool->page_bytes)
        return SL_E_NO_MEMORY;
    if (!widen(&pool->base, total, sizeof *pool->base) || !widen(&pool->refs, total, sizeof *pool->refs) ||
        !widen(&pool->free_list, total, sizeof *pool->free_list))
        return SL_E_NO_MEMORY;
    paged_slab *slab = malloc(sizeof *slab);
    if (slab == NULL)
        return SL_E_NO_MEMORY;
    slab->memory = pool->mem->alloc(pool->host, SL_DEVICE_CPU, n * pool->page_bytes, 64, SL_MEM_KV);
    if (slab->memory == NULL) {
        free(slab);
        return SL_E_NO_MEMORY;
    }
    slab->next = pool->slabs;
    pool->slabs = slab;
    for (int64_t i = n - 1; i >= 0; i--) { /* pages are handed out in address order */
        int32_t page = pool->n_pages + (int32_t)i;
        pool->base[page] = (char *)slab->memory + i * pool->page_bytes;
        pool->refs[page] = 0;
        pool->free_list[pool->n_free++] = page;
    }
    pool->n_pages = (int32_t)total;
    return SL_OK;
}

int32_t paged_pool_take(paged_pool *pool) {
    if (pool->n_free == 0)
        return -1;
    int32_t page = pool->free_list[--pool->n_free];
    assert(pool->refs[page] == 0);
    pool->refs[page] = 1;
    return page;
}

void paged_pool_drop(paged_pool *pool, int32_t page) {
    assert(pool->refs[page] > 0);
    if (--pool->refs[page] == 0)
        pool->free_list[pool->n_free++] = page;
}
