/* Work that plugins ask for between steps: results come back whole and in order, the background takes one piece a step,
 * overwriting is checked, endings are told. The asking plugin is a fake one. */
#include "../attention/tidal_rig.h"

#include "engine/sources.h"

enum { MOST = 4 };

/* What the fake plugin asks for next, and what it was told. */
typedef struct fake {
    sl_work items[MOST];
    const sl_work *list[MOST];
    int n, asked, n_results;
    sl_status status[MOST];
    float logits[MOST]; /* the first of each */
    int in_order;
} fake;

static fake told;
static int32_t text[400];

static sl_status work(sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                      const sl_work *const **works, int32_t *n_works) {
    (void)self;
    told.asked++;
    told.in_order = 1;
    for (int32_t i = 0; i < n_results; i++) {
        told.in_order &= results[i]->work == &told.items[i];
        told.status[i] = results[i]->status;
        told.logits[i] = results[i]->logits != NULL ? results[i]->logits[0] : NAN;
    }
    told.n_results += n_results;
    for (int i = 0; i < told.n; i++)
        told.list[i] = &told.items[i];
    *works = told.list;
    *n_works = told.n;
    told.n = 0;
    return SL_OK;
}

static sluice_engine *open_with(const char *sets) {
    char all[512];
    snprintf(all, sizeof all, "%s|speculation.plugin=prompt_lookup", sets); /* so that there is room for logits */
    sluice_engine *e = rig_open(all);
    SL_ERROR(err);
    sli_source_fn fn = {NULL, work};
    sli_sources_destroy(e->sources);
    e->sources = NULL;
    assert_int_equal(sli_sources_create(&fn, 1, &e->sources, &err), SL_OK);
    rig_tokens(e, text, 400);
    memset(&told, 0, sizeof told);
    return e;
}

static sluice_session *prompt(sluice_engine *e, int32_t n) {
    static float logits[RIG_VOCAB];
    sluice_session *s;
    assert_int_equal(sluice_session_open(e, &s, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_append(s, text, n, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(s, 1, logits, NULL), SLUICE_OK);
    memset(&told, 0, sizeof told);
    return s;
}

static sl_work item(const sluice_session *s, uint32_t kv, uint32_t when, int64_t begin, int32_t n) {
    return (sl_work){.struct_size = SL_SIZE(sl_work),
                     .token = s->tokens + begin,
                     .begin = begin,
                     .n_rows = n,
                     .seq = s->id,
                     .exit_layer = -1,
                     .rows_kind = SL_WORK_IDS,
                     .kv = kv,
                     .when = when,
                     .logits = kv == SL_WORK_KV_OVERWRITE ? SL_WORK_LOGITS_NONE : SL_WORK_LOGITS_LAST};
}

static void turn(sluice_engine *e) {
    SL_ERROR(err);
    if (sli_sources_run(e, &err) < 0)
        fail_msg("%s", err.text);
}

static void items_in_the_step_are_answered_at_once(void **state) {
    (void)state;
    sluice_engine *e = open_with("attention.plugin=dense");
    sluice_session *s = prompt(e, 80);
    told.items[0] = item(s, SL_WORK_KV_SCRATCH, SL_WORK_IN_STEP, 40, 20);
    told.items[1] = item(s, SL_WORK_KV_SCRATCH, SL_WORK_IN_STEP, 40, 30);
    told.n = 2;
    turn(e);
    assert_int_equal(told.asked, 2);
    assert_int_equal(told.n_results, 2);
    assert_true(told.in_order && told.status[0] == SL_OK && told.status[1] == SL_OK);
    assert_true(told.logits[0] != told.logits[1]); /* each has its own */
    sluice_close(e);
}

static void the_background_takes_one_piece_a_step(void **state) {
    (void)state;
    sluice_engine *e = open_with("attention.plugin=dense|engine.prefill_chunk=32");
    sluice_session *s = prompt(e, 80);
    told.items[0] = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_BACKGROUND, 0, 70); /* three chunks */
    told.items[1] = item(s, SL_WORK_KV_SCRATCH, SL_WORK_BACKGROUND, 40, 20);
    told.items[2] = item(s, SL_WORK_KV_SCRATCH, SL_WORK_BACKGROUND, 40, 30);
    told.n = 3;
    for (int i = 0; i < 5; i++) {
        turn(e);
        assert_int_equal(told.asked, 1);
    }
    turn(e);
    assert_int_equal(told.asked, 2);
    assert_int_equal(told.n_results, 3);
    assert_true(told.in_order && told.status[0] == SL_OK && told.logits[1] != told.logits[2]);
    sluice_close(e);
}

static void overwriting_is_checked(void **state) {
    (void)state;
    static const int32_t strange[] = {1, 2, 3};
    sluice_engine *e = open_with("attention.plugin=dense");
    sluice_session *s = prompt(e, 80);
    struct {
        sl_work w;
        sl_status status;
    } cases[10];
    int n = 0;
    for (int i = 0; i < 10; i++)
        cases[i].w = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_IN_STEP, 10, 3);
    cases[n++].status = SL_OK;
    cases[n].w.token = strange, cases[n++].status = SL_E_INVALID; /* other tokens than those of the rows */
    cases[n].w.n_rows = 71, cases[n++].status = SL_E_RANGE;       /* rows that are not there yet */
    cases[n].w.n_rows = 0, cases[n++].status = SL_E_RANGE;
    cases[n].w.seq = 3, cases[n++].status = SL_E_INVALID;
    cases[n].w.seq = 1000, cases[n++].status = SL_E_INVALID;
    cases[n].w.model = 1, cases[n++].status = SL_E_INVALID;
    cases[n].w.exit_layer = 3, cases[n++].status = SL_E_INVALID;
    cases[n].w.logits = SL_WORK_LOGITS_LAST, cases[n++].status = SL_E_INVALID;
    cases[n].w.n_taps = 1, cases[n++].status = SL_E_UNIMPLEMENTED;
    for (int i = 0; i < n; i++) {
        told.items[0] = cases[i].w;
        told.n = 1;
        turn(e);
        if (told.status[0] != cases[i].status)
            fail_msg("case %d: %d, expected %d", i, told.status[0], cases[i].status);
    }
    sluice_close(e);
}

