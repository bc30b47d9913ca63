/* What an engine can tell: text and tokens, information, statistics, configuration, plugins. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "engine.h"
#include "plugin/build_info.h"
#include "plugin/describe.h"
#include "plugin/loader.h"
#include "sl_error.h"
#include "sl_tensor.h"

const char *sluice_version(void) { return SLI_VERSION; }

/* ---- text
 * -------------------------------------------------------------------------------------------------------------- */

static sl_status need_tokenizer(const sluice_engine *e, sl_error *err) {
    return e->tokenizer != NULL
               ? SL_OK
               : sl_fail(err, SL_E_NOT_FOUND, "%s has no tokenizer.json: text cannot be read or written",
                         e->target.info->name);
}

int64_t sluice_tokenize(sluice_engine *e, const char *text, size_t length, int flags, int32_t *out, int64_t cap,
                        sluice_error *error) {
    SLI_API(err, error);
    sli_ids ids = {0};
    unsigned how =
        (flags & SLUICE_ADD_SPECIAL ? SLI_ADD_SPECIAL : 0u) | (flags & SLUICE_PARSE_SPECIAL ? SLI_PARSE_SPECIAL : 0u);
    sl_status s = need_tokenizer(e, &err);
    if (s >= 0)
        s = sli_tokenizer_encode(e->tokenizer, text, length, how, &ids, &err);
    int64_t n = (int64_t)ids.n;
    if (s >= 0)
        for (int64_t i = 0; i < n && i < cap; i++)
            out[i] = ids.data[i];
    sli_ids_free(&ids);
    return s < 0 ? sli_api_fail(&err, s, error) : n;
}

int64_t sluice_detokenize(sluice_engine *e, const int32_t *tokens, int64_t n, char *out, int64_t cap,
                          sluice_error *error) {
    SLI_API(err, error);
    char *text = NULL;
    size_t length = 0;
    sl_status s = need_tokenizer(e, &err);
    if (s >= 0)
        s = sli_tokenizer_decode(e->tokenizer, tokens, (size_t)n, SLI_SKIP_SPECIAL, &text, &length, &err);
    if (s >= 0 && cap > 0)
        memcpy(out, text, length < (size_t)cap ? length : (size_t)cap);
    sli_free(text);
    return s < 0 ? sli_api_fail(&err, s, error) : (int64_t)length;
}

/* ---- information
 * ---------------------------------------------------------------------------------------------------------- */

void sluice_default_sampling(const sluice_engine *e, sluice_sampling *out) { *out = e->defaults; }

void sluice_get_info(const sluice_engine *e, sluice_info *out) {
    const sl_model_info *m = e->target.info;
    *out = (sluice_info){.model = m->name,
                         .model_type = m->type,
                         .dtype = sl_dtype_name(e->target.layers[0].linear[SLI_ROLE_Q].group->linear[0].weight.dtype),
                         .isa = slk_isa_name(e->ops.kernels->isa),
                         .device = e->chosen.device != NULL ? "cuda" : "cpu",
                         .device_name = e->chosen.device != NULL ? e->chosen.device->info.name : "",
                         .device_reason = e->chosen.reason,
                         .parameters = sli_model_params(e->target.model),
                         .model_bytes = sli_model_bytes(e->target.model),
                         .vocab = m->vocab,
                         .layers = m->n_layers,
                         .hidden = m->hidden,
                         .max_context = (int32_t)e->limits.max_context,
                         .threads = sli_pool_workers(e->pool),
                         .max_sessions = e->max_sessions,
                         .bos = m->bos,
                         .max_rows = (int32_t)e->limits.max_rows,
                         .prefill_chunk = (int32_t)e->prefill_chunk,
                         .kv_dtype = sl_dtype_name(e->target.layers[0].layout.dtype)};
}

