/* gemfilter - lets an early layer choose the prompt's tokens that matter, and computes those alone.
 *
 * "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token Reduction", arXiv
 * 2409.17422, algorithm 1. Layers in front of the filter layer run over the whole prompt; there the query of the last
 * token ranks all keys (gem_select.c); the best topk tokens, in their order, replace the prompt. What ran is thrown
 * away, unless reuse_prefix keeps it for the next turn: then only new tokens pass through the early layers. */
#include "sluice/cost.h"
#include "sluice/kv.h"

#include <stdlib.h>
#include <string.h>

#include "gem_select.h"
#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

enum { POSITIONS_FRESH = 0, POSITIONS_ORIGINAL = 1 };

/* What the early layers know of a sequence: its tokens, and their keys at the filter layer. Rows of the layers below
 * stand in the sequence's branch. */
typedef struct gem_memory {
    int32_t *token; /* [room] */
    float *k;       /* [room, K, D] */
    int64_t n, room;
} gem_memory;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_metrics *metrics; /* NULL: nobody counts */
    const sl_model_info *model;
    gem_choice choice;
    int32_t layer;
    int positions, reuse;
    int64_t max_context, max_seqs;
    gem_memory *seqs; /* [max_seqs] with reuse_prefix */
    gem_buffers buffers;
    float *query; /* [K, D] */
    /* The answer: lives until the next call. */
    int32_t *new_token;
    float *new_position;
    int64_t *kept;
    /* The work */
    sl_tap tap_q, tap_k;
    const sl_tap *taps[2];
    sl_work work;
    const sl_work *works[1];
};

/* ---- life
 * ------------------------------------------------------------------------------------------------------------
 */

static sl_status choose_layer(const sl_model_info *model, int64_t wanted, int32_t *out, sl_error *err) {
    if (wanted >= model->n_layers)
        return sl_fail(err, SL_E_RANGE, "gemfilter: filter_layer = %lld; the model has layers 0 to %d",
                       (long long)wanted, model->n_layers - 1);
    *out = wanted < 0 ? gem_default_layer(model) : (int32_t)wanted;
    const sl_layer_info *layer = model->layers[*out];
    if (layer->n_heads == 0 || strcmp(layer->block, "gqa") != 0)
        return sl_fail(err, SL_E_INVALID, "gemfilter: filter layer %d has no queries and keys to rank tokens by", *out);
    if (layer->window > 0)
        return sl_fail(err, SL_E_INVALID,
                       "gemfilter: filter layer %d looks back %lld tokens only, which ranks no whole prompt; choose a "
                       "layer without a window (filter_layer)",
                       *out, (long long)layer->window);
    return SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_params *p = args->params;
    sl_instance got = {.host = args->host,
                       .mem = sl_host_service(args->host, SL_MEM_ID, SL_FIELD_END(sl_mem, release)),
                       .metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add)),
                       .model = args->model,
                       .choice = {.topk = sl_param_int(p, "topk"),
                                  .pool = sl_param_int(p, "pool"),
                                  .keep_first = sl_param_int(p, "keep_first"),
                                  .keep_last = sl_param_int(p, "keep_last")},
                       .positions = sl_param_index(p, "positions"),
                       .reuse = sl_param_bool(p, "reuse_prefix")};
    if (got.mem == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "gemfilter: the host has no %s", SL_MEM_ID);
    if (got.choice.pool % 2 == 0)
        return sl_fail(err, SL_E_INVALID, "gemfilter: pool = %lld; the average is over an odd number of neighbours",
                       (long long)got.choice.pool);
    if (got.choice.keep_first + got.choice.keep_last > got.choice.topk)
        return sl_fail(err, SL_E_INVALID, "gemfilter: keep_first = %lld and keep_last = %lld are more than topk = %lld",
                       (long long)got.choice.keep_first, (long long)got.choice.keep_last, (long long)got.choice.topk);
    SL_TRY(choose_layer(args->model, sl_param_int(p, "filter_layer"), &got.layer, err));
    sl_instance *self = malloc(sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "gemfilter: out of memory");
    *self = got;
    self->tap_q = (sl_tap){SL_SIZE(sl_tap), SL_TAP_Q, SL_TAP_ROWS_LAST, self->layer, 0};
    self->tap_k = (sl_tap){SL_SIZE(sl_tap), SL_TAP_K, SL_TAP_ROWS_ALL, self->layer, 0};
    self->taps[0] = &self->tap_q;
    self->taps[1] = &self->tap_k;
    self->works[0] = &self->work;
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static void *take(sl_instance *self, int64_t n, size_t size) {
    return self->mem->alloc(self->host, SL_DEVICE_CPU, n * (int64_t)size, 64, SL_MEM_PLUGIN);
}

