/* Taps of work items, items that end at q, k and v, and branches, from inside of the engine. */
#include "engine_run.h"

enum { N = 23, MOST = 64 };

static sluice_engine *engine;
static sluice_session *session;
static int32_t tokens[MOST];

static int open_engine(void **state) {
    (void)state;
    engine = run_open("kvcache.prompt.plugin=gemfilter", "engine.prefill_chunk=8");
    run_tokens(engine, tokens, MOST);
    session = run_session(engine, tokens, 1);
    return 0;
}

static int close_engine(void **state) {
    (void)state;
    sluice_close(engine);
    return 0;
}

static sl_work item(const sl_tap *const *taps, int32_t n_taps) {
    return (sl_work){.struct_size = SL_SIZE(sl_work),
                     .token = tokens,
                     .taps = taps,
                     .n_taps = n_taps,
                     .n_rows = N,
                     .seq = session->id,
                     .exit_layer = -1,
                     .rows_kind = SL_WORK_IDS,
                     .kv = SL_WORK_KV_SCRATCH};
}

static sl_work_result run(const sl_work *w) {
    sl_work_result r;
    SL_ERROR(err);
    if (sli_engine_work(engine, &w, 1, &r, &err) < 0)
        fail_msg("%s", err.text);
    return r;
}

static sl_tap tap_of(uint32_t point, int32_t layer, uint32_t rows) {
    return (sl_tap){SL_SIZE(sl_tap), point, rows, layer, 0};
}

/* ---- what the forward pass itself tells, in one piece
 * ------------------------------------------------------------------ */

typedef struct seen {
    uint32_t point;
    int32_t layer;
    float *rows;
    int64_t width;
} seen;

static void look(void *user, uint32_t point, int32_t layer, const float *rows, int32_t n_rows, int64_t width) {
    seen *s = user;
    if (s->point != point || s->layer != layer)
        return;
    s->width = width;
    free(s->rows);
    s->rows = malloc(sizeof *rows * (size_t)(n_rows * width));
    memcpy(s->rows, rows, sizeof *rows * (size_t)(n_rows * width));
}

static seen whole_pass(uint32_t point, int32_t layer) {
    SL_ERROR(err);
    seen s = {point, layer, NULL, 0};
    sluice_session *t = run_session(engine, tokens, N);
    int32_t path[N], begin[2] = {0, N}, next = -1;
    for (int32_t i = 0; i < N; i++)
        path[i] = i;
    sli_batch_clear(&engine->batch, 0, ++engine->target.step);
    sli_batch_add(&engine->batch, t->id, 0, SL_STAGE_PREFILL, tokens, N, NULL, NULL);
    sl_commit commit = {SL_SIZE(sl_commit), &engine->batch.view, begin, path, &next};
    if (sli_network_seq_grow(&engine->target, t->id, N, &err) < 0 ||
        sli_network_begin(&engine->target, &engine->batch.view, &err) < 0 ||
        sli_network_forward(&engine->target, &(sli_pass){.batch = &engine->batch.view, .tap = look, .tap_user = &s},
                            &err) < 0 ||
        sli_network_commit(&engine->target, &commit, &err) < 0)
        fail_msg("%s", err.text);
    sluice_session_close(t);
    return s;
}

static const uint32_t points[] = {SL_TAP_LAYER_IN, SL_TAP_ATTN_IN, SL_TAP_Q_RAW,    SL_TAP_K_RAW,
                                  SL_TAP_Q,        SL_TAP_K,       SL_TAP_V,        SL_TAP_ATTN_OUT,
                                  SL_TAP_MID,      SL_TAP_FFN_IN,  SL_TAP_LAYER_OUT};
enum { POINTS = sizeof points / sizeof *points };

