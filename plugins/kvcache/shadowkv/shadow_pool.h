/* shadow_pool.h - pages of exact rows with reference counts. Knows bytes and pages; nothing of sequences or layers. */
#ifndef SHADOWKV_POOL_H
#define SHADOWKV_POOL_H

#include "sluice/host.h"

typedef struct shadow_page {
    int64_t refs; /* the data begins SHADOW_PAGE_HEADER bytes behind the page's address */
} shadow_page;

enum { SHADOW_PAGE_HEADER = 64 };

typedef struct shadow_pool {
    const sl_host *host;
    const sl_mem *mem;
    int64_t page_bytes; /* header included */
    int64_t n_pages;    /* alive */
} shadow_pool;

/* A page with one reference, or NULL. [setup] */
shadow_page *shadow_pool_take(shadow_pool *pool);
static inline shadow_page *shadow_pool_share(shadow_page *page) {
    page->refs++;
    return page;
}
/* Gives the memory back with the last reference. */
void shadow_pool_drop(shadow_pool *pool, shadow_page *page);

static inline char *shadow_page_data(shadow_page *page) { return (char *)page + SHADOW_PAGE_HEADER; }

#endif
