/* See bench_row.h. */
#include "bench_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LEAST_SAMPLES = 3, MOST_SAMPLES = 500 };

double slk_bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *slk_bench_need(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (p == NULL) {
        fprintf(stderr, "kernels_bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

float *slk_bench_floats(size_t n) {
    float *x = slk_bench_need(n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

slk_team *slk_bench_team(int n) {
    slk_team *team = slk_team_open(n);
    if (team == NULL) {
        fprintf(stderr, "kernels_bench: %d threads cannot be had\n", n);
        exit(1);
    }
    return team;
}

int64_t slk_bench_tile(slk_bench *b, const void *data, int64_t bytes) {
    const int64_t stride = (bytes + 63) / 64 * 64, n = b->pool_bytes / stride;
    if (n < 1) {
        fprintf(stderr, "kernels_bench: a pool of %lld bytes is too small, %lld are needed\n", (long long)b->pool_bytes,
                (long long)stride);
        exit(1);
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(b->pool + i * stride, data, (size_t)bytes);
    return n;
}

/* ---- timing ---------------------------------------------------------------------------------------------------- */

typedef struct calls {
    const slk_bench_case *c;
    int64_t first, n; /* turns */
} calls;

/* Units in multiples of 16 where there are that many: kernels work on blocks of columns. */
static int64_t cut(int64_t units, int part, int n) {
    const int64_t step = units >= 16 * n ? 16 : 1;
    return part == n ? units : units / step * part / n * step;
}

static void run_calls(void *user, int part, int n) {
    const calls *w = user;
    const int64_t begin = cut(w->c->units, part, n), end = cut(w->c->units, part + 1, n);
    for (int64_t i = 0; begin < end && i < w->n; i++)
        w->c->run(w->c->arg, begin, end, w->first + i, part);
}

static double time_calls(slk_team *team, int threads, calls *w) {
    const double begin = slk_bench_now();
    slk_team_run(team, threads, run_calls, w);
    w->first += w->n;
    return (slk_bench_now() - begin) / (double)w->n;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds a call, ascending; returns how many. */
static int sample(slk_bench *b, int threads, const slk_bench_case *c, double *seconds) {
    calls w = {c, 0, 1};
    slk_team *team = slk_bench_team(threads);
    double once = time_calls(team, threads, &w);
    for (int i = 0; i < 5 && once < 5e-3; i++) { /* warm, and undisturbed once */
        const double again = time_calls(team, threads, &w);
        once = again < once ? again : once;
    }
    w.n = once < 5e-4 ? (int64_t)(5e-4 / (once > 1e-8 ? once : 1e-8)) + 1 : 1; /* starting the threads is not seen */
    int n = 0;
    for (const double begin = slk_bench_now();
         n < LEAST_SAMPLES || (n < MOST_SAMPLES && slk_bench_now() - begin < b->seconds);)
        seconds[n++] = time_calls(team, threads, &w);
    slk_team_close(team);
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    return n;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

int slk_bench_wants(slk_bench *b, const slk_bench_case *c) {
    char name[256];
    b->seen[c->op] = 1;
    for (int i = 0; i < b->n_earlier; i++)
        if (strcmp(slk_kernel_name(b->earlier[i], c->op), slk_kernel_name(b->k, c->op)) == 0)
            return 0;
    snprintf(name, sizeof name, "%s %s", slk_kernel_name(b->k, c->op), c->shape);
    const int matches = strstr(name, b->pattern) != NULL;
    b->n_rows += matches;
    return matches && !b->dry;
}

void slk_bench_run(slk_bench *b, const slk_bench_case *c) {
    if (!slk_bench_wants(b, c))
        return;
    const char *kernel = slk_kernel_name(b->k, c->op);
    for (int i = 0; i < b->n_threads; i++) {
        const slk_ceilings *top = &b->ceilings[i];
        double s[MOST_SAMPLES];
        const int n = sample(b, b->threads[i], c, s);
        const double median = (s[(n - 1) / 2] + s[n / 2]) / 2, spread = s[3 * n / 4] - s[n / 4];
        const double by_bytes = c->bytes / (c->from_memory ? top->memory : top->cache);
        const double by_flops = c->flops / (c->dot && top->dot > 0 ? top->dot : top->fma);
        const double floor = by_bytes > by_flops ? by_bytes : by_flops;
        printf("{\"kernel\": \"%s\", \"shape\": \"%s\", \"isa\": \"%s\", \"device\": \"cpu\", \"threads\": %d, "
               "\"median_us\": %.4f, \"spread_us\": %.4f, \"min_us\": %.4f, \"samples\": %d, \"bytes\": %.0f, "
               "\"flops\": %.0f, \"gb_s\": %.3f, \"gflop_s\": %.3f, \"from\": \"%s\", \"floor_us\": %.4f, \"share\": "
               "%.4f}\n",
               kernel, c->shape, slk_isa_name(b->k->isa), b->threads[i], median * 1e6, spread * 1e6, s[0] * 1e6, n,
               c->bytes, c->flops, c->bytes / median * 1e-9, c->flops / median * 1e-9,
               c->from_memory ? "memory" : "cache", floor * 1e6, floor / median);
        fflush(stdout);
    }
}

static void print_ceiling(const char *what, const char *isa, int threads, int bytes, double rate) {
    printf("{\"kernel\": \"ceiling: %s\", \"shape\": \"\", \"isa\": \"%s\", \"device\": \"cpu\", \"threads\": %d, "
           "\"median_us\": null, \"spread_us\": null, \"min_us\": null, \"samples\": null, \"bytes\": null, \"flops\": "
           "null, ",
           what, isa, threads);
    if (bytes)
        printf("\"gb_s\": %.3f, \"gflop_s\": null, ", rate * 1e-9);
    else
        printf("\"gb_s\": null, \"gflop_s\": %.3f, ", rate * 1e-9);
    printf("\"from\": null, \"floor_us\": null, \"share\": null}\n");
}

void slk_bench_print_ceilings(const slk_bench *b) {
    for (int i = 0; i < b->n_threads; i++) {
        const slk_ceilings *c = &b->ceilings[i];
        print_ceiling("read memory", c->memory_name, b->threads[i], 1, c->memory);
        print_ceiling("read cache", c->cache_name, b->threads[i], 1, c->cache);
        print_ceiling("f32 multiply-add", c->fma_name, b->threads[i], 0, c->fma);
        if (c->dot > 0)
            print_ceiling("bf16 dot", c->dot_name, b->threads[i], 0, c->dot);
    }
    fflush(stdout);
}
