/* Speed of the kernels on one core: a table of GFLOP/s and GB/s for each operation and variant.
 *
 *     kernels_bench [milliseconds a row, default 200] [only names that contain this]
 *
 * Best of the repetitions that fit in the time. GB/s counts weights, keys and values, the operands a decode step
 * streams.
 */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *need(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == NULL) {
        fprintf(stderr, "kernels_bench: out of memory\n");
        exit(1);
    }
    return p;
}

static float *random_floats(size_t n) {
    float *x = need(n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static double seconds_a_row = 0.2;
static const char *only = "";

/* Times run(arg) and prints the row. */
static void row(const char *name, const char *shape, void (*run)(void *), void *arg, double flop, double bytes) {
    if (strstr(name, only) == NULL)
        return;
    double best = 1e9;
    run(arg);
    for (double start = now(), t0 = start; t0 - start < seconds_a_row;) {
        run(arg);
        const double t1 = now();
        best = t1 - t0 < best ? t1 - t0 : best;
        t0 = t1;
    }
    printf("%-28s %-26s %10.1f us %8.1f GFLOP/s %7.1f GB/s\n", name, shape, best * 1e6, flop / best * 1e-9,
           bytes / best * 1e-9);
    fflush(stdout);
}

/* ---- matrix products ------------------------------------------------------------------------------------------- */

typedef struct gemm_run {
    const slk_kernels *k;
    slk_gemm p;
} gemm_run;
static void run_gemm(void *arg) {
    const gemm_run *g = arg;
    slk_gemm_run(g->k, &g->p, 0, g->p.N);
}

static const struct {
    uint32_t x_dtype, w_dtype;
    slk_q_format q;
    const char *text;
    int index;
} operands[] = {{SL_F32, SL_F32, {0}, "", SLK_KERNEL_gemm_f32},
                {SL_F32, SL_F16, {0}, "", SLK_KERNEL_gemm_f16},
                {SL_F32, SL_BF16, {0}, "", SLK_KERNEL_gemm_bf16},
                {SL_BF16, SL_BF16, {0}, "", SLK_KERNEL_gemm_bf16_bf16},
                {SL_F32, SLK_W_PACKED, {8, 128, 0}, " g128", SLK_KERNEL_gemm_q8},
                {SL_F32, SLK_W_PACKED, {4, 32, 0}, " g32", SLK_KERNEL_gemm_q4},
                {SL_F32, SLK_W_PACKED, {4, 128, 1}, " g128 asym", SLK_KERNEL_gemm_q4}};

static void bench_gemm(const slk_kernels *k, int64_t T, int64_t N, int64_t K) {
    float *w = random_floats((size_t)(N * K)), *x = random_floats((size_t)(T * K)),
          *y = need((size_t)(T * N) * sizeof *y);
    uint16_t *x16 = need((size_t)(T * K) * 2);
    void *w_bits = need((size_t)(N * K) * 4);
    k->bf16_of_f32(x16, x, T * K);
    for (unsigned i = 0; i < sizeof operands / sizeof *operands; i++) {
        gemm_run g = {k,
                      {.ldx = K,
                       .ldw = K,
                       .y = y,
                       .ldy = N,
                       .T = T,
                       .N = N,
                       .K = K,
                       .x_dtype = operands[i].x_dtype,
                       .w_dtype = operands[i].w_dtype,
                       .q = operands[i].q,
                       .w = w_bits}};
        g.p.x = operands[i].x_dtype == SL_F32 ? (const void *)x : x16;
        double bytes = (double)(N * K) * (operands[i].w_dtype == SL_F32 ? 4 : 2);
        if (operands[i].w_dtype == SL_F32)
            memcpy(w_bits, w, (size_t)(N * K) * sizeof *w);
        else if (operands[i].w_dtype == SL_F16)
            k->f16_of_f32(w_bits, w, N * K);
        else if (operands[i].w_dtype == SL_BF16)
            k->bf16_of_f32(w_bits, w, N * K);
        else {
            slk_q_pack(&operands[i].q, w, K, N, K, w_bits, NULL);
            bytes = (double)(N * slk_q_row_bytes(&operands[i].q, K));
        }
        char shape[64];
        snprintf(shape, sizeof shape, "T=%d N=%d K=%d%s", (int)T, (int)N, (int)K, operands[i].text);
        row(slk_kernel_name(k, operands[i].index), shape, run_gemm, &g, 2.0 * (double)(T * N * K), bytes);
    }
    free(w), free(x), free(y), free(x16), free(w_bits);
}

/* ---- attention ------------------------------------------------------------------------------------------------- */

typedef struct attend_run {
    const slk_kernels *k;
    slk_attend p;
} attend_run;
static void run_attend(void *arg) {
    const attend_run *a = arg;
    a->k->attend(&a->p);
}

static void bench_attend(const slk_kernels *k, uint32_t dtype, int64_t rows, int64_t context, int64_t group,
                         int64_t d) {
    enum { PAGE = 64, HEADS = 4 };
    const int64_t pages = (context + PAGE - 1) / PAGE, size = dtype == SL_F32 ? 4 : 2, width = HEADS * d;
    float *numbers = random_floats((size_t)(PAGE * width)), *q = random_floats((size_t)(rows * group * d));
    float *o = need((size_t)(rows * group * d) * sizeof *o);
    char *bytes = need((size_t)(2 * pages * PAGE * width * size));
    const void **kp = need((size_t)pages * sizeof *kp), **vp = need((size_t)pages * sizeof *vp);
    for (int64_t i = 0; i < 2 * pages; i++) {
        char *page = bytes + i * PAGE * width * size;
        if (dtype == SL_F32)
            memcpy(page, numbers, (size_t)(PAGE * width) * sizeof *numbers);
        else
            (dtype == SL_F16 ? k->f16_of_f32 : k->bf16_of_f32)((uint16_t *)(void *)page, numbers, PAGE * width);
        (i % 2 ? vp : kp)[i / 2] = page;
    }
    slk_visible *visible = need((size_t)rows * sizeof *visible);
    double keys = 0;
    for (int64_t r = 0; r < rows; r++) {
        visible[r] = (slk_visible){{0, 0}, {(int32_t)(context - rows + r + 1), 0}, NULL, 0};
        keys += (double)visible[r].hi[0];
    }
    const slk_paged ks = {kp, 0, width, dtype, NULL}, vs = {vp, 0, width, dtype, NULL};
    attend_run a = {k,
                    {.q = q,
                     .q_row = group * d,
                     .q_head = d,
                     .o = o,
                     .o_row = group * d,
                     .o_head = d,
                     .k = ks,
                     .v = vs,
                     .page_rows = PAGE,
                     .rows = visible,
                     .n_rows = rows,
                     .group = group,
                     .d_k = d,
                     .d_v = d,
                     .scale = 0.1f,
                     .scratch = need((size_t)slk_attend_scratch_bytes(group, d, d))}};
    char shape[64];
    snprintf(shape, sizeof shape, "%s T=%d S=%d G=%d D=%d",
             dtype == SL_F32   ? "f32"
             : dtype == SL_F16 ? "f16"
                               : "bf16",
             (int)rows, (int)context, (int)group, (int)d);
    row(k->attend_name, shape, run_attend, &a, 4 * keys * (double)(group * d), 2.0 * (double)(context * d * size));
    free(numbers), free(q), free(o), free(bytes), free(kp), free(vp), free(visible), free(a.p.scratch);
}

/* Codes as kivi keeps them: scales of keys by channel and group of rows, of values by row and group of channels. */
static void bench_attend_codes(const slk_kernels *k, uint32_t bits, int64_t rows, int64_t context, int64_t group,
                               int64_t d) {
    enum { PAGE = 32 };
    const int64_t pages = (context + PAGE - 1) / PAGE, code_bytes = PAGE * d * bits / 8;
    const int64_t scale_bytes = PAGE * d / 32 * 4, page_bytes = code_bytes + scale_bytes; /* scales, then minima */
    float *numbers = random_floats((size_t)(scale_bytes / 2)), *q = random_floats((size_t)(rows * group * d));
    float *o = need((size_t)(rows * group * d) * sizeof *o);
    char *bytes = need((size_t)(2 * pages * page_bytes));
    const void **at[2][3];
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < 3; i++)
            at[side][i] = need((size_t)pages * sizeof(void *));
    for (int64_t i = 0; i < 2 * pages; i++) {
        char *page = bytes + i * page_bytes;
        memset(page, 0x1b, (size_t)code_bytes);
        k->f16_of_f32((uint16_t *)(void *)(page + code_bytes), numbers, scale_bytes / 2);
        at[i % 2][0][i / 2] = page, at[i % 2][1][i / 2] = page + code_bytes;
        at[i % 2][2][i / 2] = page + code_bytes + scale_bytes / 2;
    }
    const slk_quant kq = {at[0][1], at[0][2], 2 * d, 0, 32, bits, SL_F16, 1, 1},
                    vq = {at[1][1], at[1][2], 2 * d / 32, 0, 32, bits, SL_F16, 0, 1};
    const slk_piece piece = {
        0, context, PAGE, {at[0][0], 0, d * bits / 8, SL_U8, &kq}, {at[1][0], 0, d * bits / 8, SL_U8, &vq}};
    slk_visible *visible = need((size_t)rows * sizeof *visible);
    double keys = 0;
    for (int64_t r = 0; r < rows; r++) {
        visible[r] = (slk_visible){{0, 0}, {(int32_t)(context - rows + r + 1), 0}, NULL, 0};
        keys += (double)visible[r].hi[0];
    }
    attend_run a = {k,
                    {.q = q,
                     .q_row = group * d,
                     .q_head = d,
                     .o = o,
                     .o_row = group * d,
                     .o_head = d,
                     .pieces = &piece,
                     .n_pieces = 1,
                     .rows = visible,
                     .n_rows = rows,
                     .group = group,
                     .d_k = d,
                     .d_v = d,
                     .scale = 0.1f,
                     .scratch = need((size_t)slk_attend_scratch_bytes(group, d, d))}};
    char shape[64];
    snprintf(shape, sizeof shape, "%d bits T=%d S=%d G=%d D=%d", (int)bits, (int)rows, (int)context, (int)group,
             (int)d);
    row(k->attend_name, shape, run_attend, &a, 4 * keys * (double)(group * d), (double)(2 * pages * page_bytes));
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < 3; i++)
            free(at[side][i]);
    free(numbers), free(q), free(o), free(bytes), free(visible), free(a.p.scratch);
}

