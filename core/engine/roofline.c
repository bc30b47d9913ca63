/* A request as steps - prompt chunks, then decoding - and what they cost: the JSON behind `sluice roofline`. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "costs.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum { SAMPLES = 64, PASSES = 16 };

typedef struct phase {
    sli_costs costs;
    double steps, tokens, nodes; /* tokens, nodes: of a sequence in a step */
} phase;

/* What one account of the request came to. */
typedef struct account {
    phase prefill, decode;
    double kv_peak;
} account;

typedef struct passes {
    sl_cost_pass list[PASSES];
    int n;
    sli_costing *c;
    sli_costs *out;
    const char *id;
    sli_slot_id slot;
} passes;

static void take_pass(void *user, const sl_cost_pass *pass) {
    passes *p = user;
    if (p->n < PASSES)
        p->list[p->n++] = *pass;
}

/* Work beside the model's. */
static void take_op(void *user, const sl_cost_op *op) {
    const passes *p = user;
    sli_cost_row_add(p->c, p->out, p->slot, op->name, p->id, op->flops, op->bytes, op->launches,
                     op->compute != 0 ? op->compute : SL_F32, NULL);
}

/* The plan of a drafter or prompt transformer; out->scale is that of its steps. */
static sl_status ask(sli_costing *c, const sl_instance *self, sli_slot_id slot, sl_cost_plan *io, passes *p,
                     sli_costs *out) {
    const char *section;
    const sl_cost *cost =
        sli_binding_table(c->engine->target_plugins, self, SL_COST_ID, SL_FIELD_END(sl_cost, plan), &p->id, &section);
    SL_ERROR(why);
    p->c = c, p->out = out, p->slot = slot;
    sl_cost_sink sink = {SL_SIZE(sl_cost_sink), p, take_op};
    sl_cost_plan before = *io;
    io->sink = &sink;
    io->user = p;
    io->add_pass = take_pass;
    if (SL_HAS_FN(cost, sl_cost, plan) && cost->plan((sl_instance *)(uintptr_t)self, io, &why) >= 0) {
        sli_cost_change_add(out, p->id, section, "rows verified", before.nodes, io->nodes);
        sli_cost_change_add(out, p->id, section, "tokens of a step", before.tokens, io->tokens);
        sli_cost_change_add(out, p->id, section, "prompt tokens", before.n_prompt, io->n_prompt);
        return SL_OK;
    }
    char text[160];
    snprintf(text, sizeof text, "[%s] %s: %s", section, p->id,
             why.text[0] != '\0' ? why.text : "the plugin does not say what it costs");
    p->n = 0;
    *io = before;
    sli_cost_row_add(c, out, slot, sli_slot_name(slot), p->id, 0, (const double[SL_COST_KINDS]){0}, 0, SL_F32, text);
    return SL_SKIPPED;
}

static int64_t chunk_of(const sluice_engine *e) {
    return e->prefill_chunk < e->limits.max_rows ? e->prefill_chunk : e->limits.max_rows;
}

/* Passes of n_seqs sequences of which each has n_past rows. */
static sl_status add_passes(const passes *p, double n_seqs, double n_past, double n_prompt, sl_error *err) {
    double scale = p->out->scale, chunk = (double)chunk_of(p->c->engine);
    for (int i = 0; i < p->n; i++) {
        const sl_cost_pass *one = &p->list[i];
        if (one->model == 1 && p->c->engine->draft.model == NULL)
            return sl_fail(err, SL_E_STATE, "%s: a pass of the draft model, and there is none", p->id);
        double most = one->stage == SL_STAGE_PREFILL && one->inner == 0 ? chunk : one->rows;
        for (double done = 0; done < one->rows; done += most) {
            double rows = fmin(most, one->rows - done);
            sli_cost_step step = {.n_seqs = n_seqs,
                                  .n_past = (one->n_past < 0 ? n_past : one->n_past) + done,
                                  .n_new = rows,
                                  .n_prompt = n_prompt,
                                  .inner = one->inner,
                                  .logits = done + rows < one->rows ? 0 : one->logits,
                                  .stage = one->stage,
                                  .exit_layer = one->exit_layer,
                                  .attn_layers = one->attn_layers,
                                  .ffn_layers = one->ffn_layers,
                                  .draft = one->model == 1,
                                  .pass = one->name,
                                  .pass_slot = p->slot,
                                  .pass_by = p->id};
            p->out->scale = scale * one->times;
            sl_status s = sli_cost_step_add(p->c, &step, p->out, err);
            p->out->scale = scale;
            SL_TRY(s);
        }
    }
    return SL_OK;
}

