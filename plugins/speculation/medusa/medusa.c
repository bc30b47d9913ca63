/* medusa - drafts a static tree from extra heads on the target's last hidden row.
 *
 * "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads", arXiv 2401.10774. Head k guesses
 * the token at offset k + 2 from the row after the final norm; the best guesses fill a tree whose shape never changes.
 * After a step the heads run on the last accepted row alone. Drafts come from no distribution (DET): with lossless
 * acceptance the output is token-identical to plain decoding for any heads. */
#include "sluice/cost.h"
#include "sluice/speculation.h"

#include <string.h>

#include "medusa_device.h"
#include "medusa_heads.h"
#include "medusa_tree.h"
#include "medusa_typical.h"
#include "sl_cost.h"
#include "sl_tensor.h"
#include "sl_host_util.h"
#include "sl_params.h"

enum { LOSSLESS = 0, TYPICAL = 1 };

/* What the heads said behind one sequence's last row. */
typedef struct seq_state {
    int64_t n; /* tokens of the sequence then; 0: nothing is known */
    int32_t last;
} seq_state;

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    medusa_heads heads;
    medusa_tree tree;
    medusa_typical typical;
    int acceptance;
    int32_t topk;
    int64_t max_seqs;
    seq_state *state;      /* [max_seqs] by sequence id */
    int32_t *candidates;   /* [max_seqs, heads, topk] likewise */
    medusa_draft *drafts;  /* [max_seqs] by place in the step */
    sl_tree *trees;        /* [max_seqs] likewise */
    const sl_tree **given; /* [max_seqs] */
    int on_device;
    medusa_device device;
    int32_t *awaited; /* [max_seqs] sequences whose candidates are being made on the device, by row */
    int32_t n_awaited;
};

static void *take(const sl_host *host, const sl_mem *mem, int64_t n, size_t size) {
    return mem->alloc(host, SL_DEVICE_CPU, n * (int64_t)size, 64, SL_MEM_PLUGIN);
}

static int32_t *candidates_of(const sl_instance *self, int32_t seq) {
    return self->candidates + (int64_t)seq * self->heads.n * self->topk;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    medusa_heads_close(&self->heads);
    self->mem->release(self->host, SL_DEVICE_CPU, self);
}

static sl_status take_services(sl_instance *self, const sl_host *host, sl_error *err) {
    const struct {
        const char *id;
        uint64_t size;
        const void **to;
    } services[] = {
        {SL_OPS_ID, SL_FIELD_END(sl_ops, convert), (const void **)&self->heads.ops},
        {SL_ARTIFACT_ID, SL_FIELD_END(sl_artifacts, metadata), (const void **)&self->heads.artifacts},
        {SL_HEAD_ID, SL_FIELD_END(sl_head, logits), (const void **)&self->heads.model_head},
        {SL_SAMPLE_ID, SL_FIELD_END(sl_sample, distribution), (const void **)&self->typical.sample},
        {SL_RNG_ID, SL_FIELD_END(sl_rng, uniform), (const void **)&self->typical.rng},
    };
    for (size_t i = 0; i < sizeof services / sizeof *services; i++)
        SL_TRY(sl_host_require(host, "medusa", services[i].id, services[i].size, services[i].to, err));
    return SL_OK;
}

static sl_status plant_tree(sl_instance *self, const char *path, const char *text, int32_t nodes, sl_error *err) {
    double accuracy[MEDUSA_MAX_HEADS * MEDUSA_MAX_TOPK];
    if (strcmp(text, "auto") != 0)
        return medusa_tree_parse(text, self->heads.n, self->topk, nodes, &self->tree, err);
    SL_TRY(medusa_heads_accuracy(&self->heads, path, self->topk, accuracy, err));
    medusa_tree_grow(accuracy, self->heads.n, self->topk, nodes, &self->tree);
    return SL_OK;
}

