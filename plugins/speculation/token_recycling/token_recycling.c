/* token_recycling - drafts a tree of what the target last ranked highest behind each token.
 *
 * "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling", arXiv
 * 2408.08696. A matrix holds k successors of every token. A step's draft is a static tree filled from it, level by
 * level; after the verification the best ids of all rows, rejected ones included, overwrite the rows of their tokens.
 * Drafts come from no distribution (DET): output is token-identical to plain decoding for any content of the matrix. */
#include "sluice/cost.h"
#include "sluice/speculation.h"

#include <stdio.h>
#include <string.h>

#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"
#include "successors.h"
#include "tree_template.h"

enum { SCOPE_GLOBAL = 0, SCOPE_REQUEST = 1 };

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_metrics *metrics; /* NULL: nobody counts */
    const sl_artifacts *artifacts;
    sl_artifact *init;  /* open from create to destroy; NULL: begins empty */
    sl_tensor init_ids; /* [vocab, k of the file] */
    uint64_t vocab_fingerprint;
    int64_t vocab, k;
    int scope, from_prompt, fill_empty;
    tree_template shape;
    successors *matrices;   /* [1] of all sequences, or [max_seqs] by sequence id, open ones only */
    template_draft *drafts; /* [max_seqs] by place in the step */
    sl_tree *tree;          /* [max_seqs] likewise */
    const sl_tree **trees;  /* [max_seqs] */
    int64_t max_seqs;
};

static void *take(const sl_host *host, const sl_mem *mem, int64_t bytes) {
    return mem->alloc(host, SL_DEVICE_CPU, bytes, 64, SL_MEM_PLUGIN);
}

static void give_back(sl_instance *self, void *p) { self->mem->release(self->host, SL_DEVICE_CPU, p); }

static successors *matrix_of(sl_instance *self, int32_t seq) {
    return self->scope == SCOPE_GLOBAL ? &self->matrices[0] : &self->matrices[seq];
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    if (self->init != NULL)
        self->artifacts->close(self->host, self->init);
    give_back(self, self);
}

/* A matrix that begins as `init` says. */
static sl_status begin_matrix(sl_instance *self, successors *m, sl_error *err) {
    if (self->init == NULL) {
        successors_clear(m);
        return SL_OK;
    }
    return successors_take(m, self->init_ids.data, self->init_ids.shape[1], err);
}

/* Opens the file and looks at what does not need the matrix itself; ids are checked when they are taken over. */
static sl_status open_init(sl_instance *self, const char *path, sl_error *err) {
    char fingerprint[32];
    SL_TRY(self->artifacts->open(self->host, path, &self->init, err));
    sl_tensor *t = &self->init_ids;
    if (self->artifacts->tensor(self->host, self->init, SUCCESSORS_TENSOR, t) < 0)
        return sl_fail(err, SL_E_NOT_FOUND, "%s: no tensor " SUCCESSORS_TENSOR, path);
    if (t->dtype != SL_I32 || t->ndim != 2 || t->shape[0] != self->vocab || t->shape[1] < 1 ||
        t->shape[1] > SUCCESSORS_MAX)
        return sl_fail(err, SL_E_DATA, "%s: " SUCCESSORS_TENSOR ": expected I32 [%lld, 1 to %d]", path,
                       (long long)self->vocab, SUCCESSORS_MAX);
    snprintf(fingerprint, sizeof fingerprint, SUCCESSORS_FINGERPRINT_FORMAT,
             (unsigned long long)self->vocab_fingerprint);
    const char *made_for = self->artifacts->metadata(self->host, self->init, SUCCESSORS_FINGERPRINT);
    if (made_for != NULL && strcmp(made_for, fingerprint) != 0)
        return sl_fail(err, SL_E_DATA,
                       "%s was made for another vocabulary (" SUCCESSORS_FINGERPRINT " %s, the model's is %s)", path,
                       made_for, fingerprint);
    return SL_OK;
}

