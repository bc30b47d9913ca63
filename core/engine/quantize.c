/* sluice_quantize of libsluice.h; see quantize.h and sluice/packing.h. */
#include "quantize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "api.h"
#include "base/file.h"
#include "base/ledger.h"
#include "gather.h"
#include "model/safetensors_write.h"
#include "plain_linear.h"
#include "sl_error.h"

enum { MAX_GROUPS = SLI_ROLE_COUNT }; /* of one layer */

/* ---- stand-ins --------------------------------------------------------------------------------------------------- */

static sl_status stand_in(void *user, int32_t layer, const char *tensor, const sli_quantizer **out, sl_error *err) {
    const sli_quantize *q = user;
    SL_TRY(q->real.quantizer(q->real.user, layer, tensor, out, err));
    if ((*out)->packer != NULL)
        *out = &q->plain[*out - q->net->quantizers];
    return SL_OK;
}

static const sli_attender *attender(void *user, int32_t layer, uint32_t stage) {
    const sli_quantize *q = user;
    return q->real.attender(q->real.user, layer, stage);
}

static const sli_store *store(void *user, int32_t layer) {
    const sli_quantize *q = user;
    return q->real.store(q->real.user, layer);
}

sl_status sli_quantize_plan(sli_quantize *q, sli_network *net, sli_network_plan *plan, sl_error *err) {
    q->plain = sli_calloc(SLI_TAG_MISC, (size_t)net->n_quantizers, sizeof *q->plain);
    if (q->plain == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %d quantisers", net->n_quantizers);
    for (int32_t i = 0; i < net->n_quantizers; i++)
        q->plain[i] = sli_plain_quantizer(net);
    q->net = net;
    q->real = *plan;
    *plan = (sli_network_plan){q, stand_in, attender, store, plan->progress, plan->progress_user};
    return SL_OK;
}

/* The quantiser that a group waits for; NULL: it is bound for good. */
static const sli_quantizer *awaited(const sli_quantize *q, const sli_group *g) {
    for (int32_t i = 0; i < q->net->n_quantizers; i++)
        if (g->quantizer == &q->plain[i])
            return &q->net->quantizers[i];
    return NULL;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* One file an instance: the output itself, or in a folder a file named after the section. */
static sl_status file_name(const sli_quantize *q, const sli_quantizer *z, char **out, sl_error *err) {
    const char *output = q->options->output;
    size_t n = strlen(output);
    int is_file = n > 12 && strcmp(output + n - 12, ".safetensors") == 0 && !sli_is_dir(output), packers = 0;
    for (int32_t i = 0; i < q->net->n_quantizers; i++)
        packers += q->net->quantizers[i].packer != NULL;
    if (is_file && packers > 1)
        return sl_fail(err, SL_E_INVALID,
                       "%s is one file, but %d sections of the configuration pack with data: name a folder", output,
                       packers);
    if (is_file) {
        *out = sli_strdup(SLI_TAG_MISC, output);
        return *out != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for a name");
    }
    if (mkdir(output, 0777) != 0 && errno != EEXIST)
        return sl_fail(err, SL_E_IO, "%s: cannot be made: %s", output, strerror(errno));
    char name[256];
    snprintf(name, sizeof name, "%s.safetensors", z->section);
    for (char *c = name; *c != '\0'; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '.'))
            *c = '_';
    *out = sli_path_join(output, name);
    return *out != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for a name");
}

static sl_status open_file(const sli_quantize *q, const sli_quantizer *z, sli_st_writer **out, sl_error *err) {
    char *path = NULL, model[17], run[512];
    SL_TRY(file_name(q, z, &path, err));
    sl_status s = sli_st_writer_open(path, out, err);
    sli_free(path);
    SL_TRY(s);
    snprintf(model, sizeof model, "%016" PRIx64, q->net->info->fingerprint);
    snprintf(run, sizeof run, "text=%s samples=%" PRId64 " length=%" PRId64 " seed=%" PRIu64, q->service.text,
             q->service.n_samples, q->service.sample_length, q->service.seed);
    const char *texts[][2] = {{"format", "pt"},
                              {"sluice.plugin", z->id},
                              {"sluice.version", z->version},
                              {"sluice.model", model},
                              {"sluice.parameters", z->packer->parameters(z->self)},
                              {"sluice.calibration", run}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        SL_TRY(sli_st_writer_text(*out, texts[i][0], texts[i][1], err));
    return SL_OK;
}

static sl_status write_group(const sli_quantizer *z, const sl_linear_group *group, sli_st_writer *file, sl_error *err) {
    const sl_pack_tensor *const *tensors = NULL;
    int32_t n = 0;
    SL_TRY(z->packer->tensors(z->self, group, &tensors, &n, err));
    for (int32_t i = 0; i < n; i++)
        SL_TRY(sli_st_writer_add(file, tensors[i]->name, &tensors[i]->tensor, err));
    return SL_OK;
}

/* ---- one layer --------------------------------------------------------------------------------------------------- */

/* A group of the layer that waits for data. */
typedef struct waiting {
    sli_group *group;
    const sli_quantizer *quantizer;
    sl_calibration_wants wants;
    sli_gather gather;
    int heard, listens;
} waiting;

typedef struct layer_work {
    waiting list[MAX_GROUPS];
    int n;
} layer_work;

static sl_status hear(void *user, const sli_group *group, const float *x, int64_t n_rows, int64_t width) {
    layer_work *w = user;
    (void)width;
    for (int i = 0; i < w->n; i++)
        if (w->list[i].group == group && w->list[i].listens)
            return sli_gather_add(&w->list[i].gather, x, n_rows);
    return SL_OK;
}

static int is_of_ffn(const sli_group *g) { return strncmp(g->desc.name, "ffn.", 4) == 0; }

/* Runs the layer for those that can hear now: the first one, and all that need not wait for others. */
static sl_status listen(sli_quantize *q, layer_work *w, int first, int32_t layer, sl_error *err) {
    sli_network *net = &q->engine->target;
    int64_t n = q->service.n_samples * q->service.sample_length;
    int with_ffn = 0, any = 0;
    for (int i = first; i < w->n; i++) {
        waiting *it = &w->list[i];
        it->listens = !it->heard && (i == first || (first == 0 && !it->wants.in_order));
        if (!it->listens)
            continue;
        it->gather = (sli_gather){.host = net->host, .ops = net->ops, .lane = net->lane};
        SL_TRY(sli_gather_init(&it->gather, &it->wants, it->group->desc.in, n, err));
        it->gather.view.n_samples = q->service.n_samples;
        with_ffn |= is_of_ffn(it->group);
        any |= it->wants.kinds != 0;
        it->heard = 1;
    }
    if (!any)
        return SL_OK;
    const sli_listener listener = {hear, w};
    net->listener = &listener;
    sl_status s = sli_quantize_run_layer(q, layer, with_ffn, 0, err);
    net->listener = NULL;
    return s;
}

static sl_status quantize_group(sli_quantize *q, waiting *it, sli_st_writer **files, sl_error *err) {
    const sli_quantizer *z = it->quantizer;
    sli_group *g = it->group;
    sl_status s = z->packer->quantize(z->self, &g->desc, sli_gather_finish(&it->gather), err);
    sli_gather_free(&it->gather);
    if (s >= 0) /* rewritten weights are gone when the group is bound again */
        s = write_group(z, &g->desc, files[z - q->net->quantizers], err);
    if (s >= 0)
        s = sli_network_rebind(g, z, err);
    SL_TRY(s < 0 ? sl_fail_within(err, s, "[%s] %s", z->section, z->id) : SL_OK);
    for (int32_t i = 0; i < g->desc.n; i++) {
        int64_t weights = g->linear[i].weight.shape[0] * g->linear[i].weight.shape[1];
        q->weights += weights;
        q->weight_bits += g->claim.bits_per_weight * (double)weights;
    }
    q->n_groups++;
    return SL_OK;
}

/* Who waits in this layer (-1: the head). */
static sl_status find_waiting(sli_quantize *q, layer_work *w, int32_t layer, sl_error *err) {
    sli_network *net = &q->engine->target;
    *w = (layer_work){.n = 0};
    for (int32_t i = 0; i < net->n_groups; i++) {
        sli_group *g = &net->groups[i];
        const sli_quantizer *z = awaited(q, g);
        if (g->desc.layer != layer || z == NULL)
            continue;
        waiting *it = &w->list[w->n];
        *it = (waiting){.group = g, .quantizer = z, .wants = {.struct_size = SL_SIZE(sl_calibration_wants)}};
        sl_status s = z->packer->wants(z->self, &g->desc, &it->wants, err);
        SL_TRY(s < 0 ? sl_fail_within(err, s, "[%s] %s", z->section, z->id) : s);
        if (s != SL_SKIPPED)
            w->n++;
        else if (layer >= 0) /* the head's product is not needed here */
            SL_TRY(sli_network_rebind(g, z, err));
    }
    return SL_OK;
}

static sl_status quantize_layer(sli_quantize *q, int32_t layer, sli_st_writer **files, sl_error *err) {
    int32_t n_layers = q->net->info->n_layers, at = layer < n_layers ? layer : -1;
    layer_work w;
    SL_TRY(find_waiting(q, &w, at, err));
    sl_status s = SL_OK;
    for (int i = 0; s >= 0 && i < w.n; i++) {
        if (!w.list[i].heard)
            s = listen(q, &w, i, layer, err);
        if (s >= 0)
            s = quantize_group(q, &w.list[i], files, err);
    }
    for (int i = 0; i < w.n; i++)
        sli_gather_free(&w.list[i].gather);
    if (s >= 0 && layer < n_layers)
        s = sli_quantize_run_layer(q, layer, 1, 1, err);
    return s;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static sl_status check(const sli_quantize *q, sl_error *err) {
    const sluice_engine *e = q->engine;
    int packers = 0;
    for (int32_t i = 0; i < e->target.n_quantizers; i++)
        packers += e->target.quantizers[i].packer != NULL;
    if (e->draft.model != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "a draft model is configured: quantise it in a run of its own, as [model]");
    if (packers == 0)
        return sl_fail(err, SL_E_INVALID,
                       "[quant] plugin = %s packs without data: there is nothing to be prepared, it is done at load",
                       e->target.quantizers[0].id);
    if (q->service.n_samples < 1 || q->service.sample_length < 2 || q->service.sample_length > e->limits.max_context)
        return sl_fail(err, SL_E_RANGE,
                       "%" PRId64 " samples of %" PRId64 " tokens: at least 1 sample of 2 to %" PRId64
                       " tokens (engine.max_context)",
                       q->service.n_samples, q->service.sample_length, e->limits.max_context);
    return SL_OK;
}

static sl_status run(sli_quantize *q, const sluice_options *options, sli_st_writer **files, sl_error *err) {
    SL_TRY(check(q, err));
    for (int32_t i = 0; i < q->net->n_quantizers; i++)
        if (q->net->quantizers[i].packer != NULL)
            SL_TRY(open_file(q, &q->net->quantizers[i], &files[i], err));
    SL_TRY(sli_quantize_draw(q, err));
    int32_t n = q->net->info->n_layers + 1;
    for (int32_t l = 0; l < n; l++) {
        sl_status s = quantize_layer(q, l, files, err);
        SL_TRY(s < 0 ? (l + 1 < n ? sl_fail_within(err, s, "layer %d", l) : sl_fail_within(err, s, "head")) : SL_OK);
        if (options->progress != NULL)
            options->progress(options->user, "quantizing", l + 1, n);
    }
    for (int32_t i = 0; i < q->net->n_quantizers; i++) {
        int64_t bytes = 0;
        if (files[i] == NULL)
            continue;
        SL_TRY(sli_st_writer_finish(files[i], &bytes, err));
        q->bytes_written += bytes;
        q->n_files++;
    }
    return SL_OK;
}

int sluice_quantize(const sluice_options *options, const sluice_quantize_options *how, sluice_quantize_report *report,
                    sluice_error *error) {
    SLI_API(err, error);
    sli_quantize q = {
        .options = how,
        .service = {SL_SIZE(sl_calibration_run), how->text_name, how->n_samples, how->sample_length, how->seed}};
    double begin = sli_now();
    sl_status s = sli_engine_open(options, &q, &q.engine, &err);
    sli_st_writer **files = s >= 0 ? sli_calloc(SLI_TAG_MISC, (size_t)q.net->n_quantizers, sizeof(void *)) : NULL;
    if (s >= 0)
        s = files != NULL ? run(&q, options, files, &err) : sl_fail(&err, SL_E_NO_MEMORY, "out of memory");
    sli_ledger_report ledger;
    sli_ledger_read(&ledger);
    if (s >= 0 && report != NULL)
        *report = (sluice_quantize_report){.n_files = q.n_files,
                                           .n_groups = q.n_groups,
                                           .weights = q.weights,
                                           .bits_per_weight = q.weights > 0 ? q.weight_bits / (double)q.weights : 0,
                                           .file_bytes = q.bytes_written,
                                           .peak_bytes = ledger.total_peak,
                                           .seconds = sli_now() - begin};
    for (int32_t i = 0; files != NULL && i < q.net->n_quantizers; i++)
        sli_st_writer_close(files[i]);
    sli_free(files);
    sluice_close(q.engine);
    sli_free(q.plain);
    sli_free(q.tokens);
    sli_free(q.hidden);
    sli_free(q.ffn_layers);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}
