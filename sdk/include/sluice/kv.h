/* kv.h - the kvcache family: stores, views of what they hold, policies, codecs, prompt transformers.
 *
 * One store a scope; any chain of policies on top of it; at most one codec and one prompt transformer.
 * The life of a row:  reserve -> append (staged) -> attend ... every layer ... -> commit (kept or dropped), once for all
 * layers. Nothing that cannot be undone happens before commit. Policies edit between commit and the events that follow
 * it (CHUNK_END, PREFILL_END, COMMIT), when the step is over and memory may be taken and given back: a store that
 * quantises or factorises rows for good does so in the event, so that a policy still meets plain rows.
 */
#ifndef SLUICE_KV_H
#define SLUICE_KV_H

#include "exec.h"
#include "step.h"
#include "work.h"

SL_BEGIN

/* ---- views ----------------------------------------------------------------------------------------------------- */

enum {
    SL_SEGMENT_ROWS = 1u << 0,  /* plain rows, paged or strided */
    SL_SEGMENT_QROWS = 1u << 1, /* quantised rows */
    SL_SEGMENT_OPAQUE = 1u << 2, /* only the store can attend to it */
    /* Traits of public segments: they stand in the sets (layout, view, caps) by which a combination is negotiated,
     * never in sl_segment.kind. */
    SL_SEGMENT_RANGED = 1u << 8, /* min_distance or max_distance are used */
    SL_SEGMENT_HOST = 1u << 9    /* pages of a device store may lie in host memory */
};

enum { SL_KEYS_ROTATED = 0, SL_KEYS_RAW = 1 };      /* is RoPE already in the stored keys? */
enum { SL_ROTATE_AT_ARRAY = 0, SL_ROTATE_AT_CONSTANT = 1 }; /* RAW: position of each key */
enum { SL_QUERY_TRUE = 0, SL_QUERY_CONSTANT = 1 };  /* position of the query when it meets this segment */
enum { SL_QUANT_PER_ROW = 0, SL_QUANT_PER_CHANNEL = 1 };

/* Codes of quantised rows: value = scale * (code - zero). Groups run along the head's channels (PER_ROW) or along rows
 * (PER_CHANNEL). Codes of a row are packed along its channels, lowest bits first. Scale of slot s, head h, channel d,
 * with r = s % page_rows and j = h - head_begin, in elements after the stride:
 *   PER_ROW      scale_pages[s / page_rows] + r * scale_stride, element (j D + d) / group
 *   PER_CHANNEL  scale_pages[s / page_rows] + (r / group) * scale_stride, element j D + d
 * (a group of rows divides page_rows). Zeros likewise, in the scale's dtype. Codes are unsigned; those of one head's row
 * begin on a byte. sl_ops.attend reads 1, 2, 4 and 8 bits with scales in f32, f16 or bf16, and gives bit by bit what
 * plain f32 rows of the same values would give. */
typedef struct sl_qrows {
    uint64_t struct_size;
    const void *const *scale_pages; /* parallel to the pages of codes */
    const void *const *zero_pages;  /* NULL: symmetric, zero = 2^(bits - 1) */
    int64_t scale_stride;           /* bytes from group to group */
    int32_t group;                  /* elements a group */
    uint32_t axis;                  /* SL_QUANT_PER_* */
    sl_dtype scale_dtype;
    uint32_t bits;
    uint32_t zero_is_min; /* 1: value = scale * code + zero */
    uint32_t reserved0;
} sl_qrows;
SL_ABI_STRUCT(sl_qrows, reserved0);

/* Rows of a run of KV heads of one sequence in one layer. Address of the key of head h in slot s:
 *   k_pages[s / page_rows] + (s % page_rows) * k_row_stride + (h - head_begin) * k_head_stride        (bytes)
 * Slots [0, n_committed) are committed; [n_committed, n_committed + n_staged) hold the step's rows of this sequence, in
 * row order. Values may alias keys (latent caches). Several segments may hold rows of one head (sinks and a ring, codes
 * and a plain tail); their parts are one softmax. When token indices of these segments follow each other (token_base
 * counts on, or token_index are neighbouring parts of one array) and staged rows stand behind all committed ones, their
 * slots count through: row sets, scores and column sums of the head then speak of the slots of all of them, one segment after
 * the other. Else the host refuses those. Equal page addresses of two sequences mean that they share those
 * rows. */
