/* Where prompts are cut: sizes of chunks for every rule, walked through to the end of the prompt. */
#include "sl_test.h"

#include "engine/chunk.h"
#include "sl_error.h"

enum { LAYERS = 3 };

typedef struct rig {
    sli_network net;
    sl_model_info info;
    sli_net_layer layers[LAYERS];
} rig;

static sl_status make(rig *r, int64_t max_rows, int deterministic, const int64_t *align, int chunked,
                      int64_t prefill_chunk, int64_t sessions, sl_error *err) {
    memset(r, 0, sizeof *r);
    r->info.n_layers = LAYERS;
    r->net.info = &r->info;
    r->net.layers = r->layers;
    r->net.limits.max_rows = max_rows;
    r->net.limits.deterministic = (uint32_t)deterministic;
    for (int l = 0; l < LAYERS; l++) {
        r->layers[l].caps[0].chunk_align = align[l];
        r->layers[l].caps[0].flags = l == 1 && chunked ? SL_ATTN_CHUNKED : 0;
    }
    return sli_chunk_rule(&r->net, prefill_chunk, sessions, err);
}

/* Chunks of a prompt of n tokens behind `begin`, each with `room` rows; -1: a chunk waits. */
static int walk(const rig *r, int64_t begin, int64_t n, int64_t room, int64_t *sizes) {
    int count = 0;
    for (int64_t at = begin, end = begin + n; at < end && count < 40;) {
        int64_t rows = sli_chunk_rows(&r->net, at, end - at, room);
        if (rows == 0)
            return -1;
        at += sizes[count++] = rows;
    }
    return count;
}

#define CHECK(r, begin, n, room, ...)                                                                                  \
    do {                                                                                                               \
        const int64_t want_[] = {__VA_ARGS__};                                                                         \
        int64_t got_[40];                                                                                              \
        assert_int_equal(walk(r, begin, n, room, got_), sizeof want_ / sizeof *want_);                                 \
        assert_memory_equal(got_, want_, sizeof want_);                                                                \
    } while (0)

static const int64_t anywhere[] = {0, 0, 0};

static void without_a_wish(void **state) {
    (void)state;
    rig r;
    assert_int_equal(make(&r, 100, 1, anywhere, 0, 40, 4, NULL), SL_OK);
    CHECK(&r, 0, 90, 100, 40, 40, 10);
    CHECK(&r, 7, 90, 33, 33, 33, 24);
    assert_int_equal(make(&r, 30, 1, anywhere, 0, 40, 4, NULL), SL_OK);
    CHECK(&r, 0, 70, 30, 30, 30, 10);
}

static void aligned(void **state) {
    (void)state;
    rig r;
    const int64_t align[] = {0, 8, 12}; /* 24 fits both */
    assert_int_equal(make(&r, 100, 1, align, 0, 60, 4, NULL), SL_OK);
    CHECK(&r, 0, 110, 100, 48, 48, 14);
    CHECK(&r, 30, 100, 100, 42, 58); /* a second turn begins anywhere */
    CHECK(&r, 0, 60, 25, 24, 24, 12);
    int64_t sizes[40];
    assert_int_equal(walk(&r, 0, 60, 23, sizes), -1); /* too little room: it waits */
    CHECK(&r, 0, 20, 23, 20);                         /* unless the prompt ends there */
}

static void dependent(void **state) {
    (void)state;
    rig r;
    assert_int_equal(make(&r, 100, 1, anywhere, 1, 40, 4, NULL), SL_OK);
    CHECK(&r, 0, 90, 100, 40, 40, 10);
    CHECK(&r, 0, 90, 40, 40, 40, 10);
    CHECK(&r, 50, 90, 100, 30, 40, 20);
    int64_t sizes[40];
    assert_int_equal(walk(&r, 0, 90, 39, sizes), -1);
    /* room for the other sessions' rows is left */
    assert_int_equal(make(&r, 40, 1, anywhere, 1, 40, 4, NULL), SL_OK);
    CHECK(&r, 0, 90, 37, 37, 37, 16);
    /* the user gave the promise up */
    assert_int_equal(make(&r, 100, 0, anywhere, 1, 40, 4, NULL), SL_OK);
    CHECK(&r, 0, 90, 33, 33, 33, 24);
}

static void too_small(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    const int64_t large[] = {0, 64, 0}, apart[] = {0, 25, 16};
    assert_int_equal(make(&r, 100, 1, large, 0, 40, 4, &err), SL_E_RANGE);
    assert_non_null(strstr(err_text_, "layer 1"));
    assert_non_null(strstr(err_text_, "multiples of 64"));
    assert_int_equal(make(&r, 50, 1, large, 0, 400, 4, &err), SL_E_RANGE);
    assert_int_equal(make(&r, 100, 1, apart, 0, 100, 4, &err), SL_E_RANGE); /* 400 would fit both */
    assert_non_null(strstr(err_text_, "multiples of 400"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_wish),
        cmocka_unit_test(aligned),
        cmocka_unit_test(dependent),
        cmocka_unit_test(too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