/* ---- the small ones -------------------------------------------------------------------------------------------- */

enum { ROWS = 16, WIDTH = 2048 };

typedef struct small_run {
    const slk_kernels *k;
    float *a, *b, *y;
    uint16_t *h;
    int32_t *index;
} small_run;

static void run_norm(void *arg) {
    const small_run *s = arg;
    const slk_norm p = {.x = s->a, .y = s->y, .w = s->b, .ldx = WIDTH, .ldy = WIDTH, .n = WIDTH, .eps = 1e-5f};
    s->k->rmsnorm(&p, 0, ROWS);
}
static void run_rope(void *arg) {
    const small_run *s = arg;
    const slk_rope p = {.x = s->y,
                        .ldx = WIDTH,
                        .ld_head = 128,
                        .cos_row = s->a,
                        .sin_row = s->b,
                        .ld_trig = 64,
                        .heads = WIDTH / 128,
                        .n_rot = 128};
    s->k->rope(&p, 0, ROWS);
}
static void run_silu(void *arg) {
    const small_run *s = arg;
    const slk_act p = {.gate = s->a, .up = s->b, .y = s->y, .ld_gate = WIDTH, .ld_up = WIDTH, .ldy = WIDTH, .n = WIDTH};
    s->k->silu_mul(&p, 0, ROWS);
}
static void run_gelu(void *arg) {
    const small_run *s = arg;
    const slk_act p = {.gate = s->a, .up = s->b, .y = s->y, .ld_gate = WIDTH, .ld_up = WIDTH, .ldy = WIDTH, .n = WIDTH};
    s->k->gelu_mul(&p, 0, ROWS);
}
static void run_softmax(void *arg) {
    const small_run *s = arg;
    s->k->softmax(s->y, ROWS * WIDTH);
}
static void run_argmax(void *arg) {
    const small_run *s = arg;
    s->index[0] = s->k->argmax(s->a, ROWS * WIDTH);
}
static void run_topk(void *arg) {
    const small_run *s = arg;
    s->k->topk(s->a, ROWS * WIDTH, 64, NULL, s->index);
}
static void run_dot(void *arg) {
    const small_run *s = arg;
    s->y[0] = s->k->dot(s->a, s->b, ROWS * WIDTH);
}
static void run_axpy(void *arg) {
    const small_run *s = arg;
    s->k->axpy(1e-9f, s->a, s->y, ROWS * WIDTH);
}
static void run_f16(void *arg) {
    const small_run *s = arg;
    s->k->f16_of_f32(s->h, s->a, ROWS * WIDTH);
}
static void run_bf16(void *arg) {
    const small_run *s = arg;
    s->k->bf16_of_f32(s->h, s->a, ROWS * WIDTH);
}