static void taps_are_what_the_pass_meets(void **state) {
    (void)state;
    for (int i = 0; i < POINTS; i++)
        for (int32_t layer = 0; layer < engine->target.info->n_layers; layer += 5) {
            sl_tap all = tap_of(points[i], layer, SL_TAP_ROWS_ALL), last = tap_of(points[i], layer, SL_TAP_ROWS_LAST);
            const sl_tap *taps[] = {&all, &last};
            sl_work w = item(taps, 2);
            sl_work_result r = run(&w); /* three chunks */
            assert_int_equal(r.status, SL_OK);
            const sl_tap_rows *rows = r.taps[0];
            assert_ptr_equal(rows->tap, &all);
            assert_int_equal(rows->rows.shape[0], N);
            seen s = whole_pass(points[i], layer);
            assert_non_null(s.rows);
            assert_int_equal(rows->rows.ndim == 3 ? rows->rows.shape[1] * rows->rows.shape[2] : rows->rows.shape[1],
                             s.width);
            assert_memory_equal(rows->rows.data, s.rows, sizeof(float) * (size_t)(N * s.width));
            for (int64_t j = 0; j < N; j++)
                assert_int_equal(rows->token_index[j], j);
            assert_int_equal(r.taps[1]->rows.shape[0], 1);
            assert_int_equal(r.taps[1]->token_index[0], N - 1);
            assert_memory_equal(r.taps[1]->rows.data, s.rows + (N - 1) * s.width, sizeof(float) * (size_t)s.width);
            free(s.rows);
        }
}

static void items_may_end_at_q_and_k(void **state) {
    (void)state;
    sl_tap q = tap_of(SL_TAP_Q, 3, SL_TAP_ROWS_ALL), k = tap_of(SL_TAP_K, 3, SL_TAP_ROWS_ALL),
           below = tap_of(SL_TAP_K, 1, SL_TAP_ROWS_ALL);
    const sl_tap *taps[] = {&q, &k, &below};
    sl_work w = item(taps, 3);
    w.exit_layer = 4;
    w.exit_at = SL_WORK_EXIT_QKV;
    sl_work_result r = run(&w);
    assert_int_equal(r.status, SL_OK);
    assert_null(r.hidden);
    for (int i = 0; i < 3; i++) {
        seen s = whole_pass(taps[i]->point, taps[i]->layer);
        assert_memory_equal(r.taps[i]->rows.data, s.rows, sizeof(float) * (size_t)(N * s.width));
        free(s.rows);
    }
}

static void a_stage_may_be_left_out(void **state) {
    (void)state;
    sl_tap tap = tap_of(SL_TAP_K, 0, SL_TAP_ROWS_ALL);
    const sl_tap *taps[] = {&tap};
    sl_work w = item(taps, 1);
    tap.stages = SL_STAGE_DECODE | SL_STAGE_VERIFY;
    assert_int_equal(run(&w).taps[0]->rows.shape[0], 0);
    tap.stages = SL_STAGE_PREFILL;
    assert_int_equal(run(&w).taps[0]->rows.shape[0], N);
    w.n_rows = 1;
    assert_int_equal(run(&w).taps[0]->rows.shape[0], 0);
}

static void points_that_are_not_met_are_refused(void **state) {
    (void)state;
    sl_tap tap;
    const sl_tap *taps[] = {&tap};
    sl_work w = item(taps, 1);
    tap = tap_of(SL_TAP_LOGITS, -1, 0);
    assert_int_equal(run(&w).status, SL_E_UNIMPLEMENTED);
    tap = tap_of(SL_TAP_FINAL_NORM, -1, 0);
    assert_int_equal(run(&w).status, SL_E_UNIMPLEMENTED);
    tap = tap_of(SL_TAP_Q, 6, 0);
    assert_int_equal(run(&w).status, SL_E_INVALID);
    tap = tap_of(SL_TAP_Q, -1, 0);
    assert_int_equal(run(&w).status, SL_E_INVALID);
    tap = tap_of(SL_TAP_Q, 2, 7);
    assert_int_equal(run(&w).status, SL_E_INVALID);
    tap = tap_of(SL_TAP_LAYER_OUT, 2, 0);
    w.exit_layer = 2;
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w.exit_layer = 3;
    assert_int_equal(run(&w).status, SL_OK);
    w.exit_at = SL_WORK_EXIT_QKV; /* has no residual */
    assert_int_equal(run(&w).status, SL_E_INVALID);
    tap.point = SL_TAP_V;
    assert_int_equal(run(&w).status, SL_OK);
    w.logits = SL_WORK_LOGITS_LAST;
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w = item(taps, 1), w.exit_at = SL_WORK_EXIT_QKV; /* of no layer */
    assert_int_equal(run(&w).status, SL_E_INVALID);
    uint32_t layers[] = {1, 1, 0, 1, 1, 1};
    w = item(taps, 1), w.attn_layers = layers;
    assert_int_equal(run(&w).status, SL_E_INVALID);
    tap.point = SL_TAP_MID;
    assert_int_equal(run(&w).status, SL_OK);
}

