/* swift - the target drafts for itself with some of its sub-layers skipped.
 *
 * "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration", arXiv 2410.06916. Rows of a draft are
 * work items for the target with layer masks, one token a round, in a fork of the sequence that is dropped before the
 * verification; a round carries all sequences, which share one skip set. Which sub-layers are skipped may be searched
 * while serving (swift_search.c): now and then, in front of a draft, another set predicts the first tokens of the
 * request's own output, and the best predictor so far drafts. */
#include "sluice/cost.h"
#include "sluice/speculation.h"

#include <stdlib.h>
#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"
#include "swift_plan.h"
#include "swift_search.h"
#include "swift_tree.h"

/* One sequence, by its id. */
typedef struct swift_seq {
    swift_tree draft;
    sl_work work;
    int32_t root;
    int32_t n_prompt; /* of the request that the counts are about */
    int64_t n;        /* its tokens when it was last seen */
    int64_t steps;    /* decode steps of the request */
    int64_t tried;    /* step after which a set was last scored */
    int refused;      /* its rows cannot be forked at the prompt's end: it is not asked again */
} swift_seq;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_metrics *metrics; /* NULL: nobody counts */
    swift_tree_rules tree;
    swift_rules rules;
    int64_t opt_interval, context_window;
    int optimise, fixed;
    int32_t n_attn, n_ffn;            /* sub-layers that it skips */
    uint32_t *attn, *ffn;             /* [n_layers] the set in use */
    uint32_t *tried_attn, *tried_ffn; /* [n_layers] the set that is being scored */
    swift_search search;
    void *search_memory;
    swift_seq *seqs; /* [max_seqs] */
    const sl_tree **trees;
    const sl_work **works;
    sl_work score;
    int64_t max_seqs;
};

static const char *const counters[] = {"tries",      "tries_bayes",       "tries_refused", "sets_kept",
                                       "best_score", "skipped_attention", "skipped_ffn",   NULL};

static void count(const sl_instance *self, const char *name, double by) {
    if (self->metrics != NULL)
        self->metrics->add(self->host, name, by);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static sl_status configure(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_params *p = args->params;
    int32_t L = args->model->n_layers;
    int given = 0;
    self->optimise = sl_param_bool(p, "optimise");
    self->opt_interval = sl_param_int(p, "opt_interval");
    self->context_window = sl_param_int(p, "context_window");
    self->tree.stop_threshold = sl_param_real(p, "stop_threshold");
    self->tree.max_draft = (int32_t)sl_param_int(p, "max_draft");
    self->tree.topk = (int32_t)sl_param_int(p, "topk");
    self->tree.verify = sl_param_index(p, "verify");
    self->tree.vocab = args->model->vocab;
    self->tree.topk = self->tree.topk < self->tree.vocab ? self->tree.topk : self->tree.vocab;
    self->rules = (swift_rules){.max_score = sl_param_real(p, "max_score"),
                                .bayes_interval = sl_param_int(p, "bayes_interval"),
                                .max_opt_iter = sl_param_int(p, "max_opt_iter"),
                                .max_tolerance_iter = sl_param_int(p, "max_tolerance_iter"),
                                .seed = (uint64_t)sl_param_int(p, "seed"),
                                .n_layers = L,
                                .n_skipped = swift_n_skipped(L, sl_param_real(p, "skip_ratio")),
                                .bayes = self->optimise && sl_param_bool(p, "bayes")};
    if (sl_param_bool(p, "bayes") && !self->optimise)
        return sl_fail(err, SL_E_INVALID, "swift: bayes = yes without optimise = yes: nothing is searched");
    if (self->rules.bayes && self->rules.max_opt_iter > 4096)
        return sl_fail(err, SL_E_RANGE,
                       "swift: max_opt_iter = %lld: the Gaussian process of bayes = yes remembers all tries; 4096 at "
                       "most",
                       (long long)self->rules.max_opt_iter);
    SL_TRY(swift_plan_read(args, self->attn, self->ffn, &given, err));
    self->fixed = given;
    return SL_OK;
}

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    free(self->attn);
    free(self);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_rng *rng = NULL;
    sl_instance *self = calloc(1, sizeof *self);
    size_t L = (size_t)args->model->n_layers;
    if (self == NULL || (self->attn = calloc(4 * L, sizeof *self->attn)) == NULL) {
        destroy(self);
        return sl_fail(err, SL_E_NO_MEMORY, "swift: out of memory");
    }
    self->ffn = self->attn + L;
    self->tried_attn = self->ffn + L;
    self->tried_ffn = self->tried_attn + L;
    self->host = self->tree.host = args->host;
    self->metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add));
    const struct {
        const char *id;
        uint64_t size;
        const void **table;
    } services[] = {
        {SL_MEM_ID, SL_FIELD_END(sl_mem, release), (const void **)&self->mem},
        {SL_SAMPLE_ID, SL_FIELD_END(sl_sample, draw), (const void **)&self->tree.sample},
        {SL_RNG_ID, SL_FIELD_END(sl_rng, uniform), (const void **)&rng},
    };
    sl_status s = SL_OK;
    for (size_t i = 0; s >= 0 && i < sizeof services / sizeof *services; i++)
        s = sl_host_require(args->host, "swift", services[i].id, services[i].size, services[i].table, err);
    if (s >= 0)
        s = configure(self, args, err);
    if (s < 0) {
        destroy(self);
        return s;
    }
    self->search.uniform = rng->uniform;
    *out = self;
    return SL_OK;
}