static void bench_small(const slk_kernels *k) {
    const size_t n = (size_t)ROWS * WIDTH;
    small_run s = {k, random_floats(n), random_floats(n), random_floats(n), need(n * 2), need(64 * sizeof(int32_t))};
    static const struct {
        int op, flop, bytes; /* an element */
        void (*run)(void *);
    } ops[] = {{SLK_KERNEL_rmsnorm, 4, 8, run_norm},     {SLK_KERNEL_rope, 3, 8, run_rope},
               {SLK_KERNEL_silu_mul, 20, 12, run_silu},  {SLK_KERNEL_gelu_mul, 26, 12, run_gelu},
               {SLK_KERNEL_softmax, 20, 8, run_softmax}, {SLK_KERNEL_argmax, 1, 4, run_argmax},
               {SLK_KERNEL_topk, 1, 4, run_topk},        {SLK_KERNEL_dot, 2, 8, run_dot},
               {SLK_KERNEL_axpy, 2, 12, run_axpy},       {SLK_KERNEL_f16_of_f32, 1, 6, run_f16},
               {SLK_KERNEL_bf16_of_f32, 1, 6, run_bf16}};
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++)
        row(slk_kernel_name(k, ops[i].op), "16 x 2048", ops[i].run, &s, (double)n * ops[i].flop,
            (double)n * ops[i].bytes);
    free(s.a), free(s.b), free(s.y), free(s.h), free(s.index);
}

