/* quant.h - the quant family: how linear layers are stored and multiplied.
 *
 * Groups are data: linears that read one input form a group and are claimed together. Packing gives a position-
 * independent blob that can be cached on disk, streamed or swapped.
 */
#ifndef SLUICE_QUANT_H
#define SLUICE_QUANT_H

#include "exec.h"
#include "work.h"

SL_BEGIN

/* One matrix y = W x + b of the checkpoint. [session] */
typedef struct sl_linear {
    uint64_t struct_size;
    const char *name;        /* "model.layers.3.mlp.down_proj.weight" */
    const char *role;        /* "q" "k" "v" "o" "gate" "up" "down" "head" */
    sl_tensor weight;        /* [out, in] as the checkpoint holds it; no data when it holds another form (GPTQ, AWQ
                                files): a plugin that claims it reads the parts by name from "sl.model/1" */
    const sl_tensor *bias;   /* [out] or NULL; added by whoever runs the epilogue */
} sl_linear;
SL_ABI_STRUCT(sl_linear, bias);

/* Linears that share their input. */
typedef struct sl_linear_group {
    uint64_t struct_size;
    const char *name;                  /* "attn.qkv" "attn.o" "ffn.gate_up" "ffn.down" "head" */
    const sl_linear *const *linears;   /* [n] */
    int32_t n;
    int32_t layer;                     /* -1: head */
    int64_t in;                        /* width of the shared input */
} sl_linear_group;
SL_ABI_STRUCT(sl_linear_group, in);

enum {
    SL_QUANT_FUSES_NORM = 1u << 0,     /* prepare takes {residual, norm} instead of x */
    SL_QUANT_FUSES_BIAS = 1u << 1,
    SL_QUANT_FUSES_RESIDUAL = 1u << 2,
    SL_QUANT_FUSES_ACT_MUL = 1u << 3,  /* gate and up: y = act(gate x) * (up x) */
    SL_QUANT_GROUPED = 1u << 4,        /* matmul_grouped is there */
    SL_QUANT_FUSES_GROUP = 1u << 5,    /* matmul takes which = SL_QUANT_ALL: y is [T, sum of out], linear after
                                          linear */
    SL_QUANT_OWNS_FFN = 1u << 6        /* ffn is called for the layer instead of its gate, up and down
                                          ("sl.quant.ffn/1") */
};

enum { SL_QUANT_ALL = -1 };

/* How a group would be served. */
typedef struct sl_quant_claim {
    uint64_t struct_size;
    const char *format;      /* "int4 g64", for reports */
    double bits_per_weight;  /* scales and side products included */
    int64_t max_rows;        /* most rows of one matmul; 0: no limit */
    uint32_t flags;          /* set of SL_QUANT_FUSES_* */
    sl_dtype x_dtype;        /* dtype of x that matmul takes */
} sl_quant_claim;
SL_ABI_STRUCT(sl_quant_claim, x_dtype);

typedef struct sl_quant_handle sl_quant_handle;     /* opaque: a bound group */
typedef struct sl_quant_prepared sl_quant_prepared; /* opaque: a prepared input, lives until the next prepare */

/* Input of a group. */
typedef struct sl_quant_input {
    uint64_t struct_size;
    const sl_lane *lane;
    sl_tensor x;             /* [T, in]; with FUSES_NORM the residual */
    const sl_tensor *norm;   /* [in] weights, with FUSES_NORM; else NULL */
    double norm_eps;
} sl_quant_input;
SL_ABI_STRUCT(sl_quant_input, norm_eps);

typedef struct sl_quant_matmul {
    uint64_t struct_size;
    const sl_lane *lane;
    const sl_quant_prepared *prepared; /* of this group's input; NULL: x is used */
    sl_tensor x;               /* [T, in] */
    sl_tensor y;               /* [T, out] written; f32 */
    const sl_tensor *bias;     /* [out] f32 or NULL */
    const sl_tensor *residual; /* [T, out] f32, added; may be y; or NULL */
    const float *row_scale;    /* [T] or NULL */
    int32_t which;             /* linear of the group, or SL_QUANT_ALL */
    uint32_t reserved0;
    uint32_t act_mul;          /* FUSES_ACT_MUL: 1: y [T, out] = act(gate x) * (up x), which is ignored */
    uint32_t act;              /* SL_ACT_* (ops.h) */
} sl_quant_matmul;
SL_ABI_STRUCT(sl_quant_matmul, act);

