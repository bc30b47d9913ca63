/* See config_arena.h. Blocks have one size; a request that is larger gets a block of its own. */
#include "config/config_arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/ledger.h"

enum { BLOCK_BYTES = 4000, ALIGN = alignof(max_align_t) };

typedef struct sli_arena_block {
    struct sli_arena_block *next;
    size_t used, size;
    alignas(ALIGN) unsigned char data[];
} sli_arena_block;

void *sli_arena_alloc(sli_arena *pool, size_t bytes) {
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    sli_arena_block *b = pool->blocks;
    if (b == NULL || b->size - b->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = sli_alloc(SLI_TAG_MISC, offsetof(sli_arena_block, data) + size);
        if (b == NULL)
            return NULL;
        b->size = size;
        b->next = pool->blocks;
        pool->blocks = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

char *sli_arena_text(sli_arena *pool, const char *text, size_t n) {
    char *copy = n == SIZE_MAX ? NULL : sli_arena_alloc(pool, n + 1);
    if (copy != NULL && n > 0)
        memcpy(copy, text, n);
    return copy;
}

char *sli_arena_printf(sli_arena *pool, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *text = n < 0 ? NULL : sli_arena_alloc(pool, (size_t)n + 1);
    if (text != NULL)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return text;
}

void *sli_arena_grow(sli_arena *pool, void *items, int n, int *cap, size_t size) {
    if (n < *cap)
        return items;
    int wider = *cap < 8 ? 8 : *cap * 2;
    void *more = sli_arena_alloc(pool, (size_t)wider * size);
    if (more == NULL)
        return NULL;
    if (n > 0)
        memcpy(more, items, (size_t)n * size);
    *cap = wider;
    return more;
}

void sli_arena_free(sli_arena *pool) {
    while (pool->blocks != NULL) {
        sli_arena_block *next = pool->blocks->next;
        sli_free(pool->blocks);
        pool->blocks = next;
    }
}
