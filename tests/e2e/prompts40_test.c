/* Forty short prompts, 16 greedy tokens each, plainly and with each lossless drafter, one by one and five together. */
#include "e2e.h"

#include "medusa_file.h"

static e2e_prompts prompts;
static char draft[PATH_MAX + 32], heads[PATH_MAX + 32];

typedef struct drafter {
    const char *name;
    const char *sets[4];
} drafter;

static const drafter drafters[] = {
    {"plain", {NULL}},
    {"prompt_lookup", {"speculation.plugin=prompt_lookup"}},
    {"token_recycling", {"speculation.plugin=token_recycling", "speculation.cut=12"}},
    {"sps", {"speculation.plugin=sps", "speculation.gamma=3", draft}},
    {"medusa", {"speculation.plugin=medusa", "speculation.nodes=12", heads}},
};

static void test_forty(void **state) {
    const drafter *d = *state;
    sluice_engine *engine = e2e_open("models/tiny", d->sets);
    e2e_check_greedy(d->name, engine, prompts.prompt, prompts.n, 1);
    e2e_check_greedy(d->name, engine, prompts.prompt, prompts.n, 5);
    sluice_close(engine);
}

static int set_up(void **state) {
    (void)state;
    e2e_prompts_read("tests/data/tiny/prompts40.json", &prompts);
    assert_int_equal(prompts.n, 40);
    medusa_file random = {.heads = 4, .blocks = 1, .hidden = 256, .vocab = 4096, .prefix = "", .seed = 40, .scale = 1};
    medusa_file_write(e2e_temp("heads.safetensors"), &random);
    snprintf(heads, sizeof heads, "speculation.heads=%s", e2e_temp("heads.safetensors"));
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
    static struct CMUnitTest tests[N];
    for (int i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){drafters[i].name, test_forty, NULL, NULL, (void *)(uintptr_t)&drafters[i]};
    return cmocka_run_group_tests_name("prompts40", tests, set_up, tear_down);
}
