/* sps - speculative sampling with a draft model.
 *
 * "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192, and "Accelerating Large Language Model
 * Decoding with Speculative Sampling", arXiv 2302.01318. A smaller model with the same vocabulary continues the text
 * for gamma tokens, drawn as the request itself would be sampled; the core verifies them. Drafts are chains of
 * independent draws (REP); of a greedy request, of best tokens (DET).
 *
 * One round a draft token: a work item for the draft model brings the tokens that its cache lacks - after a full
 * acceptance that is the last draft token, too - and the logits behind them. */
#include "sluice/cost.h"
#include "sluice/speculation.h"

#include <stdlib.h>
#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

enum { SCHEDULE_FIXED = 0, SCHEDULE_HEURISTIC = 1 };

/* What is drafted for one sequence in this step. Kept by sequence id, since gamma and the cached prefix outlive a step.
 */
typedef struct draft {
    int32_t token[SL_MAX_TREE_NODES];
    uint32_t kind[SL_MAX_TREE_NODES];
    sl_draft_q q[SL_MAX_TREE_NODES];
    const sl_draft_q *q_ptr[SL_MAX_TREE_NODES];
    int32_t *q_id; /* [max_nodes, vocab] */
    double *q_weight;
    int32_t *known; /* [max_context] the tokens whose rows the draft model holds */
    int64_t n_known;
    int32_t *feed; /* [max_context] the tokens of the current work item */
    sl_work work;
    sl_tree tree;
    int32_t n;     /* drafted so far */
    int32_t goal;  /* to draft in this step */
    int32_t gamma; /* of the heuristic */
    int32_t asked; /* drafted in the last step, for observe */
} draft;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_sample *sample;
    int64_t gamma_max, gamma;
    int schedule;
    int32_t vocab;
    int32_t parent[SL_MAX_TREE_NODES];
    draft *drafts;         /* [max_seqs] by sequence id */
    const sl_tree **trees; /* [max_seqs] by place */
    const sl_work **works;
    int64_t max_seqs, max_context;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_sample *sample = sl_host_service(args->host, SL_SAMPLE_ID, SL_FIELD_END(sl_sample, draw));
    const sl_mem *mem = sl_host_service(args->host, SL_MEM_ID, SL_FIELD_END(sl_mem, release));
    if (sample == NULL || mem == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "sps: the host offers no " SL_SAMPLE_ID " or no " SL_MEM_ID);
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "sps: out of memory");
    self->host = args->host;
    self->mem = mem;
    self->sample = sample;
    self->vocab = args->model->vocab;
    self->schedule = (int)sl_param_int(args->params, "schedule");
    self->gamma = sl_param_int(args->params, "gamma");
    self->gamma_max = self->schedule == SCHEDULE_FIXED ? self->gamma : sl_param_int(args->params, "gamma_max");
    for (int32_t i = 0; i < SL_MAX_TREE_NODES; i++)
        self->parent[i] = i - 1;
    if (self->gamma > self->gamma_max) {
        free(self);
        return sl_fail(err, SL_E_RANGE, "sps: gamma must not be above gamma_max");
    }
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static void *take(sl_instance *self, size_t n, size_t size) {
    return self->mem->alloc(self->host, SL_DEVICE_CPU, (int64_t)(n * size), 64, SL_MEM_PLUGIN);
}

static void give_back(sl_instance *self, void *p) { self->mem->release(self->host, SL_DEVICE_CPU, p); }

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->drafts != NULL && i < self->max_seqs; i++) {
        give_back(self, self->drafts[i].q_id);
        give_back(self, self->drafts[i].q_weight);
        give_back(self, self->drafts[i].known);
        give_back(self, self->drafts[i].feed);
    }
    give_back(self, self->drafts);
    give_back(self, self->trees);
    give_back(self, self->works);
    self->drafts = NULL;
    self->trees = NULL;
    self->works = NULL;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    size_t n = (size_t)limits->max_seqs, q = (size_t)self->gamma_max * (size_t)self->vocab;
    self->max_seqs = limits->max_seqs;
    self->max_context = limits->max_context;
    self->drafts = take(self, n, sizeof *self->drafts);
    self->trees = take(self, n, sizeof *self->trees);
    self->works = take(self, n, sizeof *self->works);
    int ok = self->drafts != NULL && self->trees != NULL && self->works != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        draft *d = &self->drafts[i];
        d->gamma = (int32_t)self->gamma;
        d->q_id = take(self, q, sizeof *d->q_id);
        d->q_weight = take(self, q, sizeof *d->q_weight);
        d->known = take(self, (size_t)(limits->max_context + SL_MAX_TREE_NODES), sizeof *d->known);
        d->feed = take(self, (size_t)(limits->max_context + SL_MAX_TREE_NODES), sizeof *d->feed);
        ok = d->q_id != NULL && d->q_weight != NULL && d->known != NULL && d->feed != NULL;
    }
    if (ok)
        return SL_OK;
    deactivate(self);
    return sl_fail(err, SL_E_NO_MEMORY, "sps: out of memory");
}

