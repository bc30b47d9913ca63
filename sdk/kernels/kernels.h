/* kernels.h - the CPU kernels of one instruction set level, as a table.
 *
 * Every function works on a range of outputs, so that a pool of workers can split a call. Reduction order of an output
 * depends on neither the number of rows in the call, nor the range, nor the split: a row computed alone is bit-equal to
 * the same row computed among others, within one level.
 */
#ifndef SLUICE_KERNELS_H
#define SLUICE_KERNELS_H

#include "sluice/sl.h"

/* Y[T, N] = X[T, K] W[N, K]^T + bias + residual, for outputs [n_begin, n_end) of all T rows. */
typedef struct slk_gemm {
    const float *x;        /* [T, K], row stride ldx; bf16 products: rounded to bf16 values by the kernel */
    const void *w;         /* [N, K] row-major, contiguous */
    float *y;              /* [T, N], row stride ldy */
    const float *bias;     /* [N] or NULL */
    const float *residual; /* [T, N], row stride ldy, or NULL; may be y */
    int64_t t, n, k, ldx, ldy;
    sl_dtype w_dtype;      /* SL_F32, SL_F16, SL_BF16 */
    uint32_t compute;      /* SL_F32: weights widened, f32 products. SL_BF16: both operands in bf16, f32 sums */
} slk_gemm;

/* The same with packed integers: w = scale (q - zero), one scale (and zero) for each group of inputs.
 * Blob: for each row n and group g a scale in f16 (and, asymmetric, a zero as u8), and codes; see q_layout.h. */
typedef struct slk_qgemm {
    const float *x;
    const void *blob;
    float *y;
    const float *bias;
    const float *residual;
    int64_t t, n, k, group, ldx, ldy;
    uint32_t bits;       /* 8 or 4 */
    uint32_t asymmetric;
} slk_qgemm;

enum { SLK_MAX_RUNS = 2 };

/* Attention of one query row with the query heads of one KV head. Keys are visited in rank order: the slots of
 * run[0], run[1], then slot[]. */
typedef struct slk_attend_row {
    const float *q;        /* [G, D], heads D apart */
    float *o;              /* [G, Dv] */
    float *lse;            /* [G], stride lse_stride, or NULL */
    float *scores;         /* [G, score_stride] scaled scores in rank order, or NULL */
    int64_t run_begin[SLK_MAX_RUNS], run_end[SLK_MAX_RUNS]; /* slots; empty when begin = end */
    const int32_t *slot;   /* [n_slots] */
    int64_t n_slots;
} slk_attend_row;

/* Rows that share keys and values. Address of slot s: pages[s / page_rows] + (s % page_rows) * stride (bytes). */
typedef struct slk_attend {
    const void *const *k_pages, *const *v_pages; /* already offset to the KV head */
    int64_t page_rows, k_stride, v_stride;
    const slk_attend_row *rows; /* [n_rows] */
    int64_t n_rows, g, d, dv, score_stride;
    double scale, softcap;      /* softcap 0: none */
    sl_dtype k_dtype, v_dtype;  /* SL_F32, SL_F16, SL_BF16 */
} slk_attend;

typedef struct slk_kernels {
    const char *name; /* "ref", "avx2", "avx512" */
    void (*gemm)(const slk_gemm *a, int64_t n_begin, int64_t n_end);
    void (*qgemm)(const slk_qgemm *a, int64_t n_begin, int64_t n_end);
    /* scratch: slk_attend_scratch() bytes, 64-byte aligned. Keys are taken in blocks of 32 ranks, softmax running. */
    void (*attend)(const slk_attend *a, void *scratch);
    /* rows [n, width]: y = w x / sqrt(mean(x^2) + eps); y may be x */
    void (*norm)(float *y, const float *x, const float *w, int64_t n, int64_t width, double eps);
    /* rotates heads in place; cos, sin [dims / 2] of this row's position. interleaved: pairs (2i, 2i+1), else (i, i+d/2) */
    void (*rope)(float *x, int64_t n_heads, int64_t head_dim, int64_t dims, const float *cosine, const float *sine,
                 int interleaved, int inverse);
    void (*silu_mul)(float *y, const float *gate, const float *up, int64_t n);
    void (*gelu_tanh_mul)(float *y, const float *gate, const float *up, int64_t n);
    /* index of the largest, lowest index first; NaN never wins */
    int64_t (*argmax)(const float *x, int64_t n);
} slk_kernels;

/* The best table whose instruction sets are all in isa (SL_ISA_* of sluice/host.h). Never NULL. */
const slk_kernels *slk_kernels_for(uint32_t isa);

/* Bytes of scratch for one worker's attend calls. */
int64_t slk_attend_scratch(int64_t max_rows, int64_t g, int64_t d, int64_t dv);

/* Packed weights. 0: format not supported (bits 4 or 8; group divides k, is a multiple of 32 or k itself; 4 bits: k even) */
int64_t slk_q_bytes(int64_t n, int64_t k, int64_t group, uint32_t bits, uint32_t asymmetric);
/* Packs rows [n_begin, n_end) of w [n, k]. Nearest even; codes are computed with the rounded f16 scale; an all-zero group
 * has scale 1 and codes 0 (asymmetric: zero 0). Weights must be finite. */
void slk_q_pack(const void *w, sl_dtype w_dtype, int64_t n, int64_t k, int64_t group, uint32_t bits, uint32_t asymmetric,
                void *blob, int64_t n_begin, int64_t n_end);
void slk_q_unpack(const void *blob, int64_t n, int64_t k, int64_t group, uint32_t bits, uint32_t asymmetric, float *w);

/* n elements f32, f16, bf16 in any direction, nearest even. Returns 0 when a dtype is not one of these. */
int slk_convert(void *dst, sl_dtype dst_dtype, const void *src, sl_dtype src_dtype, int64_t n);

/* The k largest of x[n], best first, ties: lower index. scratch: k floats. */
void slk_topk(const float *x, int64_t n, int64_t k, int32_t *id, float *value);

/* Joins partial attention results of one head: o, lse become those of the union of keys. */
void slk_lse_merge(float *o, float *lse, const float *o2, float lse2, int64_t dv);

#endif
