/* toy.h - a target and a drafter that are tables (order-1 Markov), drafts of any shape from them, and a source of
 * random choices that goes through all outcomes, so that the law of what a step emits can be computed and not only
 * sampled. */
#ifndef SLUICE_TEST_TOY_H
#define SLUICE_TEST_TOY_H

#include "sl_test.h"

#include "sluice/host.h"

#include "engine/draft_draw.h"
#include "engine/rng.h"
#include "engine/verify.h"
#include "sl_error.h"

enum { TOY_V = 8, TOY_GROUPS = 4, TOY_LEVELS = 3, TOY_HISTORY = 512 };

typedef struct toy {
    int32_t vocab;
    float target[TOY_V][TOY_V]; /* logits after each token */
    double q[TOY_V][TOY_V];     /* what the drafter draws from after each token, sum 1 */
    sl_draft_q q_of[TOY_V];
    sli_sampler *sampler;
    sli_verifier *verifier;
} toy;

static inline void toy_open(toy *t, int32_t vocab) {
    SL_ERROR(err);
    *t = (toy){.vocab = vocab};
    assert_int_equal(sli_sampler_create(vocab, &t->sampler, &err), SL_OK);
    assert_int_equal(sli_verifier_create(vocab, &t->verifier, &err), SL_OK);
}

