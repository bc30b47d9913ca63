/* ops.h - shared operations as launchers: the kernels that the core itself uses, on the lane that is given.
 *
 * One parameter struct an operation. Results of one instruction set do not depend on the number of rows in a call, on
 * how work is split over workers, or on what else is in the batch. Tensors are f32 unless said otherwise.
 *
 * On a device lane data lies in device memory; inputs of products (x), rows of q, k, v and o are bf16, residual rows
 * and logits f32, and each tensor's dtype says so. Counts of rows are bounds there: kernels read the true ones from the
 * step (sl_batch.device). Nothing waits: work is queued on the lane. In deterministic mode (sl_limits) results of a row
 * do not depend on the number of rows, on the batch or on the stage; else sums may be ordered by what is fastest for a
 * shape.
 */
#ifndef SLUICE_OPS_H
#define SLUICE_OPS_H

#include "exec.h"
#include "kv.h"
#include "work.h"

SL_BEGIN

/* y[T, N] = epilogue(x[T, K] w[N, K]^T); w is f32, f16 or bf16. compute: SL_F32, or SL_BF16 (x is rounded first). */
typedef struct sl_op_gemm {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_tensor *x, *w;
    sl_tensor *y;
    const sl_tensor *bias;     /* [N] or NULL */
    const sl_tensor *residual; /* [T, N] or NULL; may be y */
    uint32_t compute;          /* SL_F32 or SL_BF16 */
    uint32_t reserved0;
    /* Device lanes ("sl.ops.device/1"). */
    uint32_t act_mul; /* 1: w is [2 N, K], gate above up: y [T, N] = act(gate x) * (up x); no residual */
    uint32_t act;     /* SL_ACT_* */
} sl_op_gemm;
SL_ABI_STRUCT(sl_op_gemm, act);

enum { SL_Q_CPU = 0, SL_Q_CUDA = 1 }; /* whose kernels read the blob */
enum {
    SL_Q_INTEGER = 0,
    SL_Q_E4M3 = 1
}; /* E4M3: weights with an f32 scale a row; rows of x are rounded to E4M3 too, with
     an f32 scale each: lossy on both sides. bits 8, group >= k. Devices only */

/* A format of packed weights: integers of `bits` with a scale (and zero) for each group along the input. */
typedef struct sl_q_format {
    uint64_t struct_size;
    int64_t n, k;        /* the matrix is [n, k] */
    int64_t group;       /* a multiple of 32; the last one may be short; k or more: the whole row */
    uint32_t bits;       /* 8 or 4 */
    uint32_t asymmetric; /* 1: w = scale (q - zero) */
    uint32_t target;     /* SL_Q_CPU or SL_Q_CUDA; packing runs on the host either way */
    uint32_t kind;       /* SL_Q_INTEGER or SL_Q_E4M3 */
} sl_q_format;
SL_ABI_STRUCT(sl_q_format, kind);

/* y[T, N] = epilogue(x[T, K] dequantised(blob)^T), multiplied packed. */
typedef struct sl_op_qgemm {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_q_format *format;
    const void *blob;
    const sl_tensor *x;
    sl_tensor *y;
    const sl_tensor *bias;
    const sl_tensor *residual;
    uint32_t act_mul; /* as in sl_op_gemm; the format's n is 2 N */
    uint32_t act;
} sl_op_qgemm;
SL_ABI_STRUCT(sl_op_qgemm, act);

/* y = w * x / rms(x), by rows of the last dimension. */
typedef struct sl_op_norm {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_tensor *x; /* [T, E] or [T, H, D] */
    const sl_tensor *w; /* [E] or [D] */
    sl_tensor *y;       /* may be x */
    double eps;
} sl_op_norm;
SL_ABI_STRUCT(sl_op_norm, eps);

/* Rotates [T, H, D] in place, row i at position[i]. inverse: rotates back. */
typedef struct sl_op_rope {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rope *rope;
    const float *position; /* [T] */
    sl_tensor *x;
    uint32_t inverse;
    uint32_t reserved0;
} sl_op_rope;
SL_ABI_STRUCT(sl_op_rope, reserved0);

