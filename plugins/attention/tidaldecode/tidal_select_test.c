/* Selection on plain arrays against brute force: top-k with ties, splits of a budget, rank-major union, list lifetimes,
 * roles. */
#include "sl_test.h"

#include "tidal_lists.h"
#include "tidal_roles.h"
#include "tidal_select.h"

#include "device/cpu/cpu_ops.h"
#include "sl_error.h"

/* The code under test is that of the package, compiled into this program. */
#include "tidal_lists.c"
#include "tidal_roles.c"
#include "tidal_select.c"

/* ---- top-k ----------------------------------------------------------------------------------------------------- */

static int better(const float *x, int64_t a, int64_t b) {
    float va = x[a] == x[a] ? x[a] : -INFINITY, vb = x[b] == x[b] ? x[b] : -INFINITY;
    if (x[a] != x[a] && x[b] == x[b])
        return 0; /* NaN is below everything, -inf included */
    if (x[a] == x[a] && x[b] != x[b])
        return 1;
    return va > vb || (va == vb && a < b);
}

/* i is among the k best if fewer than k others are better. */
static int64_t brute_topk(const float *x, int64_t n, int64_t k, int32_t *out) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t above = 0;
        for (int64_t j = 0; j < n; j++)
            above += j != i && better(x, j, i);
        if (above < k)
            out[found++] = (int32_t)i;
    }
    return found;
}

/* Scores that f16 cannot tell apart are equal: the lower position wins. */
static void half_scores_tie(void **state) {
    (void)state;
    float x[700];
    uint32_t bins[TIDAL_BINS];
    int32_t best;
    for (int i = 0; i < 700; i++)
        x[i] = 4 + (i == 300 ? 1e-3f : i == 500 ? 1.5e-3f : i == 600 ? 1.9e-3f : -1.0f);
    assert_int_equal(tidal_topk(x, 700, 1, bins, &best), 1);
    assert_int_equal(best, 600);
    tidal_round_half(&sli_ops_cpu, x, 700); /* steps of 2^-8 there */
    assert_true(x[300] == 4 && x[500] == 4 && x[600] == 4 && x[0] == 3);
    assert_int_equal(tidal_topk(x, 700, 1, bins, &best), 1);
    assert_int_equal(best, 300);
}

static void topk_equals_brute_force(void **state) {
    (void)state;
    enum { N = 700 };
    float x[N];
    int32_t want[N], got[N];
    uint32_t bins[TIDAL_BINS];
    uint64_t seed = 42;
    for (int trial = 0; trial < 400; trial++) {
        int64_t n = 1 + (int64_t)(test_next(&seed) % N), k = (int64_t)(test_next(&seed) % (uint64_t)(n + 3));
        int kind = trial % 5;
        for (int64_t i = 0; i < n; i++) {
            float v = test_normal(&seed);
            x[i] = kind == 0   ? v
                   : kind == 1 ? floorf(v * 2)                         /* many ties */
                   : kind == 2 ? (float)(test_next(&seed) % 3) * -0.0f /* zeros of both signs */
                   : kind == 3 ? v * 1e-40f                            /* denormals */
                               : (test_next(&seed) % 4 == 0   ? (float)NAN
                                  : test_next(&seed) % 4 == 0 ? -INFINITY
                                                              : v);
        }
        memset(bins, 0xa5, sizeof bins);
        int64_t m = tidal_topk(x, n, k, bins, got);
        assert_int_equal(m, k < n ? k : n);
        assert_int_equal(m, brute_topk(x, n, k, want));
        assert_memory_equal(want, got, sizeof *want * (size_t)m);
    }
}

static void reductions_are_elementwise(void **state) {
    (void)state;
    float y[5] = {1, 2, 3, -INFINITY, 5}, x[5] = {2, 1, 3, -1, -INFINITY}, want[5] = {2, 2, 3, -1, 5};
    tidal_max(y, x, 5);
    assert_memory_equal(y, want, sizeof y);
    float p[3] = {0, 0, 0}, s[3] = {0.5f, -1, 2};
    float lse = logf(expf(0.5f) + expf(-1) + expf(2));
    tidal_add_softmax(p, s, lse, 3);
    assert_true(fabsf(p[0] + p[1] + p[2] - 1) < 1e-6f);
    assert_true(p[2] > p[0] && p[0] > p[1]);
}

/* ---- lists of several heads ------------------------------------------------------------------------------------ */

static void interleave_takes_rank_by_rank(void **state) {
    (void)state;
    uint8_t marks[16];
    int32_t out[8];
    const int32_t a[] = {9, 1, 5, 7, /* */ 9, 2, 5, 0};                     /* two heads, four best each */
    assert_int_equal(tidal_interleave(a, 2, 4, 4, 16, 100, marks, out), 4); /* 9, (9), 1, 2, 5 */
    assert_memory_equal(out, ((int32_t[]){101, 102, 105, 109}), sizeof(int32_t) * 4);
    assert_int_equal(tidal_interleave(a, 2, 2, 4, 16, 0, marks, out), 2); /* 9, (9), 1: full before head 1's second */
    assert_memory_equal(out, ((int32_t[]){1, 9}), sizeof(int32_t) * 2);
    assert_int_equal(tidal_interleave(a, 1, 4, 4, 16, 0, marks, out), 4);
    assert_memory_equal(out, ((int32_t[]){1, 5, 7, 9}), sizeof(int32_t) * 4);
}