void sluice_get_stats(const sluice_engine *e, sluice_stats *out) {
    sli_ledger_report r;
    sli_ledger_read(&r);
    *out = e->stats;
    out->bytes_weights = r.now[SLI_TAG_WEIGHTS];
    out->bytes_kv = r.now[SLI_TAG_KV];
    out->bytes_scratch = r.now[SLI_TAG_SCRATCH];
    out->bytes_plugin = r.now[SLI_TAG_PLUGIN];
    out->bytes_kv_host = r.now[SLI_TAG_KV_HOST];
    out->bytes_peak = r.total_peak;
    const sli_device_network *d = e->target.device;
    if (d != NULL) {
        out->device_seconds = d->step.busy_seconds - e->busy_before;
        out->graphs = d->n_captured;
        out->graph_nodes = d->n_nodes;
        out->graph_others = d->n_others;
        out->graph_edges = d->n_edges;
        out->graph_dependent = d->n_dependent;
    }
    sli_ledger_device_report gpu, pinned;
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &gpu);
    sli_ledger_read_device(SLI_LEDGER_PINNED, &pinned);
    out->gpu_bytes_weights = gpu.now[SLI_TAG_WEIGHTS];
    out->gpu_bytes_kv = gpu.now[SLI_TAG_KV];
    out->gpu_bytes_scratch = gpu.now[SLI_TAG_SCRATCH];
    out->gpu_bytes_plugin = gpu.now[SLI_TAG_PLUGIN] + gpu.now[SLI_TAG_MISC];
    out->gpu_bytes_peak = gpu.total_peak;
    out->bytes_pinned = pinned.total;
}

int sluice_get_memory(const sluice_engine *e, int place, int i, sluice_memory *out) {
    static const struct {
        const char *name;
        sli_tag tag;
    } rows[] = {{"weights", SLI_TAG_WEIGHTS}, {"kv", SLI_TAG_KV},         {"kv_host", SLI_TAG_KV_HOST},
                {"scratch", SLI_TAG_SCRATCH}, {"plugin", SLI_TAG_PLUGIN}, {"misc", SLI_TAG_MISC}};
    enum { N = sizeof rows / sizeof *rows };
    _Static_assert((int)N == (int)SLI_TAG_COUNT && (int)N + 1 == (int)SLUICE_MEMORY_ROWS, "a row for each tag");
    (void)e;
    if (i < 0 || i > N || place < SLUICE_HOST || place > SLUICE_PINNED)
        return 0;
    sli_ledger_report host;
    sli_ledger_device_report r;
    if (place == SLUICE_HOST) {
        sli_ledger_read(&host);
        memcpy(r.now, host.now, sizeof r.now);
        memcpy(r.peak, host.peak, sizeof r.peak);
        r.total = host.total, r.total_peak = host.total_peak;
    } else
        sli_ledger_read_device(place == SLUICE_GPU ? SLI_LEDGER_DEVICE : SLI_LEDGER_PINNED, &r);
    *out = i == N ? (sluice_memory){"total", r.total, r.total_peak}
                  : (sluice_memory){rows[i].name, r.now[rows[i].tag], r.peak[rows[i].tag]};
    return 1;
}

void sluice_reset_peaks(sluice_engine *e) {
    (void)e;
    sli_ledger_restart_peaks();
}

void sluice_reset_stats(sluice_engine *e) {
    int32_t lossless = e->stats.lossless;
    e->stats = (sluice_stats){.lossless = lossless};
    e->busy_before = e->target.device != NULL ? e->target.device->step.busy_seconds : 0;
    sli_host_reset_metrics(e->hosts);
}

/* ---- JSON
 * --------------------------------------------------------------------------------------------------------------------
 */

static int emit_json(json_t *object, size_t flags, sluice_write_fn write, void *user, sl_error *err,
                     sluice_error *error) {
    char *text = object != NULL ? json_dumps(object, flags) : NULL;
    json_decref(object);
    if (text == NULL)
        return sli_api_fail(err, sl_fail(err, SL_E_NO_MEMORY, "no memory for a report"), error);
    write(user, text, strlen(text));
    write(user, "\n", 1);
    free(text);
    return SLUICE_OK;
}

static json_t *plugins_of(const sli_binding *b, const char *model) {
    json_t *list = json_array();
    const char *role, *id, *version;
    for (int i = 0; b != NULL && sli_binding_name(b, i, &role, &id, &version); i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:s}", "model", model, "role", role, "id", id, "version", version));
    return list;
}

