/* duo_pages.h - pages with reference counts, straight from the host's memory and back. Knows nothing of rows. */
#ifndef DUO_PAGES_H
#define DUO_PAGES_H

#include "sluice/host.h"

typedef struct duo_page {
    int64_t refs;
    int64_t pad[7];
    char data[]; /* 64-byte aligned */
} duo_page;

static inline int64_t duo_page_memory(int64_t bytes) { return (int64_t)sizeof(duo_page) + bytes; }

/* With one reference; NULL: no memory. [setup & active] */
static inline duo_page *duo_page_make(const sl_host *host, const sl_mem *mem, int64_t bytes) {
    duo_page *p = mem->alloc(host, SL_DEVICE_CPU, duo_page_memory(bytes), 64, SL_MEM_KV);
    if (p != NULL)
        p->refs = 1;
    return p;
}

static inline void duo_page_drop(const sl_host *host, const sl_mem *mem, duo_page *p) {
    if (--p->refs == 0)
        mem->release(host, SL_DEVICE_CPU, p);
}

#endif
