/* The small device kernels at the shapes of a Llama-3.1-8B step of decoding. What their predecessor has just written
 * stays in the L2; what a step reads once, an embedding or pages of a cache, is so little that its time is that of a
 * launch. */
#include <stdio.h>

#include "gpu_row_bench.h"
#include "sluice/ops.h"

enum {
    E = 4096,
    F = 14336,
    H = 32,
    K = 8,
    D = 128,
    VOCAB = 128256,
    PAGE_ROWS = 64,
    ROWS = 64,
    PAGES = 32,
    POSITIONS = 2048
};
enum { QKV = (H + 2 * K) * D, KV_ROW = K * D * 2, LAYERS = 32, MOVES = 8, CODE_ROWS = 32, QUANTISED = 32 };

/* Parameters of all of them; `rows` of the case at hand. */
typedef struct rest {
    slk_gpu_bench *b;
    int64_t rows;
    slk_norm_params norm;
    slk_act_mul_params act;
    slk_rope_params rope;
    slk_append_params append;
    slk_embed_params embed;
    slk_gather_params gather;
    slk_topk_params topk;
    slk_sample_params sample;
    slk_random_params random;
    slk_lse_merge_params merge;
    slk_move_params move;
    slk_move_layer move_layer[LAYERS];
    slk_keep_params keep;
    slk_pick_params pick;
    slk_quantise_params quantise;
    slk_quantise_layer quantise_layer[QUANTISED];
} rest;

#define RUN(name, call)                                                                                                \
    static sl_status run_##name(void *arg, int i) {                                                                    \
        rest *r = arg;                                                                                                 \
        (void)i;                                                                                                       \
        return call;                                                                                                   \
    }
#define ON &r->b->h.k, r->b->h.lane
RUN(norm, slk_cuda_norm(ON, &r->norm, r->rows, SL_F32, SL_BF16))
RUN(act, slk_cuda_act_mul(ON, &r->act, r->rows, SL_BF16, SL_BF16))
RUN(rope, slk_cuda_rope(ON, &r->rope, r->rows, SL_BF16))
RUN(append, slk_cuda_append(ON, &r->append, r->rows, SL_BF16))
RUN(embed, slk_cuda_embed(ON, &r->embed, r->rows, SL_BF16))
RUN(gather, slk_cuda_gather(ON, &r->gather))
RUN(topk, slk_cuda_topk(ON, &r->topk, r->rows))
RUN(sample, slk_cuda_sample(ON, &r->sample, r->rows))
RUN(random, slk_cuda_random(ON, &r->random, SL_BF16))
RUN(merge, slk_cuda_lse_merge(ON, &r->merge))
RUN(move, slk_cuda_move(ON, &r->move, r->move_layer, LAYERS))
RUN(keep, slk_cuda_keep(ON, &r->keep, K))
RUN(pick, slk_cuda_pick(ON, &r->pick, r->rows))
RUN(quantise, slk_cuda_quantise(ON, &r->quantise, r->quantise_layer, QUANTISED, SL_BF16))

/* One case; operations and bytes of a call. */
static void row(rest *r, const char *kernel, sl_status (*run)(void *, int), const char *shape, double bytes,
                double flops) {
    slk_gpu_case c = {.kernel = kernel, .run = run, .arg = r, .bytes = bytes, .flops = flops};
    snprintf(c.shape, sizeof c.shape, "%s", shape);
    slk_gpu_run(r->b, &c);
}

/* The same with one row and with many. */
static void rows(rest *r, const char *kernel, sl_status (*run)(void *, int), const char *shape, double bytes,
                 double flops) {
    static const int counts[] = {1, ROWS};
    for (int i = 0; i < 2; i++) {
        char text[96];
        r->rows = counts[i];
        snprintf(text, sizeof text, "%d %s", counts[i], shape);
        row(r, kernel, run, text, counts[i] * bytes, counts[i] * flops);
    }
}

/* ---- operands ------------------------------------------------------------------------------------------------------
 */