static double rate(int64_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

static json_t *by_depth(const int64_t *count) {
    json_t *list = json_array();
    int n = SLUICE_MAX_DEPTH;
    while (n > 0 && count[n - 1] == 0)
        n--;
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer(count[i]));
    return list;
}

int sluice_stats_json(const sluice_engine *e, sluice_write_fn write, void *user, sluice_error *error) {
    SLI_API(err, error);
    sluice_stats s;
    sluice_info info;
    sluice_get_stats(e, &s);
    sluice_get_info(e, &info);
    json_t *plugins = plugins_of(e->target_plugins, "target"), *draft = plugins_of(e->draft_plugins, "draft"),
           *metrics = json_object();
    json_array_extend(plugins, draft);
    json_decref(draft);
    const char *who, *name;
    double value;
    for (int i = 0; sli_host_metric(e->hosts, i, &who, &name, &value); i++) {
        json_t *of = json_object_get(metrics, who);
        if (of == NULL)
            json_object_set_new(metrics, who, of = json_object());
        json_object_set_new(of, name, json_real(value));
    }
    json_t *prompts = json_pack("{s:I, s:I, s:I, s:f}", "replaced_tokens", (json_int_t)s.replaced_tokens, "kept_tokens",
                                (json_int_t)s.kept_tokens, "work_layers", (json_int_t)s.prompt_work_layers,
                                "work_seconds", s.prompt_work_seconds);
    json_t *gpu = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:s}", "name", info.device_name,
                            "weights", (json_int_t)s.gpu_bytes_weights, "kv", (json_int_t)s.gpu_bytes_kv, "scratch",
                            (json_int_t)s.gpu_bytes_scratch, "plugin", (json_int_t)s.gpu_bytes_plugin, "peak",
                            (json_int_t)s.gpu_bytes_peak, "pinned", (json_int_t)s.bytes_pinned, "busy_seconds",
                            s.device_seconds, "graphs", (json_int_t)s.graphs, "graph_nodes", (json_int_t)s.graph_nodes,
                            "no_graphs", e->target.device != NULL ? e->target.device->why_eager : "");
    json_t *answers = json_pack("{s:I, s:I, s:I}", "logits", (json_int_t)s.device_answers[SLI_ANSWER_LOGITS], "best",
                                (json_int_t)s.device_answers[SLI_ANSWER_BEST], "drawn",
                                (json_int_t)s.device_answers[SLI_ANSWER_TOKEN]);
    json_object_set_new(gpu, "steps_by_answer", answers);
    json_object_set_new(gpu, "steps_ahead", json_integer(s.device_ahead));
    json_object_set_new(gpu, "graph_others", json_integer(s.graph_others));
    json_object_set_new(gpu, "graph_edges", json_integer(s.graph_edges));
    json_object_set_new(gpu, "graph_dependent", json_integer(s.graph_dependent));
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:o, s:o, s:b, s:{s:I, s:I, s:I, s:I, "
                  "s:I, s:I}, s:I, s:o, s:o, s:o, s:s, s:o}",
                  "version", sluice_version(), "model", info.model, "isa", info.isa, "threads", info.threads,
                  "prompt_tokens", (json_int_t)s.prompt_tokens, "tokens", (json_int_t)s.tokens, "prompt_tps",
                  rate(s.prompt_tokens + s.replaced_tokens - s.kept_tokens, s.prompt_seconds), "decode_tps",
                  rate(s.emitted, s.decode_seconds), "steps", (json_int_t)s.steps, "emitted", (json_int_t)s.emitted,
                  "drafted", (json_int_t)s.drafted, "accepted", (json_int_t)s.accepted, "drafted_by_depth",
                  by_depth(s.drafted_by_depth), "accepted_by_depth", by_depth(s.accepted_by_depth), "lossless",
                  s.lossless, "bytes", "weights", (json_int_t)s.bytes_weights, "kv", (json_int_t)s.bytes_kv, "scratch",
                  (json_int_t)s.bytes_scratch, "plugin", (json_int_t)s.bytes_plugin, "peak", (json_int_t)s.bytes_peak,
                  "kv_host", (json_int_t)s.bytes_kv_host, "allocs_in_steps", (json_int_t)s.allocs_in_steps, "plugins",
                  plugins, "metrics", metrics, "prompts", prompts, "device", info.device, "gpu", gpu);
    if (info.device_reason[0] != '\0')
        json_object_set_new(root, "device_reason", json_string(info.device_reason));
    return emit_json(root, JSON_INDENT(2) | JSON_REAL_PRECISION(8), write, user, &err, error);
}

