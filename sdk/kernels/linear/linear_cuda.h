/* Linear layers on a device: products with few rows at the speed of memory, and what products with many rows need
 * around a matrix library.
 *
 * A row's sums are in one order whatever T is: chunks of 64 inputs (packed integers: 128) go round eight warps, a warp
 * adds its chunks in ascending order, the eight sums are added in ascending order. Tile shapes change with T and N, the
 * order does not. Batches and one row have kernels with other orders, each with one whatever T is.
 */
#ifndef SLUICE_KERNELS_LINEAR_CUDA_H
#define SLUICE_KERNELS_LINEAR_CUDA_H

#include <stdint.h>

enum { SLK_LINEAR_CHUNK = 64, SLK_LINEAR_CHUNK_PACKED = 128, SLK_LINEAR_WARPS = 8, SLK_LINEAR_TILE = 16 };

/* How weights are stored. The first three are plain rows; the others blobs of linear_pack.h. */
enum {
    SLK_LINEAR_BF16 = 0,
    SLK_LINEAR_F16 = 1,
    SLK_LINEAR_F32 = 2,
    SLK_LINEAR_INT8 = 3,
    SLK_LINEAR_INT4 = 4,
    SLK_LINEAR_E4M3 = 5
};

/* y[T, N] = epilogue(x[T, K] w^T). The first half is the caller's; the launcher fills the rest. */
typedef struct slk_linear_params {
    const void *x;              /* bf16 [T, K], ldx and K multiples of 8; of E4M3 weights: e4m3 [T, ldx], ldx a multiple
                                   of 16, columns K .. ldx - 1 zero up to a multiple of 16 */
    const void *w;              /* [N, K] (act_mul: [2 N, K]), 16-byte aligned, row stride ldw, in bytes a multiple
                              of 16 (E4M3: zero from K on); or a blob's codes */
    void *y;                    /* bf16 or f32 */
    const float *bias;          /* [N] or NULL; act_mul: [2 N] */
    const float *residual;      /* [T, N] or NULL; may be y */
    const void *scale;          /* INT8, INT4: the blob's scales; E4M3: f32 [N] */
    const float *x_scale;       /* E4M3: [T] */
    int64_t ldx, ldw, ldy, ldr; /* elements */
    int32_t t, n, k;
    uint32_t y_bf16, act_mul, act;
    int32_t group; /* INT8, INT4: inputs that share a scale, a multiple of 32 */
    uint32_t asym; /* likewise: entries of scales carry zeros */

    int32_t pair;   /* rows of w between the two tiles of 16 that a warp multiplies */
    int32_t tiles;  /* tiles of outputs, times blocks */
    int32_t blocks; /* of 8 or 16 rows */
    int32_t steps;  /* chunks a warp has in a tile */
    int32_t groups; /* scales of a row */
    uint32_t fine;  /* a chunk has several scales */
    uint32_t magic; /* ceil(2^31 / (group / 32)) */
    uint32_t pad;
} slk_linear_params;

/* One row: bytes of codes and of scales from a tile of outputs to the next, from its first 16 rows of w to its second,
 * and from the end of a block's tile to its next. */
typedef struct slk_linear_one_params {
    slk_linear_params p;
    uint32_t chunks; /* of a row */
    uint32_t tile_codes, tile_scales, pair_codes, pair_scales, jump_codes, jump_scales, pad;
} slk_linear_one_params;

/* A driver's map of a matrix (sl_tensor_map), as kernels take it. */
typedef struct __attribute__((aligned(64))) slk_tensor_map {
    uint64_t opaque[16];
} slk_tensor_map;

/* Batches: maps of the weights and of x, in boxes of 64 rows and 64 inputs, 128-byte swizzle. */
typedef struct slk_linear_batch_params {
    slk_tensor_map w, x;
    slk_linear_params p;
} slk_linear_batch_params;

/* After a product with many rows: y = epilogue(row_scale col_scale in). */
typedef struct slk_finish_params {
    const void *in; /* [T, N] (act_mul: [T, 2 N], gate then up), bf16 or f32; may be y */
    void *y;
    const float *row_scale, *col_scale; /* [T], [N] (act_mul: [2 N]) or NULL */
    const float *bias, *residual;
    int64_t ldi, ldy, ldr;
    int32_t t, n;
    uint32_t act_mul, act;
    uint32_t eights, pad; /* the launcher's: eight values a thread */
} slk_finish_params;

/* Rows [row, row + rows) of weights as bf16 [rows, K]. */
typedef struct slk_widen_params {
    const void *w, *scale;
    void *out;
    int64_t ldw;             /* plain rows */
    int32_t row, rows, n, k; /* of blobs: row is a multiple of 16 */
    int32_t group, groups;
    uint32_t asym, bits; /* blobs of integers: 8 or 4; plain: 16 (f16) or 32 (f32) */
} slk_widen_params;

/* Rows of x rounded to e4m3 with an f32 scale each: max |x| / 448; 1 for a row of zeros. */
typedef struct slk_e4m3_rows_params {
    const void *x; /* bf16 [T, K], 16-byte aligned; K and ldx multiples of 8 */
    void *y;       /* [T, ldy], zero from K on; ldy a multiple of 16 */
    float *scale;  /* [T] */
    int64_t ldx, ldy;
    int32_t t, k;
} slk_e4m3_rows_params;