static sl_status accepts(const sl_model_info *model, const sl_params *params, const sl_scope *scope, sl_error *err) {
    (void)params, (void)scope;
    if (model->n_layers < 3)
        return sl_fail(err, SL_E_INVALID, "swift: of %d layers none can be skipped: the first and the last always run",
                       model->n_layers);
    return SL_OK;
}

static void *take(sl_instance *self, int64_t n, size_t size) {
    return self->mem->alloc(self->host, SL_DEVICE_CPU, n * (int64_t)size, 64, SL_MEM_PLUGIN);
}

static void give_back(sl_instance *self, void *p) { self->mem->release(self->host, SL_DEVICE_CPU, p); }

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->seqs != NULL && i < self->max_seqs; i++) {
        give_back(self, self->seqs[i].draft.id);
        give_back(self, self->seqs[i].draft.weight);
    }
    give_back(self, self->seqs);
    give_back(self, self->trees);
    give_back(self, self->works);
    give_back(self, self->search_memory);
    self->seqs = NULL;
    self->trees = NULL;
    self->works = NULL;
    self->search_memory = NULL;
}

/* Takes the search's set into use; the report shows how much it skips. */
static void use_set(sl_instance *self) {
    int32_t attn = 0, ffn = 0;
    if (!self->fixed)
        swift_masks(self->search.z, self->rules.n_layers, self->attn, self->ffn);
    for (int32_t l = 0; l < self->rules.n_layers; l++)
        attn += !self->attn[l], ffn += !self->ffn[l];
    count(self, "skipped_attention", attn - self->n_attn);
    count(self, "skipped_ffn", ffn - self->n_ffn);
    self->n_attn = attn;
    self->n_ffn = ffn;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    int64_t n = limits->max_seqs, q = (int64_t)self->tree.max_draft * self->tree.vocab;
    self->max_seqs = n;
    self->seqs = take(self, n, sizeof *self->seqs);
    self->trees = take(self, n, sizeof *self->trees);
    self->works = take(self, n, sizeof *self->works);
    self->search_memory = take(self, swift_search_bytes(&self->rules), 1);
    int ok = self->seqs != NULL && self->trees != NULL && self->works != NULL && self->search_memory != NULL;
    for (int64_t i = 0; ok && i < n; i++) {
        self->seqs[i].draft.id = take(self, q, sizeof(int32_t));
        self->seqs[i].draft.weight = take(self, q, sizeof(double));
        ok = self->seqs[i].draft.id != NULL && self->seqs[i].draft.weight != NULL;
    }
    if (!ok) {
        deactivate(self);
        return sl_fail(err, SL_E_NO_MEMORY, "swift: no memory for the drafts of %lld sequences", (long long)n);
    }
    for (int i = 0; counters[i] != NULL; i++)
        count(self, counters[i], 0); /* a new name takes memory, hence not in a step */
    swift_search_place(&self->search, &self->rules, self->search_memory);
    use_set(self);
    return SL_OK;
}

/* ---- sequences ------------------------------------------------------------------------------------------------- */

static sl_status event(sl_instance *self, const sl_event *e, sl_error *err) {
    (void)err;
    int begins = e->kind == SL_EVENT_BEGIN || e->kind == SL_EVENT_FINISH || e->kind == SL_EVENT_FORK ||
                 e->kind == SL_EVENT_TRUNCATE;
    if (begins && e->seq >= 0 && e->seq < self->max_seqs)
        self->seqs[e->seq].n_prompt = 0; /* a request has at least one token of prompt */
    return SL_OK;
}

/* Another prompt is another request, whose steps are counted anew. */
static swift_seq *seq_of(sl_instance *self, const sl_spec_seq *s) {
    swift_seq *q = &self->seqs[s->seq];
    if (q->n_prompt != s->n_prompt || s->n < q->n) {
        q->n_prompt = s->n_prompt;
        q->steps = q->tried = 0;
        q->refused = 0;
    }
    q->n = s->n;
    return q;
}

