/* Trees from drafts: which nodes share a row, what the trials are, and every fault that is refused; what verification
 * refuses; forced and pseudo nodes; draws of a drafter. */
#include "toy.h"

#include "base/ledger.h"

static sl_status build(const sl_tree *draft, sli_tree *out, sl_error *err) {
    return sli_tree_build(draft, 5, 100, out, err);
}

#define N(array) ((int32_t)(sizeof(array) / sizeof *(array)))

static const double half[2] = {.5, .5};
static const sl_draft_q q_half = {SL_SIZE(sl_draft_q), NULL, half, 2};

static void a_tree_without_duplicates_keeps_its_numbers(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_tree t;
    const int32_t token[] = {5, 7, 8, 9, 7, 5}, parent[] = {-1, 0, 0, 1, 3, 0};
    const sl_tree draft = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 6};
    assert_int_equal(build(&draft, &t, &err), SL_OK);
    assert_int_equal(t.rows.n_nodes, 6);
    const int32_t depth[] = {0, 1, 1, 2, 3, 1}, begin[] = {0, 3, 4, 4, 5, 5, 5}, child[] = {1, 2, 5, 3, 4};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(t.row_of[i], i);
        assert_int_equal(t.node_of[i], i);
        assert_int_equal(t.rows.token[i], token[i]);
        assert_int_equal(t.rows.parent[i], parent[i]);
        assert_int_equal(t.depth[i], depth[i]);
    }
    assert_memory_equal(t.trial_begin, begin, sizeof begin);
    for (int i = 0; i < 5; i++)
        assert_int_equal(t.trial[i].row, child[i]);
}

static void duplicates_share_rows(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_tree t;
    /* Root's children: DET 0, REP 0, REP 0, DET 1, DET 0 again; the children of every 0 meet in one row. */
    const int32_t token[] = {5, 0, 0, 0, 1, 0, 8, 9, 8}, parent[] = {-1, 0, 0, 0, 0, 0, 2, 5, 1};
    const uint32_t kind[] = {0, 0, 1, 1, 0, 0, 0, 0, 0};
    const sl_draft_q *q[9] = {&q_half};
    const sl_tree draft = {
        .struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .kind = kind, .q = q, .n_nodes = 9};
    assert_int_equal(build(&draft, &t, &err), SL_OK);
    const int32_t row_of[] = {0, 1, 1, 1, 2, 1, 3, 4, 3}, node_of[] = {0, 1, 4, 6, 7}, begin[] = {0, 4, 6, 6, 6, 6};
    assert_int_equal(t.rows.n_nodes, 5);
    assert_memory_equal(t.row_of, row_of, sizeof row_of);
    assert_memory_equal(t.node_of, node_of, sizeof node_of);
    assert_memory_equal(t.trial_begin, begin, sizeof begin);
    const sli_trial expected[] = {{1, 0, 0, NULL}, {1, 1, 1, &q_half}, {1, 1, 1, &q_half},
                                  {2, 0, 2, NULL}, {3, 0, 0, NULL},    {4, 0, 0, NULL}};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(t.trial[i].row, expected[i].row);
        assert_int_equal(t.trial[i].kind, expected[i].kind);
        assert_ptr_equal(t.trial[i].q, expected[i].q);
    }
    assert_int_equal(t.trial[1].group, t.trial[2].group);
    assert_int_not_equal(t.trial[0].group, t.trial[3].group);
}

static void pseudo_nodes_are_rows_and_nothing_else(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_tree t;
    const int32_t token[] = {5, 7, 7, 7, 7}, parent[] = {-1, 0, 0, 2, 1};
    const uint32_t type[] = {SL_ROW_DRAFT, SL_ROW_PSEUDO, SL_ROW_DRAFT, SL_ROW_PSEUDO, SL_ROW_PSEUDO};
    sl_tree draft = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 5, .row_type = type};
    assert_int_equal(build(&draft, &t, &err), SL_OK);
    assert_int_equal(t.rows.n_nodes, 5);
    assert_memory_equal(t.rows.row_type, type, sizeof type);
    assert_int_equal(t.trial_begin[5], 1);
    assert_int_equal(t.trial[0].row, 2);
    draft.struct_size = SL_FIELD_END(sl_tree, n_forced); /* an older drafter: the field is not there */
    assert_int_equal(build(&draft, &t, &err), SL_OK);
    assert_int_equal(t.rows.n_nodes, 3); /* so 1 and 2 are one row, and so are their children */
}

