/* See gpu_row_bench.h. */
#include "gpu_row_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 7, REPEATS = 3, CALLS = 64 };

_Noreturn void slk_gpu_die(const char *what) {
    printf("{\"error\": \"%s\"}\n", what);
    exit(1);
}

void *slk_gpu_random(slk_gpu_bench *b, int64_t n, sl_dtype dtype, float amplitude) {
    void *p = slt_device(&b->h, n * (dtype == SL_F32 ? 4 : 2));
    const slk_random_params fill = {.y = p, .n = n, .seed = 1, .amplitude = amplitude};
    if (slk_cuda_random(&b->h.k, b->h.lane, &fill, dtype) != SL_OK)
        slk_gpu_die("random values cannot be made");
    return p;
}

int32_t *slk_gpu_ints(slk_gpu_bench *b, int64_t n, int32_t first, int32_t step) {
    int32_t *x = malloc((size_t)n * sizeof *x);
    if (x == NULL)
        slk_gpu_die("out of memory");
    for (int64_t i = 0; i < n; i++)
        x[i] = first + step * (int32_t)i;
    int32_t *p = slt_upload(&b->h, x, n * 4);
    free(x);
    return p;
}

int slk_gpu_wants(slk_gpu_bench *b, const slk_gpu_case *c) {
    char name[192];
    snprintf(name, sizeof name, "%s %s", c->kernel, c->shape);
    const int matches = strstr(name, b->pattern) != NULL;
    b->n_rows += matches;
    return matches && !b->dry;
}

typedef struct calls {
    const slk_gpu_case *c;
    sl_status status;
} calls;

static void run_call(void *user, int i) {
    calls *w = user;
    const sl_status s = w->c->run(w->c->arg, i);
    w->status = s < 0 ? s : w->status;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void slk_gpu_run(slk_gpu_bench *b, const slk_gpu_case *c) {
    if (!slk_gpu_wants(b, c))
        return;
    calls w = {c, SL_OK};
    double us[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        us[i] = slt_time_us(&b->h, c->calls > 0 ? c->calls : CALLS, REPEATS, run_call, &w);
        if (w.status < 0) {
            char what[160];
            snprintf(what, sizeof what, "%s %s: status %d", c->kernel, c->shape, w.status);
            slk_gpu_die(what);
        }
    }
    qsort(us, SAMPLES, sizeof *us, ascending);
    const double median = us[SAMPLES / 2], by_bytes = c->bytes / (c->from_memory ? b->memory : b->cache);
    const double by_flops = b->gemm > 0 ? c->flops / b->gemm : 0, floor = by_bytes > by_flops ? by_bytes : by_flops;
    printf("{\"kernel\": \"%s\", \"shape\": \"%s\", \"isa\": \"sm_%d\", \"device\": \"%s\", \"threads\": null, "
           "\"median_us\": %.4f, \"spread_us\": %.4f, \"min_us\": %.4f, \"samples\": %d, \"bytes\": %.0f, \"flops\": "
           "%.0f, \"gb_s\": %.3f, \"gflop_s\": %.3f, \"from\": \"%s\", \"floor_us\": %.4f, \"share\": %.4f}\n",
           c->kernel, c->shape, (int)b->h.k.info.arch / 10, b->h.k.info.name, median,
           us[3 * SAMPLES / 4] - us[SAMPLES / 4], us[0], SAMPLES, c->bytes, c->flops, c->bytes / median / 1e3,
           c->flops / median / 1e3, c->from_memory ? "memory" : "cache", floor, floor / median);
    fflush(stdout);
}
