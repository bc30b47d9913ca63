/* paged.h - what the parts of the store share: places of rows in pages, sequences, the instance.
 *
 * paged.c keeps whole sequences: every head holds every row, and the slot of a token is its index. paged_heads.c takes
 * over the rows of a sequence of which a policy has dropped some: then each KV head of each layer has a list of its
 * own. Both use the same pages; a head's rows stand in its column of the layer's place, wherever its list says. */
#ifndef PAGED_PAGED_H
#define PAGED_PAGED_H

#include "sluice/kv.h"
#include "sluice/ops.h"

#include "sl_blocks.h"
#include "sl_error.h"

/* Where a layer's keys and values lie in a page: [page, K, D] and [page, K, Dv]. */
typedef struct paged_place {
    int64_t k_offset, v_offset;
    int64_t k_row, v_row, k_head, v_head; /* bytes */
    int64_t k_width, v_width;             /* elements of a row */
    int32_t n_kv_heads;
    int32_t first_list; /* lists of all layers stand one after the other: that of head 0 */
} paged_place;

typedef struct paged_heads paged_heads;
typedef struct paged_device paged_device; /* paged_device.h */

typedef struct paged_sequence {
    int32_t *pages; /* [max_pages] */
    int64_t n_pages;
    int64_t n_tokens;   /* committed */
    int64_t n_wanted;   /* tokens that grow promised place for */
    paged_heads *heads; /* rows were dropped; NULL: every head holds every row */
    int is_open;
} paged_sequence;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_threads *threads;
    const sl_model_info *model;
    int64_t page_rows, page_bytes;
    sl_dtype dtype;
    int dtype_auto;
    int on_device;        /* scope.device is one */
    uint32_t *served;     /* [n_layers] 0: another store's layer; NULL: all are this one's */
    paged_device *device; /* while active; NULL: on the CPU */
    sl_limits limits;
    int64_t max_pages;   /* of one sequence */
    int32_t max_heads;   /* KV heads of any layer */
    int32_t n_lists;     /* KV heads of all layers */
    paged_place *places; /* [n_layers] */
    sl_blocks pool;
    paged_sequence *seqs; /* [max_seqs] */
    /* the last view; a sequence has one segment, or one a head */
    const void **k_pages, **v_pages; /* [max_seqs, max_heads, max_pages] */
    sl_segment *segments;            /* [max_seqs, max_heads] */
    const sl_segment **segment_ptrs;
    sl_seq_view *seq_views;
    const sl_seq_view **seq_view_ptrs;
    sl_view view;
};

static inline int64_t paged_pages_for(const sl_instance *self, int64_t rows) {
    return (rows + self->page_rows - 1) / self->page_rows;
}

static inline char *paged_row(const sl_instance *self, const paged_sequence *s, int64_t slot, int64_t offset,
                              int64_t row_bytes) {
    return self->pool.base[s->pages[slot / self->page_rows]] + offset + (slot % self->page_rows) * row_bytes;
}

/* ---- paged.c: pages of a sequence
 * ------------------------------------------------------------------------------------ */

/* Makes sure that `need` pages are free beside those promised to sequences other than `except`. */
sl_status paged_have_free(sl_instance *self, const paged_sequence *except, int64_t need, sl_error *err);
/* Gives the sequence pages for rows [0, rows) and makes those that hold rows from `first` on its own. The pages that it
 * takes, paged_cover_cost, are free. */
void paged_cover(sl_instance *self, paged_sequence *s, int64_t first, int64_t rows);
int64_t paged_cover_cost(const sl_instance *self, const paged_sequence *s, int64_t first, int64_t rows);
void paged_drop_pages(sl_instance *self, paged_sequence *s, int64_t keep);
/* Gives free pages that nobody was promised back to the host, all but `keep` of them. */
void paged_trim(sl_instance *self, int64_t keep);

/* ---- paged_heads.c: sequences of which rows were dropped
 * -------------------------------------------------------------- */

/* Rows of the longest and of the shortest head; n_tokens for a whole sequence. */
int64_t paged_longest(const paged_sequence *s);
int64_t paged_shortest(const paged_sequence *s);

/* sl_kv_store.edit and .rows. */
sl_status paged_edit(sl_instance *self, const sl_kv_edit *edit);
sl_status paged_rows(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows);

/* A child of upto tokens gets the lists of its parent. SL_E_RANGE: rows of those tokens were dropped for later ones. */
sl_status paged_heads_fork(sl_instance *self, paged_sequence *s, const paged_sequence *parent, int64_t upto,
                           sl_error *err);
void paged_heads_free(sl_instance *self, paged_sequence *s);
/* Room in the lists for all tokens that were promised. */
sl_status paged_heads_grow(sl_instance *self, paged_sequence *s);
/* Is there room for n more rows? */
int paged_heads_have_room(const sl_instance *self, const paged_sequence *s, int64_t n);
/* Shortest length that the sequence can be cut to, besides 0. */
int64_t paged_heads_minimum(const paged_sequence *s);
void paged_heads_cut(sl_instance *self, paged_sequence *s, int64_t n);
/* One row of k [K, D] and v [K, Dv] as the i-th staged row of its sequence. */
void paged_heads_append(const sl_instance *self, const paged_sequence *s, int32_t layer, int64_t i, const float *k,
                        const float *v);
/* Keeps the staged rows of a path; n_tokens is still what it was before. */
void paged_heads_commit(sl_instance *self, paged_sequence *s, const int32_t *path, int32_t n_path);
/* Committed rows of every list, for a step whose rows begin at n_past. */
void paged_heads_counts(const sl_instance *self, const paged_sequence *s, int64_t n_past, int32_t *out);
/* Segments of place `at` of the view, one a head. */
void paged_heads_view(sl_instance *self, const paged_sequence *s, int32_t layer, int32_t at, int64_t n_staged,
                      int32_t seq);

#endif