static sl_cost_plan plan_of(const sli_costing *c, const sluice_roofline_request *r) {
    const sluice_engine *e = c->engine;
    return (sl_cost_plan){.struct_size = SL_SIZE(sl_cost_plan),
                          .model = e->target.info,
                          .draft = e->draft.info,
                          .device = c->device,
                          .activations = c->device == SL_DEVICE_CUDA ? SL_BF16 : SL_F32,
                          .n_seqs = (double)r->batch,
                          .n_prompt = (double)r->prompt,
                          .accept = r->accept,
                          .max_nodes = SL_MAX_TREE_NODES,
                          .nodes = 1,
                          .tokens = 1};
}

/* Prompts of some sequences, chunk by chunk together. */
static sl_status prefill_some(sli_costing *c, double n_seqs, double prompt, phase *out, sl_error *err) {
    double chunk = (double)chunk_of(c->engine);
    for (double past = 0; past < prompt; past += chunk) {
        double rows = fmin(chunk, prompt - past);
        int last = past + rows >= prompt;
        sli_cost_step step = {.n_seqs = n_seqs,
                              .n_past = past,
                              .n_new = rows,
                              .n_prompt = prompt,
                              .logits = last,
                              .stage = SL_STAGE_PREFILL,
                              .last_chunk = last,
                              .attn_layers = -1,
                              .ffn_layers = -1};
        SL_TRY(sli_cost_step_add(c, &step, &out->costs, err));
        out->steps += out->costs.scale;
    }
    return SL_OK;
}

/* The prompts; *prompt: tokens that are left of each. */
static sl_status prefill(sli_costing *c, const sluice_roofline_request *r, double *prompt, account *out,
                         sl_error *err) {
    const sl_kv_prompt *api;
    sl_instance *prompter = c->dense ? NULL : sli_binding_prompter(c->engine->target_plugins, &api);
    phase *p = &out->prefill;
    p->costs.scale = 1;
    *prompt = (double)r->prompt;
    if (prompter != NULL) {
        passes works = {0};
        sl_cost_plan io = plan_of(c, r);
        p->costs.scale = (double)r->batch; /* one after the other */
        if (ask(c, prompter, SLI_SLOT_PROMPT, &io, &works, &p->costs) == SL_OK)
            SL_TRY(add_passes(&works, 1, 0, (double)r->prompt, err));
        *prompt = io.n_prompt;
    }
    double together = fmin((double)r->batch, floor((double)c->engine->limits.max_rows / (double)chunk_of(c->engine)));
    if (*prompt < (double)chunk_of(c->engine))
        together = fmin((double)r->batch, floor((double)c->engine->limits.max_rows / *prompt));
    double times = floor((double)r->batch / together), rest = (double)r->batch - times * together;
    p->costs.scale = times;
    SL_TRY(prefill_some(c, together, *prompt, p, err));
    out->kv_peak = p->costs.kv * (double)r->batch / together;
    p->costs.scale = 1;
    p->nodes = *prompt;
    return rest > 0 ? prefill_some(c, rest, *prompt, p, err) : SL_OK;
}

