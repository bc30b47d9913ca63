/* kivi_device.h - the store on a device lane: what is coded is the same function of the rows held, how it lies is not.
 *
 * A sequence has two lists of pages of G rows, the same for all layers and heads: plain pages (keys and values), and
 * pages of codes with their scales. Slots are token indices, in both. Of a sequence of n tokens
 *
 *     keys of slots [0, n_coded[KEYS]) are codes: whole pages
 *     values of slots [0, n_coded[VALUES]) are codes, n_coded[VALUES] <= n_coded[KEYS]
 *     all others are plain, and a plain page is kept until both of its sides are coded
 *
 * One pool of each kind a layer, made once and never moved. Coding is noted by events in the books of the host, at
 * once, and done by one kernel for all sequences before anything else is queued on the lane (kivi_device_drain). Pages
 * of codes that sequences share are coded into by each of them: the rows are the same, and so are the bytes.
 *
 * kivi_device.c has the step, kivi_device_seqs.c the books, kivi_device_rows.c export and import. */
#ifndef KIVI_KIVI_DEVICE_H
#define KIVI_KIVI_DEVICE_H

#include "kivi.h"

#include "sl_page_tables.h"

enum { KIVI_MAX_JOBS = 2048 }; /* of one launch */

typedef struct kivi_pages {
    int32_t *id; /* [max_pages] those of [begin, end) are held; what stands in front is stale, and may still be read by
                    work that was queued or noted */
    int64_t begin, end;
} kivi_pages;

typedef struct kivi_device_seq {
    kivi_pages plain, coded; /* coded: [0, end) */
    int64_t n_tokens, n_wanted;
    int64_t n_coded[2];
    int is_open, decoding;
} kivi_device_seq;

/* Codes on their way: slots [begin, end) of one page. */
typedef struct kivi_job {
    int32_t seq, begin, end, side;
} kivi_job;

/* Where a layer's rows lie in its pages. */
typedef struct kivi_place {
    int64_t plain_bytes, coded_bytes;                 /* of a page */
    int64_t plain[2], codes[2], scales[2], minima[2]; /* offsets: keys, values */
} kivi_place;

struct kivi_device {
    const sl_exec *exec;
    const sl_lane *lane;
    sl_lane_words words;
    sl_page_tables plain_tables, coded_tables;
    int32_t *n_coded;               /* device [max_seqs, 2] */
    int32_t *jobs;                  /* device [4 KIVI_MAX_JOBS] */
    int32_t *moves;                 /* device [1 + 3 max_rows] */
    int64_t max_pages, tail_pages;  /* of one sequence; plain ones while it decodes */
    int64_t plain_page, coded_page; /* bytes, all layers */
    kivi_place *places;             /* [n_layers] */
    char **plain_pools, **coded_pools;
    sl_view_device *plain_views, *views; /* [n_layers]; views: codes, then plain rows */
    const sl_view_device **plain_ptrs, **ptrs;
    sl_blocks plain, coded; /* books of pages */
    kivi_device_seq *seqs;  /* [max_seqs] */
    kivi_job *noted;        /* [cap_noted] in order */
    int64_t n_noted, cap_noted;
    int32_t coded_begin, coded_end; /* sequences whose n_coded changed */
    int all_plain;                  /* nothing of the step's sequences is coded */
    int ready;                      /* the pools are there */
    sl_view_device listed;          /* the last view through a row set */
    sl_view view;
};

/* ---- kivi_device.c ------------------------------------------------------------------------------------------------
 */

/* What a device cannot do with these settings. [setup] */
sl_status kivi_device_check(const sl_instance *self, sl_error *err);
sl_status kivi_device_activate(sl_instance *self, sl_error *err);
void kivi_device_deactivate(sl_instance *self);
/* The pools, before the first rows. Nothing happens when they are there. */
sl_status kivi_device_pools(sl_instance *self, sl_error *err);
/* Queues what events noted. */
sl_status kivi_device_drain(sl_instance *self, sl_error *err);
/* Functions of sl_kv_store. */
sl_status kivi_device_reserve(sl_instance *self, const sl_batch *batch, sl_error *err);
sl_status kivi_device_append(sl_instance *self, const sl_kv_append *args);
sl_status kivi_device_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rowset *tokens,
                           const sl_view **out);
sl_status kivi_device_commit(sl_instance *self, const sl_commit *c, sl_error *err);

/* ---- kivi_device_seqs.c -------------------------------------------------------------------------------------------
 */

/* Notes all that should be coded. */
void kivi_device_flush(sl_instance *self, int32_t seq);
/* Plain pages for rows [0, rows), and pages of its own for those from `first` on. */
sl_status kivi_device_cover(sl_instance *self, int32_t seq, int64_t first, int64_t rows, sl_error *err);
void kivi_device_uncover(sl_instance *self, int32_t seq);
void kivi_device_cut(sl_instance *self, int32_t seq, int64_t n);
/* Can the sequence be cut to n tokens, or shared there? */
int kivi_device_may_cut(const sl_instance *self, const kivi_device_seq *s, int64_t n);
sl_status kivi_device_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
void kivi_device_close(sl_instance *self, int32_t seq);
sl_status kivi_device_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err);
sl_status kivi_device_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum);
sl_status kivi_device_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes);
sl_status kivi_device_quote(sl_instance *self, sl_kv_quote *io);

/* ---- kivi_device_rows.c -------------------------------------------------------------------------------------------
 */

sl_status kivi_device_copy_rows(sl_instance *self, const sl_kv_copy *copy, sl_error *err);

#endif
