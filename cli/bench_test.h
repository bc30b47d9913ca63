/* bench_test.h - what `sluice bench` measures: prompts (pp), decoding (tg), both (pp+tg), at a depth, side by side. */
#ifndef SLUICE_CLI_BENCH_TEST_H
#define SLUICE_CLI_BENCH_TEST_H

#include "bench_list.h"

enum { BENCH_MAX_BATCH = 256, BENCH_MAX_TESTS = 4096 };

typedef struct bench_test {
    int64_t n_prompt, n_gen, depth;
    int batch;     /* sessions side by side */
    int sampled;   /* tokens are drawn as [sampling] says, instead of the best ones */
    int synthetic; /* the context in front is seeded rows, not a prompt that was computed */
} bench_test;

typedef struct bench_tests {
    bench_test *v; /* free() it */
    int n;
} bench_tests;

/* What the options say. */
typedef struct bench_lists {
    bench_list prompt, gen, pair, depth, batch;
} bench_lists;

/* Each depth with each number of sessions and each length. Tests of no tokens are left out. -1 after one error. */
int bench_tests_cross(const bench_lists *lists, int synthetic, bench_tests *out);
/* "pp4096 tg128@512 tg64@1024x64 pp512+tg64 ts64" in this order. -1 after one error. */
int bench_tests_words(const char *text, int synthetic, bench_tests *out);

/* "pp512", "tg128 @ d4096 x 8", "pp512+tg128 @ d64 synthetic". */
void bench_test_name(const bench_test *t, char *out, size_t cap);

#endif
