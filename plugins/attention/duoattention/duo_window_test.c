/* duoattention on models/tiny: when it is dense attention, and what streaming heads see otherwise. */
#include "duo_rig_test.h"

/* ---- equals dense
 * ---------------------------------------------------------------------------------------------------- */

static void no_streaming_head_equals_dense(void **state) {
    (void)state;
    sluice_engine *dense = OPEN("engine.prefill_chunk=64"),
                  *e = OPEN(DUO, "attention.sparsity=0", "engine.prefill_chunk=64");
    same_logits(dense, e, 300, 200);
    same_five(dense, e, 1, 1);
    sluice_close(e);
    e = OPEN("attention.plugin=duoattention", "attention.sparsity=0", STORE); /* needs no gates */
    same_five(dense, e, 1, 0);
    sluice_close(dense);
    sluice_close(e);
}

static void a_window_of_everything_equals_dense(void **state) {
    (void)state;
    const char *windows[] = {"attention.window=chunk", "attention.window=exact"};
    sluice_engine *dense = OPEN("engine.prefill_chunk=50");
    for (int i = 0; i < 4; i++) {
        sluice_engine *e =
            OPEN("attention.plugin=duoattention", i < 2 ? file_set() : "attention.sparsity=1", "attention.sink_size=10",
                 "attention.recent_size=100000", windows[i % 2], STORE, "engine.prefill_chunk=50");
        same_logits(dense, e, 300, 200);
        same_five(dense, e, 1, 1);
        sluice_close(e);
    }
    sluice_close(dense);
}

/* Up to sink + recent tokens before the one that asks. */
static void short_contexts_equal_dense(void **state) {
    (void)state;
    sluice_engine *dense = OPEN("engine.prefill_chunk=512"),
                  *e = OPEN(DUO, "attention.sparsity=1", "attention.window=exact");
    same_logits(dense, e, 29, 29);
    int32_t tokens[CAP];
    text(e, tokens, 40);
    float *a = logits_of(dense, tokens, 40, 1), *b = logits_of(e, tokens, 40, 1);
    assert_true(memcmp(a, b, sizeof *a * (size_t)e->target.info->vocab) != 0); /* and there it ends */
    free(a);
    free(b);
    sluice_close(dense);
    sluice_close(e);
}

/* ---- the window
 * ------------------------------------------------------------------------------------------------------ */

/* Ring, pages and chunk buffer against a cache that keeps all rows and hides some. */
static void the_ring_equals_a_mask_over_all_rows(void **state) {
    (void)state;
    static const char *const ways[][3] = {
        {"attention.window=exact", "engine.prefill_chunk=512", ""},
        {"attention.window=exact", "engine.prefill_chunk=13", ""},
        {"attention.window=chunk", "engine.prefill_chunk=512", ""},
        {"attention.window=chunk", "engine.prefill_chunk=64", ""},
        {"attention.window=chunk", "engine.prefill_chunk=5", ""},
        {"attention.window=chunk", "engine.prefill_chunk=128", "attention.prefill_chunk=48"},
        {"attention.window=chunk", "engine.prefill_chunk=70", "attention.first_chunk=streaming"},
        {"attention.window=chunk", "engine.prefill_chunk=100", "attention.slack=1"},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        sluice_engine *ring = OPEN(DUO, ways[i][0], ways[i][1], ways[i][2], "attention.page=16");
        sluice_engine *mask = OPEN(ATTENTION, ways[i][0], ways[i][1], ways[i][2]);
        same_logits(ring, mask, 300, 299);
        same_five(ring, mask, 1, 1);
        sluice_close(ring);
        sluice_close(mask);
    }
}

static void an_exact_window_does_not_mind_chunks(void **state) {
    (void)state;
    sluice_engine *whole = OPEN(DUO, "attention.window=exact", "engine.prefill_chunk=512");
    const char *sizes[] = {"engine.prefill_chunk=64", "engine.prefill_chunk=7", "engine.prefill_chunk=1"};
    for (int i = 0; i < 3; i++) {
        sluice_engine *e = OPEN(DUO, "attention.window=exact", sizes[i]);
        same_logits(whole, e, 200, 200);
        same_five(whole, e, 1, i == 1);
        sluice_close(e);
    }
    /* and is what a chunk window of single tokens is */
    sluice_engine *single = OPEN(DUO, "attention.window=chunk", "engine.prefill_chunk=1");
    same_logits(whole, single, 200, 200);
    sluice_close(single);
    sluice_close(whole);
}

/* Chunks end where they end alone, whoever shares the batch and however little room is left. */
static void neighbours_do_not_move_chunks(void **state) {
    (void)state;
    sluice_engine *e = OPEN(DUO, "engine.prefill_chunk=64", "engine.max_rows=90");
    same_five(e, e, 0, 1);
    sluice_engine *wide = OPEN(DUO, "engine.prefill_chunk=64");
    same_five(wide, e, 1, 1);
    sluice_close(wide);
    sluice_close(e);
    e = OPEN(DUO, "engine.prefill_chunk=80", "engine.max_rows=84", "attention.prefill_chunk=32");
    wide = OPEN(DUO, "engine.prefill_chunk=512", "attention.prefill_chunk=32");
    same_five(e, wide, 0, 1);
    same_logits(e, wide, 300, 300); /* chunks of 64 and one of 300 */
    sluice_close(wide);
    sluice_close(e);
}

static void rows_are_the_window(void **state) {
    (void)state;
    int32_t tokens[CAP], held[CAP];
    int64_t n_rows[HEADS];
    run_taps taps = {0};
    sluice_engine *e = OPEN(DUO, "attention.page=16");
    text(e, tokens, 200);
    sluice_session *s = run_session(e, tokens, 200);
    const int32_t steps[] = {3, 5, 25, 1, 90, 4, 1, 1, 60}; /* short, then longer than the ring */
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        run_rows(e, s, steps[i], SL_STAGE_PREFILL, &taps);
        for (int32_t l = 0; l < LAYERS; l++) {
            const sli_store *store = e->target.layers[l].store;
            assert_int_equal(store->api->rows(store->self, l, s->id, n_rows), SL_OK);
            for (int32_t h = 0; h < HEADS; h++) {
                int64_t n = run_held(e, s, l, h, held), first = streams(l, h) && s->n_kv > 28 ? s->n_kv - 28 : 0;
                assert_int_equal(n, s->n_kv - first);
                assert_int_equal(n, n_rows[h]);
                for (int64_t k = 0; k < n; k++)
                    assert_int_equal(held[k], k < 4 ? k : first + k);
            }
        }
    }
    run_taps_free(&taps);
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_streaming_head_equals_dense),
        cmocka_unit_test(a_window_of_everything_equals_dense),
        cmocka_unit_test(short_contexts_equal_dense),
        cmocka_unit_test(the_ring_equals_a_mask_over_all_rows),
        cmocka_unit_test(an_exact_window_does_not_mind_chunks),
        cmocka_unit_test(neighbours_do_not_move_chunks),
        cmocka_unit_test(rows_are_the_window),
    };
    return cmocka_run_group_tests(tests, write_pattern, remove_pattern);
}
