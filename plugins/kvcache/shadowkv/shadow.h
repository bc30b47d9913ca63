/* shadow.h - what the parts of the store share.
 *
 * A sequence is a list of factored blocks, immutable and shared by forks, and behind them exact rows in pages of one
 * chunk. n_factored is where the blocks end: a multiple of the chunk size.
 *
 *   shadow_block.c    exact rows -> block: factors, landmarks, outliers, values to the second tier
 *   shadow_seq.c      sequences: pages, forks, cuts, staged rows
 *   shadow_select.c   query -> chunks, by their landmarks
 *   shadow_view.c     chunks -> pages that can be attended to: values fetched, keys rebuilt
 */
#ifndef SHADOWKV_SHADOW_H
#define SHADOWKV_SHADOW_H

#include "sluice/cost.h"
#include "sluice/kv.h"
#include "sluice/ops.h"

#include "shadow_factor.h"
#include "shadow_pool.h"
#include "shadow_tier.h"
#include "sl_error.h"

enum { SHADOW_MAX_BLOCKS = 32 };  /* of one sequence; what comes behind them stays exact */
enum { SHADOW_TILE_CHUNKS = 32 }; /* chunks whose keys are rebuilt by one product */
enum { SHADOW_SELECT_ROW, SHADOW_SELECT_SHARED };
enum { SHADOW_PROMPT_ROW, SHADOW_PROMPT_ALL };

/* A layer: its shape, and where its rows lie in a page. */
typedef struct shadow_place {
    int32_t H, K, D, Dv;
    int is_used;              /* 0: not in the store's scope, or without attention */
    int64_t raw, k, v;        /* offsets of raw keys [c, K D], keys [K, c, D], values [K, c, Dv] */
    int64_t k_chunk, v_chunk; /* bytes of one head's keys or values of a chunk */
    const sl_rope *rope;      /* NULL: none */
    double scale;
} shadow_place;

/* One layer of a block. All arrays of rows but the values lie in one allocation, `device`. */
typedef struct shadow_layer {
    char *device;
    char *u;                     /* [rows, rank] */
    char *sv;                    /* [K, D, rank] */
    char *landmark;              /* [K, n_kept, D] means of rotated keys */
    int32_t *kept;               /* [K, n_kept] chunks of the landmarks, ascending, counted from the block's first */
    int32_t *outlier;            /* [K, n_outliers] ascending */
    char *outlier_k, *outlier_v; /* [K, n_outliers, c, D], [.., Dv] */
    shadow_run values;           /* record head * n_chunks + chunk: [c, Dv] */
    int64_t device_bytes;
    int32_t rank;
} shadow_layer;

typedef struct shadow_block {
    int64_t refs;
    int64_t begin; /* token index of its first row */
    int32_t n_chunks, n_kept, n_outliers;
    float *position;      /* [n_chunks c] */
    shadow_layer *layers; /* [n_layers]; those that are not used are empty */
    int64_t bytes, host_bytes;
} shadow_block;

/* Chunks of one layer that were selected last and stay while they are selected again. */
typedef struct shadow_region {
    int32_t *chunk; /* [K, n_slots] chunk of the sequence, -1: free */
    char *k, *v;    /* [K, n_slots] chunks; v NULL: values are used where they lie */
} shadow_region;

typedef struct shadow_seq {
    int is_open;
    int64_t n_tokens;   /* committed */
    int64_t n_factored; /* tokens in blocks */
    int64_t n_pages;    /* of exact rows from n_factored on */
    int32_t n_blocks;
    int32_t n_slots;     /* of the region, a head; 0: no region */
    shadow_page **pages; /* [max_pages] */
    shadow_block *blocks[SHADOW_MAX_BLOCKS];
    char *region_memory;
    int64_t region_bytes;
    shadow_region *regions; /* [n_layers] */
    float *last_q;          /* [sum of H D] of the newest prompt row; NULL: not kept */
} shadow_seq;