typedef struct sl_segment {
    uint64_t struct_size;
    const void *const *k_pages, *const *v_pages; /* [ceil(rows / page_rows)] */
    const int64_t *token_index; /* [n_committed] ascending; NULL: token_base + slot */
    const float *rope_position; /* RAW, ROTATE_AT_ARRAY: [n_committed + n_staged] */
    const sl_qrows *k_quant, *v_quant; /* QROWS only; NULL: that side is plain rows of its dtype */
    int64_t token_base;
    int64_t n_committed, n_staged;
    int64_t page_rows;
    int64_t k_row_stride, k_head_stride, v_row_stride, v_head_stride; /* bytes */
    double rope_constant;       /* ROTATE_AT_CONSTANT */
    double query_constant;      /* QUERY_CONSTANT */
    int32_t head_begin, n_heads;
    sl_dtype k_dtype, v_dtype;
    uint32_t kind;              /* SL_SEGMENT_* */
    uint32_t key_state;         /* SL_KEYS_* */
    uint32_t rotate_at;         /* SL_ROTATE_AT_* */
    uint32_t query_at;          /* SL_QUERY_* */
    uint32_t visible_to_all;    /* 1: no causal rule (summaries, prefixes without an index) */
    uint32_t reserved0;
    int64_t min_distance, max_distance; /* RANGED: key j counts for query i only if min <= i - j < max, in token
                                           indices; max 0: no limit. A token in two segments is counted once through
                                           disjoint ranges */
    uint32_t device;            /* HOST: SL_DEVICE_* where the pages lie */
    uint32_t reserved1;
} sl_segment;
SL_ABI_STRUCT(sl_segment, reserved1);

/* All segments of one sequence in one layer; together they cover every KV head. */
typedef struct sl_seq_view {
    uint64_t struct_size;
    const sl_segment *const *segments; /* [n_segments] */
    int64_t n_visible;                 /* upper bound of rows a query may see */
    int32_t n_segments;
    int32_t seq;
} sl_seq_view;
SL_ABI_STRUCT(sl_seq_view, seq);

/* Which tokens matter. Lists are ascending token indices of committed rows; staged rows are always visible under the
 * mask unless `own_rows` says that the lists name them too. List of (row or sequence u, head group g): u * n_groups + g. */
typedef struct sl_rowset {
    uint64_t struct_size;
    const int64_t *list_begin;  /* [n_units * n_groups + 1] */
    const int32_t *token;       /* all lists, one after the other */
    int32_t n_units;            /* active rows, or sequences of the step */
    int32_t n_groups;           /* 1: whole layer; K: per KV head; H: per query head */
    uint32_t per_row;           /* 1: a unit is an active row; 0: a sequence */
    uint32_t own_rows;          /* 1: lists name staged rows too, as n_committed + row of the sequence */
    int32_t run;                /* > 1: each entry names `run` consecutive tokens from there on, those that exist (page
                                   lists; only over stores that provide "sl.kv.runs/1"); 0, 1: single tokens */
    uint32_t reserved0;
    /* On a device lane: lists in device memory, in the place of list_begin and token, which are NULL: list of (u, g) at
     * device_token + (u * n_groups + g) * device_stride, device_n[u * n_groups + g] ids of it. Units are bounded by the
     * step's; own_rows and run are 0. */
    const int32_t *device_token, *device_n;
    int64_t device_stride;      /* bound of device_n */
} sl_rowset;
SL_ABI_STRUCT(sl_rowset, device_stride);

/* What sl_view_device.heads says of a KV head: where it lies, and whether a mask's window holds for it. */
enum {
    SL_HEAD_K = 0,        /* bytes, in the place of h * k_head_stride */
    SL_HEAD_V = 1,        /* bytes, in the place of h * v_head_stride */
    SL_HEAD_PAGES = 2,    /* elements, in the place of h * pages_head_stride */
    SL_HEAD_WINDOWED = 3, /* 1: the window holds; 0: the head sees everything */
    SL_HEAD_FIELDS = 4
};

