/* token_recycling without a model: the template, the matrix, and the drafter as a toy target drives it. */
#include "sl_test.h"

#include <limits.h>

#include "base/ledger.h"
#include "plugin/instance.h"
#include "plugin/loader.h"
#include "sluice/speculation.h"

/* What is tested stands in a package; its two parts are tested for themselves, too. */
#include "successors.c"
#include "tree_template.c"

/* ---- the template
 * ---------------------------------------------------------------------------------------------------- */

static tree_template parse(const char *text, int32_t topk, int32_t cut) {
    tree_template t;
    SL_ERROR(err);
    if (template_parse(text, topk, cut, &t, &err) < 0)
        fail_msg("%s", err_text_);
    return t;
}

/* Every front part of a path is there (a parent stands in front), siblings are 0 .. c - 1, order is by levels. */
static void check_shape(const tree_template *t) {
    int32_t next_rank[TEMPLATE_MAX_NODES] = {0};
    assert_int_equal(t->parent[0], -1);
    for (int32_t i = 1; i < t->n; i++) {
        int32_t p = t->parent[i];
        assert_in_range(p, 0, i - 1);
        assert_int_equal(t->depth[i], t->depth[p] + 1);
        assert_true(t->depth[i] >= t->depth[i - 1]);
        assert_int_equal(t->rank[i], next_rank[p]++);
        assert_true(t->place[i] > t->place[p]);
    }
}

static void template_is_the_papers(void **state) {
    (void)state;
    tree_template t = parse("2.2.2", 8, 81);
    int level[8] = {0};
    assert_int_equal(t.n, 81);
    check_shape(&t);
    for (int32_t i = 0; i < t.n; i++)
        level[t.depth[i]]++;
    static const int expected[8] = {1, 8, 21, 25, 15, 8, 3, 0};
    assert_memory_equal(level, expected, sizeof level);
}

static void topk_drops_ranks_with_their_subtrees(void **state) {
    (void)state;
    static const int32_t expected[] = {7, 29}; /* a chain; 2, 4, 7, 6, 6 and 3 nodes behind the root */
    int32_t before = 0;
    for (int32_t k = 1; k <= 8; k++) {
        tree_template t = parse("2.2.2", k, 81);
        check_shape(&t);
        for (int32_t i = 0; i < t.n; i++)
            assert_true(t.rank[i] < k);
        assert_true(t.n > before);
        before = t.n;
        if (k <= 2)
            assert_int_equal(t.n, expected[k - 1]);
    }
    assert_int_equal(before, 81);
}

/* Ascending sum of (rank + 1), ties the shorter, then lexicographic: each cut is the one before and the next node. */
static void cuts_are_nested(void **state) {
    (void)state;
    tree_template t = parse("2.2.2", 8, 7);
    /* sums 1: 0; 2: 1 and 0,0; 3: 2, 0,1 and 1,0 (0,0,0 is longer) */
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 1, 2}, rank[] = {0, 0, 1, 2, 0, 1, 0},
                         place[] = {0, 1, 2, 4, 3, 5, 6};
    assert_int_equal(t.n, 7);
    assert_memory_equal(t.parent, parent, sizeof parent);
    assert_memory_equal(t.rank, rank, sizeof rank);
    assert_memory_equal(t.place, place, sizeof place);
    tree_template whole = parse("2.2.2", 8, 81);
    for (int32_t cut = 2; cut <= 81; cut++) {
        tree_template c = parse("2.2.2", 8, cut);
        int32_t at = 0;
        assert_int_equal(c.n, cut);
        check_shape(&c);
        for (int32_t i = 0; i < whole.n; i++)
            if (whole.place[i] < cut) {
                assert_int_equal(c.rank[at], whole.rank[i]);
                assert_int_equal(c.depth[at], whole.depth[i]);
                assert_int_equal(c.place[at], whole.place[i]);
                at++;
            }
        assert_int_equal(at, cut);
    }
}

