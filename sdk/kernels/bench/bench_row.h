/* bench_row.h - timing kernels: a case, how long a call takes with each number of threads, and the row that says so.
 *
 * A row is a line of JSON: kernel, shape, isa, device, threads, median_us, spread_us (between the quartiles), min_us,
 * samples, bytes, flops, gb_s, gflop_s, from, floor_us, share. floor_us is what the ceilings of this run leave at
 * least: the larger of bytes by bytes a second and of operations by operations a second; share is it by the median.
 * Ceilings are rows, too, of kernels "ceiling ...", with median_us null. */
#ifndef SLUICE_KERNELS_BENCH_ROW_H
#define SLUICE_KERNELS_BENCH_ROW_H

#include "bench_ceiling.h"
#include "kernels.h"

enum { SLK_BENCH_MAX_THREADS = 256, SLK_BENCH_MAX_COUNTS = 16 };

typedef struct slk_bench {
    const char *pattern; /* rows whose "kernel shape" contains it */
    double seconds;      /* a row */
    int threads[SLK_BENCH_MAX_COUNTS], n_threads;
    slk_ceilings ceilings[SLK_BENCH_MAX_COUNTS];
    char *pool; /* far larger than the caches */
    int64_t pool_bytes;
    const slk_kernels *k;          /* of the instruction set at hand */
    const slk_kernels *earlier[4]; /* those that were timed: what stands in them is not timed again */
    int n_earlier;
    int dry;                     /* time nothing, see what matches */
    int64_t n_rows;              /* how often something matched */
    char seen[SLK_KERNEL_COUNT]; /* operations with a case, matching or not */
} slk_bench;

/* One operation on one shape. */
typedef struct slk_bench_case {
    int op; /* SLK_KERNEL_* */
    char shape[64];
    /* Units [begin, end) of call `turn`; who: which thread. */
    void (*run)(void *arg, int64_t begin, int64_t end, int64_t turn, int who);
    void *arg;
    int64_t units;       /* what threads share */
    double bytes, flops; /* of a call */
    int from_memory;     /* operands rotate through the pool; else they stay in a cache */
    int dot;             /* its ceiling is that of bf16 products, where the machine has them */
} slk_bench_case;

double slk_bench_now(void);

/* Does anybody want to see this row, and is it a new one? Ask before making its operands. */
int slk_bench_wants(slk_bench *b, const slk_bench_case *c);
/* Times it with each number of threads, and prints the rows. */
void slk_bench_run(slk_bench *b, const slk_bench_case *c);
/* The ceilings of each number of threads as rows. */
void slk_bench_print_ceilings(const slk_bench *b);

/* Threads for n parts, or the end of the program. As many as are needed and no more: one that waits beside a
 * measurement disturbs it. */
slk_team *slk_bench_team(int n);
/* Memory that ends the program where there is none; 64 bytes aligned. free() it. */
void *slk_bench_need(size_t bytes);
/* In [-0.5, 0.5), the same every time. */
float *slk_bench_floats(size_t n);
/* Copies of data side by side, all over the pool; returns how many. The last bytes of data are followed by the next
 * copy at the next multiple of 64. */
int64_t slk_bench_tile(slk_bench *b, const void *data, int64_t bytes);

/* All cases of one instruction set. small: sizes for plain C, which takes its time. */
void slk_bench_gemm(slk_bench *b, int small);
void slk_bench_attend(slk_bench *b, int small);
void slk_bench_rest(slk_bench *b);

#endif