static inline void toy_close(toy *t) {
    sli_sampler_destroy(t->sampler);
    sli_verifier_destroy(t->verifier);
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

/* Children of one kind: the k best of q for DET (or the given tokens), k draws otherwise. k = 0 ends the list. */
typedef struct toy_group {
    uint32_t kind;
    int32_t k;
    const int32_t *tokens;
} toy_group;

/* What a plan may do beyond its groups. Those from DROP_DUPLICATES on break the law. */
enum {
    TOY_ADAPTIVE = 1, /* draws again only while what it drew was unlikely: allowed */
    TOY_RANDOM = 2,   /* DET tokens are random ones */
    TOY_EMPTY = 4,    /* proposes nothing */
    TOY_SAME_KEY = 8, /* DET: draws from q with the very numbers that the target will be drawn with */
    TOY_DROP_DUPLICATES = 16,
    TOY_DECLARE_REP = 32,     /* calls its draws without replacement REP */
    TOY_TOP_AS_REP = 64,      /* calls the k best REP */
    TOY_DROP_LIGHT = 128,     /* prunes drawn tokens with q <= 0.2 */
    TOY_SORT = 256,           /* sorts its draws by q, best first */
    TOY_KEY_BY_POSITION = 512 /* keys its draws by the token's position instead of the step's */
};

typedef struct toy_plan {
    const char *name;
    toy_group level[TOY_LEVELS][TOY_GROUPS];
    uint32_t quirks;
    const int32_t *oracle; /* DET: the text that plain sampling gives, by position; NULL */
} toy_plan;

typedef struct toy_draft {
    sl_tree tree;
    int32_t token[SL_MAX_TREE_NODES], parent[SL_MAX_TREE_NODES], depth[SL_MAX_TREE_NODES];
    uint32_t kind[SL_MAX_TREE_NODES];
    const sl_draft_q *q[SL_MAX_TREE_NODES];
} toy_draft;

static inline void toy_best(const toy *t, const double *q, int32_t k, int32_t *token) {
    int taken[TOY_V] = {0};
    for (int32_t i = 0; i < k; i++) {
        int32_t best = -1;
        for (int32_t v = 0; v < t->vocab; v++)
            if (!taken[v] && (best < 0 || q[v] > q[best]))
                best = v;
        taken[best] = 1;
        token[i] = best;
    }
}

/* The children of one group behind a token; returns how many. position: theirs. */
static inline int32_t toy_children(toy *t, const toy_plan *plan, const toy_group *g, int32_t last, uint32_t position,
                                   sli_draft_draw *draws, uint64_t *seed, int32_t *token) {
    SL_ERROR(err);
    double *q = t->q[last];
    int32_t n = g->k < t->vocab || g->kind == SL_DRAFT_REP ? g->k : t->vocab;
    if (plan->oracle != NULL) {
        token[0] = plan->oracle[position];
        n = 1;
    } else if (plan->quirks & TOY_SAME_KEY) {
        const sli_dist d = {NULL, q, t->vocab, sli_dist_sum(NULL, q, t->vocab)};
        token[0] = draws->random->draw(draws->random->ctx, SL_RNG_TARGET, position, 0, &d);
        n = 1;
    } else if (g->tokens != NULL) {
        memcpy(token, g->tokens, (size_t)n * sizeof *token);
    } else if (plan->quirks & TOY_RANDOM) {
        for (int32_t i = 0; i < n; i++)
            token[i] = (int32_t)(test_uniform(seed) * t->vocab);
    } else if (g->kind == SL_DRAFT_DET || (plan->quirks & TOY_TOP_AS_REP)) {
        toy_best(t, q, n, token);
    } else if (plan->quirks & TOY_ADAPTIVE) {
        n = 0;
        do
            assert_int_equal(sli_draft_draw_one(draws, &t->q_of[last], &token[n++], &err), SL_OK);
        while (n < g->k && q[token[n - 1]] < 0.3);
    } else {
        assert_int_equal(sli_draft_draw_children(draws, g->kind, NULL, q, t->vocab, g->k, token, &n, &err), SL_OK);
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        int drop = (plan->quirks & TOY_DROP_LIGHT) && q[token[i]] <= 0.2;
        for (int32_t j = 0; j < kept && (plan->quirks & TOY_DROP_DUPLICATES); j++)
            drop |= token[j] == token[i];
        if (!drop)
            token[kept++] = token[i];
    }
    for (int32_t i = 1; i < kept && (plan->quirks & TOY_SORT); i++)
        for (int32_t j = i; j > 0 && q[token[j]] > q[token[j - 1]]; j--) {
            int32_t moved = token[j];
            token[j] = token[j - 1];
            token[j - 1] = moved;
        }
    return kept;
}

static inline void toy_propose(toy *t, const toy_plan *plan, int32_t root, sli_draft_draw *draws, uint64_t *seed,
                               toy_draft *d) {
    uint32_t first = draws->position;
    int32_t n = 1;
    d->token[0] = root;
    d->parent[0] = -1;
    d->depth[0] = 0;
    d->kind[0] = SL_DRAFT_DET;
    for (int32_t i = 0; i < n && !(plan->quirks & TOY_EMPTY); i++) {
        d->q[i] = &t->q_of[d->token[i]];
        if (d->depth[i] == TOY_LEVELS)
            continue;
        for (const toy_group *g = plan->level[d->depth[i]]; g < plan->level[d->depth[i]] + TOY_GROUPS && g->k > 0;
             g++) {
            int32_t token[SL_MAX_TREE_NODES];
            if (plan->quirks & TOY_KEY_BY_POSITION) {
                draws->position = first + (uint32_t)d->depth[i];
                draws->count = 0;
            }
            int32_t k = toy_children(t, plan, g, d->token[i], first + (uint32_t)d->depth[i], draws, seed, token);
            for (int32_t j = 0; j < k && n < SL_MAX_TREE_NODES; j++, n++) {
                d->token[n] = token[j];
                d->parent[n] = i;
                d->depth[n] = d->depth[i] + 1;
                d->kind[n] = (plan->quirks & TOY_DECLARE_REP) ? SL_DRAFT_REP : g->kind;
            }
        }
    }
    d->q[0] = &t->q_of[root];
    d->tree = (sl_tree){.struct_size = SL_SIZE(sl_tree),
                        .token = d->token,
                        .parent = d->parent,
                        .kind = d->kind,
                        .q = d->q,
                        .n_nodes = n};
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

typedef sl_status toy_verify(sli_verifier *, sli_sampler *, const sli_verify_job *, int32_t *, int32_t *, int32_t *,
                             sl_error *);

typedef struct toy_run {
    toy *toy;
    const toy_plan *plan;
    const sli_sampling *how;
    const sli_random *random;
    toy_verify *verify;
    int32_t form;
    uint64_t seed; /* of TOY_RANDOM */
} toy_run;

typedef struct toy_rows {
    const toy *toy;
    const sli_tree *tree;
    uint8_t asked[SL_MAX_TREE_NODES];
} toy_rows;

static inline const float *toy_logits(void *ctx, int32_t row) {
    toy_rows *r = ctx;
    r->asked[row]++;
    return r->toy->target[r->tree->token[row]];
}

/* One step of speculative decoding behind n tokens; appends what it emits and returns how many. */
static inline int32_t toy_step(toy_run *run, int32_t *history, int64_t n) {
    SL_ERROR(err);
    static toy_draft draft;
    static sli_tree tree;
    sli_draft_draw draws = {run->random, (uint32_t)n, 0};
    toy_propose(run->toy, run->plan, history[n - 1], &draws, &run->seed, &draft);
    if (sli_tree_build(&draft.tree, history[n - 1], run->toy->vocab, &tree, &err) < 0)
        fail_msg("%s: %s", run->plan->name, err.text);
    toy_rows rows = {run->toy, &tree, {0}};
    const sli_verify_job job = {&tree, run->how, run->random, history, n, toy_logits, &rows, run->form};
    int32_t path[SL_MAX_TREE_NODES], n_path, next;
    if (run->verify(run->toy->verifier, run->toy->sampler, &job, path, &n_path, &next, &err) < 0)
        fail_msg("%s: %s", run->plan->name, err.text);
    assert_int_equal(path[0], 0);
    for (int32_t i = 1; i < n_path; i++) {
        assert_int_equal(tree.parent[path[i]], path[i - 1]);
        history[n + i - 1] = tree.token[path[i]];
    }
    int32_t asked = 0;
    for (int32_t i = 0; i < tree.rows.n_nodes; i++)
        asked += rows.asked[i];
    assert_int_equal(asked, n_path); /* logits are looked at on the path only */
    history[n + n_path - 1] = next;
    return n_path;
}

/* The next token of plain sampling. */
static inline int32_t toy_plain(toy_run *run, const int32_t *history, int64_t n) {
    SL_ERROR(err);
    int32_t token;
    sli_row row = {run->toy->target[history[n - 1]], 0, {history, n, NULL, 0}};
    assert_int_equal(sli_sampler_next(run->toy->sampler, run->how, &row, run->random, &token, &err), SL_OK);
    return token;
}

/* p over the vocabulary behind n tokens. */
static inline void toy_p(const toy *t, const sli_sampling *how, const int32_t *history, int64_t n, double *p) {
    SL_ERROR(err);
    sli_dist d;
    sli_row row = {t->target[history[n - 1]], 0, {history, n, NULL, 0}};
    assert_int_equal(sli_sampler_dist(t->sampler, how, &row, &d, &err), SL_OK);
    for (int32_t v = 0; v < t->vocab; v++)
        p[v] = 0;
    for (int64_t i = 0; i < d.n; i++)
        p[d.id[i]] = d.weight[i] / d.sum;
}

/* ---- all outcomes ------------------------------------------------------------------------------------------------ */

enum { TAPE_CHOICES = 256 };

/* A path through the tree of random choices. Run, then tape_next, until that says 0. */
typedef struct tape {
    struct {
        int option, n_options;
    } choice[TAPE_CHOICES];
    int n, at;
    double weight; /* probability of this run */
    uint32_t key[TAPE_CHOICES][3];
    uint32_t first; /* position of the step's first token: draft draws must be keyed by it */
    int bad_keys;   /* numbers used twice, or draft draws with a key that a later step may use again */
} tape;

static inline void tape_begin(tape *t, uint32_t first) {
    t->at = 0;
    t->weight = 1;
    t->first = first;
}

static inline void tape_key(tape *t, uint32_t purpose, uint32_t position, uint32_t child) {
    for (int i = 0; i < t->at; i++)
        t->bad_keys += t->key[i][0] == purpose && t->key[i][1] == position && t->key[i][2] == child;
    t->bad_keys += purpose == SL_RNG_DRAFT && position != t->first;
    t->key[t->at][0] = purpose;
    t->key[t->at][1] = position;
    t->key[t->at][2] = child;
}

/* Which of n options (only those with probability > 0 are given) this run takes. */
static inline int tape_choose(tape *t, const double *probability, int n) {
    if (t->at == t->n) {
        t->choice[t->n].option = 0;
        t->choice[t->n++].n_options = n;
    }
    int option = t->choice[t->at++].option;
    t->weight *= probability[option];
    return option;
}

static inline int tape_accept(void *ctx, uint32_t position, uint32_t child, double p, double q) {
    tape *t = ctx;
    tape_key(t, SL_RNG_ACCEPT, position, child);
    double a = p < q ? p / q : 1, both[2] = {a, 1 - a}, one = 1;
    if (a == 0 || a == 1)
        return tape_choose(t, &one, 1) == 0 && a == 1;
    return tape_choose(t, both, 2) == 0;
}

static inline int32_t tape_draw(void *ctx, uint32_t purpose, uint32_t position, uint32_t child, const sli_dist *d) {
    tape *t = ctx;
    double probability[TOY_V];
    int32_t token[TOY_V];
    int n = 0;
    tape_key(t, purpose, position, child);
    for (int64_t i = 0; i < d->n; i++)
        if (d->weight[i] > 0) {
            token[n] = d->id != NULL ? d->id[i] : (int32_t)i;
            probability[n++] = d->weight[i] / d->sum;
        }
    return token[tape_choose(t, probability, n)];
}

static inline int tape_next(tape *t) {
    while (t->n > 0 && ++t->choice[t->n - 1].option == t->choice[t->n - 1].n_options)
        t->n--;
    return t->n > 0;
}

/* The law of one step behind n tokens: law[a][b] for the first two tokens that it emits, law[a][TOY_V] where it emits
 * only one. *accepted: probability that it emits more than one. */
static inline void toy_law(toy_run *run, int32_t *history, int64_t n, double law[TOY_V][TOY_V + 1], double *accepted,
                           int *bad_keys) {
    static tape t;
    t = (tape){.n = 0};
    const sli_random all = {&t, tape_accept, tape_draw};
    double total = 0;
    run->random = &all;
    memset(law, 0, TOY_V * sizeof *law);
    *accepted = 0;
    do {
        tape_begin(&t, (uint32_t)n);
        int32_t m = toy_step(run, history, n);
        law[history[n]][m > 1 ? history[n + 1] : TOY_V] += t.weight;
        *accepted += m > 1 ? t.weight : 0;
        total += t.weight;
    } while (tape_next(&t));
    *bad_keys += t.bad_keys;
    assert_true(fabs(total - 1) < 1e-12);
}

/* Distance in total variation between the law of the first n_tokens (1 or 2) tokens over as many steps as they need,
 * and that of plain sampling. */
static inline double toy_error(toy_run *run, const int32_t *context, int64_t n, int n_tokens, double *accepted,
                               int *bad_keys) {
    int32_t history[TOY_HISTORY], vocab = run->toy->vocab;
    double law[TOY_V][TOY_V + 1], second[TOY_V][TOY_V + 1], p[TOY_V], p2[TOY_V], tv = 0, unused;
    *bad_keys = 0;
    memcpy(history, context, (size_t)n * sizeof *history);
    toy_law(run, history, n, law, accepted, bad_keys);
    toy_p(run->toy, run->how, context, n, p);
    for (int32_t a = 0; a < vocab; a++) {
        double first = 0;
        for (int32_t b = 0; b <= TOY_V; b++)
            first += law[a][b];
        if (n_tokens == 1) {
            tv += fabs(first - p[a]) / 2;
            continue;
        }
        memcpy(history, context, (size_t)n * sizeof *history);
        history[n] = a;
        toy_p(run->toy, run->how, history, n + 1, p2);
        memset(second, 0, sizeof second);
        if (law[a][TOY_V] > 0)
            toy_law(run, history, n + 1, second, &unused, bad_keys);
        for (int32_t b = 0; b < vocab; b++) {
            double got = law[a][b];
            for (int32_t c = 0; c <= TOY_V; c++)
                got += law[a][TOY_V] * second[b][c];
            tv += fabs(got - p[a] * p2[b]) / 2;
        }
    }
    return tv;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* Every row the same: p and q of the documented numbers (V = 4). */
static inline void toy_fill_known(toy *t) {
    static const double p[4] = {.1, .2, .3, .4}, q[4] = {.5, .2, .2, .1};
    for (int32_t c = 0; c < 4; c++) {
        for (int32_t v = 0; v < 4; v++) {
            t->target[c][v] = (float)log(p[v]);
            t->q[c][v] = q[v];
        }
        t->q_of[c] = (sl_draft_q){SL_SIZE(sl_draft_q), NULL, t->q[c], 4};
    }
}

/* Random tables. The drafter knows the target a little; how: NULL for a raw softmax, or what q is processed with. */
static inline void toy_fill_random(toy *t, uint64_t seed, double spread, const sli_sampling *how) {
    for (int32_t c = 0; c < t->vocab; c++)
        for (int32_t v = 0; v < t->vocab; v++)
            t->target[c][v] = (float)spread * test_normal(&seed);
    for (int32_t c = 0; c < t->vocab; c++) {
        SL_ERROR(err);
        float z[TOY_V];
        sli_dist d;
        const sli_sampling raw = {.temperature = 1};
        for (int32_t v = 0; v < t->vocab; v++)
            z[v] = 0.6f * t->target[c][v] + 0.7f * (float)spread * test_normal(&seed);
        sli_row row = {z, 0, {NULL, 0, NULL, 0}};
        assert_int_equal(sli_sampler_dist(t->sampler, how != NULL ? how : &raw, &row, &d, &err), SL_OK);
        for (int32_t v = 0; v < t->vocab; v++)
            t->q[c][v] = 0;
        for (int64_t i = 0; i < d.n; i++)
            t->q[c][d.id[i]] = d.weight[i] / d.sum;
        t->q_of[c] = (sl_draft_q){SL_SIZE(sl_draft_q), NULL, t->q[c], t->vocab};
    }
}

#define DET(n)                                                                                                         \
    { SL_DRAFT_DET, n, NULL }
#define DET_LIST(n, list)                                                                                              \
    { SL_DRAFT_DET, n, list }
#define REP(n)                                                                                                         \
    { SL_DRAFT_REP, n, NULL }
#define NOREP(n)                                                                                                       \
    { SL_DRAFT_NOREP, n, NULL }

#endif