static void give_back(sl_instance *self, void *p) { self->mem->release(self->host, SL_DEVICE_CPU, p); }

static void forget(sl_instance *self, gem_memory *m) {
    give_back(self, m->token);
    give_back(self, m->k);
    *m = (gem_memory){0};
}

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->seqs != NULL && i < self->max_seqs; i++)
        forget(self, &self->seqs[i]);
    void *owned[] = {self->seqs,  self->buffers.score, self->buffers.pooled, self->buffers.order, self->buffers.mark,
                     self->query, self->new_token,     self->new_position,   self->kept};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        give_back(self, owned[i]);
    self->seqs = NULL;
    self->buffers = (gem_buffers){0};
    self->query = self->new_position = NULL;
    self->new_token = NULL;
    self->kept = NULL;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    const sl_layer_info *layer = self->model->layers[self->layer];
    int64_t n = limits->max_context, k = n < self->choice.topk ? n : self->choice.topk;
    self->max_context = n;
    self->max_seqs = limits->max_seqs;
    self->buffers.score = take(self, n, sizeof *self->buffers.score);
    self->buffers.pooled = take(self, n, sizeof *self->buffers.pooled);
    self->buffers.order = take(self, n, sizeof *self->buffers.order);
    self->buffers.mark = take(self, n, sizeof *self->buffers.mark);
    self->query = take(self, (int64_t)layer->n_kv_heads * layer->head_dim, sizeof *self->query);
    self->new_token = take(self, k, sizeof *self->new_token);
    self->kept = take(self, k, sizeof *self->kept);
    int ok = self->buffers.score && self->buffers.pooled && self->buffers.order && self->buffers.mark && self->query &&
             self->new_token && self->kept;
    if (self->positions == POSITIONS_ORIGINAL)
        ok = (self->new_position = take(self, k, sizeof *self->new_position)) != NULL && ok;
    if (self->reuse)
        ok = (self->seqs = take(self, self->max_seqs, sizeof *self->seqs)) != NULL && ok;
    if (ok)
        return SL_OK;
    deactivate(self);
    return sl_fail(err, SL_E_NO_MEMORY, "gemfilter: no memory for prompts of %lld tokens", (long long)n);
}

/* ---- what is kept of a sequence
 * ---------------------------------------------------------------------------------------- */

/* Floats of one row of keys. */
static int64_t key_width(const sl_instance *self) {
    const sl_layer_info *layer = self->model->layers[self->layer];
    return (int64_t)layer->n_kv_heads * layer->head_dim;
}

/* Room for n tokens; 0: no memory, and nothing changed. Grows by a quarter, so that turns do not copy each time. */
static int make_room(sl_instance *self, gem_memory *m, int64_t n) {
    if (n <= m->room)
        return 1;
    int64_t room = n + m->room / 4, width = key_width(self);
    room = room < self->max_context ? room : self->max_context;
    gem_memory wider = {take(self, room, sizeof *m->token), take(self, room * width, sizeof *m->k), m->n, room};
    if (wider.token == NULL || wider.k == NULL) {
        forget(self, &wider);
        return 0;
    }
    if (m->n > 0) {
        memcpy(wider.token, m->token, sizeof *m->token * (size_t)m->n);
        memcpy(wider.k, m->k, sizeof *m->k * (size_t)(m->n * width));
    }
    forget(self, m);
    *m = wider;
    return 1;
}

static sl_status event(sl_instance *self, const sl_event *what, sl_error *err) {
    (void)err;
    if (self->seqs == NULL || what->seq < 0 || what->seq >= self->max_seqs)
        return SL_OK;
    gem_memory *m = &self->seqs[what->seq];
    if (what->kind == SL_EVENT_BEGIN || what->kind == SL_EVENT_FINISH || what->kind == SL_EVENT_FORK)
        forget(self, m);
    if (what->kind != SL_EVENT_FORK || what->other < 0 || what->other >= self->max_seqs)
        return SL_OK;
    const gem_memory *from = &self->seqs[what->other];
    if (from->n > 0 && make_room(self, m, from->n)) { /* else the child computes everything again */
        memcpy(m->token, from->token, sizeof *m->token * (size_t)from->n);
        memcpy(m->k, from->k, sizeof *m->k * (size_t)(from->n * key_width(self)));
        m->n = from->n;
    }
    return SL_OK;
}

/* ---- the prompt
 * -------------------------------------------------------------------------------------------------------
 */