static void policies_and_overwriting_do_not_meet(void **state) {
    (void)state;
    sluice_engine *e = open_with("attention.plugin=dense|kvcache.policy.plugin=snapkv|kvcache.policy.budget=64");
    sluice_session *s = prompt(e, 80);
    told.items[0] = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_IN_STEP, 10, 3);
    told.n = 1;
    turn(e);
    assert_int_equal(told.status[0], SL_E_UNIMPLEMENTED);
    sluice_close(e);
}

static void what_ended_or_was_cut_is_told(void **state) {
    (void)state;
    sluice_engine *e = open_with("attention.plugin=dense|engine.prefill_chunk=32");
    sluice_session *s = prompt(e, 80), *other = prompt(e, 80);
    told.items[0] = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_BACKGROUND, 0, 80);
    told.items[1] = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_BACKGROUND, 50, 30);
    told.items[2] = item(other, SL_WORK_KV_OVERWRITE, SL_WORK_BACKGROUND, 0, 80);
    told.items[3] = item(other, SL_WORK_KV_SCRATCH, SL_WORK_BACKGROUND, 10, 20);
    told.n = 4;
    turn(e); /* 32 rows of the first */
    assert_int_equal(sluice_session_truncate(s, 45, NULL), SLUICE_OK);
    sluice_session_close(other);
    turn(e); /* rows 32 .. 44 */
    turn(e);
    assert_int_equal(told.n_results, 4);
    assert_int_equal(told.status[0], SL_OK);
    for (int i = 1; i < 4; i++)
        assert_int_equal(told.status[i], SL_E_STATE);
    sluice_close(e);
}

/* Rows written again are the same rows; a selector that has summarised them sees them again. */
static void overwriting_the_same_changes_nothing(void **state) {
    (void)state;
    static float want[8 * RIG_VOCAB], got[8 * RIG_VOCAB];
    static const char *const with[] = {
        "attention.plugin=dense", "attention.plugin=quest|attention.page_size=8|attention.token_budget=32",
        "attention.plugin=tidaldecode|attention.token_budget=32|attention.reselect_layers=4"};
    for (int i = 0; i < 3; i++) {
        sluice_engine *e = open_with(with[i]);
        sluice_session *s = prompt(e, 120), *fork;
        assert_int_equal(sli_network_seq_grow(&e->target, s->id, 300, NULL), SL_OK);
        rig_decode(e, s->id, 120, text + 120, 8, want);
        rig_cut(e, s->id, 120);
        assert_int_equal(sluice_session_fork(s, -1, &fork, NULL), SLUICE_OK); /* so that pages are shared */
        for (int begin = 0; begin < 120; begin += 37) {
            told.items[0] = item(s, SL_WORK_KV_OVERWRITE, SL_WORK_IN_STEP, begin, begin + 50 < 120 ? 50 : 120 - begin);
            told.n = 1;
            turn(e);
            assert_int_equal(told.status[0], SL_OK);
        }
        rig_decode(e, s->id, 120, text + 120, 8, got);
        assert_true(rig_same(want, got, 8));
        assert_int_equal(sli_network_seq_grow(&e->target, fork->id, 300, NULL), SL_OK);
        rig_decode(e, fork->id, 120, text + 120, 8, got);
        assert_true(rig_same(want, got, 8));
        sluice_close(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_in_the_step_are_answered_at_once),
        cmocka_unit_test(the_background_takes_one_piece_a_step),
        cmocka_unit_test(overwriting_is_checked),
        cmocka_unit_test(policies_and_overwriting_do_not_meet),
        cmocka_unit_test(what_ended_or_was_cut_is_told),
        cmocka_unit_test(overwriting_the_same_changes_nothing),
    };
    return cmocka_run_group_tests_name("sources", tests, NULL, NULL);
}
