/* Work items: layer ranges, skipped layers, scratch and own caches, and what is refused. Looks into the engine. */
#include "sl_test.h"

#include <limits.h>

#include "engine/engine.h"

static sluice_engine *engine;
static sluice_session *session;
static const int32_t prompt[] = {0, 100, 200, 300, 400, 500, 600, 700};
enum { N = sizeof prompt / sizeof *prompt };
static float *expected; /* [N, vocab] */

static int open_engine(void **state) {
    (void)state;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "model.path=%s/models/tiny", getenv("SLUICE_SOURCE"));
    const char *sets[] = {path, "engine.max_context=256", "speculation.plugin=prompt_lookup", "engine.threads=2"};
    sluice_options options = {.sets = sets, .n_sets = 4};
    sluice_error err;
    if (sluice_open(&options, &engine, &err) < 0 || sluice_session_open(engine, &session, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    expected = malloc(sizeof *expected * N * (size_t)engine->target.info->vocab);
    sluice_session *s = NULL;
    int status = expected == NULL || sluice_session_open(engine, &s, &err) < 0 ||
                 sluice_session_append(s, prompt, N, &err) < 0 || sluice_logits(s, N, expected, &err) < 0;
    sluice_session_close(s);
    return status ? -1 : 0;
}

static int close_engine(void **state) {
    (void)state;
    sluice_close(engine);
    free(expected);
    return 0;
}

static sl_work item(void) {
    return (sl_work){.struct_size = SL_SIZE(sl_work),
                     .token = prompt,
                     .n_rows = N,
                     .seq = session->id,
                     .exit_layer = -1,
                     .rows_kind = SL_WORK_IDS,
                     .kv = SL_WORK_KV_SCRATCH,
                     .when = SL_WORK_IN_STEP,
                     .logits = SL_WORK_LOGITS_ALL};
}

static sl_work_result run(const sl_work *w) {
    sl_work_result r;
    SL_ERROR(err);
    if (sli_engine_work(engine, &w, 1, &r, &err) < 0)
        fail_msg("%s", err.text);
    return r;
}

static void whole_pass_equals_a_prompt(void **state) {
    (void)state;
    sl_work w = item();
    sl_work_result r = run(&w);
    assert_int_equal(r.status, SL_OK);
    assert_memory_equal(r.logits, expected, sizeof *expected * N * (size_t)engine->target.info->vocab);
    assert_null(r.hidden);
}

/* Layers 0 .. 2, a look at the residual, then layers 3 .. 5 from it: as if nothing had happened in between. */
static void two_ranges_equal_one(void **state) {
    (void)state;
    int64_t E = engine->target.info->hidden;
    sl_work first = item();
    first.exit_layer = 3;
    first.logits = SL_WORK_LOGITS_NONE;
    sl_work_result r = run(&first);
    assert_int_equal(r.status, SL_OK);
    assert_non_null(r.hidden);
    assert_null(r.logits);
    float *hidden = malloc(sizeof *hidden * (size_t)(N * E));
    assert_non_null(hidden);
    memcpy(hidden, r.hidden, sizeof *hidden * (size_t)(N * E));
    sl_tensor rows = {.struct_size = SL_SIZE(sl_tensor),
                      .data = hidden,
                      .shape = {N, E},
                      .stride = {E, 1},
                      .align = 16,
                      .dtype = SL_F32,
                      .ndim = 2};
    sl_work second = item();
    second.token = NULL;
    second.rows_kind = SL_WORK_HIDDEN;
    second.embeddings = &rows;
    second.enter_layer = 3;
    r = run(&second);
    assert_int_equal(r.status, SL_OK);
    assert_memory_equal(r.logits, expected, sizeof *expected * N * (size_t)engine->target.info->vocab);
    free(hidden);
}

static void skipped_layers_change_the_result(void **state) {
    (void)state;
    uint32_t layers[] = {1, 1, 0, 1, 1, 1}, all[] = {1, 1, 1, 1, 1, 1};
    size_t bytes = sizeof *expected * N * (size_t)engine->target.info->vocab;
    sl_work w = item();
    w.attn_layers = w.ffn_layers = all;
    assert_memory_equal(run(&w).logits, expected, bytes);
    w.attn_layers = layers;
    assert_memory_not_equal(run(&w).logits, expected, bytes);
}

static void nonsense_is_refused_by_status(void **state) {
    (void)state;
    sl_work w = item();
    w.model = 1; /* there is no second model */
    assert_int_equal(run(&w).status, SL_E_NOT_FOUND);
    w = item(), w.kv = SL_WORK_KV_OWN; /* rows of the target are committed by verification alone */
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w = item(), w.n_rows = 1000;
    assert_int_equal(run(&w).status, SL_E_RANGE);
    w = item(), w.enter_layer = 2; /* without hidden rows */
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w = item(), w.exit_layer = 3; /* logits of half a model */
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w = item(), w.seq = 7;
    assert_int_equal(run(&w).status, SL_E_INVALID);
    w = item(), w.when = SL_WORK_BACKGROUND;
    assert_int_equal(run(&w).status, SL_E_UNIMPLEMENTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_pass_equals_a_prompt),
        cmocka_unit_test(two_ranges_equal_one),
        cmocka_unit_test(skipped_layers_change_the_result),
        cmocka_unit_test(nonsense_is_refused_by_status),
    };
    return cmocka_run_group_tests_name("work", tests, open_engine, close_engine);
}
