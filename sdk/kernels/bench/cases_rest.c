/* Operations on rows of activations, which their predecessor has just written: 16 rows of 2048, in a cache. Operations
 * of an exponential are counted by the polynomial that stands for it. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_row.h"

enum { ROWS = 16, WIDTH = 2048, TOP = 64, HEAD = 128 };

/* Where a call works: rows [begin, end). */
typedef struct part {
    const slk_kernels *k;
    float *a, *b, *y; /* [ROWS, WIDTH] */
    uint16_t *h;
    int32_t *index; /* [ROWS, TOP] */
    int64_t begin, end;
} part;

static void run_norm(const part *s) {
    const slk_norm p = {.x = s->a, .y = s->y, .w = s->b, .ldx = WIDTH, .ldy = WIDTH, .n = WIDTH, .eps = 1e-5f};
    s->k->rmsnorm(&p, s->begin, s->end);
}
static void run_rope(const part *s) {
    const slk_rope p = {.x = s->y,
                        .ldx = WIDTH,
                        .ld_head = HEAD,
                        .cos_row = s->a,
                        .sin_row = s->b,
                        .ld_trig = HEAD / 2,
                        .heads = WIDTH / HEAD,
                        .n_rot = HEAD};
    s->k->rope(&p, s->begin, s->end);
}
static slk_act act_of(const part *s) {
    return (slk_act){.gate = s->a, .up = s->b, .y = s->y, .ld_gate = WIDTH, .ld_up = WIDTH, .ldy = WIDTH, .n = WIDTH};
}
static void run_silu(const part *s) {
    const slk_act p = act_of(s);
    s->k->silu_mul(&p, s->begin, s->end);
}
static void run_gelu(const part *s) {
    const slk_act p = act_of(s);
    s->k->gelu_mul(&p, s->begin, s->end);
}

/* Those that take one row, or any number of elements. */
static void run_softmax(const part *s) {
    for (int64_t r = s->begin; r < s->end; r++)
        s->k->softmax(s->y + r * WIDTH, WIDTH);
}
static void run_argmax(const part *s) {
    for (int64_t r = s->begin; r < s->end; r++)
        s->index[r * TOP] = s->k->argmax(s->a + r * WIDTH, WIDTH);
}
static void run_topk(const part *s) {
    for (int64_t r = s->begin; r < s->end; r++)
        s->k->topk(s->a + r * WIDTH, WIDTH, TOP, NULL, s->index + r * TOP);
}
static void run_dot(const part *s) {
    for (int64_t r = s->begin; r < s->end; r++)
        s->y[r * WIDTH] = s->k->dot(s->a + r * WIDTH, s->b + r * WIDTH, WIDTH);
}
static void run_axpy(const part *s) {
    s->k->axpy(1e-9f, s->a + s->begin * WIDTH, s->y + s->begin * WIDTH, (s->end - s->begin) * WIDTH);
}
static void run_from_f16(const part *s) {
    s->k->f32_of_f16(s->y + s->begin * WIDTH, s->h + s->begin * WIDTH, (s->end - s->begin) * WIDTH);
}
static void run_from_bf16(const part *s) {
    s->k->f32_of_bf16(s->y + s->begin * WIDTH, s->h + s->begin * WIDTH, (s->end - s->begin) * WIDTH);
}
static void run_to_f16(const part *s) {
    s->k->f16_of_f32(s->h + s->begin * WIDTH, s->a + s->begin * WIDTH, (s->end - s->begin) * WIDTH);
}
static void run_to_bf16(const part *s) {
    s->k->bf16_of_f32(s->h + s->begin * WIDTH, s->a + s->begin * WIDTH, (s->end - s->begin) * WIDTH);
}

static const struct operation {
    int op, flops, bytes; /* an element, bytes written and those read for writing included */
    void (*run)(const part *);
} operations[] = {
    {SLK_KERNEL_rmsnorm, 4, 8, run_norm},
    {SLK_KERNEL_rope, 3, 8, run_rope},
    {SLK_KERNEL_silu_mul, 20, 12, run_silu},
    {SLK_KERNEL_gelu_mul, 26, 12, run_gelu},
    {SLK_KERNEL_softmax, 20, 8, run_softmax},
    {SLK_KERNEL_argmax, 1, 4, run_argmax},
    {SLK_KERNEL_topk, 1, 4, run_topk},
    {SLK_KERNEL_dot, 2, 8, run_dot},
    {SLK_KERNEL_axpy, 2, 12, run_axpy},
    {SLK_KERNEL_f32_of_f16, 1, 6, run_from_f16},
    {SLK_KERNEL_f32_of_bf16, 1, 6, run_from_bf16},
    {SLK_KERNEL_f16_of_f32, 1, 6, run_to_f16},
    {SLK_KERNEL_bf16_of_f32, 1, 6, run_to_bf16},
};

typedef struct work {
    part all;
    const struct operation *o;
} work;

static void run(void *arg, int64_t begin, int64_t end, int64_t turn, int who) {
    const work *w = arg;
    part mine = w->all;
    (void)turn, (void)who;
    mine.begin = begin;
    mine.end = end;
    w->o->run(&mine);
}

void slk_bench_rest(slk_bench *b) {
    const size_t n = (size_t)ROWS * WIDTH;
    part all = {b->k,
                slk_bench_floats(n),
                slk_bench_floats(n),
                slk_bench_floats(n),
                slk_bench_need(n * 2),
                slk_bench_need(ROWS * TOP * sizeof(int32_t)),
                0,
                0};
    b->k->f16_of_f32(all.h, all.a, (int64_t)n);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        work w = {all, &operations[i]};
        slk_bench_case c = {.op = operations[i].op,
                            .run = run,
                            .arg = &w,
                            .units = ROWS,
                            .bytes = (double)n * operations[i].bytes,
                            .flops = (double)n * operations[i].flops};
        snprintf(c.shape, sizeof c.shape, "%d x %d%s", ROWS, WIDTH, operations[i].op == SLK_KERNEL_topk ? " k=64" : "");
        slk_bench_run(b, &c);
    }
    free(all.a), free(all.b), free(all.y), free(all.h), free(all.index);
}
