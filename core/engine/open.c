/* Opening an engine: configuration, model, tokenizer, plugins, buffers, in this order; and taking it apart again. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "api.h"
#include "base/file.h"
#include "base/ledger.h"
#include "chunk.h"
#include "device/cpu/cpuinfo.h"
#include "device_decide.h"
#include "draft.h"
#include "draft_fork.h"
#include "draft_taps.h"
#include "engine.h"
#include "plugin/match.h"
#include "profile.h"
#include "quantize.h"
#include "services.h"
#include "sl_error.h"
#include "sources.h"

double sli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- settings
 * ---------------------------------------------------------------------------------------------------------- */

static const sl_params *section(const sluice_engine *e, sli_core_id id) { return e->config->core[id]; }

/* The instruction sets that engine.isa lets be used, out of those that the machine has. */
static sl_status choose_isa(const sl_params *engine, uint32_t have, uint32_t *isa, sl_error *err) {
    static const uint32_t allowed[] = {[SLI_ISA_CHOICE_AUTO] = UINT32_MAX,
                                       [SLI_ISA_CHOICE_REF] = 0,
                                       [SLI_ISA_CHOICE_AVX2] = SL_ISA_AVX2,
                                       [SLI_ISA_CHOICE_AVX512] = UINT32_MAX};
    static const uint32_t needed[] = {[SLI_ISA_CHOICE_AUTO] = 0,
                                      [SLI_ISA_CHOICE_REF] = 0,
                                      [SLI_ISA_CHOICE_AVX2] = SL_ISA_AVX2,
                                      [SLI_ISA_CHOICE_AVX512] = SL_ISA_AVX512};
    int64_t choice = sli_param_int(engine, "isa");
    if ((have & needed[choice]) != needed[choice])
        return sl_fail(err, SL_E_INVALID, "engine.isa = %s: this machine does not have these instructions",
                       sli_param_text(engine, "isa"));
    *isa = have & allowed[choice];
    return SL_OK;
}

/* Where instances act. */
static uint32_t serves(const sluice_engine *e) {
    return e->chosen.device != NULL || e->assumes_cuda ? SL_DEVICE_CUDA : SL_DEVICE_CPU;
}

/* ---- models
 * --------------------------------------------------------------------------------------------------------------- */

/* Everything of one model before its plugins. */
typedef struct parts {
    const char *path; /* its folder, or the name of its shape */
    sli_model *model;
    sli_tokenizer *tokenizer; /* NULL: the directory has none */
    int64_t context;
} parts;

static sl_status open_shape(const sluice_engine *e, const sl_params *section, int with_weights, parts *p,
                            sl_error *err) {
    static const sl_dtype dtypes[] = {SL_BF16, SL_F16, SL_F32};
    sli_model_shape shape = {.name = p->path,
                             .dtype = dtypes[sli_param_int(section, "shape_dtype")],
                             .seed = (uint64_t)sli_param_int(section, "shape_seed"),
                             .in_host_memory = with_weights && e->chosen.device == NULL,
                             .pool = e->pool};
    return sli_model_open_shape(&shape, &p->model, err);
}

