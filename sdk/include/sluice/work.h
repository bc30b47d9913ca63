/* work.h - work items, taps and maps.
 *
 * Plugins never run the model. They return work; the core schedules and batches it and calls back with the results.
 * Draft models, self-speculation, early layers, cache correction and early exits are all work items.
 */
#ifndef SLUICE_WORK_H
#define SLUICE_WORK_H

#include "exec.h"
#include "step.h"

SL_BEGIN

/* ---- taps: hidden rows of named points --------------------------------------------------------------------------- */

/* Points of a layer (or, for EMBED, FINAL_NORM and LOGITS, of the model). */
enum {
    SL_TAP_EMBED = 1,      /* residual before layer 0            [rows, hidden] */
    SL_TAP_LAYER_IN = 2,   /* residual entering the layer        [rows, hidden] */
    SL_TAP_ATTN_IN = 3,    /* after the attention norm           [rows, hidden] */
    SL_TAP_Q = 4,          /* after qk-norm and RoPE             [rows, H, D] */
    SL_TAP_K = 5,          /* likewise                           [rows, K, D] */
    SL_TAP_ATTN_OUT = 6,   /* before o                           [rows, H, Dv] */
    SL_TAP_FFN_IN = 7,     /* after the FFN norm                 [rows, hidden] */
    SL_TAP_LAYER_OUT = 8,  /* residual leaving the layer         [rows, hidden] */
    SL_TAP_FINAL_NORM = 9, /* input of the head                  [rows, hidden] */
    SL_TAP_LOGITS = 10,    /* raw logits                         [rows, vocab] */
    SL_TAP_V = 11,         /*                                    [rows, K, Dv] */
    SL_TAP_Q_RAW = 12,     /* after qk-norm, before RoPE         [rows, H, D] */
    SL_TAP_K_RAW = 13,     /* likewise                           [rows, K, D] */
    SL_TAP_MID = 14        /* residual between attention and FFN [rows, hidden] */
};

/* Of a sequence's rows in a step. LAST: the last one that stays, of a prompt's chunk as of a tree's accepted path; ALL:
 * every row, refused ones included; ACCEPTED: all that stay. */
enum { SL_TAP_ROWS_LAST = 0, SL_TAP_ROWS_ALL = 1, SL_TAP_ROWS_ACCEPTED = 2 };

typedef struct sl_tap {
    uint64_t struct_size;
    uint32_t point; /* SL_TAP_* */
    uint32_t rows;  /* SL_TAP_ROWS_* */
    int32_t layer;  /* -1 where the point has none */
    uint32_t stages; /* set of SL_STAGE_* */
} sl_tap;
SL_ABI_STRUCT(sl_tap, stages);

/* Hidden rows of one sequence, given to whoever asked for the tap. The core undoes a rotated basis or refuses the
 * combination. On a device (rows.device) a drafter's rows are bf16 in device memory, written by work that is queued on
 * the compute lane; today FINAL_NORM alone. [borrowed] */
typedef struct sl_tap_rows {
    uint64_t struct_size;
    const sl_tap *tap;
    sl_tensor rows;             /* [n, ...] */
    const int64_t *token_index; /* [n] */
    int32_t seq;
    uint32_t reserved0;
} sl_tap_rows;
SL_ABI_STRUCT(sl_tap_rows, reserved0);

/* ---- maps: transforms as data -------------------------------------------------------------------------------------- */

enum {
    SL_MAP_NONE = 0,
    SL_MAP_DIAGONAL = 1,  /* y_i = a_i x_i */
    SL_MAP_HADAMARD = 2,  /* orthonormal: kron(A_1, .., A_r, S) / sqrt(n), S the Sylvester matrix of what is left of n;
                             x is multiplied by `signs` first */
    SL_MAP_KRONECKER = 3, /* (A kron B) x */
    SL_MAP_DENSE = 4,
    SL_MAP_PER_HEAD = 5,  /* one dense map a stretch */
    SL_MAP_ROUND = 6      /* each row rounded to integers of `bits` bits with one scale, and back: what a quantised
                             product would see (simulated) */
};

