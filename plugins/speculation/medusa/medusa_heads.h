/* medusa_heads.h - the heads: read from a safetensors file in the reference's layouts, and multiplied.
 *
 * Head k: y = h + SiLU(W1 h + b1), once for each of its blocks, and logits = W2 y. Tensors k.i.linear.weight [d, d] and
 * k.i.linear.bias [d] are block i, k.n.weight [V, d] behind n blocks is W2; without it the head shares the model's own
 * output head. In a whole checkpoint (Medusa-2) the names begin with "medusa_head.". */
#ifndef MEDUSA_HEADS_H
#define MEDUSA_HEADS_H

#include "medusa_tree.h"
#include "sl_error.h"
#include "sluice/host.h"
#include "sluice/ops.h"

enum { MEDUSA_MAX_BLOCKS = 8, MEDUSA_ROWS = 16 }; /* rows multiplied at once */

typedef struct medusa_head {
    sl_tensor w1[MEDUSA_MAX_BLOCKS]; /* the file's own */
    sl_tensor b1[MEDUSA_MAX_BLOCKS]; /* f32, in `biases` */
    sl_tensor w2;                    /* the file's own; data NULL: the model's head */
} medusa_head;

typedef struct medusa_heads {
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_artifacts *artifacts;
    const sl_head *model_head;
    const sl_lane *lane;
    sl_artifact *file;
    int32_t n, n_blocks;
    int64_t hidden, vocab;
    sl_dtype compute;
    medusa_head head[MEDUSA_MAX_HEADS];
    float *biases; /* [n, n_blocks, hidden] */
    float *x, *t;  /* [MEDUSA_ROWS, hidden] */
    float *y;      /* [MEDUSA_ROWS, n, hidden] rows for the model's head */
    float *logits; /* [MEDUSA_ROWS, vocab] */
    int32_t *ids;  /* [MEDUSA_ROWS, MEDUSA_MAX_TOPK] */
} medusa_heads;

/* Services and sizes are set. n_heads: heads used, 0: all of the file. n_blocks: blocks of each head. Reads shapes,
 * takes over biases; weights stay in the file. Errors name file and tensor. medusa_heads_close in any case. [setup] */
sl_status medusa_heads_open(medusa_heads *h, const char *path, int32_t n_heads, int32_t n_blocks, sl_error *err);
void medusa_heads_close(medusa_heads *h);

/* accuracy [n, topk] out of the file's metadata: "0.6 0.1 ...; 0.4 ...", a list for each head, best rank first; ranks
 * that are missing count as 0. SL_E_NOT_FOUND: the file has none. */
sl_status medusa_heads_accuracy(const medusa_heads *h, const char *path, int32_t topk, double *accuracy, sl_error *err);

/* Buffers of a step. [setup] */
sl_status medusa_heads_activate(medusa_heads *h, sl_error *err);
void medusa_heads_deactivate(medusa_heads *h);

/* The topk best ids of each head for rows x [n_rows, hidden], n_rows <= MEDUSA_ROWS: out [n_rows][n, topk]. The rows
 * are h->x, filled by the caller. Heads that share the model's head go through it together. [step & active] */
sl_status medusa_heads_run(medusa_heads *h, int32_t n_rows, int32_t topk, int32_t *const *out);

#endif