static sl_status configure(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_params *p = args->params;
    self->vocab = args->model->vocab;
    self->vocab_fingerprint = args->model->vocab_fingerprint;
    self->k = sl_param_int(p, "topk") < self->vocab ? sl_param_int(p, "topk") : self->vocab;
    self->scope = sl_param_index(p, "scope");
    self->from_prompt = sl_param_bool(p, "update_from_prompt");
    self->fill_empty = !sl_param_bool(p, "prune_empty");
    SL_TRY(template_parse(sl_param_text(p, "template"), (int32_t)self->k, (int32_t)sl_param_int(p, "cut"), &self->shape,
                          err));
    return sl_param_text(p, "init") != NULL ? open_init(self, sl_param_text(p, "init"), err) : SL_OK;
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const void *mem, *artifacts;
    SL_TRY(sl_host_require(args->host, "token_recycling", SL_MEM_ID, SL_FIELD_END(sl_mem, release), &mem, err));
    SL_TRY(sl_host_require(args->host, "token_recycling", SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, metadata),
                           &artifacts, err));
    sl_instance *self = take(args->host, mem, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    self->host = args->host;
    self->mem = mem;
    self->artifacts = artifacts;
    self->metrics = sl_host_service(args->host, SL_METRICS_ID, SL_FIELD_END(sl_metrics, add));
    sl_status s = configure(self, args, err);
    if (s < 0)
        destroy(self);
    else
        *out = self;
    return s;
}

static void close_matrix(sl_instance *self, successors *m) {
    give_back(self, m->id);
    m->id = NULL;
}

static void deactivate(sl_instance *self) {
    for (int64_t i = 0; self->matrices != NULL && i < (self->scope == SCOPE_GLOBAL ? 1 : self->max_seqs); i++)
        close_matrix(self, &self->matrices[i]);
    give_back(self, self->matrices);
    give_back(self, self->drafts);
    give_back(self, self->tree);
    give_back(self, self->trees);
    self->matrices = NULL;
    self->drafts = NULL;
    self->tree = NULL;
    self->trees = NULL;
}