static void own_templates(void **state) {
    (void)state;
    tree_template t = parse("  0,0 1\t0  15 0,0,3 ", 16, 81); /* any order, gaps in the ranks */
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 4}, rank[] = {0, 0, 1, 15, 0, 3};
    assert_int_equal(t.n, 6);
    assert_memory_equal(t.parent, parent, sizeof parent);
    assert_memory_equal(t.rank, rank, sizeof rank);
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"", "template: expected 2.2.2 or paths, found nothing"},
        {"0 1,0", "template: path \"1,0\" is there, but not the path to its parent"},
        {"0 0", "template: path \"0\" stands there twice"},
        {"0 0,16", "template: path \"0,16\": expected ranks from 0 to 15 separated by commas"},
        {"0 0,", "template: path \"0,\": expected ranks from 0 to 15 separated by commas"},
        {"0 0.0", "template: path \"0.0\": expected ranks from 0 to 15 separated by commas"},
        {"0 -1", "template: path \"-1\": expected ranks from 0 to 15 separated by commas"},
        {"0 0,99999999999999999999",
         "template: path \"0,99999999999999999999\": expected ranks from 0 to 15 separated by commas"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SL_ERROR(err);
        assert_true(template_parse(bad[i].text, 8, 81, &t, &err) < 0);
        assert_string_equal(err_text_, bad[i].error);
    }
    char many[81 * 4 + 1] = "";
    for (int i = 0; i < 81; i++)
        strcat(many, i < 16 ? "0 " : "1 ");
    SL_ERROR(err);
    assert_int_equal(template_parse(many, 8, 81, &t, &err), SL_E_RANGE);
}

/* ---- filling
 * ----------------------------------------------------------------------------------------------------------- */

enum { V = 60, K = 8 };

static void nodes_come_from_the_matrix(void **state) {
    (void)state;
    int32_t ids[V * K];
    successors m = {ids, V, K};
    for (int32_t t = 0; t < V; t++)
        for (int32_t i = 0; i < K; i++)
            ids[t * K + i] = (7 * t + 11 * i + 1) % V;
    tree_template t = parse("2.2.2", K, 81);
    template_draft d;
    template_fill(&t, &m, 5, 81, 6, 0, &d);
    assert_int_equal(d.n, 81);
    assert_int_equal(d.n_dead, 0);
    assert_int_equal(d.token[0], 5);
    for (int32_t i = 1; i < d.n; i++) {
        assert_int_equal(d.parent[i], t.parent[i]);
        assert_int_equal(d.token[i], (7 * d.token[d.parent[i]] + 11 * t.rank[i] + 1) % V);
    }
    template_fill(&t, &m, 5, 20, 6, 0, &d);
    assert_int_equal(d.n, 20);
    template_fill(&t, &m, 5, 81, 1, 0, &d);
    assert_int_equal(d.n, 1 + 8);
    template_fill(&t, &m, 5, 81, 0, 0, &d);
    assert_int_equal(d.n, 1);
}

static void unknown_nodes_are_left_out(void **state) {
    (void)state;
    int32_t ids[V * K];
    successors m = {ids, V, K};
    tree_template t = parse("2.2.2", K, 81);
    template_draft d;
    successors_clear(&m);
    template_fill(&t, &m, 5, 81, 6, 0, &d);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.n_dead, 80);
    static const int32_t row[K] = {9, 5, 3, -1, 7, 7, 7, 7}; /* ends at -1 */
    assert_int_equal(successors_store(&m, 5, row), 1);
    assert_int_equal(successors_store(&m, 5, row), 0);
    template_fill(&t, &m, 5, 81, 6, 0, &d);
    /* 0 1 2, of them only 1 is known: 1,0 1,1 1,2 and, below 1,1, the path 1,1,0 */
    static const int32_t token[] = {5, 9, 5, 3, 9, 5, 3, 9}, parent[] = {-1, 0, 0, 0, 2, 2, 2, 5};
    assert_int_equal(d.n, 8);
    assert_memory_equal(d.token, token, sizeof token);
    assert_memory_equal(d.parent, parent, sizeof parent);
    for (int32_t i = 1; i < d.n; i++) /* live siblings differ */
        for (int32_t j = 1; j < i; j++)
            assert_false(d.parent[i] == d.parent[j] && d.token[i] == d.token[j]);
    /* the reference: token 0 in their place, and 0's own successors below it */
    template_fill(&t, &m, 8, 81, 6, 1, &d);
    assert_int_equal(d.n, 81);
    assert_int_equal(d.n_dead, 0);
    for (int32_t i = 1; i < d.n; i++)
        assert_int_equal(d.token[i], 0);
}

