/* Greedy tokens of the embedded model with the plain C kernels (engine.isa = ref): slower than the others, so a program
 * of its own. */
#include "e2e.h"

static void test_reference(void **state) {
    (void)state;
    e2e_prompts prompts;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    sluice_engine *engine = e2e_open("models/tiny", SETS("engine.isa=ref", "engine.threads=2"));
    e2e_check_greedy("ref", engine, prompts.prompt, prompts.n, 5);
    sluice_close(engine);
    e2e_prompts_free(&prompts);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference)};
    return cmocka_run_group_tests_name("tiny_reference", tests, NULL, NULL);
}
