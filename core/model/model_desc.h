/* What a decoder model is, as data: the switches that the engine asks and nothing about files. Filled from config.json
 * by hf_config.h. Sizes that may differ by layer stand in arrays over layers. */
#ifndef SLUICE_CORE_MODEL_DESC_H
#define SLUICE_CORE_MODEL_DESC_H

#include "sluice/sl.h"

typedef struct sli_arch sli_arch; /* arch.h */

typedef enum { SLI_ACT_SILU, SLI_ACT_GELU_TANH } sli_act;

typedef enum {
    SLI_QK_NORM_NONE,
    SLI_QK_NORM_HEAD /* RMS norm of each head of q and k after the projection, before RoPE; weight [head_dim] */
} sli_qk_norm;

/* What a weight's presence depends on; also the set of such things that a model has. */
enum {
    SLI_HAS_Q_BIAS = 1u << 0,
    SLI_HAS_K_BIAS = 1u << 1,
    SLI_HAS_V_BIAS = 1u << 2,
    SLI_HAS_O_BIAS = 1u << 3,
    SLI_HAS_MLP_BIAS = 1u << 4, /* gate, up and down */
    SLI_HAS_QK_NORM = 1u << 5,
    SLI_HAS_HEAD = 1u << 6, /* a head of its own, not the embedding again */
    SLI_HAS_QKV_BIAS = SLI_HAS_Q_BIAS | SLI_HAS_K_BIAS | SLI_HAS_V_BIAS,
    SLI_HAS_ATTN_BIAS = SLI_HAS_QKV_BIAS | SLI_HAS_O_BIAS
};

typedef enum {
    SLI_ROPE_HALF /* pairs (i, i + dim/2): (a cos - b sin, b cos + a sin) */
} sli_rope_style;

typedef enum { SLI_ROPE_PLAIN, SLI_ROPE_LINEAR, SLI_ROPE_LLAMA3, SLI_ROPE_YARN } sli_rope_scaling;

/* One table of rotations; see rope_table.h for what the fields mean. */
typedef struct sli_rope {
    sli_rope_style style;
    sli_rope_scaling scaling;
    int32_t dim; /* rotary dimensions, even, = head_dim */
    double theta;
    double factor;                            /* linear, llama3, yarn */
    double original_max;                      /* llama3, yarn: trained context in tokens */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn, in rotations */
    int truncate;                             /* yarn: round the ramp's ends to whole dimensions */
    float attention_factor;                   /* cos and sin are multiplied by it */
    float *inv_freq;                          /* [dim/2] radians a token; owned by the desc */
} sli_rope;

/* Defaults that generation_config.json recommends; NaN and -1 where it says nothing. */
typedef struct sli_generation {
    int32_t do_sample;         /* 0, 1, -1 */
    int32_t top_k;             /* >= 0, -1 */
    double temperature;        /* >= 0 */
    double top_p, min_p;       /* 0..1 */
    double repetition_penalty; /* > 0 */
} sli_generation;

enum { SLI_MAX_ROPE_TABLES = 2, SLI_MAX_EOS = 32 };

typedef struct sli_model_desc {
    const sli_arch *arch;
    int32_t n_layers, hidden, vocab, head_dim;
    int32_t max_positions; /* context that the checkpoint declares */
    float norm_eps;        /* all norms are RMS norms before their block, multiplied by their weight */
    double attn_scale;     /* of q.k */
    sli_act act;           /* of the gate in down(act(gate(x)) * up(x)) */
    sli_qk_norm qk_norm;
    uint32_t has;   /* SLI_HAS_* */
    int32_t tied;   /* the head is the embedding */
    sl_dtype dtype; /* that the configuration declares, SL_DTYPE_NONE if it does not; tensors have their own */

    /* By layer, [n_layers]; one block of memory owned by the desc. */
    int32_t *n_q, *n_kv; /* heads; n_q is a multiple of n_kv */
    int32_t *ffn;        /* width */
    int32_t *window;     /* 0: full. Else key j is visible to query i iff j <= i and i - j < window */
    int32_t *rope_table; /* index into rope */

    sli_rope rope[SLI_MAX_ROPE_TABLES];
    int32_t n_rope;

    int32_t bos;              /* token id, -1: none */
    int32_t eos[SLI_MAX_EOS]; /* [n_eos] token ids that end a text */
    int32_t n_eos;
    sli_generation generation;
    char quant_method[32]; /* of "quantization_config": linears are there in another form; "": it says nothing */
} sli_model_desc;

void sli_model_desc_free(
    sli_model_desc *desc); /* frees what it owns and zeroes it; all-zero and half-built are legal */

#endif
