/* See arch.h. The rows follow the configuration and modelling files of transformers 4.5x and 5.x. */
#include "arch.h"

#include <stdio.h>
#include <string.h>

#define LAYER "model.layers.*."

/* Llama's names; Mistral, Qwen2 and Qwen3 use the same. */
static const sli_weight_row llama_weights[] = {
    {SLI_ROLE_EMBED, 0, {SLI_DIM_VOCAB, SLI_DIM_HIDDEN}, "model.embed_tokens.weight"},
    {SLI_ROLE_HEAD, SLI_HAS_HEAD, {SLI_DIM_VOCAB, SLI_DIM_HIDDEN}, "lm_head.weight"},
    {SLI_ROLE_FINAL_NORM, 0, {SLI_DIM_HIDDEN}, "model.norm.weight"},
    {SLI_ROLE_NORM_ATTN, 0, {SLI_DIM_HIDDEN}, LAYER "input_layernorm.weight"},
    {SLI_ROLE_NORM_FFN, 0, {SLI_DIM_HIDDEN}, LAYER "post_attention_layernorm.weight"},
    {SLI_ROLE_Q, 0, {SLI_DIM_Q, SLI_DIM_HIDDEN}, LAYER "self_attn.q_proj.weight"},
    {SLI_ROLE_K, 0, {SLI_DIM_KV, SLI_DIM_HIDDEN}, LAYER "self_attn.k_proj.weight"},
    {SLI_ROLE_V, 0, {SLI_DIM_KV, SLI_DIM_HIDDEN}, LAYER "self_attn.v_proj.weight"},
    {SLI_ROLE_O, 0, {SLI_DIM_HIDDEN, SLI_DIM_Q}, LAYER "self_attn.o_proj.weight"},
    {SLI_ROLE_Q_BIAS, SLI_HAS_Q_BIAS, {SLI_DIM_Q}, LAYER "self_attn.q_proj.bias"},
    {SLI_ROLE_K_BIAS, SLI_HAS_K_BIAS, {SLI_DIM_KV}, LAYER "self_attn.k_proj.bias"},
    {SLI_ROLE_V_BIAS, SLI_HAS_V_BIAS, {SLI_DIM_KV}, LAYER "self_attn.v_proj.bias"},
    {SLI_ROLE_O_BIAS, SLI_HAS_O_BIAS, {SLI_DIM_HIDDEN}, LAYER "self_attn.o_proj.bias"},
    {SLI_ROLE_Q_NORM, SLI_HAS_QK_NORM, {SLI_DIM_HEAD}, LAYER "self_attn.q_norm.weight"},
    {SLI_ROLE_K_NORM, SLI_HAS_QK_NORM, {SLI_DIM_HEAD}, LAYER "self_attn.k_norm.weight"},
    {SLI_ROLE_GATE, 0, {SLI_DIM_FFN, SLI_DIM_HIDDEN}, LAYER "mlp.gate_proj.weight"},
    {SLI_ROLE_UP, 0, {SLI_DIM_FFN, SLI_DIM_HIDDEN}, LAYER "mlp.up_proj.weight"},
    {SLI_ROLE_DOWN, 0, {SLI_DIM_HIDDEN, SLI_DIM_FFN}, LAYER "mlp.down_proj.weight"},
    {SLI_ROLE_GATE_BIAS, SLI_HAS_MLP_BIAS, {SLI_DIM_FFN}, LAYER "mlp.gate_proj.bias"},
    {SLI_ROLE_UP_BIAS, SLI_HAS_MLP_BIAS, {SLI_DIM_FFN}, LAYER "mlp.up_proj.bias"},
    {SLI_ROLE_DOWN_BIAS, SLI_HAS_MLP_BIAS, {SLI_DIM_HIDDEN}, LAYER "mlp.down_proj.bias"},
};

enum { LLAMA_WEIGHTS = sizeof llama_weights / sizeof *llama_weights };

static const sli_arch table[] = {
    {
        .model_type = "llama", /* Llama 2, 3, 3.1, 3.2, 3.3 */
        .weights = llama_weights,
        .n_weights = LLAMA_WEIGHTS,
        .attention_bias = SLI_HAS_ATTN_BIAS,
        .mlp_bias = SLI_HAS_MLP_BIAS,
        .default_positions = 2048,
        .window = SLI_WINDOW_NEVER,
        .default_bos = 1,
        .default_eos = 2,
    },
    {
        .model_type = "mistral",
        .weights = llama_weights,
        .n_weights = LLAMA_WEIGHTS,
        .default_n_kv = 8,
        .default_positions = 4096 * 32,
        .window = SLI_WINDOW_ALL,
        .default_window = 4096,
        .default_bos = 1,
        .default_eos = 2,
    },
    {
        .model_type = "qwen2", /* Qwen2, Qwen2.5 */
        .weights = llama_weights,
        .n_weights = LLAMA_WEIGHTS,
        .has = SLI_HAS_QKV_BIAS,
        .default_n_kv = 32,
        .default_positions = 32768,
        .window = SLI_WINDOW_SWITCH,
        .default_window = 4096,
        .default_window_from = 28,
        .default_bos = -1,
        .default_eos = -1,
    },
    {
        .model_type = "qwen3",
        .weights = llama_weights,
        .n_weights = LLAMA_WEIGHTS,
        .has = SLI_HAS_QK_NORM,
        .attention_bias = SLI_HAS_ATTN_BIAS,
        .default_n_kv = 32,
        .default_head_dim = 128,
        .default_positions = 32768,
        .window = SLI_WINDOW_SWITCH,
        .default_window = 4096,
        .default_window_from = 28,
        .default_bos = -1,
        .default_eos = -1,
    },
};

enum { N_ARCHS = sizeof table / sizeof *table };

const sli_arch *sli_arch_find(const char *model_type) {
    for (int i = 0; i < N_ARCHS; i++)
        if (strcmp(table[i].model_type, model_type) == 0)
            return &table[i];
    return NULL;
}

void sli_arch_names(char *buf, size_t n) {
    size_t used = 0;
    for (int i = 0; i < N_ARCHS && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, "%s%s", i > 0 ? ", " : "", table[i].model_type);
}

const char *sli_dim_text(sli_dim dim) {
    static const char *const text[] = {
        [SLI_DIM_NONE] = "1",
        [SLI_DIM_VOCAB] = "vocab_size",
        [SLI_DIM_HIDDEN] = "hidden_size",
        [SLI_DIM_Q] = "num_attention_heads * head_dim",
        [SLI_DIM_KV] = "num_key_value_heads * head_dim",
        [SLI_DIM_HEAD] = "head_dim",
        [SLI_DIM_FFN] = "intermediate_size",
    };
    return text[dim];
}

int64_t sli_dim_size(const sli_model_desc *desc, int32_t layer, sli_dim dim) {
    switch (dim) {
    case SLI_DIM_NONE: return 1;
    case SLI_DIM_VOCAB: return desc->vocab;
    case SLI_DIM_HIDDEN: return desc->hidden;
    case SLI_DIM_Q: return (int64_t)desc->n_q[layer] * desc->head_dim;
    case SLI_DIM_KV: return (int64_t)desc->n_kv[layer] * desc->head_dim;
    case SLI_DIM_HEAD: return desc->head_dim;
    case SLI_DIM_FFN: return desc->ffn[layer];
    }
    return 0;
}