static void make_activations(rest *r, slk_gpu_bench *b) {
    void *x = slk_gpu_random(b, (int64_t)ROWS * E, SL_F32, 1), *y = slt_device(&b->h, (int64_t)ROWS * F * 2);
    char *gate_up = slk_gpu_random(b, (int64_t)ROWS * 2 * F, SL_BF16, 1);
    r->norm = (slk_norm_params){
        .x = x, .w = slk_gpu_random(b, E, SL_F32, 1), .y = y, .ldx = E, .ldy = E, .heads = 1, .n = E, .eps = 1e-5f};
    r->act = (slk_act_mul_params){.gate = gate_up,
                                  .up = gate_up + F * 2,
                                  .y = y,
                                  .ld_gate = 2 * F,
                                  .ld_up = 2 * F,
                                  .ldy = F,
                                  .n = F,
                                  .act = SL_ACT_SILU};
    r->gather = (slk_gather_params){.x = x,
                                    .row = slk_gpu_ints(b, ROWS, 0, 1),
                                    .y = slt_device(&b->h, (int64_t)ROWS * E * 4),
                                    .width = E,
                                    .ldx = E,
                                    .ldy = E,
                                    .n = ROWS};
    r->embed = (slk_embed_params){.table = slk_gpu_random(b, (int64_t)ROWS * E, SL_BF16, 1),
                                  .x = x,
                                  .row_seq = slk_gpu_ints(b, ROWS, 0, 1),
                                  .token = slk_gpu_ints(b, ROWS, 0, 1),
                                  .ld_table = E,
                                  .ldx = E,
                                  .vocab = ROWS,
                                  .n = E};
    r->merge = (slk_lse_merge_params){.o = slk_gpu_random(b, (int64_t)ROWS * H * D, SL_BF16, 1),
                                      .o2 = slk_gpu_random(b, (int64_t)ROWS * H * D, SL_BF16, 1),
                                      .lse = slk_gpu_random(b, ROWS * H, SL_F32, 1),
                                      .lse2 = slk_gpu_random(b, ROWS * H, SL_F32, 1),
                                      .o_row = H * D,
                                      .o_head = D,
                                      .o2_row = H * D,
                                      .o2_head = D,
                                      .rows = ROWS,
                                      .heads = H,
                                      .dim = D};
    r->random = (slk_random_params){.y = b->pool, .n = 1 << 26, .seed = 9, .amplitude = 1};
}

