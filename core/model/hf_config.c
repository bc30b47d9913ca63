/* See hf_config.h. Reads one group of keys a function, in the order in which they depend on each other. */
#include "hf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/printable.h"
#include "model/arch.h"
#include "model/hf_rope.h"
#include "model/rope_table.h"

static const sli_json_need OPT = SLI_JSON_OPTIONAL, REQ = SLI_JSON_REQUIRED;

/* Larger ones are damage, not models; products of two stay far inside int64. */
enum { MAX_LAYERS = 4096, MAX_HEADS = 1 << 16, MAX_WIDTH = 1 << 24, MAX_VOCAB = 1 << 27, MAX_HEAD_DIM = 1 << 14 };
enum { MAX_CONFIG_BYTES = 16 << 20 };

void sli_model_desc_free(sli_model_desc *desc) {
    sli_free(desc->n_q); /* the block of all arrays over layers */
    for (int32_t i = 0; i < SLI_MAX_ROPE_TABLES; i++)
        sli_free(desc->rope[i].inv_freq);
    *desc = (sli_model_desc){0};
}

static sl_status read_i32(const sli_json *at, const char *key, sli_json_need need, int32_t min, int32_t max,
                          int32_t *out, sl_error *err) {
    int64_t wide = 0;
    sl_status s = sli_json_int(at, key, need, min, max, &wide, err);
    if (s == SL_OK)
        *out = (int32_t)wide;
    return s;
}

/* Fails with the key, what it would have to be, and that this is not implemented. */
static sl_status refuse(const sli_json *at, const char *key, sl_error *err, const char *expected, const char *why) {
    sli_json_fail(at, key, sli_json_get(at, key), err, "%s", expected);
    return sl_fail_within(err, SL_E_UNIMPLEMENTED, "%s", why);
}

/* ---- what is refused ------------------------------------------------------------------------------------------- */

/* Keys of other architectures that change the result. Missing, null and false are fine, and so is the neutral number.
 */
static const struct {
    const char *key;
    double neutral;
} foreign[] = {
    {"add_cross_attention", 0},
    {"alibi", 0},
    {"attention_chunk_size", 0},
    {"attention_multiplier", 1},
    {"attn_logit_softcapping", 0},
    {"clip_qkv", 0},
    {"embedding_multiplier", 1},
    {"final_logit_softcapping", 0},
    {"is_encoder_decoder", 0},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"n_routed_experts", 0},
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"qk_layernorm", 0},
    {"residual_multiplier", 1},
    {"rope_local_base_freq", 0},
    {"scale_depth", 1},
    {"scale_emb", 1},
    {"text_config", 0},
    {"use_qk_norm", 0},
};

static sl_status refuse_foreign(const sli_json *config, sl_error *err) {
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        const json_t *v = sli_json_get(config, foreign[i].key);
        if (v != NULL && !json_is_false(v) && !(json_is_number(v) && json_number_value(v) == foreign[i].neutral))
            return refuse(config, foreign[i].key, err, "nothing", "a feature that is not supported");
    }
    return SL_OK;
}

/* Whether the form is one that somebody reads is seen when the tensors are looked for. */
static sl_status read_quantized(const sli_json *config, sli_model_desc *d, sl_error *err) {
    if (sli_json_get(config, "quantization_config") == NULL)
        return SL_OK;
    sli_json at;
    const char *method = "unnamed";
    SL_TRY(sli_json_object(config, "quantization_config", REQ, &at, err));
    SL_TRY(sli_json_string(&at, "quant_method", OPT, &method, err));
    snprintf(d->quant_method, sizeof d->quant_method, "%s", method);
    return SL_OK;
}

/* ---- groups of keys -------------------------------------------------------------------------------------------- */

static sl_status read_arch(const sli_json *config, sli_model_desc *d, sl_error *err) {
    const char *name;
    SL_TRY(sli_json_string(config, "model_type", REQ, &name, err));
    d->arch = sli_arch_find(name);
    if (d->arch != NULL)
        return SL_OK;
    char known[128] = "one of ";
    sli_arch_names(known + strlen(known), sizeof known - strlen(known));
    return refuse(config, "model_type", err, known, "an architecture that is not supported");
}

static sl_status read_sizes(const sli_json *config, sli_model_desc *d, sl_error *err) {
    SL_TRY(read_i32(config, "num_hidden_layers", REQ, 1, MAX_LAYERS, &d->n_layers, err));
    SL_TRY(read_i32(config, "hidden_size", REQ, 1, MAX_WIDTH, &d->hidden, err));
    SL_TRY(read_i32(config, "vocab_size", REQ, 1, MAX_VOCAB, &d->vocab, err));
    d->max_positions = d->arch->default_positions;
    SL_TRY(read_i32(config, "max_position_embeddings", OPT, 1, INT32_MAX, &d->max_positions, err));
    double eps = 1e-6;
    SL_TRY(sli_json_number(config, "rms_norm_eps", OPT, 0, 1, &eps, err));
    d->norm_eps = (float)eps;
    return SL_OK;
}