/* with_weights: random ones are made, in host memory where they are used there. */
static sl_status open_model(const sluice_engine *e, sli_core_id id, int with_weights, parts *p, sl_error *err) {
    const sl_params *s_model = section(e, id);
    if ((p->path = s_model != NULL ? sli_param_text(s_model, "shape") : NULL) != NULL)
        return open_shape(e, s_model, with_weights, p, err);
    if ((p->path = s_model != NULL ? sli_param_text(s_model, "path") : NULL) == NULL)
        return sl_fail(err, SL_E_INVALID, "no model was named: set model.path (or give -m DIR), or model.shape");
    SL_TRY(sli_model_open(p->path, &p->model, err));
    char *file = sli_path_join(p->path, "tokenizer.json");
    if (file == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory to open %s", p->path);
    sl_status s = sli_file_exists(file) ? sli_tokenizer_open(p->path, &p->tokenizer, err) : SL_OK;
    sli_free(file);
    if (s >= 0 && p->tokenizer != NULL && sli_tokenizer_vocab_size(p->tokenizer) > sli_model_describe(p->model)->vocab)
        return sl_fail(err, SL_E_DATA, "%s: the tokenizer knows %d tokens, the model %d", p->path,
                       sli_tokenizer_vocab_size(p->tokenizer), sli_model_describe(p->model)->vocab);
    return s;
}

static uint64_t vocab_fingerprint(const sli_tokenizer *t) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int32_t i = 0; t != NULL && i < sli_tokenizer_vocab_size(t); i++) {
        size_t n = 0;
        const char *piece = sli_tokenizer_piece(t, i, &n);
        for (size_t k = 0; piece != NULL && k < n; k++)
            h = (h ^ (unsigned char)piece[k]) * 0x100000001b3u;
        h = (h ^ 0xff) * 0x100000001b3u;
    }
    return t != NULL ? h : 0;
}

static const char *base_name(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *p = path + n;
    while (p > path && p[-1] != '/')
        p--;
    return p;
}

/* A draft that does not speak the target's vocabulary is refused. */
static sl_status same_vocabulary(const parts *target, const parts *draft, sl_error *err) {
    int32_t a = sli_model_describe(target->model)->vocab, b = sli_model_describe(draft->model)->vocab;
    if (a != b)
        return sl_fail(err, SL_E_INVALID, "the draft model has a vocabulary of %d tokens, the target one of %d", b, a);
    if (target->tokenizer != NULL && draft->tokenizer != NULL) {
        sl_status s = sli_tokenizer_same(target->tokenizer, draft->tokenizer, err);
        if (s < 0)
            return sl_fail_within(err, s, "draft and target have different vocabularies");
    }
    return SL_OK;
}

/* ---- plugins
 * ---------------------------------------------------------------------------------------------------------------- */

static sl_status open_plugins(sluice_engine *e, const char *prefix, const parts *p, int64_t n_positions,
                              sli_model_info **info, sli_network *net, sli_binding **binding, sl_error *err) {
    net->model = p->model;
    SL_TRY(
        sli_model_info_create(p->model, base_name(p->path), n_positions, vocab_fingerprint(p->tokenizer), info, err));
    net->info = sli_model_info_view(*info);
    sli_search search = {.dirs = e->config->plugin_dirs, .n_dirs = e->config->n_plugin_dirs};
    sli_binding_for args = {e->config,
                            &search,
                            prefix,
                            net->info,
                            e->hosts,
                            prefix[0] == '\0' ? e->capabilities : sli_host_capabilities(),
                            serves(e)};
    SL_TRY(sli_binding_open(&args, binding, err));
    SL_TRY(sli_binding_create(*binding, err));
    return sli_binding_fill(*binding, net, err);
}

static void shapes_of(const sl_model_info *info, sli_ops_shapes *s) {
    for (int32_t l = 0; info != NULL && l < info->n_layers; l++) {
        const sl_layer_info *i = info->layers[l];
        int64_t width[] = {info->hidden, (int64_t)i->n_heads * i->head_dim, i->ffn};
        int64_t dim = i->head_dim > i->v_head_dim ? i->head_dim : i->v_head_dim, group = i->n_heads / i->n_kv_heads;
        s->heads = i->n_heads > s->heads ? i->n_heads : s->heads;
        s->head_dim = dim > s->head_dim ? dim : s->head_dim;
        s->group = group > s->group ? group : s->group;
        for (int k = 0; k < 3; k++)
            s->width = width[k] > s->width ? width[k] : s->width;
    }
}

/* ---- assembling
 * --------------------------------------------------------------------------------------------------------------- */