/* ---- configuration, plugins
 * ------------------------------------------------------------------------------------------------------ */

/* Parameter tables of chosen plugins, for `config show`; a plugin that cannot be opened shows its keys as given. */
static const sl_param_def *const *defs_of(void *user, const sli_choice *choice) {
    sli_plugin found;
    return sli_plugin_open(user, choice->scope.role, choice->plugin, &found, NULL) >= 0 ? found.plugin->params : NULL;
}

/* A comment behind the sections: where engine.device = auto leads on this machine, and why. */
static sl_status show_device(const sli_config *config, FILE *out, sl_error *err) {
    sli_device_choice chosen;
    if (sli_param_int(config->core[SLI_CORE_ENGINE], "device") != SLI_ENGINE_AUTO)
        return SL_OK;
    SL_TRY(sli_choose_device(config, NULL, &chosen, err));
    if (chosen.device != NULL)
        fprintf(out, "\n; engine.device = auto: %s\n", chosen.device->info.name);
    else
        fprintf(out, "\n; engine.device = auto: the CPU: %s\n", chosen.reason);
    sli_device_close(chosen.device);
    return SL_OK;
}

int sluice_config_show(const sluice_options *options, sluice_write_fn write, void *user, sluice_error *error) {
    SLI_API(err, error);
    sli_config *config = NULL;
    char *text = NULL;
    size_t length = 0;
    FILE *f = NULL;
    sl_status s = sli_config_load(options->config, options->sets, options->n_sets, &config, &err);
    if (s >= 0 && (f = open_memstream(&text, &length)) == NULL)
        s = sl_fail(&err, SL_E_NO_MEMORY, "out of memory");
    if (s >= 0) {
        sli_search search = {.dirs = config->plugin_dirs, .n_dirs = config->n_plugin_dirs};
        s = sli_config_show(config, f, defs_of, &search, &err);
        if (s >= 0)
            s = show_device(config, f, &err);
    }
    if (f != NULL)
        fclose(f);
    if (s >= 0)
        write(user, text, length);
    free(text);
    sli_config_free(config);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}

typedef struct scan {
    const char *id;
    json_t *all;
} scan;

static int describe_candidate(void *user, const char *path, const char *family, const char *id, int shadowed) {
    scan *s = user;
    SL_ERROR(why);
    json_t *list = NULL;
    (void)family;
    if (shadowed || (s->id != NULL && strcmp(id, s->id) != 0 && strcmp(path, s->id) != 0))
        return 0;
    if (sli_plugins_describe_child(path, 0, &list, &why) < 0) {
        json_array_append_new(s->all, json_pack("{s:s, s:s, s:s}", "id", id, "path", path, "error", why.text));
        return 0;
    }
    json_array_extend(s->all, list);
    json_decref(list);
    return 0;
}

int sluice_plugins_json(const sluice_options *options, const char *id, sluice_write_fn write, void *user,
                        sluice_error *error) {
    SLI_API(err, error);
    sli_config *config = NULL;
    scan state = {id, json_array()};
    sl_status s = sli_config_load(options->config, options->sets, options->n_sets, &config, &err);
    if (s >= 0) {
        sli_search search = {.dirs = config->plugin_dirs, .n_dirs = config->n_plugin_dirs};
        s = sli_plugins_scan(&search, describe_candidate, &state, &err);
    }
    sli_config_free(config);
    if (s >= 0 && id != NULL && json_array_size(state.all) == 0)
        s = sl_fail(&err, SL_E_NOT_FOUND, "no plugin \"%s\" was found (`sluice plugins list` shows all)", id);
    if (s < 0) {
        json_decref(state.all);
        return sli_api_fail(&err, s, error);
    }
    return emit_json(state.all, JSON_INDENT(2), write, user, &err, error);
}
