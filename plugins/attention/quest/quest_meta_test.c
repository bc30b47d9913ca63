/* Bounds of pages on plain arrays: above every score, by brute force; the same bits however they came about; forks,
 * cuts and memory. */
#include "test_host.h"

#include "device/cpu/cpu_ops.h"

/* The code under test is that of the package, compiled into this program. */
#include "quest_meta.c"
#include "quest_score.c"

enum { K = 2, D = 20, LAYERS = 3, P = 8, MAX = 4 * P * QUEST_BLOCK_PAGES };

static test_host host;
static sl_layer_info layer_info = {
    .struct_size = SL_SIZE(sl_layer_info), .n_heads = 4, .n_kv_heads = K, .head_dim = D, .v_head_dim = D};
static const sl_layer_info *infos[] = {&layer_info, &layer_info, &layer_info};
static const sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .layers = infos, .n_layers = LAYERS};
static const uint8_t kept[] = {0, 1, 1};
static sl_dtype dtype[LAYERS];

static void make(quest_meta *m, sl_dtype type) {
    test_host_init(&host);
    for (int l = 0; l < LAYERS; l++)
        dtype[l] = type;
    *m = (quest_meta){.host = &host.host,
                      .mem = &host.mem,
                      .ops = &sli_ops_cpu,
                      .model = &model,
                      .kept = kept,
                      .dtype = dtype,
                      .page = P,
                      .max_tokens = MAX,
                      .max_seqs = 4};
    assert_int_equal(quest_meta_create(m), SL_OK);
}

static void finish(quest_meta *m) {
    quest_meta_destroy(m);
    assert_int_equal(host.n_live, 0);
}

static const float *key_of(int64_t t, int layer, int head) {
    static float key[D];
    uint64_t seed = (uint64_t)(t * 100 + layer * 10 + head + 1) * 0x9e3779b97f4a7c15u;
    for (int c = 0; c < D; c++)
        key[c] = test_normal(&seed) * (c == 3 ? 1e6f : c == 4 ? 1e-9f : c == 5 ? 0 : 3);
    return key;
}

/* What quest_select.c does, key by key. */
static void add(quest_meta *m, int32_t seq, int64_t to) {
    float buffer[2 * D];
    for (int32_t l = 0; l < LAYERS; l++) {
        if (!kept[l])
            continue;
        int64_t end = quest_meta_room(m, seq, l, to);
        for (int64_t t = quest_meta_done(m, seq, l); t < end; t++)
            for (int32_t h = 0; h < K; h++)
                quest_meta_add(m, seq, l, h, t, key_of(t, l, h), buffer);
        if (end > m->seqs[seq].n[l])
            m->seqs[seq].n[l] = end;
    }
}

static void new_seq(quest_meta *m, int32_t seq, int64_t n) {
    assert_int_equal(quest_meta_open(m, seq, -1, 0), SL_OK);
    assert_int_equal(quest_meta_grow(m, seq, n), SL_OK);
}

static void same_bounds(const quest_meta *m, int32_t a, int32_t b, int64_t n_pages) {
    float x[2 * D], y[2 * D];
    for (int32_t l = 1; l < LAYERS; l++)
        for (int32_t h = 0; h < K; h++)
            for (int64_t page = 0; page < n_pages; page++) {
                quest_meta_read(m, a, l, h, page, x);
                quest_meta_read(m, b, l, h, page, y);
                assert_memory_equal(x, y, sizeof x);
            }
}

static const sl_dtype types[] = {SL_F32, SL_F16, SL_BF16};