/* What some configurations and machines offer to plugins of the target. */
static sl_status offer_more(sluice_engine *e, sl_error *err) {
    const sli_device *d = e->chosen.device;
    uint32_t more = section(e, SLI_CORE_DRAFT_MODEL) != NULL ? SLI_OFFERS_DRAFT : 0;
    if (serves(e) == SL_DEVICE_CUDA)
        more |= SLI_OFFERS_DEVICE;
    if (e->assumes_cuda && sli_chosen_asks_for(e->config, SL_SDPA_ID)) { /* nobody will call it */
        static const sl_sdpa absent = {.struct_size = SL_SIZE(sl_sdpa)};
        more |= SLI_OFFERS_SDPA;
        SL_TRY(sli_host_provide(e->hosts, SL_SDPA_ID, &absent, err));
    }
    if (d != NULL && sli_chosen_asks_for(e->config, SL_SDPA_ID)) { /* a large library: not for nobody */
        SL_ERROR(why);
        const void *table = d->api->sdpa(d->cuda, &why);
        if (table != NULL) {
            more |= SLI_OFFERS_SDPA;
            SL_TRY(sli_host_provide(e->hosts, SL_SDPA_ID, table, err));
        } else
            snprintf(e->chosen.reason, sizeof e->chosen.reason, "no %s: %s", SL_SDPA_ID, why.text);
    }
    sli_host_capabilities_with(more, e->capabilities);
    return SL_OK;
}

static sl_status open_hosts(sluice_engine *e, const char *only_cpu, sl_error *err) {
    const sl_params *p = section(e, SLI_CORE_ENGINE);
    sli_cpuinfo cpu;
    sli_cpuinfo_read(&cpu);
    if (e->chosen.reason[0] == '\0') /* else the GPU was tried */
        SL_TRY(sli_choose_device(e->config, e->quantizing != NULL ? "packing with data" : only_cpu, &e->chosen, err));
    SL_TRY(choose_isa(p, cpu.isa, &e->isa, err));
    int64_t threads = sli_param_int(p, "threads");
    SL_TRY(sli_pool_create(threads > 0 ? (int32_t)threads : cpu.cores, &e->pool, err));
    sli_host_options options = {.pool = e->pool,
                                .device = e->chosen.device,
                                .isa = e->isa,
                                .validate = sli_param_bool(p, "validate"),
                                .min_level = SL_LOG_WARNING,
                                .kv_limit = sli_param_int(p, "kv_memory_mb") << 20,
                                .engine = e};
    SL_TRY(sli_host_context_create(&options, &e->hosts, err));
    if (e->quantizing != NULL)
        SL_TRY(sli_host_provide(e->hosts, SL_CALIBRATION_ID, &e->quantizing->service, err));
    SL_TRY(offer_more(e, err));
    return sli_services_provide(e->hosts, serves(e) == SL_DEVICE_CUDA ? &sli_ops_any : &sli_ops_cpu, err);
}

/* Limits, as far as they follow from configuration and model. */
static void set_limits(sluice_engine *e, const parts *target) {
    const sl_params *p = section(e, SLI_CORE_ENGINE);
    int64_t context = sli_param_int(p, "max_context"), compute = sli_param_int(p, "compute");
    int bf16 = compute == SLI_COMPUTE_BF16 || (compute == SLI_COMPUTE_AUTO && serves(e) == SL_DEVICE_CUDA);
    e->max_sessions = (int32_t)sli_param_int(p, "max_seqs");
    e->limits = (sl_limits){.struct_size = SL_SIZE(sl_limits),
                            .max_context = context > 0 ? context : sli_model_describe(target->model)->max_positions,
                            .max_rows = sli_param_int(p, "max_rows"),
                            .max_seqs = sli_fork_ids_end(e->max_sessions),
                            .max_tree = 1,
                            .n_workers = sli_pool_workers(e->pool),
                            .compute = bf16 ? SL_BF16 : SL_F32,
                            .deterministic = (uint32_t)sli_param_bool(p, "deterministic"),
                            .kv_bytes = sli_param_int(p, "kv_memory_mb") << 20};
    e->prefill_chunk = sli_param_int(p, "prefill_chunk");
}