static sl_status configure(sl_instance *self, const sl_create_args *args, sl_error *err) {
    const sl_params *p = args->params;
    const char *path = sl_param_text(p, "heads");
    int64_t topk = sl_param_int(p, "topk"), vocab = args->model->vocab;
    self->on_device = args->scope != NULL && args->scope->device == SL_DEVICE_CUDA;
    self->heads.host = args->host;
    self->heads.mem = self->mem;
    self->heads.hidden = args->model->hidden;
    self->heads.vocab = vocab;
    self->topk = (int32_t)(topk < vocab ? topk : vocab);
    self->acceptance = sl_param_index(p, "acceptance");
    self->typical.host = args->host;
    self->typical.eps = sl_param_real(p, "posterior_threshold");
    self->typical.delta = sl_param_real(p, "posterior_alpha");
    self->typical.fast = sl_param_bool(p, "fast");
    SL_TRY(take_services(self, args->host, err));
    SL_TRY(medusa_heads_open(&self->heads, path, (int32_t)sl_param_int(p, "num_heads"),
                             (int32_t)sl_param_int(p, "num_layers"), err));
    return plant_tree(self, path, sl_param_text(p, "tree"), (int32_t)sl_param_int(p, "nodes"), err);
}

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const void *mem;
    SL_TRY(sl_host_require(args->host, "medusa", SL_MEM_ID, SL_FIELD_END(sl_mem, release), &mem, err));
    sl_instance *self = take(args->host, mem, 1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "out of memory");
    self->host = args->host;
    self->mem = mem;
    sl_status s = configure(self, args, err);
    if (s < 0)
        destroy(self);
    else
        *out = self;
    return s;
}

static void deactivate(sl_instance *self) {
    medusa_device_close(&self->device, &self->heads);
    self->n_awaited = 0;
    void *all[] = {self->state, self->candidates, self->drafts,     self->trees,
                   self->given, self->awaited,    self->typical.id, self->typical.weight};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] != NULL)
            self->mem->release(self->host, SL_DEVICE_CPU, all[i]);
    self->state = NULL;
    self->candidates = NULL;
    self->drafts = NULL;
    self->trees = NULL;
    self->given = NULL;
    self->awaited = NULL;
    self->typical.id = NULL;
    self->typical.weight = NULL;
    medusa_heads_deactivate(&self->heads);
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    int64_t n = self->max_seqs = limits->max_seqs, V = self->heads.vocab;
    const sl_exec *exec = sl_host_service(self->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, lane));
    self->heads.lane = exec != NULL ? exec->lane(self->host, SL_DEVICE_CPU, 0) : NULL;
    self->heads.compute = limits->compute;
    self->state = take(self->host, self->mem, n, sizeof *self->state);
    self->candidates = take(self->host, self->mem, n * self->heads.n * self->topk, sizeof *self->candidates);
    self->drafts = take(self->host, self->mem, n, sizeof *self->drafts);
    self->trees = take(self->host, self->mem, n, sizeof *self->trees);
    self->given = take(self->host, self->mem, n, sizeof *self->given);
    self->awaited = take(self->host, self->mem, n, sizeof *self->awaited);
    int ok = self->state && self->candidates && self->drafts && self->trees && self->given && self->awaited;
    if (ok && self->acceptance == TYPICAL) {
        self->typical.id = take(self->host, self->mem, V, sizeof *self->typical.id);
        self->typical.weight = take(self->host, self->mem, V, sizeof *self->typical.weight);
        ok = self->typical.id && self->typical.weight;
    }
    sl_status s = !ok               ? sl_fail(err, SL_E_NO_MEMORY, "no memory for %lld drafts", (long long)n)
                  : self->on_device ? medusa_device_open(&self->device, &self->heads, self->topk, n, err)
                                    : medusa_heads_activate(&self->heads, err);
    if (s < 0)
        deactivate(self);
    return s;
}