static void rows_that_are_no_rows(void **state) {
    (void)state;
    int32_t ids[V * K], other[V * 3], before[V * K];
    successors m = {ids, V, K};
    SL_ERROR(err);
    successors_clear(&m);
    static const int32_t none[K] = {-1, 4, 5, 6, 7, 8, 9, 10}, foreign[K] = {4, V, 5, 6, 7, 8, 9, 10};
    assert_int_equal(successors_store(&m, 3, none), 0);
    assert_int_equal(successors_of(&m, 3)[0], -1);
    assert_int_equal(successors_store(&m, 3, foreign), 1); /* an id of a padded head stays out */
    assert_int_equal(successors_of(&m, 3)[0], 4);
    assert_int_equal(successors_of(&m, 3)[1], -1);
    memset(other, 0xff, sizeof other);
    other[0] = 7, other[1] = 8, other[2] = 9;
    memcpy(before, ids, sizeof ids);
    static const int32_t bad[][3] = {{7, 7, 1}, {V, 1, 2}, {-2, 1, 2}, {4, -1, 5}, {-1, 3, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(other + 6, bad[i], sizeof bad[i]);
        assert_int_equal(successors_take(&m, other, 3, &err), SL_E_DATA);
        assert_string_equal(err_text_, "row 2 of recycling.M: expected distinct ids of [0, 60), then only -1");
        assert_memory_equal(ids, before, sizeof ids);
    }
    memset(other + 6, 0xff, 3 * sizeof *other);
    assert_int_equal(successors_take(&m, other, 3, &err), SL_OK); /* shorter rows */
    assert_int_equal(successors_of(&m, 0)[2], 9);
    assert_int_equal(successors_of(&m, 0)[3], -1);
    assert_int_equal(successors_of(&m, 3)[0], -1);
}

/* ---- the plugin, driven by a toy
 * ------------------------------------------------------------------------------------------ */

static sli_pool *pool;
static sli_host_context *context;
static const sl_plugin *plugin;
static char faults[512];

/* The core offers sl.artifact/1; without a file it is not called. */
static const sl_artifacts no_artifacts = {.struct_size = SL_SIZE(sl_artifacts)};

static void keep_line(void *user, uint32_t level, const char *who, const char *text) {
    (void)user;
    if (level >= SL_LOG_WARNING)
        snprintf(faults, sizeof faults, "%s: %s", who, text);
}

static int begin(void **state) {
    (void)state;
    char path[PATH_MAX];
    sli_plugin found;
    faults[0] = '\0';
    sli_pool_create(1, &pool, NULL);
    sli_host_options options = {.pool = pool, .validate = 1, .log = keep_line};
    snprintf(path, sizeof path, "%s/plugins/speculation/token_recycling/speculation_token_recycling.so",
             getenv("SLUICE_BUILD"));
    if (sli_host_context_create(&options, &context, NULL) < 0 ||
        sli_host_provide(context, SL_ARTIFACT_ID, &no_artifacts, NULL) < 0 ||
        sli_plugin_open(NULL, "speculation", path, &found, NULL) < 0)
        return -1;
    plugin = found.plugin;
    return 0;
}

static int end(void **state) {
    (void)state;
    sli_host_context_destroy(context);
    sli_pool_destroy(pool);
    if (faults[0] != '\0')
        fprintf(stderr, "%s\n", faults);
    return faults[0] != '\0' ? -1 : 0;
}

typedef struct settings {
    const char *tree;
    int64_t topk, cut, scope;
} settings;

static sl_status make(const settings *s, int64_t max_seqs, sli_instance **out, sl_error *err) {
    const sl_param_value
        topk = {.struct_size = SL_SIZE(sl_param_value), .name = "topk", .integer = s->topk, .is_set = 1},
        cut = {.struct_size = SL_SIZE(sl_param_value), .name = "cut", .integer = s->cut, .is_set = 1},
        scope = {.struct_size = SL_SIZE(sl_param_value), .name = "scope", .integer = s->scope, .is_set = 1},
        prompt = {.struct_size = SL_SIZE(sl_param_value), .name = "update_from_prompt", .is_set = 1},
        init = {.struct_size = SL_SIZE(sl_param_value), .name = "init"},
        tree = {.struct_size = SL_SIZE(sl_param_value), .name = "template", .text = s->tree, .is_set = 1},
        prune = {.struct_size = SL_SIZE(sl_param_value), .name = "prune_empty", .integer = 1, .is_set = 1};
    const sl_param_value *const values[] = {&topk, &cut, &scope, &prompt, &init, &tree, &prune};
    const sl_params params = {SL_SIZE(sl_params), values, sizeof values / sizeof *values};
    const uint32_t stages[1] = {SL_STAGE_ALL};
    const sl_scope where = {.struct_size = SL_SIZE(sl_scope),
                            .layer_stages = stages,
                            .n_layers = 1,
                            .role = "speculation",
                            .section = "speculation"};
    static const sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .vocab = V, .vocab_fingerprint = 0x1234};
    const sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                              .max_context = 1000,
                              .max_rows = 400,
                              .max_seqs = max_seqs,
                              .max_tree = 81,
                              .n_workers = 1,
                              .compute = SL_F32};
    SL_TRY(sli_instance_create(context, plugin, &model, &params, &where, NULL, out, err));
    sl_status status = sli_instance_activate(*out, &limits, err);
    if (status < 0) {
        sli_instance_destroy(*out);
        *out = NULL;
    }
    return status;
}

