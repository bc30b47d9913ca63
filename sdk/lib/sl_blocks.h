/* Blocks of one size with reference counts, for stores: pages that sequences share. Knows bytes and blocks; nothing of
 * sequences, layers or rows. A block's id stays its own while it lives; memory of free blocks can go back to the host.
 */
#ifndef SLUICE_LIB_BLOCKS_H
#define SLUICE_LIB_BLOCKS_H

#include "sluice/host.h"

typedef struct sl_blocks {
    const sl_host *host;
    const sl_mem *mem;
    int64_t bytes;      /* of a block */
    char **base;        /* [n_ids] memory of each block; NULL: given back, the id waits in idle */
    int32_t *refs;      /* [n_ids] 0: free */
    int32_t *free_list; /* [n_free] ids, last one first */
    int32_t *idle;      /* [n_idle] ids without memory */
    int32_t n_ids, n_free, n_idle;
    int is_fixed;       /* ids only, all of them from the beginning: memory is the caller's */
} sl_blocks;

void sl_blocks_init(sl_blocks *pool, const sl_host *host, const sl_mem *mem, int64_t bytes);
/* n blocks, no more and no less: ids and references without memory, for pages of a pool that is the caller's.
 * SL_E_NO_MEMORY. */
sl_status sl_blocks_init_fixed(sl_blocks *pool, int64_t bytes, int64_t n);
void sl_blocks_finish(sl_blocks *pool);

/* Makes n more blocks free. SL_E_NO_MEMORY: nothing changed. */
sl_status sl_blocks_add(sl_blocks *pool, int64_t n);

/* Gives free blocks back to the host until at most `keep` are left. */
void sl_blocks_trim(sl_blocks *pool, int64_t keep);

/* Of all blocks that have memory. */
static inline int64_t sl_blocks_bytes(const sl_blocks *pool) { return (pool->n_ids - pool->n_idle) * pool->bytes; }

/* A free block with one reference; -1: there is none. sl_blocks_get asks the host then: not in a step. */
int32_t sl_blocks_take(sl_blocks *pool);
int32_t sl_blocks_get(sl_blocks *pool);

/* Of an id -1, which is no block, both are nothing. */
static inline void sl_blocks_share(sl_blocks *pool, int32_t id) {
    if (id >= 0)
        pool->refs[id]++;
}
void sl_blocks_drop(sl_blocks *pool, int32_t id);

#endif