/* Reads bytes and keeps nothing: what memory can do. */
typedef struct slk_stream_params {
    const void *x;
    uint32_t *out; /* [1], written only if all words' xor is `never` */
    int64_t bytes; /* a multiple of 16 */
    uint32_t never, pad;
} slk_stream_params;

/* Bytes of dynamic shared memory at most: a ring of 12 KiB a warp, and the sums of the warps. Rings of one row are
 * shorter, so that a multiprocessor has room for blocks of the next kernel, which ask for their weights. */
enum {
    SLK_LINEAR_RING = 12288,
    SLK_LINEAR_RING_ONE = 8704,
    SLK_LINEAR_RING_ONE_PACKED = 6144, /* tiles of 16 rows */
    SLK_LINEAR_SHARED = SLK_LINEAR_WARPS * SLK_LINEAR_RING + 16384,
    SLK_LINEAR_BATCH_SHARED = 98304 + 64,
    SLK_LINEAR_BATCH_ROWS = 64,
    SLK_LINEAR_ONE_WARPS = 16,
    SLK_LINEAR_ONE_SHARED = SLK_LINEAR_ONE_WARPS * (3 * 2112 + 448 + 256)
};
/* Stages of so many bytes in a ring. */
#define SLK_LINEAR_STAGES(bytes, ring) ((ring) / (bytes) < 2 ? 2 : (ring) / (bytes) > 8 ? 8 : (ring) / (bytes))

#define SLK_LINEAR_KERNELS(X)                                                                                          \
    X(linear_bf16_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                \
    X(linear_bf16_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                \
    X(linear_bf16_2x16, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                               \
    X(linear_f16_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                 \
    X(linear_f16_2x16, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                \
    X(linear_f32_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                 \
    X(linear_f32_1x16, slk_linear_params, SLK_LINEAR_SHARED, 1, linear)                                                \
    X(linear_int8_1x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int8_plain_1x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int8_2x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int8_plain_2x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int8_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int8_plain_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int8_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int8_plain_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int4_1x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int4_plain_1x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int4_2x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int4_plain_2x1, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int4_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int4_plain_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_int4_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_int4_plain_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                         \
    X(linear_e4m3_1x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_e4m3_2x8, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                               \
    X(linear_e4m3_2x16, slk_linear_params, SLK_LINEAR_SHARED, 1, qlinear)                                              \
    X(linear_int4_one, slk_linear_one_params, SLK_LINEAR_ONE_SHARED, 1, qlinear_one)                                   \
    X(linear_batch, slk_linear_batch_params, SLK_LINEAR_BATCH_SHARED, 4, linear_batch)                                 \
    X(finish_bf16_bf16, slk_finish_params, 0, 1, linear_many)                                                          \
    X(finish_f32_bf16, slk_finish_params, 0, 1, linear_many)                                                           \
    X(finish_f32_f32, slk_finish_params, 0, 1, linear_many)                                                            \
    X(widen_f16, slk_widen_params, 0, 1, linear_many)                                                                  \
    X(widen_f32, slk_widen_params, 0, 1, linear_many)                                                                  \
    X(widen_int8, slk_widen_params, 0, 1, linear_many)                                                                 \
    X(widen_int4, slk_widen_params, 0, 1, linear_many)                                                                 \
    X(e4m3_rows, slk_e4m3_rows_params, 0, 1, linear_many)                                                              \
    X(stream_read, slk_stream_params, 0, 1, linear_many)

#ifndef __CUDACC__
#include "sluice/exec.h"
struct slk_cuda;
/* kind: SLK_LINEAR_*. SL_E_INVALID: strides, widths or addresses that the comments above exclude; SL_E_UNIMPLEMENTED:
 * act_mul of f32 weights, or of packed integers whose N is no multiple of 16; E4M3 below compute capability 8.9. [step]
 * [capture] */
sl_status slk_cuda_linear(const struct slk_cuda *k, const sl_lane *lane, int kind, const slk_linear_params *p);
/* One row times packed integers of 4 bits, in an order of sums of its own. SL_E_UNIMPLEMENTED: another kind, zeros, K
 * or groups that are no multiples of SLK_LINEAR_CHUNK_PACKED; and what slk_cuda_linear does not do. */
sl_status slk_cuda_linear_one(const struct slk_cuda *k, const sl_lane *lane, int kind, const slk_linear_params *p);
/* Up to SLK_LINEAR_BATCH_ROWS rows times bf16 weights, in an order of sums of its own, which is one whatever T is.
 * SL_E_UNIMPLEMENTED: more rows, or a device that is not of compute capability 9.0. */
sl_status slk_cuda_linear_batch(const struct slk_cuda *k, const sl_lane *lane, const slk_linear_params *p);
/* in_bf16, y_bf16: bf16 to bf16, f32 to either. */
sl_status slk_cuda_finish(const struct slk_cuda *k, const sl_lane *lane, int in_bf16, int y_bf16,
                          const slk_finish_params *p);
sl_status slk_cuda_widen(const struct slk_cuda *k, const sl_lane *lane, const slk_widen_params *p);
sl_status slk_cuda_e4m3_rows(const struct slk_cuda *k, const sl_lane *lane, const slk_e4m3_rows_params *p);
sl_status slk_cuda_stream_read(const struct slk_cuda *k, const sl_lane *lane, const slk_stream_params *p);
#endif

#endif
