/* Greedy tokens of the embedded model on each instruction set, five prompts together and, where it is fast, one by one. */
#include "e2e.h"

static void test_isa(void **state) {
    const char *isa = *state;
    if (!e2e_has_isa(isa))
        skip_because("this machine has no %s", isa);
    char set[32];
    snprintf(set, sizeof set, "engine.isa=%s", isa);
    e2e_prompts prompts;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    sluice_engine *engine = e2e_open("models/tiny", SETS(set, "engine.threads=2"));
    e2e_check_greedy(isa, engine, prompts.prompt, prompts.n, 5);
    if (strcmp(isa, "ref") != 0)
        e2e_check_greedy(isa, engine, prompts.prompt, prompts.n, 1);
    sluice_close(engine);
    e2e_prompts_free(&prompts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"tiny greedy ref", test_isa, NULL, NULL, (void *)"ref"},
        {"tiny greedy avx2", test_isa, NULL, NULL, (void *)"avx2"},
        {"tiny greedy avx512", test_isa, NULL, NULL, (void *)"avx512"},
    };
    return cmocka_run_group_tests_name("tiny_isas", tests, NULL, NULL);
}
