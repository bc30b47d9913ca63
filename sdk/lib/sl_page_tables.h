/* Page tables of a store's sequences in device memory, and the ring of pinned memory through which they travel.
 *
 * Tables are copies of lists on the host, indexed by sequence id, at addresses that never change. Only entries that
 * changed travel, in the lane's order, so that work queued before still reads what it was queued with. */
#ifndef SLUICE_LIB_PAGE_TABLES_H
#define SLUICE_LIB_PAGE_TABLES_H

#include "sluice/ops.h"

typedef struct sl_ring {
    const sl_host *host;
    const sl_mem *mem;
    const sl_exec *exec;
    const sl_lane *lane;
    int32_t *words; /* pinned [n] */
    int64_t n, at;
} sl_ring;

/* A ring in which `most` words have room at once, several times. SL_E_NO_MEMORY. Closing one that is all zeros is
 * nothing. */
sl_status sl_ring_open(sl_ring *ring, const sl_host *host, const sl_mem *mem, const sl_exec *exec, const sl_lane *lane,
                       int64_t most);
void sl_ring_close(sl_ring *ring);
/* Room for n words on their way; before it is used again the lane has passed. */
sl_status sl_ring_take(sl_ring *ring, int64_t n, int32_t **out, sl_error *err);
/* Copies n words to the device. */
sl_status sl_ring_send(sl_ring *ring, int32_t *device, const int32_t *words, int64_t n, sl_error *err);

/* What a commit moves - rows of accepted paths, down to the front of the staged ones - sent to device memory [1 + 3
 * most] and put into op, n_moves to max_moves; max_moves 0: nothing moves. SL_E_RANGE: more than `most`. */
sl_status sl_ring_send_moves(sl_ring *ring, const sl_commit *c, int32_t *device, int64_t most, sl_op_move *op,
                             sl_error *err);

typedef struct sl_page_tables {
    int32_t *pages; /* device [n_seqs, stride] */
    int64_t n_seqs, stride;
    int64_t *dirty; /* [n_seqs, 2] entries [begin, end) that changed */
} sl_page_tables;

/* Memory comes from the ring's host. Closing one that is all zeros is nothing. */
sl_status sl_page_tables_open(sl_page_tables *t, const sl_ring *ring, int64_t n_seqs, int64_t stride);
void sl_page_tables_close(sl_page_tables *t, const sl_ring *ring);
/* Entries [begin, end) of a sequence's list changed. */
void sl_page_tables_touch(sl_page_tables *t, int32_t seq, int64_t begin, int64_t end);
/* Sends what changed among the first n entries of its list; from then on nothing has. */
sl_status sl_page_tables_send(sl_page_tables *t, sl_ring *ring, int32_t seq, const int32_t *list, int64_t n,
                              sl_error *err);

#endif
