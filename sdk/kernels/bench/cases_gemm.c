/* Matrix products of linear layers. Weights come from memory, as in a model: each call takes the next copy of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_row.h"

typedef struct products {
    const slk_kernels *k;
    slk_gemm p;
    const char *pool;
    int64_t stride, copies; /* of the weights */
} products;

static void run(void *arg, int64_t begin, int64_t end, int64_t turn, int who) {
    const products *g = arg;
    slk_gemm p = g->p;
    (void)who;
    p.w = g->pool + turn % g->copies * g->stride;
    slk_gemm_run(g->k, &p, begin, end);
}

static const struct {
    uint32_t x_dtype, w_dtype;
    slk_q_format q;
    const char *text;
    int op;
} operands[] = {
    {SL_F32, SL_F32, {0, 0, 0}, "", SLK_KERNEL_gemm_f32},
    {SL_F32, SL_F16, {0, 0, 0}, "", SLK_KERNEL_gemm_f16},
    {SL_F32, SL_BF16, {0, 0, 0}, "", SLK_KERNEL_gemm_bf16},
    {SL_BF16, SL_BF16, {0, 0, 0}, "", SLK_KERNEL_gemm_bf16_bf16},
    {SL_F32, SLK_W_PACKED, {8, 128, 0}, " g128", SLK_KERNEL_gemm_q8},
    {SL_F32, SLK_W_PACKED, {4, 32, 0}, " g32", SLK_KERNEL_gemm_q4},
    {SL_F32, SLK_W_PACKED, {4, 128, 1}, " g128 asym", SLK_KERNEL_gemm_q4},
};
enum { OPERANDS = sizeof operands / sizeof *operands, SHAPES = 3 };

static int64_t weight_bytes(int i, int64_t n, int64_t k) {
    return operands[i].w_dtype == SLK_W_PACKED ? n * slk_q_row_bytes(&operands[i].q, k)
                                               : n * k * (operands[i].w_dtype == SL_F32 ? 4 : 2);
}

static void make_weights(const slk_kernels *k, int i, const float *w, int64_t n, int64_t cols, void *out) {
    switch (operands[i].w_dtype) {
    case SL_F32: memcpy(out, w, (size_t)(n * cols) * sizeof *w); break;
    case SL_F16: k->f16_of_f32(out, w, n * cols); break;
    case SL_BF16: k->bf16_of_f32(out, w, n * cols); break;
    default: slk_q_pack(&operands[i].q, w, cols, n, cols, out, NULL);
    }
}

void slk_bench_gemm(slk_bench *b, int small) {
    static const int64_t rows[SHAPES] = {1, 8, 64};
    const int64_t cols = 4096, most = 2048;
    float *w = NULL, *x = NULL, *y = NULL;
    uint16_t *x16 = NULL;
    for (int i = 0; i < OPERANDS; i++) {
        int64_t n_tiled = 0, copies = 0;
        for (int s = 0; s < SHAPES; s++) {
            const int64_t t = rows[s], n = !small ? most : t == 1 ? 1024 : 64, bytes = weight_bytes(i, n, cols);
            products g = {b->k, .pool = b->pool, .stride = (bytes + 63) / 64 * 64};
            slk_bench_case c = {.op = operands[i].op,
                                .run = run,
                                .arg = &g,
                                .units = n,
                                .flops = 2.0 * (double)(t * n * cols),
                                .bytes = (double)bytes,
                                .from_memory = 1,
                                .dot = operands[i].x_dtype == SL_BF16};
            snprintf(c.shape, sizeof c.shape, "T=%d N=%d K=%d%s", (int)t, (int)n, (int)cols, operands[i].text);
            if (!slk_bench_wants(b, &c))
                continue;
            if (w == NULL) { /* of all operands */
                w = slk_bench_floats((size_t)(most * cols));
                x = slk_bench_floats((size_t)(rows[SHAPES - 1] * cols));
                y = slk_bench_need((size_t)(rows[SHAPES - 1] * most) * sizeof *y);
                x16 = slk_bench_need((size_t)(rows[SHAPES - 1] * cols) * sizeof *x16);
                b->k->bf16_of_f32(x16, x, rows[SHAPES - 1] * cols);
            }
            if (n_tiled != n) {
                void *one = slk_bench_need((size_t)bytes);
                make_weights(b->k, i, w, n, cols, one);
                copies = slk_bench_tile(b, one, bytes);
                n_tiled = n;
                free(one);
            }
            g.copies = copies;
            g.p = (slk_gemm){.x = operands[i].x_dtype == SL_F32 ? (const void *)x : x16,
                             .ldx = cols,
                             .ldw = cols,
                             .y = y,
                             .ldy = n,
                             .T = t,
                             .N = n,
                             .K = cols,
                             .x_dtype = operands[i].x_dtype,
                             .w_dtype = operands[i].w_dtype,
                             .q = operands[i].q};
            slk_bench_run(b, &c);
        }
    }
    free(w), free(x), free(y), free(x16);
}
