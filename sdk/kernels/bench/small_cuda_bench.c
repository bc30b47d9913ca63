/* Times of the small device kernels at the shapes of a Llama-3.1-8B decode step: one JSON line each,
 * {"metric": ..., "value": ..., "unit": ...}. Calls are replayed as a graph, as in a step; what a step reads once is
 * rotated over more memory than the L2 holds, what its predecessor has just written is not. */
#include "testhost.h"

#include <stdio.h>
#include <stdlib.h>

#include "sluice/ops.h"

enum { E = 4096, F = 14336, H = 32, K = 8, D = 128, VOCAB = 128256, PAGE_ROWS = 64, CALLS = 64, REPEATS = 21 };
enum { QKV = (H + 2 * K) * D };

static void report(const char *metric, double value, const char *unit) {
    printf("{\"metric\": \"%s\", \"value\": %.3f, \"unit\": \"%s\"}\n", metric, value, unit);
    fflush(stdout);
}

typedef struct bench {
    slt_host *h;
    slk_norm_params norm;
    slk_append_params append;
    slk_act_mul_params act;
    slk_topk_params topk;
    slk_embed_params embed;
    slk_sample_params sample;
    slk_move_params move;
    slk_move_layer layers[32];
    slk_random_params random;
    int64_t rows;
    sl_status status;
} bench;

static void note(bench *b, sl_status s) { b->status = s < 0 ? s : b->status; }

static void run_norm(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_norm(&b->h->k, b->h->lane, &b->norm, b->rows, SL_F32, SL_BF16));
}
static void run_append(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_append(&b->h->k, b->h->lane, &b->append, b->rows, SL_BF16));
}
static void run_act(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_act_mul(&b->h->k, b->h->lane, &b->act, b->rows, SL_BF16, SL_BF16));
}
static void run_topk(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_topk(&b->h->k, b->h->lane, &b->topk, b->rows));
}
static void run_sample(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_sample(&b->h->k, b->h->lane, &b->sample, b->rows));
}
static void run_embed(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_embed(&b->h->k, b->h->lane, &b->embed, b->rows, SL_BF16));
}
static void run_move(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_move(&b->h->k, b->h->lane, &b->move, b->layers, 32));
}
static void run_random(void *user, int i) {
    bench *b = user;
    (void)i;
    note(b, slk_cuda_random(&b->h->k, b->h->lane, &b->random, SL_BF16));
}

static void measure(bench *b, const char *metric, void (*run)(void *, int), int calls) {
    const double us = slt_time_us(b->h, calls, REPEATS, run, b);
    if (b->status < 0) {
        fprintf(stderr, "%s: a launch failed with status %d\n", metric, b->status);
        exit(1);
    }
    report(metric, us, "us");
}

static void *ints(slt_host *h, int64_t n, int32_t (*value)(int64_t i)) {
    int32_t *x = malloc((size_t)n * sizeof *x);
    if (x == NULL)
        exit(1);
    for (int64_t i = 0; i < n; i++)
        x[i] = value(i);
    void *p = slt_upload(h, x, n * 4);
    free(x);
    return p;
}
static int32_t identity(int64_t i) { return (int32_t)i; }
static int32_t past(int64_t i) { return 1000 + (int32_t)i; }
static int32_t zero(int64_t i) { return (int32_t)(i * 0); }
static int32_t eight(int64_t i) { return 8 + (int32_t)(i * 0); }
static int32_t sources(int64_t i) { return 1002 + 2 * (int32_t)i; }
static int32_t targets(int64_t i) { return 1001 + (int32_t)i; }

static void *floats(slt_host *h, int64_t n, uint64_t seed) {
    float *x = malloc((size_t)n * sizeof *x);
    if (x == NULL)
        exit(1);
    slt_random(x, n, seed);
    void *p = slt_upload(h, x, n * 4);
    free(x);
    return p;
}