static void refuses_what_is_no_tree(void **state) {
    (void)state;
    static const int32_t ok_token[] = {5, 1, 2, 1}, ok_parent[] = {-1, 0, 0, 0}, wrong_root[] = {4, 1, 2, 1},
                         big[] = {5, 1, 100, 1}, negative[] = {5, -1, 2, 1}, later[] = {-1, 0, 2, 0},
                         no_root[] = {0, 0, 0, 0}, below[] = {-1, -1, 0, 0};
    static const uint32_t unknown[] = {0, 0, 3, 0}, drawn[] = {0, 0, 1, 0}, twice[] = {0, 2, 2, 2},
                          pseudo_root[] = {2, 1, 1, 1};
    static const sl_draft_q *const q[] = {&q_half, NULL, NULL, NULL}, *const none[] = {NULL, &q_half, NULL, NULL};
    static const uint32_t pseudo_parent[] = {1, 2, 1, 1};
    static const int32_t chain[] = {-1, 0, 1, 2};
    static const struct {
        const int32_t *token, *parent;
        const uint32_t *kind;
        const sl_draft_q *const *q;
        int32_t n, n_forced;
        const uint32_t *type;
        sl_status code;
        const char *text;
    } bad[] = {
        {ok_token, ok_parent, NULL, NULL, 0, 0, NULL, SL_E_RANGE, "draft tree has 0 nodes, expected 1 to 128"},
        {ok_token, ok_parent, NULL, NULL, 129, 0, NULL, SL_E_RANGE, "draft tree has 129 nodes, expected 1 to 128"},
        {NULL, ok_parent, NULL, NULL, 4, 0, NULL, SL_E_INVALID, "draft tree without tokens or parents"},
        {ok_token, ok_parent, NULL, NULL, 4, 4, NULL, SL_E_RANGE, "draft tree of 4 nodes has 4 forced ones"},
        {wrong_root, ok_parent, NULL, NULL, 4, 0, NULL, SL_E_INVALID,
         "draft node 0 is token 4 with parent -1, expected the committed token 5 and -1"},
        {ok_token, no_root, NULL, NULL, 4, 0, NULL, SL_E_INVALID,
         "draft node 0 is token 5 with parent 0, expected the committed token 5 and -1"},
        {big, ok_parent, NULL, NULL, 4, 0, NULL, SL_E_RANGE,
         "draft node 2 has token 100, outside of the vocabulary [0, 100)"},
        {negative, ok_parent, NULL, NULL, 4, 0, NULL, SL_E_RANGE,
         "draft node 1 has token -1, outside of the vocabulary [0, 100)"},
        {ok_token, later, NULL, NULL, 4, 0, NULL, SL_E_INVALID, "draft node 2 has parent 2, expected 0 to 1"},
        {ok_token, below, NULL, NULL, 4, 0, NULL, SL_E_INVALID, "draft node 1 has parent -1, expected 0 to 0"},
        {ok_token, ok_parent, unknown, NULL, 4, 0, NULL, SL_E_INVALID, "draft node 2 has the unknown kind 3"},
        {ok_token, ok_parent, drawn, NULL, 4, 0, NULL, SL_E_INVALID,
         "draft node 2 was drawn, but its parent 0 has no distribution q"},
        {ok_token, ok_parent, drawn, none, 4, 0, NULL, SL_E_INVALID,
         "draft node 2 was drawn, but its parent 0 has no distribution q"},
        {ok_token, ok_parent, twice, q, 4, 0, NULL, SL_E_INVALID,
         "draft nodes 1 and 3 are token 1, drawn twice without replacement"},
        {ok_token, ok_parent, NULL, NULL, 4, 2, NULL, SL_E_INVALID, "forced draft node 2 has parent 0, expected 1"},
        {ok_token, ok_parent, NULL, NULL, 4, 1, NULL, SL_E_INVALID,
         "draft node 2 has parent 0, which stands in front of the committed token 1"},
        {ok_token, ok_parent, NULL, NULL, 4, 0, pseudo_root, SL_E_INVALID,
         "draft node 0 is a committed token and cannot be a pseudo node"},
        {ok_token, chain, NULL, NULL, 4, 0, pseudo_parent, SL_E_INVALID,
         "draft node 2 hangs on the pseudo node 1 and could never be accepted"},
    };
    for (int i = 0; i < N(bad); i++) {
        SL_ERROR(err);
        sli_tree t;
        const sl_tree draft = {SL_SIZE(sl_tree), bad[i].token, bad[i].parent,   bad[i].kind,
                               bad[i].q,         bad[i].n,     bad[i].n_forced, bad[i].type};
        assert_int_equal(build(&draft, &t, &err), bad[i].code);
        assert_string_equal(err.text, bad[i].text);
    }
}

