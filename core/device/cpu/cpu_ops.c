/* See cpu_ops.h. Small calls run on the caller: a barrier costs more than they do. */
#include "cpu_ops.h"

#include "cpu_attend_pieces.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_map.h"
#include "sl_tensor.h"

enum {
    INLINE_ELEMENTS = 1 << 14, /* elementwise work below this is not split */
    INLINE_PRODUCTS = 1 << 16, /* nor are matrix products of fewer multiplications */
    MAX_ROPE_HALF = 256        /* rotating heads of up to 512 dimensions */
};

/* ---- context
 * ---------------------------------------------------------------------------------------------------------- */

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

sl_status sli_ops_create(sli_ops_context *ctx, sli_pool *pool, uint32_t isa, const sli_ops_shapes *s) {
    *ctx = (sli_ops_context){
        .kernels = slk_kernels_for(isa), .pool = pool, .n_workers = sli_pool_workers(pool), .max_keys = s->keys};
    int64_t tile = SLI_ATTEND_TILE, slots = tile * SL_MAX_TREE_NODES > s->keys ? tile * SL_MAX_TREE_NODES : s->keys;
    ctx->slots_offset = padded(slk_attend_scratch_bytes(s->group, s->head_dim, s->head_dim));
    ctx->part_offset = ctx->slots_offset + padded((slots + SL_MAX_TREE_NODES) * (int64_t)sizeof(int32_t));
    ctx->max_pieces = 32 + s->keys / 16;
    ctx->pieces_offset = ctx->part_offset + padded(tile * s->heads * (s->head_dim + 2) * (int64_t)sizeof(float));
    ctx->scores_offset = ctx->pieces_offset + padded(sli_pieces_bytes(ctx->max_pieces));
    int64_t bytes = ctx->scores_offset + s->group * s->keys * (int64_t)sizeof(float);
    ctx->x_bf16_cap = s->rows * s->width;
    ctx->x_bf16 = sli_calloc(SLI_TAG_SCRATCH, (size_t)ctx->x_bf16_cap, sizeof *ctx->x_bf16);
    ctx->worker_scratch = sli_calloc(SLI_TAG_SCRATCH, (size_t)ctx->n_workers, sizeof *ctx->worker_scratch);
    int ok = ctx->x_bf16 != NULL && ctx->worker_scratch != NULL;
    for (int32_t w = 0; ok && w < ctx->n_workers; w++)
        ok = (ctx->worker_scratch[w] = sli_alloc(SLI_TAG_SCRATCH, (size_t)bytes)) != NULL;
    if (ok)
        return SL_OK;
    sli_ops_destroy(ctx);
    return SL_E_NO_MEMORY;
}

void sli_ops_destroy(sli_ops_context *ctx) {
    for (int32_t w = 0; ctx->worker_scratch != NULL && w < ctx->n_workers; w++)
        sli_free(ctx->worker_scratch[w]);
    sli_free(ctx->worker_scratch);
    sli_free(ctx->x_bf16);
    ctx->worker_scratch = NULL;
    ctx->x_bf16 = NULL;
}

/* ---- linears
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct gemm_job {
    const slk_kernels *kernels;
    slk_gemm p;
} gemm_job;

static void gemm_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const gemm_job *j = user;
    slk_gemm_run(j->kernels, &j->p, begin, end);
}

/* Outputs do not depend on how they are split over workers, so small products need not be. */
static void multiply(sli_ops_context *ctx, gemm_job *job) {
    if (job->p.T * job->p.N * job->p.K < INLINE_PRODUCTS)
        gemm_range(job, 0, job->p.N, 0);
    else
        sli_pool_parallel_for(ctx->pool, job->p.N, 16, gemm_range, job);
}

static const float *data_or_null(const sl_tensor *t) { return t != NULL ? t->data : NULL; }

static int is_rows(const sl_tensor *t) { return t->ndim == 2 && t->dtype == SL_F32 && t->stride[1] == 1; }

/* x, y and epilogue of a product with a matrix [n, k]; 0 when they do not fit it. */
static int fill(slk_gemm *p, const sl_tensor *x, sl_tensor *y, const sl_tensor *bias, const sl_tensor *residual,
                int64_t n, int64_t k) {
    if (!is_rows(x) || !is_rows(y) || x->shape[1] != k || y->shape[1] != n || x->shape[0] != y->shape[0] ||
        (residual != NULL && (!is_rows(residual) || residual->shape[0] != y->shape[0] || residual->shape[1] != n)))
        return 0;
    *p = (slk_gemm){.x = x->data,
                    .ldx = x->stride[0],
                    .x_dtype = SL_F32,
                    .y = y->data,
                    .ldy = y->stride[0],
                    .T = x->shape[0],
                    .N = n,
                    .K = k,
                    .bias = data_or_null(bias),
                    .residual = data_or_null(residual),
                    .ldr = residual != NULL ? residual->stride[0] : 0};
    return 1;
}