static void budget_is_split_as_said(void **state) {
    (void)state;
    const struct {
        tidal_rule rule;
        int64_t sinks, middle, recents;
    } cases[] = {
        {{64, 64, 0, 1, TIDAL_QUERY, 1}, 0, 63, 1},
        {{64, 64, 0, 1, TIDAL_KV_GROUP, 0}, 0, 64, 0},
        {{64, 64, 0, 1, TIDAL_LAYER, 1}, 0, 63, 1},
        {{64, 64, 4, 1, TIDAL_LAYER, 0}, 0, 64, 0}, /* no room for sinks */
        {{64, 64, 4, 0.75, TIDAL_LAYER, 1}, 4, 48, 12},
        {{64, 64, 17, 0.75, TIDAL_LAYER, 1}, 0, 48, 16}, /* sinks do not fit: none */
        {{64, 64, 16, 0.75, TIDAL_LAYER, 1}, 16, 47, 1}, /* sinks take the rest: the row itself stays in */
        {{64, 64, 16, 0.75, TIDAL_LAYER, 0}, 16, 48, 0},
        {{64, 64, 4, 0, TIDAL_LAYER, 1}, 4, 0, 60},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tidal_split s = tidal_split_of(&cases[i].rule);
        assert_int_equal(s.sinks, cases[i].sinks);
        assert_int_equal(s.middle, cases[i].middle);
        assert_int_equal(s.recents, cases[i].recents);
        assert_int_equal(s.sinks + s.middle + s.recents, 64);
    }
}

/* ---- lifetimes ------------------------------------------------------------------------------------------------- */

static void lists_live_for_one_owner_of_one_step(void **state) {
    (void)state;
    int32_t slot[8] = {0};
    int64_t begin[9];
    uint64_t stamp[8] = {0};
    uint8_t everything[4];
    tidal_lists l = {.begin = begin, .slot = slot, .stamp = stamp, .everything = everything, .max_slots = 4};
    assert_int_equal(tidal_lists_find(&l, 0, 0, 0, 1), -1); /* nothing was ever made */
    tidal_lists_begin(&l, 7, 2, 2, 3);
    assert_int_equal(tidal_lists_add(&l, 3, 0), 0);
    begin[1] = 10, begin[2] = 20;
    assert_int_equal(tidal_lists_add(&l, 4, 0), 1);
    assert_int_equal(begin[3], 20);
    assert_int_equal(begin[4], 20);
    assert_int_equal(tidal_lists_find(&l, 7, 2, 3, 2), 0);
    assert_int_equal(tidal_lists_find(&l, 7, 2, 4, 1), 1);
    assert_int_equal(tidal_lists_find(&l, 7, 2, 4, 2), -1); /* row 5 has none */
    assert_int_equal(tidal_lists_find(&l, 8, 2, 3, 2), -1); /* another step */
    assert_int_equal(tidal_lists_find(&l, 7, 5, 3, 2), -1); /* another owner */
    tidal_lists_begin(&l, 7, 2, 2, 6);                      /* more rows of the same: what is there stays */
    assert_int_equal(tidal_lists_add(&l, 6, 1), 2);
    assert_int_equal(tidal_lists_find(&l, 7, 2, 3, 2), 0);
    assert_int_equal(tidal_lists_add(&l, 0, 1), 3);
    assert_int_equal(tidal_lists_add(&l, 1, 1), -1); /* full */
    tidal_lists_begin(&l, 7, 5, 2, 3);
    assert_int_equal(tidal_lists_find(&l, 7, 2, 3, 1), -1);
    assert_int_equal(tidal_lists_find(&l, 7, 5, 3, 1), -1);
    assert_int_equal(tidal_lists_add(&l, 3, 0), 0);
    tidal_lists_begin(&l, 7, 5, 2, 3); /* a row that has a list gets another: all begin anew */
    assert_int_equal(tidal_lists_find(&l, 7, 5, 3, 1), -1);
}

/* ---- roles ----------------------------------------------------------------------------------------------------- */

enum { MOST = 40 };
typedef struct fake {
    sl_layer_info info[MOST];
    const sl_layer_info *layers[MOST];
    sl_model_info model;
} fake;

static void fake_model(fake *f, int32_t n) {
    *f = (fake){.model = {.layers = f->layers, .n_layers = n}};
    for (int32_t l = 0; l < n; l++) {
        f->info[l] = (sl_layer_info){.n_heads = 8, .n_kv_heads = 4, .head_dim = 64};
        f->layers[l] = &f->info[l];
    }
}

