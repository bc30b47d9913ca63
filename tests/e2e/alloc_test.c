/* Memory: nothing is allocated while a step runs, and the bytes that are reported follow from shapes and lengths. */
#include "e2e.h"

static e2e_prompts prompts;
static char draft[PATH_MAX + 32];

/* Shapes of the embedded model. */
enum { LAYERS = 6, KV_HEADS = 2, HEAD = 64, ROW_BYTES = LAYERS * KV_HEADS * 2 * HEAD * 4 };

typedef struct drafter {
    const char *name;
    const char *sets[4];
} drafter;

static const drafter drafters[] = {
    {"plain", {NULL}},
    {"prompt_lookup", {"speculation.plugin=prompt_lookup"}},
    {"sps", {"speculation.plugin=sps", draft}},
    {"token_recycling", {"speculation.plugin=token_recycling", "speculation.cut=12"}},
    {"page 1", {"kvcache.page=1", "engine.prefill_chunk=16"}},
    {"two threads", {"engine.threads=2", "engine.prefill_chunk=32"}},
    {"rtn", {"quant.plugin=rtn", "quant.bits=8", "speculation.plugin=prompt_lookup"}},
};

static void check_no_allocation(const char *what, const sluice_engine *e) {
    sluice_stats s;
    sluice_get_stats(e, &s);
    if (s.allocs_in_steps != 0)
        fail_msg("%s: %lld allocations in %lld steps", what, (long long)s.allocs_in_steps, (long long)s.steps);
}

static void test_no_allocation_in_steps(void **state) {
    const drafter *d = *state;
    sluice_engine *e = e2e_open("models/tiny", d->sets);
    e2e_output out[8];
    sluice_sampling greedy = e2e_greedy(24);
    assert_true(prompts.n <= 8);
    e2e_continue(e, prompts.prompt, prompts.n, 1, &greedy, out);
    e2e_outputs_free(out, prompts.n);
    check_no_allocation("one by one", e);
    e2e_continue(e, prompts.prompt, prompts.n, 5, &greedy, out);
    e2e_outputs_free(out, prompts.n);
    check_no_allocation("five together", e);
    const char *const stops[] = {"no such text", "nor this"};
    sluice_sampling sampled = {.temperature = 0.8, .top_k = 40, .top_p = 0.9, .min_p = 0.01, .repeat_penalty = 1.1,
                               .penalty_last_n = -1, .stop = stops, .n_stop = 2, .max_tokens = 32, .seed = 3};
    e2e_continue(e, prompts.prompt, prompts.n, 5, &sampled, out);
    e2e_outputs_free(out, prompts.n);
    check_no_allocation("sampled", e);
    free(e2e_logits_of(e, prompts.prompt[3].ids, prompts.prompt[3].n_ids));
    check_no_allocation("logits", e);
    sluice_close(e);
}

/* A parent goes on after it was forked: the page that both share is copied, without asking for memory in the step. */
static void test_no_allocation_after_fork(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", NO_SETS);
    const e2e_prompt *p = &prompts.prompt[0];
    sluice_session *a = e2e_session(e, p->ids, p->n_ids), *b, *c;
    sluice_sampling greedy = e2e_greedy(20);
    assert_int_equal(sluice_generate(e, &a, 1, &greedy, 1, NULL, NULL, NULL), 0);
    assert_int_equal(sluice_session_truncate(a, p->n_ids, NULL), 0);
    assert_int_equal(sluice_session_fork(a, p->n_ids - 2, &b, NULL), 0);
    assert_int_equal(sluice_session_fork(a, p->n_ids - 5, &c, NULL), 0);
    assert_int_equal(sluice_session_truncate(a, p->n_ids - 1, NULL), 0);
    assert_int_equal(sluice_session_append(a, p->ids + p->n_ids - 1, 1, NULL), 0);
    e2e_output out;
    greedy.max_tokens = 10;
    e2e_generate(e, &a, 1, &greedy, 1, &out);
    e2e_check_tokens("the parent", p->greedy, 10, out.tokens, out.n);
    e2e_outputs_free(&out, 1);
    check_no_allocation("the parent goes on", e);
    e2e_check_tokens("the fork's tokens", p->ids, p->n_ids - 2, sluice_session_tokens(b), sluice_session_length(b));
    sluice_session *both[] = {b, c};
    assert_int_equal(sluice_session_append(b, p->ids + p->n_ids - 2, 2, NULL), 0);
    assert_int_equal(sluice_session_append(c, p->ids + p->n_ids - 5, 5, NULL), 0);
    e2e_output outs[2];
    e2e_generate(e, both, 2, &greedy, 1, outs);
    for (int i = 0; i < 2; i++)
        e2e_check_tokens("the forks", p->greedy, 10, outs[i].tokens, outs[i].n);
    e2e_outputs_free(outs, 2);
    check_no_allocation("the forks go on", e);
    sluice_close(e);
}