static sl_status open_matrix(sl_instance *self, successors *m, sl_error *err) {
    close_matrix(self, m);
    *m = (successors){.vocab = self->vocab, .k = self->k};
    m->id = take(self->host, self->mem, successors_bytes(m));
    if (m->id == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for %lld tokens' successors", (long long)self->vocab);
    sl_status s = begin_matrix(self, m, err);
    if (s < 0)
        close_matrix(self, m);
    return s;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    int64_t n = self->max_seqs = limits->max_seqs, n_matrices = self->scope == SCOPE_GLOBAL ? 1 : n;
    self->matrices = take(self->host, self->mem, n_matrices * (int64_t)sizeof *self->matrices);
    self->drafts = take(self->host, self->mem, n * (int64_t)sizeof *self->drafts);
    self->tree = take(self->host, self->mem, n * (int64_t)sizeof *self->tree);
    self->trees = take(self->host, self->mem, n * (int64_t)sizeof *self->trees);
    int ok = self->matrices != NULL && self->drafts != NULL && self->tree != NULL && self->trees != NULL;
    sl_status s = ok ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory for %lld drafts", (long long)n);
    if (s >= 0 && self->scope == SCOPE_GLOBAL)
        s = open_matrix(self, &self->matrices[0], err);
    if (s < 0)
        deactivate(self);
    return s;
}

/* With scope = request a sequence's matrix lives as long as the sequence; a fork begins with what its parent knows. A
 * sequence for which there is no memory goes without drafts. */
static sl_status event(sl_instance *self, const sl_event *e, sl_error *err) {
    if (self->scope == SCOPE_GLOBAL || e->seq < 0 || e->seq >= self->max_seqs)
        return SL_OK;
    successors *m = matrix_of(self, e->seq);
    if (e->kind == SL_EVENT_FINISH)
        close_matrix(self, m);
    if (e->kind != SL_EVENT_BEGIN && e->kind != SL_EVENT_FORK)
        return SL_OK;
    SL_TRY(open_matrix(self, m, err));
    if (e->kind == SL_EVENT_FORK && e->other >= 0 && e->other < self->max_seqs && matrix_of(self, e->other)->id != NULL)
        memcpy(m->id, matrix_of(self, e->other)->id, (size_t)successors_bytes(m));
    return SL_OK;
}

/* ---- drafting
 * -------------------------------------------------------------------------------------------------------- */

static sl_status caps(sl_instance *self, sl_spec_caps *out) {
    out->max_nodes = self->shape.n;
    out->topk = (int32_t)self->k;
    out->kinds = 1u << SL_DRAFT_DET;
    out->lossless = 1;
    if (SL_HAS(out, sl_spec_caps, topk_prompt))
        out->topk_prompt = (uint32_t)self->from_prompt;
    return SL_OK;
}

static void count(sl_instance *self, const char *name, int64_t n) {
    if (self->metrics != NULL)
        self->metrics->add(self->host, name, (double)n);
}

static sl_status propose(sl_instance *self, sl_propose *io, sl_error *err) {
    if (io->n_seqs > self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "%d sequences, expected at most %lld", io->n_seqs, (long long)self->max_seqs);
    int64_t n_dead = 0;
    for (int32_t i = 0; i < io->n_seqs; i++) {
        const sl_spec_seq *s = io->seqs[i];
        const successors *m = matrix_of(self, s->seq);
        template_draft *d = &self->drafts[i];
        int32_t root = s->token[s->n - 1];
        self->trees[i] = NULL;
        if (m->id == NULL || root < 0 || root >= self->vocab)
            continue;
        template_fill(&self->shape, m, root, s->max_nodes, s->max_depth, self->fill_empty, d);
        n_dead += d->n_dead;
        self->tree[i] =
            (sl_tree){.struct_size = SL_SIZE(sl_tree), .token = d->token, .parent = d->parent, .n_nodes = d->n};
        self->trees[i] = d->n > 1 ? &self->tree[i] : NULL;
    }
    count(self, "nodes_without_token", n_dead);
    io->trees = self->trees;
    return SL_OK;
}

/* Rows of the step in their order: of a token that several rows hold, the last one stays. */
static sl_status observe(sl_instance *self, const sl_observe *seen) {
    const sl_batch *b = seen->commit->batch;
    int64_t n_new = 0;
    for (int32_t r = 0; seen->topk != NULL && r < b->n_rows; r++) {
        int32_t token = b->token[r], place = b->row_seq[r];
        if (token < 0 || token >= self->vocab || place < 0)
            continue;
        successors *m = matrix_of(self, b->seq[place]);
        if (m->id != NULL)
            n_new += successors_store(m, token, seen->topk + r * self->k);
    }
    count(self, "tokens_learned", n_new);
    return SL_OK;
}

/* ---- state
 * ------------------------------------------------------------------------------------------------------------- */

/* A matrix as the bytes of a safetensors file, which `init` takes when they are written to one. The shared matrix is
 * the instance's (seq = -1), a request's is its sequence's; of the other kind there is nothing. */
static sl_status state(sl_instance *self, sl_state_io *io, sl_error *err) {
    char header[SUCCESSORS_HEADER_MAX];
    if ((io->seq < 0) != (self->scope == SCOPE_GLOBAL)) {
        if (io->op == SL_STATE_LOAD && io->bytes != 0)
            return sl_fail(err, SL_E_DATA, "%lld bytes of state, expected none in this scope", (long long)io->bytes);
        io->bytes = 0;
        return SL_OK;
    }
    if (io->seq >= self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "there is no sequence %d", io->seq);
    successors *m = matrix_of(self, io->seq < 0 ? 0 : io->seq);
    if (m->id == NULL)
        return sl_fail(err, SL_E_STATE, "sequence %d has no state", io->seq);
    int64_t n_header = successors_header(m, self->vocab_fingerprint, header), bytes = n_header + successors_bytes(m);
    if (io->op == SL_STATE_LOAD) {
        if (io->bytes != bytes || memcmp(io->data, header, (size_t)n_header) != 0)
            return sl_fail(err, SL_E_DATA, "state of another vocabulary, another topk or another version");
        return successors_take(m, (const char *)io->data + n_header, m->k, err);
    }
    if (io->op == SL_STATE_SAVE) {
        if (io->bytes < bytes)
            return sl_fail(err, SL_E_RANGE, "the state has %lld bytes, room is for %lld", (long long)bytes,
                           (long long)io->bytes);
        memcpy(io->data, header, (size_t)n_header);
        memcpy((char *)io->data + n_header, m->id, (size_t)successors_bytes(m));
    }
    io->bytes = bytes;
    return SL_OK;
}

/* ---- the plugin
 * ---------------------------------------------------------------------------------------------------------- */

static const sl_speculation speculation = {
    .struct_size = SL_SIZE(sl_speculation), .caps = caps, .propose = propose, .observe = observe};

/* The whole template, as if every successor were known; a matrix' row is read for each node and written for each row. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    double depth = 0;
    (void)err;
    io->nodes = io->inner = 0;
    for (int32_t i = 0; i < self->shape.n; i++)
        if (self->shape.place[i] < (int32_t)io->max_nodes) {
            io->nodes++;
            io->inner += self->shape.depth[i] + 1;
            depth = sl_cost_max(depth, self->shape.depth[i]);
        }
    io->tokens = sl_cost_tokens(io->accept, depth);
    sl_cost_add(io->sink, SL_COST_AT_DRAFT, "token_recycling.matrix", 0, SL_COST_OTHER,
                8.0 * (double)self->k * io->nodes * io->n_seqs, 0);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_SPECULATION_ID) == 0 ? (const void *)&speculation : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const scopes[] = {"global", "request", NULL};
static const sl_param_def topk_def = {
    SL_SIZE(sl_param_def), "topk", "successors kept of a token", "8", NULL, 1, SUCCESSORS_MAX, SL_PARAM_INT, 0};
static const sl_param_def template_def = {SL_SIZE(sl_param_def),
                                          "template",
                                          "the tree: 2.2.2, or paths of ranks, as in 0 1 0,0 0,1 0,0,0",
                                          "2.2.2",
                                          NULL,
                                          1,
                                          0,
                                          SL_PARAM_STRING,
                                          SL_PARAM_EXPERT};
static const sl_param_def cut_def = {SL_SIZE(sl_param_def),
                                     "cut",
                                     "nodes of the template that are kept, root included: those of the highest ranks",
                                     "81",
                                     NULL,
                                     2,
                                     TEMPLATE_MAX_NODES,
                                     SL_PARAM_INT,
                                     0};
static const sl_param_def scope_def = {
    SL_SIZE(sl_param_def),
    "scope",
    "global: one matrix for all sequences; request: one for each, so that nothing leaks",
    "global",
    scopes,
    1,
    0,
    SL_PARAM_ENUM,
    0};
static const sl_param_def prompt_def = {SL_SIZE(sl_param_def),
                                        "update_from_prompt",
                                        "learn from all rows of prompts, not from the last alone; costs their logits",
                                        "no",
                                        NULL,
                                        1,
                                        0,
                                        SL_PARAM_BOOL,
                                        0};
static const sl_param_def init_def = {
    SL_SIZE(sl_param_def),
    "init",
    "safetensors file with recycling.M, I32 [vocabulary, 1 to 16]: the matrix to begin with",
    NULL,
    NULL,
    1,
    0,
    SL_PARAM_PATH,
    0};
static const sl_param_def prune_def = {
    SL_SIZE(sl_param_def),
    "prune_empty",
    "leave nodes out whose token is unknown; no: draft token 0 there, as the reference does",
    "yes",
    NULL,
    1,
    0,
    SL_PARAM_BOOL,
    SL_PARAM_EXPERT};
static const sl_param_def *const params[] = {&topk_def, &cut_def,      &scope_def, &prompt_def,
                                             &init_def, &template_def, &prune_def, NULL};
static const char *const roles[] = {"speculation", NULL};
static const char *const needs[] = {SL_MEM_ID, SL_ARTIFACT_ID, NULL};
static const char *const wants[] = {SL_METRICS_ID, "sl.topk.prompt/1", NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "token_recycling",
    .roles = roles,
    .version = "0.1.0",
    .summary = "drafts a static tree of what the target last ranked highest behind each token",
    .paper = "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling, arXiv "
             "2408.08696",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .wants = wants,
    .provides = nothing,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
    .event = event,
    .state = state,
};

SL_PACKAGE(&plugin)
