/* A model on the CPU (f32) and on a GPU (bf16 activations, bf16 cache): models/tiny, the random checkpoint of each
 * architecture, `small` where the shared models are, and shapes with random weights. Logits lie near each other, greedy
 * tokens part only where two are nearly as likely, and on the GPU neither chunks nor decoding one by one change a bit.
 *
 * Tolerance. A value rounded to bf16 is off by 2^-9 of itself at most, 2^-9 / sqrt(3) = 0.0011 on the average. A
 * residual row collects such errors of about ten roundings a layer (inputs of linears, q, k, v, probabilities, o, the
 * FFN), which add up like a random walk: 0.0011 sqrt(10 L) of its length, 0.009 for six layers, and the head's input is
 * rounded once more. Logits are products with it, so about 0.01 of their spread is expected as the root mean square;
 * random checkpoints, whose rows grow from layer to layer, were seen to have half as much again (activations rounded to
 * bf16 on a CPU). The largest of some ten thousand is five times the root mean square. Limits are four times what is
 * expected, and six times that for the largest; a wrong mask, position or head is off by about the spread itself. */
#include "e2e.h"
#include "st_file.h"

#include <math.h>

#define SHAPE "shape/"   /* a folder that is none: random weights, which each device makes for itself */
#define SHARED "shared/" /* a folder below $SLUICE_SHARED, which holds larger trained models */
enum { CPU, GPU, N_GREEDY = 48, MAX_TOKENS = 512 };

static double rms_limit(int layers) { return 4 * 0.0011 * sqrt(10.0 * layers + 2); }

typedef struct model_case {
    const char *folder;
    char name[64];
} model_case;

/* NULL: there is no GPU; the test is skipped with the reason then. */
static sluice_engine *open_on(const char *folder, int where, const char *set) {
    char path[PATH_MAX + 16];
    if (strncmp(folder, SHAPE, strlen(SHAPE)) == 0)
        snprintf(path, sizeof path, "model.shape=%s", folder + strlen(SHAPE));
    else if (strncmp(folder, SHARED, strlen(SHARED)) == 0)
        snprintf(path, sizeof path, "model.path=%s/%s", test_shared_dir(), folder + strlen(SHARED));
    else
        snprintf(path, sizeof path, "model.path=%s", e2e_path(folder));
    const char *sets[] = {path, where == GPU ? "engine.device=cuda" : "engine.device=cpu", "engine.max_context=1024",
                          set != NULL ? set : "engine.threads=0"};
    sluice_options options = {.sets = sets, .n_sets = 4};
    sluice_engine *e = NULL;
    sluice_error err = {0};
    if (sluice_open(&options, &e, &err) >= 0)
        return e;
    if (where == GPU && err.code == SLUICE_E_NOT_FOUND)
        skip_because("%.200s", err.text);
    fail_msg("%s on the %s: %s", folder, where == GPU ? "GPU" : "CPU", err.text);
    return NULL;
}

/* Root of the mean square of the differences, and the largest, both of the spread of the logits. */
static void compare(const char *what, const float *cpu, const float *gpu, int64_t n, int64_t vocab, int layers) {
    double sum = 0, squares = 0, off = 0, most = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n * vocab; i++) {
        double d = (double)gpu[i] - cpu[i];
        if (!isfinite(gpu[i]))
            fail_msg("%s: row %lld, token %lld is %g", what, (long long)(i / vocab), (long long)(i % vocab),
                     (double)gpu[i]);
        sum += cpu[i];
        squares += (double)cpu[i] * cpu[i];
        off += d * d;
        if (fabs(d) > most)
            most = fabs(d), at = i;
    }
    double count = (double)(n * vocab), spread = sqrt(squares / count - sum / count * (sum / count));
    double rms = sqrt(off / count) / spread, worst = most / spread;
    print_message("# %s: %lld rows, rms %.4f, largest %.4f of the spread %.3f\n", what, (long long)n, rms, worst,
                  spread);
    if (!(rms <= rms_limit(layers)) || !(worst <= 6 * rms_limit(layers)))
        fail_msg("%s: rms %.4f (limit %.4f), largest %.4f (limit %.4f) of the spread; largest in row %lld, token %lld: "
                 "CPU %g, GPU %g",
                 what, rms, rms_limit(layers), worst, 6 * rms_limit(layers), (long long)(at / vocab),
                 (long long)(at % vocab), (double)cpu[at], (double)gpu[at]);
}

static int32_t best_of(const float *row, int64_t vocab) {
    int32_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (row[i] > row[best])
            best = (int32_t)i;
    return best;
}

/* Both devices see the same tokens: the other choice may not be much less likely. */
static void compare_choices(const char *what, const float *cpu, const float *gpu, int64_t n, int64_t vocab,
                            int layers) {
    int64_t others = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *row = cpu + i * vocab;
        int32_t a = best_of(row, vocab), b = best_of(gpu + i * vocab, vocab);
        double squares = 0;
        for (int64_t k = 0; k < vocab; k++)
            squares += (double)row[k] * row[k];
        double tie = 6 * rms_limit(layers) * sqrt(squares / (double)vocab); /* both logits may be off */
        others += a != b;
        if (row[a] - row[b] > tie)
            fail_msg("%s: row %lld: the CPU prefers %d to %d by %g (a tie is below %g)", what, (long long)i, a, b,
                     (double)row[a] - row[b], tie);
    }
    print_message("# %s: %lld of %lld greedy tokens differ, all near ties\n", what, (long long)others, (long long)n);
    assert_true(others * 4 <= n);
}

