/* Logits of the embedded model against transformers in fp32, on each instruction set. */
#include "e2e.h"
#include "st_file.h"

static st_file golden;
static e2e_prompts prompts;

static double range_of(const float *x, int64_t n) {
    float low = x[0], high = x[0];
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    return (double)high - low;
}

static void test_tiny_logits(void **state) {
    const char *isa = *state;
    if (!e2e_has_isa(isa))
        skip_because("this machine has no %s", isa);
    char set[32];
    snprintf(set, sizeof set, "engine.isa=%s", isa);
    sluice_engine *engine = e2e_open("models/tiny", SETS(set));
    int64_t n, n_logits;
    const int32_t *ids = st_tensor(&golden, "all.ids", "I32", &n);
    const float *expected = st_tensor(&golden, "all.logits", "F32", &n_logits);
    float *logits = e2e_logits_of(engine, ids, n);
    check_close("every position", expected, logits, (size_t)n_logits, 0, 1e-4 * range_of(expected, n_logits));
    free(logits);
    for (int i = 0; i < prompts.n; i++) {
        const e2e_prompt *p = &prompts.prompt[i];
        char name[64];
        snprintf(name, sizeof name, "last.%s", p->name);
        expected = st_tensor(&golden, name, "F32", &n_logits);
        sluice_session *s = e2e_session(engine, p->ids, p->n_ids);
        logits = e2e_logits(engine, s, 1);
        check_close(name, expected, logits, (size_t)n_logits, 0, 1e-4 * range_of(expected, n_logits));
        free(logits);
        sluice_session_close(s);
    }
    sluice_close(engine);
}

/* The text of a prompt becomes the ids that tokenizers gives. */
static void test_prompts_tokenize(void **state) {
    (void)state;
    sluice_engine *engine = e2e_open("models/tiny", NO_SETS);
    for (int i = 0; i < prompts.n; i++) {
        const e2e_prompt *p = &prompts.prompt[i];
        int32_t ids[2048];
        sluice_error err = {0};
        int64_t n = sluice_tokenize(engine, p->text, strlen(p->text), SLUICE_ADD_SPECIAL, ids, 2048, &err);
        if (n < 0)
            fail_msg("%s: %s", p->name, err.text);
        e2e_check_tokens(p->name, p->ids, p->n_ids, ids, n);
        assert_int_equal(sluice_tokenize(engine, p->text, strlen(p->text), 0, NULL, 0, &err), p->n_ids - 1);
        char text[8192];
        n = sluice_detokenize(engine, ids, p->n_ids, text, sizeof text, &err);
        assert_int_equal(n, strlen(p->text));
        assert_memory_equal(text, p->text, (size_t)n);
        /* with too little room the length is told and nothing is written behind the end */
        memset(text, '#', 16);
        assert_int_equal(sluice_detokenize(engine, ids, p->n_ids, text, 5, &err), n);
        assert_memory_equal(text, p->text, 5);
        assert_int_equal(text[5], '#');
    }
    sluice_close(engine);
}

static int set_up(void **state) {
    (void)state;
    st_read(e2e_path("tests/data/tiny/golden.safetensors"), &golden);
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    st_free(&golden);
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"tiny ref", test_tiny_logits, NULL, NULL, (void *)"ref"},
        {"tiny avx2", test_tiny_logits, NULL, NULL, (void *)"avx2"},
        {"tiny avx512", test_tiny_logits, NULL, NULL, (void *)"avx512"},
        cmocka_unit_test(test_prompts_tokenize),
    };
    return cmocka_run_group_tests_name("tiny_logits", tests, set_up, tear_down);
}