static sl_status caps(sl_instance *self, sl_spec_caps *out) {
    out->max_nodes = swift_max_nodes(&self->tree);
    out->kinds = 1u << SL_DRAFT_DET | (self->tree.verify == SWIFT_NOREP ? 1u << SL_DRAFT_NOREP : 0);
    out->lossless = 1;
    if (SL_HAS(out, sl_spec_caps, scratch_rows))
        out->scratch_rows = self->optimise ? (int32_t)self->context_window : 0;
    return SL_OK;
}

/* ---- searching ------------------------------------------------------------------------------------------------- */

/* After step 0, opt_interval, 2 opt_interval ... of a request that has more tokens than are scored. */
static int is_due(const sl_instance *self, const swift_seq *q, const sl_spec_seq *s) {
    return !q->refused && q->steps > q->tried && (q->steps - 1) % self->opt_interval == 0 &&
           s->n - s->n_prompt > self->context_window + 1;
}

/* One set is scored a step; of several sequences that are due, each in turn. */
static int ask_score(sl_instance *self, const sl_propose *io) {
    int32_t n_due = 0;
    if (!self->optimise || self->search.done)
        return 0;
    for (int32_t i = 0; i < io->n_seqs; i++)
        n_due += is_due(self, seq_of(self, io->seqs[i]), io->seqs[i]);
    if (n_due == 0)
        return 0;
    int32_t turn = (int32_t)(self->search.opt_iter % n_due), at = 0;
    while (!is_due(self, &self->seqs[io->seqs[at]->seq], io->seqs[at]) || turn-- > 0)
        at++;
    const sl_spec_seq *s = io->seqs[at];
    swift_search_propose(&self->search);
    swift_masks(self->search.tried, self->rules.n_layers, self->tried_attn, self->tried_ffn);
    self->score = (sl_work){.struct_size = SL_SIZE(sl_work),
                            .token = s->token + s->n_prompt,
                            .attn_layers = self->tried_attn,
                            .ffn_layers = self->tried_ffn,
                            .begin = s->n_prompt,
                            .n_rows = (int32_t)self->context_window,
                            .seq = s->seq,
                            .exit_layer = -1,
                            .rows_kind = SL_WORK_IDS,
                            .kv = SL_WORK_KV_SCRATCH,
                            .when = SL_WORK_IN_STEP,
                            .logits = SL_WORK_LOGITS_ALL,
                            .user = &self->seqs[s->seq]};
    self->seqs[s->seq].tried = self->seqs[s->seq].steps;
    return 1;
}

/* Matchness: the share of tokens that the tried set would have predicted, each behind the true ones. */
static double matchness(const sl_instance *self, const float *logits) {
    int64_t V = self->tree.vocab, same = 0;
    for (int32_t j = 0; j < self->score.n_rows; j++) {
        int32_t best = 0;
        for (int32_t i = 1; i < V; i++)
            best = logits[j * V + i] > logits[j * V + best] ? i : best;
        same += best == self->score.token[j + 1];
    }
    return (double)same / self->score.n_rows;
}

static void take_score(sl_instance *self, const sl_work_result *result) {
    swift_seq *q = result->work->user;
    if (result->status < 0) {
        q->refused = 1;
        count(self, "tries_refused", 1);
        return;
    }
    double before = self->search.best;
    int kept = swift_search_tell(&self->search, matchness(self, result->logits));
    count(self, "tries", 1);
    count(self, "tries_bayes", self->rules.bayes && self->search.opt_iter % self->rules.bayes_interval == 0);
    if (kept) {
        use_set(self);
        count(self, "sets_kept", 1);
        count(self, "best_score", self->search.best - before);
    }
}

/* ---- drafting -------------------------------------------------------------------------------------------------- */

/* The row of the backbone's last token. */
static void ask_row(sl_instance *self, swift_seq *q, const sl_spec_seq *s) {
    q->root = s->token[s->n - 1];
    q->work = (sl_work){.struct_size = SL_SIZE(sl_work),
                        .token = q->draft.depth == 0 ? &q->root : &q->draft.path[q->draft.depth - 1],
                        .attn_layers = self->attn,
                        .ffn_layers = self->ffn,
                        .begin = s->n - 1 + q->draft.depth,
                        .n_rows = 1,
                        .seq = s->seq,
                        .exit_layer = -1,
                        .rows_kind = SL_WORK_IDS,
                        .kv = SL_WORK_KV_DRAFT,
                        .when = SL_WORK_IN_STEP,
                        .logits = SL_WORK_LOGITS_LAST,
                        .user = q};
}