static int64_t kv_bytes(const sluice_engine *e) {
    sluice_stats s;
    sluice_get_stats(e, &s);
    return s.bytes_kv;
}

/* What the store holds: whole pages for what a session may grow to, shared by forks, given back when closed. */
static void test_kv_bytes(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("kvcache.page=16", "engine.max_rows=64", "engine.prefill_chunk=64"));
    int64_t page = 16 * ROW_BYTES, empty = kv_bytes(e);
    assert_true(empty < page);
    const e2e_prompt *p = &prompts.prompt[3]; /* 109 tokens */
    sluice_session *s = e2e_session(e, p->ids, 32), *t;
    assert_int_equal(kv_bytes(e), empty); /* nothing is computed yet */
    free(e2e_logits(e, s, 1));
    int64_t at32 = kv_bytes(e);
    assert_true(at32 >= 2 * page && at32 <= empty + 3 * page);
    assert_int_equal(sluice_session_append(s, p->ids + 32, 64, NULL), 0);
    free(e2e_logits(e, s, 1));
    int64_t at96 = kv_bytes(e);
    assert_true(at96 >= 6 * page && at96 <= empty + 7 * page);
    assert_int_equal((at96 - at32) % page, 0);
    /* a fork takes pages only when it writes */
    assert_int_equal(sluice_session_fork(s, -1, &t, NULL), 0);
    assert_int_equal(kv_bytes(e), at96);
    assert_int_equal(sluice_session_append(t, p->ids, 1, NULL), 0);
    free(e2e_logits(e, t, 1));
    assert_true(kv_bytes(e) <= at96 + 2 * page);
    sluice_session_close(s);
    sluice_session_close(t);
    /* freed pages are used again */
    int64_t held = kv_bytes(e);
    s = e2e_session(e, p->ids, 96);
    free(e2e_logits(e, s, 1));
    assert_int_equal(kv_bytes(e), held);
    sluice_close(e);
}

static void test_half_width_is_half(void **state) {
    (void)state;
    int64_t bytes[2];
    const char *const dtypes[] = {"kvcache.dtype=f32", "kvcache.dtype=bf16"};
    for (int i = 0; i < 2; i++) {
        sluice_engine *e = e2e_open("models/tiny", SETS("kvcache.page=16", dtypes[i]));
        free(e2e_logits_of(e, prompts.prompt[3].ids, 96));
        bytes[i] = kv_bytes(e);
        sluice_close(e);
    }
    assert_int_equal(bytes[0], 2 * bytes[1]);
}

static void test_totals(void **state) {
    (void)state;
    sluice_engine *e = e2e_open("models/tiny", SETS("speculation.plugin=sps", draft));
    e2e_check_greedy("sps", e, prompts.prompt, 2, 2);
    sluice_stats s;
    sluice_info info;
    sluice_get_stats(e, &s);
    sluice_get_info(e, &info);
    assert_true(info.model_bytes > 10000000 && info.model_bytes < 11000000);
    assert_int_equal(info.parameters, 5180672);
    assert_true(s.bytes_kv > 0 && s.bytes_scratch > 0 && s.bytes_plugin > 0);
    assert_true(s.bytes_peak >= s.bytes_kv + s.bytes_scratch + s.bytes_plugin);
    assert_int_equal(s.prompt_tokens, prompts.prompt[0].n_ids + prompts.prompt[1].n_ids);
    assert_int_equal(s.tokens, 128);
    assert_int_equal(s.emitted, 126); /* the first token of each comes out of the prompt's step */
    assert_true(s.steps > 0 && s.prompt_seconds > 0 && s.decode_seconds > 0);
    sluice_reset_stats(e);
    sluice_get_stats(e, &s);
    assert_int_equal(s.tokens + s.steps + s.drafted + s.accepted + s.prompt_tokens, 0);
    sluice_close(e);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    snprintf(draft, sizeof draft, "draft.model.path=%s", e2e_path("models/tiny"));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    enum { N = sizeof drafters / sizeof *drafters };
    struct CMUnitTest tests[N + 4] = {
        cmocka_unit_test(test_no_allocation_after_fork),
        cmocka_unit_test(test_kv_bytes),
        cmocka_unit_test(test_half_width_is_half),
        cmocka_unit_test(test_totals),
    };
    for (int i = 0; i < N; i++)
        tests[4 + i] = (struct CMUnitTest){drafters[i].name, test_no_allocation_in_steps, NULL, NULL, (void *)(uintptr_t)&drafters[i]};
    return cmocka_run_group_tests_name("alloc", tests, set_up, tear_down);
}