static int64_t greedy_on(sluice_engine *e, const int32_t *ids, int64_t n, int32_t *out) {
    sluice_session *s = e2e_session(e, ids, n);
    sluice_sampling greedy = e2e_greedy(N_GREEDY);
    e2e_output o;
    e2e_generate(e, &s, 1, &greedy, 1, &o);
    memcpy(out, o.tokens, sizeof *out * (size_t)o.n);
    int64_t n_out = o.n;
    e2e_outputs_free(&o, 1);
    sluice_session_close(s);
    return n_out;
}

/* Decoding one by one gives the probabilities of the prompt's rows, and what is generated is what its logits say. */
static void check_decoding(const char *what, sluice_engine *e, const int32_t *ids, int64_t n, int64_t n_prompt) {
    static double prompt[MAX_TOKENS], steps[MAX_TOKENS];
    static int32_t best[MAX_TOKENS];
    sluice_error err;
    sluice_session *a = e2e_session(e, ids, n), *b = e2e_session(e, ids, n);
    int64_t scored = n - n_prompt;
    if (sluice_score(a, scored, prompt, NULL, &err) < 0 || sluice_score_steps(b, scored, steps, best, &err) < 0)
        fail_msg("%s: %s", what, err.text);
    for (int64_t i = 0; i < scored; i++) {
        if (prompt[i] != steps[i])
            fail_msg("%s: token %lld has %.9g in the prompt and %.9g decoded alone", what, (long long)i, prompt[i],
                     steps[i]);
        if (best[i] != ids[n_prompt + i])
            fail_msg("%s: generated token %lld is %d, its logits say %d", what, (long long)i, ids[n_prompt + i],
                     best[i]);
    }
    sluice_session_close(a);
    sluice_session_close(b);
}

static void one_model(void **state) {
    const model_case *c = *state;
    if (strcmp(c->folder, SHAPE "qwen3-0.6b") == 0 && test_length() < 2)
        skip_because("600 M parameters on a CPU: only in long runs");
    if (strncmp(c->folder, SHAPE, strlen(SHAPE)) == 0 && test_length() < 1)
        skip_because("many rows of a large vocabulary: only in long runs");
    if (strncmp(c->folder, SHARED, strlen(SHARED)) == 0)
        test_shared_dir(); /* or skip */
    static int32_t ids[MAX_TOKENS], cpu_text[MAX_TOKENS], gpu_text[MAX_TOKENS];
    sluice_engine *gpu = open_on(c->folder, GPU, NULL), *cpu = open_on(c->folder, CPU, NULL);
    sluice_info info;
    sluice_get_info(gpu, &info);
    print_message("# %s on %s\n", c->folder, info.device_name);
    int64_t n = 41, vocab = info.vocab;
    uint64_t seed = 42;
    for (int64_t i = 0; i < n; i++)
        cpu_text[i] = gpu_text[i] = ids[i] = (int32_t)(test_next(&seed) % (uint64_t)vocab);

    /* what each generates; the CPU's text is then put before both */
    int64_t n_text = n + greedy_on(cpu, ids, n, cpu_text + n), n_gpu = n + greedy_on(gpu, ids, n, gpu_text + n);
    assert_int_equal(n_text, n_gpu);
    int64_t same = 0;
    while (same < n_text && cpu_text[same] == gpu_text[same])
        same++;
    print_message("# %s: %lld of %d generated tokens are the same until they part\n", c->name, (long long)(same - n),
                  N_GREEDY);
    float *a = e2e_logits_of(cpu, cpu_text, n_text), *b = e2e_logits_of(gpu, cpu_text, n_text);
    compare(c->name, a, b, n_text, vocab, info.layers);
    compare_choices(c->name, a, b, n_text, vocab, info.layers);
    check_decoding(c->name, gpu, gpu_text, n_gpu, n);
    sluice_close(gpu);
    sluice_close(cpu);

    /* deterministic: chunks change nothing */
    gpu = open_on(c->folder, GPU, "engine.prefill_chunk=5");
    float *chunked = e2e_logits_of(gpu, cpu_text, n_text);
    for (int64_t i = 0; i < n_text * vocab; i++)
        if (memcmp(&b[i], &chunked[i], sizeof *b) != 0)
            fail_msg("%s: in chunks of 5 row %lld, token %lld is %.9g, at once %.9g", c->name, (long long)(i / vocab),
                     (long long)(i % vocab), (double)chunked[i], (double)b[i]);
    sluice_close(gpu);
    free(a);
    free(b);
    free(chunked);
}

int main(void) {
    static const char *const folders[] = {"models/tiny",
                                          "tests/data/arch/llama2",
                                          "tests/data/arch/llama3",
                                          "tests/data/arch/llama31",
                                          "tests/data/arch/llama_bias",
                                          "tests/data/arch/llama_linear",
                                          "tests/data/arch/llama_yarn",
                                          "tests/data/arch/mistral",
                                          "tests/data/arch/qwen2",
                                          "tests/data/arch/qwen2_full",
                                          "tests/data/arch/qwen3",
                                          SHARED "models/small",
                                          SHAPE "smollm2-135m",
                                          SHAPE "qwen3-0.6b"};
    enum { N = sizeof folders / sizeof *folders };
    static model_case cases[N];
    static struct CMUnitTest tests[N];
    for (int i = 0; i < N; i++) {
        cases[i].folder = folders[i];
        snprintf(cases[i].name, sizeof cases[i].name, "%s", strrchr(folders[i], '/') + 1);
        tests[i] = (struct CMUnitTest){cases[i].name, one_model, NULL, NULL, &cases[i]};
    }
    return cmocka_run_group_tests_name("cuda_logits", tests, NULL, NULL);
}