/* u >= q k for every key of a page, in double precision, with keys outside of the type's range. */
static void bounds_are_above_every_score(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        quest_meta m;
        make(&m, types[i]);
        new_seq(&m, 0, 100);
        add(&m, 0, 100);
        uint64_t seed = 7;
        for (int trial = 0; trial < 200; trial++) {
            float q[D], bounds[2 * D];
            int64_t page = trial % (100 / P);
            int head = trial % K;
            for (int c = 0; c < D; c++)
                q[c] = trial % 7 == c % 7 ? 0 : test_normal(&seed);
            quest_meta_read(&m, 0, 1, head, page, bounds);
            double most = -INFINITY, exact = 0, size = 0;
            for (int64_t t = page * P; t < (page + 1) * P; t++) {
                double dot = 0;
                const float *k = key_of(t, 1, head);
                for (int c = 0; c < D; c++) {
                    dot += (double)q[c] * k[c];
                    assert_true(bounds[c] >= k[c] && bounds[D + c] <= k[c]);
                }
                most = dot > most ? dot : most;
            }
            for (int c = 0; c < D; c++)
                if (q[c] != 0) {
                    exact += fmax((double)q[c] * bounds[c], (double)q[c] * bounds[D + c]);
                    size += fabs((double)q[c]) * fmax(fabs((double)bounds[c]), fabs((double)bounds[D + c]));
                }
            assert_true(exact >= most);
            float got = quest_bound(q, bounds, D);
            if (isinf(exact))
                assert_true(got == (float)INFINITY);
            else
                assert_true(fabs((double)got - exact) <= 1e-5 * size);
        }
        finish(&m);
    }
}

/* One key a page: the bound is the score, whatever the sign of q. */
static void a_page_of_one_key_is_exact(void **state) {
    (void)state;
    float key[2 * D], q[D], dot = 0;
    uint64_t seed = 3;
    for (int c = 0; c < D; c++)
        q[c] = test_normal(&seed), key[c] = test_normal(&seed);
    quest_widen(key, (float[D]){0}, D, 0); /* not the first: zeros are taken in */
    for (int c = 0; c < D; c++)
        q[c] = c % 2 ? q[c] : -q[c];
    float plain[D];
    for (int c = 0; c < D; c++)
        plain[c] = test_normal(&seed);
    quest_widen(key, plain, D, 1);
    for (int c = 0; c < D; c++)
        dot += q[c] * plain[c];
    assert_true(fabsf(quest_bound(q, key, D) - dot) < 1e-5f);
}

static void rounding_is_outward_and_idle_on_what_fits(void **state) {
    (void)state;
    static const float some[] = {0,     -0.0f,  1,     -1,     1.0001f, -1.0001f, 65504,     65505,   1e6f, -1e6f,
                                 1e-8f, -1e-8f, 3e38f, -3e38f, 1e-41f,  6.1e-5f,  -5.96e-8f, 2048.5f, -2049};
    for (size_t i = 1; i < 3; i++)
        for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
            float x[2] = {some[k], some[k]}, again[2];
            quest_round_out(&sli_ops_cpu, types[i], x, 1);
            assert_true(x[0] >= some[k] && x[1] <= some[k]);
            memcpy(again, x, sizeof x);
            quest_round_out(&sli_ops_cpu, types[i], again, 1);
            assert_memory_equal(again, x, sizeof x);
            uint16_t bits;
            float nearest;
            sli_ops_cpu.convert(&bits, types[i], &some[k], SL_F32, 1);
            sli_ops_cpu.convert(&nearest, SL_F32, &bits, types[i], 1);
            assert_true(x[0] == nearest || x[1] == nearest); /* as close as can be */
        }
}

/* At once, token by token, and anew after cuts: equal bits. */
static void history_does_not_matter(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        quest_meta m;
        make(&m, types[i]);
        for (int32_t s = 0; s < 3; s++)
            new_seq(&m, s, 200);
        add(&m, 0, 200);
        for (int64_t n = 1; n <= 200; n++)
            add(&m, 1, n);
        same_bounds(&m, 0, 1, 200 / P);
        static const int64_t cuts[] = {199, 160, 157, 33, 8, 7, 0};
        add(&m, 2, 200);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            quest_meta_cut(&m, 2, -1, cuts[c]);
            assert_int_equal(quest_meta_done(&m, 2, 1), cuts[c] / P * P);
            add(&m, 2, cuts[c] + 5);
            add(&m, 2, 200);
            same_bounds(&m, 0, 2, 200 / P);
        }
        quest_meta_cut(&m, 2, 1, 50); /* of one layer */
        assert_int_equal(quest_meta_done(&m, 2, 1), 48);
        assert_int_equal(quest_meta_done(&m, 2, 2), 200);
        finish(&m);
    }
}