/* An operation that does not know an activation returns SL_E_UNIMPLEMENTED. */
enum { SL_ACT_SILU = 0, SL_ACT_GELU_TANH = 1, SL_ACT_RELU = 2, SL_ACT_GELU = 3 };

/* y = act(gate) * up, element by element. */
typedef struct sl_op_act_mul {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_tensor *gate, *up;
    sl_tensor *y; /* may be gate */
    uint32_t act; /* SL_ACT_* */
    uint32_t reserved0;
    /* Device lanes ("sl.ops.device/1"), where up may be NULL: 1. */
    const sl_tensor *residual; /* of y's dtype, added; may be y; or NULL */
} sl_op_act_mul;
SL_ABI_STRUCT(sl_op_act_mul, residual);

/* The k largest of each row, best first; ties: lower id. */
typedef struct sl_op_topk {
    uint64_t struct_size;
    const sl_lane *lane;
    const float *x; /* [rows, n] */
    int32_t *id;    /* [rows, k] */
    float *value;   /* [rows, k] or NULL */
    int64_t rows, n, stride, k;
} sl_op_topk;
SL_ABI_STRUCT(sl_op_topk, k);

/* Joins two partial results of the same rows: o and lse become those of the union. */
typedef struct sl_op_lse_merge {
    uint64_t struct_size;
    const sl_lane *lane;
    sl_tensor *o; /* [n, H, Dv] in and out */
    float *lse;   /* [n, H] in and out */
    const sl_tensor *o2;
    const float *lse2;
} sl_op_lse_merge;
SL_ABI_STRUCT(sl_op_lse_merge, lse2);

/* Softmax mass that each key received, from q and the lse of a finished attention, without its output: for statistics
 * over other rows, weights or temperatures than the attention had (look_m, aim, h2o). */
typedef struct sl_op_colsum {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    const sl_mask *mask;
    const sl_view *view;     /* public segments */
    const sl_tensor *q;      /* [n, H, D] rotated, before the scale */
    const float *lse;        /* [n, H] of the same scale and temperature; NULL: computed here, into scratch */
    const float *row_weight; /* [n, H] factor on each row's probabilities; NULL: 1 */
    float *colsum;           /* [n_seqs, heads, stride] by slot, overwritten */
    int64_t stride;
    double scale, softcap;
    double temperature; /* scores are divided by it; 1: the model's own softmax */
    int32_t layer;
    int32_t heads; /* K: summed over each group; H: query heads apart */
} sl_op_colsum;
SL_ABI_STRUCT(sl_op_colsum, heads);

/* Applies a map to rows, in place. */
typedef struct sl_op_map {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_map *map;
    sl_tensor *x;       /* [T, W] or [T, H, D], contiguous */
    uint32_t backwards; /* 1: the inverse of the map; not ROUND */
    uint32_t reserved0;
} sl_op_map;
SL_ABI_STRUCT(sl_op_map, reserved0);

/* ---- device lanes ("sl.ops.device/1") ---------------------------------------------------------------------------- */

/* x[i] = table[token of row i] as f32, for the rows of the step. */
typedef struct sl_op_embed {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_batch *batch;
    const sl_tensor *table; /* [vocab, E] f32, f16 or bf16 */
    sl_tensor *x;           /* [n, E] f32 */
} sl_op_embed;
SL_ABI_STRUCT(sl_op_embed, x);

/* The rows of a step on their way into a store, in one kernel: norms of q and k, RoPE, maps, and k and v written to
 * their slots. The store's own append calls it. */
typedef struct sl_op_append {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows;
    const sl_rope *rope;        /* of the layer; NULL: none */
    const sl_tensor *q, *k, *v; /* bf16 [n, H, D], [n, K, D], [n, K, Dv], strided by rows; q and k are changed in place */
    const sl_tensor *q_norm, *k_norm; /* f32 [D] or NULL */
    const sl_map *const *maps;        /* [n_maps] after RoPE */
    const sl_view_device *into;
    double norm_eps;
    int32_t n_maps;
    uint32_t overwrite;
} sl_op_append;
SL_ABI_STRUCT(sl_op_append, overwrite);

/* Rows of all layers moved inside of their sequences (a draft tree's accepted path closing ranks): for each move m of
 * [0, n_moves[0]), slot from[m] of sequence seq[m] is copied to slot to[m], in order of m within a sequence, to[m] <
 * from[m]. */