/* The ids that the device was asked for become candidates. */
static sl_status collect(sl_instance *self, sl_error *err) {
    if (self->n_awaited == 0)
        return SL_OK;
    SL_TRY(self->device.exec->sync(self->device.lane, err));
    int64_t n = self->device.ids_of_a_row;
    for (int32_t i = 0; i < self->n_awaited; i++)
        memcpy(candidates_of(self, self->awaited[i]), self->device.host_ids + i * n,
               sizeof *self->candidates * (size_t)n);
    self->n_awaited = 0;
    return SL_OK;
}

/* What is known about a sequence is looked at only where its length and last token still fit, so a cut needs no event;
 * an id that is given to another sequence and a fork do. */
static sl_status event(sl_instance *self, const sl_event *e, sl_error *err) {
    if (self->state == NULL || e->seq < 0 || e->seq >= self->max_seqs)
        return SL_OK;
    if (e->kind == SL_EVENT_BEGIN || e->kind == SL_EVENT_FINISH || e->kind == SL_EVENT_TRUNCATE)
        self->state[e->seq].n = 0;
    if (e->kind == SL_EVENT_FORK && e->other >= 0 && e->other < self->max_seqs) {
        SL_TRY(collect(self, err));
        self->state[e->seq] = self->state[e->other];
        memcpy(candidates_of(self, e->seq), candidates_of(self, e->other),
               sizeof *self->candidates * (size_t)(self->heads.n * self->topk));
    }
    return SL_OK;
}

/* ---- drafting -----------------------------------------------------------------------------------------------------
 */

static const sl_tap last_row = {SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL};
static const sl_tap *const taps[] = {&last_row};

static sl_status caps(sl_instance *self, sl_spec_caps *out) {
    out->taps = taps;
    out->n_taps = 1;
    out->max_nodes = self->tree.n;
    out->kinds = 1u << SL_DRAFT_DET;
    out->lossless = self->acceptance == LOSSLESS;
    return SL_OK;
}

static sl_status propose(sl_instance *self, sl_propose *io, sl_error *err) {
    if (io->n_seqs > self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "%d sequences, expected at most %lld", io->n_seqs, (long long)self->max_seqs);
    SL_TRY(collect(self, err));
    for (int32_t i = 0; i < io->n_seqs; i++) {
        const sl_spec_seq *s = io->seqs[i];
        const seq_state *known = &self->state[s->seq];
        medusa_draft *d = &self->drafts[i];
        int32_t root = s->token[s->n - 1];
        self->given[i] = NULL;
        if (known->n != s->n || known->last != root)
            continue;
        medusa_tree_fill(&self->tree, candidates_of(self, s->seq), self->topk, root, s->max_nodes, s->max_depth, d);
        self->trees[i] =
            (sl_tree){.struct_size = SL_SIZE(sl_tree), .token = d->token, .parent = d->parent, .n_nodes = d->n};
        self->given[i] = d->n > 1 ? &self->trees[i] : NULL;
    }
    io->trees = self->given;
    return SL_OK;
}

/* The sequence of a tap's rows, or NULL inside of a prompt, where nothing follows that could be drafted for. */
static const sl_spec_seq *sequence_of(const sl_observe *seen, const sl_tap_rows *rows) {
    int32_t place = 0;
    while (place < seen->n_seqs && seen->seqs[place]->seq != rows->seq)
        place++;
    return place < seen->n_seqs && seen->commit->next[place] >= 0 ? seen->seqs[place] : NULL;
}

/* The last of a tap's rows; size: of a value. */
static char *last_row_of(const sl_tap_rows *rows, int64_t size) {
    return (char *)rows->rows.data + (rows->rows.shape[0] - 1) * rows->rows.stride[0] * size;
}

