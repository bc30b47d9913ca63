/* Drafts of one sequence without a model: shape, kinds and limits of the tree; and, computed over all outcomes of a toy
 * target and a toy skipped model, that what a step emits has exactly the law of plain sampling. */
#include "../../../tests/engine/toy.h"

/* The code under test is that of the package, compiled into this program. */
#include "swift_tree.c"

/* ---- a host that samples ----------------------------------------------------------------------------------------- */

static struct stage {
    toy toy;
    const sli_sampling *how;
    const int32_t *history;
    int64_t n;
    sli_draft_draw draws;
} stage;

static sl_status distribution(const sl_host *host, int32_t seq, const float *logits, const int32_t *path,
                              int32_t n_path, int32_t *id, double *weight, int64_t *n, sl_error *err) {
    (void)host, (void)seq;
    sli_dist d;
    sli_row row = {logits, 0, {stage.history, stage.n, path, n_path}};
    sl_status s = sli_sampler_dist(stage.toy.sampler, stage.how, &row, &d, err);
    for (int64_t i = 0; s >= 0 && i < d.n; i++) {
        id[i] = d.id != NULL ? d.id[i] : (int32_t)i;
        weight[i] = d.weight[i];
    }
    *n = d.n;
    return s;
}

static sl_status draw(const sl_host *host, int32_t seq, const sl_draft_q *q, int32_t *token) {
    (void)host, (void)seq;
    return sli_draft_draw_one(&stage.draws, q, token, NULL);
}

static const sl_sample sample = {SL_SIZE(sl_sample), distribution, draw};

/* A drafter whose logits behind each token are a table [vocab, vocab], run to the end of its draft. */
static const sl_tree *drafted(const swift_tree_rules *rules, swift_tree *t, const sl_spec_seq *s, const float *logits) {
    SL_ERROR(err);
    swift_tree_begin(rules, t, s);
    while (t->going) {
        int32_t last = t->depth == 0 ? s->token[s->n - 1] : t->path[t->depth - 1];
        if (swift_tree_grow(rules, t, s, logits + (int64_t)last * rules->vocab, &err) < 0)
            fail_msg("%s", err_text_);
    }
    return swift_tree_finish(t);
}

static swift_tree *new_tree(const swift_tree_rules *rules) {
    swift_tree *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->id = calloc((size_t)(rules->max_draft * rules->vocab), sizeof *t->id);
    t->weight = calloc((size_t)(rules->max_draft * rules->vocab), sizeof *t->weight);
    assert_true(t->id != NULL && t->weight != NULL);
    return t;
}

static void free_tree(swift_tree *t) {
    free(t->id);
    free(t->weight);
    free(t);
}

/* ---- shape ------------------------------------------------------------------------------------------------------- */

enum { V = 40 };

/* Behind token c: token c + 1 has the probability p(c), the others share the rest, the lower the id the more. */
static void confidences(float *logits, const double *p) {
    for (int32_t c = 0; c < V; c++) {
        double sum = 0;
        for (int32_t v = 0; v < V; v++)
            sum += v == (c + 1) % V ? 0 : 1.0 + 0.001 * (V - v);
        for (int32_t v = 0; v < V; v++)
            logits[c * V + v] = (float)log(v == (c + 1) % V ? p[c] : (1 - p[c]) * (1.0 + 0.001 * (V - v)) / sum);
    }
}

static void widths_of_the_paper(void **state) {
    (void)state;
    static const double c[] = {0.96, 0.95, 0.81, 0.8, 0.51, 0.5, 0.01};
    static const int32_t greedy[] = {3, 5, 5, 8, 8, 10, 10}, sampled[] = {1, 3, 3, 5, 5, 10, 10};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        assert_int_equal(swift_width(c[i], 0), greedy[i]);
        assert_int_equal(swift_width(c[i], 1), sampled[i]);
    }
    swift_tree_rules rules = {.stop_threshold = 0.81, .max_draft = 4, .topk = 10};
    assert_int_equal(swift_max_nodes(&rules), 1 + 3 * 5 + 10);
    rules.topk = 2;
    assert_int_equal(swift_max_nodes(&rules), 1 + 4 * 2);
    rules.max_draft = 127, rules.topk = 10;
    assert_int_equal(swift_max_nodes(&rules), SL_MAX_TREE_NODES);
}