/* A sequence that begins or ends, or whose rows were forked or cut, starts over: the prefix is found by comparing. */
static sl_status event(sl_instance *self, const sl_event *e, sl_error *err) {
    (void)err;
    if (e->seq < 0 || e->seq >= self->max_seqs)
        return SL_OK;
    draft *d = &self->drafts[e->seq];
    if (e->kind == SL_EVENT_BEGIN || e->kind == SL_EVENT_FINISH || e->kind == SL_EVENT_FORK) {
        d->n_known = 0;
        d->gamma = (int32_t)self->gamma;
    } else if (e->kind == SL_EVENT_TRUNCATE && e->n < d->n_known) {
        d->n_known = e->n;
    }
    return SL_OK;
}

static sl_status caps(sl_instance *self, sl_spec_caps *out) {
    out->max_nodes = (int32_t)self->gamma_max + 1;
    out->kinds = 1u << SL_DRAFT_DET | 1u << SL_DRAFT_REP;
    out->lossless = 1;
    out->needs_draft = 1;
    return SL_OK;
}

/* Token i of committed text followed by the draft. */
static int32_t token_at(const sl_spec_seq *s, const draft *d, int64_t i) {
    return i < s->n ? s->token[i] : d->token[i - s->n + 1];
}

/* The work item that brings the draft model's rows up to all tokens known so far. */
static void ask(draft *d, const sl_spec_seq *s) {
    int64_t total = s->n + d->n, same = 0;
    while (same < d->n_known && same < total - 1 && d->known[same] == token_at(s, d, same))
        same++;
    for (int64_t i = same; i < total; i++)
        d->feed[i - same] = d->known[i] = token_at(s, d, i);
    d->n_known = total;
    d->work = (sl_work){.struct_size = SL_SIZE(sl_work),
                        .token = d->feed,
                        .begin = same,
                        .n_rows = (int32_t)(total - same),
                        .model = 1,
                        .seq = s->seq,
                        .exit_layer = -1,
                        .rows_kind = SL_WORK_IDS,
                        .kv = SL_WORK_KV_OWN,
                        .when = SL_WORK_IN_STEP,
                        .logits = SL_WORK_LOGITS_LAST,
                        .user = d};
}

/* Draws the next draft token from the logits of the draft model. */
static sl_status draw(sl_instance *self, const sl_spec_seq *s, draft *d, const float *logits, sl_error *err) {
    int32_t at = d->n; /* node whose child is drawn */
    sl_draft_q *q = &d->q[at];
    int32_t *id = d->q_id + (int64_t)at * self->vocab;
    double *weight = d->q_weight + (int64_t)at * self->vocab;
    *q = (sl_draft_q){.struct_size = SL_SIZE(sl_draft_q), .id = id, .weight = weight};
    SL_TRY(self->sample->distribution(self->host, s->seq, logits, d->token + 1, d->n, id, weight, &q->n, err));
    int32_t token;
    sl_status status = self->sample->draw(self->host, s->seq, q, &token);
    if (status < 0)
        return sl_fail(err, status, "sps: drawing a draft token");
    d->q_ptr[at] = s->temperature > 0 ? q : NULL;
    d->n++;
    d->token[d->n] = token;
    d->kind[d->n] = s->temperature > 0 ? SL_DRAFT_REP : SL_DRAFT_DET;
    d->q_ptr[d->n] = NULL;
    return SL_OK;
}

static void begin(sl_instance *self, draft *d, const sl_spec_seq *s) {
    int32_t room = s->max_nodes - 1 < s->max_depth ? s->max_nodes - 1 : s->max_depth;
    d->goal = self->schedule == SCHEDULE_FIXED ? (int32_t)self->gamma : d->gamma;
    d->goal = d->goal < room ? d->goal : room;
    d->n = d->asked = 0;
    d->token[0] = s->token[s->n - 1];
    d->kind[0] = SL_DRAFT_DET;
    d->q_ptr[0] = NULL;
}