/* One layer of a store in device memory, for kernels: pages of one pool, found through tables that do not move from
 * activate to deactivate. Tables are indexed by sequence id. Key of head h in slot s of sequence q:
 *   k_pool + pages[q * pages_stride + h * pages_head_stride + s / page_rows] * k_page_stride
 *          + (s % page_rows) * k_row_stride + h * k_head_stride                                          (bytes)
 * Slots [0, n) are committed, n = n_rows[q * n_rows_stride + h * n_rows_head_stride], or the step's n_past where n_rows is
 * NULL; the step's rows of the sequence stand behind them, in row order. */
typedef struct sl_view_device {
    uint64_t struct_size;
    void *k_pool, *v_pool;
    const int32_t *pages;
    const int32_t *n_rows;
    int64_t pages_stride, pages_head_stride; /* elements; head stride 0: heads share their pages */
    int64_t n_rows_stride, n_rows_head_stride;
    int64_t k_page_stride, k_row_stride, k_head_stride; /* bytes */
    int64_t v_page_stride, v_row_stride, v_head_stride;
    int32_t page_rows; /* a power of two */
    int32_t n_heads, k_dim, v_dim;
    sl_dtype k_dtype, v_dtype; /* F32, F16, BF16; codes: U8 */
    /* Chosen rows: slots, ascending, of (unit u, group g): list + (u * n_groups + g) * list_stride, list_n[u * n_groups + g]
     * of them. NULL: all committed rows. Staged rows are always seen under the mask. */
    const int32_t *list, *list_n;
    int64_t list_stride;       /* bound of list_n */
    int32_t n_groups;          /* 1, or n_heads */
    uint32_t per_row;          /* 1: a unit is a row of the step; 0: a sequence, by place */
    /* Quantised rows (k_bits, v_bits > 0): codes with f16 scale and zero, groups as in sl_qrows. */
    const void *k_scale, *k_zero, *v_scale, *v_zero; /* base of page 0 */
    int64_t scale_page_stride_k, scale_page_stride_v, scale_stride_k, scale_stride_v; /* bytes, to the next group */
    int32_t k_bits, v_bits, k_group, v_group;
    uint32_t k_axis, v_axis;   /* SL_QUANT_PER_* */
    /* 1: tables, counts and committed rows were written by copies, or by kernels in front of the step: attention may read
     * them before the kernel right in front of it has ended. Staged rows and lists need not be there yet. */
    uint32_t settled;
    uint32_t n_windowed;       /* of heads: how many a window holds for, so that the others get the processors */
    const int64_t *heads;      /* device [n_heads, SL_HEAD_FIELDS] or NULL; plain rows only. Pages before a windowed
                                  head's window may hold other rows, finite ones */
    /* Only the oldest rows are quantised: keys of slots [0, n_coded[2 q]) of sequence q, values of [0, n_coded[2 q + 1]).
     * All others are rows of `plain`, whose slots, page_rows, heads and dims are this view's, and whose pools and pages
     * are its own. NULL: everything is as said above. */
    const struct sl_view_device *plain;
    const int32_t *n_coded;
    uint32_t zero_is_min;      /* 1: a value is scale code + zero; 0: scale (code - zero) */
    uint32_t reserved0;
} sl_view_device;
SL_ABI_STRUCT(sl_view_device, reserved0);

/* One layer as attention sees it. `rowset` is in slots of the view (the store translated token indices). */
typedef struct sl_view {
    uint64_t struct_size;
    const sl_seq_view *const *seqs; /* [batch n_seqs] */
    const sl_rowset *slots;         /* NULL: everything */
    int32_t n_seqs;
    uint32_t kinds;                 /* set of SL_SEGMENT_* that occur */
    const sl_view_device *device;   /* on a device lane: in the place of seqs and slots, which are NULL; else NULL */
} sl_view;
SL_ABI_STRUCT(sl_view, device);

/* ---- attending --------------------------------------------------------------------------------------------------- */

