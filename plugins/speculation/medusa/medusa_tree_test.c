/* The tree of medusa: the reference's lists, cutting, lists of one's own, growing from accuracies, filling. */
#include "sl_test.h"

/* What is tested stands in a package. */
#include "medusa_tree.c"
#include "medusa_trees.c"

static medusa_tree parse(const char *text, int32_t heads, int32_t topk, int32_t nodes) {
    medusa_tree t;
    SL_ERROR(err);
    if (medusa_tree_parse(text, heads, topk, nodes, &t, &err) < 0)
        fail_msg("%s", err_text_);
    return t;
}

/* Ancestors and the node itself: what a row of the tree may see of it. */
static int32_t mask_row_sum(const medusa_tree *t, int32_t node) {
    int32_t n = 0;
    for (; node >= 0; node = t->parent[node])
        n++;
    return n;
}

static void check_shape(const medusa_tree *t) {
    uint8_t taken[MEDUSA_MAX_NODES] = {0};
    assert_int_equal(t->parent[0], -1);
    for (int32_t i = 0; i < t->n; i++) {
        int32_t p = t->parent[i];
        assert_int_equal(mask_row_sum(t, i), t->depth[i] + 1);
        assert_in_range(t->place[i], 0, t->n - 1);
        assert_false(taken[t->place[i]]++);
        if (i == 0)
            continue;
        assert_in_range(p, 0, i - 1);
        assert_true(t->depth[i] >= t->depth[i - 1]);
        assert_true(t->place[i] > t->place[p]);
        if (t->depth[i] == t->depth[i - 1]) /* lexicographic within a level */
            assert_true(p > t->parent[i - 1] || (p == t->parent[i - 1] && t->rank[i] > t->rank[i - 1]));
    }
}

static void trees_are_the_references(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int32_t level[5];
    } trees[] = {
        {"mc_sim_7b_63", {1, 10, 28, 23, 2}},      {"vicuna_7b_stage1", {1, 10, 32, 20, 1}},
        {"vicuna_7b_stage2", {1, 10, 23, 23, 7}},  {"vicuna_7b_stage1_ablation", {1, 10, 21, 25, 7}},
        {"vicuna_13b_stage1", {1, 10, 29, 23, 1}}, {"vicuna_13b_stage2", {1, 10, 19, 25, 9}},
        {"vicuna_33b_stage1", {1, 10, 34, 19, 0}}, {"vicuna_33b_stage2", {1, 10, 24, 24, 5}},
        {"zephyr_stage2", {1, 10, 27, 23, 3}},
    };
    for (size_t i = 0; i < sizeof trees / sizeof *trees; i++) {
        int32_t level[5] = {0};
        medusa_tree t = parse(trees[i].name, 5, 10, 64);
        assert_int_equal(t.n, 64);
        check_shape(&t);
        for (int32_t j = 0; j < t.n; j++)
            level[t.depth[j]]++;
        assert_memory_equal(level, trees[i].level, sizeof level);
    }
    medusa_tree t = parse("mc_sim_7b_63", 4, 10, 64);
    int32_t leaves = 0;
    for (int32_t i = 1; i < t.n; i++) {
        int is_leaf = 1;
        for (int32_t j = i + 1; j < t.n; j++)
            is_leaf = is_leaf && t.parent[j] != i;
        leaves += is_leaf;
    }
    assert_int_equal(leaves, 42);
}

/* The first nodes of the list are the tree that is left, whatever the number. */
static void cuts_are_nested(void **state) {
    (void)state;
    medusa_tree whole = parse("mc_sim_7b_63", 4, 10, 64), t = parse("mc_sim_7b_63", 4, 10, 7);
    /* 0 00 1 01 2 000, by levels: 0 1 2 | 00 01 | 000 */
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 1, 4}, rank[] = {0, 0, 1, 2, 0, 1, 0},
                         place[] = {0, 1, 3, 5, 2, 4, 6};
    assert_int_equal(t.n, 7);
    assert_memory_equal(t.parent, parent, sizeof parent);
    assert_memory_equal(t.rank, rank, sizeof rank);
    assert_memory_equal(t.place, place, sizeof place);
    for (int32_t nodes = 2; nodes <= 64; nodes++) {
        int32_t at = 0;
        t = parse("mc_sim_7b_63", 4, 10, nodes);
        assert_int_equal(t.n, nodes);
        check_shape(&t);
        for (int32_t i = 0; i < whole.n; i++)
            if (whole.place[i] < nodes) {
                assert_int_equal(t.rank[at], whole.rank[i]);
                assert_int_equal(t.depth[at], whole.depth[i]);
                assert_int_equal(t.place[at++], whole.place[i]);
            }
        assert_int_equal(at, nodes);
    }
}