/* Named points at which a map may act. */
enum {
    SL_MAP_AT_QKV_IN = 1,
    SL_MAP_AT_QK_POST_ROPE = 2,
    SL_MAP_AT_O_IN = 3,
    SL_MAP_AT_GATE_UP_IN = 4,
    SL_MAP_AT_DOWN_IN = 5,
    SL_MAP_AT_RESIDUAL = 6,    /* the basis of the residual stream */
    SL_MAP_AT_Q_POST_ROPE = 7, /* on q alone: maps that are not orthogonal need another one there than on k */
    SL_MAP_AT_K_POST_ROPE = 8,
    SL_MAP_AT_V = 9            /* told, not applied: v and the attention's output come out in this basis, by their weights */
};

/* A transform that any fused kernel can apply to rows. A row of width W is seen as [W / (n * stride), n, stride] and the
 * map acts on the middle axis: stride 1 acts on each stretch of n neighbours (a head, a block, the whole row), stride =
 * head width with n = heads acts across heads. ROUND takes the whole row. [session] */
typedef struct sl_map {
    uint64_t struct_size;
    sl_tensor a, b;   /* f32. DIAGONAL [n]; KRONECKER A [p, p], B [q, q]; DENSE [n, n]; PER_HEAD [stretches, n, n];
                         HADAMARD: a holds the A_i of +1 and -1, one behind the other, or is empty */
    sl_tensor signs;  /* HADAMARD: f32 [n] of +1 and -1, or empty */
    const int32_t *orders; /* HADAMARD: orders of the A_i, ended by 0; NULL: none */
    int64_t n;
    int64_t stride;   /* at least 1 */
    double clip;      /* ROUND: factor on a row's largest magnitude (symmetric) or on its minimum and maximum */
    uint32_t kind;    /* SL_MAP_* */
    uint32_t at;      /* SL_MAP_AT_* */
    uint32_t inverse; /* 1: the inverse; HADAMARD, KRONECKER, DENSE and PER_HEAD: the transpose, maps are orthogonal then */
    uint32_t bits;    /* ROUND: 2 .. 8 */
    uint32_t asymmetric; /* ROUND: 1: from minimum to maximum */
    uint32_t reserved0;
} sl_map;
SL_ABI_STRUCT(sl_map, reserved0);

/* ---- work items -------------------------------------------------------------------------------------------------- */

enum { SL_WORK_IDS = 0, SL_WORK_EMBEDDINGS = 1, SL_WORK_HIDDEN = 2 };

enum {
    SL_WORK_KV_OWN = 0,      /* the sequence's rows of that model, cut to `begin` first; kept afterwards */
    SL_WORK_KV_SCRATCH = 1,  /* a fork at `begin` that is dropped when the work ends */
    SL_WORK_KV_OVERWRITE = 2, /* committed rows [begin, begin + n_rows) of the target are computed again from the tokens
                                 that they stand for (ids, all layers, no logits) and replaced (cache correction); they
                                 run in the prefill stage, however few they are, a chunk at a time. In the steps of the
                                 batch n_past is begin and the rows are staged, though later rows exist; commit keeps
                                 those. Rows cut away before their turn are left out; SL_E_STATE: all of them were
                                 ("sl.overwrite/1", over stores that say SL_KV_OVERWRITES) */
    SL_WORK_KV_FOREIGN = 3,   /* a scratch fork of the target's rows, read by another model of the same geometry;
                                 dropped when the work ends ("sl.work.foreign/1") */
    SL_WORK_KV_DRAFT = 4,     /* target: a scratch fork of the committed rows that lives until the step's verification:
                                 items of later rounds continue it, cut to `begin` first. SL_E_INVALID: the item runs
                                 the attention of a layer that rows of the fork before `begin` had skipped
                                 ("sl.work.draft/1") */
    SL_WORK_KV_FILL = 5       /* layers enter_layer .. exit_layer get the rows they lack, other layers stay
                                 ("sl.work.fill/1") */
};

/* BACKGROUND ("sl.background/1"): for work sources; behind each step of the engine runs one chunk of an overwriting item,
 * or one other item, so that sequences in flight wait no longer than for a prompt's chunk. Items of one source run in
 * order. */
enum { SL_WORK_IN_STEP = 0, SL_WORK_BACKGROUND = 1 };

/* Where the last layer of an item with exit_layer > 0 ends: behind it, or ("sl.work.taps/1") when its q, k and v are
 * known: it stores nothing, does not attend and leaves no residual. */