enum {
    SL_WANT_LSE = 1u << 0,    /* log-sum-exp of each row and query head */
    SL_WANT_SCORES = 1u << 1, /* scaled scores, before softmax */
    SL_WANT_COLSUM = 1u << 2  /* softmax mass that each key received */
};

/* Attention of one layer. Row i of the tensors is active row i. A caller may pass a slice of the heads: tensors are
 * strided, H and K are what q and the view's segments say, head_begin counts from the slice. */
typedef struct sl_attend {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    const sl_mask *mask;
    const sl_view *view;
    sl_tensor q;          /* [n, H, D] rotated, before the scale */
    sl_tensor q_raw;      /* [n, H, D] before RoPE; empty unless the layout asks for it */
    sl_tensor o;          /* [n, H, Dv] written */
    float *lse;           /* [n, H] or NULL */
    float *scores;        /* [n, H, score_stride]: element r is the r-th visible key in token order, or NULL */
    float *colsum;        /* [n_seqs, K, score_stride] summed over the layer's rows and the group's heads, by slot, or NULL */
    int64_t score_stride;
    double scale;         /* sl_layer_info.attn_scale */
    double softcap;
    int32_t layer;
    uint32_t want;        /* set of SL_WANT_* */
    const float *row_scale;     /* [n] factor on each row's scores besides scale, contained in lse ("sl.rowscale/1");
                                   NULL: 1 */
    const float *colsum_weight; /* [n] factor of each row in colsum: 0 leaves a row out ("sl.stats/1"); NULL: 1 */
    int32_t colsum_heads;       /* H: colsum keeps query heads apart, [.., H, score_stride] ("sl.stats/1"); 0: K */
    uint32_t colsum_per_row;    /* 1: colsum is [n, heads, score_stride], a row each ("sl.stats/1") */
    const sl_mask *const *head_masks; /* [K] the rule of each KV head's query heads, in the place of `mask`
                                         ("sl.mask.heads/1"); NULL: mask is everybody's */
} sl_attend;
SL_ABI_STRUCT(sl_attend, head_masks);

/* ---- stores ------------------------------------------------------------------------------------------------------ */

enum {
    SL_KV_WANTS_RAW = 1u << 0,   /* append gets keys before RoPE too */
    SL_KV_FUSES_ROPE = 1u << 1,  /* append does qk-norm, RoPE and maps itself: q and k come raw, q is rotated in place */
    SL_KV_SELECTS = 1u << 2,     /* answers "sl.select/1": no attention plugin may select in its layers */
    SL_KV_PER_HEAD = 1u << 3,    /* lengths may differ from head to head */
    SL_KV_FORKS = 1u << 4,
    SL_KV_TRUNCATES = 1u << 5,   /* to any length; without it see commit and truncate */
    SL_KV_EDITS = 1u << 6,
    SL_KV_EXPORTS = 1u << 7,     /* copy_rows works */
    SL_KV_OWN_POSITIONS = 1u << 8, /* keys are raw and get positions when read: no check against max_position */
    SL_KV_LAYER_GAPS = 1u << 9,  /* rows may be missing in some layers (skipped layers): lengths differ by layer */
    SL_KV_OVERWRITES = 1u << 10  /* append takes rows with `overwrite` */
};

typedef struct sl_kv_layout {
    uint64_t struct_size;
    int64_t row_block;   /* most new rows of one sequence that one append takes; 0: no limit */
    int64_t max_staged;  /* most staged rows of one sequence; 0: no limit */
    uint32_t kinds;      /* set of SL_SEGMENT_* that its views will contain; fixed once negotiated */
    uint32_t flags;      /* set of SL_KV_* */
    uint32_t key_state;  /* SL_KEYS_* */
    sl_dtype dtype;      /* of rows, for reports */
} sl_kv_layout;
SL_ABI_STRUCT(sl_kv_layout, dtype);

/* What admission asks: would n_seqs sequences of n_tokens each fit, and what does it cost? */
typedef struct sl_kv_quote {
    uint64_t struct_size;
    int64_t n_seqs, n_tokens; /* in: the question */
    uint32_t stage;           /* in: SL_STAGE_* the sequences are in */
    uint32_t reserved0;
    int64_t bytes;            /* out: device bytes held afterwards */
    int64_t bytes_peak;       /* out: largest on the way there */
    int64_t bytes_host;       /* out: bytes in host tiers */
    int64_t bytes_next;       /* out: marginal bytes of one more token */
} sl_kv_quote;
SL_ABI_STRUCT(sl_kv_quote, bytes_next);