static const settings usual = {"2.2.2", 8, 81, 0};

static sli_instance *made(const settings *s, int64_t max_seqs) {
    sli_instance *i = NULL;
    SL_ERROR(err);
    if (make(s, max_seqs, &i, &err) < 0)
        fail_msg("%s", err_text_);
    return i;
}

static void tell(sli_instance *i, uint32_t kind, int32_t seq, int32_t other) {
    sl_event e = {.struct_size = SL_SIZE(sl_event), .kind = kind, .seq = seq, .other = other};
    assert_int_equal(plugin->event(i->self, &e, NULL), SL_OK);
}

/* A target of order 1: what follows depends on the last token alone. */
typedef struct toy {
    int32_t best[V][K];
    int32_t text[1000];
    int64_t n;
    int32_t seq;
} toy;

/* 0 -> 1 -> ... -> period - 1 -> 0, all else shuffled behind it. */
static void toy_make(toy *t, int32_t period, int32_t seq, uint64_t seed) {
    for (int32_t token = 0; token < V; token++) {
        int32_t all[V];
        for (int32_t i = 0; i < V; i++)
            all[i] = i;
        for (int32_t i = V - 1; i > 0; i--) {
            int32_t j = (int32_t)(test_next(&seed) % (uint64_t)(i + 1)), swap = all[i];
            all[i] = all[j], all[j] = swap;
        }
        int32_t next = token < period ? (token + 1) % period : 0, at = 0;
        t->best[token][at++] = next;
        for (int32_t i = 0; at < K; i++)
            if (all[i] != next)
                t->best[token][at++] = all[i];
    }
    t->n = 1;
    t->text[0] = 0;
    t->seq = seq;
}

static const sl_tree *draft(sli_instance *i, const toy *t) {
    const sl_speculation *api = i->table;
    const sl_spec_seq seq = {.struct_size = SL_SIZE(sl_spec_seq),
                             .token = t->text,
                             .n = t->n,
                             .max_nodes = 81,
                             .max_depth = 100,
                             .seq = t->seq};
    const sl_spec_seq *const seqs[] = {&seq};
    sl_propose io = {.struct_size = SL_SIZE(sl_propose), .seqs = seqs, .n_seqs = 1};
    SL_ERROR(err);
    assert_int_equal(api->propose(i->self, &io, &err), SL_OK);
    return io.trees[0];
}