/* ROWS sequences with a new row each behind 1000 and more; page p of sequence s is s PAGES + p. */
static void make_cache(rest *r, slk_gpu_bench *b) {
    char *qkv = slk_gpu_random(b, (int64_t)ROWS * QKV, SL_BF16, 1);
    float position[ROWS];
    for (int i = 0; i < ROWS; i++)
        position[i] = (float)(1000 + i);
    const float *positions = slt_upload(&b->h, position, sizeof position);
    const float *cosines = slk_gpu_random(b, POSITIONS * D / 2, SL_F32, 1),
                *sines = slk_gpu_random(b, POSITIONS * D / 2, SL_F32, 1);
    int32_t *identity = slk_gpu_ints(b, ROWS + 1, 0, 1), *past = slk_gpu_ints(b, ROWS, 1000, 1);
    const int64_t pool = (int64_t)ROWS * PAGES * PAGE_ROWS * KV_ROW;
    char *keys = slk_gpu_random(b, pool / 2, SL_BF16, 1), *values = slk_gpu_random(b, pool / 2, SL_BF16, 1);
    int32_t *pages = slk_gpu_ints(b, ROWS * PAGES, 0, 1);
    r->rope = (slk_rope_params){.x = qkv,
                                .position = positions,
                                .cos = cosines,
                                .sin = sines,
                                .ldx = QKV,
                                .ldx_head = D,
                                .heads = H,
                                .n_rot = D,
                                .n_positions = POSITIONS};
    r->append = (slk_append_params){.q = qkv,
                                    .k = qkv + H * D * 2,
                                    .v = qkv + (H + K) * D * 2,
                                    .ldq = QKV,
                                    .ldq_head = D,
                                    .ldk = QKV,
                                    .ldk_head = D,
                                    .ldv = QKV,
                                    .ldv_head = D,
                                    .cos = cosines,
                                    .sin = sines,
                                    .row_seq = identity,
                                    .seq = identity,
                                    .row_begin = identity,
                                    .n_past = past,
                                    .token_index = past,
                                    .position = positions,
                                    .k_pool = keys,
                                    .v_pool = values,
                                    .pages = pages,
                                    .pages_stride = PAGES,
                                    .k_page_stride = PAGE_ROWS * KV_ROW,
                                    .k_row_stride = KV_ROW,
                                    .k_head_stride = D * 2,
                                    .v_page_stride = PAGE_ROWS * KV_ROW,
                                    .v_row_stride = KV_ROW,
                                    .v_head_stride = D * 2,
                                    .heads = H,
                                    .kv_heads = K,
                                    .k_dim = D,
                                    .v_dim = D,
                                    .rope_dims = D,
                                    .n_positions = POSITIONS,
                                    .page_rows = PAGE_ROWS,
                                    .eps = 1e-5f};
    for (int l = 0; l < LAYERS; l++) /* one pool for all: only the time matters */
        r->move_layer[l] = (slk_move_layer){.k_pool = keys, .v_pool = values, .pages = pages};
    r->move = (slk_move_params){.n_moves = slk_gpu_ints(b, 1, MOVES, 0),
                                .seq = slk_gpu_ints(b, MOVES, 0, 0),
                                .from = slk_gpu_ints(b, MOVES, 1002, 2),
                                .to = slk_gpu_ints(b, MOVES, 1001, 1),
                                .pages_stride = PAGES,
                                .k_page_stride = PAGE_ROWS * KV_ROW,
                                .k_row_stride = KV_ROW,
                                .k_head_stride = D * 2,
                                .v_page_stride = PAGE_ROWS * KV_ROW,
                                .v_row_stride = KV_ROW,
                                .v_head_stride = D * 2,
                                .heads = K,
                                .k_bytes = D * 2,
                                .v_bytes = D * 2,
                                .page_rows = PAGE_ROWS,
                                .max_moves = MOVES};
    int32_t slots[K * 512], begin[K + 1]; /* every other of 1024 rows */
    for (int i = 0; i < K * 512; i++)
        slots[i] = i % 512 * 2;
    for (int i = 0; i <= K; i++)
        begin[i] = i * 512;
    r->keep = (slk_keep_params){.k_pool = keys,
                                .v_pool = values,
                                .pages = pages,
                                .keep_begin = slt_upload(&b->h, begin, sizeof begin),
                                .keep = slt_upload(&b->h, slots, sizeof slots),
                                .k_page_stride = PAGE_ROWS * KV_ROW,
                                .k_row_stride = KV_ROW,
                                .k_head_stride = D * 2,
                                .v_page_stride = PAGE_ROWS * KV_ROW,
                                .v_row_stride = KV_ROW,
                                .v_head_stride = D * 2,
                                .k_bytes = D * 2,
                                .v_bytes = D * 2,
                                .page_rows = PAGE_ROWS};
}

/* A page of keys and one of values of each layer into 4 bits, in groups of 32. */
static void make_codes(rest *r, slk_gpu_bench *b) {
    const int64_t plain = CODE_ROWS * KV_ROW, codes = plain / 4, scales = CODE_ROWS * K * D / 32 * 2;
    const int32_t side[2] = {0, 1};
    for (int l = 0; l < QUANTISED; l++)
        for (int w = 0; w < 2; w++) {
            slk_quantise_layer *layer = &r->quantise_layer[l];
            layer->plain[w] = slk_gpu_random(b, plain / 2, SL_BF16, 1);
            layer->codes[w] = slt_device(&b->h, codes);
            layer->scale[w] = slt_device(&b->h, scales);
            layer->zero[w] = slt_device(&b->h, scales);
        }
    r->quantise = (slk_quantise_params){.seq = slk_gpu_ints(b, 2, 0, 0),
                                        .begin = slk_gpu_ints(b, 2, 0, 0),
                                        .end = slk_gpu_ints(b, 2, CODE_ROWS, 0),
                                        .side = slt_upload(&b->h, side, sizeof side),
                                        .pages = slk_gpu_ints(b, 1, 0, 0),
                                        .plain_pages = slk_gpu_ints(b, 1, 0, 0),
                                        .pages_stride = 1,
                                        .plain_pages_stride = 1,
                                        .n_jobs = 2,
                                        .heads = K,
                                        .page_rows = CODE_ROWS};
    for (int w = 0; w < 2; w++)
        r->quantise.of[w] = (slk_quantise_side){.plain_page = plain,
                                                .plain_row = KV_ROW,
                                                .plain_head = D * 2,
                                                .page = codes,
                                                .row = KV_ROW / 4,
                                                .head = D / 2,
                                                .scale_page = scales,
                                                .scale_group = w == 0 ? K * D * 2 : K * D / 32 * 2,
                                                .dim = D,
                                                .bits = 4,
                                                .group = 32};
}

