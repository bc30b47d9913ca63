/* Linear layers on a device, few rows at a time. Weights rotate through the pool. */
#include <stdio.h>

#include "gpu_row_bench.h"
#include "linear_pack.h"

enum { N = 4096, K = 4096, MOST_ROWS = 64 };

typedef struct product {
    slk_gpu_bench *b;
    int kind, batch;
    int64_t stride;
    slk_linear_params p;
    slk_e4m3_rows_params rows;
    int64_t scales_at;
} product;

static sl_status run(void *arg, int i) {
    product *w = arg;
    const int64_t copies = w->b->pool_bytes / w->stride;
    slk_linear_params p = w->p;
    p.w = w->b->pool + i % copies * w->stride;
    if (w->scales_at > 0)
        p.scale = (const char *)p.w + w->scales_at;
    return w->batch ? slk_cuda_linear_batch(&w->b->h.k, w->b->h.lane, &p)
                    : slk_cuda_linear(&w->b->h.k, w->b->h.lane, w->kind, &p);
}

static const struct {
    const char *kernel, *text;
    int kind, batch;
    sl_q_format q; /* bits 0: plain */
} forms[] = {
    {"linear_bf16", "", SLK_LINEAR_BF16, 0, {0}},
    {"linear_batch", "", SLK_LINEAR_BF16, 1, {0}},
    {"linear_int8", " row", SLK_LINEAR_INT8, 0, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"linear_int8", " g128", SLK_LINEAR_INT8, 0, {SL_SIZE(sl_q_format), 0, 0, 128, 8, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"linear_int4", " g128", SLK_LINEAR_INT4, 0, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 0, SL_Q_CUDA, SL_Q_INTEGER}},
    {"linear_int4", " g128 asym", SLK_LINEAR_INT4, 0, {SL_SIZE(sl_q_format), 0, 0, 128, 4, 1, SL_Q_CUDA, SL_Q_INTEGER}},
    {"linear_e4m3", "", SLK_LINEAR_E4M3, 0, {SL_SIZE(sl_q_format), 0, 0, 0, 8, 0, SL_Q_CUDA, SL_Q_E4M3}},
};

static sl_status run_rows(void *arg, int i) {
    product *w = arg;
    (void)i;
    return slk_cuda_e4m3_rows(&w->b->h.k, w->b->h.lane, &w->rows);
}

void slk_gpu_linear(slk_gpu_bench *b) {
    static const int rows[] = {1, 8, 64};
    void *x = NULL, *x8 = NULL, *y = NULL;
    float *x_scale = NULL;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        if (!b->dry && ((forms[f].kind == SLK_LINEAR_E4M3 && b->h.k.info.arch < 890) ||
                        (forms[f].batch && b->h.k.function[SLK_CUDA_linear_batch] == NULL)))
            continue;
        sl_q_format q = forms[f].q;
        q.n = N, q.k = K;
        const int64_t bytes = q.bits == 0 ? (int64_t)N * K * 2 : slk_linear_pack_bytes(&q);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            if (forms[f].batch && rows[r] < 16)
                continue;
            product w = {.b = b, .kind = forms[f].kind, .batch = forms[f].batch, .stride = (bytes + 255) / 256 * 256};
            slk_gpu_case c = {.kernel = forms[f].kernel,
                              .run = run,
                              .arg = &w,
                              .bytes = (double)bytes,
                              .flops = 2.0 * rows[r] * N * K,
                              .from_memory = 1};
            snprintf(c.shape, sizeof c.shape, "T=%d N=%d K=%d%s", rows[r], N, K, forms[f].text);
            if (!slk_gpu_wants(b, &c))
                continue;
            if (x == NULL) {
                x = slk_gpu_random(b, (int64_t)MOST_ROWS * K, SL_BF16, 1);
                y = slt_device(&b->h, (int64_t)MOST_ROWS * N * 4);
                x8 = slt_device(&b->h, (int64_t)MOST_ROWS * K);
                x_scale = slt_device(&b->h, MOST_ROWS * 4);
            }
            w.p = (slk_linear_params){
                .x = x, .y = y, .ldx = K, .ldw = K, .ldy = N, .t = rows[r], .n = N, .k = K, .y_bf16 = 1};
            if (q.bits != 0) {
                w.scales_at = slk_linear_scales_at(&q);
                w.p.group = (int32_t)slk_linear_group(&q);
                w.p.asym = q.asymmetric;
            }
            if (w.kind == SLK_LINEAR_E4M3) {
                w.rows =
                    (slk_e4m3_rows_params){.x = x, .y = x8, .scale = x_scale, .ldx = K, .ldy = K, .t = rows[r], .k = K};
                if (run_rows(&w, 0) != SL_OK)
                    slk_gpu_die("rows cannot be rounded to e4m3");
                w.p.x = x8;
                w.p.x_scale = x_scale;
            }
            slk_gpu_run(b, &c);
            if (w.kind == SLK_LINEAR_E4M3) {
                slk_gpu_case around = {.kernel = "e4m3_rows",
                                       .run = run_rows,
                                       .arg = &w,
                                       .bytes = 3.0 * rows[r] * K,
                                       .flops = 3.0 * rows[r] * K};
                snprintf(around.shape, sizeof around.shape, "%d x %d", rows[r], K);
                slk_gpu_run(b, &around);
            }
        }
    }
}