/* New rows of one layer. */
typedef struct sl_kv_append {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    sl_tensor k;        /* [n, K, D] rotated (raw with SL_KV_FUSES_ROPE; on a device then rotated in place, for sl_note) */
    sl_tensor v;        /* [n, K, Dv] */
    sl_tensor k_raw;    /* [n, K, D] before RoPE, with SL_KV_WANTS_RAW; else empty */
    sl_tensor q;        /* [n, H, D]; rotated in place with SL_KV_FUSES_ROPE */
    const sl_tensor *q_norm, *k_norm; /* [D] weights with SL_KV_FUSES_ROPE, else NULL */
    const sl_map *const *maps;        /* [n_maps] to be applied, with SL_KV_FUSES_ROPE */
    int32_t n_maps;
    int32_t layer;
    uint32_t overwrite; /* 1: the rows' token indices are committed already and are replaced */
    uint32_t reserved0;
    double norm_eps;    /* of q_norm and k_norm */
} sl_kv_append;
SL_ABI_STRUCT(sl_kv_append, norm_eps);

/* Statistics that a layer's attention left, for settle and shrink ("sl.stats.seen/1"). [borrowed] */
typedef struct sl_kv_side {
    uint64_t struct_size;
    const sl_rows *rows;
    const float *colsum;  /* as in sl_attend, or NULL */
    const float *lse;     /* [n, H] or NULL */
    const sl_tensor *q;   /* [n, H, D] rotated, or NULL */
    int64_t colsum_stride;
    int32_t layer;
    uint32_t reserved0;
    const sl_view *view;  /* what was attended to; NULL when opaque */
    int32_t colsum_heads; /* K or H */
    uint32_t colsum_per_row; /* 1: [n, heads, stride], verification: rejected rows must not count */
} sl_kv_side;
SL_ABI_STRUCT(sl_kv_side, colsum_per_row);

enum { SL_MERGE_KEYS = 1u << 0, SL_MERGE_VALUES = 1u << 1 };

/* Which rows of one layer stay, and which are merged. Arrays over "all rows" run head by head over that head's slots. A
 * kept row that dropped rows name becomes  w_self row + sum of w_i row_i  over them, computed in f32; merge_weight
 * holds the w of kept and dropped rows alike; NULL: the plain mean of the kept row and those merged into it. */
typedef struct sl_kv_edit {
    uint64_t struct_size;
    const int64_t *keep_begin;  /* [K + 1] lists by KV head (all equal when the store keeps one length) */
    const int32_t *keep;        /* slots, ascending */
    const int32_t *merge_into;  /* [all rows] slot that a dropped row is merged into, -1: none; NULL */
    const float *merge_weight;  /* [all rows] */
    int32_t layer, seq;
    uint32_t merge;             /* set of SL_MERGE_*: what is merged; 0: both */
    uint32_t reserved0;
} sl_kv_edit;
SL_ABI_STRUCT(sl_kv_edit, reserved0);

enum { SL_COPY_EXPORT = 0, SL_COPY_IMPORT = 1 };

/* Rows of a token range as a dense buffer: [2 (k, v), end - begin, K, D] in the dtype given. */
typedef struct sl_kv_copy {
    uint64_t struct_size;
    const sl_lane *lane;
    void *buffer;
    int64_t begin, end;  /* token indices */
    int64_t bytes;       /* of buffer */
    int32_t layer, seq;
    uint32_t direction;  /* SL_COPY_* ; IMPORT writes committed rows: begin is at most the sequence's length, and every
                            layer is imported before the sequence is used */
    sl_dtype dtype;
} sl_kv_copy;
SL_ABI_STRUCT(sl_kv_copy, dtype);