typedef struct sl_op_move {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_view_device *const *layers; /* [n_layers] host array */
    const int32_t *n_moves;              /* device [1] */
    const int32_t *seq, *from, *to;      /* device [max_moves] */
    int32_t n_layers, max_moves;
    uint32_t staged; /* 1: from and to count from the first staged row of each head (n_rows of its view) */
    uint32_t reserved0;
} sl_op_move;
SL_ABI_STRUCT(sl_op_move, reserved0);

/* Rows of one layer and sequence that stay, gathered to the front of their heads: row i of head h becomes what stands in
 * slot keep[keep_begin[h] + i], for heads [0, n_heads) of the view. Slots of a head ascend, so none lies before where it
 * goes. Between steps: seq is no data of a graph. */
typedef struct sl_op_keep {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_view_device *layer;
    const int32_t *keep_begin, *keep; /* device [n_heads + 1], and as many slots as it says */
    int32_t seq;
    uint32_t reserved0;
} sl_op_keep;
SL_ABI_STRUCT(sl_op_keep, reserved0);

/* Rows of all layers coded where they stand: for each job j, slots [begin[j], end[j]) of sequence seq[j] are read from
 * the view's `plain` and written as codes with zero_is_min: minimum and (maximum - minimum) / (2^bits - 1) of a group in
 * f16, codes rounded to even against those. side[j] 0: keys, by channel, the slots of one group of k_group; 1: values, by
 * row. Slots of a job stand in one page; pages are those of the tables when the work is done. n_coded is the caller's to
 * write. Not in a capture. */
typedef struct sl_op_quantise {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_view_device *const *layers;      /* [n_layers] host array */
    const int32_t *seq, *begin, *end, *side; /* device [n_jobs] */
    int32_t n_layers, n_jobs;
} sl_op_quantise;
SL_ABI_STRUCT(sl_op_quantise, n_jobs);

/* y[i] = x[row[i]], f32 [n, E]; row in device memory. */
typedef struct sl_op_gather {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_tensor *x;
    const int32_t *row; /* [n] */
    sl_tensor *y;
} sl_op_gather;
SL_ABI_STRUCT(sl_op_gather, y);

/* Slots that rows attend to, by the scores that sl_ops.attend left: for each row and group of query heads the `budget`
 * committed slots with the largest scores, a group's heads competing by the larger one; ascending; equal scores: the
 * lower slot. Rows of one token a sequence (decoding), over views whose n_rows is NULL: element r of a row's scores is
 * slot r. What it makes is a list of sl_view_device. */
typedef struct sl_op_pick {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_rows *rows; /* all rows of the step */
    float *scores;       /* [n, heads, score_stride]; spoiled */
    int32_t *list;       /* [n, groups, list_stride] */
    int32_t *list_n;     /* [n, groups] */
    int64_t score_stride, list_stride;
    int64_t budget;
    int64_t all_up_to;   /* rows with no more committed slots get all of them; budget .. list_stride */
    int32_t heads, groups;
    uint32_t half;       /* 1: scores are rounded to f16 before they compete */
    uint32_t reserved0;
} sl_op_pick;
SL_ABI_STRUCT(sl_op_pick, reserved0);

/* Softmax attention of one sequence by a vendor's library, planned once for a shape. bf16 in and out; f32 inside.
 * Strides in elements; rows of one head. */
typedef struct sl_sdpa_desc {
    uint64_t struct_size;
    int64_t n_q, n_kv; /* query rows and keys; with causal, query i sees keys 0 .. i + n_kv - n_q */
    int64_t q_row, q_head, k_row, k_head, v_row, v_head, o_row, o_head;
    double scale;
    int32_t heads, kv_heads, head_dim;
    uint32_t causal;
    uint32_t want_lse;
    uint32_t reserved0;
} sl_sdpa_desc;
SL_ABI_STRUCT(sl_sdpa_desc, reserved0);

typedef struct sl_sdpa_run {
    uint64_t struct_size;
    const void *q, *k, *v;
    void *o;
    float *lse; /* [heads, n_q], with want_lse; else NULL */
} sl_sdpa_run;
SL_ABI_STRUCT(sl_sdpa_run, lse);