static sl_status take_row(sl_instance *self, const sl_propose *io, const sl_work_result *result, sl_error *err) {
    swift_seq *q = result->work->user;
    if (result->status < 0) { /* verified with what there is */
        q->draft.going = 0;
        return SL_OK;
    }
    int32_t i = 0;
    while (io->seqs[i]->seq != result->work->seq)
        i++;
    return swift_tree_grow(&self->tree, &q->draft, io->seqs[i], result->logits, err);
}

static sl_status propose(sl_instance *self, sl_propose *io, sl_error *err) {
    if (io->n_seqs > self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "swift: %d sequences", io->n_seqs);
    io->works = self->works;
    io->n_works = 0;
    for (int32_t i = 0; io->round == 0 && i < io->n_seqs; i++)
        swift_tree_begin(&self->tree, &seq_of(self, io->seqs[i])->draft, io->seqs[i]);
    if (io->round == 0 && ask_score(self, io)) {
        self->works[io->n_works++] = &self->score;
        return SL_PENDING;
    }
    for (int32_t r = 0; r < io->n_results; r++)
        if (io->results[r]->work == &self->score)
            take_score(self, io->results[r]);
        else
            SL_TRY(take_row(self, io, io->results[r], err));
    for (int32_t i = 0; i < io->n_seqs; i++) {
        swift_seq *q = &self->seqs[io->seqs[i]->seq];
        if (!q->draft.going)
            continue;
        ask_row(self, q, io->seqs[i]);
        self->works[io->n_works++] = &q->work;
    }
    if (io->n_works > 0)
        return SL_PENDING;
    for (int32_t i = 0; i < io->n_seqs; i++)
        self->trees[i] = swift_tree_finish(&self->seqs[io->seqs[i]->seq].draft);
    io->trees = self->trees;
    return SL_OK;
}

static sl_status observe(sl_instance *self, const sl_observe *seen) {
    const sl_batch *b = seen->commit->batch;
    for (int32_t i = 0; i < b->n_seqs; i++)
        if (b->stage[i] != SL_STAGE_PREFILL)
            seq_of(self, seen->seqs[i])->steps++;
    return SL_OK;
}

/* ---- state ----------------------------------------------------------------------------------------------------- */

/* Of the whole instance: the set in use, the best score, the counts and what the Gaussian process was told. */
static sl_status state(sl_instance *self, sl_state_io *io, sl_error *err) {
    if (io->seq >= 0) {
        io->bytes = 0;
        return SL_OK;
    }
    int64_t need = swift_search_save(&self->search, NULL, 0);
    if (io->op == SL_STATE_LOAD) {
        double before = self->search.best;
        if (self->fixed || !swift_search_load(&self->search, io->data, io->bytes))
            return sl_fail(err, SL_E_DATA, "swift: this state is not of a search with %d of %d sub-layers",
                           self->rules.n_skipped, swift_dim(self->rules.n_layers));
        use_set(self);
        count(self, "best_score", self->search.best - before);
        return SL_OK;
    }
    if (io->op == SL_STATE_SAVE) {
        if (io->bytes < need)
            return sl_fail(err, SL_E_RANGE, "swift: the state has %lld bytes", (long long)need);
        swift_search_save(&self->search, io->data, io->bytes);
    }
    io->bytes = need;
    return SL_OK;
}

/* ---- the plugin ------------------------------------------------------------------------------------------------ */

static const sl_speculation speculation = {
    .struct_size = SL_SIZE(sl_speculation), .caps = caps, .propose = propose, .observe = observe};

/* max_draft rounds of the target without the skipped sub-layers, and a tree with the siblings that `topk` allows; drafts
 * that end early (stop_threshold) and the search for a better set are left out. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    double L = self->rules.n_layers, attn = 0, ffn = 0, depth = sl_cost_min(self->tree.max_draft, io->max_nodes - 1);
    (void)err;
    for (int32_t l = 0; l < self->rules.n_layers; l++)
        attn += self->attn[l] != 0, ffn += self->ffn[l] != 0;
    if (!self->fixed) /* the set in use is made when the plugin is activated */
        attn = L - (self->rules.n_skipped + 1) / 2, ffn = L - self->rules.n_skipped / 2;
    sl_cost_pass pass = {.struct_size = SL_SIZE(sl_cost_pass),
                         .name = "swift.draft",
                         .times = depth,
                         .rows = 1,
                         .logits = 1,
                         .n_past = -1,
                         .attn_layers = attn,
                         .ffn_layers = ffn,
                         .stage = SL_STAGE_DECODE};
    io->add_pass(io->user, &pass);
    io->nodes = depth + 1;
    io->tokens = sl_cost_tokens(io->accept, depth);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_SPECULATION_ID) == 0 ? (const void *)&speculation : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

