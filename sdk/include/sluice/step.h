/* step.h - one step as data: sequences, rows, stages, masks, draft trees, what is kept afterwards.
 *
 * Three coordinates that are never derived from one another:
 *   token index   order in the history of a sequence, from 0        (masks and row sets speak it)
 *   position      what RoPE sees; float, one or several axes
 *   slot          where a store keeps a row                          (only the store knows)
 * A step is ragged: every sequence brings its own number of new rows.
 */
#ifndef SLUICE_STEP_H
#define SLUICE_STEP_H

#include "plugin.h"

SL_BEGIN

/* ---- rows ------------------------------------------------------------------------------------------------------ */

enum {
    SL_ROW_TOKEN = 0,   /* an ordinary token, kept unless truncated */
    SL_ROW_DRAFT = 1,   /* a node of a draft tree, kept if accepted */
    SL_ROW_PSEUDO = 2,  /* computed, never kept (a summary question, a latent) */
    SL_ROW_BEACON = 3,  /* stands for rows before it */
    SL_ROW_PADDING = 4, /* row_seq = -1, never stored, output ignored */
    SL_ROW_LATENT = 5   /* kept, but stands for no token (an injected embedding) */
};

/* What a request says about rows; policies obey. */
enum {
    SL_ROW_PINNED = 1u << 0,      /* never evicted or merged */
    SL_ROW_LOW_PRIORITY = 1u << 1 /* evicted first: images, retrieved documents */
};

typedef struct sl_tree sl_tree;
typedef struct sl_span sl_span;

/* The step in device memory, for kernels. The arrays stand at addresses that do not change from activate to deactivate:
 * a captured graph reads each step's own values. Only the bounds may be used on the host, and none of the values may be
 * passed to a kernel by value. Rows behind n_rows[0] are padding: their row_seq is -1. */
typedef struct sl_step_device {
    uint64_t struct_size;
    const int32_t *n_rows, *n_seqs;  /* [1] */
    const int32_t *seq;              /* [max_seqs] sequence id by place */
    const int32_t *row_begin;        /* [max_seqs + 1] by place */
    const int32_t *n_past;           /* [max_seqs] by place */
    const int32_t *is_tree;          /* [max_seqs] by place: 1: its rows see each other by `ancestors` */
    const int32_t *row_seq;          /* [max_rows] place of the row's sequence; -1: padding */
    const int32_t *token;            /* [max_rows] */
    const int32_t *token_index;      /* [max_rows] */
    const float *position;           /* [max_rows] */
    const uint32_t *ancestors;       /* [max_rows, SL_MAX_TREE_NODES / 32] bit j: the row sees row j of its sequence's rows,
                                        itself included; of trees only */
    int64_t max_context;             /* bound: no sequence is longer in this step, staged rows included */
    int32_t max_rows, max_seqs;      /* bounds of this step (or of the graph that it replays), not of the arrays */
    int32_t max_seq_rows;            /* bound: most rows of one sequence */
    uint32_t stages;                 /* set of SL_STAGE_* that may occur */
} sl_step_device;
SL_ABI_STRUCT(sl_step_device, stages);

/* What a step computes. Arrays are indexed by place in the step (0 .. n_seqs - 1) or by row (0 .. n_rows - 1); rows of
 * one sequence are contiguous and in token order, a tree's in node order. [borrowed for the step] */
typedef struct sl_batch {
    uint64_t struct_size;
    const int32_t *seq;          /* [n_seqs] sequence id */
    const int32_t *row_begin;    /* [n_seqs + 1] first row of each sequence */
    const int64_t *n_past;       /* [n_seqs] tokens committed before this step = token index of its first row */
    const uint32_t *stage;       /* [n_seqs] one of SL_STAGE_* */
    const sl_tree *const *tree;  /* [n_seqs] NULL unless the stage is VERIFY */
    const int32_t *row_seq;      /* [n_rows] place of the row's sequence; -1: padding */
    const int32_t *token;        /* [n_rows] id; -1: no token (an embedding) */
    const int64_t *token_index;  /* [n_rows] n_past + i; in a tree n_past + depth */
    const float *position;       /* [n_rows, n_axes] */
    const uint32_t *row_type;    /* [n_rows] SL_ROW_TOKEN ... */
    int32_t n_seqs, n_rows;
    int32_t n_axes;              /* axes of a position; 1 for text */
    int32_t model;               /* 0 target, 1 draft */
    uint64_t step;               /* counts up; for matching calls of one step, never for random numbers */
    /* With "sl.rows.info/1", else NULL and 0. */
    const int64_t *n_prompt;     /* [n_seqs] tokens of the prompt: n_past + rows >= n_prompt: its last chunk */
    const uint32_t *row_flags;   /* [n_rows] set of SL_ROW_PINNED ...; NULL: none */
    const sl_span *const *spans; /* [n_spans] modality spans of the step's sequences */
    int32_t n_spans;
    uint32_t reserved0;
    /* Layer plan of the step: [n_layers] 1: the attention (FFN) of that layer runs, 0: it is skipped for all rows, the
     * identity on the residual. NULL: all run. A layer whose attention is skipped is given no rows of this step - no
     * append, no view, no select - but reserve and commit speak of them as of any others: what the layer then holds in
     * their places is undefined, and never looked at (they are drafts of a fork). A store that cannot do with less than
     * all layers answers reserve with SL_E_UNIMPLEMENTED. */
    const uint32_t *attn_layers, *ffn_layers;
    const sl_step_device *device; /* the same in device memory; NULL on the CPU */
} sl_batch;
SL_ABI_STRUCT(sl_batch, device);

