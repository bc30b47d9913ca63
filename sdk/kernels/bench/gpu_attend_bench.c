/* Attention on a device over pages that lie all over the pool: few rows of decoding, plain, coded and by lists, and
 * causal prompts. 32 query heads over 8 KV heads of 128 channels. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpu_row_bench.h"

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, PAGE = 64, MOST_LAYERS = 32, WIDTH = (HEADS + 2 * KV_HEADS) * DIM };

/* Rows of a step and the layers that they attend to, in turns. */
typedef struct attend {
    slk_gpu_bench *b;
    int prompt;
    sl_step_device step;
    sl_batch batch;
    sl_rows rows;
    sl_mask mask;
    sl_view_device layer[MOST_LAYERS];
    int n_layers;
    void *q, *o, *workspace;
    int64_t workspace_bytes;
} attend;

static sl_tensor heads_of(void *data, int64_t n, int64_t row) {
    return (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                       .data = data,
                       .shape = {n, HEADS, DIM},
                       .stride = {row, DIM, 1},
                       .dtype = SL_BF16,
                       .ndim = 3,
                       .device = SL_DEVICE_CUDA};
}

static sl_status run(void *arg, int i) {
    attend *a = arg;
    sl_view view = {.struct_size = SL_SIZE(sl_view), .device = &a->layer[i % a->n_layers]};
    const sl_attend args = {.struct_size = SL_SIZE(sl_attend),
                            .lane = a->b->h.lane,
                            .rows = &a->rows,
                            .mask = &a->mask,
                            .view = &view,
                            .q = heads_of(a->q, a->rows.n, WIDTH),
                            .o = heads_of(a->o, a->rows.n, HEADS * DIM),
                            .scale = 1 / sqrt(DIM)};
    return a->prompt ? slk_cuda_attend_prefill(&a->b->h.k, &args, 0)
                     : slk_cuda_attend_few(&a->b->h.k, a->b->h.lane, &args, a->workspace, a->workspace_bytes);
}

static int32_t *need(int64_t n) {
    int32_t *x = malloc((size_t)n * sizeof *x);
    if (x == NULL)
        slk_gpu_die("out of memory");
    return x;
}

/* 0 .. n - 1, each once, far apart. */
static int32_t *scattered(int64_t n) {
    int32_t *x = need(n);
    uint64_t draws = 1;
    for (int64_t i = 0; i < n; i++)
        x[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        draws = draws * 6364136223846793005u + 1442695040888963407u;
        const int64_t j = (int64_t)((draws >> 33) % (uint64_t)(i + 1));
        const int32_t t = x[i];
        x[i] = x[j], x[j] = t;
    }
    return x;
}

/* seqs sequences of `rows` new rows each, behind context - rows committed ones. */
static void make_step(attend *a, int32_t seqs, int32_t rows, int64_t context, uint32_t stage) {
    slk_gpu_bench *b = a->b;
    int32_t *row_seq = need((int64_t)seqs * rows), n = seqs * rows;
    for (int32_t i = 0; i < n; i++)
        row_seq[i] = i / rows;
    a->step = (sl_step_device){.struct_size = SL_SIZE(sl_step_device),
                               .n_rows = slt_upload(&b->h, &n, 4),
                               .n_seqs = slt_upload(&b->h, &seqs, 4),
                               .seq = slk_gpu_ints(b, seqs, 0, 1),
                               .row_begin = slk_gpu_ints(b, seqs + 1, 0, rows),
                               .n_past = slk_gpu_ints(b, seqs, (int32_t)context - rows, 0),
                               .is_tree = slk_gpu_ints(b, seqs, 0, 0),
                               .row_seq = slt_upload(&b->h, row_seq, 4 * (int64_t)n),
                               .ancestors = (const uint32_t *)slk_gpu_ints(b, 4 * (int64_t)n, 0, 0),
                               .max_context = context,
                               .max_rows = n,
                               .max_seqs = seqs,
                               .max_seq_rows = rows,
                               .stages = stage};
    a->batch = (sl_batch){.struct_size = SL_SIZE(sl_batch), .n_seqs = seqs, .n_rows = n, .device = &a->step};
    a->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &a->batch, .device_n = a->step.n_rows, .n = n};
    a->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask), .base = SL_MASK_CAUSAL};
    free(row_seq);
}

