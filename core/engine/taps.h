/* taps.h - hidden rows of named points that work items asked for ("sl.work.taps/1"): copied out of the forward pass
 * while the item runs, chunk after chunk, and handed over whole with its result. */
#ifndef SLUICE_CORE_TAPS_H
#define SLUICE_CORE_TAPS_H

#include "engine/network.h"

/* Where the rows of all items of one call lie; one block, reused while it is large enough. Zeroed: empty. */
typedef struct sli_tap_store {
    char *bytes;
    int64_t size, used;
} sli_tap_store;

/* Are the item's taps points that its pass meets? SL_E_UNIMPLEMENTED: a point of the head. [any] */
sl_status sli_taps_check(const sli_network *net, const sl_work *w);

/* Bytes that one item's taps take. */
int64_t sli_taps_bytes(const sli_network *net, const sl_work *w);

/* Empties the store and makes room for that many bytes. */
sl_status sli_taps_reserve(sli_tap_store *store, int64_t bytes);
/* Gives its memory back; results are gone with it. */
void sli_taps_release(sli_tap_store *store);

/* Rows to be filled, of an item whose bytes were reserved; result->taps points to them. NULL: it has no taps. */
void sli_taps_place(sli_tap_store *store, const sli_network *net, sl_work_result *result);

/* All of the item has run: its rows become those that the model as it was would have had ("sl.rewrite/1"). [step] */
sl_status sli_taps_finish(const sli_network *net, const sl_work_result *result);

/* One pass over rows [done, done + n) of the item. */
typedef struct sli_tap_feed {
    sl_work_result *result;
    int64_t done;
    uint32_t stage; /* SL_STAGE_* of the rows */
} sli_tap_feed;

/* sli_tap_fn; user is an sli_tap_feed. */
void sli_taps_take(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width);

#endif
