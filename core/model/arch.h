/* The table of architectures: one row a `model_type`, of switches and of tensor names. A new decoder of this kind is a
 * new row. */
#ifndef SLUICE_CORE_ARCH_H
#define SLUICE_CORE_ARCH_H

#include "model/model_desc.h"

typedef enum {
    SLI_ROLE_EMBED,      /* [vocab, hidden] */
    SLI_ROLE_HEAD,       /* [vocab, hidden]; the embedding itself when tied */
    SLI_ROLE_FINAL_NORM, /* [hidden] */
    SLI_ROLE_NORM_ATTN,  /* [hidden], before attention */
    SLI_ROLE_NORM_FFN,   /* [hidden], before the feed-forward block */
    SLI_ROLE_Q,          /* [n_q * head_dim, hidden] */
    SLI_ROLE_K,          /* [n_kv * head_dim, hidden] */
    SLI_ROLE_V,
    SLI_ROLE_O, /* [hidden, n_q * head_dim] */
    SLI_ROLE_Q_BIAS,
    SLI_ROLE_K_BIAS,
    SLI_ROLE_V_BIAS,
    SLI_ROLE_O_BIAS,
    SLI_ROLE_Q_NORM, /* [head_dim] */
    SLI_ROLE_K_NORM,
    SLI_ROLE_GATE, /* [ffn, hidden] */
    SLI_ROLE_UP,
    SLI_ROLE_DOWN, /* [hidden, ffn] */
    SLI_ROLE_GATE_BIAS,
    SLI_ROLE_UP_BIAS,
    SLI_ROLE_DOWN_BIAS,
    SLI_ROLE_COUNT
} sli_weight_role;

typedef enum { SLI_DIM_NONE, SLI_DIM_VOCAB, SLI_DIM_HIDDEN, SLI_DIM_Q, SLI_DIM_KV, SLI_DIM_HEAD, SLI_DIM_FFN } sli_dim;

/* Where one role's tensor is found. */
typedef struct sli_weight_row {
    sli_weight_role role;
    uint32_t when;    /* 0: always there; else there when the model has this SLI_HAS_* */
    sli_dim shape[2]; /* SLI_DIM_NONE in the second place: a vector */
    const char *name; /* '*' stands for the layer's number; without one the tensor is the model's, not a layer's */
} sli_weight_row;

typedef enum {
    SLI_WINDOW_NEVER,  /* keys about windows are not looked at, as in the reference */
    SLI_WINDOW_ALL,    /* `sliding_window` holds in all layers */
    SLI_WINDOW_SWITCH, /* with `use_sliding_window`, from layer `max_window_layers` on or by `layer_types` */
} sli_window_rule;

/* Defaults are those of the reference's configuration class, for keys that a config.json leaves out. */
struct sli_arch {
    const char *model_type;
    const sli_weight_row *weights;
    int32_t n_weights;
    uint32_t has;             /* SLI_HAS_* always */
    uint32_t attention_bias;  /* what `attention_bias: true` adds; 0: the key may not be true */
    uint32_t mlp_bias;        /* what `mlp_bias: true` adds; 0: the key may not be true */
    int32_t default_n_kv;     /* 0: as many as query heads */
    int32_t default_head_dim; /* 0: hidden / heads */
    int32_t default_positions;
    sli_window_rule window;
    int32_t default_window;
    int32_t default_window_from;      /* first layer with a window */
    int32_t default_bos, default_eos; /* -1: none */
};

const sli_arch *sli_arch_find(const char *model_type); /* NULL: unknown */
void sli_arch_names(char *buf, size_t n);              /* "llama, mistral, ..." */

const char *sli_dim_text(sli_dim dim); /* in the words of config.json, for messages */
int64_t sli_dim_size(const sli_model_desc *desc, int32_t layer, sli_dim dim);

#endif
