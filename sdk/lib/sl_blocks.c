/* See sl_blocks.h. */
#include "sl_blocks.h"

#include <assert.h>
#include <stdlib.h>

void sl_blocks_init(sl_blocks *pool, const sl_host *host, const sl_mem *mem, int64_t bytes) {
    *pool = (sl_blocks){.host = host, .mem = mem, .bytes = bytes};
}

void sl_blocks_finish(sl_blocks *pool) {
    for (int32_t i = 0; i < pool->n_ids && !pool->is_fixed; i++)
        pool->mem->release(pool->host, SL_DEVICE_CPU, pool->base[i]);
    free(pool->base);
    free(pool->refs);
    free(pool->free_list);
    free(pool->idle);
    *pool = (sl_blocks){0};
}

/* Grows one of the pool's arrays to hold n elements; the old one stays valid on failure. */
static int widen(void *array, int64_t n, size_t size) {
    void *wider = realloc(*(void **)array, (size_t)n * size);
    if (wider == NULL)
        return 0;
    *(void **)array = wider;
    return 1;
}

/* Makes ids for n more blocks. */
static int widen_all(sl_blocks *pool, int64_t n) {
    int64_t total = pool->n_ids + n;
    if (total > INT32_MAX || !widen(&pool->base, total, sizeof *pool->base) ||
        !widen(&pool->refs, total, sizeof *pool->refs) || !widen(&pool->free_list, total, sizeof *pool->free_list) ||
        !widen(&pool->idle, total, sizeof *pool->idle))
        return 0;
    for (int32_t id = (int32_t)total - 1; id >= pool->n_ids; id--) {
        pool->base[id] = NULL;
        pool->refs[id] = 0;
        pool->idle[pool->n_idle++] = id;
    }
    pool->n_ids = (int32_t)total;
    return 1;
}

sl_status sl_blocks_init_fixed(sl_blocks *pool, int64_t bytes, int64_t n) {
    *pool = (sl_blocks){.bytes = bytes, .is_fixed = 1};
    if (!widen_all(pool, n)) {
        sl_blocks_finish(pool);
        return SL_E_NO_MEMORY;
    }
    for (int32_t i = 0; i < pool->n_ids; i++) /* block 0 is taken first */
        pool->free_list[i] = pool->n_ids - 1 - i;
    pool->n_free = pool->n_ids;
    pool->n_idle = 0;
    return SL_OK;
}

sl_status sl_blocks_add(sl_blocks *pool, int64_t n) {
    if (pool->is_fixed)
        return n > 0 ? SL_E_NO_MEMORY : SL_OK;
    if (n > pool->n_idle && !widen_all(pool, n - pool->n_idle))
        return SL_E_NO_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        char *memory = pool->mem->alloc(pool->host, SL_DEVICE_CPU, pool->bytes, 64, SL_MEM_KV);
        if (memory == NULL) {
            sl_blocks_trim(pool, pool->n_free - i);
            return SL_E_NO_MEMORY;
        }
        int32_t id = pool->idle[--pool->n_idle];
        pool->base[id] = memory;
        pool->free_list[pool->n_free++] = id;
    }
    return SL_OK;
}

void sl_blocks_trim(sl_blocks *pool, int64_t keep) {
    while (pool->n_free > keep && !pool->is_fixed) {
        int32_t id = pool->free_list[--pool->n_free];
        pool->mem->release(pool->host, SL_DEVICE_CPU, pool->base[id]);
        pool->base[id] = NULL;
        pool->idle[pool->n_idle++] = id;
    }
}

int32_t sl_blocks_take(sl_blocks *pool) {
    if (pool->n_free == 0)
        return -1;
    int32_t id = pool->free_list[--pool->n_free];
    assert(pool->refs[id] == 0);
    pool->refs[id] = 1;
    return id;
}

int32_t sl_blocks_get(sl_blocks *pool) {
    if (pool->n_free == 0 && sl_blocks_add(pool, 1) < 0)
        return -1;
    return sl_blocks_take(pool);
}

void sl_blocks_drop(sl_blocks *pool, int32_t id) {
    if (id < 0)
        return;
    assert(pool->refs[id] > 0);
    if (--pool->refs[id] == 0)
        pool->free_list[pool->n_free++] = id;
}
