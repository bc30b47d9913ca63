/* See services.h. */
#include "services.h"

#include <string.h>

#include "base/ledger.h"
#include "device/cpu/cpu_ops.h"
#include "device_network.h"
#include "engine.h"
#include "engine/rewrite.h"
#include "engine/rng.h"
#include "model/safetensors.h"
#include "sl_error.h"

static sluice_engine *engine_of(const sl_host *host) { return sli_host_engine(host); }

sli_ops_context *sli_ops_context_of(const sl_host *host) { return &engine_of(host)->ops; }

/* ---- sl.model/1
 * ------------------------------------------------------------------------------------------------------ */

static sl_status model_tensor(const sl_host *host, const char *name, sl_tensor *out) {
    const sli_model *model = engine_of(host)->target.model;
    const sli_model_desc *d = sli_model_describe(model);
    for (int32_t l = -1; l < d->n_layers; l++)
        for (int role = 0; role < SLI_ROLE_COUNT; role++) {
            const char *known = sli_model_weight_name(model, l, (sli_weight_role)role);
            if (known != NULL && strcmp(known, name) == 0) {
                *out = *sli_model_weight(model, l, (sli_weight_role)role);
                return SL_OK;
            }
        }
    const sl_tensor *other = sli_model_find(model, name); /* parts of linears that are there in another form */
    if (other == NULL)
        return SL_E_NOT_FOUND;
    *out = *other;
    return SL_OK;
}

static const sl_model_info *model_info(const sl_host *host, int32_t model) {
    const sluice_engine *e = engine_of(host);
    return model == 0 ? e->target.info : model == 1 ? e->draft.info : NULL;
}

static const sl_model models = {SL_SIZE(sl_model), model_tensor, model_info};

/* ---- sl.head/1
 * ------------------------------------------------------------------------------------------------------ */

static int is_matrix(const sl_tensor *t, sl_dtype dtype, int64_t width) {
    return t->device == SL_DEVICE_CUDA && t->dtype == dtype && t->ndim == 2 && t->shape[1] == width &&
           t->stride[1] == 1;
}

static sl_status head_logits(const sl_host *host, int32_t model, const float *x, int64_t n, float *logits) {
    sluice_engine *e = engine_of(host);
    sli_network *net = model == 0 ? &e->target : &e->draft;
    if (model < 0 || model > 1 || net->model == NULL)
        return SL_E_NOT_FOUND;
    for (int64_t i = 0, some; i < n; i += some) {
        some = n - i < net->limits.max_rows ? n - i : net->limits.max_rows;
        const float *in = x + i * net->info->hidden;
        SL_TRY(sli_rewrite_head_in(net, &in, some));
        SL_TRY(sli_network_project(net, in, some, logits + i * net->info->vocab, NULL));
    }
    return SL_OK;
}

static sl_status head_queue(const sl_host *host, int32_t model, const sl_tensor *x, const sl_tensor *logits) {
    sluice_engine *e = engine_of(host);
    sli_network *net = model == 0 ? &e->target : &e->draft;
    if (model < 0 || model > 1 || net->model == NULL)
        return SL_E_NOT_FOUND;
    if (net->device == NULL)
        return SL_E_UNIMPLEMENTED;
    int64_t E = net->info->hidden, V = net->info->vocab;
    if (!is_matrix(x, SL_BF16, E) || !is_matrix(logits, SL_F32, V) || x->shape[0] != logits->shape[0])
        return SL_E_INVALID;
    return sli_device_queue_project(net, x, logits, NULL);
}

static const sl_head heads = {SL_SIZE(sl_head), head_logits, head_queue};

/* ---- sl.sample/1
 * ------------------------------------------------------------------------------------------------------- */

static sl_status distribution(const sl_host *host, int32_t seq, const float *logits, const int32_t *path,
                              int32_t n_path, int32_t *id, double *weight, int64_t *n, sl_error *err) {
    sluice_engine *e = engine_of(host);
    sluice_session *s = seq >= 0 && seq < e->max_sessions ? e->by_id[seq] : NULL;
    if (s == NULL || s->request == NULL)
        return sl_fail(err, SL_E_INVALID, "sequence %d has no request", seq);
    sli_row row = {.logits = logits,
                   .history = {.committed = s->tokens, .n_committed = s->n, .path = path, .n_path = n_path}};
    sli_dist dist;
    SL_TRY(sli_sampler_dist(e->sampler, &s->request->sampling, &row, &dist, err));
    for (int64_t i = 0; i < dist.n; i++) {
        id[i] = dist.id != NULL ? dist.id[i] : (int32_t)i;
        weight[i] = dist.weight[i];
    }
    *n = dist.n;
    return SL_OK;
}

static sl_status draw(const sl_host *host, int32_t seq, const sl_draft_q *q, int32_t *token) {
    sluice_engine *e = engine_of(host);
    sluice_session *s = seq >= 0 && seq < e->max_sessions ? e->by_id[seq] : NULL;
    if (s == NULL || s->request == NULL)
        return SL_E_INVALID;
    return sli_draft_draw_one(&s->request->draws, q, token, NULL);
}

static const sl_sample samples = {SL_SIZE(sl_sample), distribution, draw};

/* ---- sl.rng/1
 * ------------------------------------------------------------------------------------------------------------ */

static const sl_rng random_numbers = {SL_SIZE(sl_rng), sli_rng_uniform};

/* ---- sl.artifact/1
 * --------------------------------------------------------------------------------------------------------- */

struct sl_artifact {
    sli_safetensors *file;
};

static sl_status artifact_open(const sl_host *host, const char *path, sl_artifact **out, sl_error *err) {
    (void)host;
    sl_artifact *a = sli_alloc(SLI_TAG_PLUGIN, sizeof *a);
    if (a == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory to open %s", path);
    sl_status s = sli_safetensors_open(path, &a->file, err);
    if (s < 0)
        sli_free(a);
    else
        *out = a;
    return s;
}

static void artifact_close(const sl_host *host, sl_artifact *a) {
    (void)host;
    if (a != NULL)
        sli_safetensors_close(a->file);
    sli_free(a);
}

static sl_status artifact_tensor(const sl_host *host, const sl_artifact *a, const char *name, sl_tensor *out) {
    (void)host;
    const sli_named_tensor *t = sli_safetensors_find(a->file, name);
    if (t == NULL)
        return SL_E_NOT_FOUND;
    *out = t->tensor;
    return SL_OK;
}

static const char *artifact_metadata(const sl_host *host, const sl_artifact *a, const char *key) {
    (void)host;
    return sli_safetensors_metadata(a->file, key);
}

static const sl_artifacts artifacts = {SL_SIZE(sl_artifacts), artifact_open, artifact_close, artifact_tensor,
                                       artifact_metadata};

/* ---- all of them
 * --------------------------------------------------------------------------------------------------------------- */

sl_status sli_services_provide(sli_host_context *hosts, const sl_ops *ops, sl_error *err) {
    const struct {
        const char *id;
        const void *table;
    } services[] = {{SL_MODEL_ID, &models},
                    {SL_HEAD_ID, &heads},
                    {SL_SAMPLE_ID, &samples},
                    {SL_RNG_ID, &random_numbers},
                    {SL_ARTIFACT_ID, &artifacts},
                    {SL_OPS_ID, ops}};
    for (size_t i = 0; i < sizeof services / sizeof *services; i++)
        SL_TRY(sli_host_provide(hosts, services[i].id, services[i].table, err));
    return SL_OK;
}
