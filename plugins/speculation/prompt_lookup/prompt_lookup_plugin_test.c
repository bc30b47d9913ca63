/* prompt_lookup: the search against the rule written down as plainly as possible, and the drafts that come of it. */
#include "lookup.c"
#include "prompt_lookup.c"

#include "test_host.h"

/* ---- the search ---------------------------------------------------------------------------------------------------
 */

static int same(const int32_t *a, const int32_t *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

/* The rule: for n = ngram_max .. ngram_min, occurrences at i of the last n tokens with i + n < L - n, and with a full
 * window i + n + n_pred <= L; the earliest or the latest one. No occurrence: the next smaller n. */
static int64_t brute_force(const int32_t *t, int64_t L, int most, int least, int64_t n_pred, int latest, int full,
                           int64_t *begin) {
    for (int64_t n = most; n >= least; n--) {
        int64_t found = -1;
        for (int64_t i = 0; i < L; i++) {
            int counts = i + n < L - n && (!full || i + n + n_pred <= L) && same(t + i, t + L - n, n);
            if (counts && (found < 0 || latest))
                found = i;
        }
        if (found < 0)
            continue;
        *begin = found + n;
        return L - *begin < n_pred ? L - *begin : n_pred;
    }
    return 0;
}

static void test_search(void **state) {
    (void)state;
    uint64_t seed = 20250;
    int64_t hits = 0, misses = 0;
    for (int round = 0; round < 200000; round++) {
        int32_t t[48];
        int64_t n = 1 + (int64_t)(test_next(&seed) % 48);
        int32_t vocab = 1 + (int32_t)(test_next(&seed) % 6);
        for (int64_t i = 0; i < n; i++)
            t[i] = (int32_t)(test_next(&seed) % (uint64_t)vocab);
        int most = 1 + (int)(test_next(&seed) % 5), least = 1 + (int)(test_next(&seed) % (uint64_t)most);
        int64_t n_pred = 1 + (int64_t)(test_next(&seed) % 12), begin = -1, expected = -1;
        int latest = (int)(test_next(&seed) % 2), full = (int)(test_next(&seed) % 2);
        int64_t got = lookup_find(t, n, most, least, n_pred, latest ? LOOKUP_LATEST : LOOKUP_EARLIEST, full, &begin);
        int64_t want = brute_force(t, n, most, least, n_pred, latest, full, &expected);
        if (got != want || (want > 0 && begin != expected))
            fail_msg(
                "round %d, %lld tokens, n-grams %d to %d, %lld wanted%s%s: %lld tokens at %lld, expected %lld at %lld",
                round, (long long)n, most, least, (long long)n_pred, latest ? ", latest" : "",
                full ? ", full window" : "", (long long)got, (long long)begin, (long long)want, (long long)expected);
        hits += want > 0;
        misses += want == 0;
    }
    assert_true(hits > 20000 && misses > 20000);
}

/* ---- drafts ---------------------------------------------------------------------------------------------------------
 */

typedef struct drafter {
    test_host host;
    sl_instance *self;
    const sl_speculation *api;
} drafter;

static void open_drafter(drafter *d, const char *const *sets) {
    const sl_plugin *p = &plugin;
    test_host_init(&d->host);
    sl_params *values = test_params(p, sets);
    sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .vocab = 1000};
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &d->host.host, .model = &model, .params = values};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = 1000,
                        .max_rows = 64,
                        .max_seqs = 3,
                        .max_tree = 16,
                        .n_workers = 1};
    assert_int_equal(p->create(&args, &d->self, NULL), SL_OK);
    assert_int_equal(p->activate(d->self, &limits, NULL), SL_OK);
    d->api = p->query(d->self, SL_SPECULATION_ID);
    assert_non_null(d->api);
    assert_null(p->query(d->self, "sl.speculation/2"));
    test_params_free(values);
}

static void close_drafter(drafter *d) {
    plugin.deactivate(d->self);
    plugin.destroy(d->self);
    assert_int_equal(d->host.n_live, 0);
}

static sl_spec_seq seq_of(const int32_t *token, int64_t n, int32_t max_nodes, int32_t max_depth) {
    return (sl_spec_seq){
        .struct_size = SL_SIZE(sl_spec_seq), .token = token, .n = n, .max_nodes = max_nodes, .max_depth = max_depth};
}

static void test_drafts(void **state) {
    (void)state;
    drafter d;
    open_drafter(&d, (const char *const[]){"num_pred=4", NULL});
    sl_spec_caps offered = {.struct_size = SL_SIZE(sl_spec_caps)};
    assert_int_equal(d.api->caps(d.self, &offered), SL_OK);
    assert_int_equal(offered.max_nodes, 5);
    assert_int_equal(offered.kinds, 1u << SL_DRAFT_DET);
    assert_int_equal(offered.lossless, 1);
    /* behind 7 8 9 come 1 2 3 4; nothing of b occurs twice; c has room for two tokens only */
    static const int32_t a[] = {7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9}, b[] = {1, 2, 3, 4, 5}, c[] = {5, 1, 2, 3, 4, 5};
    const sl_spec_seq seqs[] = {seq_of(a, 12, 16, 16), seq_of(b, 5, 16, 16), seq_of(c, 6, 16, 2)};
    const sl_spec_seq *list[] = {&seqs[0], &seqs[1], &seqs[2]};
    sl_propose io = {.struct_size = SL_SIZE(sl_propose), .seqs = list, .n_seqs = 3};
    assert_int_equal(d.api->propose(d.self, &io, NULL), SL_OK);
    const sl_tree *t = io.trees[0];
    static const int32_t tokens[] = {9, 1, 2, 3, 4};
    assert_int_equal(t->n_nodes, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(t->token[i], tokens[i]);
        assert_int_equal(t->parent[i], i - 1);
    }
    assert_true(t->kind == NULL && t->q == NULL); /* DET, without any distribution */
    assert_null(io.trees[1]);
    assert_int_equal(io.trees[2]->n_nodes, 3);
    assert_int_equal(io.trees[2]->token[0], 5);
    assert_int_equal(io.trees[2]->token[2], 2);
    close_drafter(&d);
}

static void test_limits(void **state) {
    (void)state;
    drafter d;
    open_drafter(&d, (const char *const[]){"num_pred=10", "full_window=no", NULL});
    static const int32_t a[] = {7, 1, 2, 3, 4, 5, 6, 7};
    static const int32_t limits[][3] = {{1, 16, 0}, {2, 16, 1}, {4, 16, 3}, {16, 0, 0}, {16, 3, 3}, {16, 16, 7}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const sl_spec_seq seq = seq_of(a, 8, limits[i][0], limits[i][1]), *list = &seq;
        sl_propose io = {.struct_size = SL_SIZE(sl_propose), .seqs = &list, .n_seqs = 1};
        assert_int_equal(d.api->propose(d.self, &io, NULL), SL_OK);
        assert_int_equal(io.trees[0] == NULL ? 0 : io.trees[0]->n_nodes - 1, limits[i][2]);
    }
    close_drafter(&d);
}

static void test_refused(void **state) {
    (void)state;
    const sl_plugin *p = &plugin;
    test_host host;
    test_host_init(&host);
    sl_params *values = test_params(p, (const char *const[]){"ngram_max=2", "ngram_min=3", NULL});
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args), .host = &host.host, .params = values};
    sl_instance *self = NULL;
    assert_true(p->create(&args, &self, NULL) < 0);
    test_params_free(values);
    p->destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search),
        cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("prompt_lookup_plugin", tests, NULL, NULL);
}