/* A greedy draft: the backbone follows the best tokens, its siblings are the next best, it ends behind the first token
 * of too little confidence, which is still proposed. */
static void greedy_tree(void **state) {
    (void)state;
    static double p[V];
    static float logits[V * V];
    for (int32_t c = 0; c < V; c++)
        p[c] = 0.97;
    p[4] = 0.9, p[5] = 0.6, p[6] = 0.97;
    confidences(logits, p);
    const sli_sampling how = {.temperature = 0};
    const int32_t text[] = {9, 3};
    toy_open(&stage.toy, V);
    stage.how = &how, stage.history = text, stage.n = 2;
    swift_tree_rules rules = {.sample = &sample, .stop_threshold = 0.8, .vocab = V, .max_draft = 25, .topk = 10};
    sl_spec_seq s = {.struct_size = SL_SIZE(sl_spec_seq), .token = text, .n = 2, .max_nodes = 128, .max_depth = 100};
    swift_tree *t = new_tree(&rules);
    const sl_tree *tree = drafted(&rules, t, &s, logits);
    /* behind 3: 4 with 0.97, 3 children; behind 4: 5 with 0.9, 5 children; behind 5: 6 with 0.6: 8 children, the end */
    static const int32_t expected[] = {3, 4, 0, 1, 5, 0, 1, 2, 3, 6, 0, 1, 2, 3, 4, 5, 7};
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4};
    assert_int_equal(tree->n_nodes, 17);
    assert_memory_equal(tree->token, expected, sizeof expected);
    assert_memory_equal(tree->parent, parent, sizeof parent);
    for (int32_t i = 0; i < tree->n_nodes; i++)
        assert_true(tree->kind[i] == SL_DRAFT_DET && tree->q[i] == NULL);

    rules.stop_threshold = 0; /* to the end of every limit */
    rules.max_draft = 7;
    assert_int_equal(drafted(&rules, t, &s, logits)->n_nodes, 1 + 3 + 5 + 8 + 4 * 3);
    s.max_depth = 2;
    assert_int_equal(drafted(&rules, t, &s, logits)->n_nodes, 1 + 3 + 5);
    s.max_depth = 100, s.max_nodes = 6;
    assert_int_equal(drafted(&rules, t, &s, logits)->n_nodes, 6);
    rules.topk = 1;
    s.max_nodes = 128;
    assert_int_equal(drafted(&rules, t, &s, logits)->n_nodes, 8); /* a chain */
    s.max_nodes = 1;
    assert_null(drafted(&rules, t, &s, logits));
    s.max_nodes = 128, s.max_depth = 0;
    assert_null(drafted(&rules, t, &s, logits));

    /* The request's own rules decide what goes on: a penalty takes the tokens of the text out. */
    const int32_t bias_id[] = {4};
    const float bias[] = {-100};
    const sli_sampling biased = {.temperature = 0, .n_bias = 1, .bias_id = bias_id, .bias = bias};
    stage.how = &biased;
    s.max_depth = 1;
    rules.topk = 3;
    tree = drafted(&rules, t, &s, logits);
    static const int32_t without[] = {3, 0, 4, 1};
    assert_int_equal(tree->n_nodes, 4);
    assert_memory_equal(tree->token, without, sizeof without);
    free_tree(t);
    toy_close(&stage.toy);
}

