/* paged_device.h - the store on a device lane: the same sequences and page books, rows in device memory.
 *
 * One pool of keys and one of values a layer, made once and never moved; page p of a sequence is page p in all of them.
 * The tables that kernels read are copies of the sequences' lists, indexed by sequence id; reserve copies the entries
 * that changed, in the lane's order, so that work queued before still reads what it was queued with. */
#ifndef PAGED_DEVICE_H
#define PAGED_DEVICE_H

#include "paged.h"

/* Tables, views and books; not yet the pools: how large they are depends on what is free once weights are loaded. */
sl_status paged_device_activate(sl_instance *self, sl_error *err);
void paged_device_deactivate(sl_instance *self);
/* The pools, before the first rows. Nothing happens when they are there. */
sl_status paged_device_pools(sl_instance *self, sl_error *err);

/* Entries [begin, end) of a sequence's list changed. */
void paged_device_touch(sl_instance *self, const paged_sequence *s, int64_t begin, int64_t end);
void paged_device_copy_page(sl_instance *self, int32_t to, int32_t from);

sl_status paged_device_flush(sl_instance *self, const sl_batch *batch, sl_error *err);
sl_status paged_device_append(sl_instance *self, const sl_kv_append *args);
sl_status paged_device_view(sl_instance *self, int32_t layer, const sl_rowset *tokens, const sl_view **out);
/* Rows of one layer that a policy keeps move to the front of their heads; pages are the sequence's own. From the first
 * time on, views have row counts by head. begin takes what that needs; nothing of it can fail for want of memory. */
sl_status paged_device_edit_begin(sl_instance *self);
sl_status paged_device_edit(sl_instance *self, const sl_kv_edit *edit);
/* Rows of accepted paths move down to the front of the staged ones. */
sl_status paged_device_compact(sl_instance *self, const sl_commit *c, sl_error *err);
/* Rows [begin, begin + n) of one layer from or to a dense host buffer; the range was checked and covered. */
sl_status paged_device_copy_rows(sl_instance *self, const paged_sequence *s, const sl_kv_copy *copy, sl_error *err);

#endif