/* Lists of the last call, and chunks of calls of several rows, which need more than a region holds. Shared by all
 * sequences. */
typedef struct shadow_wide {
    char *k, *v;
    int64_t n_chunks; /* over the heads of any layer */
    int64_t bytes;
    int32_t *run, *slot; /* row sets: token indices of runs, slots of the view */
    int64_t n_runs, n_slots;
} shadow_wide;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_threads *threads;
    const sl_scratch *scratch;
    const sl_metrics *metrics;
    const sl_model_info *model;
    /* parameters */
    int64_t chunk, budget, rank, local_chunks, outlier_chunks, min_prompt, row_block;
    int warm, refactor, dtype_auto, factor_auto, host_values;
    uint32_t verify_select, prompt_select;
    sl_dtype dtype, factor_dtype;
    int64_t element, factor_element; /* bytes */
    shadow_factor factor;
    /* from activate on */
    sl_limits limits;
    shadow_tier tier;
    shadow_pool pool;
    shadow_place *places; /* [n_layers] */
    int64_t q_width;      /* sum of H D over the layers */
    int64_t max_pages;    /* chunks of one sequence, staged rows included */
    int32_t max_K, max_D, max_Dv;
    int64_t max_rank;
    shadow_seq *seqs;          /* [max_seqs] */
    shadow_page **page_tables; /* [max_seqs, max_pages] */
    float *queries;            /* [max_seqs, q_width] with warm */
    shadow_wide wide;
    int is_warned;
    /* the last selection and the last view */
    int64_t *run_begin, *slot_begin; /* [max(row_block, max_seqs) max_K + 1] */
    sl_rowset selected, slots;
    const void **k_pages, **v_pages;        /* [max_K, max_pages] */
    int64_t *token_index;                   /* [max_K, max_pages c] */
    int32_t *need, *page_of;                /* [max_K, max_pages] of view */
    int32_t *missing;                       /* [max_pages] chunks of one head */
    char **chunk_k, **chunk_v, **chunk_dst; /* [max_pages] where they lie */
    sl_segment *segments;                   /* [max_K], then one for sequences that are not asked for */
    const sl_segment **segment_ptrs;
    sl_seq_view *seq_views;
    const sl_seq_view **seq_view_ptrs;
    sl_view view;
};

static inline int64_t shadow_chunks(const sl_instance *self, int64_t rows) {
    return (rows + self->chunk - 1) / self->chunk;
}