/* Arrays over layers: five in one block. */
static sl_status make_layers(sli_model_desc *d, sl_error *err) {
    int32_t *block = sli_calloc(SLI_TAG_MISC, 5 * (size_t)d->n_layers, sizeof *block);
    if (block == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the description of %d layers", d->n_layers);
    int32_t **const arrays[] = {&d->n_q, &d->n_kv, &d->ffn, &d->window, &d->rope_table};
    for (int i = 0; i < 5; i++)
        *arrays[i] = block + (size_t)i * (size_t)d->n_layers;
    return SL_OK;
}

static sl_status read_heads(const sli_json *config, sli_model_desc *d, sl_error *err) {
    int32_t n_q = 0, n_kv = 0, ffn = 0;
    SL_TRY(read_i32(config, "num_attention_heads", REQ, 1, MAX_HEADS, &n_q, err));
    /* The class default holds for a key left out; an explicit null means "as many as query heads". */
    int given = json_object_get(config->value, "num_key_value_heads") != NULL;
    n_kv = !given && d->arch->default_n_kv > 0 ? d->arch->default_n_kv : n_q;
    SL_TRY(read_i32(config, "num_key_value_heads", OPT, 1, MAX_HEADS, &n_kv, err));
    if (n_q % n_kv != 0)
        return sli_json_fail(config, "num_attention_heads", sli_json_get(config, "num_attention_heads"), err,
                             "a multiple of num_key_value_heads (%d)", n_kv);
    SL_TRY(read_i32(config, "intermediate_size", REQ, 1, MAX_WIDTH, &ffn, err));

    given = json_object_get(config->value, "head_dim") != NULL;
    d->head_dim = !given ? d->arch->default_head_dim : 0;
    SL_TRY(read_i32(config, "head_dim", OPT, 1, MAX_HEAD_DIM, &d->head_dim, err));
    if (d->head_dim == 0) {
        if (d->hidden % n_q != 0 || d->hidden / n_q > MAX_HEAD_DIM)
            return sli_json_fail(config, "hidden_size", sli_json_get(config, "hidden_size"), err,
                                 "a multiple of num_attention_heads (%d), at most %d times, as head_dim is not given",
                                 n_q, MAX_HEAD_DIM);
        d->head_dim = d->hidden / n_q;
    }
    if (d->head_dim % 2 != 0)
        return sl_fail(err, SL_E_DATA, "%s: heads of %d dimensions, expected an even number", config->file,
                       d->head_dim);
    d->attn_scale = 1 / sqrt((double)d->head_dim);
    SL_TRY(make_layers(d, err));
    for (int32_t l = 0; l < d->n_layers; l++) {
        d->n_q[l] = n_q;
        d->n_kv[l] = n_kv;
        d->ffn[l] = ffn;
    }
    return SL_OK;
}

static sl_status read_bias(const sli_json *config, const char *key, uint32_t adds, sli_model_desc *d, sl_error *err) {
    int on = 0;
    SL_TRY(sli_json_bool(config, key, OPT, &on, err));
    if (on && adds == 0)
        return refuse(config, key, err, "false for this model_type", "a feature that is not supported");
    d->has |= on ? adds : 0;
    return SL_OK;
}

static sl_status read_switches(const sli_json *config, sli_model_desc *d, sl_error *err) {
    static const struct {
        const char *name;
        sli_act act;
    } acts[] = {{"silu", SLI_ACT_SILU}, {"swish", SLI_ACT_SILU}, {"gelu_pytorch_tanh", SLI_ACT_GELU_TANH}};
    static const struct {
        const char *name;
        sl_dtype dtype;
    } dtypes[] = {{"float32", SL_F32}, {"float16", SL_F16}, {"bfloat16", SL_BF16}};

    d->has = d->arch->has;
    d->qk_norm = (d->has & SLI_HAS_QK_NORM) != 0 ? SLI_QK_NORM_HEAD : SLI_QK_NORM_NONE;
    SL_TRY(read_bias(config, "attention_bias", d->arch->attention_bias, d, err));
    SL_TRY(read_bias(config, "mlp_bias", d->arch->mlp_bias, d, err));
    SL_TRY(sli_json_bool(config, "tie_word_embeddings", OPT, &d->tied, err));
    d->has |= d->tied ? 0 : SLI_HAS_HEAD;

    const char *name = "silu";
    SL_TRY(sli_json_string(config, "hidden_act", OPT, &name, err));
    size_t i = 0;
    while (i < sizeof acts / sizeof *acts && strcmp(acts[i].name, name) != 0)
        i++;
    if (i == sizeof acts / sizeof *acts)
        return refuse(config, "hidden_act", err, "silu or gelu_pytorch_tanh", "an activation that is not supported");
    d->act = acts[i].act;

    const char *key = sli_json_get(config, "dtype") != NULL ? "dtype" : "torch_dtype";
    name = NULL;
    SL_TRY(sli_json_string(config, key, OPT, &name, err));
    if (name == NULL)
        return SL_OK;
    for (i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            d->dtype = dtypes[i].dtype;
    if (d->dtype == SL_DTYPE_NONE)
        return refuse(config, key, err, "float32, float16 or bfloat16", "weights of a dtype that is not supported");
    return SL_OK;
}

/* ---- windows --------------------------------------------------------------------------------------------------- */

/* -1 unless item l of layer_types is one of the two kinds; else whether it is the windowed one. */
static int windowed_type(const json_t *types, int32_t l) {
    const char *kind = json_string_value(json_array_get(types, (size_t)l));
    if (kind == NULL)
        return -1;
    return strcmp(kind, "sliding_attention") == 0 ? 1 : strcmp(kind, "full_attention") == 0 ? 0 : -1;
}

static sl_status read_windows(const sli_json *config, sli_model_desc *d, sl_error *err) {
    const sli_arch *a = d->arch;
    json_t *types = NULL;
    SL_TRY(sli_json_array(config, "layer_types", OPT, &types, err));
    if (types != NULL && json_array_size(types) != (size_t)d->n_layers)
        return sl_fail(err, SL_E_DATA, "%s: \"layer_types\": expected %d items (num_hidden_layers), found %zu",
                       config->file, d->n_layers, json_array_size(types));
    int32_t window = 0, from = 0;
    int on = a->window == SLI_WINDOW_ALL;
    if (a->window == SLI_WINDOW_SWITCH) {
        from = a->default_window_from;
        SL_TRY(sli_json_bool(config, "use_sliding_window", OPT, &on, err));
        SL_TRY(read_i32(config, "max_window_layers", OPT, 0, INT32_MAX, &from, err));
    }
    if (on) {
        window = json_object_get(config->value, "sliding_window") == NULL ? a->default_window : 0;
        SL_TRY(read_i32(config, "sliding_window", OPT, 1, INT32_MAX, &window, err));
    }
    for (int32_t l = 0; l < d->n_layers; l++) {
        int windowed = window > 0 && l >= from;
        if (types != NULL) {
            int type = windowed_type(types, l);
            if (type < 0)
                return refuse(config, "layer_types", err, "full_attention and sliding_attention only",
                              "layers of a kind that is not supported");
            /* Only the switchable kind lets the list decide, and only where a window is given. */
            if (type != windowed && (a->window != SLI_WINDOW_SWITCH || (type == 1 && window == 0)))
                return sl_fail(err, SL_E_DATA,
                               "%s: \"layer_types\": item %d is %s, but model_type %s with the other window keys makes "
                               "that layer %s",
                               config->file, l, type ? "sliding_attention" : "full_attention", a->model_type,
                               windowed ? "sliding_attention" : "full_attention");
            windowed = type;
        }
        d->window[l] = windowed ? window : 0;
    }
    return SL_OK;
}

static sl_status make_rope(const sli_json *config, sli_model_desc *d, sl_error *err) {
    sli_rope *r = &d->rope[0];
    r->dim = d->head_dim;
    d->n_rope = 1;
    SL_TRY(sli_hf_rope_read(config, d->max_positions, r, err));
    r->inv_freq = sli_calloc(SLI_TAG_MISC, (size_t)r->dim / 2, sizeof *r->inv_freq);
    if (r->inv_freq == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %d RoPE frequencies", r->dim / 2);
    sli_rope_frequencies(r);
    return SL_OK;
}

/* ---- tokens and generation ------------------------------------------------------------------------------------- */

static sl_status token_id(const sli_json *at, const char *key, const json_t *v, int32_t vocab, int32_t *out,
                          sl_error *err) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
        return sli_json_fail(at, key, v, err, "a token id from 0 to %d", vocab - 1);
    *out = (int32_t)json_integer_value(v);
    return SL_OK;
}

/* One file's bos and eos; a missing or null key changes nothing. eos is one id or a list of them. */
static sl_status read_tokens(const sli_json *at, sli_model_desc *d, sl_error *err) {
    json_t *bos = sli_json_get(at, "bos_token_id"), *eos = sli_json_get(at, "eos_token_id");
    if (bos != NULL)
        SL_TRY(token_id(at, "bos_token_id", bos, d->vocab, &d->bos, err));
    if (eos == NULL)
        return SL_OK;
    if (!json_is_array(eos)) {
        d->n_eos = 1;
        return token_id(at, "eos_token_id", eos, d->vocab, &d->eos[0], err);
    }
    size_t n = json_array_size(eos);
    if (n > SLI_MAX_EOS)
        return sli_json_fail(at, "eos_token_id", eos, err, "at most %d token ids", SLI_MAX_EOS);
    d->n_eos = (int32_t)n;
    for (size_t i = 0; i < n; i++)
        SL_TRY(token_id(at, "eos_token_id", json_array_get(eos, i), d->vocab, &d->eos[i], err));
    return SL_OK;
}

static sl_status read_generation(const sli_json *at, sli_model_desc *d, sl_error *err) {
    sli_generation *g = &d->generation;
    int sample = -1;
    SL_TRY(sli_json_bool(at, "do_sample", OPT, &sample, err));
    g->do_sample = sample;
    SL_TRY(read_i32(at, "top_k", OPT, 0, INT32_MAX, &g->top_k, err));
    SL_TRY(sli_json_number(at, "temperature", OPT, 0, 1e6, &g->temperature, err));
    SL_TRY(sli_json_number(at, "top_p", OPT, 0, 1, &g->top_p, err));
    SL_TRY(sli_json_number(at, "min_p", OPT, 0, 1, &g->min_p, err));
    return sli_json_number(at, "repetition_penalty", OPT, SLI_JSON_ABOVE_ZERO, 1e6, &g->repetition_penalty, err);
}

static sl_status read_all(const sli_json *config, const sli_json *generation, sli_model_desc *d, sl_error *err) {
    SL_TRY(read_arch(config, d, err));
    SL_TRY(read_quantized(config, d, err));
    SL_TRY(refuse_foreign(config, err));
    SL_TRY(read_sizes(config, d, err));
    SL_TRY(read_heads(config, d, err));
    SL_TRY(read_switches(config, d, err));
    SL_TRY(read_windows(config, d, err));
    SL_TRY(make_rope(config, d, err));

    /* Class defaults for keys that are left out; a small test vocabulary may not have them. */
    int no_bos = json_object_get(config->value, "bos_token_id") == NULL;
    int no_eos = json_object_get(config->value, "eos_token_id") == NULL;
    d->bos = no_bos && d->arch->default_bos < d->vocab ? d->arch->default_bos : -1;
    if (no_eos && d->arch->default_eos >= 0 && d->arch->default_eos < d->vocab)
        d->eos[d->n_eos++] = d->arch->default_eos;
    d->generation = (sli_generation){-1, -1, NAN, NAN, NAN, NAN};
    SL_TRY(read_tokens(config, d, err));
    if (generation == NULL)
        return SL_OK;
    SL_TRY(read_tokens(generation, d, err));
    return read_generation(generation, d, err);
}

sl_status sli_hf_config_read(const sli_json *config, const sli_json *generation, sli_model_desc *out, sl_error *err) {
    *out = (sli_model_desc){0};
    sl_status s = read_all(config, generation, out, err);
    if (s < 0)
        sli_model_desc_free(out);
    return s < 0 ? s : SL_OK;
}

sl_status sli_hf_config_parse(const char *config_name, const char *config, size_t config_bytes,
                              const char *generation_name, const char *generation, size_t generation_bytes,
                              sli_model_desc *out, sl_error *err) {
    *out = (sli_model_desc){0};
    sli_json c = {0}, g = {0};
    sl_status s = sli_json_parse(config_name, config, config_bytes, 0, &c, err);
    if (s >= 0 && generation != NULL)
        s = sli_json_parse(generation_name, generation, generation_bytes, 0, &g, err);
    if (s >= 0)
        s = sli_hf_config_read(&c, generation != NULL ? &g : NULL, out, err);
    sli_json_free(&c);
    sli_json_free(&g);
    return s;
}

sl_status sli_hf_config_load(const char *dir, sli_model_desc *out, sl_error *err) {
    *out = (sli_model_desc){0};
    sli_json c = {0}, g = {0};
    char *config = sli_path_join(dir, "config.json");
    char *generation = sli_path_join(dir, "generation_config.json");
    sl_status s;
    if (config == NULL || generation == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory", dir);
    else
        s = sli_json_load(config, MAX_CONFIG_BYTES, 0, &c, err);
    int has_generation = s >= 0 && sli_file_exists(generation);
    if (has_generation)
        s = sli_json_load(generation, MAX_CONFIG_BYTES, 0, &g, err);
    if (s >= 0)
        s = sli_hf_config_read(&c, has_generation ? &g : NULL, out, err);
    sli_json_free(&c);
    sli_json_free(&g);
    sli_free(config);
    sli_free(generation);
    return s;
}