/* ---- through verification ---------------------------------------------------------------------------------------- */

static void refuses_a_q_that_cannot_be(void **state) {
    (void)state;
    static const int32_t up[] = {0, 2}, down[] = {2, 0}, far[] = {0, 4};
    static const double negative[] = {.5, -.5}, nan[] = {.5, NAN}, zero[] = {0, 0}, five[] = {1, 1, 1, 1, 1};
    static const struct {
        sl_draft_q q;
        const char *text;
    } bad[] = {
        {{SL_SIZE(sl_draft_q), down, half, 2}, "draft node 0: id 0 of q is not ascending within [0, 4)"},
        {{SL_SIZE(sl_draft_q), far, half, 2}, "draft node 0: id 4 of q is not ascending within [0, 4)"},
        {{SL_SIZE(sl_draft_q), up, negative, 2}, "draft node 0: q has the weight -0.5 for token 2"},
        {{SL_SIZE(sl_draft_q), NULL, nan, 2}, "draft node 0: q has the weight nan for token 1"},
        {{SL_SIZE(sl_draft_q), NULL, zero, 2}, "draft node 0: the weights of q have the sum 0"},
        {{SL_SIZE(sl_draft_q), NULL, five, 5}, "draft node 0: q has 5 entries, expected 1 to 4"},
        {{SL_SIZE(sl_draft_q), up, half, 2},
         "draft node 0: its child 1 has probability 0 in the q it is said to be drawn from"},
    };
    toy t;
    toy_open(&t, 4);
    toy_fill_known(&t);
    const sli_sampling how = {.temperature = 1};
    const sli_random random = sli_random_seeded(&how.seed);
    for (int i = 0; i < N(bad); i++)
        for (uint32_t kind = SL_DRAFT_REP; kind <= SL_DRAFT_NOREP; kind++) {
            SL_ERROR(err);
            sli_tree tree;
            const int32_t token[] = {3, 1}, parent[] = {-1, 0};
            const uint32_t kinds[] = {0, kind};
            const sl_draft_q *const q[] = {&bad[i].q, NULL};
            const sl_tree draft = {
                .struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .kind = kinds, .q = q, .n_nodes = 2};
            assert_int_equal(sli_tree_build(&draft, 3, 4, &tree, &err), SL_OK);
            toy_rows rows = {&t, &tree, {0}};
            const sli_verify_job job = {&tree, &how, &random, token, 1, toy_logits, &rows, SLI_FORM_A};
            int32_t path[2], n_path, next;
            assert_int_equal(sli_verify(t.verifier, t.sampler, &job, path, &n_path, &next, &err), SL_E_DATA);
            assert_string_equal(err.text, bad[i].text);
        }
    toy_close(&t);
}

static void names_the_row_of_bad_logits(void **state) {
    (void)state;
    SL_ERROR(err);
    toy t;
    toy_open(&t, 4);
    for (int c = 0; c < 4; c++)
        for (int v = 0; v < 4; v++)
            t.target[c][v] = v == c + 1 ? 9 : 0;
    t.target[2][3] = NAN; /* looked at after 0 -> 1 -> 2 */
    sli_tree tree;
    const int32_t token[] = {0, 3, 1, 2}, parent[] = {-1, 0, 0, 2};
    const sl_tree draft = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 4};
    assert_int_equal(sli_tree_build(&draft, 0, 4, &tree, &err), SL_OK);
    toy_rows rows = {&t, &tree, {0}};
    const sli_sampling greedy = {.temperature = 0};
    const sli_random random = sli_random_seeded(&greedy.seed);
    const sli_verify_job job = {&tree, &greedy, &random, token, 1, toy_logits, &rows, SLI_FORM_A};
    int32_t path[4], n_path, next;
    assert_int_equal(sli_verify(t.verifier, t.sampler, &job, path, &n_path, &next, &err), SL_E_DATA);
    assert_string_equal(err.text, "logits row 3: token 3 has the value nan");
    toy_close(&t);
}

