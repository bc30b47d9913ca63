/* Greedy tokens of the embedded model equal those of transformers on five prompts, whatever does not change the numbers:
 * chunks, threads, pages, batching. */
#include "e2e.h"

static e2e_prompts prompts;

typedef struct variant {
    const char *name;
    const char *sets[4];
    int alone, together; /* run prompts one by one, all at once */
} variant;

static const variant variants[] = {
    {"defaults", {NULL}, 1, 1},
    {"prefill_chunk 7", {"engine.prefill_chunk=7"}, 1, 1},
    {"two threads", {"engine.threads=2"}, 0, 1},
    {"few rows a step", {"engine.max_rows=16"}, 0, 1},
    {"page 1", {"kvcache.page=1"}, 0, 1},
    {"page 7", {"kvcache.page=7"}, 0, 1},
    {"page 64", {"kvcache.page=64"}, 0, 1},
    {"not deterministic", {"engine.deterministic=no"}, 0, 1},
};

static void test_greedy(void **state) {
    const variant *v = *state;
    sluice_engine *engine = e2e_open("models/tiny", v->sets);
    if (v->alone)
        e2e_check_greedy(v->name, engine, prompts.prompt, prompts.n, 1);
    if (v->together)
        e2e_check_greedy(v->name, engine, prompts.prompt, prompts.n, 5);
    sluice_close(engine);
}

/* Text that is streamed is the text of the tokens, and the one that tokenizers decodes. */
static void test_text(void **state) {
    (void)state;
    sluice_engine *engine = e2e_open("models/tiny", NO_SETS);
    for (int i = 0; i < prompts.n; i++) {
        const e2e_prompt *p = &prompts.prompt[i];
        e2e_output out;
        sluice_sampling greedy = e2e_greedy((int32_t)p->n_greedy);
        e2e_continue(engine, p, 1, 1, &greedy, &out);
        char text[4096];
        int64_t n = sluice_detokenize(engine, out.tokens, out.n, text, sizeof text, NULL);
        assert_int_equal(n, out.length);
        assert_memory_equal(text, out.text, out.length);
        assert_string_equal(out.text, p->greedy_text);
        e2e_outputs_free(&out, 1);
    }
    sluice_close(engine);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    enum { N = sizeof variants / sizeof *variants };
    static struct CMUnitTest tests[N + 1];
    for (int i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){variants[i].name, test_greedy, NULL, NULL, (void *)(uintptr_t)&variants[i]};
    tests[N] = (struct CMUnitTest)cmocka_unit_test(test_text);
    return cmocka_run_group_tests_name("tiny_greedy", tests, set_up, tear_down);
}