static sl_status check_limits(const sluice_engine *e, sl_error *err) {
    if (e->max_sessions > SLI_MAX_SESSIONS)
        return sl_fail(err, SL_E_RANGE, "engine.max_seqs = %d is above %d", e->max_sessions, SLI_MAX_SESSIONS);
    if (e->limits.max_rows < e->max_sessions)
        return sl_fail(err, SL_E_RANGE,
                       "engine.max_rows = %" PRId64 " leaves no row for each of engine.max_seqs = %d sessions",
                       e->limits.max_rows, e->max_sessions);
    return SL_OK;
}

static sl_status open_drafter(sluice_engine *e, sl_error *err) {
    e->drafter.self = sli_binding_drafter(e->target_plugins, &e->drafter.api);
    if (e->drafter.self == NULL)
        return SL_OK;
    sl_spec_caps *caps = &e->drafter.caps;
    caps->struct_size = SL_SIZE(sl_spec_caps);
    SL_TRY(e->drafter.api->caps(e->drafter.self, caps));
    if (caps->max_nodes < 1 || caps->max_nodes > SL_MAX_TREE_NODES)
        return sl_fail(err, SL_E_RANGE, "[speculation]: the drafter asks for trees of %d nodes, 1 to %d are possible",
                       caps->max_nodes, SL_MAX_TREE_NODES);
    if (caps->topk < 0 || caps->topk > e->target.info->vocab)
        return sl_fail(err, SL_E_RANGE,
                       "[speculation]: the drafter asks for the %d best ids of a row, 0 to %d are possible", caps->topk,
                       e->target.info->vocab);
    if (caps->needs_draft && e->draft.model == NULL)
        return sl_fail(err, SL_E_INVALID, "[speculation]: the drafter needs a second model: set [draft.model] path");
    if (caps->plans_rows)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "[speculation]: the drafter needs row plans, which this version's engine does not serve");
    if (caps->lossless && e->drafter.api->accept != NULL)
        return sl_fail(err, SL_E_INVALID,
                       "[speculation]: the drafter says that it is lossless, and has an acceptance rule of its own");
    if (!caps->lossless && e->limits.deterministic)
        return sl_fail(err, SL_E_INVALID,
                       "[speculation]: the drafter changes what is generated, which engine.deterministic = yes "
                       "forbids: set engine.deterministic = no");
    if (caps->n_taps > 0 && e->drafter.api->observe == NULL)
        return sl_fail(err, SL_E_INVALID, "[speculation]: the drafter wants hidden rows and does not observe");
    sl_status taps =
        sli_draft_taps_create(&e->target, caps->taps, caps->n_taps, e->limits.max_rows, e->max_sessions, &e->taps, err);
    if (taps < 0)
        return sl_fail_within(err, taps, "[speculation]");
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        if (!(e->target.layers[l].caps[2].flags & SL_ATTN_TREE))
            return sl_fail(err, SL_E_INVALID, "[speculation]: the attention plugin of layer %d takes no draft trees",
                           l);
    return SL_OK;
}

static void tell_progress(void *user, int64_t done, int64_t total) {
    const sluice_options *options = user;
    options->progress(options->user, "loading", done, total);
}

/* Rows whose logits one step may want. */
static int64_t logit_rows(const sluice_engine *e) {
    int64_t rows = e->max_sessions * e->limits.max_tree;
    rows = rows > 32 ? rows : 32;
    return rows < e->limits.max_rows ? rows : e->limits.max_rows;
}

static sl_status build(sluice_engine *e, sli_network *net, sli_binding *binding, const sl_limits *limits,
                       const sluice_options *options, sl_error *err) {
    sli_network_plan plan = sli_binding_plan(binding);
    plan.progress = options->progress != NULL ? tell_progress : NULL;
    plan.progress_user = (void *)(uintptr_t)options; /* only read */
    if (e->quantizing != NULL && net == &e->target)
        SL_TRY(sli_quantize_plan(e->quantizing, net, &plan, err));
    net->limits = *limits;
    net->ops = &sli_ops_cpu;
    net->host = e->core_host;
    const sl_exec *exec = net->host->query(net->host, SL_EXEC_ID);
    net->lane = exec->lane(net->host, SL_DEVICE_CPU, 0);
    SL_TRY(sli_binding_activate(binding, limits, e->max_sessions, err));
    if (e->chosen.device != NULL)
        SL_TRY(sli_device_network_create(net, e->chosen.device, logit_rows(e), err));
    SL_TRY(sli_network_build(net, &plan, e->max_sessions, err));
    return sli_chunk_rule(net, e->prefill_chunk, e->max_sessions, err);
}