static sl_status decode(sli_costing *c, const sluice_roofline_request *r, double prompt, account *out, sl_error *err) {
    const sl_speculation *api;
    sl_instance *drafter = c->dense ? NULL : sli_binding_drafter(c->engine->target_plugins, &api);
    double left = (double)r->generated - 1; /* the first token comes out of the prompt */
    phase *p = &out->decode;
    sl_spec_caps caps = {.struct_size = SL_SIZE(sl_spec_caps), .max_nodes = 1};
    if (drafter != NULL)
        SL_TRY(api->caps(drafter, &caps));
    sl_cost_plan shape = plan_of(c, r);
    shape.n_past = prompt;
    shape.max_nodes = caps.max_nodes;
    if (drafter != NULL) /* of scale 0: how many tokens does a step bring? */
        ask(c, drafter, SLI_SLOT_DRAFT, &shape, &(passes){0}, &p->costs);
    p->tokens = shape.tokens, p->nodes = shape.nodes;
    /* a stretch of steps as one, at its middle; short requests step by step */
    double all = left / p->tokens, stretch = fmax(1, all / SAMPLES);
    for (double done = 0; done < all - 1e-9; done += stretch) {
        passes works = {0};
        sl_cost_plan io = plan_of(c, r);
        io.max_nodes = caps.max_nodes;
        io.n_past = floor(prompt + (done + (stretch - 1) / 2) * p->tokens + 1e-9);
        p->costs.scale = fmin(stretch, all - done);
        if (drafter != NULL && ask(c, drafter, SLI_SLOT_DRAFT, &io, &works, &p->costs) == SL_OK)
            SL_TRY(add_passes(&works, (double)r->batch, io.n_past, prompt, err));
        sli_cost_step step = {.n_seqs = (double)r->batch,
                              .n_past = io.n_past,
                              .n_new = io.nodes,
                              .n_prompt = prompt,
                              .inner = io.inner,
                              .logits = io.nodes,
                              .stage = io.nodes > 1 ? SL_STAGE_VERIFY : SL_STAGE_DECODE,
                              .attn_layers = -1,
                              .ffn_layers = -1};
        SL_TRY(sli_cost_step_add(c, &step, &p->costs, err));
        p->steps += p->costs.scale;
    }
    out->kv_peak = fmax(out->kv_peak, p->costs.kv);
    return SL_OK;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------
 */

static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static const char *const kinds[SL_COST_KINDS] = {"weights", "activations", "kv_read", "kv_write", "other", "link"};
static const char *const bounds[SLI_BOUNDS] = {"mem", "comp", "launch", "link"};

static json_t *row_json(const sli_cost_row *r, double *bytes) {
    json_t *by_kind = json_object();
    *bytes = 0;
    for (int k = 0; k < SL_COST_KINDS; k++) {
        json_object_set_new(by_kind, kinds[k], number(r->bytes[k]));
        *bytes += r->bytes[k];
    }
    int bound = 0;
    for (int b = 1; b < SLI_BOUNDS; b++)
        bound = r->bound[b] > r->bound[bound] ? b : bound;
    json_t *out = json_pack("{s:s, s:s, s:s, s:f, s:f, s:o, s:f, s:s, s:s}", "act", sli_slot_name(r->slot), "name",
                            r->name, "plugin", r->by, "flops", r->flops, "bytes", *bytes, "by_kind", by_kind,
                            "launches", r->launches, "compute", sl_dtype_name(r->compute), "bound", bounds[bound]);
    json_object_set_new(out, "intensity", *bytes > 0 ? number(r->flops / *bytes) : json_null());
    json_object_set_new(out, "seconds", r->unknown[0] != '\0' ? json_null() : number(r->seconds));
    if (r->unknown[0] != '\0')
        json_object_set_new(out, "unknown", json_string(r->unknown));
    return out;
}

static json_t *phase_json(const phase *p, double *seconds) {
    json_t *rows = json_array(), *terms = json_array(), *totals = json_object();
    double flops = 0, bytes = 0, compute = 0, memory = 0, by_kind[SL_COST_KINDS] = {0};
    int unknown = 0;
    *seconds = 0;
    for (int i = 0; i < p->costs.n_rows; i++) {
        const sli_cost_row *r = &p->costs.row[i];
        double all;
        json_array_append_new(rows, row_json(r, &all));
        flops += r->flops, bytes += all, compute += r->compute_seconds, memory += r->memory_seconds;
        *seconds += r->seconds;
        unknown |= r->unknown[0] != '\0';
        for (int k = 0; k < SL_COST_KINDS; k++)
            by_kind[k] += r->bytes[k];
    }
    for (int k = 0; k < SL_COST_KINDS; k++)
        json_object_set_new(totals, kinds[k], number(by_kind[k]));
    for (int i = 0; i < p->costs.n_changes; i++) {
        const sli_cost_change *c = &p->costs.change[i];
        if (fabs(c->before - c->after) > 1e-9 * fabs(c->before))
            json_array_append_new(terms,
                                  json_pack("{s:s, s:s, s:s, s:f, s:f}", "section", c->section, "plugin", c->by, "term",
                                            c->term, "baseline", c->before / c->count, "here", c->after / c->count));
    }
    if (unknown)
        *seconds = NAN;
    return json_pack("{s:o, s:o, s:f, s:o, s:f, s:f, s:o, s:f, s:f, s:o}", "rows", rows, "seconds", number(*seconds),
                     "steps", p->steps, "overlapped_seconds", unknown ? json_null() : number(fmax(compute, memory)),
                     "flops", flops, "bytes", bytes, "by_kind", totals, "rows_verified", p->nodes, "tokens_of_a_step",
                     p->tokens, "terms", terms);
}

static json_t *account_json(const account *a, const sluice_roofline_request *r, double *ttft, double *tpot) {
    double prefill, decode;
    json_t *first = phase_json(&a->prefill, &prefill), *then = phase_json(&a->decode, &decode);
    const sli_costs *last = a->decode.steps > 0 ? &a->decode.costs : &a->prefill.costs;
    double left = (double)r->generated - 1;
    *ttft = prefill;
    *tpot = left > 0 ? decode / left : NAN;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:{s:f, s:f, s:f, s:f}}", "ttft_seconds", number(*ttft), "tpot_seconds",
                     number(*tpot), "tokens_per_second", number((double)r->batch / *tpot), "prefill", first, "decode",
                     then, "memory", "weights", last->weights, "draft_weights", a->decode.costs.draft_weights, "kv",
                     a->kv_peak, "kv_host", last->kv_host);
}