/* Heads are queued for rows that lie one behind the other; nothing is waited for. */
static sl_status observe_on_device(sl_instance *self, const sl_observe *seen) {
    medusa_device *d = &self->device;
    const int64_t bytes = 2 * self->heads.hidden;
    char *first = NULL;
    int32_t n = 0;
    SL_TRY(collect(self, NULL));
    for (int32_t i = 0; i < seen->n_taps; i++) {
        const sl_spec_seq *s = sequence_of(seen, seen->taps[i]);
        if (s == NULL)
            continue;
        char *row = last_row_of(seen->taps[i], 2);
        if (n > 0 && (n == d->rows || row != first + n * bytes)) {
            SL_TRY(medusa_device_run(d, &self->heads, first, n, self->n_awaited - n));
            n = 0;
        }
        first = n == 0 ? row : first;
        self->state[s->seq] = (seq_state){s->n, s->token[s->n - 1]};
        self->awaited[self->n_awaited++] = s->seq;
        n++;
    }
    if (n == 0)
        return SL_OK;
    SL_TRY(medusa_device_run(d, &self->heads, first, n, self->n_awaited - n));
    return medusa_device_fetch(d, self->n_awaited);
}

/* Heads for the last accepted rows, as many sequences at once as the buffers hold. */
static sl_status observe(sl_instance *self, const sl_observe *seen) {
    int32_t *out[MEDUSA_ROWS], n = 0;
    if (self->on_device)
        return observe_on_device(self, seen);
    for (int32_t i = 0; i < seen->n_taps; i++) {
        const sl_spec_seq *s = sequence_of(seen, seen->taps[i]);
        if (s != NULL) {
            memcpy(self->heads.x + n * self->heads.hidden, last_row_of(seen->taps[i], sizeof(float)),
                   sizeof(float) * (size_t)self->heads.hidden);
            self->state[s->seq] = (seq_state){s->n, s->token[s->n - 1]};
            out[n++] = candidates_of(self, s->seq);
        }
        if (n == MEDUSA_ROWS || (n > 0 && i + 1 == seen->n_taps)) {
            SL_TRY(medusa_heads_run(&self->heads, n, self->topk, out));
            n = 0;
        }
    }
    return SL_OK;
}

static sl_status accept_typical(sl_instance *self, sl_accept *io) { return medusa_typical_accept(&self->typical, io); }

/* ---- the plugin ---------------------------------------------------------------------------------------------------
 */

static const sl_speculation lossless = {
    .struct_size = SL_SIZE(sl_speculation), .caps = caps, .propose = propose, .observe = observe};
static const sl_speculation typical = {.struct_size = SL_SIZE(sl_speculation),
                                       .caps = caps,
                                       .propose = propose,
                                       .accept = accept_typical,
                                       .observe = observe};

/* The heads' own matrices on each sequence's last row; heads without one share the model's, which is read once. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    const medusa_heads *h = &self->heads;
    double E = (double)h->hidden, V = (double)h->vocab, depth = 0, blocks = 0, bytes = 0, shared = 0;
    (void)err;
    io->nodes = io->inner = 0;
    for (int32_t i = 0; i < self->tree.n; i++)
        if (self->tree.place[i] < (int32_t)io->max_nodes) {
            io->nodes++;
            io->inner += self->tree.depth[i] + 1;
            depth = sl_cost_max(depth, self->tree.depth[i]);
        }
    for (int32_t k = 0; k < h->n; k++) {
        blocks += h->n_blocks;
        for (int32_t i = 0; i < h->n_blocks; i++)
            bytes += E * E * sl_dtype_bits(h->head[k].w1[i].dtype) / 8.0;
        if (h->head[k].w2.data == NULL)
            shared = 1;
        else
            bytes += E * V * sl_dtype_bits(h->head[k].w2.dtype) / 8.0;
    }
    bytes += shared * E * V * 2; /* as if the shared head had 16 bits */
    sl_cost_add(io->sink, SL_COST_AT_DRAFT, "medusa.heads", io->n_seqs * (2 * E * E * blocks + 2 * E * V * h->n),
                SL_COST_WEIGHTS, bytes, blocks + h->n);
    io->tokens = sl_cost_tokens(io->accept, depth);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    if (strcmp(id, SL_COST_ID) == 0)
        return &cost;
    if (strcmp(id, SL_SPECULATION_ID) != 0)
        return NULL;
    return self->acceptance == TYPICAL ? &typical : &lossless;
}