typedef struct sl_sdpa_impl sl_sdpa_impl;

/* "sl.sdpa/1" - on devices whose vendor library could be loaded. */
#define SL_SDPA_ID "sl.sdpa/1"
typedef struct sl_sdpa {
    uint64_t struct_size;
    /* Takes tens to hundreds of milliseconds the first time. SL_E_UNIMPLEMENTED: no engine for this shape. [setup] */
    sl_status (*create)(const sl_host *host, const sl_lane *lane, const sl_sdpa_desc *desc, sl_sdpa_impl **out,
                        sl_error *err);
    void (*destroy)(const sl_host *host, sl_sdpa_impl *sdpa);
    /* Bytes of workspace that run wants (sl.scratch/1 of the device); may be 0. [any] */
    int64_t (*workspace)(const sl_sdpa_impl *sdpa);
    sl_status (*run)(const sl_lane *lane, sl_sdpa_impl *sdpa, const sl_sdpa_run *args,
                     void *workspace); /* [step] [capture] */
} sl_sdpa;
SL_ABI_STRUCT(sl_sdpa, run);

/* "sl.ops/1" - always. Entries are NULL where a later minor will fill them. [step & active] [capture] */
#define SL_OPS_ID "sl.ops/1"
typedef struct sl_ops {
    uint64_t struct_size;
    sl_status (*gemm)(const sl_host *host, const sl_op_gemm *args);
    /* Bytes of a packed matrix; 0: the format is not supported. [any] */
    int64_t (*q_bytes)(const sl_q_format *format);
    /* w: [n, k] f32, f16 or bf16. Nearest even, scales in f16. [setup] */
    sl_status (*q_pack)(const sl_host *host, const sl_q_format *format, const sl_tensor *w, void *blob, sl_error *err);
    /* The values that qgemm multiplies with, as f32 [n, k]. [setup] */
    sl_status (*q_unpack)(const sl_host *host, const sl_q_format *format, const void *blob, float *w);
    sl_status (*qgemm)(const sl_host *host, const sl_op_qgemm *args);
    sl_status (*norm)(const sl_host *host, const sl_op_norm *args);
    sl_status (*rope)(const sl_host *host, const sl_op_rope *args);
    /* Softmax attention over public segments, through the view's slots when there are any. */
    sl_status (*attend)(const sl_host *host, const sl_attend *args);
    sl_status (*act_mul)(const sl_host *host, const sl_op_act_mul *args);
    sl_status (*topk)(const sl_host *host, const sl_op_topk *args);
    sl_status (*lse_merge)(const sl_host *host, const sl_op_lse_merge *args);
    /* n elements from one dtype to another; nearest even. [any] */
    sl_status (*convert)(void *dst, sl_dtype dst_dtype, const void *src, sl_dtype src_dtype, int64_t n);
    sl_status (*colsum)(const sl_host *host, const sl_op_colsum *args);
    sl_status (*map)(const sl_host *host, const sl_op_map *args);
    /* A packed matrix out of codes that a quantiser chose: w = scale (code - zero). code [n, k], each < 2^bits; scale
     * [n, ceil(k / group)] f16, finite; zero likewise, each < 2^bits; NULL unless asymmetric (2^(bits - 1) then).
     * SL_E_UNIMPLEMENTED, SL_E_DATA. [setup] */
    sl_status (*q_pack_codes)(const sl_host *host, const sl_q_format *format, const uint8_t *code,
                              const uint16_t *scale, const uint8_t *zero, void *blob, sl_error *err);
    /* Device lanes. On a CPU lane: SL_E_UNIMPLEMENTED. */
    sl_status (*embed)(const sl_host *host, const sl_op_embed *args);
    sl_status (*append)(const sl_host *host, const sl_op_append *args);
    sl_status (*move)(const sl_host *host, const sl_op_move *args);
    sl_status (*gather)(const sl_host *host, const sl_op_gather *args);
    sl_status (*pick)(const sl_host *host, const sl_op_pick *args);
    sl_status (*quantise)(const sl_host *host, const sl_op_quantise *args);
    sl_status (*keep)(const sl_host *host, const sl_op_keep *args); /* between steps */
} sl_ops;
SL_ABI_STRUCT(sl_ops, keep);

SL_END
#endif
