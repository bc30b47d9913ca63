/* Selection functions that policies share, against the plainest way to say the same. */
#include "sl_test.h"

#include "sl_keep.h"
#include "sl_schedule.h"
#include "sl_error.h"

enum { N = 300 };

/* Slot i is among the k best iff fewer than k are better; ties: lower slot. */
static void top_is_what_fewer_than_k_beat(void **state) {
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < 2000; round++) {
        float score[N];
        uint8_t mark[N] = {0}, want[N] = {0};
        int32_t index[N];
        int64_t n = 1 + (int64_t)(test_uniform(&seed) * (N - 1)), begin = (int64_t)(test_uniform(&seed) * (double)n);
        int64_t end = begin + (int64_t)(test_uniform(&seed) * (double)(n - begin + 1)), k = (int64_t)(test_uniform(&seed) * (double)(n + 3)) - 1;
        int levels = round % 3 == 0 ? 3 : round % 3 == 1 ? 40 : 1 << 20; /* many ties, some, none */
        for (int64_t i = 0; i < n; i++)
            score[i] = (float)((int)(test_uniform(&seed) * levels));
        for (int64_t i = begin; i < end; i++) {
            int64_t better = 0;
            for (int64_t j = begin; j < end; j++)
                better += score[j] > score[i] || (score[j] == score[i] && j < i);
            want[i] = better < k;
        }
        sl_mark_top(score, begin, end, k, index, mark);
        assert_memory_equal(mark, want, sizeof mark);
    }
}

static void sorted_and_equal_scores_end(void **state) {
    (void)state;
    static float score[20000];
    static uint8_t mark[20000];
    static int32_t index[20000];
    for (int shape = 0; shape < 3; shape++) {
        memset(mark, 0, sizeof mark);
        for (int i = 0; i < 20000; i++)
            score[i] = shape == 0 ? 1 : shape == 1 ? (float)i : (float)-i;
        sl_mark_top(score, 0, 20000, 5000, index, mark);
        for (int i = 0; i < 20000; i++)
            assert_int_equal(mark[i], shape == 1 ? i >= 15000 : i < 5000);
    }
}

static void pooling_by_hand(void **state) {
    (void)state;
    const float x[5] = {4, 0, -6, 2, 8};
    float y[5];
    sl_pool1d(x, 5, 1, SL_POOL_AVG, y);
    assert_memory_equal(x, y, sizeof x);
    sl_pool1d(x, 5, 3, SL_POOL_AVG, y);
    const float avg[5] = {4.0f / 3, -2.0f / 3, -4.0f / 3, 4.0f / 3, 10.0f / 3};
    check_close("avg", avg, y, 5, 1e-6, 0);
    sl_pool1d(x, 5, 3, SL_POOL_MAX, y);
    const float max[5] = {4, 4, 2, 8, 8};
    assert_memory_equal(max, y, sizeof y);
    sl_pool1d(x + 2, 1, 7, SL_POOL_MAX, y); /* padding does not count, not even above a negative value */
    assert_true(y[0] == -6);
    sl_pool1d(x, 5, 9, SL_POOL_AVG, y);
    for (int i = 0; i < 5; i++)
        assert_true(fabsf(y[i] - 8.0f / 9) < 1e-6f);
}

static void groups_are_reduced(void **state) {
    (void)state;
    const float sums[4][3] = {{1, 5, 2}, {4, 0, 2}, {7, 7, 7}, {8, 6, 1}};
    float score[2];
    sl_group_scores(sums[0], 3, 4, 2, 1, SL_AGG_MAX, 2, score);
    assert_true(score[0] == 8 && score[1] == 7);
    sl_group_scores(sums[0], 3, 4, 2, 0, SL_AGG_SUM, 2, score);
    assert_true(score[0] == 5 && score[1] == 5);
    sl_group_scores(sums[0], 3, 4, 4, 2, SL_AGG_MEAN, 2, score);
    assert_true(score[0] == 7 && score[1] == 7);
}

static void lists_are_written_head_by_head(void **state) {
    (void)state;
    const sl_layer_info layer = {.struct_size = SL_SIZE(sl_layer_info), .n_kv_heads = 2};
    const sl_layer_info *const layers[] = {&layer};
    const sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .layers = layers, .n_layers = 1};
    const sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .max_context = 10, .max_tree = 1};
    const sl_kv_scores scores = {.struct_size = SL_SIZE(sl_kv_scores), .layer = 0, .seq = 3};
    const sl_kv_edit *edit;
    sl_keep k;
    assert_true(sl_keep_init(&k, &model, &limits, 0));
    sl_keep_begin(&k, &scores);
    sl_mark_range(0, 4, k.mark);
    sl_keep_head(&k, 4);
    sl_mark_range(0, 4, k.mark);
    sl_keep_head(&k, 4);
    assert_int_equal(sl_keep_end(&k, &edit), SL_SKIPPED);
    sl_keep_begin(&k, &scores);
    sl_mark_range(1, 3, k.mark);
    sl_keep_head(&k, 4);
    sl_mark_range(0, 1, k.mark);
    sl_mark_range(3, 4, k.mark);
    sl_mark_range(2, 1, k.mark);
    sl_keep_head(&k, 4);
    assert_int_equal(sl_keep_end(&k, &edit), SL_OK);
    const int32_t keep[] = {1, 2, 0, 3};
    const int64_t begin[] = {0, 2, 4};
    assert_memory_equal(edit->keep, keep, sizeof keep);
    assert_memory_equal(edit->keep_begin, begin, sizeof begin);
    assert_int_equal(edit->seq, 3);
    sl_keep_free(&k);
    assert_int_equal(sl_keep_budget(0.25, 103), 25);
    assert_int_equal(sl_keep_budget(0.001, 10), 1);
    assert_int_equal(sl_keep_budget(64, 10), 64);
}

static void it_is_due_every_n_tokens(void **state) {
    (void)state;
    sl_schedule s = {.interval = 3};
    assert_true(sl_schedule_init(&s, 2));
    sl_event e = {.struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_PREFILL_END, .seq = 0, .other = -1, .n = 10};
    assert_true(sl_schedule_is_due(&s, &e));
    int due[8] = {0};
    e.kind = SL_EVENT_COMMIT;
    for (e.n = 11; e.n < 18; e.n++)
        due[e.n - 10] = sl_schedule_is_due(&s, &e);
    const int want[8] = {0, 0, 0, 1, 0, 0, 1, 0};
    assert_memory_equal(due, want, sizeof due);
    sl_schedule_note(&s, &(sl_event){.struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_FORK, .seq = 1, .other = 0, .n = 17});
    e.seq = 1, e.n = 18;
    assert_false(sl_schedule_is_due(&s, &e));
    e.n = 19;
    assert_true(sl_schedule_is_due(&s, &e));
    e.kind = SL_EVENT_CHUNK_END;
    assert_false(sl_schedule_is_due(&s, &e));
    sl_schedule_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_is_what_fewer_than_k_beat), cmocka_unit_test(sorted_and_equal_scores_end),
        cmocka_unit_test(pooling_by_hand),               cmocka_unit_test(groups_are_reduced),
        cmocka_unit_test(lists_are_written_head_by_head), cmocka_unit_test(it_is_due_every_n_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
