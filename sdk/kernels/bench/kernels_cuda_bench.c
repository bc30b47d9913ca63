/* The shared device kernels beside what the device can do, which is measured first. Prints a JSON object a line
 * (bench_row.h), {"no_device": why} with exit status 77 where there is none, or {"error": what}. `sluice bench kernels`
 * runs it.
 *
 *     kernels_cuda_bench [PATTERN]        rows whose kernel and shape contain it; exit status 3: none does
 */
#include <stdio.h>
#include <string.h>

#include "gpu_row_bench.h"

enum { POOL_GIB = 4, CACHE_BYTES = 16 << 20 };

static void bench_all(slk_gpu_bench *b) {
    slk_gpu_linear(b);
    slk_gpu_attend(b);
    slk_gpu_prefill(b);
    slk_gpu_rest(b);
}

typedef struct reading {
    slk_gpu_bench *b;
    slk_stream_params p;
    sl_status status;
} reading;

static void run_read(void *user, int i) {
    reading *r = user;
    (void)i;
    const sl_status s = slk_cuda_stream_read(&r->b->h.k, r->b->h.lane, &r->p);
    r->status = s < 0 ? s : r->status;
}

/* Bytes a microsecond. */
static double read_rate(slk_gpu_bench *b, int64_t bytes, int calls) {
    reading r = {b, {.x = b->pool, .out = slt_device(&b->h, 64), .bytes = bytes, .never = 0x9e3779b9}, SL_OK};
    const double us = slt_time_us(&b->h, calls, 9, run_read, &r);
    if (r.status < 0)
        slk_gpu_die("the ceilings cannot be measured");
    return (double)bytes / us;
}

static void print_ceiling(const slk_gpu_bench *b, const char *what, int bytes, double a_us) {
    printf("{\"kernel\": \"ceiling: %s\", \"shape\": \"\", \"isa\": \"sm_%d\", \"device\": \"%s\", \"threads\": null, "
           "\"median_us\": null, \"spread_us\": null, \"min_us\": null, \"samples\": null, \"bytes\": null, \"flops\": "
           "null, ",
           what, (int)b->h.k.info.arch / 10, b->h.k.info.name);
    printf(bytes ? "\"gb_s\": %.3f, \"gflop_s\": null, " : "\"gb_s\": null, \"gflop_s\": %.3f, ", a_us / 1e3);
    printf("\"from\": null, \"floor_us\": null, \"share\": null}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    static slk_gpu_bench b;
    char why[512];
    if (argc > 2 || (argc == 2 && strncmp(argv[1], "--", 2) == 0))
        slk_gpu_die("usage: kernels_cuda_bench [PATTERN]");
    b.pattern = argc > 1 ? argv[1] : "";
    if (slt_open(&b.h, why, sizeof why) != 0) {
        for (char *p = why; *p != '\0'; p++) /* it becomes a text of JSON */
            *p = *p == '"' || *p == '\\' || *p < ' ' ? '\'' : *p;
        printf("{\"no_device\": \"%s\"}\n", why);
        return 77;
    }
    b.dry = 1;
    bench_all(&b);
    if (b.n_rows == 0) {
        slt_close(&b.h);
        return 3;
    }
    b.dry = 0;
    b.pool_bytes = (int64_t)POOL_GIB << 30;
    b.pool = slk_gpu_random(&b, b.pool_bytes / 2, SL_BF16, 1);
    b.memory = read_rate(&b, b.pool_bytes, 1);
    b.cache = read_rate(&b, CACHE_BYTES, 64);
    print_ceiling(&b, "read memory", 1, b.memory);
    print_ceiling(&b, "read cache", 1, b.cache);
    b.gemm = slk_gpu_gemm_ceiling(&b, why, sizeof why);
    if (b.gemm > 0)
        print_ceiling(&b, "bf16 product", 0, b.gemm);
    else
        fprintf(stderr, "kernels_cuda_bench: no ceiling of operations, floors are those of bytes: %s\n", why);
    bench_all(&b);
    slt_close(&b.h);
    return 0;
}