static void heads_and_candidates_cut(void **state) {
    (void)state;
    for (int32_t heads = 1; heads <= 4; heads++)
        for (int32_t topk = 1; topk <= 10; topk++) {
            medusa_tree t = parse("mc_sim_7b_63", heads, topk, 64);
            check_shape(&t);
            for (int32_t i = 0; i < t.n; i++) {
                assert_true(t.depth[i] <= heads);
                assert_true(t.rank[i] < topk);
            }
        }
    assert_int_equal(parse("mc_sim_7b_63", 3, 10, 64).n, 62);
    assert_int_equal(parse("mc_sim_7b_63", 1, 10, 64).n, 11);
    assert_int_equal(parse("mc_sim_7b_63", 4, 1, 64).n, 5);
}

static void own_lists(void **state) {
    (void)state;
    medusa_tree t = parse(" 0,0,3 1\t15 0,0  0 ", 3, 16, 64); /* parents may be named later */
    static const int32_t parent[] = {-1, 0, 0, 0, 1, 4}, rank[] = {0, 0, 1, 15, 0, 3}, place[] = {0, 1, 4, 5, 2, 3};
    assert_int_equal(t.n, 6);
    check_shape(&t);
    assert_memory_equal(t.parent, parent, sizeof parent);
    assert_memory_equal(t.rank, rank, sizeof rank);
    assert_memory_equal(t.place, place, sizeof place);
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"", "tree: expected a name, auto or paths, found nothing"},
        {"0 1,0", "tree: path \"1,0\" is there, but not the path to its parent"},
        {"0 0,0,1", "tree: path \"0,0,1\" is there, but not the path to its parent"},
        {"0 0", "tree: path \"0\" stands there twice"},
        {"0 0,64", "tree: path \"0,64\": expected ranks from 0 to 63"},
        {"0 0,", "tree: path \"0,\": expected ranks"},
        {"0 ,0", "tree: path \",0\": expected ranks"},
        {"0 0.0", "tree: path \"0.0\": expected ranks"},
        {"0 -1", "tree: path \"-1\": expected ranks"},
        {"vicuna_8b", "tree: path \"vicuna_8b\": expected ranks"},
        {"0 0,99999999999999999999", "tree: path \"0,99999999999999999999\": expected ranks"},
        {"9", "tree: no path is left within 3 heads and 8 candidates"},
        {"0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
         "tree: path \"0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\" has more than 16 ranks"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SL_ERROR(err);
        assert_true(medusa_tree_parse(bad[i].text, 3, 8, 64, &t, &err) < 0);
        if (strncmp(err_text_, bad[i].error, strlen(bad[i].error)) != 0)
            fail_msg("%s: %s", bad[i].text, err_text_);
    }
    char many[128 * 6 + 1] = "";
    for (int i = 0; i < 128; i++)
        snprintf(many + strlen(many), 7, i < 64 ? "%d " : "0,%d ", i % 64);
    SL_ERROR(err);
    assert_int_equal(medusa_tree_parse(many, 3, 64, 64, &t, &err), SL_E_RANGE);
    many[strlen(many) - 5] = '\0'; /* 127 paths fit */
    assert_int_equal(medusa_tree_parse(many, 3, 64, 128, &t, &err), SL_OK);
    assert_int_equal(t.n, 128);
}

/* ---- growing --------------------------------------------------------------------------------------------------------
 */

static double promise_of(const medusa_tree *t, const double *accuracy, int32_t topk, int32_t node) {
    double p = 1;
    for (; node > 0; node = t->parent[node])
        p *= accuracy[(t->depth[node] - 1) * topk + t->rank[node]];
    return p;
}

/* With accuracies that fall by rank, no node outside of the tree promises more than one inside: the greedy search finds
 * the best tree of its size. Compared with all paths of three heads and four ranks. */
