/* attention.h - the attention family: which tokens matter, and how rows are attended to.
 *
 * Select, locate, attend are three acts. A plugin may select and leave attending to the core's kernel, attend and leave
 * selecting alone, or both. What it leaves out the core does.
 */
#ifndef SLUICE_ATTENTION_H
#define SLUICE_ATTENTION_H

#include "kv.h"

SL_BEGIN

enum {
    SL_ATTN_NOTES_ROWS = 1u << 0,   /* note_rows is called for its layers in every stage */
    SL_ATTN_NOTES_RAW = 1u << 1,    /* ... with q and k before RoPE too */
    SL_ATTN_SELECT_VIEW = 1u << 2,  /* select gets the whole view */
    SL_ATTN_NEEDS_ORDER = 1u << 3,  /* layers must run in order and none may be skipped unannounced:
                                       sl_batch.attn_layers announces it, from plan on */
    SL_ATTN_TREE = 1u << 4,         /* takes draft trees */
    SL_ATTN_EXACT = 1u << 5,        /* equals softmax attention over everything visible */
    SL_ATTN_CHUNKED = 1u << 6,      /* its result depends on where a prompt is cut into chunks; reports say so. With
                                       sl_limits.deterministic chunks end at multiples of engine.prefill_chunk,
                                       whatever else is in the batch ("sl.chunk.align/1") */
    SL_ATTN_ANY_MASK = 1u << 7,     /* honours intervals, spans and a FULL base; without it only causal prompts are
                                       served */
    SL_ATTN_OWN_POSITIONS = 1u << 8, /* rotates for itself: no check against max_position */
    SL_ATTN_COLSUM = 1u << 9,       /* its attend serves SL_WANT_COLSUM and all colsum fields of sl_attend ("sl.stats/1") */
    SL_ATTN_NO_CAPTURE = 1u << 10   /* on a device: its calls may not be recorded into a graph; steps with it are queued
                                       launch by launch */
};

typedef struct sl_attn_caps {
    uint64_t struct_size;
    uint32_t flags;         /* set of SL_ATTN_* */
    uint32_t segment_kinds; /* set of SL_SEGMENT_* that attend reads */
    uint32_t key_states;    /* bit SL_KEYS_ROTATED, bit SL_KEYS_RAW: 1u << state */
    uint32_t wants;         /* set of SL_WANT_* it needs when somebody else attends; see `seen` ("sl.stats.seen/1") */
    int64_t row_block;      /* most new rows of one sequence at once; 0: no limit */
    int64_t chunk_align;    /* prompts are cut at multiples of this many tokens ("sl.chunk.align/1"); 0: anywhere */
    const sl_rope *rope;    /* replaces the layer's rotary table, before the first token ("sl.rope/1"); NULL: the
                               model's. [session] */
} sl_attn_caps;
SL_ABI_STRUCT(sl_attn_caps, rope);

/* Upper bounds of the coming step; exact values are in the batch (on a device: in its step block). */
typedef struct sl_attn_plan {
    uint64_t struct_size;
    const sl_batch *batch;
    int64_t max_context;      /* in: longest sequence, new rows included */
    int32_t max_rows;         /* in: most new rows of one sequence */
    int32_t variant;          /* out: which of its graphs the step needs, 0 .. 3 */
    const int32_t *row_order; /* out: [n_seqs] order in which sequences are laid out ("sl.order/1"); NULL: as given */
    int64_t scratch_bytes;    /* out */
    const float *row_scale;   /* out: [batch n_rows] factor on the scores of each row in its layers, lives for the step
                                 ("sl.rowscale/1"); NULL: 1 */
} sl_attn_plan;
SL_ABI_STRUCT(sl_attn_plan, row_scale);

typedef struct sl_note {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    sl_tensor q, k, v;     /* [n, H, D], [n, K, D] rotated, [n, K, Dv] */
    sl_tensor q_raw, k_raw; /* before RoPE, with SL_ATTN_NOTES_RAW; else empty */
    int32_t layer;
    uint32_t reserved0;
} sl_note;
SL_ABI_STRUCT(sl_note, reserved0);

/* "sl.attention/1" */
#define SL_ATTENTION_ID "sl.attention/1"
typedef struct sl_attention {
    uint64_t struct_size;
    /* Pure. [setup] */
    sl_status (*caps)(sl_instance *self, int32_t layer, sl_attn_caps *out);
    /* Once a step, before rows are laid out. Optional. [step & active] */
    sl_status (*plan)(sl_instance *self, sl_attn_plan *io);
    /* Rows of a layer went by. Optional. [step & active] [capture] */
    sl_status (*note_rows)(sl_instance *self, const sl_note *note);
    /* Row set in token indices, or SL_SKIPPED: everything. Lives until the next call for a selecting layer. The rows of a
     * call are of one stage, here and in the attend that follows. Optional. [step & active] [capture] */
    sl_status (*select)(sl_instance *self, const sl_select *args, const sl_rowset **out);
    /* Computes o (and what is wanted) over the view. SL_PENDING: finish will be called with the same arguments.
     * Optional: the core's kernel attends. [step & active] [capture] */
    sl_status (*attend)(sl_instance *self, const sl_attend *args);
    sl_status (*finish)(sl_instance *self, const sl_attend *args);
    /* What was kept of the step. Optional. [step & active] */
    sl_status (*commit)(sl_instance *self, const sl_commit *commit);
    /* Work of its own (cache correction), asked for after commit: *works lives until the results came. Optional. */
    sl_status (*work)(sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                      const sl_work *const **works, int32_t *n_works);
    /* Somebody else attended in its layer (the core, or the store to its opaque rows): args hold what caps.wants asked
     * for, o included. How a selector gets scores over any store. Optional ("sl.stats.seen/1"). [step & active] [capture] */
    sl_status (*seen)(sl_instance *self, const sl_attend *args);
} sl_attention;
SL_ABI_STRUCT(sl_attention, seen);

/* "sl.attention.kv/1" - an attention plugin that keeps something of its own beside the cache (bounds of pages, summaries)
 * may answer it: told what the stores keep, and when sequences begin, grow, are cut and end. Sequence ids are those of
 * the batch, scratch forks of work items included (events name sessions only). List the id in `needs` or `wants`: it is
 * the host that calls. All functions are optional. */
#define SL_ATTENTION_KV_ID "sl.attention.kv/1"
typedef struct sl_attention_kv {
    uint64_t struct_size;
    /* What the store of a layer keeps; once for each layer of the scope, before the first sequence. [setup & active] */
    sl_status (*layout)(sl_instance *self, int32_t layer, const sl_kv_layout *layout, sl_error *err);
    /* seq begins, empty (parent -1) or with the first upto tokens of parent. Called when the stores have opened it; an
     * error closes it again. [setup & active] */
    sl_status (*open)(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
    /* Nothing happens where seq is not open. */
    void (*close)(sl_instance *self, int32_t seq);
    /* Takes what it needs so that seq can grow to n_tokens, staged rows included: as sl_kv_store.grow. [setup & active] */
    sl_status (*grow)(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err);
    /* seq was cut to n tokens; takes no memory. [setup & active] */
    void (*truncate)(sl_instance *self, int32_t seq, int64_t n);
} sl_attention_kv;
SL_ABI_STRUCT(sl_attention_kv, truncate);

SL_END
#endif