static void forced_nodes_lead_the_path(void **state) {
    (void)state;
    SL_ERROR(err);
    toy t;
    toy_open(&t, 5);
    for (int c = 0; c < 5; c++)
        for (int v = 0; v < 5; v++)
            t.target[c][v] = v == (c + 1) % 5 ? 9 : 0;
    sli_tree tree;
    /* Committed: 4 2 2 3; 2, 2 and 3 are still without K/V. The draft goes on with 4 0 2. */
    const int32_t committed[] = {4, 2, 2, 3}, token[] = {2, 2, 3, 1, 4, 0, 2}, parent[] = {-1, 0, 1, 2, 2, 4, 5};
    const sl_tree draft = {
        .struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 7, .n_forced = 2};
    assert_int_equal(sli_tree_build(&draft, 2, 5, &tree, &err), SL_OK);
    toy_rows rows = {&t, &tree, {0}};
    const sli_sampling greedy = {.temperature = 0};
    const sli_random random = sli_random_seeded(&greedy.seed);
    const sli_verify_job job = {&tree, &greedy, &random, committed, 4, toy_logits, &rows, SLI_FORM_A};
    int32_t path[7], n_path, next;
    assert_int_equal(sli_verify(t.verifier, t.sampler, &job, path, &n_path, &next, &err), SL_OK);
    const int32_t expected[] = {0, 1, 2, 4, 5};
    assert_int_equal(n_path, 5);
    assert_memory_equal(path, expected, sizeof expected);
    assert_int_equal(next, 1);
    toy_close(&t);
}

/* ---- draws of a drafter ------------------------------------------------------------------------------------------ */

static void draws_are_counted_and_put_back(void **state) {
    (void)state;
    SL_ERROR(err);
    const sli_seed seed = {99, 1, 1}; /* a race changes nothing about drafts */
    const sli_random random = sli_random_seeded(&seed);
    sli_draft_draw d = {&random, 42, 0};
    const int32_t id[] = {3, 7, 20, 21};
    double weight[] = {1, 0, 2, 5}, before[4];
    int32_t token[6], n;
    memcpy(before, weight, sizeof before);
    assert_int_equal(sli_draft_draw_children(&d, SL_DRAFT_NOREP, id, weight, 4, 6, token, &n, &err), SL_OK);
    assert_int_equal(n, 3); /* no more have a positive weight */
    assert_memory_equal(weight, before, sizeof before);
    assert_int_equal(d.count, 3);
    double u = sli_rng_uniform(99, 1, 42, SL_RNG_DRAFT, 0) * 8;
    assert_int_equal(token[0], u < 1 ? 3 : u < 3 ? 20 : 21);
    assert_int_equal(sli_draft_draw_children(&d, SL_DRAFT_REP, id, weight, 4, 5, token, &n, &err), SL_OK);
    assert_int_equal(n, 5);
    assert_int_equal(d.count, 8);
    for (uint32_t i = 0; i < 5; i++) {
        u = sli_rng_uniform(99, 1, 42, SL_RNG_DRAFT, 3 + i) * 8;
        assert_int_equal(token[i], u < 1 ? 3 : u < 3 ? 20 : 21);
    }
    const sl_draft_q q = {SL_SIZE(sl_draft_q), id, weight, 4};
    assert_int_equal(sli_draft_draw_one(&d, &q, token, &err), SL_OK);
    assert_int_equal(d.count, 9);
    const double nothing[2] = {0, 0}, negative[2] = {1, -1};
    const int32_t down[2] = {4, 4};
    const sl_draft_q bad[] = {{SL_SIZE(sl_draft_q), NULL, nothing, 2},
                              {SL_SIZE(sl_draft_q), NULL, negative, 2},
                              {SL_SIZE(sl_draft_q), down, half, 2},
                              {SL_SIZE(sl_draft_q), NULL, half, 0}};
    for (int i = 0; i < N(bad); i++)
        assert_int_equal(sli_draft_draw_one(&d, &bad[i], token, &err), SL_E_DATA);
    assert_int_equal(d.count, 9);
}

static void a_verifier_allocates_only_when_created(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_verifier *v;
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (int n = 0;; n++) {
        sli_ledger_fail_after(n);
        sl_status status = sli_verifier_create(100, &v, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        sli_ledger_read(&after);
        assert_int_equal(after.total, before.total);
        assert_true(n < 20);
    }
    sli_verifier_destroy(v);
    sli_verifier_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tree_without_duplicates_keeps_its_numbers),
        cmocka_unit_test(duplicates_share_rows),
        cmocka_unit_test(pseudo_nodes_are_rows_and_nothing_else),
        cmocka_unit_test(refuses_what_is_no_tree),
        cmocka_unit_test(refuses_a_q_that_cannot_be),
        cmocka_unit_test(names_the_row_of_bad_logits),
        cmocka_unit_test(forced_nodes_lead_the_path),
        cmocka_unit_test(draws_are_counted_and_put_back),
        cmocka_unit_test(a_verifier_allocates_only_when_created),
    };
    return cmocka_run_group_tests_name("draft_tree", tests, NULL, NULL);
}