int main(int argc, char **argv) {
    if (argc > 1)
        seconds_a_row = atof(argv[1]) / 1e3;
    if (argc > 2)
        only = argv[2];
    const uint32_t levels[] = {SLK_ISA_REF, SLK_ISA_AVX2, slk_isa_detect()};
    uint32_t last = ~0u;
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++) {
        const slk_kernels *k = slk_kernels_for(levels[i]);
        if (k->isa == last)
            continue;
        last = k->isa;
        printf("# %s\n", slk_isa_name(k->isa));
        const int64_t N = k->isa == SLK_ISA_REF ? 256 : 1024;
        bench_gemm(k, 64, N, 1024);
        if (k->isa != SLK_ISA_REF) {
            bench_gemm(k, 8, 1024, 1024);
            bench_gemm(k, 64, 512, 4096);
            bench_gemm(k, 1, 1024, 1024); /* from cache */
            bench_gemm(k, 1, 8192, 4096); /* from memory */
        }
        bench_attend(k, SL_F32, 1, 4096, 4, 128);
        bench_attend(k, SL_BF16, 1, 4096, 4, 128);
        bench_attend(k, SL_F16, 1, 4096, 1, 64);
        bench_attend(k, SL_BF16, 64, 1024, 4, 128);
        bench_attend(k, SL_F32, 64, 1024, 2, 64);
        bench_attend_codes(k, 4, 1, 4096, 4, 128);
        bench_attend_codes(k, 2, 1, 4096, 4, 128);
        bench_attend_codes(k, 4, 64, 1024, 4, 128);
        bench_small(k);
    }
    return 0;
}