/* "sl.kv.store/1" */
#define SL_KV_STORE_ID "sl.kv.store/1"
typedef struct sl_kv_store {
    uint64_t struct_size;
    /* What its views of that layer look like. Pure. [setup] */
    sl_status (*layout)(sl_instance *self, int32_t layer, sl_kv_layout *out);
    /* [setup] [step] */
    sl_status (*quote)(sl_instance *self, sl_kv_quote *io);
    /* Begins sequence seq; parent >= 0: with the first upto tokens of parent, shared. SL_E_RANGE: parent cannot be
     * shared there (rows evicted, state that only exists at its end); the core opens it empty and computes again, or
     * loads a saved state. [setup & active] */
    sl_status (*open)(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
    void (*close)(sl_instance *self, int32_t seq);
    /* Takes what it needs so that seq can grow to n_tokens, staged rows included, without allocating in a step. May be
     * called again with a larger number, and with the same one when an edit or a fork came in between. SL_E_NO_MEMORY names bytes needed and allowed; nothing was taken.
     * [setup & active] */
    sl_status (*grow)(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err);
    /* Makes room for all rows of the step, in all layers: afterwards append cannot fail for want of it.
     * SL_E_NO_MEMORY: nothing was taken. Once a step. Pages shared with another sequence are made private here when
     * rows of this step will be written into them. [step & active] */
    sl_status (*reserve)(sl_instance *self, const sl_batch *batch, sl_error *err);
    /* Stages the rows of one layer. [step & active] [capture] */
    sl_status (*append)(sl_instance *self, const sl_kv_append *args);
    /* Everything, or the rows of a row set given in token indices (per_row lists that name staged rows included). The
     * view lives until the next call of view. A store on a device that takes policies (SL_KV_EDITS) is also asked on a
     * CPU lane, between steps: rows and token indices of each head, pages NULL. [step & active] [capture] */
    sl_status (*view)(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows,
                      const sl_rowset *tokens, const sl_view **out);
    /* Attends for itself. Required when a layer's kinds contain OPAQUE, else optional. Must fill lse when wanted.
     * [step & active] */
    sl_status (*attend)(sl_instance *self, const sl_attend *args);
    /* After the layer's attention. Optional. [step & active] */
    sl_status (*settle)(sl_instance *self, const sl_kv_side *side);
    /* Keeps the accepted rows of every layer, drops the others, compacts. Once a step. Of a prompt's chunk all rows are
     * kept but perhaps the last one, so a store of bounded length may let old rows go before commit, once a layer's
     * rows of such a sequence are attended to (settle); of decoding and draft rows it may not. [step & active] */
    sl_status (*commit)(sl_instance *self, const sl_lane *lane, const sl_commit *commit, sl_error *err);
    /* Cuts a sequence to n tokens. Returns SL_OK, or SL_E_RANGE with *minimum = the shortest length it can be cut to
     * (then the core re-computes or restores a snapshot). minimum may be NULL. [setup] */
    sl_status (*truncate)(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum);
    /* Keeps and merges rows of one layer. Optional (SL_KV_EDITS). Memory is really returned. SL_E_INVALID: the lists do
     * not name rows, ascending; SL_E_UNIMPLEMENTED: it does not merge. After an error nothing changed. What grow took
     * may be used or given back: the core calls it again before the next step. On a device views may be others from
     * the first edit on (row counts by head): graphs captured before are not launched again. [setup & active] */
    sl_status (*edit)(sl_instance *self, const sl_kv_edit *edit);
    /* Export and import of a token range. Optional (SL_KV_EXPORTS). [setup] */
    sl_status (*copy_rows)(sl_instance *self, const sl_kv_copy *copy, sl_error *err);
    /* Tokens and device bytes that a sequence holds now. [setup] [step] */
    sl_status (*length)(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes);
    /* Rows that a layer holds of a sequence, by KV head: n_rows [K]. Optional: n_tokens of length, everywhere; required
     * with SL_KV_PER_HEAD and SL_KV_LAYER_GAPS. [setup] [step] */
    sl_status (*rows)(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows);
} sl_kv_store;
SL_ABI_STRUCT(sl_kv_store, rows);

/* ---- policies, codecs, prompt transformers ------------------------------------------------------------------------- */

/* Of sl_kv_wants. CHUNKS: it chooses at the end of every chunk of a prompt. last_rows counts from there, room for a prompt is
 * taken chunk by chunk, and in deterministic mode prompts are cut at multiples of engine.prefill_chunk alone. */
enum { SL_KV_WANTS_CHUNKS = 1 };

/* What a policy needs from a layer's attention: which rows' column sums, over which stages. */
typedef struct sl_kv_wants {
    uint64_t struct_size;
    int64_t last_rows;   /* column sums over the last n rows of the prompt, those computed for this prompt; 0: none;
                            -1: all rows */
    uint32_t want;       /* set of SL_WANT_* ; SL_WANT_COLSUM and SL_WANT_LSE */
    uint32_t stages;     /* set of SL_STAGE_* ; in DECODE and VERIFY every accepted row counts */
    uint32_t query_heads; /* 1: column sums of query heads apart */
    uint32_t flags;       /* set of SL_KV_WANTS_*, the same for all layers */
} sl_kv_wants;
SL_ABI_STRUCT(sl_kv_wants, flags);

/* Rows that a policy may judge: their scores, tokens and flags, by KV head. [borrowed] */
typedef struct sl_kv_scores {
    uint64_t struct_size;
    const float *colsum;        /* [K or H, stride] over accepted rows, by slot. All rows: since the sequence began; sums
                                   follow edits, a dropped row's goes with it. Last n rows: of this prompt. NULL when
                                   none were wanted, or when the sequence was cut and the sums contain rows that are
                                   gone */
    const sl_seq_view *view;    /* keys and values themselves, rows and token indices of each head */
    const int64_t *token_index; /* [n] of slots 0 .. n - 1, where all heads hold the same rows in one segment; NULL:
                                   iota, or see the view's segments */
    const uint32_t *row_type;   /* [n] SL_ROW_*; NULL: all TOKEN */
    int64_t n, stride;          /* rows of the longest head; floats from head to head */
    int64_t n_prompt;           /* tokens of the prompt; at CHUNK_END those that were computed */
    int32_t layer, seq;
    const uint32_t *row_flags;  /* [n] set of SL_ROW_PINNED ..., by slot; NULL: none ("sl.rows.info/1") */
    const sl_span *const *spans; /* [n_spans] of this sequence ("sl.rows.info/1") */
    int32_t n_spans;
    int32_t colsum_heads;       /* K, or H where wants asked for query heads */
} sl_kv_scores;
SL_ABI_STRUCT(sl_kv_scores, colsum_heads);

/* "sl.kv.policy/1" - scores in, keep and merge sets out. Runs after the commit of a step and before its events, on
 * accepted rows only; policies of a chain in order, each on what the one before left. */
#define SL_KV_POLICY_ID "sl.kv.policy/1"
typedef struct sl_kv_policy {
    uint64_t struct_size;
    sl_status (*wants)(sl_instance *self, int32_t layer, sl_kv_wants *out);
    /* SL_OK and *out (lives until the next call), or SL_SKIPPED: keep everything. SL_E_STATE: it cannot choose without
     * the column sums. [setup & active] */
    sl_status (*choose)(sl_instance *self, const sl_kv_scores *scores, const sl_kv_edit **out);
    /* 1 if choose is to be called for this sequence, once a layer. Asked about CHUNK_END, PREFILL_END and COMMIT before
     * anybody is told of them. [setup & active] */
    int32_t (*schedule)(sl_instance *self, const sl_event *event);
    /* Which of the layer's active prompt rows the layers above still compute (token reduction inside the model: aim).
     * keep has room for side->rows->n indices into it, ascending; the last row of a prompt always stays. SL_SKIPPED:
     * all. Dropped rows have no K/V above. Optional ("sl.rows.shrink/1"). [step] */
    sl_status (*shrink)(sl_instance *self, const sl_kv_side *side, int32_t *keep, int32_t *n_keep);
} sl_kv_policy;
SL_ABI_STRUCT(sl_kv_policy, shrink);

/* "sl.kv.codec/1" - bytes of exported rows, for disk and wire. */
#define SL_KV_CODEC_ID "sl.kv.codec/1"
typedef struct sl_kv_codec {
    uint64_t struct_size;
    /* rows: [2, n, K, D] of one layer. *bytes in: capacity, out: written (or needed, with SL_E_RANGE). [setup] */
    sl_status (*encode)(sl_instance *self, int32_t layer, const sl_tensor *rows, void *blob, int64_t *bytes, sl_error *err);
    sl_status (*decode)(sl_instance *self, int32_t layer, const void *blob, int64_t bytes, sl_tensor *rows, sl_error *err);
} sl_kv_codec;
SL_ABI_STRUCT(sl_kv_codec, decode);

enum { SL_PROMPT_CONTINUE = 0, SL_PROMPT_REPLACE = 1, SL_PROMPT_WORK = 2, SL_PROMPT_SPLIT = 3 };

typedef struct sl_prompt {
    uint64_t struct_size;
    const int32_t *token;                  /* in: [n] the whole text of the sequence, new tokens at its end; what an
                                              earlier REPLACE left out is still there */
    const sl_work_result *const *results;  /* in: [n_results] of the work returned last time */
    int64_t n;
    const int32_t *new_token;              /* out, REPLACE: [n_new] */
    const float *new_position;             /* out, REPLACE: [n_new] or NULL: 0, 1, 2 ... */
    const int64_t *split;                  /* out, SPLIT: [n_new] ascending ends of chunks, as indices into token */
    const sl_work *const *works;           /* out, WORK: [n_works] */
    int64_t n_new;
    int32_t n_results, n_works;
    int32_t seq;
    uint32_t answer;                       /* out: SL_PROMPT_* */
    const sl_span *const *spans;           /* in: [n_spans] what the request says about its parts ("sl.rows.info/1") */
    int32_t n_spans;
    float next_position;                   /* out, REPLACE: position of the first token behind; 0: one behind the last */
    const int64_t *new_index;              /* out, REPLACE: [n_new] where in token each new one stands, ascending, -1:
                                              nowhere; NULL: not told. For reports and citations */
} sl_prompt;
SL_ABI_STRUCT(sl_prompt, new_index);

/* "sl.kv.prompt/1" - may rewrite a prompt before it is computed, after work of its own if it likes. */
#define SL_KV_PROMPT_ID "sl.kv.prompt/1"
typedef struct sl_kv_prompt {
    uint64_t struct_size;
    /* Asked once a turn, when tokens were appended and before any of them is computed. What io points to is borrowed;
     * what it is made to point to lives until the next call.
     *   CONTINUE  the new tokens are computed behind what the cache holds
     *   REPLACE   the cache is emptied and new_token is computed in place of the whole text. For everybody else -
     *             stores, policies, drafters, sampling - the sequence is those tokens; the user still reads her own
     *   SPLIT     as CONTINUE, and no chunk reaches across one of these ends
     *   WORK      the items run (of sequence io->seq, without logits of more rows than the engine has room for), and
     *             begin is called again with their results
     * An error ends the request. [setup & active] */
    sl_status (*begin)(sl_instance *self, sl_prompt *io, sl_error *err);
} sl_kv_prompt;
SL_ABI_STRUCT(sl_kv_prompt, begin);

/* ---- selection ----------------------------------------------------------------------------------------------------- */

typedef struct sl_select {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    const sl_mask *mask;
    const sl_view *view;   /* everything, when the selector asked for it (caps); else NULL */
    sl_tensor q;           /* [n, H, D] rotated */
    sl_tensor q_raw;       /* before RoPE, when negotiated; else empty */
    int32_t layer;
    uint32_t reserved0;
    const float *row_scale; /* [n] as in sl_attend; NULL: 1 */
} sl_select;
SL_ABI_STRUCT(sl_select, row_scale);

/* "sl.select/1" - a store that selects for itself (shadowkv). One selector a layer, else the combination is refused. */
#define SL_SELECT_ID "sl.select/1"
typedef struct sl_selector {
    uint64_t struct_size;
    /* SL_OK and the row set in token indices, or SL_SKIPPED: everything. Lives until the next call. [step] [capture] */
    sl_status (*select)(sl_instance *self, const sl_select *args, const sl_rowset **out);
} sl_selector;
SL_ABI_STRUCT(sl_selector, select);

SL_END
#endif
