/* See shapes.h. Each row is the config.json that was published with the model; a shape is read the way a checkpoint is. */
#include "shapes.h"

#include <stdio.h>
#include <string.h>

#include "config/near.h"
#include "model/hf_config.h"
#include "sl_error.h"

typedef struct shape {
    const char *name, *model_type;
    int layers, hidden, ffn, heads, kv_heads, head_dim, vocab, positions;
    double eps, theta, llama3_factor; /* 0: RoPE is not scaled */
    int tied;
} shape;

/* clang-format off */
static const shape table[] = {
    /* name, type                  layers hidden    ffn heads kv   D   vocab positions   eps    theta factor tied */
    {"llama-2-7b", "llama",           32,  4096, 11008,  32,  32, 128,  32000,   4096, 1e-5,   10000,  0, 0},
    {"llama-2-13b", "llama",          40,  5120, 13824,  40,  40, 128,  32000,   4096, 1e-5,   10000,  0, 0},
    {"llama-3.1-8b", "llama",         32,  4096, 14336,  32,   8, 128, 128256, 131072, 1e-5,  500000,  8, 0},
    {"llama-3.1-70b", "llama",        80,  8192, 28672,  64,   8, 128, 128256, 131072, 1e-5,  500000,  8, 0},
    {"llama-3.2-1b", "llama",         16,  2048,  8192,  32,   8,  64, 128256, 131072, 1e-5,  500000, 32, 1},
    {"llama-3.2-3b", "llama",         28,  3072,  8192,  24,   8, 128, 128256, 131072, 1e-5,  500000, 32, 1},
    {"mistral-7b", "mistral",         32,  4096, 14336,  32,   8, 128,  32768,  32768, 1e-5, 1000000,  0, 0}, /* v0.3 */
    {"qwen2.5-0.5b", "qwen2",         24,   896,  4864,  14,   2,  64, 151936,  32768, 1e-6, 1000000,  0, 1},
    {"qwen2.5-1.5b", "qwen2",         28,  1536,  8960,  12,   2, 128, 151936, 131072, 1e-6, 1000000,  0, 1},
    {"qwen2.5-7b", "qwen2",           28,  3584, 18944,  28,   4, 128, 152064, 131072, 1e-6, 1000000,  0, 0},
    {"qwen3-0.6b", "qwen3",           28,  1024,  3072,  16,   8, 128, 151936,  40960, 1e-6, 1000000,  0, 1},
    {"qwen3-8b", "qwen3",             36,  4096, 12288,  32,   8, 128, 151936,  40960, 1e-6, 1000000,  0, 0},
    {"smollm2-135m", "llama",         30,   576,  1536,   9,   3,  64,  49152,   8192, 1e-5,  100000,  0, 1},
    {"tinyllama-1.1b", "llama",       22,  2048,  5632,  32,   4,  64,  32000,   2048, 1e-5,   10000,  0, 0},
    {"tiny", "llama",                  6,   256,   640,   4,   2,  64,   4096,   4096, 1e-5,  500000,  0, 1}, /* models/tiny */
};
/* clang-format on */
enum { N_SHAPES = sizeof table / sizeof *table };

const char *sli_shape_name(int i) { return i >= 0 && i < N_SHAPES ? table[i].name : NULL; }

static const shape *find(const char *name) {
    for (int i = 0; i < N_SHAPES; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

static sl_status unknown(const char *name, sl_error *err) {
    char hint[SLI_HINT_BYTES], known[512] = "";
    sli_near near = sli_near_to(name);
    size_t used = 0;
    for (int i = 0; i < N_SHAPES; i++) {
        sli_near_offer(&near, table[i].name);
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", table[i].name);
    }
    return sl_fail(err, SL_E_NOT_FOUND, "no model of the shape \"%s\" is known%s (known: %s)", name,
                   sli_near_hint(&near, hint, sizeof hint), known);
}

sl_status sli_shape_describe(const char *name, sli_model_desc *out, sl_error *err) {
    *out = (sli_model_desc){0};
    const shape *s = find(name);
    if (s == NULL)
        return unknown(name, err);
    char scaling[192] = "", text[1024];
    if (s->llama3_factor > 0)
        snprintf(scaling, sizeof scaling,
                 ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": %g, \"low_freq_factor\": 1.0, "
                 "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}",
                 s->llama3_factor);
    /* No token begins or ends a text: these models have no tokenizer. */
    int n = snprintf(text, sizeof text,
                     "{\"model_type\": \"%s\", \"num_hidden_layers\": %d, \"hidden_size\": %d, "
                     "\"intermediate_size\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
                     "\"head_dim\": %d, \"vocab_size\": %d, \"max_position_embeddings\": %d, \"rms_norm_eps\": %g, "
                     "\"rope_theta\": %.1f, \"tie_word_embeddings\": %s, \"hidden_act\": \"silu\", "
                     "\"sliding_window\": null, \"bos_token_id\": null, \"eos_token_id\": null%s}",
                     s->model_type, s->layers, s->hidden, s->ffn, s->heads, s->kv_heads, s->head_dim, s->vocab,
                     s->positions, s->eps, s->theta, s->tied ? "true" : "false", scaling);
    return sli_hf_config_parse(name, text, (size_t)n, NULL, NULL, 0, out, err);
}