/* As many layers as the pool holds, keys in one half of it, values in the other. bits 0: bf16. */
static void make_layers(attend *a, int64_t seqs, int64_t context, int bits, int32_t list) {
    slk_gpu_bench *b = a->b;
    const int64_t row = bits > 0 ? DIM * bits / 8 : DIM * 2, page = row * KV_HEADS * PAGE,
                  pages = (context + PAGE - 1) / PAGE;
    const int64_t room = b->pool_bytes / 2 / page, fit = room / (pages * seqs);
    a->n_layers = fit > MOST_LAYERS ? MOST_LAYERS : (int)fit;
    if (a->n_layers < 1)
        slk_gpu_die("the pool is too small for the context");
    const int64_t used = pages * seqs * a->n_layers;
    int32_t *table = scattered(used), *slots = list > 0 ? need(seqs * KV_HEADS * list) : NULL;
    const int32_t *device = slt_upload(&b->h, table, 4 * used), *lists = NULL, *counts = NULL;
    void *scales = NULL;
    for (int64_t i = 0; i < seqs * KV_HEADS * list; i++)
        slots[i] = (int32_t)(i % list * ((context - 1) / list));
    if (list > 0) {
        lists = slt_upload(&b->h, slots, 4 * seqs * KV_HEADS * list);
        counts = slk_gpu_ints(b, seqs * KV_HEADS, list, 0);
    }
    const int64_t scale_row = KV_HEADS * (DIM / 64) * 2;
    if (bits > 0)
        scales = slk_gpu_random(b, used * PAGE * scale_row / 2, SL_F16, 0.01f);
    for (int i = 0; i < a->n_layers; i++)
        a->layer[i] = (sl_view_device){.struct_size = SL_SIZE(sl_view_device),
                                       .k_pool = b->pool,
                                       .v_pool = b->pool + b->pool_bytes / 2,
                                       .pages = device + i * pages * seqs,
                                       .pages_stride = pages,
                                       .k_page_stride = page,
                                       .k_row_stride = row * KV_HEADS,
                                       .k_head_stride = row,
                                       .v_page_stride = page,
                                       .v_row_stride = row * KV_HEADS,
                                       .v_head_stride = row,
                                       .page_rows = PAGE,
                                       .n_heads = KV_HEADS,
                                       .k_dim = DIM,
                                       .v_dim = DIM,
                                       .k_dtype = bits > 0 ? SL_U8 : SL_BF16,
                                       .v_dtype = bits > 0 ? SL_U8 : SL_BF16,
                                       .settled = 1};
    for (int i = 0; bits > 0 && i < a->n_layers; i++) {
        sl_view_device *v = &a->layer[i];
        v->k_bits = v->v_bits = (uint32_t)bits;
        v->k_group = v->v_group = 64;
        v->k_scale = v->v_scale = scales;
        v->scale_stride_k = v->scale_stride_v = scale_row;
        v->scale_page_stride_k = v->scale_page_stride_v = scale_row * PAGE;
    }
    for (int i = 0; list > 0 && i < a->n_layers; i++) {
        sl_view_device *v = &a->layer[i];
        v->list = lists, v->list_n = counts, v->list_stride = list, v->n_groups = KV_HEADS;
    }
    free(table), free(slots);
}