/* Tells of one sequence's rows. */
static void report(sli_instance *i, int32_t seq, const int32_t *token, int32_t n, const int32_t *topk) {
    const sl_speculation *api = i->table;
    const int32_t row_begin[] = {0, n}, path_begin[] = {0, 1}, path[] = {0}, next[] = {0};
    int32_t row_seq[TEMPLATE_MAX_NODES] = {0};
    const sl_batch batch = {.struct_size = SL_SIZE(sl_batch),
                            .seq = &seq,
                            .row_begin = row_begin,
                            .row_seq = row_seq,
                            .token = token,
                            .n_seqs = 1,
                            .n_rows = n};
    const sl_commit commit = {SL_SIZE(sl_commit), &batch, path_begin, path, next};
    const sl_observe seen = {.struct_size = SL_SIZE(sl_observe), .commit = &commit, .topk = topk, .n_seqs = 1};
    assert_int_equal(api->observe(i->self, &seen), SL_OK);
}

/* One greedy step: drafts, walks, tells. Returns how many tokens it gave. */
static int step(sli_instance *i, toy *t) {
    const sl_tree *tree = draft(i, t);
    int32_t token[TEMPLATE_MAX_NODES] = {t->text[t->n - 1]}, topk[TEMPLATE_MAX_NODES][K], n = 1, at = 0, given = 0;
    if (tree != NULL) {
        n = tree->n_nodes;
        memcpy(token, tree->token, sizeof *token * (size_t)n);
    }
    for (int32_t r = 0; r < n; r++)
        memcpy(topk[r], t->best[token[r]], sizeof topk[r]);
    for (int32_t child = 0; child >= 0;) {
        t->text[t->n++] = t->best[token[at]][0];
        given++;
        child = -1;
        for (int32_t r = at + 1; tree != NULL && r < n && child < 0; r++)
            if (tree->parent[r] == at && token[r] == t->best[token[at]][0])
                child = r;
        at = child;
    }
    report(i, t->seq, token, n, topk[0]);
    return given;
}

/* The matrix, read through the saved state. */
static void read_matrix(sli_instance *i, int32_t seq, int32_t *ids, int64_t k) {
    char bytes[SUCCESSORS_HEADER_MAX + sizeof(int32_t) * V * SUCCESSORS_MAX];
    sl_state_io io = {
        .struct_size = SL_SIZE(sl_state_io), .data = bytes, .bytes = sizeof bytes, .seq = seq, .op = SL_STATE_SAVE};
    assert_int_equal(plugin->state(i->self, &io, NULL), SL_OK);
    memcpy(ids, bytes + io.bytes - (int64_t)sizeof *ids * V * k, sizeof *ids * V * (size_t)k);
}

/* One token a step until the cycle has been seen once, then six accepted ones and the next. */
static void order_1_chain(void **state) {
    (void)state;
    static const int32_t periods[] = {1, 2, 7, 23};
    for (size_t p = 0; p < sizeof periods / sizeof *periods; p++) {
        sli_instance *i = made(&usual, 1);
        static toy t;
        toy_make(&t, periods[p], 0, 17 + p);
        for (int32_t s = 0; s < periods[p]; s++)
            assert_int_equal(step(i, &t), 1);
        for (int s = 0; s < 20; s++)
            assert_int_equal(step(i, &t), 7);
        for (int64_t n = 0; n < t.n; n++)
            assert_int_equal(t.text[n], n % periods[p]);
        sli_instance_destroy(i);
    }
}

/* Whatever the matrix holds, the text is the target's; and the rows that were seen are those of the target. */
static void any_matrix_gives_the_same_text(void **state) {
    (void)state;
    for (int round = 0; round < 40; round++) {
        sli_instance *i = made(&usual, 1);
        static toy t;
        toy_make(&t, 11, 0, 100 + (uint64_t)round);
        int32_t ids[V * K], seen[V] = {0};
        for (int32_t token = 0; token < V; token++)
            for (int32_t r = 0; r < K; r++)
                ids[token * K + r] = token % 3 == 0 ? -1 : (int32_t)((token * 5 + r * 7 + (round + 1)) % V);
        char bytes[SUCCESSORS_HEADER_MAX + sizeof ids];
        sl_state_io io = {
            .struct_size = SL_SIZE(sl_state_io), .data = bytes, .bytes = sizeof bytes, .seq = -1, .op = SL_STATE_SAVE};
        assert_int_equal(plugin->state(i->self, &io, NULL), SL_OK);
        memcpy(bytes + io.bytes - (int64_t)sizeof ids, ids, sizeof ids);
        io.op = SL_STATE_LOAD;
        assert_int_equal(plugin->state(i->self, &io, NULL), SL_OK);
        for (int s = 0; s < 30; s++) {
            const sl_tree *tree = draft(i, &t);
            seen[t.text[t.n - 1]] = 1;
            for (int32_t r = 0; tree != NULL && r < tree->n_nodes; r++)
                seen[tree->token[r]] = 1;
            step(i, &t);
            int32_t now[V * K];
            read_matrix(i, -1, now, K);
            for (int32_t token = 0; token < V; token++)
                assert_memory_equal(now + token * K, seen[token] ? t.best[token] : ids + token * K, sizeof *now * K);
        }
        for (int64_t n = 0; n < t.n; n++)
            assert_int_equal(t.text[n], n % 11);
        sli_instance_destroy(i);
    }
}

