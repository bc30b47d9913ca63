/* Samples of a quantising run: stretches of a text, and their way through one layer at a time. */
#include "quantize.h"

#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "engine/rewrite.h"
#include "engine/rng.h"
#include "sl_error.h"
#include "sl_tensor.h"

/* A sample is a beginning-of-text token and a stretch of the text from a place drawn at random. */
static sl_status cut(sli_quantize *q, const sli_ids *text, sl_error *err) {
    const sl_model_info *info = q->engine->target.info;
    int64_t length = q->service.sample_length, lead = info->bos >= 0, need = length - lead;
    if ((int64_t)text->n < need)
        return sl_fail(err, SL_E_RANGE, "%s has %zu tokens, one sample needs %" PRId64, q->service.text, text->n, need);
    for (int64_t s = 0; s < q->service.n_samples; s++) {
        int32_t *to = q->tokens + s * length;
        int64_t places = (int64_t)text->n - need + 1;
        int64_t at = (int64_t)(sli_rng_uniform(q->service.seed, (uint32_t)s, 0, SL_RNG_PLUGIN, 0) * (double)places);
        if (lead)
            *to++ = info->bos;
        for (int64_t i = 0; i < need; i++)
            to[i] = text->data[at + i];
    }
    return SL_OK;
}

sl_status sli_quantize_draw(sli_quantize *q, sl_error *err) {
    sluice_engine *e = q->engine;
    int64_t n = q->service.n_samples * q->service.sample_length;
    if (e->tokenizer == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "%s has no tokenizer.json: the text cannot be read", e->target.info->name);
    q->tokens = sli_calloc(SLI_TAG_SCRATCH, (size_t)n, sizeof *q->tokens);
    q->hidden = sli_calloc(SLI_TAG_SCRATCH, (size_t)(n * e->target.info->hidden), sizeof *q->hidden);
    q->ffn_layers = sli_calloc(SLI_TAG_MISC, (size_t)e->target.info->n_layers, sizeof *q->ffn_layers);
    if (q->tokens == NULL || q->hidden == NULL || q->ffn_layers == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %" PRId64 " samples of %" PRId64 " tokens",
                       q->service.n_samples, q->service.sample_length);
    sli_ids ids = {0};
    sl_status s = sli_tokenizer_encode(e->tokenizer, q->options->text, q->options->length, 0, &ids, err);
    if (s >= 0)
        s = cut(q, &ids, err);
    sli_ids_free(&ids);
    return s;
}

/* Rows [begin, begin + n) of one sample, whose earlier rows are in the cache. */
static sl_status run_rows(sli_quantize *q, int32_t layer, int64_t sample, int64_t begin, int32_t n, int keep,
                          sl_error *err) {
    sluice_engine *e = q->engine;
    sli_network *net = &e->target;
    int64_t E = net->info->hidden, at = sample * q->service.sample_length + begin;
    sl_tensor hidden;
    sl_tensor_make(&hidden, q->hidden + at * E, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){n, E});
    sli_batch_clear(&e->batch, 0, ++net->step);
    sli_batch_add(&e->batch, 0, begin, SL_STAGE_PREFILL, q->tokens + at, n, NULL, NULL);
    const sl_batch *b = &e->batch.view;
    sli_pass pass = {.batch = b,
                     .hidden = layer > 0 ? &hidden : NULL,
                     .ffn_layers = q->ffn_layers,
                     .enter_layer = layer,
                     .exit_layer = layer + 1};
    SL_TRY(sli_network_begin(net, b, err));
    SL_TRY(sli_network_forward(net, &pass, err));
    if (keep) { /* hidden rows are in the checkpoint's own basis, as forward takes them */
        memcpy(hidden.data, net->x, sizeof(float) * (size_t)(n * E));
        SL_TRY(sli_rewrite_residual(net, 1, hidden.data, n));
    }
    for (int32_t i = 0; i < n; i++)
        e->path[i] = i;
    e->path_begin[0] = 0;
    e->path_begin[1] = n;
    e->next[0] = -1;
    sl_commit commit = {SL_SIZE(sl_commit), b, e->path_begin, e->path, e->next};
    return sli_network_commit(net, &commit, err);
}

static sl_status run_sample(sli_quantize *q, int32_t layer, int64_t sample, int keep, sl_error *err) {
    sluice_engine *e = q->engine;
    sli_network *net = &e->target;
    int64_t length = q->service.sample_length;
    int64_t most = e->prefill_chunk < e->limits.max_rows ? e->prefill_chunk : e->limits.max_rows;
    SL_TRY(sli_network_seq_open(net, 0, -1, 0, err));
    sli_engine_event(e, SL_EVENT_BEGIN, 0, -1, 0);
    sl_status s = sli_network_seq_grow(net, 0, length, err);
    for (int64_t at = 0; s >= 0 && at < length; at += most) {
        sli_engine_step_begin(e);
        s = run_rows(q, layer, sample, at, (int32_t)(length - at < most ? length - at : most), keep, err);
        sli_engine_step_end(e);
    }
    sli_engine_event(e, SL_EVENT_FINISH, 0, -1, length);
    sli_network_seq_close(net, 0);
    return s;
}

/* The head reads the residual of any rows, whatever sequence they are of. */
static sl_status run_head(sli_quantize *q, sl_error *err) {
    sluice_engine *e = q->engine;
    int64_t n = q->service.n_samples * q->service.sample_length, E = e->target.info->hidden;
    sl_status s = SL_OK;
    for (int64_t at = 0; s >= 0 && at < n; at += e->logit_rows) {
        int64_t rows = n - at < e->logit_rows ? n - at : e->logit_rows;
        memcpy(e->target.x, q->hidden + at * E, sizeof(float) * (size_t)(rows * E));
        sli_engine_step_begin(e);
        s = sli_rewrite_residual(&e->target, 0, e->target.x, rows);
        if (s >= 0)
            s = sli_network_head(&e->target, NULL, (int32_t)rows, e->logits, err);
        sli_engine_step_end(e);
    }
    return s;
}

sl_status sli_quantize_run_layer(sli_quantize *q, int32_t layer, int with_ffn, int keep, sl_error *err) {
    if (layer == q->engine->target.info->n_layers)
        return run_head(q, err);
    q->ffn_layers[layer] = (uint32_t)with_ffn;
    for (int64_t s = 0; s < q->service.n_samples; s++)
        SL_TRY(run_sample(q, layer, s, keep, err));
    return SL_OK;
}
