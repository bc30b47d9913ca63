/* Attention over pages of a cache that come from memory: each call takes the pages of the next layer. Threads share the
 * KV heads. Plain rows, and codes as kivi keeps them: scales of keys by channel and group of rows, of values by row and
 * group of channels. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_row.h"

enum { HEADS = 8, D = 128, PAGE = 64, CODE_PAGE = 32, CODE_GROUP = 32 };

typedef struct attends {
    const slk_kernels *k;
    slk_attend p;
    const void **k_pages, **v_pages;   /* [layers, pages] */
    const void **k_scales, **v_scales; /* of codes: [heads, layers, pages], as are the codes' pages then */
    const void **k_zeros, **v_zeros;
    int64_t pages, layers;
    int bits;
    char *scratch[SLK_BENCH_MAX_THREADS];
} attends;

static void run(void *arg, int64_t begin, int64_t end, int64_t turn, int who) {
    const attends *a = arg;
    const int64_t layer = turn % a->layers;
    for (int64_t h = begin; h < end; h++) {
        slk_attend p = a->p;
        p.q += h * p.group * D;
        p.o += h * p.group * D;
        p.scratch = a->scratch[who];
        if (a->bits == 0) {
            p.k.pages = a->k_pages + layer * a->pages, p.v.pages = a->v_pages + layer * a->pages;
            p.k.offset = p.v.offset = h * D;
            a->k->attend(&p);
            continue;
        }
        const int64_t at = (h * a->layers + layer) * a->pages;
        const slk_quant kq = {a->k_scales + at, a->k_zeros + at, 2 * D, 0, CODE_GROUP, (uint32_t)a->bits, SL_F16, 1, 1};
        const slk_quant vq = {
            a->v_scales + at, a->v_zeros + at, 2 * D / CODE_GROUP, 0, CODE_GROUP, (uint32_t)a->bits, SL_F16, 0, 1};
        const slk_piece piece = {0,
                                 a->pages * CODE_PAGE,
                                 CODE_PAGE,
                                 {a->k_pages + at, 0, D * a->bits / 8, SL_U8, &kq},
                                 {a->v_pages + at, 0, D * a->bits / 8, SL_U8, &vq}};
        p.pieces = &piece;
        p.n_pieces = 1;
        a->k->attend(&p);
    }
}

static const struct {
    uint32_t dtype;
    int bits;
    int64_t rows, context, group;
} cases[] = {
    {SL_F32, 0, 1, 4096, 4},  {SL_F16, 0, 1, 4096, 4},   {SL_BF16, 0, 1, 4096, 4},
    {SL_BF16, 0, 1, 4096, 1}, {SL_BF16, 0, 64, 1024, 4}, {SL_F32, 0, 64, 1024, 4},
    {SL_U8, 4, 1, 4096, 4},   {SL_U8, 2, 1, 4096, 4},    {SL_U8, 4, 64, 1024, 4},
};

/* A page of HEADS heads of plain rows, all over the pool; keys and values of a layer take turns. */
static void lay_rows(slk_bench *b, attends *a, uint32_t dtype) {
    const int64_t n = (int64_t)PAGE * HEADS * D, bytes = n * (dtype == SL_F32 ? 4 : 2);
    float *numbers = slk_bench_floats((size_t)n);
    void *page = slk_bench_need((size_t)bytes);
    if (dtype == SL_F32)
        memcpy(page, numbers, (size_t)bytes);
    else
        (dtype == SL_F16 ? b->k->f16_of_f32 : b->k->bf16_of_f32)(page, numbers, n);
    a->layers = slk_bench_tile(b, page, bytes) / 2 / a->pages;
    a->layers = a->layers > 0 ? a->layers : 1;
    a->k_pages = slk_bench_need((size_t)(a->layers * a->pages) * sizeof *a->k_pages);
    a->v_pages = slk_bench_need((size_t)(a->layers * a->pages) * sizeof *a->v_pages);
    const int64_t copies = b->pool_bytes / bytes;
    for (int64_t i = 0; i < a->layers * a->pages; i++) {
        a->k_pages[i] = b->pool + 2 * i % copies * bytes;
        a->v_pages[i] = b->pool + (2 * i + 1) % copies * bytes;
    }
    free(numbers), free(page);
}

/* A page of one head: codes, scales, minima. */
static void lay_codes(slk_bench *b, attends *a) {
    const int64_t codes = CODE_PAGE * D * a->bits / 8, scales = CODE_PAGE * D / CODE_GROUP * 2,
                  bytes = codes + 2 * scales;
    float *numbers = slk_bench_floats((size_t)(scales));
    char *page = slk_bench_need((size_t)bytes);
    memset(page, 0x1b, (size_t)codes);
    b->k->f16_of_f32((uint16_t *)(void *)(page + codes), numbers, scales); /* scales, then minima */
    const int64_t stride = (bytes + 63) / 64 * 64, copies = slk_bench_tile(b, page, bytes);
    a->layers = copies / (2 * a->pages * HEADS);
    a->layers = a->layers > 0 ? a->layers : 1;
    const int64_t n = HEADS * a->layers * a->pages;
    const void ***lists[] = {&a->k_pages, &a->k_scales, &a->k_zeros, &a->v_pages, &a->v_scales, &a->v_zeros};
    for (int l = 0; l < 6; l++) {
        *lists[l] = slk_bench_need((size_t)n * sizeof(void *));
        for (int64_t i = 0; i < n; i++) /* a head's pages of a layer lie side by side */
            (*lists[l])[i] =
                b->pool + (2 * i + l / 3) % copies * stride + (l % 3 > 0 ? codes : 0) + (l % 3 > 1 ? scales : 0);
    }
    free(numbers), free(page);
}

