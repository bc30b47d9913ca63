/* Logits of random checkpoints of every architecture against transformers in fp32 (tests/data/arch, recipes/golden), on
 * each instruction set that this machine has, in one prefill and in chunks of 5. The folders hold no tokenizer: a model
 * must open without one. */
#include "e2e.h"
#include "st_file.h"

/* A folder; `old`: with the config.json that older releases of transformers wrote. */
typedef struct model_case {
    const char *name;
    int old;
} model_case;

static const model_case models[] = {
    {"llama2", 0},       {"llama2", 1},     {"llama3", 0},  {"llama31", 0}, {"llama31", 1}, {"llama_bias", 0},
    {"llama_linear", 0}, {"llama_linear", 1}, {"llama_yarn", 0}, {"mistral", 0}, {"mistral", 1}, {"qwen2", 0},
    {"qwen2", 1},        {"qwen2_full", 0}, {"qwen3", 0},
};
static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { N_MODELS = sizeof models / sizeof *models, N_ISAS = sizeof isas / sizeof *isas, N_CASES = N_MODELS * N_ISAS };
static const double TOLERANCE = 1e-4; /* of the range of the golden logits; another order of sums makes about 1e-6 */

typedef struct logits_case {
    const model_case *model;
    const char *isa;
    char name[64];
} logits_case;

static void compare(const char *dir, const char *isa, const char *chunk, const int32_t *ids, int64_t n, const float *golden,
                    int64_t n_logits) {
    char isa_set[32];
    snprintf(isa_set, sizeof isa_set, "engine.isa=%s", isa);
    sluice_engine *engine = e2e_open(dir, SETS(isa_set, chunk));
    sluice_info info;
    sluice_get_info(engine, &info);
    if (strncmp(info.isa, isa, strlen(isa)) != 0) /* "avx512-bf16-vnni" tells what else the machine has */
        fail_msg("asked for %s, got %s", isa, info.isa);
    assert_int_equal(n_logits, n * info.vocab);
    float *logits = e2e_logits_of(engine, ids, n), low = golden[0], high = golden[0];
    for (int64_t i = 0; i < n_logits; i++) {
        low = golden[i] < low ? golden[i] : low;
        high = golden[i] > high ? golden[i] : high;
    }
    check_close(chunk, golden, logits, (size_t)n_logits, 0, TOLERANCE * ((double)high - low));
    free(logits);
    sluice_close(engine);
}

static void test_logits(void **state) {
    const logits_case *c = *state;
    if (!e2e_has_isa(c->isa))
        skip_because("this machine has no %s", c->isa);
    char folder[128], path[160];
    snprintf(folder, sizeof folder, "tests/data/arch/%s", c->model->name);
    snprintf(path, sizeof path, "%s/golden.safetensors", folder);
    st_file golden;
    st_read(e2e_path(path), &golden);
    int64_t n, n_logits;
    const int32_t *ids = st_tensor(&golden, "ids", "I32", &n);
    const float *logits = st_tensor(&golden, "logits", "F32", &n_logits);
    const char *dir = folder;
    if (c->model->old) {
        size_t bytes;
        snprintf(path, sizeof path, "%s/config_old.json", folder);
        char *old = e2e_read(e2e_path(path), &bytes);
        dir = e2e_linked_model(folder);
        e2e_put(dir, "config.json", old, bytes);
        free(old);
    }
    compare(dir, c->isa, "engine.prefill_chunk=512", ids, n, logits, n_logits);
    compare(dir, c->isa, "engine.prefill_chunk=5", ids, n, logits, n_logits);
    st_free(&golden);
}

/* Without tokenizer.json tokens work; text is refused with a reason. */
static void test_no_tokenizer(void **state) {
    (void)state;
    sluice_engine *engine = e2e_open("tests/data/arch/llama3", NO_SETS);
    const int32_t ids[] = {5, 9, 17};
    sluice_session *s = e2e_session(engine, ids, 3);
    sluice_sampling greedy = e2e_greedy(8);
    e2e_output out;
    e2e_generate(engine, &s, 1, &greedy, 1, &out);
    assert_int_equal(out.n, 8);
    e2e_outputs_free(&out, 1);
    sluice_error err = {0};
    int32_t token;
    assert_true(sluice_tokenize(engine, "hello", 5, 0, &token, 1, &err) < 0);
    assert_non_null(strstr(err.text, "tokenizer"));
    char text[8];
    err.text[0] = '\0';
    assert_true(sluice_detokenize(engine, ids, 3, text, sizeof text, &err) < 0);
    assert_non_null(strstr(err.text, "tokenizer"));
    sluice_close(engine);
}

int main(void) {
    static logits_case cases[N_CASES];
    static struct CMUnitTest tests[N_CASES + 1];
    for (int i = 0; i < N_CASES; i++) {
        logits_case *c = &cases[i];
        c->model = &models[i / N_ISAS];
        c->isa = isas[i % N_ISAS];
        snprintf(c->name, sizeof c->name, "%s%s %s", c->model->name, c->model->old ? " (old config)" : "", c->isa);
        tests[i] = (struct CMUnitTest){c->name, test_logits, NULL, NULL, c};
    }
    tests[N_CASES] = (struct CMUnitTest)cmocka_unit_test(test_no_tokenizer);
    return cmocka_run_group_tests_name("arch_logits", tests, NULL, NULL);
}
