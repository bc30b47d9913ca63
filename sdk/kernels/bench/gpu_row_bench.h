/* gpu_row_bench.h - timing device kernels: a case, how long a call takes in a replayed graph, and the row that says so.
 * Rows are those of bench_row.h; threads is null. */
#ifndef SLUICE_KERNELS_GPU_ROW_BENCH_H
#define SLUICE_KERNELS_GPU_ROW_BENCH_H

#include "testhost.h"

typedef struct slk_gpu_bench {
    const char *pattern; /* rows whose "kernel shape" contains it */
    int dry;             /* time nothing, see what matches */
    int64_t n_rows;      /* how often something matched */
    slt_host h;
    char *pool; /* random bf16, far larger than the L2 */
    int64_t pool_bytes;
    double memory, cache, gemm; /* bytes and operations a microsecond; gemm 0: there was none to measure */
} slk_gpu_bench;

typedef struct slk_gpu_case {
    const char *kernel;
    char shape[96];
    sl_status (*run)(void *arg, int i); /* queues call i; the host is the bench's */
    void *arg;
    double bytes, flops; /* of a call */
    int from_memory;     /* operands rotate through the pool; else they stay in the L2 */
    int calls;           /* of a graph; 0: 64 */
} slk_gpu_case;

int slk_gpu_wants(slk_gpu_bench *b, const slk_gpu_case *c);
/* Times it and prints its row. A call that fails ends the program. */
void slk_gpu_run(slk_gpu_bench *b, const slk_gpu_case *c);

/* Ends the program with a message. */
_Noreturn void slk_gpu_die(const char *what);
/* n random values of a dtype in device memory. */
void *slk_gpu_random(slk_gpu_bench *b, int64_t n, sl_dtype dtype, float amplitude);
/* first, first + step, ... */
int32_t *slk_gpu_ints(slk_gpu_bench *b, int64_t n, int32_t first, int32_t step);

/* Operations a microsecond of a large product of bf16 by the device module's library; 0 and a reason in `why`. */
double slk_gpu_gemm_ceiling(slk_gpu_bench *b, char *why, size_t why_bytes);

void slk_gpu_linear(slk_gpu_bench *b);
void slk_gpu_attend(slk_gpu_bench *b);
void slk_gpu_prefill(slk_gpu_bench *b);
void slk_gpu_rest(slk_gpu_bench *b);

#endif