static sl_status op_gemm(const sl_host *host, const sl_op_gemm *a) {
    const sl_tensor *w = a->w;
    sli_ops_context *ctx = sli_ops_context_of(host);
    gemm_job job = {.kernels = ctx->kernels};
    if (w->ndim != 2 || (w->dtype != SL_F32 && w->dtype != SL_F16 && w->dtype != SL_BF16) || w->stride[1] != 1 ||
        !fill(&job.p, a->x, a->y, a->bias, a->residual, w->shape[0], w->shape[1]))
        return SL_E_INVALID;
    job.p.w = w->data;
    job.p.ldw = w->stride[0];
    job.p.w_dtype = w->dtype;
    if (a->compute == SL_BF16 && w->dtype == SL_BF16 && job.p.T * job.p.K <= ctx->x_bf16_cap) {
        for (int64_t t = 0; t < job.p.T; t++)
            ctx->kernels->bf16_of_f32(ctx->x_bf16 + t * job.p.K, (const float *)a->x->data + t * job.p.ldx, job.p.K);
        job.p.x = ctx->x_bf16;
        job.p.ldx = job.p.K;
        job.p.x_dtype = SL_BF16;
    }
    multiply(ctx, &job);
    return SL_OK;
}

/* ---- packed weights
 * ------------------------------------------------------------------------------------------------------ */

static slk_q_format format_of(const sl_q_format *f) {
    return (slk_q_format){f->bits, (uint32_t)(f->group >= f->k ? 0 : f->group), f->asymmetric};
}

static int64_t op_q_bytes(const sl_q_format *f) {
    slk_q_format q = format_of(f);
    if (f->target != SL_Q_CPU || f->kind != SL_Q_INTEGER || (f->bits != 4 && f->bits != 8) || f->n < 1 || f->k < 1 || f->group < 0 || q.group % SLK_Q_CHUNK != 0)
        return 0;
    return f->n * slk_q_row_bytes(&q, f->k);
}

static sl_status widen(float *dst, const void *src, sl_dtype dtype, int64_t n);

/* Packs row by row; every row stands alone, so that one row of f32 is all the memory it takes. */
static sl_status op_q_pack(const sl_host *host, const sl_q_format *f, const sl_tensor *w, void *blob, sl_error *err) {
    (void)host;
    slk_q_format q = format_of(f);
    if (op_q_bytes(f) == 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "no packed format of %u bits in groups of %lld for a matrix [%lld, %lld]", f->bits,
                       (long long)f->group, (long long)f->n, (long long)f->k);
    if (w->ndim != 2 || w->shape[0] != f->n || w->shape[1] != f->k ||
        (w->dtype != SL_F32 && w->dtype != SL_F16 && w->dtype != SL_BF16))
        return sl_fail(err, SL_E_INVALID, "the matrix to be packed must be [%lld, %lld] of f32, f16 or bf16",
                       (long long)f->n, (long long)f->k);
    float *row = sli_calloc(SLI_TAG_SCRATCH, (size_t)f->k, sizeof *row);
    sl_status s =
        row != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory to pack a row of %lld weights", (long long)f->k);
    int64_t bytes = sl_dtype_bits(w->dtype) / 8;
    for (int64_t n = 0; s >= 0 && n < f->n; n++) {
        widen(row, (const char *)w->data + n * w->stride[0] * bytes, w->dtype, f->k);
        s = slk_q_pack(&q, row, f->k, 1, f->k, (char *)blob + n * slk_q_row_bytes(&q, f->k), err);
        if (s < 0)
            sl_fail_within(err, s, "row %lld", (long long)n);
    }
    sli_free(row);
    return s;
}

static sl_status op_q_pack_codes(const sl_host *host, const sl_q_format *f, const uint8_t *code, const uint16_t *scale,
                                 const uint8_t *zero, void *blob, sl_error *err) {
    (void)host;
    slk_q_format q = format_of(f);
    if (op_q_bytes(f) == 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "no packed format of %u bits in groups of %lld for a matrix [%lld, %lld]", f->bits,
                       (long long)f->group, (long long)f->n, (long long)f->k);
    return slk_q_pack_codes(&q, code, scale, f->asymmetric ? zero : NULL, f->n, f->k, blob, err);
}

static sl_status op_q_unpack(const sl_host *host, const sl_q_format *f, const void *blob, float *w) {
    (void)host;
    slk_q_format q = format_of(f);
    if (op_q_bytes(f) == 0)
        return SL_E_UNIMPLEMENTED;
    slk_q_unpack(&q, blob, f->n, f->k, w, f->k);
    return SL_OK;
}

