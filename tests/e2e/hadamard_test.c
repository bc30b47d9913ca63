/* The rotated model computes what the model computes: logits of every architecture, each place alone and all together, every
 * seed; rows do not depend on chunks; drafters notice nothing; int4 loses less where channels stick out. */
#include "e2e.h"
#include "st_file.h"

#include <math.h>

enum { MAX_SETS = 12 };

static const char *const models[] = {"llama2",       "llama3",  "llama31", "llama_bias", "llama_linear",
                                     "llama_yarn",   "mistral", "qwen2",   "qwen2_full", "qwen3"};
enum { N_MODELS = sizeof models / sizeof *models };

/* What differs from the plugin's defaults. */
static const char *const places[][4] = {
    {"all", NULL},
    {"kv", "quant.rewrite.kv_rotate=yes", NULL},
    {"residual alone", "quant.rewrite.online_o=no", "quant.rewrite.online_down=no", NULL},
    {"o alone", "quant.rewrite.residual=no", "quant.rewrite.online_down=no", NULL},
    {"down alone", "quant.rewrite.residual=no", "quant.rewrite.online_o=no", NULL},
    {"partial", "quant.rewrite.residual=no", "quant.rewrite.kv_rotate=yes", NULL},
    {"seed", "quant.rewrite.seed=12345", NULL},
    {"block", "quant.rewrite.size=block", NULL},
    {"small blocks", "quant.rewrite.size=block", "quant.rewrite.block_max=8", NULL},
};
enum { N_PLACES = sizeof places / sizeof *places };

static sluice_engine *open_rotated(const char *dir, const char *const *more, const char *last) {
    const char *sets[MAX_SETS] = {"quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32"};
    int n = 2;
    for (; more != NULL && more[n - 2] != NULL; n++)
        sets[n] = more[n - 2];
    sets[n] = last;
    return e2e_open(dir, sets);
}

static void test_logits(void **state) {
    const char *name = *state;
    char folder[128], path[160];
    snprintf(folder, sizeof folder, "tests/data/arch/%s", name);
    snprintf(path, sizeof path, "%s/golden.safetensors", folder);
    st_file golden;
    st_read(e2e_path(path), &golden);
    int64_t n;
    const int32_t *ids = st_tensor(&golden, "ids", "I32", &n);
    sluice_engine *engine = e2e_open(folder, NO_SETS);
    sluice_info info;
    sluice_get_info(engine, &info);
    float *plain = e2e_logits_of(engine, ids, n);
    sluice_close(engine);
    double most = 0;
    for (int64_t i = 0; i < n * info.vocab; i++)
        most = fabs((double)plain[i]) > most ? fabs((double)plain[i]) : most;
    for (int p = 0; p < N_PLACES; p++)
        for (int chunked = 0; chunked < (p < 2 ? 2 : 1); chunked++) {
            engine = open_rotated(folder, places[p] + 1, chunked ? "engine.prefill_chunk=3" : NULL);
            float *turned = e2e_logits_of(engine, ids, n);
            check_close(places[p][0], plain, turned, (size_t)(n * info.vocab), 0, 1e-5 * most);
            free(turned);
            sluice_close(engine);
        }
    free(plain);
    st_free(&golden);
}

/* Greedy text with drafters in it: the rotation is exact enough, and drafts are accepted as before. */
static void test_text(void **state) {
    (void)state;
    e2e_prompts prompts;
    e2e_prompts_read("tests/data/tiny/golden.json", &prompts);
    static const char *const drafters[][3] = {{NULL}, {"speculation.plugin=prompt_lookup", NULL}, {"speculation.plugin=token_recycling", NULL}};
    for (int d = 0; d < 3; d++) {
        int64_t accepted[2];
        for (int turned = 0; turned < 2; turned++) {
            sluice_engine *engine = turned ? open_rotated("models/tiny", drafters[d], NULL) : e2e_open("models/tiny", drafters[d]);
            sluice_stats stats;
            e2e_check_greedy("rotated", engine, prompts.prompt, prompts.n, 1);
            sluice_get_stats(engine, &stats);
            accepted[turned] = stats.accepted;
            sluice_close(engine);
        }
        assert_int_equal(accepted[0], accepted[1]);
    }
    e2e_prompts_free(&prompts);
}

static double loss(const char *const *sets) {
    static int32_t tokens[512];
    static double logprob[512];
    sluice_engine *engine = e2e_open("models/tiny", sets);
    size_t bytes;
    char *text = e2e_read(e2e_path("recipes/golden/prose_watson.txt"), &bytes);
    int64_t n = sluice_tokenize(engine, text, bytes < 3000 ? bytes : 3000, 0, tokens, 512, NULL);
    n = n < 512 ? n : 512;
    sluice_session *s = e2e_session(engine, tokens, n);
    assert_int_equal(sluice_score(s, n - 1, logprob, NULL, NULL), 0);
    double sum = 0;
    for (int64_t i = 0; i < n - 1; i++)
        sum -= logprob[i] / (double)(n - 1);
    free(text);
    sluice_session_close(s);
    sluice_close(engine);
    return sum;
}

/* Four bits with one scale a row: rotated weights lose less; rounded rows lose, fewer bits more. */
static void test_quantised(void **state) {
    (void)state;
    double plain = loss(NO_SETS), rtn = loss(SETS("quant.plugin=rtn", "quant.bits=4", "quant.group=0"));
    double turned = loss(SETS("quant.plugin=rtn", "quant.bits=4", "quant.group=0", "quant.rewrite.plugin=hadamard"));
    double eight = loss(SETS("quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32", "quant.rewrite.a_bits=8"));
    double four = loss(SETS("quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32", "quant.rewrite.a_bits=4"));
    print_message("nats a token: plain %.4f, rtn %.4f, rotated rtn %.4f; rows of 8 bits %.4f, 4 bits %.4f\n", plain, rtn, turned, eight, four);
    assert_true(turned < rtn && plain < turned);
    assert_true(fabs(eight - plain) < 0.01 && four > eight);
}

static void test_refused(void **state) {
    (void)state;
    sluice_error err;
    e2e_open_refused("models/tiny", SETS("quant.rewrite.plugin=hadamard", "quant.rewrite.block_max=12"), &err);
    assert_non_null(strstr(err.text, "power of two"));
    e2e_open_refused("models/tiny", SETS("quant.rewrite.plugin=hadamard", "quant.rewrite.a_bits=12"), &err);
    assert_non_null(strstr(err.text, "a_bits"));
    e2e_open_refused("models/tiny", SETS("quant.rewrite.plugin=hadamard", "quant.rewrite.table_file=/nonexistent.safetensors"), &err);
    assert_non_null(strstr(err.text, "/nonexistent.safetensors"));
    e2e_open_refused("models/tiny", SETS("quant.rewrite.plugin=rtn"), &err);
    assert_non_null(strstr(err.text, "quant.rewrite"));
    e2e_open_refused("models/tiny", SETS("quant.plugin=hadamard"), &err);
    assert_non_null(strstr(err.text, "hadamard"));
}

int main(void) {
    static struct CMUnitTest tests[N_MODELS + 4];
    for (int i = 0; i < N_MODELS; i++)
        tests[i] = (struct CMUnitTest){models[i], test_logits, NULL, NULL, (void *)(uintptr_t)models[i]};
    struct CMUnitTest rest[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_quantised), cmocka_unit_test(test_refused)};
    memcpy(tests + N_MODELS, rest, sizeof rest);
    return _cmocka_run_group_tests("hadamard", tests, N_MODELS + 3, NULL, NULL);
}