static sl_status take_buffers(sluice_engine *e, sl_error *err) {
    int64_t V = e->target.info->vocab;
    e->logit_rows = logit_rows(e);
    e->logits = e->target.device != NULL ? e->target.device->host_logits
                                         : sli_calloc(SLI_TAG_SCRATCH, (size_t)(e->logit_rows * V), sizeof *e->logits);
    int works = e->drafter.self != NULL || e->prompter.self != NULL || e->sources != NULL;
    e->work_logits = works ? sli_calloc(SLI_TAG_SCRATCH, (size_t)(e->logit_rows * V), sizeof *e->work_logits) : NULL;
    int64_t wide = e->draft.info != NULL && e->draft.info->hidden > e->target.info->hidden ? e->draft.info->hidden
                                                                                           : e->target.info->hidden;
    e->work_hidden_cap = works ? e->limits.max_rows * wide : 0;
    e->work_hidden = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->work_hidden_cap, sizeof *e->work_hidden);
    e->by_id = sli_calloc(SLI_TAG_MISC, (size_t)e->max_sessions, sizeof *e->by_id);
    e->active = sli_calloc(SLI_TAG_MISC, (size_t)e->limits.max_seqs, sizeof *e->active);
    e->path = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->limits.max_rows + SL_MAX_TREE_NODES, sizeof *e->path);
    e->path_begin = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->limits.max_seqs + 1, sizeof *e->path_begin);
    e->next = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->limits.max_seqs, sizeof *e->next);
    e->n_prompt = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->limits.max_seqs, sizeof *e->n_prompt);
    e->row_position = sli_calloc(SLI_TAG_SCRATCH, (size_t)e->limits.max_rows, sizeof *e->row_position);
    if (e->logits == NULL || (works && e->work_logits == NULL) || e->work_hidden == NULL || e->row_position == NULL ||
        e->by_id == NULL || e->active == NULL || e->path == NULL || e->path_begin == NULL || e->next == NULL ||
        e->n_prompt == NULL || sli_batch_create(&e->batch, e->limits.max_seqs, e->limits.max_rows) < 0 ||
        sli_batch_create(&e->work_batch, e->limits.max_seqs, e->limits.max_rows) < 0 ||
        sli_draft_buffers_create(&e->drafts, e->max_sessions, e->limits.max_rows, e->drafter.caps.topk) < 0 ||
        sli_draft_forks_create(e) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for logits and batches");
    SL_TRY(sli_sampler_create((int32_t)V, &e->sampler, err));
    return sli_verifier_create((int32_t)V, &e->verifier, err);
}