static sl_status op_qgemm(const sl_host *host, const sl_op_qgemm *a) {
    sli_ops_context *ctx = sli_ops_context_of(host);
    gemm_job job = {.kernels = ctx->kernels};
    if (!fill(&job.p, a->x, a->y, a->bias, a->residual, a->format->n, a->format->k))
        return SL_E_INVALID;
    job.p.w = a->blob;
    job.p.w_dtype = SLK_W_PACKED;
    job.p.q = format_of(a->format);
    multiply(ctx, &job);
    return SL_OK;
}

/* ---- rows
 * ---------------------------------------------------------------------------------------------------------------- */

/* Work on rows, split when there is enough of it. */
static void by_rows(const sl_host *host, int64_t n, int64_t width, sl_range_fn fn, void *user) {
    if (n * width < INLINE_ELEMENTS)
        fn(user, 0, n, 0);
    else
        sli_pool_parallel_for(sli_ops_context_of(host)->pool, n, 1, fn, user);
}

typedef struct norm_job {
    slk_norm_fn fn;
    slk_norm p;
} norm_job;

static void norm_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const norm_job *j = user;
    j->fn(&j->p, begin, end);
}

/* Rows of the last dimension. */
static int64_t count_rows(const sl_tensor *t) {
    int64_t n = 1;
    for (uint32_t i = 0; i + 1 < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

static sl_status op_norm(const sl_host *host, const sl_op_norm *a) {
    int64_t width = a->x->shape[a->x->ndim - 1], n = count_rows(a->x);
    if (!sl_tensor_is_contiguous(a->x) || !sl_tensor_is_contiguous(a->y) || a->w->shape[0] != width)
        return SL_E_INVALID;
    norm_job job = {sli_ops_context_of(host)->kernels->rmsnorm,
                    {.x = a->x->data,
                     .y = a->y->data,
                     .w = a->w->data,
                     .ldx = width,
                     .ldy = width,
                     .n = width,
                     .eps = (float)a->eps}};
    by_rows(host, n, width, norm_range, &job);
    return SL_OK;
}

typedef struct rope_job {
    slk_rope_fn fn;
    const sl_op_rope *a;
} rope_job;

static void rope_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const rope_job *j = user;
    const sl_rope *r = j->a->rope;
    int64_t heads = j->a->x->shape[1], dim = j->a->x->shape[2], half = r->dims / 2;
    float back[MAX_ROPE_HALF]; /* rotating back is rotating by the negative angle */
    for (int64_t i = begin; i < end; i++) {
        int64_t at = (int64_t)j->a->position[i];
        for (int64_t k = 0; j->a->inverse && k < half; k++)
            back[k] = -r->sin[at * half + k];
        slk_rope p = {.x = (float *)j->a->x->data + i * heads * dim,
                      .ldx = heads * dim,
                      .ld_head = dim,
                      .cos_row = r->cos + at * half,
                      .sin_row = j->a->inverse ? back : r->sin + at * half,
                      .ld_trig = half,
                      .heads = heads,
                      .n_rot = r->dims,
                      .interleaved = r->style == SL_ROPE_INTERLEAVED};
        j->fn(&p, 0, 1);
    }
}

static sl_status op_rope(const sl_host *host, const sl_op_rope *a) {
    if (a->x->ndim != 3 || !sl_tensor_is_contiguous(a->x) || a->rope->style == SL_ROPE_NONE ||
        a->rope->dims > 2 * MAX_ROPE_HALF)
        return SL_E_INVALID;
    for (int64_t i = 0; i < a->x->shape[0]; i++) /* tables hold whole positions */
        if (!(a->position[i] >= 0) || a->position[i] >= (float)a->rope->n_positions ||
            a->position[i] != (float)(int64_t)a->position[i])
            return SL_E_RANGE;
    rope_job job = {sli_ops_context_of(host)->kernels->rope, a};
    by_rows(host, a->x->shape[0], a->x->shape[1] * a->x->shape[2], rope_range, &job);
    return SL_OK;
}

typedef struct act_job {
    slk_act_fn fn;
    slk_act p;
} act_job;

static void act_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const act_job *j = user;
    j->fn(&j->p, begin, end);
}

static sl_status op_act_mul(const sl_host *host, const sl_op_act_mul *a) {
    if (a->up == NULL || (SL_HAS(a, sl_op_act_mul, residual) && a->residual != NULL))
        return SL_E_UNIMPLEMENTED;
    if (!sl_tensor_is_contiguous(a->gate) || !sl_tensor_is_contiguous(a->up) || !sl_tensor_is_contiguous(a->y) ||
        a->act > SL_ACT_GELU_TANH)
        return SL_E_INVALID;
    const slk_kernels *k = sli_ops_context_of(host)->kernels;
    int64_t width = a->gate->shape[a->gate->ndim - 1];
    act_job job = {a->act == SL_ACT_SILU ? k->silu_mul : k->gelu_mul,
                   {.gate = a->gate->data,
                    .up = a->up->data,
                    .y = a->y->data,
                    .ld_gate = width,
                    .ld_up = width,
                    .ldy = width,
                    .n = width}};
    by_rows(host, count_rows(a->gate), width, act_range, &job);
    return SL_OK;
}

