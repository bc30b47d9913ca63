/* sluice bench - prompt and decode speed, in llama-bench's terms: pp N, tg N, at a depth, for one session or some side
 * by side. Tokenising and sampling of text are not in it; tokens are random. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build_commit.h"
#include "commands.h"
#include "options.h"
#include "report.h"

enum { MAX_VALUES = 32, MAX_BATCH = 256, MAX_TESTS = 64, MAX_REPETITIONS = 100 };

typedef struct test {
    int64_t n_prompt, n_gen, depth;
    int batch;     /* sessions side by side */
    int sampled;   /* tokens are drawn as [sampling] says, instead of the best ones */
    int synthetic; /* the context in front is seeded rows, not a prompt that was computed */
} test;

static double load_seconds; /* what opening the engine took */

/* "512,1024" into numbers; -1 after printing an error. */
static int parse_list(const char *name, const char *text, int64_t *out) {
    int n = 0;
    for (const char *p = text; *p != '\0' && n < MAX_VALUES;) {
        char *end;
        out[n++] = strtoll(p, &end, 10);
        if (end == p || out[n - 1] < 0 || (*end != ',' && *end != '\0')) {
            fprintf(stderr, "sluice: %s: expected numbers separated by commas, found \"%s\"\n", name, text);
            return -1;
        }
        p = *end == ',' ? end + 1 : end;
    }
    return n;
}

/* "pp4096 tg128@512 tg64@1024x64" into tests; -1 after printing an error. */
static int parse_tests(const char *text, int synthetic, test *out) {
    int n = 0;
    for (const char *p = text; *p != '\0' && n < MAX_TESTS;) {
        long long tokens, depth = 0, batch = 1;
        int is_prompt = strncmp(p, "pp", 2) == 0, sampled = strncmp(p, "ts", 2) == 0, used = 0;
        int ok = is_prompt || sampled || strncmp(p, "tg", 2) == 0;
        ok = ok && sscanf(p + 2, "%9lld%n", &tokens, &used) == 1 && tokens > 0;
        const char *end = p + 2 + used;
        if (ok && *end == '@' && (ok = sscanf(end, "@%9lld%n", &depth, &used) == 1 && depth >= 0))
            end += used;
        if (ok && *end == 'x' && (ok = sscanf(end, "x%9lld%n", &batch, &used) == 1 && batch >= 1 && batch <= MAX_BATCH))
            end += used;
        if (!ok || (*end != '\0' && *end != ' ' && *end != ',')) {
            fprintf(stderr,
                    "sluice: --tests: expected words like pp4096, tg128@512, ts64 or tg64@1024x8, found \"%s\"\n", p);
            return -1;
        }
        out[n++] = (test){is_prompt ? tokens : 0, is_prompt ? 0 : tokens, depth, (int)batch, sampled, synthetic};
        p = end + strspn(end, " ,");
    }
    return n;
}

/* Each depth with each number of sessions and each length; -1 after printing an error. */
static int cross(const char *prompt, const char *gen, const char *depth, const char *batch, int synthetic, test *out) {
    int64_t ps[MAX_VALUES], gs[MAX_VALUES], ds[MAX_VALUES], bs[MAX_VALUES];
    int np = parse_list("-p", prompt, ps), ng = parse_list("-n", gen, gs), nd = parse_list("-d", depth, ds);
    int nb = parse_list("-b", batch, bs), n = 0;
    if (np < 0 || ng < 0 || nd < 0 || nb < 0)
        return -1;
    for (int i = 0; i < nd * nb * (np + ng); i++) {
        int k = i % (np + ng), b = i / (np + ng) % nb;
        test t = {k < np ? ps[k] : 0, k < np ? 0 : gs[k - np], ds[i / (np + ng) / nb], (int)bs[b], 0, synthetic};
        if (bs[b] < 1 || bs[b] > MAX_BATCH) {
            fprintf(stderr, "sluice: -b takes 1 to %d\n", MAX_BATCH);
            return -1;
        }
        if (t.n_prompt + t.n_gen == 0)
            continue;
        if (n == MAX_TESTS) {
            fprintf(stderr, "sluice: more than %d tests\n", MAX_TESTS);
            return -1;
        }
        out[n++] = t;
    }
    return n;
}