static void make_logits(rest *r, slk_gpu_bench *b) {
    const slk_sample_row how = {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .u = 0.5};
    const int32_t one = 1, context = 32768, list = 4096;
    r->topk = (slk_topk_params){.x = slk_gpu_random(b, (int64_t)ROWS * VOCAB, SL_F32, 1),
                                .id = slt_device(&b->h, ROWS * 64 * 4),
                                .stride = VOCAB,
                                .n = VOCAB,
                                .k = 1};
    r->sample = (slk_sample_params){.logits = r->topk.x,
                                    .how = slt_upload(&b->h, &how, sizeof how),
                                    .token = r->topk.id,
                                    .stride = VOCAB,
                                    .n = VOCAB};
    r->pick = (slk_pick_params){.scores = slk_gpu_random(b, (int64_t)H * context, SL_F32, 1),
                                .row_seq = slk_gpu_ints(b, 1, 0, 0),
                                .n_past = slk_gpu_ints(b, 1, context, 0),
                                .n_rows = slt_upload(&b->h, &one, 4),
                                .list = slt_device(&b->h, (int64_t)K * list * 4),
                                .list_n = slt_device(&b->h, K * 4),
                                .score_stride = context,
                                .list_stride = list,
                                .budget = list,
                                .all_up_to = list,
                                .heads = H,
                                .groups = K};
}

void slk_gpu_rest(slk_gpu_bench *b) {
    static rest r;
    r = (rest){.b = b};
    if (!b->dry) {
        make_activations(&r, b);
        make_cache(&r, b);
        make_codes(&r, b);
        make_logits(&r, b);
    }
    rows(&r, "norm", run_norm, "x 4096 f32 to bf16", 6.0 * E, 4.0 * E);
    rows(&r, "act_mul", run_act, "x 14336 silu bf16", 6.0 * F, 20.0 * F);
    rows(&r, "rope", run_rope, "x 32 heads of 128 bf16", 4.0 * H * D, 3.0 * H * D);
    rows(&r, "append", run_append, "x 32 and 8 heads of 128", 4.0 * H * D + 8.0 * K * D, 3.0 * (H + K) * D);
    rows(&r, "embed", run_embed, "x 4096 bf16", 6.0 * E, E);
    row(&r, "gather", run_gather, "64 x 4096 f32", 8.0 * ROWS * E, 0);
    row(&r, "lse_merge", run_merge, "64 x 32 heads of 128 bf16", 6.0 * ROWS * H * D, 3.0 * ROWS * H * D);
    r.topk.k = 1;
    rows(&r, "argmax", run_topk, "x 128256", 4.0 * VOCAB, VOCAB);
    r.topk.k = 64;
    rows(&r, "topk", run_topk, "x 128256 k=64", 4.0 * VOCAB, VOCAB);
    r.rows = 1;
    row(&r, "sample", run_sample, "1 x 128256 top_k=50 top_p=0.95", 4.0 * VOCAB, 20.0 * VOCAB);
    row(&r, "pick", run_pick, "4096 of 32768, 32 heads in 8 groups", 4.0 * H * 32768, H * 32768.0);
    row(&r, "move", run_move, "8 rows in 32 layers", 2.0 * 2 * MOVES * KV_ROW * LAYERS, 0);
    row(&r, "keep", run_keep, "512 of 1024 rows, 8 heads of 128", 2.0 * 2 * 512 * KV_ROW, 0);
    row(&r, "quantise", run_quantise, "32 rows of 32 layers, 4 bits g32", 2.0 * 1.3125 * QUANTISED * CODE_ROWS * KV_ROW,
        4.0 * QUANTISED * CODE_ROWS * KV_ROW);
    slk_gpu_case fill = {.kernel = "random",
                         .run = run_random,
                         .arg = &r,
                         .shape = "64 Mi bf16",
                         .bytes = 2.0 * (1 << 26),
                         .flops = 10.0 * (1 << 26),
                         .from_memory = 1,
                         .calls = 4};
    slk_gpu_run(b, &fill);
}
