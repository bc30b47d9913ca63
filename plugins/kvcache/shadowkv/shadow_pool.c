/* See shadow_pool.h. */
#include "shadow_pool.h"

#include <assert.h>

shadow_page *shadow_pool_take(shadow_pool *pool) {
    shadow_page *page = pool->mem->alloc(pool->host, SL_DEVICE_CPU, pool->page_bytes, 64, SL_MEM_KV);
    if (page == NULL)
        return NULL;
    page->refs = 1;
    pool->n_pages++;
    return page;
}

void shadow_pool_drop(shadow_pool *pool, shadow_page *page) {
    assert(page->refs > 0);
    if (--page->refs > 0)
        return;
    pool->n_pages--;
    pool->mem->release(pool->host, SL_DEVICE_CPU, page);
}