static sl_status op_topk(const sl_host *host, const sl_op_topk *a) {
    if (a->k < 1 || a->k > a->n)
        return SL_E_RANGE;
    for (int64_t r = 0; r < a->rows; r++)
        sli_ops_context_of(host)->kernels->topk(a->x + r * a->stride, a->n, a->k,
                                                a->value != NULL ? a->value + r * a->k : NULL, a->id + r * a->k);
    return SL_OK;
}

static sl_status op_lse_merge(const sl_host *host, const sl_op_lse_merge *a) {
    sli_ops_context_of(host)->kernels->lse_merge(a->o->data, a->lse, a->o2->data, a->lse2,
                                                 a->o->shape[0] * a->o->shape[1], a->o->shape[2]);
    return SL_OK;
}

typedef struct map_job {
    const sl_op_map *args;
    int64_t width;
} map_job;

static void map_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const map_job *j = user;
    sl_map_rows(j->args->map, (int)j->args->backwards, (float *)j->args->x->data + begin * j->width, end - begin,
                j->width);
}

static sl_status op_map(const sl_host *host, const sl_op_map *a) {
    int64_t rows = a->x->shape[0], width = 1;
    for (uint32_t i = 1; i < a->x->ndim; i++)
        width *= a->x->shape[i];
    if (a->x->dtype != SL_F32 || !sl_tensor_is_contiguous(a->x) || sl_map_fault(a->map, width) != NULL)
        return SL_E_INVALID;
    map_job job = {a, width};
    by_rows(host, rows, 16 * width, map_range, &job);
    return SL_OK;
}

/* ---- dtypes
 * ---------------------------------------------------------------------------------------------------------------- */

/* Conversions are exact or round to nearest even on every instruction set, so the best one serves all engines. */
static const slk_kernels *best(void) {
    static _Atomic(const slk_kernels *) table;
    const slk_kernels *k = atomic_load_explicit(&table, memory_order_relaxed);
    if (k == NULL)
        atomic_store_explicit(&table, k = slk_kernels_for(slk_isa_detect()), memory_order_relaxed);
    return k;
}

static sl_status widen(float *dst, const void *src, sl_dtype dtype, int64_t n) {
    const slk_kernels *k = best();
    switch (dtype) {
    case SL_F32: memcpy(dst, src, (size_t)n * sizeof *dst); return SL_OK;
    case SL_F16: k->f32_of_f16(dst, src, n); return SL_OK;
    case SL_BF16: k->f32_of_bf16(dst, src, n); return SL_OK;
    default: return SL_E_UNIMPLEMENTED;
    }
}

static sl_status op_convert(void *dst, sl_dtype dst_dtype, const void *src, sl_dtype src_dtype, int64_t n) {
    const slk_kernels *k = best();
    if (dst_dtype == SL_F32)
        return widen(dst, src, src_dtype, n);
    if (dst_dtype == src_dtype && (dst_dtype == SL_F16 || dst_dtype == SL_BF16)) {
        memcpy(dst, src, (size_t)n * 2);
        return SL_OK;
    }
    if (src_dtype == SL_F32 && (dst_dtype == SL_F16 || dst_dtype == SL_BF16)) {
        (dst_dtype == SL_F16 ? k->f16_of_f32 : k->bf16_of_f32)(dst, src, n);
        return SL_OK;
    }
    float part[256]; /* between the two 16-bit formats, through f32 */
    for (int64_t i = 0; i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        SL_TRY(widen(part, (const uint16_t *)src + i, src_dtype, m));
        SL_TRY(op_convert((uint16_t *)dst + i, dst_dtype, part, SL_F32, m));
    }
    return SL_OK;
}

const sl_ops sli_ops_cpu = {
    .struct_size = SL_SIZE(sl_ops),
    .gemm = op_gemm,
    .q_bytes = op_q_bytes,
    .q_pack = op_q_pack,
    .q_unpack = op_q_unpack,
    .q_pack_codes = op_q_pack_codes,
    .qgemm = op_qgemm,
    .norm = op_norm,
    .rope = op_rope,
    .attend = sli_op_attend,
    .act_mul = op_act_mul,
    .topk = op_topk,
    .lse_merge = op_lse_merge,
    .convert = op_convert,
    .map = op_map,
};