#define PARAM(id, type, fallback, choices, min, max, flags, doc)                                                       \
    static const sl_param_def id##_def = {SL_SIZE(sl_param_def), #id, doc, fallback, choices, min, max, type, flags}

static const char *const verify_modes[] = {"norep", "det", NULL};
PARAM(skip_ratio, SL_PARAM_FLOAT, "0.45", NULL, 0, 1, 0,
      "share of the attention and FFN sub-layers of the inner layers that a searched set skips; 0: none");
PARAM(optimise, SL_PARAM_BOOL, "no", NULL, 1, 0, 0, "search for a better skip set while serving");
PARAM(bayes, SL_PARAM_BOOL, "no", NULL, 1, 0, 0, "every bayes_interval-th try by Bayesian optimisation");
PARAM(opt_interval, SL_PARAM_INT, "1", NULL, 1, 1 << 30, 0, "decode steps of a request between tries");
PARAM(bayes_interval, SL_PARAM_INT, "25", NULL, 1, 1 << 30, 0, "tries from one by Bayesian optimisation to the next");
PARAM(max_opt_iter, SL_PARAM_INT, "1000", NULL, 0, 1 << 30, 0, "the search ends when it has made more tries");
PARAM(max_tolerance_iter, SL_PARAM_INT, "300", NULL, 0, 1 << 30, 0,
      "the search ends after more tries than these without a better set");
PARAM(max_score, SL_PARAM_FLOAT, "0.95", NULL, 0, 1, 0, "the search ends with a better set above this share");
PARAM(context_window, SL_PARAM_INT, "32", NULL, 1, SL_MAX_TREE_NODES, 0,
      "first tokens of a request's output that a set must predict");
PARAM(stop_threshold, SL_PARAM_FLOAT, "0.8", NULL, 0, 1, 0,
      "a draft ends behind a token that the skipped model gives less probability");
PARAM(max_draft, SL_PARAM_INT, "25", NULL, 1, SL_MAX_TREE_NODES - 1, 0, "most tokens of the backbone");
PARAM(topk, SL_PARAM_INT, "10", NULL, 1, 64, 0, "most children of a backbone token");
PARAM(
    verify, SL_PARAM_ENUM, "norep", verify_modes, 1, 0, 0,
    "sampling: drawn children verified by their distribution; det: token-identical to plain decoding, fewer accepted");
PARAM(skip_attention, SL_PARAM_INT_LIST, NULL, NULL, 0, 1 << 20, 0,
      "fixed set: layers whose attention is skipped, with commas; may be empty");
PARAM(skip_ffn, SL_PARAM_INT_LIST, NULL, NULL, 0, 1 << 20, 0, "fixed set: layers whose FFN is skipped");
PARAM(plan, SL_PARAM_PATH, NULL, NULL, 1, 0, 0,
      "fixed set: safetensors file whose metadata attention and ffn are such lists");
PARAM(seed, SL_PARAM_INT, "1", NULL, 0, 1 << 30, SL_PARAM_EXPERT, "of the random sets");
static const sl_param_def *const params[] = {&skip_ratio_def,
                                             &optimise_def,
                                             &bayes_def,
                                             &opt_interval_def,
                                             &bayes_interval_def,
                                             &max_opt_iter_def,
                                             &max_tolerance_iter_def,
                                             &max_score_def,
                                             &context_window_def,
                                             &stop_threshold_def,
                                             &max_draft_def,
                                             &topk_def,
                                             &verify_def,
                                             &skip_attention_def,
                                             &skip_ffn_def,
                                             &plan_def,
                                             &seed_def,
                                             NULL};
static const char *const roles[] = {"speculation", NULL};
static const char *const needs[] = {SL_SAMPLE_ID,      SL_MEM_ID,      SL_RNG_ID, "sl.work/1",
                                    "sl.work.draft/1", "sl.kv.fork/1", NULL};
static const char *const wants[] = {SL_METRICS_ID, SL_ARTIFACT_ID, NULL};
static const char *const provides[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "swift",
    .roles = roles,
    .version = "0.1.0",
    .summary = "the target drafts for itself with some attention and FFN sub-layers skipped",
    .paper = "SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference Acceleration, arXiv 2410.06916",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = provides,
    .devices = SL_ON_CPU,
    .accepts = accepts,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
    .state = state,
};

SL_PACKAGE(&plugin)