static inline int64_t shadow_round(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static inline void *shadow_take(const sl_instance *self, int64_t bytes, uint32_t tag) {
    return self->mem->alloc(self->host, SL_DEVICE_CPU, bytes, 64, tag);
}

static inline void shadow_give(const sl_instance *self, void *p) { self->mem->release(self->host, SL_DEVICE_CPU, p); }

/* The block that holds a chunk of the sequence; *within counts from its first. */
static inline const shadow_block *shadow_block_of(const sl_instance *self, const shadow_seq *s, int64_t chunk,
                                                  int32_t *within) {
    int32_t i = 0;
    while (chunk * self->chunk >= s->blocks[i]->begin + s->blocks[i]->n_chunks * self->chunk)
        i++;
    *within = (int32_t)(chunk - s->blocks[i]->begin / self->chunk);
    return s->blocks[i];
}

/* Place of the sequence of a call's rows in the step, and its stretch [*first, *end) among them. Calls are of one
 * sequence, as row_block promises; -1: this one is not. */
static inline int32_t shadow_place_of(const sl_rows *rows) {
    const sl_batch *b = rows->batch;
    if (rows->n == 0)
        return b->n_seqs == 1 ? 0 : -1;
    int32_t first = rows->index != NULL ? rows->index[0] : 0;
    int32_t last = rows->index != NULL ? rows->index[rows->n - 1] : rows->n - 1;
    return b->row_seq == NULL ? 0 : b->row_seq[first] == b->row_seq[last] ? b->row_seq[first] : -1;
}

extern const sl_cost shadow_cost; /* shadow_cost.c */

/* ---- shadow_block.c ---------------------------------------------------------------------------------------------- */

/* Outlier chunks a head of a prompt. */
int64_t shadow_outliers(const sl_instance *self);
/* Chunks that a sequence with that many exact rows would factor; 0: it stays exact. */
int64_t shadow_factorable(const sl_instance *self, int64_t n_exact);
/* Bytes of one layer of a block besides its values, and of a region's layer. */
int64_t shadow_layer_bytes(const sl_instance *self, const shadow_place *p, int64_t n_chunks);
int64_t shadow_region_bytes(const sl_instance *self, int64_t n_slots);
/* Turns the exact rows in front of the newest local chunks into a block. SL_SKIPPED: too few; else, on an error,
 * nothing changed. [setup] */
sl_status shadow_compress(sl_instance *self, shadow_seq *s, sl_error *err);
void shadow_block_drop(sl_instance *self, shadow_block *block);

/* ---- shadow_seq.c ------------------------------------------------------------------------------------------------ */

sl_status shadow_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
void shadow_close(sl_instance *self, int32_t seq);
sl_status shadow_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err);
sl_status shadow_reserve(sl_instance *self, const sl_batch *batch, sl_error *err);
sl_status shadow_append(sl_instance *self, const sl_kv_append *args);
sl_status shadow_commit(sl_instance *self, const sl_lane *lane, const sl_commit *commit, sl_error *err);
sl_status shadow_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum);
sl_status shadow_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes);
/* A region for the sequence's blocks as they are now, empty. */
sl_status shadow_region_open(sl_instance *self, shadow_seq *s);
void shadow_region_close(sl_instance *self, shadow_seq *s);
/* Buffers for calls of up to n_rows rows of a sequence that will be n_tokens long; one row needs lists only. */
sl_status shadow_wide_cover(sl_instance *self, const shadow_seq *s, int64_t n_tokens, int64_t n_rows);
/* Bytes of chunks in them, for sequences that may choose from n_kept. */
int64_t shadow_wide_bytes(const sl_instance *self, int64_t n_kept);
void shadow_wide_close(sl_instance *self);

/* ---- shadow_select.c --------------------------------------------------------------------------------------------- */

/* Marks the k largest of score[0 .. n), ties to the lower index. work: [n]. */
void shadow_top(const float *score, int64_t n, int64_t k, float *work, uint8_t *mark);
/* Chunks of the blocks that a query may choose from, over all blocks. */
int64_t shadow_kept(const shadow_seq *s);
/* Scratch of one worker for scoring n landmarks. */
int64_t shadow_select_scratch(const sl_instance *self);
/* Scores landmarks with the queries [n_rows, H, D], rotated, of one KV head, and marks the best chunks that begin
 * behind token `from`. mark: [shadow_kept] in the order of the blocks' kept lists. work: shadow_select_scratch bytes.
 * Returns how many were marked. */
int64_t shadow_choose(const sl_instance *self, const shadow_seq *s, int32_t layer, int32_t head, const float *q,
                      int64_t n_rows, int64_t from, uint8_t *mark, void *work);
sl_status shadow_select(sl_instance *self, const sl_select *args, const sl_rowset **out);

/* ---- shadow_view.c ----------------------------------------------------------------------------------------------- */

/* Keys of n chunks of one head, rotated, into dst[i]: from the factors. [step] */
sl_status shadow_rebuild(sl_instance *self, const sl_lane *lane, const shadow_seq *s, int32_t layer, int32_t head,
                         const int32_t *chunk, char *const *dst, int64_t n);
int64_t shadow_view_scratch(const sl_instance *self);
sl_status shadow_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                      const sl_rowset *tokens, const sl_view **out);

#endif