static void roles_follow_the_rule(void **state) {
    (void)state;
    const struct {
        int32_t n;
        int64_t start;
        const char *text, *calibrated, *want; /* d dense, s select, . sparse */
    } cases[] = {
        {12, 2, "auto", NULL, "dds.s......."}, {32, 2, "auto", NULL, "dds..........s.................."},
        {6, 2, "auto", NULL, "ddss.."},        {6, 4, "auto", NULL, "ddddss"},
        {6, 2, "none", NULL, "dds..."},        {6, 1, "3,5", NULL, "ds.s.s"},
        {6, 2, "3, 4 ,5", NULL, "ddssss"},     {6, 2, "auto", "5", "dds..s"},
        {6, 2, "auto", "none", "dds..."},      {3, 1, "auto", NULL, "dss"},
    };
    fake f;
    tidal_role roles[MOST];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        fake_model(&f, cases[i].n);
        assert_int_equal(
            tidal_roles_make(&f.model, cases[i].start, cases[i].text, cases[i].calibrated, TIDAL_QUERY, roles, &err),
            SL_OK);
        char got[MOST + 1] = "";
        int32_t owner = -1;
        for (int32_t l = 0; l < cases[i].n; l++) {
            got[l] = "ds."[roles[l].kind];
            owner = roles[l].kind == TIDAL_SELECT ? l : owner;
            assert_int_equal(roles[l].owner, owner);
        }
        assert_string_equal(got, cases[i].want);
    }
}

static void bad_layers_are_refused(void **state) {
    (void)state;
    const struct {
        int64_t start;
        const char *text, *says;
    } cases[] = {
        {0, "auto", "outside of 1 .. 4"},
        {5, "auto", "outside of 1 .. 4"},
        {2, "2", "outside of 3 .. 5"},
        {2, "6", "outside of 3 .. 5"},
        {2, "3,-1", "outside of 3 .. 5"},
        {2, "4,3", "must ascend"},
        {2, "3,3", "must ascend"},
        {2, "", "expected"},
        {2, "3,", "expected"},
        {2, "3 4", "expected"},
        {2, "deep", "expected"},
        {2, "99999999999999999999", "expected"},
    };
    fake f;
    tidal_role roles[MOST];
    fake_model(&f, 6);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        assert_true(tidal_roles_make(&f.model, cases[i].start, cases[i].text, NULL, TIDAL_QUERY, roles, &err) < 0);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("%s: %s", cases[i].text, err.text);
    }
    SL_ERROR(err);
    fake_model(&f, 2);
    assert_int_equal(tidal_roles_make(&f.model, 1, "auto", NULL, TIDAL_QUERY, roles, &err), SL_E_RANGE);
}

static void odd_layers_stay_dense_or_are_refused(void **state) {
    (void)state;
    fake f;
    tidal_role roles[MOST];
    SL_ERROR(err);
    fake_model(&f, 12);
    f.info[3].window = f.info[4].window = 128;
    assert_int_equal(tidal_roles_make(&f.model, 2, "auto", NULL, TIDAL_KV_GROUP, roles, &err), SL_OK);
    assert_int_equal(roles[3].kind, TIDAL_DENSE);
    assert_int_equal(roles[4].kind, TIDAL_DENSE);
    assert_int_equal(roles[5].kind, TIDAL_SELECT); /* the rule's layer 4 cannot */
    assert_int_equal(tidal_roles_make(&f.model, 3, "auto", NULL, TIDAL_KV_GROUP, roles, &err), SL_E_INVALID);
    fake_model(&f, 12);
    f.info[7].n_heads = 16;
    assert_int_equal(tidal_roles_make(&f.model, 2, "auto", NULL, TIDAL_QUERY, roles, &err), SL_E_INVALID);
    assert_int_equal(tidal_roles_make(&f.model, 2, "auto", NULL, TIDAL_KV_GROUP, roles, &err), SL_OK);
    f.info[7].n_kv_heads = 8;
    assert_int_equal(tidal_roles_make(&f.model, 2, "auto", NULL, TIDAL_KV_GROUP, roles, &err), SL_E_INVALID);
    assert_int_equal(tidal_roles_make(&f.model, 2, "auto", NULL, TIDAL_LAYER, roles, &err), SL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_scores_tie),
        cmocka_unit_test(topk_equals_brute_force),
        cmocka_unit_test(reductions_are_elementwise),
        cmocka_unit_test(interleave_takes_rank_by_rank),
        cmocka_unit_test(budget_is_split_as_said),
        cmocka_unit_test(lists_live_for_one_owner_of_one_step),
        cmocka_unit_test(roles_follow_the_rule),
        cmocka_unit_test(bad_layers_are_refused),
        cmocka_unit_test(odd_layers_stay_dense_or_are_refused),
    };
    return cmocka_run_group_tests_name("tidal_select", tests, NULL, NULL);
}
