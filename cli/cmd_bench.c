/* sluice bench - what a combination costs, in llama-bench's terms: pp N, tg N, pp N + tg N, at a depth, for one session
 * or some side by side, with one number of workers or several; and `sluice bench kernels`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_record.h"
#include "commands.h"
#include "options.h"

typedef struct bench {
    common c;
    bench_lists lists;
    bench_list threads; /* empty: as the configuration has it */
    bench_tests tests;
    int repetitions, synthetic, stop; /* stop: an engine could not be opened */
    records out;
    /* Progress on stderr: a line that is written over on a terminal, else a line each. */
    int progress, done, all;
    char name[128]; /* of the test that runs */
} bench;

static void tell(void *user, const char *what, int i, int n) {
    bench *b = user;
    const int rewrite = isatty(STDERR_FILENO);
    if (b->progress)
        fprintf(stderr, "%stest %d of %d, %s: %s %d of %d%s", rewrite ? "\r\033[K" : "", b->done + 1, b->all, b->name,
                what, i, n, rewrite ? "" : "\n");
}

static void clear_progress(const bench *b) {
    if (b->progress && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* All tests on an engine of its own; threads < 0: as configured. Returns the exit status. */
static int run_tests(bench *b, int64_t threads, bench_result *result) {
    char set[64];
    const char *sets[CLI_MAX_SETS + 1];
    sluice_engine *engine = NULL;
    sluice_error err = {0};
    sluice_options options = options_engine(&b->c);
    memcpy(sets, b->c.sets, sizeof b->c.sets);
    snprintf(set, sizeof set, "engine.threads=%lld", (long long)threads);
    sets[options.n_sets] = set;
    options.sets = sets;
    options.n_sets += threads >= 0;
    double begin = now();
    if (sluice_open(&options, &engine, &err) < 0) {
        b->stop = 1;
        return fail(&err);
    }
    const double load_seconds = now() - begin;
    int status = 0;
    b->out.columns = bench_columns(engine, &b->tests);
    for (int i = 0; i < b->tests.n; i++, b->done++) {
        const bench_test *t = &b->tests.v[i];
        bench_test_name(t, b->name, sizeof b->name);
        const int failed = bench_measure(engine, t, b->repetitions, tell, b, result, &err) < 0;
        clear_progress(b);
        if (failed) /* what follows may fit */
            status = fail(&err);
        else
            records_add(&b->out, bench_record(engine, t, result, load_seconds));
    }
    sluice_close(engine);
    return status;
}

static int run_all(bench *b) {
    int status = 0, runs = b->threads.n > 0 ? b->threads.n : 1;
    bench_result *result = calloc(1, sizeof *result);
    if (result == NULL) {
        fprintf(stderr, "sluice: out of memory\n");
        return 1;
    }
    b->all = runs * b->tests.n;
    for (int i = 0; i < runs && !b->stop; i++)
        status |= run_tests(b, b->threads.n > 0 ? b->threads.v[i] : -1, result);
    records_end(&b->out);
    free(result);
    return status;
}

/* Options into lists and tests; -1 after one error. */
static int plan(bench *b, text_list *given, const char *words, const char *fill, const char *format,
                int64_t repetitions) {
    if (repetitions < 1 || repetitions > BENCH_MAX_REPETITIONS) {
        fprintf(stderr, "sluice: -r takes 1 to %d\n", BENCH_MAX_REPETITIONS);
        return -1;
    }
    if (records_format_of(format, &b->out.format) < 0) {
        fprintf(stderr, "sluice: -o takes one of " RECORDS_FORMATS ", found \"%s\"\n", format);
        return -1;
    }
    b->synthetic = strcmp(fill, "synthetic") == 0;
    if (!b->synthetic && strcmp(fill, "prompt") != 0) {
        fprintf(stderr, "sluice: --fill takes one of prompt, synthetic, found \"%s\"\n", fill);
        return -1;
    }
    b->repetitions = (int)repetitions;
    b->out.keys = bench_record_keys;
    if (bench_list_of("-p", &given[0], "512", bench_list_parse, &b->lists.prompt) < 0 ||
        bench_list_of("-n", &given[1], "128", bench_list_parse, &b->lists.gen) < 0 ||
        bench_list_of("-pg", &given[2], NULL, bench_pairs_parse, &b->lists.pair) < 0 ||
        bench_list_of("-d", &given[3], "0", bench_list_parse, &b->lists.depth) < 0 ||
        bench_list_of("-b", &given[4], "1", bench_list_parse, &b->lists.batch) < 0 ||
        bench_list_of("-t", &given[5], NULL, bench_list_parse, &b->threads) < 0)
        return -1;
    if (words != NULL)
        return bench_tests_words(words, b->synthetic, &b->tests);
    return bench_tests_cross(&b->lists, b->synthetic, &b->tests);
}

int cmd_bench(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        return bench_kernels(argc - 1, argv + 1);
    bench *b = calloc(1, sizeof *b);
    if (b == NULL) {
        fprintf(stderr, "sluice: out of memory\n");
        return 1;
    }
    text_list given[6] = {{{NULL}, 0}};
    const char *fill = "prompt", *format = "md", *words = NULL;
    int64_t repetitions = 5;
    b->progress = isatty(STDERR_FILENO);
    const option own[] = {
        {"-p, --n-prompt", "LIST", "prompt lengths to measure; 0: none (default 512)", OPT_TEXTS, NULL, &given[0]},
        {"-n, --n-gen", "LIST", "numbers of tokens to decode; 0: none (default 128)", OPT_TEXTS, NULL, &given[1]},
        {"-pg, --prompt-gen", "P,N;P,N", "prompts of P tokens with N decoded behind them, in one test", OPT_TEXTS, NULL,
         &given[2]},
        {"-d, --n-depth", "LIST", "tokens in the context before each test (default 0)", OPT_TEXTS, NULL, &given[3]},
        {"-b, --batch", "LIST", "sessions side by side; see engine.max_seqs (default 1)", OPT_TEXTS, NULL, &given[4]},
        {"-t, --threads", "LIST", "CPU workers; 0: one a core; an engine each (default engine.threads)", OPT_TEXTS,
         NULL, &given[5]},
        {"--fill", "HOW",
         "what stands in the context before each test: a computed prompt, or synthetic rows (default prompt)", OPT_TEXT,
         NULL, &fill},
        {"-r, --repetitions", "N", "repetitions, after one warm-up (default 5, at most 100)", OPT_INT, NULL,
         &repetitions},
        {"--tests", "TESTS",
         "tests in this order, instead of -p, -n, -pg, -d and -b: pp4096 tg128@512 pp512+tg64 tg64@1024x8, and ts as "
         "tg, but sampled as [sampling] says",
         OPT_TEXT, NULL, &words},
        {"-o, --output", "FORMAT", "one of " RECORDS_FORMATS " (default md)", OPT_TEXT, NULL, &format},
        {"--progress", NULL, "tell on stderr what runs, also where that is no terminal", OPT_FLAG, NULL, &b->progress},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int status =
        options_parse(argc, argv,
                      "sluice bench [options]\n       sluice bench kernels [PATTERN] [options]\n\n"
                      "A LIST is 512,1024 or 128-1024+128 or 64-1024*2, or some of them; options with lists may "
                      "be repeated.",
                      own, &b->c, NULL, 0);
    if (status < 0 || b->c.help || plan(b, given, words, fill, format, repetitions) < 0)
        status = b->c.help ? 0 : CLI_USAGE;
    else
        status = run_all(b);
    options_free(&b->c);
    free(b->tests.v);
    free(b);
    return status;
}