static void random_tokens(int32_t *tokens, int64_t n, int32_t vocab, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (int32_t)((seed >> 33) % (uint64_t)vocab);
    }
}

static int ignore_chunk(void *user, const sluice_chunk *chunk) {
    (void)user, (void)chunk;
    return 0;
}

/* Puts n tokens in front of what is measured. */
static int go_to_depth(sluice_session *s, const test *t, const int32_t *tokens, uint64_t seed, sluice_error *err) {
    if (t->depth == 0)
        return SLUICE_OK;
    if (t->synthetic)
        return sluice_session_fill(s, t->depth, seed, err);
    int status = sluice_session_append(s, tokens, t->depth, err);
    return status < 0 ? status : sluice_prefill(s, 0, err);
}

static int compute_prompts(sluice_session *const *s, const test *t, const int32_t *tokens, float *logits,
                           sluice_error *err) {
    int status = SLUICE_OK;
    for (int i = 0; status >= 0 && i < t->batch; i++)
        if ((status = sluice_session_append(s[i], tokens, t->n_prompt, err)) >= 0)
            status = sluice_logits(s[i], 1, logits, err);
    return status;
}

/* Gives each session a token, and generates n behind it. */
static int generate(sluice_engine *e, sluice_session *const *s, const test *t, const int32_t *first, int64_t n,
                    sluice_error *err) {
    sluice_sampling how;
    sluice_default_sampling(e, &how);
    how.temperature = t->sampled ? how.temperature : 0;
    how.ignore_eos = 1;
    how.n_stop = 0;
    how.max_tokens = (int32_t)n;
    int status = SLUICE_OK;
    for (int i = 0; first != NULL && status >= 0 && i < t->batch; i++)
        status = sluice_session_append(s[i], first, 1, err);
    return status < 0 ? status : sluice_generate(e, s, t->batch, &how, 1, ignore_chunk, NULL, err);
}

/* What a repetition took, and how much of it a device was at work; its steps of decoding and their draft tokens. */
typedef struct timing {
    double seconds, busy;
    int64_t steps, drafted, emitted;
} timing;

/* One repetition in open sessions. */
static int run_in(sluice_engine *e, sluice_session *const *s, const test *t, const int32_t *tokens, float *logits,
                  uint64_t seed, timing *took, sluice_error *err) {
    /* Decoding at a depth goes on from a token that was decided, not from a turn. */
    int begun = t->depth > 0 && t->n_prompt == 0, status = SLUICE_OK;
    const int32_t *last = tokens + t->depth + t->n_prompt;
    for (int i = 0; status >= 0 && i < t->batch; i++)
        status = go_to_depth(s[i], t, tokens, seed + (uint64_t)i, err);
    if (status >= 0 && begun)
        status = generate(e, s, t, last, 1, err);
    sluice_stats before, after;
    sluice_get_stats(e, &before);
    double begin = now();
    if (status >= 0 && t->n_prompt > 0)
        status = compute_prompts(s, t, tokens + t->depth, logits, err);
    if (status >= 0 && t->n_gen > 0)
        status = generate(e, s, t, begun ? NULL : last, t->n_gen, err);
    took->seconds = now() - begin;
    sluice_get_stats(e, &after);
    took->busy = after.device_seconds - before.device_seconds;
    took->steps = after.steps - before.steps;
    took->drafted = after.drafted - before.drafted;
    took->emitted = after.emitted - before.emitted;
    return status;
}

static int run_once(sluice_engine *e, const test *t, uint64_t seed, timing *took, sluice_error *err) {
    sluice_info info;
    sluice_get_info(e, &info);
    int64_t most = t->depth + t->n_prompt + 1;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)most);
    float *logits = malloc(sizeof *logits * (size_t)info.vocab);
    sluice_session *sessions[MAX_BATCH] = {NULL};
    int status = tokens != NULL && logits != NULL ? SLUICE_OK : SLUICE_E_NO_MEMORY;
    if (status < 0)
        snprintf(err->text, sizeof err->text, "out of memory");
    else
        random_tokens(tokens, most, info.vocab, seed);
    for (int i = 0; status >= 0 && i < t->batch; i++)
        status = sluice_session_open(e, &sessions[i], err);
    if (status >= 0)
        status = run_in(e, sessions, t, tokens, logits, seed, took, err);
    for (int i = 0; i < t->batch; i++)
        sluice_session_close(sessions[i]);
    free(tokens);
    free(logits);
    return status;
}

