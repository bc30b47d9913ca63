/* See linear_cuda.h. */
#include "slk_cuda.h"

#include <string.h>

#include "sl_error.h"

/* Integers without zeros, whose groups and K are whole chunks, have kernels of their own, with smaller entries of
 * scales.
 */
enum { INT8_PLAIN = SLK_LINEAR_E4M3 + 1, INT4_PLAIN };

/* Kernels of a kind by tile: 16 or 32 rows of w; one, 8 or 16 rows of x. Bytes of a stage: for 16 rows of w, 8 of x,
 * scales. 0: there is none. */
#define KERNEL(name) SLK_CUDA_linear_##name + 1
static const struct {
    int kernel[2][3];
    int w, x, scales;
} kinds[] = {
    [SLK_LINEAR_BF16] = {{{0, KERNEL(bf16_1x8), 0}, {0, KERNEL(bf16_2x8), KERNEL(bf16_2x16)}}, 2048, 1024, 0},
    [SLK_LINEAR_F16] = {{{0}, {0, KERNEL(f16_2x8), KERNEL(f16_2x16)}}, 2048, 1024, 0},
    [SLK_LINEAR_F32] = {{{0, KERNEL(f32_1x8), KERNEL(f32_1x16)}, {0}}, 4096, 1024, 0},
    [SLK_LINEAR_E4M3] = {{{0, KERNEL(e4m3_1x8), 0}, {0, KERNEL(e4m3_2x8), KERNEL(e4m3_2x16)}}, 1024, 512, 0},
#define INTEGERS(name, w, scales)                                                                                      \
    { {{KERNEL(name##_1x1), KERNEL(name##_1x8), 0}, {KERNEL(name##_2x1), KERNEL(name##_2x8), 0}}, w, 2048, scales }
    [SLK_LINEAR_INT8] = INTEGERS(int8, 2048, 256),
    [SLK_LINEAR_INT4] = INTEGERS(int4, 1024, 256),
    [INT8_PLAIN] = INTEGERS(int8_plain, 2048, 32),
    [INT4_PLAIN] = INTEGERS(int4_plain, 1024, 32),
};

enum { ONE, EIGHT, SIXTEEN };

/* As struct ring of linear_body.cuh has it. */
static uint32_t shared_bytes(int kind, int wide, int rows) {
    const int mt = 1 + wide, nt = rows == SIXTEEN ? 2 : 1, x = rows == ONE ? kinds[kind].x / 8 : nt * kinds[kind].x;
    const int stage = mt * (kinds[kind].w + kinds[kind].scales) + x;
    const int ring = rows != ONE                          ? SLK_LINEAR_RING
                     : kinds[kind].scales == 0 || mt == 2 ? SLK_LINEAR_RING_ONE
                                                          : SLK_LINEAR_RING_ONE_PACKED;
    const int stages = SLK_LINEAR_STAGES(stage, ring);
    return (uint32_t)(SLK_LINEAR_WARPS * stages * stage + mt * nt * 4096);
}

static int is_aligned(const void *p, uintptr_t to) { return (uintptr_t)p % to == 0; }

static int fits(int kind, const slk_linear_params *p) {
    const int64_t piece = kind == SLK_LINEAR_F32 ? 4 : 8;
    if (p->t < 0 || p->n < 1 || p->k < 1 || !is_aligned(p->x, 16) || !is_aligned(p->w, 16))
        return 0;
    if (kind == SLK_LINEAR_E4M3)
        return p->ldx % 16 == 0 && p->ldx >= p->k && p->ldw % 16 == 0 && p->ldw >= p->k && p->x_scale != NULL &&
               p->scale != NULL;
    if (p->k % 8 != 0 || p->ldx % 8 != 0)
        return 0;
    return kind <= SLK_LINEAR_F32 ? p->ldw % piece == 0 : p->group > 0 && p->group % 32 == 0 && is_aligned(p->scale, 8);
}

/* What kernels know of groups; whether entries of scales are the small ones. */
static int fill_groups(slk_linear_params *p) {
    const uint32_t units = (uint32_t)p->group / 32;
    p->groups = (p->k + p->group - 1) / p->group;
    p->fine = p->groups > 1 && p->group % SLK_LINEAR_CHUNK_PACKED != 0;
    p->magic = ((1u << 31) + units - 1) / units;
    return !p->fine && !p->asym && p->k % SLK_LINEAR_CHUNK_PACKED == 0 && is_aligned(p->scale, 16);
}

sl_status slk_cuda_linear(const slk_cuda *k, const sl_lane *lane, int kind, const slk_linear_params *given) {
    slk_linear_params p = *given;
    if (!fits(kind, &p))
        return SL_E_INVALID;
    if ((p.act_mul && (kind == SLK_LINEAR_F32 ||
                       ((kind == SLK_LINEAR_INT8 || kind == SLK_LINEAR_INT4) && p.n % SLK_LINEAR_TILE != 0))) ||
        (kind == SLK_LINEAR_E4M3 && k->info.arch < 890))
        return SL_E_UNIMPLEMENTED;
    if (p.t == 0)
        return SL_OK;
    /* Narrow tiles where wide ones would leave multiprocessors without work, and where x is short beside w. */
    const int integers = kind == SLK_LINEAR_INT8 || kind == SLK_LINEAR_INT4;
    const int narrow = (p.n + SLK_LINEAR_TILE - 1) / SLK_LINEAR_TILE;
    const int rows = p.t == 1 && kinds[kind].kernel[0][ONE] != 0 ? ONE : p.t <= 8 || integers ? EIGHT : SIXTEEN;
    int wide = p.act_mul || rows == SIXTEEN || narrow > 8 * k->info.n_processors;
    if (kinds[kind].kernel[wide][rows] == 0)
        wide = !wide;
    p.pair = p.act_mul ? p.n : SLK_LINEAR_TILE;
    p.blocks = rows == SIXTEEN ? (p.t + 15) / 16 : (p.t + 7) / 8;
    p.tiles = (p.act_mul || !wide ? narrow : (narrow + 1) / 2) * p.blocks;
    const int round = (integers ? SLK_LINEAR_CHUNK_PACKED : SLK_LINEAR_CHUNK) * SLK_LINEAR_WARPS;
    p.steps = (p.k + round - 1) / round;
    if (integers && fill_groups(&p))
        kind = kind == SLK_LINEAR_INT8 ? INT8_PLAIN : INT4_PLAIN;
    const int four_bits = kind == SLK_LINEAR_INT4 || kind == INT4_PLAIN;
    const int resident = (rows != ONE ? 2 : !wide ? (integers ? 4 : 3) : four_bits ? 3 : 2) * k->info.n_processors;
    const slk_cuda_grid grid = {.x = (uint32_t)(p.tiles < resident ? p.tiles : resident),
                                .y = 1,
                                .z = 1,
                                .threads = SLK_LINEAR_WARPS * 32,
                                .shared = shared_bytes(kind, wide, rows),
                                .dependent = 1};
    return slk_cuda_launch(k, lane, kinds[kind].kernel[wide][rows] - 1, &p, sizeof p, grid);
}

sl_status slk_cuda_linear_one(const slk_cuda *k, const sl_lane *lane, int kind, const slk_linear_params *given) {
    enum { ROUND = SLK_LINEAR_CHUNK_PACKED * SLK_LINEAR_ONE_WARPS };
    slk_linear_params p = *given;
    if (kind != SLK_LINEAR_INT4)
        return SL_E_UNIMPLEMENTED;
    if (!fits(kind, &p))
        return SL_E_INVALID;
    if (p.t > 1 || (p.act_mul && p.n % SLK_LINEAR_TILE != 0) || !fill_groups(&p))
        return SL_E_UNIMPLEMENTED;
    if (p.t == 0)
        return SL_OK;
    const int outputs = p.act_mul ? SLK_LINEAR_TILE : 2 * SLK_LINEAR_TILE;
    p.pair = p.act_mul ? p.n : SLK_LINEAR_TILE;
    p.tiles = (p.n + outputs - 1) / outputs;
    p.blocks = 1;
    p.steps = (p.k + ROUND - 1) / ROUND;
    /* Two blocks a multiprocessor. */
    const uint32_t most = 2 * (uint32_t)k->info.n_processors,
                   blocks = (uint32_t)p.tiles < most ? (uint32_t)p.tiles : most;
    const uint32_t row_codes = (uint32_t)p.k / SLK_LINEAR_CHUNK_PACKED * 1024, row_scales = (uint32_t)p.groups * 32;
    const uint32_t pair = (uint32_t)p.pair / SLK_LINEAR_TILE, tile = p.act_mul ? 1 : 2;
    if ((int64_t)row_codes * ((p.act_mul ? 2 * (int64_t)p.n : p.n) / SLK_LINEAR_TILE + 1) > INT32_MAX)
        return SL_E_UNIMPLEMENTED;
    const slk_linear_one_params a = {.p = p,
                                     .chunks = (uint32_t)p.k / SLK_LINEAR_CHUNK_PACKED,
                                     .tile_codes = tile * row_codes,
                                     .tile_scales = tile * row_scales,
                                     .pair_codes = pair * row_codes,
                                     .pair_scales = pair * row_scales,
                                     .jump_codes = blocks * tile * row_codes - (uint32_t)p.steps * (ROUND * 8),
                                     .jump_scales = blocks * tile * row_scales};
    const slk_cuda_grid grid = {.x = blocks,
                                .y = 1,
                                .z = 1,
                                .threads = SLK_LINEAR_ONE_WARPS * 32,
                                .shared = SLK_LINEAR_ONE_SHARED,
                                .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_linear_int4_one, &a, sizeof a, grid);
}

/* Boxes of 64 rows and 64 inputs, with the swizzle that tensor cores read. */
static sl_status map_of(const slk_cuda *k, const sl_lane *lane, const void *data, int64_t rows, int64_t width,
                        int64_t ld, slk_tensor_map *out) {
    const uint32_t box[2] = {64, 64};
    const sl_tensor matrix = {.struct_size = SL_SIZE(sl_tensor),
                              .data = (void *)(uintptr_t)data,
                              .shape = {rows, width},
                              .stride = {ld, 1},
                              .align = 16,
                              .dtype = SL_BF16,
                              .ndim = 2,
                              .device = SL_DEVICE_CUDA};
    sl_tensor_map map = {.struct_size = SL_SIZE(sl_tensor_map)};
    SL_ERROR(err);
    SL_TRY(k->exec->tensor_map(k->host, lane, &matrix, box, 128, &map, &err));
    memcpy(out->opaque, map.opaque, sizeof out->opaque);
    return SL_OK;
}

sl_status slk_cuda_linear_batch(const slk_cuda *k, const sl_lane *lane, const slk_linear_params *given) {
    enum { SLAB = 64, MOST_SPLITS = 4 };
    slk_linear_batch_params a;
    slk_linear_params p = *given;
    if (!fits(SLK_LINEAR_BF16, &p))
        return SL_E_INVALID;
    if (p.t > SLK_LINEAR_BATCH_ROWS || k->function[SLK_CUDA_linear_batch] == NULL)
        return SL_E_UNIMPLEMENTED;
    if (p.t == 0)
        return SL_OK;
    /* Two blocks a multiprocessor, as far as a cluster goes; nothing here knows of rows. */
    const int outputs = p.act_mul ? 64 : 128, slabs = (p.k + SLAB - 1) / SLAB;
    p.tiles = (p.n + outputs - 1) / outputs;
    p.blocks = MOST_SPLITS;
    while (p.blocks > 1 && p.blocks * p.tiles > 2 * k->info.n_processors)
        p.blocks /= 2;
    p.steps = (slabs + p.blocks - 1) / p.blocks;
    while (p.blocks > 1 && (p.blocks - 1) * p.steps >= slabs) { /* a block without work */
        p.blocks /= 2;
        p.steps = (slabs + p.blocks - 1) / p.blocks;
    }
    const slk_cuda_grid grid = {.x = (uint32_t)(p.tiles * p.blocks),
                                .y = 1,
                                .z = 1,
                                .threads = 288,
                                .shared = SLK_LINEAR_BATCH_SHARED,
                                .dependent = 1,
                                .cluster = p.blocks > 1 ? (uint32_t)p.blocks : 0};
    SL_TRY(map_of(k, lane, p.w, p.act_mul ? 2 * (int64_t)p.n : p.n, p.k, p.ldw, &a.w));
    SL_TRY(map_of(k, lane, p.x, p.t, p.k, p.ldx, &a.x));
    a.p = p;
    return slk_cuda_launch(k, lane, SLK_CUDA_linear_batch, &a, sizeof a, grid);
}

sl_status slk_cuda_finish(const slk_cuda *k, const sl_lane *lane, int in_bf16, int y_bf16,
                          const slk_finish_params *given) {
    slk_finish_params p = *given;
    if (in_bf16 && !y_bf16)
        return SL_E_INVALID;
    p.eights = p.col_scale == NULL && p.n % 8 == 0 && p.ldi % 8 == 0 && p.ldy % 8 == 0 && is_aligned(p.in, 16) &&
               is_aligned(p.y, 16) && is_aligned(p.bias, 16) &&
               (p.residual == NULL || (p.ldr % 4 == 0 && is_aligned(p.residual, 16)));
    const int32_t threads = 256, width = p.eights ? p.n / 8 : p.n;
    const slk_cuda_grid grid = {.x = (uint32_t)((width + threads - 1) / threads),
                                .y = (uint32_t)(p.t < 32768 ? p.t : 32768),
                                .z = 1,
                                .threads = (uint32_t)threads,
                                .dependent = 1};
    return slk_cuda_launch(k, lane,
                           in_bf16  ? SLK_CUDA_finish_bf16_bf16
                           : y_bf16 ? SLK_CUDA_finish_f32_bf16
                                    : SLK_CUDA_finish_f32_f32,
                           &p, sizeof p, grid);
}

sl_status slk_cuda_widen(const slk_cuda *k, const sl_lane *lane, const slk_widen_params *p) {
    if (p->bits >= 16) {
        const slk_cuda_grid rows = {.x = (uint32_t)p->rows, .y = 1, .z = 1, .threads = 256, .dependent = 1};
        return slk_cuda_launch(k, lane, p->bits == 16 ? SLK_CUDA_widen_f16 : SLK_CUDA_widen_f32, p, sizeof *p, rows);
    }
    if (p->row % SLK_LINEAR_TILE != 0 || p->k % 8 != 0 || !is_aligned(p->out, 16))
        return SL_E_INVALID;
    const uint32_t chunks = (uint32_t)(p->k + SLK_LINEAR_CHUNK - 1) / SLK_LINEAR_CHUNK;
    const slk_cuda_grid tiles = {.x = (chunks + 7) / 8,
                                 .y = (uint32_t)(p->rows + SLK_LINEAR_TILE - 1) / SLK_LINEAR_TILE,
                                 .z = 1,
                                 .threads = 256,
                                 .dependent = 1};
    return slk_cuda_launch(k, lane, p->bits == 8 ? SLK_CUDA_widen_int8 : SLK_CUDA_widen_int4, p, sizeof *p, tiles);
}

sl_status slk_cuda_e4m3_rows(const slk_cuda *k, const sl_lane *lane, const slk_e4m3_rows_params *p) {
    if (k->info.arch < 890)
        return SL_E_UNIMPLEMENTED;
    if (p->ldy % 16 != 0 || p->k % 8 != 0 || p->ldx % 8 != 0 || !is_aligned(p->x, 16) || !is_aligned(p->y, 8))
        return SL_E_INVALID;
    const slk_cuda_grid grid = {.x = (uint32_t)p->t, .y = 1, .z = 1, .threads = 512, .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_e4m3_rows, p, sizeof *p, grid);
}

sl_status slk_cuda_stream_read(const slk_cuda *k, const sl_lane *lane, const slk_stream_params *p) {
    const slk_cuda_grid grid = {.x = (uint32_t)k->info.n_processors * 4, .y = 1, .z = 1, .threads = 512};
    return slk_cuda_launch(k, lane, SLK_CUDA_stream_read, p, sizeof *p, grid);
}
