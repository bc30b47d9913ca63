/* See attend_few_cuda.h. */
#include "slk_cuda.h"

#include <string.h>

typedef struct few_variant {
    int32_t dim, tiles; /* heads up to this size; tiles of 16 rows a block */
    int kernel, any;
    uint32_t shared;
    int32_t blocks; /* that share a multiprocessor */
} few_variant;

#define SHARED_(kernel, params, shared, cluster, image) SHARED_##kernel = (shared),
enum { SLK_ATTEND_FEW_KERNELS(SHARED_) SHARED_none_ };
#undef SHARED_

#define VARIANT(d, t, blocks)                                                                                          \
    { d, t, SLK_CUDA_attend_few_##d##_##t, SLK_CUDA_attend_few_any_##d##_##t, SHARED_attend_few_##d##_##t, blocks }
static const few_variant variants[] = {
    VARIANT(64, 1, 2),  VARIANT(64, 4, 1),  VARIANT(128, 1, 2),
    VARIANT(128, 2, 1), VARIANT(256, 1, 1), VARIANT(256, 2, 1),
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t splits_of(int64_t tokens) {
    return tokens <= 0 ? 1 : slk_few_split_of((int32_t)((tokens - 1) / SLK_FEW_TILE)) + 1;
}

static int64_t part_bytes(int64_t rows, int64_t heads, int64_t splits, int64_t dim) {
    return rows * heads * splits * (dim + 2) * (int64_t)sizeof(float);
}

static int64_t ml_bytes(int64_t rows, int64_t heads, int64_t splits) {
    return up(rows * heads * splits * 2 * (int64_t)sizeof(float), 256) * 256;
}

int64_t slk_cuda_attend_few_workspace(int64_t max_rows, int64_t max_context, int64_t heads, int64_t head_dim) {
    /* Many rows fill the device without sharing their keys: what splits of 128 rows take is enough. */
    int64_t lse = max_rows * heads * (int64_t)sizeof(float) + 256;
    return lse + part_bytes(least(max_rows, 128), heads, splits_of(max_context), head_dim) + 256;
}

static const few_variant *variant_of(int64_t dim, int64_t matrix_rows) {
    const few_variant *last = NULL;
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
        if (variants[i].dim >= dim && (last == NULL || variants[i].dim == last->dim)) {
            last = &variants[i];
            if (matrix_rows <= 16)
                break;
        }
    return last;
}

static int side_of(slk_side_device *s, int32_t dim, sl_dtype dtype, int32_t bits, int32_t group, uint32_t axis,
                   uint32_t zero_is_min) {
    s->bits = bits;
    s->zero_is_min = zero_is_min != 0;
    s->group = group;
    s->per_channel = axis == SL_QUANT_PER_CHANNEL;
    s->group_shift = -1;
    for (int32_t i = 0; i < 31; i++)
        if (group == (int32_t)1 << i)
            s->group_shift = i;
    if (bits > 0) {
        s->kind = SLK_SIDE_CODES;
        s->row_bytes = dim * bits / 8;
        s->raw = (int32_t)up(s->row_bytes, 16) * 16;
        const int64_t all = (int64_t)(intptr_t)s->pool | s->page_stride | s->row_stride | s->head_stride | s->row_bytes;
        s->piece = all % 16 == 0 ? 16 : all % 8 == 0 ? 8 : all % 4 == 0 ? 4 : 1;
        return (bits == 1 || bits == 2 || bits == 4 || bits == 8) && group > 0 && (s->per_channel || group % 8 == 0) &&
               s->scale != NULL && (!zero_is_min || s->zero != NULL);
    }
    s->kind = dtype == SL_BF16 ? SLK_SIDE_BF16 : dtype == SL_F16 ? SLK_SIDE_F16 : SLK_SIDE_F32;
    return dtype == SL_BF16 || dtype == SL_F16 || dtype == SL_F32;
}

/* Rows are read 8 channels at a time: bytes of that. */
static int aligned(const slk_side_device *s) {
    int64_t by = s->kind == SLK_SIDE_CODES ? s->bits : 16;
    return ((int64_t)(intptr_t)s->pool | s->page_stride | s->row_stride | s->head_stride) % by == 0;
}

/* How many blocks share the keys of a row: enough to fill the device, in waves that end together. */
static int32_t shares_of(const slk_cuda *k, int64_t others, int64_t per_processor, int64_t most) {
    int64_t slots = k->info.n_processors * per_processor, best = 1;
    double best_score = -1;
    if (others >= 2 * slots || most <= 1)
        return 1;
    for (int64_t waves = 1; waves <= 8; waves++) {
        int64_t shares = least(most, slots * waves / others);
        if (shares < 1)
            continue;
        int64_t blocks = shares * others;
        double score = (double)blocks / (double)(up(blocks, slots) * slots) - 0.004 * (double)waves;
        if (score > best_score) {
            best_score = score;
            best = shares;
        }
    }
    return (int32_t)best;
}

/* Is it the packed or the tall kernel's? Those know no windows. */
static int is_matrix(const slk_attend_few_params *p, int64_t rows) {
    return p->k.kind == SLK_SIDE_BF16 && p->v.kind == SLK_SIDE_BF16 && p->n_coded == NULL && p->head_dim > 64 &&
           p->head_dim <= 128 && p->window == 0 && p->scores == NULL && !p->per_row && p->group <= SLK_PACKED_ROWS &&
           rows * p->group > 32;
}

/* Clusters of blocks share the keys of a block of rows; as many as fill the device, up to eight in one cluster. */
static sl_status packed(const slk_cuda *k, const sl_lane *lane, slk_attend_few_params *p, const sl_step_device *step,
                        int64_t rows, int64_t bound, int64_t room) {
    p->row_block = (int32_t)least(SLK_PACKED_ROWS / p->group, rows);
    p->row_blocks = (int32_t)up(rows, p->row_block);
    const int64_t blocks = (int64_t)p->kv_heads * step->max_seqs * p->row_blocks;
    const int64_t each = least(k->info.n_processors / blocks, up(bound, SLK_PACKED_KEYS));
    p->cluster = each >= 8 ? 8 : each >= 4 ? 4 : each >= 2 ? 2 : 1;
    p->max_splits = (int32_t)least(each / p->cluster, room);
    if (p->cluster < 8 || p->max_splits < 1)
        p->max_splits = 1;
    p->shares = p->cluster * p->max_splits;
    slk_cuda_grid grid = {.x = (uint32_t)p->shares,
                          .y = (uint32_t)p->kv_heads,
                          .z = (uint32_t)(step->max_seqs * p->row_blocks),
                          .threads = 384,
                          .shared = SLK_PACKED_SHARED,
                          .dependent = 1,
                          .cluster = (uint32_t)p->cluster};
    return slk_cuda_launch(k, lane, SLK_CUDA_attend_packed_128, p, sizeof *p, grid);
}

static sl_status launch_tall(const slk_cuda *k, const sl_lane *lane, const slk_attend_few_params *p, int64_t blocks) {
    slk_cuda_grid grid = {.x = (uint32_t)p->shares,
                          .y = (uint32_t)p->kv_heads,
                          .z = (uint32_t)blocks,
                          .threads = 2 * SLK_TALL_ROWS,
                          .shared = SLK_TALL_SHARED,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_attend_tall_128, p, sizeof *p, grid);
}

static sl_status join(const slk_cuda *k, const sl_lane *lane, const slk_attend_few_params *p, int64_t rows) {
    slk_cuda_grid grid = {.x = (uint32_t)rows, .y = (uint32_t)p->heads, .z = 1, .threads = 256, .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_attend_few_join, p, sizeof *p, grid);
}

static sl_status supported(const sl_attend *a) {
    const sl_view_device *v = a->view != NULL ? a->view->device : NULL;
    const sl_mask *m = a->mask;
    if (v == NULL || a->rows->batch->device == NULL || a->rows->index != NULL || a->head_masks != NULL)
        return SL_E_UNIMPLEMENTED;
    if (m != NULL && (m->interval != NULL || m->n_spans > 0 || m->base != SL_MASK_CAUSAL))
        return SL_E_UNIMPLEMENTED;
    if (a->q.dtype != SL_BF16 || (a->o.dtype != SL_BF16 && a->o.dtype != SL_F32) || v->k_dim != v->v_dim ||
        v->k_dim % 8 != 0)
        return SL_E_UNIMPLEMENTED;
    if (a->q.shape[1] % v->n_heads != 0 || a->q.shape[2] != v->k_dim || a->q.stride[2] != 1 || a->o.stride[2] != 1)
        return SL_E_INVALID;
    if (((int64_t)(intptr_t)a->q.data | a->q.stride[0] * 2 | a->q.stride[1] * 2) % 16 != 0 ||
        ((int64_t)(intptr_t)a->o.data | a->o.stride[0] * 2 | a->o.stride[1] * 2) % 16 != 0)
        return SL_E_INVALID;
    if (v->page_rows <= 0 || (v->page_rows & (v->page_rows - 1)) != 0 || (v->list != NULL && v->list_n == NULL))
        return SL_E_INVALID;
    const int64_t sinks = SL_HAS(m, sl_mask, window_first) ? m->sinks : 0;
    if ((sinks > 0 || v->heads != NULL) &&
        (v->k_dtype != SL_BF16 || v->v_dtype != SL_BF16 || v->k_bits > 0 || v->v_bits > 0 || v->list != NULL ||
         v->n_rows != NULL || (a->want & (SL_WANT_SCORES | SL_WANT_COLSUM))))
        return SL_E_UNIMPLEMENTED;
    return SL_OK;
}

static sl_status fill_plain(slk_attend_few_params *p, const sl_view_device *v) {
    const sl_view_device *r = v->plain;
    p->plain_pages = r->pages;
    p->plain_pages_stride = r->pages_stride;
    p->plain_pages_head_stride = r->pages_head_stride;
    p->n_coded = v->n_coded;
    p->plain_k = (slk_side_device){.pool = r->k_pool,
                                   .page_stride = r->k_page_stride,
                                   .row_stride = r->k_row_stride,
                                   .head_stride = r->k_head_stride};
    p->plain_v = (slk_side_device){.pool = r->v_pool,
                                   .page_stride = r->v_page_stride,
                                   .row_stride = r->v_row_stride,
                                   .head_stride = r->v_head_stride};
    if (r->k_bits != 0 || r->v_bits != 0 || v->heads != NULL || r->heads != NULL ||
        !side_of(&p->plain_k, r->k_dim, r->k_dtype, 0, 0, 0, 0) ||
        !side_of(&p->plain_v, r->v_dim, r->v_dtype, 0, 0, 0, 0))
        return SL_E_UNIMPLEMENTED;
    return v->n_coded != NULL && r->page_rows == v->page_rows && r->n_heads == v->n_heads && r->k_dim == v->k_dim &&
                   r->v_dim == v->v_dim && aligned(&p->plain_k) && aligned(&p->plain_v)
               ? SL_OK
               : SL_E_INVALID;
}

static sl_status fill(slk_attend_few_params *p, const sl_attend *a) {
    const sl_view_device *v = a->view->device;
    const sl_step_device *step = a->rows->batch->device;
    *p = (slk_attend_few_params){
        .q = a->q.data,
        .o = a->o.data,
        .lse = a->lse,
        .scores = (a->want & SL_WANT_SCORES) ? a->scores : NULL,
        .row_scale = a->row_scale,
        .q_row = a->q.stride[0],
        .q_head = a->q.stride[1],
        .o_row = a->o.stride[0],
        .o_head = a->o.stride[1],
        .score_stride = a->score_stride,
        .window = a->mask != NULL ? a->mask->window : 0,
        .head_places = v->heads,
        .n_seqs = step->n_seqs,
        .seq = step->seq,
        .row_begin = step->row_begin,
        .n_past = step->n_past,
        .is_tree = (step->stages & SL_STAGE_VERIFY) ? step->is_tree : NULL,
        .row_seq = step->row_seq,
        .ancestors = step->ancestors,
        .pages = v->pages,
        .n_rows = v->n_rows,
        .list = v->list,
        .list_n = v->list_n,
        .pages_stride = v->pages_stride,
        .pages_head_stride = v->pages_head_stride,
        .n_rows_stride = v->n_rows_stride,
        .n_rows_head_stride = v->n_rows_head_stride,
        .list_stride = v->list_stride,
        .k = {.pool = v->k_pool,
              .scale = v->k_scale,
              .zero = v->k_zero,
              .page_stride = v->k_page_stride,
              .row_stride = v->k_row_stride,
              .head_stride = v->k_head_stride,
              .scale_page_stride = v->scale_page_stride_k,
              .scale_stride = v->scale_stride_k},
        .v = {.pool = v->v_pool,
              .scale = v->v_scale,
              .zero = v->v_zero,
              .page_stride = v->v_page_stride,
              .row_stride = v->v_row_stride,
              .head_stride = v->v_head_stride,
              .scale_page_stride = v->scale_page_stride_v,
              .scale_stride = v->scale_stride_v},
        .scale = (float)a->scale,
        .softcap = (float)a->softcap,
        .heads = (int32_t)a->q.shape[1],
        .kv_heads = v->n_heads,
        .group = (int32_t)(a->q.shape[1] / v->n_heads),
        .n_groups = v->n_groups,
        .per_row = v->list != NULL && v->per_row != 0,
        .o_f32 = a->o.dtype == SL_F32,
        .head_dim = v->k_dim,
    };
    if (SL_HAS(a->mask, sl_mask, window_first)) {
        p->sinks = a->mask->sinks;
        p->window_chunk = a->mask->window_chunk;
        p->window_first = (int32_t)a->mask->window_first;
    }
    while ((1 << p->page_shift) < v->page_rows)
        p->page_shift++;
    if (!side_of(&p->k, v->k_dim, v->k_dtype, v->k_bits, v->k_group, v->k_axis, v->zero_is_min) ||
        !side_of(&p->v, v->v_dim, v->v_dtype, v->v_bits, v->v_group, v->v_axis, v->zero_is_min))
        return SL_E_UNIMPLEMENTED;
    if (v->plain != NULL) {
        sl_status s = fill_plain(p, v);
        if (s != SL_OK)
            return s;
    }
    return aligned(&p->k) && aligned(&p->v) ? SL_OK : SL_E_INVALID;
}

static sl_status colsum(const slk_cuda *k, const sl_lane *lane, const sl_attend *a, slk_attend_few_params *p) {
    const sl_step_device *step = a->rows->batch->device;
    p->colsum = a->colsum;
    p->colsum_weight = a->colsum_weight;
    p->colsum_apart = a->colsum_heads != 0 && a->colsum_heads != p->kv_heads;
    p->colsum_per_row = a->colsum_per_row != 0;
    slk_cuda_grid grid = {.x = (uint32_t)up(a->score_stride, 64),
                          .y = (uint32_t)p->kv_heads,
                          .z = (uint32_t)(p->colsum_per_row ? step->max_rows : step->max_seqs),
                          .threads = 256,
                          .dependent = 1};
    return slk_cuda_launch(k, lane, SLK_CUDA_attend_few_colsum, p, sizeof *p, grid);
}

static sl_status launch(const slk_cuda *k, const sl_lane *lane, const few_variant *variant,
                        const slk_attend_few_params *p, int64_t blocks) {
    const int any = p->k.kind != SLK_SIDE_BF16 || p->v.kind != SLK_SIDE_BF16 || p->n_coded != NULL;
    slk_cuda_grid grid = {.x = p->tails ? 1 : (uint32_t)p->shares,
                          .y = (uint32_t)p->kv_heads,
                          .z = (uint32_t)blocks,
                          .threads = (uint32_t)(128 * variant->tiles),
                          .shared = variant->shared,
                          .dependent = 1};
    if (any) { /* bf16 rows of one tile, queries, sums, what splits come to; codes of some tiles */
        const int32_t d = variant->dim, tiles = variant->tiles, stages = d < 256 ? 4 : tiles == 1 ? 3 : 2;
        grid.shared = (uint32_t)(256 * d + 32 * tiles * d + 8192 * tiles + (tiles > 1 || d > 128 ? 64 * tiles * d : 0) +
                                 stages * 4 * 16 * (p->k.raw + p->v.raw));
    }
    return slk_cuda_launch(k, lane, any ? variant->any : variant->kernel, p, sizeof *p, grid);
}

sl_status slk_cuda_attend_few(const slk_cuda *k, const sl_lane *lane, const sl_attend *a, void *workspace,
                              int64_t workspace_bytes) {
    slk_attend_few_params p;
    sl_status s = supported(a);
    if (s == SL_OK)
        s = fill(&p, a);
    if (s != SL_OK)
        return s;
    const sl_step_device *step = a->rows->batch->device;
    const sl_view_device *v = a->view->device;
    int64_t rows = p.per_row ? 1 : step->max_seq_rows;
    const few_variant *variant = variant_of(v->k_dim, rows * p.group);
    if (variant == NULL || p.group > 16 * variant->tiles)
        return SL_E_UNIMPLEMENTED;
    int64_t dim = v->k_dim, bound = v->list != NULL ? v->list_stride + step->max_seq_rows : step->max_context;

    /* lse of its own for the column sums, then the splits */
    char *at = workspace;
    int want_colsum = (a->want & SL_WANT_COLSUM) && a->colsum != NULL;
    int64_t lse_bytes = up((int64_t)step->max_rows * p.heads * (int64_t)sizeof(float), 256) * 256;
    if (want_colsum && p.lse == NULL) {
        if (workspace_bytes < lse_bytes)
            return SL_E_NO_MEMORY;
        p.lse = (float *)(void *)at;
        at += lse_bytes;
        workspace_bytes -= lse_bytes;
    }
    const int64_t room = (workspace_bytes - 256) / part_bytes(step->max_rows, p.heads, 1, dim); /* splits that fit */
    p.early = SL_HAS(v, sl_view_device, settled) && v->settled && p.list == NULL && p.k.kind == SLK_SIDE_BF16 &&
              p.v.kind == SLK_SIDE_BF16;
    p.part_ml = (float *)(void *)at;
    const int matrix = is_matrix(&p, rows);
    if (matrix && !k->deterministic && k->function[SLK_CUDA_attend_packed_128] != NULL) {
        if (rows * step->max_seqs == 0)
            return SL_OK;
        p.part_o = (float *)(void *)(at + ml_bytes(step->max_rows, p.heads, least(room, SLK_FEW_MAX_SPLITS)));
        s = packed(k, lane, &p, step, rows, bound, room);
        if (s == SL_OK && p.max_splits > 1)
            s = join(k, lane, &p, step->max_rows);
        return s == SL_OK && want_colsum ? colsum(k, lane, a, &p) : s;
    }
    int64_t splits = splits_of(bound), tiles = up(bound, SLK_FEW_TILE);
    const int tall = matrix && k->deterministic && room >= splits && splits > 1;
    p.row_block = p.per_row ? 1 : (int32_t)least((tall ? SLK_TALL_ROWS : 16 * variant->tiles) / p.group, rows);
    p.row_blocks = (int32_t)up(step->max_seq_rows, p.row_block);
    /* Heads that see little are done at once: the others fill the device. */
    const int64_t long_heads = v->heads != NULL && p.window > 0 ? p.kv_heads - (int64_t)v->n_windowed : p.kv_heads;
    int64_t others = (long_heads > 0 ? long_heads : p.kv_heads) * step->max_seqs * p.row_blocks;
    if (splits > SLK_FEW_MAX_SPLITS || others == 0)
        return others == 0 ? SL_OK : SL_E_RANGE;
    p.uniform = !k->deterministic;
    int64_t most = p.uniform ? least(least(tiles, room), SLK_FEW_MAX_SPLITS) : room >= splits ? splits : 1;
    p.shares = shares_of(k, others, tall ? 1 : variant->blocks, most);
    p.masked = !k->deterministic && p.is_tree != NULL && p.window == 0 && p.scores == NULL;
    int paths = p.is_tree != NULL && !p.masked;
    if ((paths || tall) && p.shares == 1 && most > 1)
        p.shares = 2; /* so that only tails are read once a row; the tall kernel knows splits only */
    p.max_splits = p.uniform ? p.shares : (int32_t)splits;
    p.part_o = (float *)(void *)(at + ml_bytes(step->max_rows, p.heads, p.max_splits));

    const int64_t blocks = (int64_t)step->max_seqs * p.row_blocks;
    s = tall ? launch_tall(k, lane, &p, blocks) : launch(k, lane, variant, &p, blocks);
    if (s == SL_OK && paths) {
        slk_attend_few_params tails = p;
        const few_variant *one = variant_of(dim, 1);
        tails.tails = 1;
        tails.early = 0;
        tails.row_block = 1;
        tails.row_blocks = (int32_t)step->max_seq_rows;
        if (p.group > 16)
            one = variant;
        s = launch(k, lane, one, &tails, step->max_seqs * tails.row_blocks);
    }
    if (s == SL_OK && p.shares > 1)
        s = join(k, lane, &p, step->max_rows);
    return s == SL_OK && want_colsum ? colsum(k, lane, a, &p) : s;
}

sl_status slk_cuda_attend_colsum(const slk_cuda *k, const sl_lane *lane, const sl_attend *a) {
    slk_attend_few_params p;
    sl_status s = supported(a);
    if (s == SL_OK && (a->lse == NULL || a->colsum == NULL))
        s = SL_E_INVALID;
    if (s == SL_OK)
        s = fill(&p, a);
    if (s == SL_OK && (p.head_dim > 256))
        s = SL_E_UNIMPLEMENTED;
    return s == SL_OK ? colsum(k, lane, a, &p) : s;
}