static void name_test(const test *t, char *out, size_t cap) {
    char depth[80] = "";
    if (t->depth > 0)
        snprintf(depth, sizeof depth, " @ d%lld%s", (long long)t->depth, t->synthetic ? " synthetic" : "");
    if (t->batch > 1)
        snprintf(depth + strlen(depth), sizeof depth - strlen(depth), " x %d", t->batch);
    if (t->n_prompt > 0 && t->n_gen > 0)
        snprintf(out, cap, "pp%lld+tg%lld%s", (long long)t->n_prompt, (long long)t->n_gen, depth);
    else
        snprintf(out, cap, "%s%lld%s",
                 t->n_prompt > 0 ? "pp"
                 : t->sampled    ? "ts"
                                 : "tg",
                 (long long)(t->n_prompt + t->n_gen), depth);
}

static json_t *reals(const double *v, int n, double scale) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, scale == 1 ? json_real(v[i]) : json_integer((json_int_t)(v[i] * scale)));
    return a;
}

static double mean(const double *v, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i];
    return sum / n;
}

static double deviation(const double *v, int n) {
    double m = mean(v, n), sum = 0;
    for (int i = 0; i < n; i++)
        sum += (v[i] - m) * (v[i] - m);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

static void report_device(json_t *r, const sluice_info *info, const sluice_stats *s, double busy, double seconds) {
    json_object_set_new(r, "device_name", json_string(info->device_name));
    json_object_set_new(r, "avg_busy_ns", json_integer((json_int_t)(1e9 * busy)));
    json_object_set_new(r, "idle_share", json_real(seconds > 0 ? 1 - busy / seconds : 0)); /* wall minus busy */
    json_object_set_new(r, "graphs", json_integer(s->graphs));
    json_object_set_new(r, "graph_nodes", json_integer(s->graph_nodes));
    json_object_set_new(r, "gpu_bytes_kv", json_integer(s->gpu_bytes_kv));
    json_object_set_new(r, "gpu_bytes_weights", json_integer(s->gpu_bytes_weights));
    json_object_set_new(r, "gpu_bytes_peak", json_integer(s->gpu_bytes_peak));
    json_object_set_new(r, "steps_ahead", json_integer(s->device_ahead));
    json_object_set_new(r, "graph_others", json_integer(s->graph_others));
    json_object_set_new(r, "graph_edges", json_integer(s->graph_edges));
    json_object_set_new(r, "graph_dependent", json_integer(s->graph_dependent));
    json_object_set_new(r, "steps_logits", json_integer(s->device_answers[0]));
    json_object_set_new(r, "steps_best", json_integer(s->device_answers[1]));
    json_object_set_new(r, "steps_drawn", json_integer(s->device_answers[2]));
    json_object_set_new(r, "bytes_pinned", json_integer(s->bytes_pinned));
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *v, int n) {
    double sorted[MAX_REPETITIONS];
    memcpy(sorted, v, sizeof *v * (size_t)n);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

static void report_steps(json_t *r, const test *t, const timing *all, double seconds) {
    if (t->n_prompt > 0 || all->steps == 0)
        return;
    double steps = (double)all->steps;
    json_object_set_new(r, "ms_step", json_real(1e3 * seconds / steps));
    json_object_set_new(r, "tokens_step", json_real((double)all->emitted / steps));
    json_object_set_new(r, "nodes_step", json_real((double)all->drafted / steps + t->batch));
    json_object_set_new(r, "sampled", json_boolean(t->sampled));
}

/* Runs one test and returns its record. */
static json_t *measure(sluice_engine *e, const test *t, int repetitions, sluice_error *err) {
    double seconds[MAX_REPETITIONS], rate[MAX_REPETITIONS], busy[MAX_REPETITIONS];
    timing took, all = {0};
    sluice_info info;
    sluice_get_info(e, &info);
    sluice_stats first, stats;
    sluice_get_stats(e, &first);
    if (run_once(e, t, 1, &took, err) < 0) /* warm-up */
        return NULL;
    sluice_reset_stats(e);
    for (int i = 0; i < repetitions; i++) {
        if (run_once(e, t, 2 + (uint64_t)i, &took, err) < 0)
            return NULL;
        seconds[i] = took.seconds;
        busy[i] = took.busy;
        all.steps += took.steps, all.drafted += took.drafted, all.emitted += took.emitted;
        rate[i] = (double)t->batch * (double)(t->n_prompt + t->n_gen) / seconds[i];
    }
    sluice_get_stats(e, &stats);
    stats.graphs -= first.graphs; /* those of this test */
    stats.graph_nodes -= first.graph_nodes;
    stats.graph_others -= first.graph_others;
    stats.graph_edges -= first.graph_edges;
    stats.graph_dependent -= first.graph_dependent;
    json_t *r = json_object();
    json_object_set_new(r, "build_commit", json_string(BUILD_COMMIT));
    json_object_set_new(r, "build_version", json_string(sluice_version()));
    json_object_set_new(r, "model_filename", json_string(info.model));
    json_object_set_new(r, "model_type", json_sprintf("%s %s", info.model_type, info.dtype));
    json_object_set_new(r, "model_size", json_integer(info.model_bytes));
    json_object_set_new(r, "model_n_params", json_integer(info.parameters));
    json_object_set_new(r, "n_batch", json_integer(info.max_rows));
    json_object_set_new(r, "n_ubatch", json_integer(info.prefill_chunk));
    json_object_set_new(r, "type_k", json_string(info.kv_dtype));
    json_object_set_new(r, "type_v", json_string(info.kv_dtype));
    json_object_set_new(r, "n_threads", json_integer(info.threads));
    json_object_set_new(r, "isa", json_string(info.isa));
    json_object_set_new(r, "load_ns", json_integer((json_int_t)(1e9 * load_seconds)));
    json_object_set_new(r, "device", json_string(info.device));
    json_object_set_new(r, "n_prompt", json_integer(t->n_prompt));
    json_object_set_new(r, "n_gen", json_integer(t->n_gen));
    json_object_set_new(r, "n_depth", json_integer(t->depth));
    json_object_set_new(r, "n_sequences", json_integer(t->batch));
    json_object_set_new(r, "fill", json_string(t->depth == 0 ? "none" : t->synthetic ? "synthetic" : "prompt"));
    json_object_set_new(r, "avg_ns", json_integer((json_int_t)(1e9 * mean(seconds, repetitions))));
    json_object_set_new(r, "stddev_ns", json_integer((json_int_t)(1e9 * deviation(seconds, repetitions))));
    json_object_set_new(r, "avg_ts", json_real(mean(rate, repetitions)));
    json_object_set_new(r, "stddev_ts", json_real(deviation(rate, repetitions)));
    json_object_set_new(r, "median_ts", json_real(median(rate, repetitions)));
    report_steps(r, t, &all, mean(seconds, repetitions) * repetitions);
    json_object_set_new(r, "samples_ns", reals(seconds, repetitions, 1e9));
    json_object_set_new(r, "samples_ts", reals(rate, repetitions, 1));
    json_object_set_new(r, "bytes_kv", json_integer(stats.bytes_kv));
    json_object_set_new(r, "bytes_weights", json_integer(stats.bytes_weights));
    json_object_set_new(r, "bytes_peak", json_integer(stats.bytes_peak));
    json_object_set_new(r, "allocs_in_steps", json_integer(stats.allocs_in_steps));
    if (strcmp(info.device, "cpu") != 0)
        report_device(r, &info, &stats, mean(busy, repetitions), mean(seconds, repetitions));
    report_prompts(e, r);
    return r;
}

static void print_row(json_t *r, const test *t, const char *format) {
    char name[128];
    name_test(t, name, sizeof name);
    char device[96] = "";
    if (json_object_get(r, "idle_share") != NULL)
        snprintf(device, sizeof device, "%.1f %% idle, %lld graphs, %.1f GB",
                 100 * json_real_value(json_object_get(r, "idle_share")),
                 (long long)json_integer_value(json_object_get(r, "graphs")),
                 (double)json_integer_value(json_object_get(r, "gpu_bytes_peak")) / 1e9);
    if (strcmp(format, "md") == 0)
        printf(
            "| %s | %.1f M | %s | %lld | %s | %s | %.2f ± %.2f | %s |\n",
            json_string_value(json_object_get(r, "model_filename")),
            (double)json_integer_value(json_object_get(r, "model_n_params")) / 1e6,
            json_string_value(json_object_get(r, json_object_get(r, "device_name") != NULL ? "device_name" : "device")),
            (long long)json_integer_value(json_object_get(r, "n_threads")),
            json_string_value(json_object_get(r, "isa")), name, json_real_value(json_object_get(r, "avg_ts")),
            json_real_value(json_object_get(r, "stddev_ts")), device);
    else if (strcmp(format, "jsonl") == 0)
        json_dumpf(r, stdout, JSON_COMPACT), putchar('\n');
    fflush(stdout);
}

static int by_dependence(const char *format) {
    return strcmp(format, "md") == 0 || strcmp(format, "json") == 0 || strcmp(format, "jsonl") == 0;
}

int cmd_bench(int argc, char **argv) {
    common c = {0};
    const char *prompt = "512", *gen = "128", *depth = "0", *batch = "1", *fill = "prompt", *format = "md";
    const char *words = NULL;
    int64_t repetitions = 5;
    const option own[] = {
        {"-p, --n-prompt", "N,N", "prompt lengths to measure; 0: none (default 512)", OPT_TEXT, NULL, &prompt},
        {"-n, --n-gen", "N,N", "numbers of tokens to decode; 0: none (default 128)", OPT_TEXT, NULL, &gen},
        {"-d, --n-depth", "N,N", "tokens in the context before each test (default 0)", OPT_TEXT, NULL, &depth},
        {"-b, --batch", "N,N", "sessions side by side; see engine.max_seqs (default 1)", OPT_TEXT, NULL, &batch},
        {"--fill", "HOW",
         "what stands in the context before each test: a computed prompt, or synthetic rows (default prompt)", OPT_TEXT,
         NULL, &fill},
        {"-r, --repetitions", "N", "repetitions, after one warm-up (default 5, at most 100)", OPT_INT, NULL,
         &repetitions},
        {"--tests", "LIST",
         "tests of one load in this order, instead of -p, -n, -d and -b: pp4096 tg128@512 tg64@1024x8, and ts as tg, "
         "but sampled as [sampling] says",
         OPT_TEXT, NULL, &words},
        {"-o, --output", "FORMAT", "md, json or jsonl (default md)", OPT_TEXT, NULL, &format},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int status = options_parse(argc, argv, "sluice bench [options]", own, &c, NULL, 0);
    int synthetic = strcmp(fill, "synthetic") == 0, n_tests = 0;
    test tests[MAX_TESTS];
    if (status >= 0 && !c.help)
        n_tests =
            words != NULL ? parse_tests(words, synthetic, tests) : cross(prompt, gen, depth, batch, synthetic, tests);
    if (status < 0 || c.help || n_tests < 0) {
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    if (repetitions < 1 || repetitions > MAX_REPETITIONS || !by_dependence(format) ||
        (!synthetic && strcmp(fill, "prompt") != 0)) {
        fprintf(stderr, "sluice: -r takes 1 to %d, --fill one of prompt, synthetic, -o one of md, json, jsonl\n",
                MAX_REPETITIONS);
        options_free(&c);
        return CLI_USAGE;
    }
    sluice_engine *engine = NULL;
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    double begin = now();
    status = sluice_open(&options, &engine, &err);
    load_seconds = now() - begin;
    json_t *all = json_array();
    int failed = 0;
    if (status >= 0 && strcmp(format, "md") == 0)
        printf("| model | params | device | threads | isa | test | t/s | of the device "
               "|\n|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; status >= 0 && i < n_tests; i++) {
        json_t *r = measure(engine, &tests[i], (int)repetitions, &err);
        if (r == NULL) { /* what follows may fit */
            failed = fail(&err);
            continue;
        }
        print_row(r, &tests[i], format);
        json_array_append_new(all, r);
    }
    if (status >= 0 && strcmp(format, "json") == 0)
        json_dumpf(all, stdout, JSON_INDENT(2)), putchar('\n');
    json_decref(all);
    status = status < 0 ? fail(&err) : failed;
    sluice_close(engine);
    options_free(&c);
    return status;
}