int main(void) {
    slt_host h;
    char why[512];
    if (slt_open(&h, why, sizeof why) != 0) {
        printf("skipped: %s\n", why);
        return 0;
    }
    fprintf(stderr, "%s\n", h.k.info.name);
    enum { ROWS = 64, PAGES = 32, POSITIONS = 2048 };
    bench b = {.h = &h};
    void *x = floats(&h, (int64_t)ROWS * E, 1), *y = slt_device(&h, (int64_t)ROWS * F * 2);

    b.norm =
        (slk_norm_params){.x = x, .w = floats(&h, E, 2), .y = y, .ldx = E, .ldy = E, .heads = 1, .n = E, .eps = 1e-5f};
    b.rows = 1;
    measure(&b, "norm_4096_rows_1", run_norm, CALLS);
    b.rows = 64;
    measure(&b, "norm_4096_rows_64", run_norm, CALLS);

    /* 64 sequences of one row each; pages of sequence s: [s * PAGES, ...) */
    char *qkv = slt_device(&h, (int64_t)ROWS * QKV * 2);
    slk_random_params fill = {.y = qkv, .n = (int64_t)ROWS * QKV, .seed = 3, .amplitude = 1};
    note(&b, slk_cuda_random(&h.k, h.lane, &fill, SL_BF16));
    const int64_t row = (int64_t)K * D * 2, pool = (int64_t)ROWS * PAGES * PAGE_ROWS * row;
    b.append = (slk_append_params){.q = qkv,
                                   .k = qkv + H * D * 2,
                                   .v = qkv + (H + K) * D * 2,
                                   .ldq = QKV,
                                   .ldq_head = D,
                                   .ldk = QKV,
                                   .ldk_head = D,
                                   .ldv = QKV,
                                   .ldv_head = D,
                                   .cos = floats(&h, POSITIONS * D / 2, 4),
                                   .sin = floats(&h, POSITIONS * D / 2, 5),
                                   .row_seq = ints(&h, ROWS, identity),
                                   .seq = ints(&h, ROWS, identity),
                                   .row_begin = ints(&h, ROWS + 1, identity),
                                   .n_past = ints(&h, ROWS, past),
                                   .token_index = ints(&h, ROWS, past),
                                   .position = slt_device(&h, ROWS * 4),
                                   .k_pool = slt_device(&h, pool),
                                   .v_pool = slt_device(&h, pool),
                                   .pages = ints(&h, ROWS * PAGES, identity),
                                   .pages_stride = PAGES,
                                   .k_page_stride = PAGE_ROWS * row,
                                   .k_row_stride = row,
                                   .k_head_stride = D * 2,
                                   .v_page_stride = PAGE_ROWS * row,
                                   .v_row_stride = row,
                                   .v_head_stride = D * 2,
                                   .heads = H,
                                   .kv_heads = K,
                                   .k_dim = D,
                                   .v_dim = D,
                                   .rope_dims = D,
                                   .n_positions = POSITIONS,
                                   .page_rows = PAGE_ROWS,
                                   .eps = 1e-5f};
    float position[ROWS];
    for (int i = 0; i < ROWS; i++)
        position[i] = (float)(1000 + i);
    slt_write(&h, (void *)(uintptr_t)b.append.position, position, sizeof position);
    b.rows = 1;
    measure(&b, "append_rows_1", run_append, CALLS);
    b.rows = 64;
    measure(&b, "append_rows_64", run_append, CALLS);

    char *gate_up = slt_device(&h, (int64_t)ROWS * 2 * F * 2);
    fill = (slk_random_params){.y = gate_up, .n = (int64_t)ROWS * 2 * F, .seed = 6, .amplitude = 1};
    note(&b, slk_cuda_random(&h.k, h.lane, &fill, SL_BF16));
    b.act = (slk_act_mul_params){.gate = gate_up,
                                 .up = gate_up + F * 2,
                                 .y = y,
                                 .ld_gate = 2 * F,
                                 .ld_up = 2 * F,
                                 .ldy = F,
                                 .n = F,
                                 .act = SL_ACT_SILU};
    b.rows = 1;
    measure(&b, "act_mul_14336_rows_1", run_act, CALLS);
    b.rows = 64;
    measure(&b, "act_mul_14336_rows_64", run_act, CALLS);

    b.topk = (slk_topk_params){.x = floats(&h, (int64_t)ROWS * VOCAB, 7),
                               .id = slt_device(&h, (int64_t)ROWS * 4096 * 4),
                               .stride = VOCAB,
                               .n = VOCAB,
                               .k = 1};
    b.rows = 1;
    measure(&b, "argmax_128256_rows_1", run_topk, CALLS);
    b.rows = 64;
    measure(&b, "argmax_128256_rows_64", run_topk, CALLS);
    b.topk.k = 64;
    b.rows = 1;
    measure(&b, "top_64_of_128256_rows_1", run_topk, CALLS);
    static const struct {
        const char *metric;
        slk_sample_row how;
    } ways[] = {{"sample_128256_temperature", {.temperature = 0.8, .u = 0.5}},
                {"sample_128256_top_p", {.temperature = 0.8, .top_p = 0.95, .u = 0.5}},
                {"sample_128256_top_k_top_p", {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .u = 0.5}}};
    for (int i = 0; i < 3; i++) {
        b.sample = (slk_sample_params){.logits = b.topk.x,
                                       .how = slt_upload(&h, &ways[i].how, sizeof ways[i].how),
                                       .token = b.topk.id,
                                       .stride = VOCAB,
                                       .n = VOCAB};
        measure(&b, ways[i].metric, run_sample, CALLS);
    }
    b.topk.n = 131072, b.topk.stride = 131072, b.topk.k = 4096;
    measure(&b, "top_4096_of_131072_rows_1", run_topk, CALLS);
    b.rows = 32;
    measure(&b, "top_4096_of_131072_rows_32", run_topk, CALLS / 4);

    const int64_t table_rows = 1024;
    char *table = slt_device(&h, table_rows * E * 2);
    fill = (slk_random_params){.y = table, .n = table_rows * E, .seed = 8, .amplitude = 1};
    note(&b, slk_cuda_random(&h.k, h.lane, &fill, SL_BF16));
    b.embed = (slk_embed_params){.table = table,
                                 .x = x,
                                 .row_seq = b.append.row_seq,
                                 .token = ints(&h, ROWS, identity),
                                 .ld_table = E,
                                 .ldx = E,
                                 .vocab = (int32_t)table_rows,
                                 .n = E};
    b.rows = 1;
    measure(&b, "embed_4096_rows_1", run_embed, CALLS);

    for (int l = 0; l < 32; l++) /* one pool for all: only the time matters */
        b.layers[l] = (slk_move_layer){.k_pool = b.append.k_pool, .v_pool = b.append.v_pool, .pages = b.append.pages};
    b.move = (slk_move_params){.n_moves = ints(&h, 1, eight),
                               .seq = ints(&h, 8, zero),
                               .from = ints(&h, 8, sources),
                               .to = ints(&h, 8, targets),
                               .pages_stride = PAGES,
                               .k_page_stride = PAGE_ROWS * row,
                               .k_row_stride = row,
                               .k_head_stride = D * 2,
                               .v_page_stride = PAGE_ROWS * row,
                               .v_row_stride = row,
                               .v_head_stride = D * 2,
                               .heads = K,
                               .k_bytes = D * 2,
                               .v_bytes = D * 2,
                               .page_rows = PAGE_ROWS,
                               .max_moves = 8};
    measure(&b, "move_8_rows_32_layers", run_move, CALLS);

    b.random = (slk_random_params){.n = 1ll << 30, .y = slt_device(&h, 2ll << 30), .seed = 9, .amplitude = 0.02f};
    const double us = slt_time_us(&h, 2, 5, run_random, &b);
    report("random_bf16_gigabytes_a_second", (double)b.random.n * 2 / 1000 / us, "GB/s");
    slt_close(&h);
    return b.status < 0;
}