enum { SL_WORK_EXIT_RESIDUAL = 0, SL_WORK_EXIT_QKV = 1 };

enum { SL_WORK_LOGITS_NONE = 0, SL_WORK_LOGITS_LAST = 1, SL_WORK_LOGITS_ALL = 2 };

/* Rows that the core shall compute. Several items of one model are batched; an item longer than a chunk is cut, its
 * taps are handed over whole. A tree runs in the verify stage, one row in the decode stage, several in the prefill
 * stage. [borrowed until their results came back] */
typedef struct sl_work {
    uint64_t struct_size;
    const int32_t *token;         /* IDS: [n_rows] */
    const sl_tensor *embeddings;  /* EMBEDDINGS, HIDDEN: [n_rows, hidden] */
    const float *position;        /* [n_rows] or NULL: begin + i, or as positions of the sequence go on (sl_prompt) */
    const int32_t *parent;        /* [n_rows] tree among the rows, -1: the context; NULL: a chain */
    const uint32_t *attn_layers;  /* [n_layers] 1: the attention of that layer runs; NULL: all. Layer skipping; plugins
                                     see it as sl_batch.attn_layers */
    const uint32_t *ffn_layers;   /* [n_layers] likewise. Items whose masks are the same arrays can share a batch */
    const sl_tap *const *taps;    /* [n_taps] points of the layers that run ("sl.work.taps/1"): LAST is the item's last
                                     row, ACCEPTED is ALL; stages: 0 is any. FINAL_NORM and LOGITS are not among them */
    int64_t begin;                /* token index of the first row */
    void *user;                   /* the plugin's own */
    int32_t n_rows, n_taps;
    int32_t model;                /* 0 target, 1 draft */
    int32_t seq;                  /* sequence id, in the numbering of the target */
    int32_t enter_layer;          /* first layer that runs; > 0 needs HIDDEN */
    int32_t exit_layer;           /* one past the last; -1: through the head */
    uint32_t rows_kind;           /* SL_WORK_IDS ... */
    uint32_t kv;                  /* SL_WORK_KV_* */
    uint32_t when;                /* SL_WORK_IN_STEP ... */
    uint32_t logits;              /* SL_WORK_LOGITS_* */
    int32_t branch;               /* 0: the sequence itself; 1 ..: a sequence of the plugin's own that lives and dies
                                     with seq, empty at first: a second, shorter prompt on the same model
                                     ("sl.work.branch/1"). Its rows are kept (KV_OWN), cut to `begin` first; a fork of
                                     seq shares them. Today: 1, of the target */
    uint32_t exit_at;             /* SL_WORK_EXIT_* */
} sl_work;
SL_ABI_STRUCT(sl_work, exit_at);

typedef struct sl_work_result {
    uint64_t struct_size;
    const sl_work *work;
    const float *logits;              /* [1 or n_rows, vocab], raw; NULL if none were asked for */
    const sl_tap_rows *const *taps;   /* [work->n_taps] f32; of an item cut into chunks, handed over whole */
    sl_status status;                 /* < 0: it could not be run; the item is dropped. SL_E_RANGE of a fork: the store
                                         cannot share its rows at `begin` (a policy dropped some) */
    uint32_t reserved0;
    const float *hidden;              /* [n_rows, hidden] residual rows behind the last layer that ran, when the item ends in
                                         front of the head (exit_layer) with EXIT_RESIDUAL; else NULL */
} sl_work_result;
SL_ABI_STRUCT(sl_work_result, hidden);

/* "sl.work.source/1" - any instance may answer it: work that is no part of a draft (recompute of dropped rows, latents
 * after the prompt, scoring in the background). Asked between steps, after commit and events, of instances that answer
 * it; attention plugins have the same function in their own table. */
#define SL_WORK_SOURCE_ID "sl.work.source/1"
typedef struct sl_work_source {
    uint64_t struct_size;
    /* results: of the works returned last time, all of them, in their order. *works lives until their results came;
     * *n_works = 0: nothing to do. Asked again behind each step as soon as nothing is outstanding, and at once when
     * items IN_STEP have been run. Sequences that ended or were cut meanwhile: status SL_E_STATE. [setup & active] */
    sl_status (*work)(sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                      const sl_work *const **works, int32_t *n_works);
} sl_work_source;
SL_ABI_STRUCT(sl_work_source, work);

SL_END
#endif
