/* See bench_test.h. */
#include "bench_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int push(bench_tests *tests, bench_test t) {
    if (tests->n == BENCH_MAX_TESTS) {
        fprintf(stderr, "sluice: more than %d tests\n", BENCH_MAX_TESTS);
        return -1;
    }
    if ((tests->n & (tests->n - 1)) == 0) { /* it is full: room doubles at powers of two */
        bench_test *more = realloc(tests->v, sizeof *more * (size_t)(tests->n > 0 ? 2 * tests->n : 1));
        if (more == NULL) {
            fprintf(stderr, "sluice: out of memory\n");
            return -1;
        }
        tests->v = more;
    }
    tests->v[tests->n++] = t;
    return 0;
}

int bench_tests_cross(const bench_lists *l, int synthetic, bench_tests *out) {
    const int np = l->prompt.n, ng = l->gen.n, lengths = np + ng + l->pair.n / 2;
    for (int b = 0; b < l->batch.n; b++)
        if (l->batch.v[b] < 1 || l->batch.v[b] > BENCH_MAX_BATCH) {
            fprintf(stderr, "sluice: -b takes numbers from 1 to %d, found %lld\n", BENCH_MAX_BATCH,
                    (long long)l->batch.v[b]);
            return -1;
        }
    for (int d = 0; d < l->depth.n; d++)
        for (int b = 0; b < l->batch.n; b++)
            for (int k = 0; k < lengths; k++) {
                bench_test t = {.depth = l->depth.v[d], .batch = (int)l->batch.v[b], .synthetic = synthetic};
                const int64_t *pair = l->pair.v + 2 * (k - np - ng);
                if (k < np)
                    t.n_prompt = l->prompt.v[k];
                else if (k < np + ng)
                    t.n_gen = l->gen.v[k - np];
                else
                    t.n_prompt = pair[0], t.n_gen = pair[1];
                if (t.n_prompt + t.n_gen > 0 && push(out, t) < 0)
                    return -1;
            }
    return 0;
}

/* "tg64" behind a prefix; NULL when it is not that, or 0. */
static const char *count(const char *p, const char *prefix, int64_t *out) {
    int used = 0;
    long long v = 0;
    if (strncmp(p, prefix, 2) != 0 || p[2] < '0' || p[2] > '9' || sscanf(p + 2, "%9lld%n", &v, &used) != 1 || v < 1)
        return NULL;
    *out = v;
    return p + 2 + used;
}

/* One word; NULL when it is none. */
static const char *parse_word(const char *p, bench_test *t) {
    const char *end = count(p, "pp", &t->n_prompt), *more;
    if (end != NULL && *end == '+')
        end = (more = count(end + 1, "tg", &t->n_gen)) != NULL ? more : count(end + 1, "ts", &t->n_gen);
    else if (end == NULL)
        end = (more = count(p, "tg", &t->n_gen)) != NULL ? more : count(p, "ts", &t->n_gen);
    if (end == NULL)
        return NULL;
    t->sampled = t->n_gen > 0 && memchr(p, 's', (size_t)(end - p)) != NULL;
    long long depth = 0, batch = 1;
    int used = 0;
    if (*end == '@') {
        if (sscanf(end, "@%9lld%n", &depth, &used) != 1 || depth < 0)
            return NULL;
        end += used;
    }
    if (*end == 'x') {
        if (sscanf(end, "x%9lld%n", &batch, &used) != 1 || batch < 1 || batch > BENCH_MAX_BATCH)
            return NULL;
        end += used;
    }
    t->depth = depth;
    t->batch = (int)batch;
    return *end == '\0' || *end == ' ' || *end == ',' ? end : NULL;
}

int bench_tests_words(const char *text, int synthetic, bench_tests *out) {
    for (const char *p = text + strspn(text, " ,"); *p != '\0';) {
        bench_test t = {.synthetic = synthetic};
        const char *end = parse_word(p, &t);
        if (end == NULL) {
            fprintf(stderr,
                    "sluice: --tests: expected words like pp4096, tg128@512, ts64, pp512+tg64 or tg64@1024x8, found "
                    "\"%s\"\n",
                    p);
            return -1;
        }
        if (push(out, t) < 0)
            return -1;
        p = end + strspn(end, " ,");
    }
    return 0;
}

void bench_test_name(const bench_test *t, char *out, size_t cap) {
    char where[80] = "", prompt[32] = "", gen[32] = "";
    if (t->depth > 0)
        snprintf(where, sizeof where, " @ d%lld%s", (long long)t->depth, t->synthetic ? " synthetic" : "");
    if (t->batch > 1)
        snprintf(where + strlen(where), sizeof where - strlen(where), " x %d", t->batch);
    if (t->n_prompt > 0)
        snprintf(prompt, sizeof prompt, "pp%lld%s", (long long)t->n_prompt, t->n_gen > 0 ? "+" : "");
    if (t->n_gen > 0)
        snprintf(gen, sizeof gen, "%s%lld", t->sampled ? "ts" : "tg", (long long)t->n_gen);
    snprintf(out, cap, "%s%s%s", prompt, gen, where);
}
