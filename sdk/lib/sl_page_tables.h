/* Page tables of a store's sequences in device memory.
 *
 * Tables are copies of lists on the host, indexed by sequence id, at addresses that never change. Only entries that
 * changed travel, in the lane's order, so that work queued before still reads what it was queued with. */
#ifndef SLUICE_LIB_PAGE_TABLES_H
#define SLUICE_LIB_PAGE_TABLES_H

#include "sl_lane_words.h"

typedef struct sl_page_tables {
    int32_t *pages; /* device [n_seqs, stride] */
    int64_t n_seqs, stride;
    int64_t *dirty; /* [n_seqs, 2] entries [begin, end) that changed */
} sl_page_tables;

/* Memory comes from the host of the words. SL_E_NO_MEMORY. Closing one that is all zeros is nothing. */
sl_status sl_page_tables_open(sl_page_tables *t, const sl_lane_words *words, int64_t n_seqs, int64_t stride);
void sl_page_tables_close(sl_page_tables *t, const sl_lane_words *words);
/* Entries [begin, end) of a sequence's list changed. */
void sl_page_tables_touch(sl_page_tables *t, int32_t seq, int64_t begin, int64_t end);
/* Sends what changed among the first n entries of its list; from then on nothing has. */
sl_status sl_page_tables_send(sl_page_tables *t, sl_lane_words *words, int32_t seq, const int32_t *list, int64_t n,
                              sl_error *err);

#endif