void slk_gpu_attend(slk_gpu_bench *b) {
    static const struct {
        int32_t seqs, rows;
        int64_t context;
        int bits;
        int32_t list, fast;
    } works[] = {{1, 1, 4096, 0, 0, 0}, {1, 1, 4096, 0, 0, 1}, {1, 1, 32768, 0, 0, 0}, {8, 1, 4096, 0, 0, 0},
                 {1, 4, 4096, 0, 0, 0}, {1, 1, 4096, 4, 0, 0}, {1, 1, 32768, 4, 0, 0}, {1, 1, 32768, 0, 4096, 0}};
    attend *a = calloc(1, sizeof *a);
    if (a == NULL)
        slk_gpu_die("out of memory");
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        const int64_t keys = works[i].list > 0 ? works[i].list + works[i].rows : works[i].context;
        const double row = works[i].bits > 0 ? DIM * works[i].bits / 8.0 + DIM / 64 * 2.0 : DIM * 2.0;
        slk_gpu_case c = {.kernel = works[i].fast ? "attend_few fast" : "attend_few",
                          .run = run,
                          .arg = a,
                          .bytes = 2.0 * row * KV_HEADS * (double)(works[i].seqs * keys),
                          .flops = 4.0 * HEADS * DIM * (double)(works[i].seqs * works[i].rows * keys),
                          .from_memory = 1};
        char what[32] = "bf16";
        if (works[i].bits > 0)
            snprintf(what, sizeof what, "%d bits", works[i].bits);
        if (works[i].list > 0)
            snprintf(what, sizeof what, "list of %d", (int)works[i].list);
        snprintf(c.shape, sizeof c.shape, "%s B=%d T=%d S=%d K=%d G=%d D=%d", what, (int)works[i].seqs,
                 (int)works[i].rows, (int)works[i].context, KV_HEADS, HEADS / KV_HEADS, DIM);
        if (!slk_gpu_wants(b, &c))
            continue;
        *a = (attend){.b = b};
        const int64_t n = (int64_t)works[i].seqs * works[i].rows;
        a->workspace_bytes = slk_cuda_attend_few_workspace(n, works[i].context, HEADS, DIM);
        a->workspace = slt_device(&b->h, a->workspace_bytes);
        a->q = slk_gpu_random(b, n * WIDTH, SL_BF16, 1);
        a->o = slt_device(&b->h, n * HEADS * DIM * 2);
        make_step(a, works[i].seqs, works[i].rows, works[i].context,
                  works[i].rows > 1 ? SL_STAGE_VERIFY : SL_STAGE_DECODE);
        make_layers(a, works[i].seqs, works[i].context, works[i].bits, works[i].list);
        b->h.k.deterministic = !works[i].fast;
        slk_gpu_run(b, &c);
        b->h.k.deterministic = 1;
    }
    free(a);
}

void slk_gpu_prefill(slk_gpu_bench *b) {
    static const int64_t lengths[] = {4096, 16384};
    attend *a = calloc(1, sizeof *a);
    if (a == NULL)
        slk_gpu_die("out of memory");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        const int64_t n = lengths[i];
        slk_gpu_case c = {.kernel = "attend_prefill",
                          .run = run,
                          .arg = a,
                          .bytes = 2.0 * (double)n * DIM * (2 * HEADS + 2 * KV_HEADS),
                          .flops = 2.0 * HEADS * DIM * (double)n * (double)(n + 1),
                          .from_memory = 1,
                          .calls = n > 8192 ? 2 : 8};
        snprintf(c.shape, sizeof c.shape, "bf16 T=%d causal K=%d G=%d D=%d", (int)n, KV_HEADS, HEADS / KV_HEADS, DIM);
        if (!slk_gpu_wants(b, &c))
            continue;
        *a = (attend){.b = b, .prompt = 1};
        a->q = slk_gpu_random(b, n * WIDTH, SL_BF16, 1.7f);
        a->o = slt_device(&b->h, n * HEADS * DIM * 2);
        make_step(a, 1, (int32_t)n, n, SL_STAGE_PREFILL);
        make_layers(a, 1, n, 0, 0);
        slk_gpu_run(b, &c);
    }
    free(a);
}