static const char *const acceptances[] = {"lossless", "typical", NULL};
static const sl_param_def heads_def = {SL_SIZE(sl_param_def),
                                       "heads",
                                       "safetensors file with the heads: 0.0.linear.weight, 0.0.linear.bias, and "
                                       "0.1.weight unless they share the model's output head",
                                       NULL,
                                       NULL,
                                       1,
                                       0,
                                       SL_PARAM_PATH,
                                       SL_PARAM_REQUIRED};
static const sl_param_def num_heads_def = {SL_SIZE(sl_param_def),
                                           "num_heads",
                                           "heads used, the deepest node of the tree; 0: all of the file",
                                           "0",
                                           NULL,
                                           0,
                                           MEDUSA_MAX_HEADS,
                                           SL_PARAM_INT,
                                           0};
static const sl_param_def num_layers_def = {
    SL_SIZE(sl_param_def), "num_layers", "blocks of each head", "1", NULL, 1, MEDUSA_MAX_BLOCKS, SL_PARAM_INT, 0};
static const sl_param_def topk_def = {
    SL_SIZE(sl_param_def), "topk", "candidates kept of each head", "10", NULL, 1, MEDUSA_MAX_TOPK, SL_PARAM_INT, 0};
static const sl_param_def tree_def = {SL_SIZE(sl_param_def),
                                      "tree",
                                      "mc_sim_7b_63, vicuna_7b_stage2 and the reference's others; auto: from the "
                                      "accuracies in the file of heads; or paths of ranks, as in 0 1 0,0 0,1",
                                      "mc_sim_7b_63",
                                      NULL,
                                      1,
                                      0,
                                      SL_PARAM_STRING,
                                      0};
static const sl_param_def nodes_def = {SL_SIZE(sl_param_def),
                                       "nodes",
                                       "nodes of the tree that are kept, root included, the most important first",
                                       "64",
                                       NULL,
                                       2,
                                       MEDUSA_MAX_NODES,
                                       SL_PARAM_INT,
                                       0};
static const sl_param_def acceptance_def = {
    SL_SIZE(sl_param_def),
    "acceptance",
    "lossless; typical: what the target finds likely enough stays, which changes the output",
    "lossless",
    acceptances,
    1,
    0,
    SL_PARAM_ENUM,
    0};
static const sl_param_def threshold_def = {SL_SIZE(sl_param_def),
                                           "posterior_threshold",
                                           "typical: largest probability that a token must exceed",
                                           "0.09",
                                           NULL,
                                           0,
                                           1,
                                           SL_PARAM_FLOAT,
                                           0};
static const sl_param_def alpha_def = {SL_SIZE(sl_param_def),
                                       "posterior_alpha",
                                       "typical: factor on exp(-entropy), below which a token must not fall",
                                       "0.3",
                                       NULL,
                                       0,
                                       1e9,
                                       SL_PARAM_FLOAT,
                                       0};
static const sl_param_def fast_def = {SL_SIZE(sl_param_def),
                                      "fast",
                                      "typical: the token behind an accepted path is the most likely one; no: drawn "
                                      "from those above the threshold",
                                      "yes",
                                      NULL,
                                      1,
                                      0,
                                      SL_PARAM_BOOL,
                                      0};
static const sl_param_def *const params[] = {&heads_def, &num_heads_def,  &num_layers_def, &topk_def,  &tree_def,
                                             &nodes_def, &acceptance_def, &threshold_def,  &alpha_def, &fast_def,
                                             NULL};
static const char *const roles[] = {"speculation", NULL};
static const char *const needs[] = {SL_MEM_ID, SL_OPS_ID,  SL_ARTIFACT_ID, SL_HEAD_ID,    SL_SAMPLE_ID,
                                    SL_RNG_ID, SL_EXEC_ID, "sl.taps/1",    "sl.accept/1", NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "medusa",
    .roles = roles,
    .version = "0.1.0",
    .summary = "drafts a static tree from extra heads on the target's last hidden row",
    .paper = "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads, arXiv 2401.10774",
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