/* Parent and child share full blocks, neither sees what the other writes, wherever the fork is. */
static void forks_share_and_do_not_disturb(void **state) {
    (void)state;
    static const int64_t places[] = {P * QUEST_BLOCK_PAGES, 2 * P * QUEST_BLOCK_PAGES, 150, 133, 1, 0};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        quest_meta m;
        make(&m, SL_F16);
        int64_t n = 2 * P * QUEST_BLOCK_PAGES, at = places[i], far = n + 40;
        new_seq(&m, 0, n);
        add(&m, 0, n);
        new_seq(&m, 2, far);
        add(&m, 2, far);
        int64_t before = host.n_live;
        assert_int_equal(quest_meta_open(&m, 1, 0, at), SL_OK);
        assert_true(host.n_live - before <= 1); /* the last block, if it is only partly the parent's */
        assert_int_equal(quest_meta_done(&m, 1, 1), at / P * P);
        assert_int_equal(quest_meta_grow(&m, 1, far), SL_OK);
        assert_int_equal(quest_meta_grow(&m, 0, far), SL_OK);
        /* the child cuts itself and goes another way: keys of other tokens */
        quest_meta_cut(&m, 1, -1, at / 2);
        float buffer[2 * D];
        int64_t end = quest_meta_room(&m, 1, 1, far);
        for (int64_t t = quest_meta_done(&m, 1, 1); t < end; t++)
            for (int32_t h = 0; h < K; h++)
                quest_meta_add(&m, 1, 1, h, t, key_of(t + 1000, 1, h), buffer);
        if (at / 2 / (P * QUEST_BLOCK_PAGES) < at / (P * QUEST_BLOCK_PAGES) && at > 0)
            assert_true(end < far); /* shared blocks are not written ... */
        quest_meta_cut(&m, 1, -1, at / 2);
        assert_int_equal(quest_meta_grow(&m, 1, far), SL_OK);
        assert_int_equal(quest_meta_room(&m, 1, 1, far), far); /* ... until they are its own */
        add(&m, 0, far);
        same_bounds(&m, 0, 2, far / P);
        quest_meta_close(&m, 0);
        add(&m, 1, far);
        same_bounds(&m, 1, 2, far / P);
        finish(&m);
    }
}

static void no_memory_changes_nothing(void **state) {
    (void)state;
    quest_meta m;
    make(&m, SL_F32);
    new_seq(&m, 0, 100);
    add(&m, 0, 100);
    int64_t held = m.seqs[0].n_blocks, live = host.bytes_live;
    host.budget = live + m.block_bytes / 2;
    assert_int_equal(quest_meta_grow(&m, 0, MAX), SL_E_NO_MEMORY);
    assert_int_equal(m.seqs[0].n_blocks, held);
    assert_int_equal(quest_meta_open(&m, 1, 0, 90), SL_E_NO_MEMORY);
    assert_int_equal(m.seqs[1].is_open, 0);
    assert_int_equal(m.seqs[0].blocks[0]->refs, 1);
    host.budget = -1;
    assert_int_equal(quest_meta_grow(&m, 0, MAX), SL_OK);
    assert_int_equal(m.seqs[0].n_blocks, m.max_blocks);
    assert_int_equal(host.bytes_live, m.max_blocks * (64 + m.block_bytes)); /* 4 D bytes (f32: 8 D) a head and page */
    assert_int_equal(m.block_bytes, 2 * QUEST_BLOCK_PAGES * K * 2 * D * 4);
    assert_int_equal(quest_meta_open(&m, 0, -1, 0), SL_E_STATE);
    assert_int_equal(quest_meta_open(&m, 2, 3, 0), SL_E_STATE);
    quest_meta_close(&m, 3); /* not open: nothing happens */
    finish(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_are_above_every_score),
        cmocka_unit_test(a_page_of_one_key_is_exact),
        cmocka_unit_test(rounding_is_outward_and_idle_on_what_fits),
        cmocka_unit_test(history_does_not_matter),
        cmocka_unit_test(forks_share_and_do_not_disturb),
        cmocka_unit_test(no_memory_changes_nothing),
    };
    return cmocka_run_group_tests_name("quest_meta", tests, NULL, NULL);
}
