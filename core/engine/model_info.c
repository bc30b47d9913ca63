/* See model_info.h. */
#include "model_info.h"

#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "model/rope_table.h"
#include "sl_error.h"
#include "sl_tensor.h"

struct sli_model_info {
    sl_model_info view;
    sl_layer_info *layers;
    const sl_layer_info **layer_ptrs;
    sl_rope ropes[SLI_MAX_ROPE_TABLES];
    const sl_rope *rope_ptrs[SLI_MAX_ROPE_TABLES];
    float *tables[SLI_MAX_ROPE_TABLES]; /* cos, then sin */
};

/* FNV-1a over the numbers that make a checkpoint's shape. */
static uint64_t hash(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t fingerprint(const sli_model *model) {
    const sli_model_desc *d = sli_model_describe(model);
    uint64_t h = hash(0xcbf29ce484222325u, d->arch->model_type, strlen(d->arch->model_type));
    int64_t numbers[] = {
        d->n_layers,           d->hidden, d->vocab, d->head_dim, d->has, d->tied, sli_model_params(model),
        sli_model_bytes(model)};
    h = hash(h, numbers, sizeof numbers);
    /* and a few values of the embedding, which differ between checkpoints of one shape */
    const sl_tensor *e = sli_model_weight(model, -1, SLI_ROLE_EMBED);
    char first[64];
    uint64_t seed;
    float amplitude;
    if (!sli_model_random(model, e, &seed, &amplitude))
        return hash(h, e->data, sizeof first);
    sli_random_values(first, e->dtype, 0, (int64_t)sizeof first / (sl_dtype_bits(e->dtype) / 8), seed, amplitude);
    return hash(h, first, sizeof first);
}

static void fill_rope(sl_rope *out, const sli_model_desc *d, int32_t t, float *table, int64_t n) {
    const sli_rope *r = &d->rope[t];
    int64_t half = r->dim / 2;
    sli_rope_fill(d, t, 0, n, table, table + n * half);
    *out = (sl_rope){.struct_size = SL_SIZE(sl_rope),
                     .inv_freq = r->inv_freq,
                     .cos = table,
                     .sin = table + n * half,
                     .n_positions = n,
                     .theta = r->theta,
                     .attention_factor = r->attention_factor,
                     .style = SL_ROPE_HALF,
                     .dims = r->dim};
}

sl_status sli_model_info_create(const sli_model *model, const char *name, int64_t n_positions,
                                uint64_t vocab_fingerprint, sli_model_info **out, sl_error *err) {
    const sli_model_desc *d = sli_model_describe(model);
    sli_model_info *info = sli_alloc(SLI_TAG_MISC, sizeof *info);
    if (info == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the model's description");
    info->layers = sli_calloc(SLI_TAG_MISC, (size_t)d->n_layers, sizeof *info->layers);
    info->layer_ptrs = sli_calloc(SLI_TAG_MISC, (size_t)d->n_layers, sizeof *info->layer_ptrs);
    int ok = info->layers != NULL && info->layer_ptrs != NULL;
    for (int32_t t = 0; ok && t < d->n_rope; t++) {
        info->tables[t] = sli_calloc(SLI_TAG_WEIGHTS, (size_t)(n_positions * d->rope[t].dim), sizeof(float));
        ok = info->tables[t] != NULL;
        if (ok)
            fill_rope(&info->ropes[t], d, t, info->tables[t], n_positions);
        info->rope_ptrs[t] = &info->ropes[t];
    }
    if (!ok) {
        sli_model_info_destroy(info);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for RoPE tables of %" PRId64 " positions", n_positions);
    }
    for (int32_t l = 0; l < d->n_layers; l++) {
        info->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                          .block = "gqa",
                                          .attn_scale = d->attn_scale,
                                          .window = d->window[l],
                                          .n_heads = d->n_q[l],
                                          .n_kv_heads = d->n_kv[l],
                                          .head_dim = d->head_dim,
                                          .v_head_dim = d->head_dim,
                                          .ffn = d->ffn[l],
                                          .rope = d->rope_table[l],
                                          .qk_norm = d->qk_norm == SLI_QK_NORM_HEAD};
        info->layer_ptrs[l] = &info->layers[l];
    }
    info->view = (sl_model_info){.struct_size = SL_SIZE(sl_model_info),
                                 .name = name,
                                 .type = d->arch->model_type,
                                 .layers = info->layer_ptrs,
                                 .ropes = info->rope_ptrs,
                                 .eos = d->eos,
                                 .fingerprint = fingerprint(model),
                                 .vocab_fingerprint = vocab_fingerprint,
                                 .norm_eps = d->norm_eps,
                                 .n_layers = d->n_layers,
                                 .n_ropes = d->n_rope,
                                 .n_eos = d->n_eos,
                                 .hidden = d->hidden,
                                 .vocab = d->vocab,
                                 .max_position = d->max_positions,
                                 .bos = d->bos,
                                 .tied = (uint32_t)d->tied};
    *out = info;
    return SL_OK;
}

void sli_model_info_destroy(sli_model_info *info) {
    if (info == NULL)
        return;
    for (int t = 0; t < SLI_MAX_ROPE_TABLES; t++)
        sli_free(info->tables[t]);
    sli_free(info->layers);
    sli_free(info->layer_ptrs);
    sli_free(info);
}

const sl_model_info *sli_model_info_view(const sli_model_info *info) { return &info->view; }

void sli_model_info_rope_device(const sl_model_info *view, int32_t rope, const float *cosines, const float *sines) {
    sli_model_info *info = (sli_model_info *)(uintptr_t)view; /* its first member */
    info->ropes[rope].device_cos = cosines;
    info->ropes[rope].device_sin = sines;
}