static sl_status take_defaults(sluice_engine *e, sl_error *err) {
    const sl_params *p = section(e, SLI_CORE_SAMPLING);
    int n = e->config->n_biases;
    e->bias_id = sli_calloc(SLI_TAG_MISC, (size_t)n + 1, sizeof *e->bias_id);
    e->bias = sli_calloc(SLI_TAG_MISC, (size_t)n + 1, sizeof *e->bias);
    if (e->bias_id == NULL || e->bias == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for logit biases");
    for (int i = 0; i < n; i++) {
        if (e->config->biases[i].token < 0 || e->config->biases[i].token >= e->target.info->vocab)
            return sl_fail(err, SL_E_RANGE, "[sampling] logit_bias: token %d is outside of the vocabulary [0, %d)",
                           (int)e->config->biases[i].token, e->target.info->vocab);
        e->bias_id[i] = e->config->biases[i].token;
        e->bias[i] = e->config->biases[i].bias;
    }
    uint64_t seed = (uint64_t)sli_param_int(p, "seed");
    if (sli_param_int(p, "seed") < 0 && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = (uint64_t)time(NULL);
    e->defaults = (sluice_sampling){.temperature = sli_param_real(p, "temperature"),
                                    .top_k = (int32_t)sli_param_int(p, "top_k"),
                                    .top_p = sli_param_real(p, "top_p"),
                                    .min_p = sli_param_real(p, "min_p"),
                                    .repeat_penalty = sli_param_real(p, "repeat_penalty"),
                                    .presence_penalty = sli_param_real(p, "presence_penalty"),
                                    .frequency_penalty = sli_param_real(p, "frequency_penalty"),
                                    .penalty_last_n = (int32_t)sli_param_int(p, "penalty_last_n"),
                                    .bias_id = e->bias_id,
                                    .bias = e->bias,
                                    .n_bias = n,
                                    .stop = e->config->stops,
                                    .n_stop = e->config->n_stops,
                                    .max_tokens = (int32_t)sli_param_int(p, "max_tokens"),
                                    .ignore_eos = sli_param_bool(p, "ignore_eos"),
                                    .race = sli_param_int(p, "draw") == SLI_DRAW_RACE,
                                    .seed = seed};
    return SL_OK;
}

/* Up to instances that have accepted the model; no weights are read. with_weights: random ones are made. */
static sl_status open_parts(sluice_engine *e, const sluice_options *options, int with_weights, parts *target,
                            parts *draft, sl_error *err) {
    SL_TRY(sli_config_load(options->config, options->sets, options->n_sets, &e->config, err));
    SL_TRY(open_hosts(e, options->only_cpu, err));
    sl_status s = open_model(e, SLI_CORE_MODEL, with_weights, target, err);
    e->target.model = target->model;
    e->tokenizer = target->tokenizer;
    SL_TRY(s);
    int with_draft = section(e, SLI_CORE_DRAFT_MODEL) != NULL;
    if (with_draft) {
        s = open_model(e, SLI_CORE_DRAFT_MODEL, with_weights, draft, err);
        e->draft.model = draft->model;
        e->draft_tokenizer = draft->tokenizer;
        SL_TRY(s < 0 ? sl_fail_within(err, s, "[draft.model]") : SL_OK);
        SL_TRY(same_vocabulary(target, draft, err));
    }
    set_limits(e, target);
    SL_TRY(check_limits(e, err));
    int64_t positions = e->limits.max_context + SL_MAX_TREE_NODES;
    SL_TRY(open_plugins(e, "", target, positions, &e->target_info, &e->target, &e->target_plugins, err));
    if (with_draft)
        SL_TRY(open_plugins(e, "draft", draft, positions, &e->draft_info, &e->draft, &e->draft_plugins, err));
    return SL_OK;
}

static sl_status open_all(sluice_engine *e, const sluice_options *options, sl_error *err) {
    parts target = {0}, draft = {0};
    SL_TRY(open_parts(e, options, 1, &target, &draft, err));
    const sl_speculation *api;
    sl_instance *drafter = sli_binding_drafter(e->target_plugins, &api);
    sl_spec_caps caps = {.struct_size = SL_SIZE(sl_spec_caps), .max_nodes = 1};
    if (drafter != NULL && api->caps(drafter, &caps) >= 0 && caps.max_nodes > 1)
        e->limits.max_tree = caps.max_nodes < SL_MAX_TREE_NODES ? caps.max_nodes : SL_MAX_TREE_NODES;
    e->max_branches = sli_binding_asks_for(e->target_plugins, "sl.work.branch/1");
    e->limits.max_seqs += (int64_t)e->max_branches * e->max_sessions;
    e->draft_limits = e->limits;
    sli_ops_shapes shapes = {.keys = e->limits.max_context + SL_MAX_TREE_NODES, .rows = e->limits.max_rows};
    shapes_of(e->target.info, &shapes);
    shapes_of(e->draft.info, &shapes);
    if (sli_ops_create(&e->ops, e->pool, e->isa, &shapes) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the operations' scratch");
    SL_TRY(sli_host_create(e->hosts, "core", NULL, &e->core_host, err));
    SL_TRY(build(e, &e->target, e->target_plugins, &e->limits, options, err));
    if (e->draft.model != NULL) {
        sl_status s = build(e, &e->draft, e->draft_plugins, &e->draft_limits, options, err);
        SL_TRY(s < 0 ? sl_fail_within(err, s, "draft model") : SL_OK);
    }
    SL_TRY(open_drafter(e, err));
    e->prompter.self = sli_binding_prompter(e->target_plugins, &e->prompter.api);
    sli_source_fn asking[SLI_MAX_SOURCES];
    int n_asking = sli_binding_sources(e->target_plugins, asking, SLI_MAX_SOURCES);
    SL_TRY(sli_sources_create(asking, n_asking, &e->sources, err));
    if (e->target.device != NULL)
        SL_TRY(sli_device_engine_ready(e, err));
    SL_TRY(take_buffers(e, err));
    SL_TRY(take_defaults(e, err));
    e->stats.lossless = e->drafter.self == NULL || e->drafter.caps.lossless;
    return SL_OK;
}

/* engine.device = auto met something on the GPU that is not served there: the CPU may serve it. */
static int may_try_cpu(const sluice_engine *e, sl_status s) {
    return (s == SL_E_UNIMPLEMENTED || s == SL_E_INVALID) && e->chosen.device != NULL &&
           sli_param_int(section(e, SLI_CORE_ENGINE), "device") == SLI_ENGINE_AUTO;
}

static sl_status open_once(const sluice_options *options, sli_quantize *quantizing, const char *not_on_gpu,
                           sluice_engine **out, sl_error *err) {
    sluice_engine *e = sli_alloc(SLI_TAG_MISC, sizeof *e);
    if (e == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    e->quantizing = quantizing;
    if (not_on_gpu != NULL)
        snprintf(e->chosen.reason, sizeof e->chosen.reason, "%s", not_on_gpu);
    *out = e;
    return open_all(e, options, err);
}

sl_status sli_engine_open(const sluice_options *options, sli_quantize *quantizing, sluice_engine **out, sl_error *err) {
    SL_ERROR(why);
    sluice_engine *e = NULL;
    sl_status s = open_once(options, quantizing, NULL, &e, &why);
    if (s < 0 && e != NULL && may_try_cpu(e, s)) {
        SL_ERROR(on_gpu);
        sl_fail(&on_gpu, s, "%s", why.text);
        sluice_close(e);
        e = NULL;
        s = open_once(options, quantizing, on_gpu.text, &e, &why);
    }
    if (s < 0) {
        sluice_close(e);
        return sl_fail(err, s, "%s", why.text);
    }
    *out = e;
    return s;
}

int sluice_open(const sluice_options *options, sluice_engine **out, sluice_error *error) {
    SLI_API(err, error);
    sl_status s = sli_engine_open(options, NULL, out, &err);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}

int sluice_config_check(const sluice_options *options, sluice_error *error) {
    SLI_API(err, error);
    parts target = {0}, draft = {0};
    sluice_engine *e = sli_alloc(SLI_TAG_MISC, sizeof *e);
    sl_status s =
        e != NULL ? open_parts(e, options, 0, &target, &draft, &err) : sl_fail(&err, SL_E_NO_MEMORY, "out of memory");
    sluice_close(e);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}

sl_status sli_engine_open_created(const sluice_options *options, int assumes_cuda, sluice_engine **out, sl_error *err) {
    parts target = {0}, draft = {0};
    sluice_engine *e = sli_alloc(SLI_TAG_MISC, sizeof *e);
    if (e == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    e->assumes_cuda = assumes_cuda;
    snprintf(e->chosen.reason, sizeof e->chosen.reason, "nothing is computed");
    sl_status s = open_parts(e, options, 0, &target, &draft, err);
    if (s < 0)
        sluice_close(e);
    else
        *out = e;
    return s;
}

sl_status sli_engine_open_bare(const sluice_options *options, const sli_ops_shapes *shapes, sluice_engine **out,
                               sl_error *err) {
    sluice_engine *e = sli_alloc(SLI_TAG_MISC, sizeof *e);
    if (e == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    snprintf(e->chosen.reason, sizeof e->chosen.reason, "no model is opened");
    sl_status s = sli_config_load(options->config, options->sets, options->n_sets, &e->config, err);
    if (s >= 0)
        s = open_hosts(e, NULL, err);
    if (s >= 0 && sli_ops_create(&e->ops, e->pool, e->isa, shapes) < 0)
        s = sl_fail(err, SL_E_NO_MEMORY, "no memory for the operations' scratch");
    if (s >= 0)
        s = sli_host_create(e->hosts, "core", NULL, &e->core_host, err);
    if (s < 0)
        sluice_close(e);
    else
        *out = e;
    return s;
}

void sluice_close(sluice_engine *e) {
    if (e == NULL)
        return;
    while (e->sessions != NULL)
        sluice_session_close(e->sessions);
    sli_sources_destroy(e->sources);
    sli_verifier_destroy(e->verifier);
    sli_sampler_destroy(e->sampler);
    sli_draft_forks_destroy(e->forks);
    sli_draft_buffers_destroy(e->drafts);
    sli_draft_taps_destroy(e->taps);
    sli_batch_destroy(&e->batch);
    sli_batch_destroy(&e->work_batch);
    sli_taps_release(&e->work_taps);
    if (e->target.device != NULL)
        e->logits = NULL; /* its network's */
    void *owned[] = {e->logits, e->work_logits, e->work_hidden, e->by_id, e->active,       e->path, e->path_begin,
                     e->next,   e->n_prompt,    e->bias_id,     e->bias,  e->row_position, e->ahead};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        sli_free(owned[i]);
    sli_profile_destroy(e->target.profile);
    sli_network_destroy(&e->target);
    sli_network_destroy(&e->draft);
    sli_host_destroy(e->core_host);
    sli_binding_destroy(e->draft_plugins);
    sli_binding_destroy(e->target_plugins);
    sli_ops_destroy(&e->ops);
    sli_host_context_destroy(e->hosts);
    sli_device_close(e->chosen.device);
    sli_model_info_destroy(e->draft_info);
    sli_model_info_destroy(e->target_info);
    sli_tokenizer_close(e->draft_tokenizer);
    sli_tokenizer_close(e->tokenizer);
    sli_model_close(e->draft.model);
    sli_model_close(e->target.model);
    sli_pool_destroy(e->pool);
    sli_config_free(e->config);
    sli_free(e);
}

/* ---- small things that need the whole engine
 * ------------------------------------------------------------------------------------ */

int sluice_verify_weights(sluice_engine *e, sluice_error *error) {
    SLI_API(err, error);
    sl_status s = sli_model_verify(e->target.model, NULL, NULL, &err);
    if (s >= 0 && e->draft.model != NULL)
        s = sli_model_verify(e->draft.model, NULL, NULL, &err);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}

void sli_engine_event(sluice_engine *e, uint32_t kind, int32_t seq, int32_t other, int64_t n) {
    sl_event event = {.struct_size = SL_SIZE(sl_event), .kind = kind, .seq = seq, .other = other, .n = n};
    sli_binding_event(e->target_plugins, &event);
}

void sli_engine_step_begin(sluice_engine *e) {
    sli_ledger_report r;
    sli_host_step_begin(e->hosts);
    sli_ledger_read(&r);
    e->allocations_before = r.allocations;
}

void sli_engine_step_end(sluice_engine *e) {
    sli_ledger_report r;
    sli_ledger_read(&r);
    e->stats.allocs_in_steps += (int64_t)(r.allocations - e->allocations_before);
    sli_host_step_end(e->hosts);
}