static json_t *hardware_json(const sluice_hardware *h) {
    return json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "name", h->name, "device", h->device,
                     "source", h->source, "bandwidth", h->bandwidth, "link", h->link, "launch_seconds", h->launch,
                     "f32", h->peak[SLUICE_PEAK_F32], "bf16", h->peak[SLUICE_PEAK_BF16], "f8", h->peak[SLUICE_PEAK_F8],
                     "i8", h->peak[SLUICE_PEAK_I8]);
}

static sl_status report(sluice_engine *e, const sluice_roofline_request *r, account *here, account *dense, json_t **out,
                        sl_error *err) {
    double ttft[2], tpot[2], prompt;
    account *both[] = {here, dense};
    json_t *of[2];
    for (int i = 0; i < 2; i++) {
        sli_costing c = {.engine = e,
                         .hardware = r->hardware,
                         .device = strcmp(r->hardware->device, "cuda") == 0 ? SL_DEVICE_CUDA : SL_DEVICE_CPU,
                         .dense = i};
        SL_TRY(prefill(&c, r, &prompt, both[i], err));
        SL_TRY(decode(&c, r, prompt, both[i], err));
    }
    for (int i = 0; i < 2; i++)
        of[i] = account_json(both[i], r, &ttft[i], &tpot[i]);
    json_object_update(*out, of[0]);
    json_decref(of[0]);
    json_object_set_new(*out, "baseline", of[1]);
    json_object_set_new(*out, "speedup",
                        json_pack("{s:o, s:o}", "ttft", number(ttft[1] / ttft[0]), "tpot", number(tpot[1] / tpot[0])));
    return SL_OK;
}

static sl_status check(const sluice_engine *e, const sluice_roofline_request *r, sl_error *err) {
    if (r->prompt < 1 || r->generated < 1 || r->batch < 1)
        return sl_fail(err, SL_E_RANGE, "a request has at least one token of prompt, one generated and one sequence");
    if (!(r->accept >= 0 && r->accept < 1))
        return sl_fail(err, SL_E_RANGE, "the chance of acceptance is at least 0 and less than 1");
    if (r->batch > e->max_sessions)
        return sl_fail(err, SL_E_RANGE, "%lld sequences are more than engine.max_seqs = %d", (long long)r->batch,
                       e->max_sessions);
    if (r->prompt + r->generated > e->limits.max_context)
        return sl_fail(err, SL_E_RANGE, "%lld tokens are more than the context of %lld (engine.max_context)",
                       (long long)(r->prompt + r->generated), (long long)e->limits.max_context);
    return SL_OK;
}

int sluice_roofline_json(const sluice_options *options, const sluice_roofline_request *r, sluice_write_fn write,
                         void *user, sluice_error *error) {
    SLI_API(err, error);
    sluice_engine *e = NULL;
    account *both = NULL;
    json_t *out = NULL;
    sl_status s = sli_engine_open_created(options, strcmp(r->hardware->device, "cuda") == 0, &e, &err);
    if (s >= 0)
        s = check(e, r, &err);
    if (s >= 0) {
        both = sli_calloc(SLI_TAG_MISC, 2, sizeof *both);
        out = json_pack("{s:s, s:s, s:o, s:{s:I, s:I, s:I, s:f}, s:I, s:I}", "model", e->target.info->name, "device",
                        r->hardware->device, "hardware", hardware_json(r->hardware), "request", "prompt",
                        (json_int_t)r->prompt, "generated", (json_int_t)r->generated, "batch", (json_int_t)r->batch,
                        "accept", r->accept, "parameters", (json_int_t)sli_model_params(e->target.model), "model_bytes",
                        (json_int_t)sli_model_bytes(e->target.model));
        s = both != NULL && out != NULL ? report(e, r, &both[0], &both[1], &out, &err)
                                        : sl_fail(&err, SL_E_NO_MEMORY, "no memory for a report");
    }
    char *text = s >= 0 ? json_dumps(out, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    if (s >= 0 && text == NULL)
        s = sl_fail(&err, SL_E_NO_MEMORY, "no memory for a report");
    if (text != NULL) {
        write(user, text, strlen(text));
        write(user, "\n", 1);
    }
    free(text);
    json_decref(out);
    sli_free(both);
    sluice_close(e);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}