/* Sampling: children are different tokens, declared NOREP with the whole q, or DET. */
static void sampled_tree(void **state) {
    (void)state;
    static double p[V];
    static float logits[V * V];
    for (int32_t c = 0; c < V; c++)
        p[c] = c % 2 ? 0.99 : 0.4;
    confidences(logits, p);
    const int32_t text[] = {9, 3};
    toy_open(&stage.toy, V);
    for (int32_t top_k = 0; top_k <= 4; top_k += 4)
        for (int32_t verify = SWIFT_NOREP; verify <= SWIFT_DET; verify++)
            for (uint64_t seed = 1; seed <= 50; seed++) {
                const sli_sampling how = {.temperature = 1, .top_k = top_k};
                const sli_seed from = {seed, 0, 0};
                const sli_random random = sli_random_seeded(&from);
                stage.how = &how, stage.history = text, stage.n = 2;
                stage.draws = (sli_draft_draw){&random, 2, 0};
                swift_tree_rules rules = {
                    .sample = &sample, .stop_threshold = 0.8, .vocab = V, .max_draft = 5, .topk = 10, .verify = verify};
                sl_spec_seq s = {.struct_size = SL_SIZE(sl_spec_seq),
                                 .token = text,
                                 .n = 2,
                                 .temperature = 1,
                                 .max_nodes = 128,
                                 .max_depth = 100};
                swift_tree *t = new_tree(&rules);
                const sl_tree *tree = drafted(&rules, t, &s, logits);
                for (int32_t i = 1; i < tree->n_nodes; i++) {
                    assert_int_equal(tree->kind[i], verify == SWIFT_DET ? SL_DRAFT_DET : SL_DRAFT_NOREP);
                    const sl_draft_q *q = tree->q[tree->parent[i]];
                    assert_int_equal(q != NULL, verify == SWIFT_NOREP);
                    for (int32_t j = 1; j < i; j++)
                        assert_true(tree->parent[j] != tree->parent[i] || tree->token[j] != tree->token[i]);
                    for (int64_t k = 0; q != NULL && k < q->n; k++)
                        assert_true(q->weight[k] > 0); /* what was drawn was put back */
                    assert_true(q == NULL || q->n == (top_k ? top_k : V));
                }
                /* behind 3 (0.99 for 4) comes one child, or more only if another token was drawn */
                int32_t children = 0;
                for (int32_t i = 1; i < tree->n_nodes; i++)
                    children += tree->parent[i] == 0;
                assert_int_equal(children, tree->token[1] == 4 ? 1 : top_k ? 4 : 10);
                free_tree(t);
            }
    toy_close(&stage.toy);
}

/* ---- the law ----------------------------------------------------------------------------------------------------- */

typedef struct law_run {
    const swift_tree_rules *rules;
    swift_tree *tree;
    const float *logits; /* of the skipped model, [vocab, vocab] */
    int broken;          /* declares its draws REP */
} law_run;

/* One step behind n tokens, as toy_step. */
static int32_t step(const law_run *run, const sli_random *random, int32_t *history, int64_t n) {
    SL_ERROR(err);
    static sli_tree ready;
    sl_spec_seq s = {.struct_size = SL_SIZE(sl_spec_seq),
                     .token = history,
                     .n = n,
                     .temperature = stage.how->temperature,
                     .max_nodes = 128,
                     .max_depth = 100};
    stage.history = history, stage.n = n;
    stage.draws = (sli_draft_draw){random, (uint32_t)n, 0};
    sl_tree tree = *drafted(run->rules, run->tree, &s, run->logits);
    for (int32_t i = 1; run->broken && i < tree.n_nodes; i++)
        run->tree->kind[i] = SL_DRAFT_REP;
    if (sli_tree_build(&tree, history[n - 1], run->rules->vocab, &ready, &err) < 0)
        fail_msg("%s", err_text_);
    toy_rows rows = {&stage.toy, &ready, {0}};
    const sli_verify_job job = {&ready, stage.how, random, history, n, toy_logits, &rows, SLI_FORM_A};
    int32_t path[SL_MAX_TREE_NODES], n_path, next;
    if (sli_verify(stage.toy.verifier, stage.toy.sampler, &job, path, &n_path, &next, &err) < 0)
        fail_msg("%s", err_text_);
    for (int32_t i = 1; i < n_path; i++)
        history[n + i - 1] = ready.token[path[i]];
    history[n + n_path - 1] = next;
    return n_path;
}

/* law[a][b] of the first two tokens of a step, law[a][TOY_V] where it emits one. Returns the mean of emitted tokens. */
static double law_of(const law_run *run, int32_t *history, int64_t n, double law[TOY_V][TOY_V + 1], int *bad_keys) {
    static tape t;
    t = (tape){.n = 0};
    const sli_random all = {&t, tape_accept, tape_draw};
    double total = 0, emitted = 0;
    memset(law, 0, TOY_V * sizeof *law);
    do {
        tape_begin(&t, (uint32_t)n);
        int32_t m = step(run, &all, history, n);
        law[history[n]][m > 1 ? history[n + 1] : TOY_V] += t.weight;
        total += t.weight;
        emitted += t.weight * m;
    } while (tape_next(&t));
    *bad_keys += t.bad_keys;
    assert_true(fabs(total - 1) < 1e-12);
    return emitted;
}