/* The early layers over tokens [begin, n). */
static void ask(sl_instance *self, sl_prompt *io, int64_t begin) {
    self->work = (sl_work){.struct_size = SL_SIZE(sl_work),
                           .token = io->token + begin,
                           .taps = self->taps,
                           .begin = begin,
                           .n_rows = (int32_t)(io->n - begin),
                           .n_taps = 2,
                           .seq = io->seq,
                           .exit_layer = self->layer + 1,
                           .rows_kind = SL_WORK_IDS,
                           .kv = self->reuse ? SL_WORK_KV_OWN : SL_WORK_KV_SCRATCH,
                           .when = SL_WORK_IN_STEP,
                           .logits = SL_WORK_LOGITS_NONE,
                           .branch = self->reuse,
                           .exit_at = SL_WORK_EXIT_QKV};
    io->works = self->works;
    io->n_works = 1;
    io->answer = SL_PROMPT_WORK;
}

/* Tokens that the early layers have seen already. Two rows at least are computed: the last one's query is needed, and a
 * single row would run in the decode stage, where attention may select. */
static int64_t known(const gem_memory *m, const sl_prompt *io) {
    int64_t same = 0, most = io->n - 2 < m->n ? io->n - 2 : m->n;
    while (same < most && m->token[same] == io->token[same])
        same++;
    return same;
}

static sl_status begin_work(sl_instance *self, sl_prompt *io, sl_error *err) {
    if (!self->reuse) {
        ask(self, io, 0);
        return SL_OK;
    }
    gem_memory *m = &self->seqs[io->seq];
    m->n = known(m, io);
    if (!make_room(self, m, io->n))
        return sl_fail(err, SL_E_NO_MEMORY, "gemfilter: no memory for the keys of %lld tokens (reuse_prefix)",
                       (long long)io->n);
    ask(self, io, m->n);
    return SL_OK;
}

static void count(const sl_instance *self, const char *name, int64_t n) {
    if (self->metrics != NULL)
        self->metrics->add(self->host, name, (double)n);
}

/* The tokens that stay replace the prompt. k [n, K, D] of all of it. */
static void replace(sl_instance *self, sl_prompt *io, const float *q, const float *k) {
    const sl_layer_info *layer = self->model->layers[self->layer];
    gem_scores(q, k, io->n, layer->n_heads, layer->n_kv_heads, layer->head_dim, self->query, self->buffers.score);
    io->n_new = gem_select(&self->choice, &self->buffers, io->n, self->kept);
    for (int64_t i = 0; i < io->n_new; i++) {
        self->new_token[i] = io->token[self->kept[i]];
        if (self->positions == POSITIONS_ORIGINAL)
            self->new_position[i] = (float)self->kept[i];
    }
    io->new_token = self->new_token;
    io->new_index = self->kept;
    if (self->positions == POSITIONS_ORIGINAL) {
        io->new_position = self->new_position;
        io->next_position = (float)io->n;
    }
    io->answer = SL_PROMPT_REPLACE;
    count(self, "prompts", 1);
    count(self, "tokens_read", io->n);
    count(self, "tokens_kept", io->n_new);
    count(self, "rows_run", self->work.n_rows);
    count(self, "layers_run", self->layer);
}

static sl_status take_results(sl_instance *self, sl_prompt *io, sl_error *err) {
    const sl_work_result *r = io->results[0];
    gem_memory *m = self->reuse ? &self->seqs[io->seq] : NULL;
    if (r->status < 0 && self->work.begin > 0) { /* the branch is gone: all of it once more */
        m->n = 0;
        ask(self, io, 0);
        return SL_OK;
    }
    if (r->status < 0)
        return sl_fail(err, r->status, "gemfilter: layers 0 to %d over %d tokens: %s", self->layer, self->work.n_rows,
                       sl_status_text(r->status));
    const float *q = r->taps[0]->rows.data, *k = r->taps[1]->rows.data;
    if (m != NULL) {
        memcpy(m->token + self->work.begin, self->work.token, sizeof *m->token * (size_t)self->work.n_rows);
        memcpy(m->k + self->work.begin * key_width(self), k, sizeof *k * (size_t)(self->work.n_rows * key_width(self)));
        m->n = io->n;
        k = m->k;
    }
    replace(self, io, q, k);
    return SL_OK;
}

static sl_status begin(sl_instance *self, sl_prompt *io, sl_error *err) {
    if (io->n > self->max_context || io->seq < 0 || io->seq >= self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "gemfilter: %lld tokens of sequence %d are beyond the limits", (long long)io->n,
                       io->seq);
    if (io->n_results > 0)
        return take_results(self, io, err);
    if (io->n <= self->choice.topk) { /* everything stays */
        io->answer = SL_PROMPT_CONTINUE;
        return SL_OK;
    }
    return begin_work(self, io, err);
}