static void bench_attend(slk_bench *b, size_t i, int small) {
    const int64_t rows = small && cases[i].rows > 1 ? 4 : cases[i].rows, group = cases[i].group;
    const int64_t context = small ? cases[i].context / 8 : cases[i].context;
    const int bits = cases[i].bits;
    attends a = {b->k, .bits = bits, .pages = context / (bits > 0 ? CODE_PAGE : PAGE)};
    slk_visible *visible = slk_bench_need((size_t)rows * sizeof *visible);
    double keys = 0;
    for (int64_t r = 0; r < rows; r++) {
        visible[r] = (slk_visible){{0, 0}, {(int32_t)(context - rows + r + 1), 0}, NULL, 0};
        keys += (double)visible[r].hi[0];
    }
    const double width = cases[i].dtype == SL_F32 ? 4 : cases[i].dtype == SL_U8 ? bits / 8.0 + 4.0 / CODE_GROUP : 2;
    slk_bench_case c = {.op = SLK_KERNEL_attend,
                        .run = run,
                        .arg = &a,
                        .units = HEADS,
                        .flops = 4.0 * keys * (double)(HEADS * group * D),
                        .bytes = 2.0 * (double)(context * HEADS * D) * width,
                        .from_memory = 1};
    char form[16] = "f32";
    if (bits > 0)
        snprintf(form, sizeof form, "%d bits", bits);
    else if (cases[i].dtype != SL_F32)
        snprintf(form, sizeof form, "%s", cases[i].dtype == SL_F16 ? "f16" : "bf16");
    snprintf(c.shape, sizeof c.shape, "%s T=%d S=%d K=%d G=%d D=%d", form, (int)rows, (int)context, HEADS, (int)group,
             D);
    if (slk_bench_wants(b, &c)) {
        const slk_paged plain = {NULL, 0, HEADS * D, cases[i].dtype, NULL};
        const size_t floats = (size_t)(rows * HEADS * group * D);
        a.p = (slk_attend){.q = slk_bench_floats(floats),
                           .q_row = HEADS * group * D,
                           .q_head = D,
                           .o = slk_bench_need(floats * sizeof(float)),
                           .o_row = HEADS * group * D,
                           .o_head = D,
                           .k = plain,
                           .v = plain,
                           .page_rows = PAGE,
                           .rows = visible,
                           .n_rows = rows,
                           .group = group,
                           .d_k = D,
                           .d_v = D,
                           .scale = 0.088f};
        int most = 0;
        for (int t = 0; t < b->n_threads; t++)
            most = b->threads[t] > most ? b->threads[t] : most;
        for (int t = 0; t < most; t++)
            a.scratch[t] = slk_bench_need((size_t)slk_attend_scratch_bytes(group, D, D));
        if (bits > 0)
            lay_codes(b, &a);
        else
            lay_rows(b, &a, cases[i].dtype);
        slk_bench_run(b, &c);
        for (int t = 0; t < most; t++)
            free(a.scratch[t]);
        free((void *)(uintptr_t)a.p.q), free(a.p.o);
        free(a.k_pages), free(a.v_pages), free(a.k_scales), free(a.v_scales), free(a.k_zeros), free(a.v_zeros);
    }
    free(visible);
}

/* ---- joining ---------------------------------------------------------------------------------------------------- */

enum { JOINS = 64, PARTS = 8 };

typedef struct joins {
    const slk_kernels *k;
    float *parts, *o, *o2, *lse, *lse2;
} joins;

static void run_join(void *arg, int64_t begin, int64_t end, int64_t turn, int who) {
    const joins *j = arg;
    (void)turn, (void)who;
    for (int64_t i = begin; i < end; i++)
        j->k->attend_join(j->parts + i * PARTS * (2 + D), PARTS, D, j->o + i * D, j->lse + i);
}

static void run_merge(void *arg, int64_t begin, int64_t end, int64_t turn, int who) {
    const joins *j = arg;
    (void)turn, (void)who;
    j->k->lse_merge(j->o + begin * D, j->lse + begin, j->o2 + begin * D, j->lse2 + begin, end - begin, D);
}

static void bench_joins(slk_bench *b) {
    joins j = {b->k,
               slk_bench_floats((size_t)JOINS * PARTS * (2 + D)),
               slk_bench_floats((size_t)JOINS * D),
               slk_bench_floats((size_t)JOINS * D),
               slk_bench_floats(JOINS),
               slk_bench_floats(JOINS)};
    for (int i = 0; i < JOINS * PARTS; i++)
        j.parts[i * (2 + D) + 1] = 1; /* sums of exponentials are positive */
    slk_bench_case join = {.op = SLK_KERNEL_attend_join,
                           .run = run_join,
                           .arg = &j,
                           .units = JOINS,
                           .bytes = JOINS * (double)(PARTS * (2 + D) + D) * 4,
                           .flops = JOINS * 2.0 * PARTS * (D + 1)};
    snprintf(join.shape, sizeof join.shape, "%d rows of %d parts, D=%d", JOINS, PARTS, D);
    slk_bench_run(b, &join);
    slk_bench_case merge = {.op = SLK_KERNEL_lse_merge,
                            .run = run_merge,
                            .arg = &j,
                            .units = JOINS,
                            .bytes = JOINS * 3.0 * D * 4,
                            .flops = JOINS * 3.0 * D};
    snprintf(merge.shape, sizeof merge.shape, "%d rows, D=%d", JOINS, D);
    slk_bench_run(b, &merge);
    free(j.parts), free(j.o), free(j.o2), free(j.lse), free(j.lse2);
}

void slk_bench_attend(slk_bench *b, int small) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_attend(b, i, small);
    bench_joins(b);
}