/* In a model that is computed in another basis, rows are those of the model as it was. */
static void taps_of_a_rotated_model_are_plain(void **state) {
    (void)state;
    sluice_engine *plain = engine, *turned = run_open("quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32",
                                                      "quant.rewrite.kv_rotate=yes", "engine.prefill_chunk=8");
    sluice_session *own = session, *other = run_session(turned, tokens, 1);
    for (int i = 0; i < POINTS; i++) {
        sl_tap tap = tap_of(points[i], 4, SL_TAP_ROWS_ALL);
        const sl_tap *taps[] = {&tap};
        engine = plain, session = own;
        seen s = whole_pass(points[i], 4);
        engine = turned, session = other;
        sl_work w = item(taps, 1);
        sl_work_result r = run(&w);
        assert_int_equal(r.status, SL_OK);
        check_close("rows of a rotated model", s.rows, r.taps[0]->rows.data, (size_t)(N * s.width), 1e-3, 2e-3);
        free(s.rows);
    }
    engine = plain, session = own;
    sluice_close(turned);
}

/* ---- branches
 * ---------------------------------------------------------------------------------------------------------- */

static void branches_go_on_are_shared_and_end(void **state) {
    (void)state;
    sl_tap tap = tap_of(SL_TAP_LAYER_OUT, 5, SL_TAP_ROWS_LAST);
    const sl_tap *taps[] = {&tap};
    seen s = whole_pass(SL_TAP_LAYER_OUT, 5);
    sluice_session *own = run_session(engine, tokens + 7, 3), *child;
    sl_work w = item(taps, 1);
    w.kv = SL_WORK_KV_OWN, w.branch = 1, w.seq = own->id, w.n_rows = 9;
    assert_int_equal(run(&w).status, SL_OK);
    w.begin = 10, w.token = tokens + 10, w.n_rows = N - 10;
    assert_int_equal(run(&w).status, SL_E_RANGE); /* it is 9 long */
    w.begin = 9, w.token = tokens + 9, w.n_rows = N - 9;
    sl_work_result r = run(&w);
    assert_int_equal(r.status, SL_OK);
    assert_memory_equal(r.taps[0]->rows.data, s.rows + (N - 1) * s.width, sizeof(float) * (size_t)s.width);

    assert_int_equal(sluice_session_fork(own, -1, &child, NULL), SLUICE_OK);
    w.begin = N - 4, w.token = tokens, w.n_rows = 4; /* the parent goes another way */
    assert_int_equal(run(&w).status, SL_OK);
    w.seq = child->id, w.token = tokens + N - 4;
    r = run(&w);
    assert_int_equal(r.status, SL_OK);
    assert_memory_equal(r.taps[0]->rows.data, s.rows + (N - 1) * s.width, sizeof(float) * (size_t)s.width);
    free(s.rows);

    w.kv = SL_WORK_KV_SCRATCH;
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w.kv = SL_WORK_KV_OWN, w.branch = 2;
    assert_int_equal(run(&w).status, SL_E_UNIMPLEMENTED);
    sluice_session_close(own);
    w.branch = 1;
    assert_int_equal(run(&w).status, SL_OK);
    sluice_session_close(child);
    own = run_session(engine, tokens, 3); /* an id of before, and no branch */
    w.seq = own->id, w.begin = 1;
    assert_int_equal(run(&w).status, SL_E_RANGE);
    sluice_session_close(own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taps_are_what_the_pass_meets),      cmocka_unit_test(items_may_end_at_q_and_k),
        cmocka_unit_test(a_stage_may_be_left_out),           cmocka_unit_test(points_that_are_not_met_are_refused),
        cmocka_unit_test(taps_of_a_rotated_model_are_plain),
        cmocka_unit_test(branches_go_on_are_shared_and_end),
    };
    return cmocka_run_group_tests_name("taps", tests, open_engine, close_engine);
}