/* ---- the plugin
 * --------------------------------------------------------------------------------------------------------
 */

static const sl_kv_prompt prompt = {SL_SIZE(sl_kv_prompt), begin};

/* A first prompt: the layers in front of the filter layer, its queries and keys, and the ranking. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    const sl_layer_info *l = self->model->layers[self->layer];
    double n = io->n_prompt, E = self->model->hidden, D = l->head_dim, heads = l->n_heads + l->n_kv_heads + l->n_kv_heads;
    (void)err;
    if (n <= (double)self->choice.topk)
        return SL_OK;
    sl_cost_pass pass = {.struct_size = SL_SIZE(sl_cost_pass),
                         .name = "gemfilter.layers",
                         .times = 1,
                         .rows = n,
                         .n_past = 0,
                         .exit_layer = self->layer,
                         .attn_layers = -1,
                         .ffn_layers = -1,
                         .stage = SL_STAGE_PREFILL};
    if (self->layer > 0)
        io->add_pass(io->user, &pass);
    double width = io->activations == SL_BF16 ? 2 : 4;
    sl_cost_add(io->sink, SL_COST_AT_PROMPT, "gemfilter.qkv", 2 * n * E * D * heads, SL_COST_ACTIVATIONS,
                n * (E + D * heads) * width, 1);
    sl_cost_add(io->sink, SL_COST_AT_PROMPT, "gemfilter.rank", 2 * n * D * l->n_heads, SL_COST_OTHER, n * D * l->n_kv_heads * 4, 1);
    io->n_prompt = (double)self->choice.topk;
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_KV_PROMPT_ID) == 0 ? (const void *)&prompt : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const positions_choices[] = {"fresh", "original", NULL};
static const sl_param_def topk = {
    SL_SIZE(sl_param_def), "topk", "tokens of the prompt that stay; a shorter one is untouched", "1024", NULL, 1, 1e9,
    SL_PARAM_INT,          0};
static const sl_param_def filter_layer = {SL_SIZE(sl_param_def),
                                          "filter_layer",
                                          "layer whose attention ranks the tokens; -1: by model, else round(0.42 L)",
                                          "-1",
                                          NULL,
                                          -1,
                                          1e6,
                                          SL_PARAM_INT,
                                          0};
static const sl_param_def pool = {
    SL_SIZE(sl_param_def), "pool", "neighbours whose scores are averaged, odd; 1: none", "5", NULL, 1, 1023,
    SL_PARAM_INT,          0};
static const sl_param_def keep_first = {SL_SIZE(sl_param_def),
                                        "keep_first",
                                        "first tokens, which always stay (counted in topk)",
                                        "0",
                                        NULL,
                                        0,
                                        1e9,
                                        SL_PARAM_INT,
                                        0};
static const sl_param_def keep_last = {SL_SIZE(sl_param_def),
                                       "keep_last",
                                       "last tokens, which always stay (counted in topk)",
                                       "0",
                                       NULL,
                                       0,
                                       1e9,
                                       SL_PARAM_INT,
                                       0};
static const sl_param_def positions = {SL_SIZE(sl_param_def),
                                       "positions",
                                       "fresh: 0, 1, 2 ... as the paper; original: where the tokens stood",
                                       "fresh",
                                       positions_choices,
                                       0,
                                       0,
                                       SL_PARAM_ENUM,
                                       0};
static const sl_param_def reuse_prefix = {SL_SIZE(sl_param_def),
                                          "reuse_prefix",
                                          "keep the early layers' rows for later turns",
                                          "no",
                                          NULL,
                                          1,
                                          0,
                                          SL_PARAM_BOOL,
                                          0};
static const sl_param_def *const params[] = {&topk,      &filter_layer, &pool,         &keep_first,
                                             &keep_last, &positions,    &reuse_prefix, NULL};
static const char *const roles[] = {"kvcache.prompt", NULL};
static const char *const needs[] = {"sl.mem/1", "sl.work/1", "sl.work.taps/1", "sl.work.branch/1", NULL};
static const char *const wants[] = {"sl.metrics/1", NULL};
static const char *const none[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "gemfilter",
    .roles = roles,
    .version = "0.1.0",
    .summary = "an early layer chooses which tokens of a long prompt are computed",
    .paper = "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token Reduction, "
             "arXiv 2409.17422",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = none,
    .devices = SL_ON_CPU,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
};

SL_PACKAGE(&plugin)