/* "sl.quant/1" */
#define SL_QUANT_ID "sl.quant/1"
typedef struct sl_quant {
    uint64_t struct_size;
    /* SL_OK, or an error whose text says which shape does not fit. [setup] */
    sl_status (*claim)(sl_instance *self, const sl_linear_group *group, sl_quant_claim *out, sl_error *err);
    /* Bytes of the packed group; 0: the checkpoint's own tensors are used in place. [setup] */
    sl_status (*pack_size)(sl_instance *self, const sl_linear_group *group, int64_t *bytes, sl_error *err);
    /* Writes the blob: position-independent, 64-byte aligned, the same bytes for the same weights. [setup] */
    sl_status (*pack_into)(sl_instance *self, const sl_linear_group *group, void *blob, sl_error *err);
    /* blob lives until unbind. [setup] */
    sl_status (*bind)(sl_instance *self, const sl_linear_group *group, const void *blob, sl_quant_handle **out,
                      sl_error *err);
    void (*unbind)(sl_instance *self, sl_quant_handle *handle);
    /* Work on an input that all linears of the group share (quantising it, rotating it). Optional. [step] [capture] */
    sl_status (*prepare)(sl_quant_handle *handle, const sl_quant_input *in, const sl_quant_prepared **out);
    /* y = epilogue(W x). [step] [capture] */
    sl_status (*matmul)(sl_quant_handle *handle, const sl_quant_matmul *args);
    /* Rows grouped by expert: offsets [n_groups + 1] on the device. Optional ("sl.quant.grouped/1"). */
    sl_status (*matmul_grouped)(sl_quant_handle *const *handles, int32_t n_groups, const int32_t *offsets,
                                const sl_quant_matmul *args);
    /* A whole FFN block: y = residual + down(act(gate x) * up x). Optional. */
    sl_status (*ffn)(sl_instance *self, int32_t layer, const sl_quant_input *in, sl_tensor *y);
    /* The same blob at another address (weights that stream through a ring). Optional: weights stay where they were
     * bound. [step] */
    sl_status (*rebind)(sl_quant_handle *handle, const void *blob);
} sl_quant;
SL_ABI_STRUCT(sl_quant, rebind);

/* ---- role quant.rewrite ------------------------------------------------------------------------------------------ */

/* One tensor of the model on its way to whoever packs it. Asked for each weight, bias and norm of the model, layer by layer.
 * A tied head comes as a tensor of its own. [borrowed] */
typedef struct sl_rewrite {
    uint64_t struct_size;
    const char *name;  /* in the checkpoint */
    const char *role;  /* "embed" "q" "k" "v" "o" "gate" "up" "down" "head"; "q.bias" ... "down.bias"; "norm.attn"
                          "norm.ffn" "norm.final" */
    float *values;     /* [rows, cols] in and out; vectors: [1, cols] */
    const float *norm; /* q, k, v, gate, up, head: [cols] weights of the norm in front, as the checkpoint has them; else
                          NULL */
    int64_t rows, cols;
    int32_t layer;     /* -1: embed, head, norm.final */
    uint32_t changed;  /* out: 1: values are to be used instead of the checkpoint's */
    sl_dtype dtype;    /* out: in which to keep them until they are packed, or for good; 0: as the checkpoint does */
    uint32_t reserved0;
} sl_rewrite;
SL_ABI_STRUCT(sl_rewrite, reserved0);

/* "sl.quant.rewrite/1" - a model computed in another basis: tensors rewritten before anything is packed, and maps that act
 * on activations, which together leave the network's function as it was. Whatever [quant] chose packs the rewritten
 * tensors. */
#define SL_QUANT_REWRITE_ID "sl.quant.rewrite/1"
typedef struct sl_quant_rewrite {
    uint64_t struct_size;
    /* The map that takes a residual row to the basis in which the layers run; NULL: unchanged. With a basis, norms carry no
     * weights of their own (they were folded). The host undoes it where plugins meet residual rows: taps and work items. The
     * map is orthogonal. [setup & active] */
    const sl_map *(*basis)(sl_instance *self);
    /* Rewrites one tensor. [setup & active] */
    sl_status (*tensor)(sl_instance *self, sl_rewrite *tensor, sl_error *err);
    /* Maps of a layer, NULL-terminated and applied in this order; NULL: none. [setup & active] */
    const sl_map *const *(*maps)(sl_instance *self, int32_t layer);
} sl_quant_rewrite;
SL_ABI_STRUCT(sl_quant_rewrite, maps);

SL_END
#endif