static sl_status propose(sl_instance *self, sl_propose *io, sl_error *err) {
    if (io->n_seqs > self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "sps: %d sequences", io->n_seqs);
    for (int32_t i = 0; io->round == 0 && i < io->n_seqs; i++)
        begin(self, &self->drafts[io->seqs[i]->seq], io->seqs[i]);
    for (int32_t r = 0; r < io->n_results; r++) {
        draft *d = io->results[r]->work->user;
        if (io->results[r]->status < 0) {
            d->goal = d->n; /* goes on with what there is */
            d->n_known = 0;
            continue;
        }
        const sl_spec_seq *s = NULL;
        for (int32_t i = 0; s == NULL && i < io->n_seqs; i++)
            if (io->seqs[i]->seq == io->results[r]->work->seq)
                s = io->seqs[i];
        SL_TRY(draw(self, s, d, io->results[r]->logits, err));
    }
    io->n_works = 0;
    for (int32_t i = 0; i < io->n_seqs; i++) {
        draft *d = &self->drafts[io->seqs[i]->seq];
        if (d->n < d->goal) {
            ask(d, io->seqs[i]);
            self->works[io->n_works++] = &d->work;
        }
    }
    io->works = self->works;
    if (io->n_works > 0)
        return SL_PENDING;
    for (int32_t i = 0; i < io->n_seqs; i++) {
        draft *d = &self->drafts[io->seqs[i]->seq];
        d->asked = d->n;
        d->tree = (sl_tree){.struct_size = SL_SIZE(sl_tree),
                            .token = d->token,
                            .parent = self->parent,
                            .kind = d->kind,
                            .q = d->q_ptr,
                            .n_nodes = d->n + 1};
        self->trees[i] = d->n > 0 ? &d->tree : NULL;
    }
    io->trees = self->trees;
    return SL_OK;
}

/* The heuristic of assisted generation: two more after full acceptance, one less otherwise. */
static sl_status observe(sl_instance *self, const sl_observe *seen) {
    const sl_commit *c = seen->commit;
    for (int32_t i = 0; i < c->batch->n_seqs; i++) {
        draft *d = &self->drafts[c->batch->seq[i]];
        if (c->batch->tree[i] == NULL || d->asked == 0)
            continue;
        int32_t accepted = c->path_begin[i + 1] - c->path_begin[i] - 1;
        d->gamma += accepted == d->asked ? 2 : -1;
        d->gamma = d->gamma < 1 ? 1 : d->gamma > self->gamma_max ? (int32_t)self->gamma_max : d->gamma;
    }
    return SL_OK;
}

static const sl_speculation speculation = {
    .struct_size = SL_SIZE(sl_speculation), .caps = caps, .propose = propose, .observe = observe};

/* gamma rounds of the draft model, one row each; the first also brings the tokens that its cache lacks. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    double gamma = sl_cost_min((double)self->gamma, io->max_nodes - 1), all = 1;
    if (io->draft == NULL)
        return sl_fail(err, SL_E_STATE, "there is no draft model");
    for (double i = 0; i < gamma; i++) /* all accepted: the last draft token has no row yet */
        all *= io->accept;
    sl_cost_pass pass = {.struct_size = SL_SIZE(sl_cost_pass),
                         .name = "sps.draft",
                         .times = 1,
                         .rows = 1 + all,
                         .logits = 1,
                         .n_past = -1,
                         .model = 1,
                         .attn_layers = -1,
                         .ffn_layers = -1,
                         .stage = SL_STAGE_DECODE};
    io->add_pass(io->user, &pass);
    pass.times = gamma - 1;
    pass.rows = 1;
    if (gamma > 1)
        io->add_pass(io->user, &pass);
    io->nodes = gamma + 1;
    io->tokens = sl_cost_tokens(io->accept, gamma);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_SPECULATION_ID) == 0 ? (const void *)&speculation : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const schedules[] = {"fixed", "heuristic", NULL};
static const sl_param_def gamma_def = {SL_SIZE(sl_param_def),
                                       "gamma",
                                       "tokens drafted a step (heuristic: to begin with)",
                                       "5",
                                       NULL,
                                       1,
                                       SL_MAX_TREE_NODES - 1,
                                       SL_PARAM_INT,
                                       0};
static const sl_param_def gamma_max_def = {SL_SIZE(sl_param_def),
                                           "gamma_max",
                                           "most tokens that the heuristic drafts",
                                           "16",
                                           NULL,
                                           1,
                                           SL_MAX_TREE_NODES - 1,
                                           SL_PARAM_INT,
                                           0};
static const sl_param_def schedule_def = {SL_SIZE(sl_param_def),
                                          "schedule",
                                          "fixed, or heuristic: two more after full acceptance, one less otherwise",
                                          "fixed",
                                          schedules,
                                          1,
                                          0,
                                          SL_PARAM_ENUM,
                                          0};
static const sl_param_def *const params[] = {&gamma_def, &gamma_max_def, &schedule_def, NULL};
static const char *const roles[] = {"speculation", NULL};
static const char *const needs[] = {SL_SAMPLE_ID, SL_MEM_ID, "sl.work/1", "sl.model.draft/1", NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "sps",
    .roles = roles,
    .version = "0.1.0",
    .summary = "speculative sampling with a draft model",
    .paper = "Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = nothing,
    .provides = nothing,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
};

SL_PACKAGE(&plugin)