/* Distance of the joint law of two tokens, over as many steps as they take, from that of plain sampling. */
static double joint_error(const law_run *run, const int32_t *context, int64_t n, double *emitted, int *bad_keys) {
    int32_t history[TOY_HISTORY], vocab = run->rules->vocab;
    double law[TOY_V][TOY_V + 1], second[TOY_V][TOY_V + 1], p[TOY_V], p2[TOY_V], tv = 0;
    memcpy(history, context, (size_t)n * sizeof *history);
    *emitted = law_of(run, history, n, law, bad_keys);
    toy_p(&stage.toy, stage.how, context, n, p);
    for (int32_t a = 0; a < vocab; a++) {
        memcpy(history, context, (size_t)n * sizeof *history);
        history[n] = a;
        toy_p(&stage.toy, stage.how, history, n + 1, p2);
        memset(second, 0, sizeof second);
        if (law[a][TOY_V] > 0)
            law_of(run, history, n + 1, second, bad_keys);
        for (int32_t b = 0; b < vocab; b++) {
            double got = law[a][b];
            for (int32_t c = 0; c <= TOY_V; c++)
                got += law[a][TOY_V] * second[b][c];
            tv += fabs(got - p[a] * p2[b]) / 2;
        }
    }
    return tv;
}

static void law_is_that_of_plain_sampling(void **state) {
    (void)state;
    static const sli_sampling settings[] = {
        {.temperature = 1},
        {.temperature = 0.5},
        {.temperature = 0.5, .top_k = 2},
        {.temperature = 1, .top_p = 0.8},
        {.temperature = 0.7, .repeat_penalty = 1.3, .presence_penalty = 0.4, .penalty_last_n = 2},
    };
    const int32_t context[] = {2, 0, 1};
    double most = 0, worst_broken = 0;
    int widths[TOY_V + 1] = {0};
    toy_open(&stage.toy, 3);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        for (uint64_t seed = 1; seed <= 4; seed++)
            for (int32_t verify = SWIFT_NOREP; verify <= SWIFT_DET; verify++) {
                float logits[3 * 3];
                uint64_t noise = seed * 77;
                toy_fill_random(&stage.toy, 100 * seed, 1.5, NULL);
                for (int32_t c = 0; c < 9; c++) /* confidences on both sides of 0.5 and 0.8 */
                    logits[c] = 1.5f * stage.toy.target[c / 3][c % 3] + 0.5f * test_normal(&noise);
                swift_tree_rules rules = {.sample = &sample,
                                          .stop_threshold = 0.45,
                                          .vocab = 3,
                                          .max_draft = 2,
                                          .topk = 10,
                                          .verify = verify};
                law_run run = {&rules, new_tree(&rules), logits, 0};
                int bad_keys = 0;
                double emitted;
                stage.how = &settings[i];
                double tv = joint_error(&run, context, 3, &emitted, &bad_keys);
                if (!(tv < 1e-12) || bad_keys != 0)
                    fail_msg("setting %zu, seed %d, verify %d: TV %g, %d bad keys", i, (int)seed, verify, tv, bad_keys);
                most = emitted > most ? emitted : most;
                for (int32_t k = 0; k < run.tree->n; k++) {
                    int n = 0;
                    for (int32_t j = 1; j < run.tree->n; j++)
                        n += run.tree->parent[j] == k;
                    widths[n]++;
                }
                if (verify == SWIFT_NOREP) { /* the test sees what is wrong */
                    run.broken = 1;
                    bad_keys = 0;
                    tv = joint_error(&run, context, 3, &emitted, &bad_keys);
                    worst_broken = tv > worst_broken ? tv : worst_broken;
                }
                free_tree(run.tree);
            }
    toy_close(&stage.toy);
    assert_true(most > 1.5 && worst_broken > 1e-3);
    assert_true(widths[1] > 0 && widths[3] > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_of_the_paper),
        cmocka_unit_test(greedy_tree),
        cmocka_unit_test(sampled_tree),
        cmocka_unit_test(law_is_that_of_plain_sampling),
    };
    return cmocka_run_group_tests_name("swift_tree", tests, NULL, NULL);
}