/* The same token in several rows: the last row stays. Rows without logits change nothing. */
static void last_row_stays(void **state) {
    (void)state;
    sli_instance *i = made(&usual, 1);
    static const int32_t token[] = {4, 9, 4, -1, 9, 7};
    int32_t topk[6][K], ids[V * K];
    for (int32_t r = 0; r < 6; r++)
        for (int32_t j = 0; j < K; j++)
            topk[r][j] = r == 4 ? -1 : 10 * r + j;
    report(i, 0, token, 6, topk[0]);
    read_matrix(i, -1, ids, K);
    assert_memory_equal(ids + 4 * K, topk[2], sizeof topk[2]);
    assert_memory_equal(ids + 9 * K, topk[1], sizeof topk[1]);
    assert_memory_equal(ids + 7 * K, topk[5], sizeof topk[5]);
    assert_int_equal(ids[0], -1);
    report(i, 0, token, 6, NULL);
    sli_instance_destroy(i);
}

/* scope = request: what one sequence taught does not reach another, forks know what their parents knew. */
static void requests_are_apart(void **state) {
    (void)state;
    static const settings apart = {"2.2.2", 8, 81, 1};
    static toy a, b, c;
    toy_make(&a, 3, 0, 1), toy_make(&b, 3, 1, 1), toy_make(&c, 3, 2, 1);
    for (int shared = 0; shared < 2; shared++) {
        sli_instance *i = made(shared ? &usual : &apart, 3);
        for (int32_t s = 0; s < 2; s++)
            tell(i, SL_EVENT_BEGIN, s, -1);
        a.n = b.n = c.n = 1;
        for (int s = 0; s < 5; s++)
            step(i, &a);
        assert_non_null(draft(i, &a));
        assert_int_equal(draft(i, &b) != NULL, shared);
        assert_int_equal(draft(i, &c) != NULL, shared); /* not open, not begun */
        tell(i, SL_EVENT_FORK, 2, 0);
        assert_non_null(draft(i, &c));
        tell(i, SL_EVENT_FINISH, 0, -1);
        tell(i, SL_EVENT_BEGIN, 0, -1);
        assert_int_equal(draft(i, &a) != NULL, shared);
        int32_t ids[V * K], of_fork[V * K];
        for (int32_t seq = -1; seq < 2; seq++) { /* each scope has its own kind of state */
            sl_state_io io = {.struct_size = SL_SIZE(sl_state_io), .seq = seq, .op = SL_STATE_SIZE};
            assert_int_equal(plugin->state(i->self, &io, NULL), SL_OK);
            assert_int_equal(io.bytes != 0, (seq < 0) == shared);
        }
        read_matrix(i, shared ? -1 : 2, of_fork, K);
        read_matrix(i, shared ? -1 : 1, ids, K);
        assert_int_equal(memcmp(ids, of_fork, sizeof ids) == 0, shared);
        sli_instance_destroy(i);
    }
}

