/* prompt_lookup - drafts by copying: what followed the last tokens when they occurred before.
 *
 * Prompt lookup decoding (apoorvumang/prompt-lookup-decoding): n-grams of three, two and one tokens are searched in
 * prompt and output; the tokens behind the match are the draft, a chain without any distribution (DET), so that the
 * output is token-identical to plain decoding, sampled or greedy. No match, no draft. */
#include "sluice/cost.h"
#include "sluice/speculation.h"

#include <stdlib.h>
#include <string.h>

#include "lookup.h"
#include "sl_cost.h"
#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_params.h"

typedef struct draft {
    int32_t token[SL_MAX_TREE_NODES];
    sl_tree tree;
} draft;

struct sl_instance {
    int64_t n_pred;
    int ngram_max, ngram_min, which, full_window;
    int32_t parent[SL_MAX_TREE_NODES]; /* of a chain */
    draft *drafts;                     /* [max_seqs] by place */
    const sl_tree **trees;
    int64_t max_seqs;
};

static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    sl_instance *self = calloc(1, sizeof *self);
    if (self == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "prompt_lookup: out of memory");
    self->n_pred = sl_param_int(args->params, "num_pred");
    self->ngram_max = (int)sl_param_int(args->params, "ngram_max");
    self->ngram_min = (int)sl_param_int(args->params, "ngram_min");
    self->which = (int)sl_param_int(args->params, "match");
    self->full_window = (int)sl_param_int(args->params, "full_window");
    for (int32_t i = 0; i < SL_MAX_TREE_NODES; i++)
        self->parent[i] = i - 1;
    if (self->ngram_min > self->ngram_max) {
        free(self);
        return sl_fail(err, SL_E_RANGE, "prompt_lookup: ngram_min must not be above ngram_max");
    }
    *out = self;
    return SL_OK;
}

static void destroy(sl_instance *self) { free(self); }

static void deactivate(sl_instance *self) {
    free(self->drafts);
    free(self->trees);
    self->drafts = NULL;
    self->trees = NULL;
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    self->max_seqs = limits->max_seqs;
    self->drafts = calloc((size_t)limits->max_seqs, sizeof *self->drafts);
    self->trees = calloc((size_t)limits->max_seqs, sizeof *self->trees);
    if (self->drafts != NULL && self->trees != NULL)
        return SL_OK;
    deactivate(self);
    return sl_fail(err, SL_E_NO_MEMORY, "prompt_lookup: out of memory");
}

static sl_status caps(sl_instance *self, sl_spec_caps *out) {
    out->max_nodes = (int32_t)self->n_pred + 1;
    out->kinds = 1u << SL_DRAFT_DET;
    out->lossless = 1;
    return SL_OK;
}

static sl_status propose(sl_instance *self, sl_propose *io, sl_error *err) {
    if (io->n_seqs > self->max_seqs)
        return sl_fail(err, SL_E_RANGE, "prompt_lookup: %d sequences", io->n_seqs);
    for (int32_t i = 0; i < io->n_seqs; i++) {
        const sl_spec_seq *s = io->seqs[i];
        draft *d = &self->drafts[i];
        int64_t begin = 0, n = lookup_find(s->token, s->n, self->ngram_max, self->ngram_min, self->n_pred, self->which,
                                           self->full_window, &begin);
        int64_t room = s->max_nodes - 1 < s->max_depth ? s->max_nodes - 1 : s->max_depth;
        n = n < room ? n : room;
        self->trees[i] = NULL;
        if (n <= 0)
            continue;
        d->token[0] = s->token[s->n - 1];
        for (int64_t j = 0; j < n; j++)
            d->token[j + 1] = s->token[begin + j];
        d->tree = (sl_tree){
            .struct_size = SL_SIZE(sl_tree), .token = d->token, .parent = self->parent, .n_nodes = (int32_t)n + 1};
        self->trees[i] = &d->tree;
    }
    io->trees = self->trees;
    return SL_OK;
}

static const sl_speculation speculation = {.struct_size = SL_SIZE(sl_speculation), .caps = caps, .propose = propose};

/* A draft in each step, of full length; searching reads the history once for each n-gram. */
static sl_status cost_plan(sl_instance *self, sl_cost_plan *io, sl_error *err) {
    (void)err;
    io->nodes = sl_cost_min((double)self->n_pred + 1, io->max_nodes);
    io->tokens = sl_cost_tokens(io->accept, io->nodes - 1);
    sl_cost_add(io->sink, SL_COST_AT_DRAFT, "prompt_lookup.search", 0, SL_COST_OTHER,
                4 * io->n_past * io->n_seqs * (self->ngram_max - self->ngram_min + 1), 0);
    return SL_OK;
}

static const sl_cost cost = {.struct_size = SL_SIZE(sl_cost), .plan = cost_plan};

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_SPECULATION_ID) == 0 ? (const void *)&speculation : strcmp(id, SL_COST_ID) == 0 ? &cost : NULL;
}

static const char *const matches[] = {"earliest", "latest", NULL};
static const sl_param_def num_pred = {
    SL_SIZE(sl_param_def), "num_pred", "tokens of a draft", "10", NULL, 1, SL_MAX_TREE_NODES - 1, SL_PARAM_INT, 0};
static const sl_param_def ngram_max = {
    SL_SIZE(sl_param_def), "ngram_max", "tokens of the longest n-gram searched", "3", NULL, 1, 16, SL_PARAM_INT, 0};
static const sl_param_def ngram_min = {
    SL_SIZE(sl_param_def), "ngram_min", "tokens of the shortest n-gram searched", "1", NULL, 1, 16, SL_PARAM_INT, 0};
static const sl_param_def match = {
    SL_SIZE(sl_param_def), "match", "which occurrence is copied from", "earliest", matches, 1, 0, SL_PARAM_ENUM, 0};
static const sl_param_def full_window = {SL_SIZE(sl_param_def),
                                         "full_window",
                                         "whether an occurrence counts only when num_pred tokens follow it",
                                         "yes",
                                         NULL,
                                         1,
                                         0,
                                         SL_PARAM_BOOL,
                                         0};
static const sl_param_def *const params[] = {&num_pred, &ngram_max, &ngram_min, &match, &full_window, NULL};
static const char *const roles[] = {"speculation", NULL};
static const char *const nothing[] = {NULL};

static const sl_plugin plugin = {
    .struct_size = SL_SIZE(sl_plugin),
    .id = "prompt_lookup",
    .roles = roles,
    .version = "0.1.0",
    .summary = "drafts what followed the last tokens when they occurred before",
    .paper = "Prompt Lookup Decoding (apoorvumang/prompt-lookup-decoding)",
    .vendor = "sluice",
    .license = "Apache-2.0",
    .params = params,
    .needs = nothing,
    .wants = nothing,
    .provides = nothing,
    .devices = SL_ON_CPU | SL_ON_CUDA,
    .create = create,
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

SL_PACKAGE(&plugin)