/* Which rows of the step are active in this layer. Carries layer skipping, shrinking between layers and mid-depth entry.
 * On a device the true count and index live in device memory and n is only an upper bound. */
typedef struct sl_rows {
    uint64_t struct_size;
    const sl_batch *batch;
    const int32_t *index;     /* [n] rows of the batch, ascending; NULL: 0 .. n - 1 */
    const int32_t *device_n;  /* true count in device memory, or NULL: n is exact */
    int32_t n;
    uint32_t reserved0;
} sl_rows;
SL_ABI_STRUCT(sl_rows, reserved0);

/* ---- masks ----------------------------------------------------------------------------------------------------- */

/* Masks are programs, not bit arrays: a base rule, at most two key intervals a row, spans, and the tree's ancestors.
 * A key is visible if the base allows it, it lies in one of the intervals (when there are any), and, for rows of a
 * tree, it is committed, an ancestor, or the row itself. */
enum { SL_MASK_CAUSAL = 0, SL_MASK_FULL = 1 };

/* A run of tokens with a rule of its own: full attention inside an image, say. A prompt is never cut inside a span
 * whose rule is not causal. */
struct sl_span {
    uint64_t struct_size;
    int64_t begin, end;   /* token indices [begin, end) */
    int32_t seq;          /* sequence id */
    uint32_t inside;      /* SL_MASK_*: rule among the span's own tokens */
    const char *modality; /* "text", "image" ... */
};
SL_ABI_STRUCT(sl_span, modality);

typedef struct sl_mask {
    uint64_t struct_size;
    const int64_t *interval;      /* [n_rows, 2, 2]: two intervals [lo, hi) of token indices; NULL: no limit */
    const sl_span *const *spans;  /* [n_spans] */
    int64_t window;               /* the layer's window (sl_layer_info.window); 0: none */
    int32_t n_spans;
    uint32_t base;                /* SL_MASK_* */
    /* Device lanes, beside a window; of heads that have one (SL_HEAD_WINDOWED). */
    int64_t sinks;                /* tokens [0, sinks) are seen too */
    int64_t window_chunk;         /* 0: the window ends at the row. n: its last token is the first of the row's chunk, and
                                     the chunk is seen up to the row; chunks begin at multiples of n, and where the
                                     step's rows begin. Rows of a tree: as 0 */
    uint32_t window_first;        /* 1: rows of the chunk that begins at token 0 as with window_chunk 0 */
    uint32_t reserved0;
} sl_mask;
SL_ABI_STRUCT(sl_mask, reserved0);

/* ---- draft trees ----------------------------------------------------------------------------------------------- */

enum {
    SL_DRAFT_DET = 0,  /* no distribution involved: n-grams, top-k, templates */
    SL_DRAFT_REP = 1,  /* independent draws from q */
    SL_DRAFT_NOREP = 2 /* draws from q without replacement, in this order */
};

/* The distribution from which the children of one node were really drawn. Sparse: missing ids have probability 0. */
typedef struct sl_draft_q {
    uint64_t struct_size;
    const int32_t *id;   /* [n] ascending; NULL: ids are 0 .. n - 1 */
    const double *weight; /* [n] not negative, any positive sum */
    int64_t n;
} sl_draft_q;
SL_ABI_STRUCT(sl_draft_q, n);

/* Node 0 is the first committed token whose K/V are still to be computed; nearly always it is the last committed token.
 * Where more are pending (sl_spec_seq.n_pending), nodes 1 .. n_forced are the others, a chain that needs no trial.
 * Children of one node form its trial list, in node order. A node's kind says how it came about; children of one kind
 * that follow each other form a group. */
struct sl_tree {
    uint64_t struct_size;
    const int32_t *token;               /* [n_nodes] */
    const int32_t *parent;              /* [n_nodes] parent[i] < i; parent[0] = -1 */
    const uint32_t *kind;               /* [n_nodes] SL_DRAFT_*; NULL: all DET */
    const sl_draft_q *const *q;         /* [n_nodes] q of that node's children; NULL where all are DET; or NULL */
    int32_t n_nodes;                    /* 1 .. SL_MAX_TREE_NODES */
    int32_t n_forced;                   /* leading nodes 1 .. n_forced are committed tokens whose K/V are pending */
    const uint32_t *row_type;           /* [n_nodes] SL_ROW_DRAFT, or SL_ROW_PSEUDO: computed and seen by its
                                           descendants, in no trial list, never kept ("sl.tree.pseudo/1"); NULL: all
                                           DRAFT */
};
SL_ABI_STRUCT(sl_tree, row_type);

/* ---- after the step -------------------------------------------------------------------------------------------- */

/* What is kept of each sequence's rows: the accepted path, root first. [borrowed] */
typedef struct sl_commit {
    uint64_t struct_size;
    const sl_batch *batch;
    const int32_t *path_begin; /* [n_seqs + 1] */
    const int32_t *path;       /* rows kept, counted from the sequence's first row, ascending */
    const int32_t *next;       /* [n_seqs] the token decided after the path; -1: none (inside a prompt) */
} sl_commit;
SL_ABI_STRUCT(sl_commit, next);

SL_END
#endif
