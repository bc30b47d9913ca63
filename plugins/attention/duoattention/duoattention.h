/* duoattention.h - what the parts of the method share: heads of a layer, sequences, the instance.
 *
 * A KV head, with its query group, is a retrieval head (keeps and sees everything) or a streaming head (keeps and sees
 * `sink` first tokens and the last `recent`). Heads are never permuted: a layer knows the rank of each head in its
 * class, and runs of neighbouring heads of one class are a segment each. */
#ifndef DUOATTENTION_H
#define DUOATTENTION_H

#include "sluice/attention.h"
#include "sluice/cost.h"
#include "sluice/ops.h"

#include "duo_pages.h"
#include "duo_ring.h"
#include "sl_error.h"

/* window: what a prompt's row sees on a streaming head. CHUNK: sinks, `recent` rows before its chunk, its chunk. */
enum { DUO_WINDOW_CHUNK = 0, DUO_WINDOW_EXACT = 1 };
enum { DUO_FIRST_DENSE = 0, DUO_FIRST_STREAMING = 1 };

/* Neighbouring KV heads of one class: a segment of the views. */
typedef struct duo_run {
    int32_t head_begin, n_heads;
    int32_t rank; /* of its first head in the class */
    int32_t is_streaming;
} duo_run;

typedef struct duo_layer {
    const uint8_t *streams; /* [K] 1: streaming head */
    duo_run *runs;          /* [n_runs] */
    int32_t n_runs, n_heads, n_full, n_streaming;
    int32_t d_k, d_v;
    int64_t k_head, v_head;               /* bytes of a head's row */
    int64_t full_k_offset, full_v_offset; /* in a page */
    int64_t full_k_row, full_v_row;       /* bytes from row to row */
    int64_t ring_offset;                  /* bytes of the layers before this one in one row of a ring */
    int64_t ring_k_row, ring_v_row;       /* bytes from row to row */
} duo_layer;

typedef struct duo_sequence {
    duo_page **pages; /* [max_pages], n_pages used: rows of the retrieval heads; slot = token index */
    int64_t n_pages;
    duo_ring ring; /* rows of the streaming heads */
    int64_t n_tokens;
    int is_open;
} duo_sequence;

typedef struct duo_device duo_device; /* duo_device.c */

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_threads *threads;
    const sl_model_info *model;
    int has_store;
    int on_device;      /* scope.device is one */
    duo_device *device; /* while active; NULL: on the CPU */
    uint32_t *served;   /* [n_layers] 0: its cache is another's */

    /* parameters */
    int64_t sink, recent, slack, prefill_chunk, page_rows;
    int window, first_chunk;
    sl_dtype dtype;
    int dtype_auto;
    uint8_t *streams;  /* [heads of all layers] */
    duo_run *runs;     /* [heads of all layers] */
    duo_layer *layers; /* [n_layers] */
    int32_t n_streaming, n_heads, max_heads, max_runs;

    /* active */
    sl_limits limits;
    duo_geometry ring;   /* of every sequence's ring */
    int64_t *ring_spans; /* [2 n_layers + 1] keys and values of each layer */
    int64_t page_bytes, max_pages, full_row_bytes;
    duo_sequence *seqs;   /* [max_seqs] */
    duo_page **all_pages; /* [max_seqs, max_pages] */
    /* rows of a prompt's chunk that is too long for the ring, of one layer at a time: [max_rows, ...] */
    char *chunk_k, *chunk_v;
    /* the last view; a sequence has a segment a run */
    const void **k_pages, **v_pages; /* retrieval: [max_seqs, max_runs, max_pages] */
    const void **k_rows, **v_rows;   /* streaming: [max_runs, max_seqs (sink + recent) + max_rows] */
    int64_t *token_index;            /* [max_seqs, sink + recent] */
    sl_segment *segments;            /* [max_seqs, max_runs] */
    const sl_segment **segment_ptrs;
    sl_seq_view *seq_views;
    const sl_seq_view **seq_view_ptrs;
    sl_view view;
    /* attention: which tokens the rows of a step see on streaming heads */
    int64_t *interval;          /* [max_rows, 2, 2] */
    const sl_mask **head_masks; /* [max_heads] */
};

static inline int64_t duo_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t duo_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* First recent token of a streaming head that keeps n tokens. */
static inline int64_t duo_first_recent(const sl_instance *self, int64_t n) {
    return duo_max(self->sink, n - self->recent);
}

/* duo_store.c, duo_view.c: the cache. */
extern const sl_kv_store duo_store;
sl_status duo_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows, const sl_rowset *tokens,
                   const sl_view **out);
/* Do the rows of the sequence at place `at` of the step go through the chunk's buffer, since the ring has no room for
 * them beside what they see? */
int duo_is_apart(const sl_instance *self, const sl_batch *batch, int32_t at);
/* A sequence lets go of everything. */
void duo_forget(sl_instance *self, duo_sequence *s);

/* duo_attend.c: which tokens a row sees. */
extern const sl_attention duo_attention;

extern const sl_cost duo_cost; /* duo_cost.c */

#endif
