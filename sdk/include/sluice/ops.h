/* ops.h - shared operations as launchers: the kernels that the core itself uses, on the lane that is given.
 *
 * One parameter struct an operation. Results of one instruction set do not depend on the number of rows in a call, on
 * how work is split over workers, or on what else is in the batch. Tensors are f32 unless said otherwise.
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
} sl_op_gemm;
SL_ABI_STRUCT(sl_op_gemm, reserved0);

/* A format of packed weights: integers of `bits` with a scale (and zero) for each group along the input. */
typedef struct sl_q_format {
    uint64_t struct_size;
    int64_t n, k;         /* the matrix is [n, k] */
    int64_t group;        /* a multiple of 32; the last one may be short; k or more: the whole row */
    uint32_t bits;        /* 8 or 4 */
    uint32_t asymmetric;  /* 1: w = scale (q - zero) */
} sl_q_format;
SL_ABI_STRUCT(sl_q_format, asymmetric);

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
} sl_op_qgemm;
SL_ABI_STRUCT(sl_op_qgemm, residual);

/* y = w * x / rms(x), by rows of the last dimension. */
typedef struct sl_op_norm {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_tensor *x;  /* [T, E] or [T, H, D] */
    const sl_tensor *w;  /* [E] or [D] */
    sl_tensor *y;        /* may be x */
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
} sl_op_act_mul;
SL_ABI_STRUCT(sl_op_act_mul, reserved0);

/* The k largest of each row, best first; ties: lower id. */
typedef struct sl_op_topk {
    uint64_t struct_size;
    const sl_lane *lane;
    const float *x;   /* [rows, n] */
    int32_t *id;      /* [rows, k] */
    float *value;     /* [rows, k] or NULL */
    int64_t rows, n, stride, k;
} sl_op_topk;
SL_ABI_STRUCT(sl_op_topk, k);

/* Joins two partial results of the same rows: o and lse become those of the union. */
typedef struct sl_op_lse_merge {
    uint64_t struct_size;
    const sl_lane *lane;
    sl_tensor *o;         /* [n, H, Dv] in and out */
    float *lse;           /* [n, H] in and out */
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
    double temperature;      /* scores are divided by it; 1: the model's own softmax */
    int32_t layer;
    int32_t heads;           /* K: summed over each group; H: query heads apart */
} sl_op_colsum;
SL_ABI_STRUCT(sl_op_colsum, heads);

/* Applies a map to rows, in place. */
typedef struct sl_op_map {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_map *map;
    sl_tensor *x; /* [T, W] or [T, H, D], contiguous */
    uint32_t backwards; /* 1: the inverse of the map; not ROUND */
    uint32_t reserved0;
} sl_op_map;
SL_ABI_STRUCT(sl_op_map, reserved0);

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
} sl_ops;
SL_ABI_STRUCT(sl_ops, q_pack_codes);

SL_END
#endif