static void saved_state_loads(void **state) {
    (void)state;
    sli_instance *a = made(&usual, 1), *b = made(&usual, 1);
    static const settings other_topk = {"2.2.2", 4, 81, 0};
    sli_instance *c = made(&other_topk, 1);
    static toy t;
    toy_make(&t, 5, 0, 9);
    for (int s = 0; s < 8; s++)
        step(a, &t);
    char bytes[SUCCESSORS_HEADER_MAX + sizeof(int32_t) * V * K];
    SL_ERROR(err);
    sl_state_io io = {.struct_size = SL_SIZE(sl_state_io), .seq = -1, .op = SL_STATE_SIZE};
    assert_int_equal(plugin->state(a->self, &io, &err), SL_OK);
    int64_t size = io.bytes;
    assert_in_range(size, sizeof(int32_t) * V * K, sizeof bytes);
    io = (sl_state_io){
        .struct_size = SL_SIZE(sl_state_io), .data = bytes, .bytes = size - 1, .seq = -1, .op = SL_STATE_SAVE};
    assert_int_equal(plugin->state(a->self, &io, &err), SL_E_RANGE);
    io.bytes = size;
    assert_int_equal(plugin->state(a->self, &io, &err), SL_OK);
    io.op = SL_STATE_LOAD;
    assert_int_equal(plugin->state(c->self, &io, &err), SL_E_DATA);
    assert_null(draft(b, &t));
    assert_int_equal(plugin->state(b->self, &io, &err), SL_OK);
    int32_t of_a[V * K], of_b[V * K];
    read_matrix(a, -1, of_a, K);
    read_matrix(b, -1, of_b, K);
    assert_memory_equal(of_a, of_b, sizeof of_a);
    io.bytes = size - 4;
    assert_int_equal(plugin->state(b->self, &io, &err), SL_E_DATA);
    io.bytes = size;
    bytes[size - 1] = 0x7f; /* an id outside of the vocabulary */
    assert_int_equal(plugin->state(b->self, &io, &err), SL_E_DATA);
    read_matrix(b, -1, of_b, K);
    assert_memory_equal(of_a, of_b, sizeof of_a);
    sli_instance_destroy(a);
    sli_instance_destroy(b);
    sli_instance_destroy(c);
}

/* V k 4 bytes for the matrix and nothing that grows; with every allocation failing once, nothing is left behind. */
static void memory(void **state) {
    (void)state;
    static const settings narrow = {"2.2.2", 3, 81, 0};
    sli_instance *wide = made(&usual, 2), *small = made(&narrow, 2);
    int64_t bytes = sli_host_bytes(wide->host);
    assert_int_equal(bytes - sli_host_bytes(small->host), V * (8 - 3) * 4);
    static toy t;
    toy_make(&t, 50, 0, 3);
    for (int s = 0; s < 60; s++)
        step(wide, &t);
    assert_int_equal(sli_host_bytes(wide->host), bytes);
    sli_instance_destroy(wide);
    sli_instance_destroy(small);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    int64_t n = 0;
    for (sl_status s = SL_E_NO_MEMORY; s != SL_OK; n++) {
        sli_instance *i = NULL;
        SL_ERROR(err);
        sli_ledger_fail_after(n);
        s = make(&usual, 2, &i, &err);
        sli_ledger_fail_after(-1);
        assert_true(s == SL_OK || s == SL_E_NO_MEMORY);
        sli_instance_destroy(i);
        sli_ledger_read(&after);
        assert_int_equal(after.now[SLI_TAG_PLUGIN], before.now[SLI_TAG_PLUGIN]);
    }
    assert_true(n > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(template_is_the_papers),
        cmocka_unit_test(topk_drops_ranks_with_their_subtrees),
        cmocka_unit_test(cuts_are_nested),
        cmocka_unit_test(own_templates),
        cmocka_unit_test(nodes_come_from_the_matrix),
        cmocka_unit_test(unknown_nodes_are_left_out),
        cmocka_unit_test(rows_that_are_no_rows),
        cmocka_unit_test_setup_teardown(order_1_chain, begin, end),
        cmocka_unit_test_setup_teardown(any_matrix_gives_the_same_text, begin, end),
        cmocka_unit_test_setup_teardown(last_row_stays, begin, end),
        cmocka_unit_test_setup_teardown(requests_are_apart, begin, end),
        cmocka_unit_test_setup_teardown(saved_state_loads, begin, end),
        cmocka_unit_test_setup_teardown(memory, begin, end),
    };
    return cmocka_run_group_tests_name("token_recycling", tests, NULL, NULL);
}