static void grows_the_best_tree(void **state) {
    (void)state;
    enum { HEADS = 3, TOPK = 4, ALL = 4 + 16 + 64 };
    uint64_t seed = 5;
    for (int round = 0; round < 50; round++) {
        double accuracy[HEADS * TOPK], every[ALL];
        int n_every = 0;
        for (int k = 0; k < HEADS; k++) {
            double left = 1;
            for (int r = 0; r < TOPK; r++)
                left -= accuracy[k * TOPK + r] = left * (0.3 + 0.5 * test_uniform(&seed)) * (r == 0 ? 1 : 0.4);
            for (int r = 1; r < TOPK; r++) /* falls by rank */
                if (accuracy[k * TOPK + r] > accuracy[k * TOPK + r - 1])
                    accuracy[k * TOPK + r] = accuracy[k * TOPK + r - 1];
        }
        for (int a = 0; a < TOPK; a++) {
            every[n_every++] = accuracy[a];
            for (int b = 0; b < TOPK; b++) {
                every[n_every++] = accuracy[a] * accuracy[TOPK + b];
                for (int c = 0; c < TOPK; c++)
                    every[n_every++] = accuracy[a] * accuracy[TOPK + b] * accuracy[2 * TOPK + c];
            }
        }
        for (int i = 0; i < n_every; i++)
            for (int j = i + 1; j < n_every; j++)
                if (every[j] > every[i]) {
                    double swap = every[i];
                    every[i] = every[j];
                    every[j] = swap;
                }
        for (int32_t nodes = 2; nodes <= 40; nodes += 7) {
            medusa_tree t;
            double best = 0, got = 0;
            medusa_tree_grow(accuracy, HEADS, TOPK, nodes, &t);
            assert_int_equal(t.n, nodes);
            check_shape(&t);
            for (int i = 0; i < nodes - 1; i++)
                best += every[i];
            for (int32_t i = 1; i < t.n; i++)
                got += promise_of(&t, accuracy, TOPK, i);
            assert_true(fabs(best - got) < 1e-12);
        }
    }
}

static void grows_no_further_than_it_can(void **state) {
    (void)state;
    static const double accuracy[] = {0.5, 0.1, 0.4, 0.2};
    medusa_tree t;
    medusa_tree_grow(accuracy, 2, 2, 128, &t);
    assert_int_equal(t.n, 1 + 2 + 4);
    check_shape(&t);
    medusa_tree_grow(accuracy, 2, 2, 5, &t); /* 0 (.5), 00 (.2), then 1 and 01 (.1 both): the shorter first */
    static const int32_t depth[] = {0, 1, 1, 2, 2}, rank[] = {0, 0, 1, 0, 1}, place[] = {0, 1, 3, 2, 4};
    assert_int_equal(t.n, 5);
    assert_memory_equal(t.depth, depth, sizeof depth);
    assert_memory_equal(t.rank, rank, sizeof rank);
    assert_memory_equal(t.place, place, sizeof place);
}

/* ---- filling --------------------------------------------------------------------------------------------------------
 */

static void tokens_depend_on_depth_and_rank(void **state) {
    (void)state;
    int32_t candidates[4 * 10];
    medusa_draft d;
    medusa_tree t = parse("mc_sim_7b_63", 4, 10, 64);
    for (int i = 0; i < 40; i++)
        candidates[i] = 100 + i;
    medusa_tree_fill(&t, candidates, 10, 7, 64, 100, &d);
    assert_int_equal(d.n, 64);
    assert_int_equal(d.token[0], 7);
    for (int32_t i = 1; i < d.n; i++) {
        assert_int_equal(d.parent[i], t.parent[i]);
        assert_int_equal(d.token[i], 100 + 10 * (t.depth[i] - 1) + t.rank[i]);
        for (int32_t j = 1; j < i; j++)
            assert_false(d.parent[i] == d.parent[j] && d.token[i] == d.token[j]);
    }
    for (int32_t limit = 0; limit <= 64; limit++) {
        medusa_tree cut = parse("mc_sim_7b_63", 4, 10, limit < 2 ? 2 : limit);
        medusa_tree_fill(&t, candidates, 10, 7, limit, 100, &d);
        assert_int_equal(d.n, limit < 1 ? 1 : limit);
        for (int32_t i = 0; limit > 1 && i < d.n; i++)
            assert_int_equal(d.parent[i], cut.parent[i]);
    }
    medusa_tree_fill(&t, candidates, 10, 7, 64, 1, &d);
    assert_int_equal(d.n, 11);
    medusa_tree_fill(&t, candidates, 10, 7, 64, 0, &d);
    assert_int_equal(d.n, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trees_are_the_references),
        cmocka_unit_test(cuts_are_nested),
        cmocka_unit_test(heads_and_candidates_cut),
        cmocka_unit_test(own_lists),
        cmocka_unit_test(grows_the_best_tree),
        cmocka_unit_test(grows_no_further_than_it_can),
        cmocka_unit_test(tokens_depend_on_depth_and_rank),
    };
    return cmocka_run_group_tests_name("medusa_tree", tests, NULL, NULL);
}
