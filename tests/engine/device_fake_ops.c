/* See device_fake.h: the operations, as plain loops in f32 over what kernels on a GPU are given, with true counts read
 * from the step in device memory, and outputs rounded to their dtype. */
#include "device_fake_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random/random_value.h"
#include "sl_error.h"

/* ---- embed, gather, norm ----------------------------------------------------------------------------------------- */

typedef struct embed_args {
    sl_step_device step;
    sl_tensor table, x;
} embed_args;

static void run_embed(const void *p) {
    const embed_args *a = p;
    int32_t n = a->step.max_rows;
    const int32_t *seq = ints(a->step.row_seq, n, "embed"), *token = ints(a->step.token, n, "embed");
    for (int32_t i = 0; i < n; i++) {
        float *x = row_of(&a->x, i, "embed");
        const void *from = row_of(&a->table, seq[i] < 0 ? 0 : token[i], "embed");
        for (int64_t k = 0; k < a->x.shape[1]; k++)
            x[k] = seq[i] < 0 ? 0 : load(from, a->table.dtype, k);
    }
}

static sl_status embed(const sl_host *host, const sl_op_embed *op) {
    (void)host;
    if (!is_float(op->table) || op->x->dtype != SL_F32 || op->batch->device == NULL ||
        op->x->shape[0] != op->batch->device->max_rows)
        return SL_E_INVALID;
    embed_args a = {*op->batch->device, *op->table, *op->x};
    return fake_launch(op->lane, run_embed, &a, sizeof a);
}

typedef struct gather_args {
    sl_tensor x, y;
    const int32_t *row;
} gather_args;

static void run_gather(const void *p) {
    const gather_args *a = p;
    const int32_t *row = ints(a->row, a->y.shape[0], "gather");
    for (int64_t i = 0; i < a->y.shape[0]; i++)
        memcpy(row_of(&a->y, i, "gather"), row_of(&a->x, row[i], "gather"), sizeof(float) * (size_t)a->y.shape[1]);
}

static sl_status gather(const sl_host *host, const sl_op_gather *op) {
    (void)host;
    if (op->x->dtype != SL_F32 || op->y->dtype != SL_F32)
        return SL_E_INVALID;
    gather_args a = {*op->x, *op->y, op->row};
    return fake_launch(op->lane, run_gather, &a, sizeof a);
}

typedef struct norm_args {
    sl_tensor x, w, y;
    double eps;
} norm_args;

static void run_norm(const void *p) {
    const norm_args *a = p;
    const float *w = row_of(&a->w, 0, "norm");
    for (int64_t i = 0; i < a->x.shape[0]; i++)
        norm_row(row_of(&a->x, i, "norm"), a->x.dtype, w, row_of(&a->y, i, "norm"), a->y.dtype, a->x.shape[1], a->eps);
}

static sl_status norm(const sl_host *host, const sl_op_norm *op) {
    (void)host;
    if (!is_float(op->x) || !is_float(op->y) || op->x->ndim != 2 || op->w->dtype != SL_F32)
        return SL_E_INVALID;
    norm_args a = {*op->x, *op->w, *op->y, op->eps};
    return fake_launch(op->lane, run_norm, &a, sizeof a);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

static float activate(uint32_t act, float x) {
    return act == SL_ACT_SILU ? x / (1 + expf(-x))
                              : 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

typedef struct gemm_args {
    sl_tensor x, w, y, bias, residual; /* data NULL: none */
    uint32_t act_mul, act;
} gemm_args;

enum { LANES = 8 }; /* sums of their own, so that a compiler may use vectors */

static float dot(const float *x, const float *w, int64_t n) {
    float sum[LANES] = {0}, all = 0;
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int l = 0; l < LANES; l++)
            sum[l] += x[k + l] * w[k + l];
    for (; k < n; k++)
        all += x[k] * w[k];
    for (int l = 0; l < LANES; l++)
        all += sum[l];
    return all;
}

static void load_row(const sl_tensor *t, int64_t i, float *out) {
    const void *from = row_of(t, i, "gemm");
    if (t->dtype == SL_BF16)
        for (int64_t k = 0; k < t->shape[1]; k++)
            out[k] = slk_f32_of_bf16(((const uint16_t *)from)[k]);
    else
        for (int64_t k = 0; k < t->shape[1]; k++)
            out[k] = load(from, t->dtype, k);
}

static void run_gemm(const void *p) {
    const gemm_args *a = p;
    int64_t N = a->y.shape[1], K = a->x.shape[1], T = a->x.shape[0];
    float *x = malloc(sizeof *x * (size_t)((T + 2) * K)), *w = x + T * K, *up = w + K;
    const float *bias = a->bias.data != NULL ? row_of(&a->bias, 0, "gemm") : NULL;
    for (int64_t i = 0; i < T; i++)
        load_row(&a->x, i, x + i * K);
    for (int64_t j = 0; j < N; j++) {
        load_row(&a->w, j, w);
        if (a->act_mul)
            load_row(&a->w, N + j, up);
        for (int64_t i = 0; i < T; i++) {
            float v = dot(x + i * K, w, K) + (bias != NULL ? bias[j] : 0);
            if (a->act_mul)
                v = activate(a->act, v) * (dot(x + i * K, up, K) + (bias != NULL ? bias[N + j] : 0));
            if (a->residual.data != NULL)
                v += ((const float *)row_of(&a->residual, i, "gemm"))[j];
            store(row_of(&a->y, i, "gemm"), a->y.dtype, j, v);
        }
    }
    free(x);
}

static sl_status launch_gemm(const sl_lane *lane, const gemm_args *a) {
    int64_t N = a->y.shape[1];
    if (!is_float(&a->x) || !is_float(&a->w) || !is_float(&a->y) || a->x.dtype != SL_BF16 ||
        a->w.shape[0] != (a->act_mul ? 2 * N : N) || a->w.shape[1] != a->x.shape[1] ||
        (a->bias.data != NULL && (a->bias.dtype != SL_F32 || a->bias.shape[0] != a->w.shape[0])) ||
        (a->residual.data != NULL && (a->act_mul || a->residual.dtype != SL_F32)))
        return SL_E_INVALID;
    return fake_launch(lane, run_gemm, a, sizeof *a);
}

static sl_status gemm(const sl_host *host, const sl_op_gemm *op) {
    (void)host;
    gemm_args a = {.x = *op->x, .w = *op->w, .y = *op->y, .act_mul = op->act_mul, .act = op->act};
    if (op->bias != NULL)
        a.bias = *op->bias;
    if (op->residual != NULL)
        a.residual = *op->residual;
    return launch_gemm(op->lane, &a);
}

/* Packed here: the values themselves, rounded to the grid of their group. */
static int64_t q_bytes(const sl_q_format *f) {
    return f->target == SL_Q_CUDA && f->kind == SL_Q_INTEGER && !f->asymmetric ? 4 * f->n * f->k : 0;
}

static sl_status q_pack(const sl_host *host, const sl_q_format *f, const sl_tensor *w, void *blob, sl_error *err) {
    (void)host, (void)err;
    float *out = blob, top = (float)((1 << (f->bits - 1)) - 1);
    int64_t group = f->group < f->k ? f->group : f->k;
    for (int64_t i = 0; i < f->n; i++)
        for (int64_t k = 0; k < f->k; k += group) {
            int64_t n = f->k - k < group ? f->k - k : group;
            float most = 0;
            for (int64_t j = 0; j < n; j++)
                most = fmaxf(most, fabsf(load(w->data, w->dtype, i * f->k + k + j)));
            float scale = slk_f32_of_f16(slk_f16_of_f32(most / top));
            for (int64_t j = 0; j < n; j++) {
                float v = load(w->data, w->dtype, i * f->k + k + j);
                out[i * f->k + k + j] = scale > 0 ? scale * fmaxf(fminf(rintf(v / scale), top), -top) : 0;
            }
        }
    return SL_OK;
}

static sl_status qgemm(const sl_host *host, const sl_op_qgemm *op) {
    (void)host;
    gemm_args a = {.x = *op->x, .y = *op->y, .act_mul = op->act_mul, .act = op->act};
    if (op->bias != NULL)
        a.bias = *op->bias;
    if (op->residual != NULL)
        a.residual = *op->residual;
    a.w = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                      .data = (void *)(uintptr_t)op->blob,
                      .shape = {op->format->n, op->format->k},
                      .stride = {op->format->k, 1},
                      .dtype = SL_F32,
                      .ndim = 2,
                      .device = SL_DEVICE_CUDA};
    return launch_gemm(op->lane, &a);
}

typedef struct act_args {
    sl_tensor gate, up, y, residual; /* data NULL: none */
    uint32_t act;
} act_args;

static void run_act(const void *p) {
    const act_args *a = p;
    for (int64_t i = 0; i < a->y.shape[0]; i++) {
        const void *g = row_of(&a->gate, i, "act_mul");
        const void *u = a->up.data != NULL ? row_of(&a->up, i, "act_mul") : NULL;
        const void *add = a->residual.data != NULL ? row_of(&a->residual, i, "act_mul") : NULL;
        void *y = row_of(&a->y, i, "act_mul");
        for (int64_t k = 0; k < a->y.shape[1]; k++) {
            float v = activate(a->act, load(g, a->gate.dtype, k)) * (u != NULL ? load(u, a->up.dtype, k) : 1);
            store(y, a->y.dtype, k, v + (add != NULL ? load(add, a->y.dtype, k) : 0));
        }
    }
}

static sl_status act_mul(const sl_host *host, const sl_op_act_mul *op) {
    (void)host;
    act_args a = {.gate = *op->gate, .y = *op->y, .act = op->act};
    if (op->up != NULL)
        a.up = *op->up;
    if (op->residual != NULL)
        a.residual = *op->residual;
    if (op->residual != NULL && op->residual->dtype != op->y->dtype)
        return SL_E_INVALID;
    return fake_launch(op->lane, run_act, &a, sizeof a);
}

/* ---- topk, sampling, random
 * --------------------------------------------------------------------------------------------------
 */

static void run_topk(const void *p) {
    const sl_op_topk *a = p;
    int32_t *id = fake_out(a->id, 4 * a->rows * a->k, "topk");
    float *value = a->value != NULL ? fake_at(a->value, 4 * a->rows * a->k, "topk") : NULL;
    for (int64_t i = 0; i < a->rows; i++) {
        const float *x = fake_at(a->x + i * a->stride, 4 * a->n, "topk");
        for (int64_t j = 0; j < a->k; j++) { /* the best of those behind the last one in the order */
            int64_t last = j > 0 ? id[i * a->k + j - 1] : -1, best = -1;
            for (int64_t k = 0; k < a->n; k++)
                if ((last < 0 || x[k] < x[last] || (x[k] == x[last] && k > last)) && (best < 0 || x[k] > x[best]))
                    best = k;
            id[i * a->k + j] = (int32_t)best;
            if (value != NULL)
                value[i * a->k + j] = x[best];
        }
    }
}

static sl_status topk(const sl_host *host, const sl_op_topk *op) {
    (void)host;
    return op->k <= op->n ? fake_launch(op->lane, run_topk, op, sizeof *op) : SL_E_INVALID;
}

typedef struct sample_args {
    const float *logits;
    const sli_cuda_draw *how;
    int32_t *token;
    int64_t rows;
    int32_t n;
} sample_args;

typedef struct candidate {
    double weight;
    int32_t id;
} candidate;

static int better(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight) : x->id - y->id;
}
static int lower(const void *a, const void *b) { return ((const candidate *)a)->id - ((const candidate *)b)->id; }

/* Sorted as a whole, cut, put back into the order of ids, and walked through. */
static int32_t draw(const float *z, int32_t n, const sli_cuda_draw *how, candidate *c) {
    float most = z[0];
    double sum = 0, kept = 0, run = 0;
    int32_t left = n;
    for (int32_t i = 0; i < n; i++)
        most = z[i] > most ? z[i] : most;
    for (int32_t i = 0; i < n; i++)
        c[i] = (candidate){how->temperature > 0 ? exp(((double)z[i] - most) / how->temperature) : z[i] == most, i};
    qsort(c, (size_t)n, sizeof *c, better);
    if (how->temperature == 0)
        return c[0].id;
    if (how->top_k > 0 && how->top_k < left)
        left = how->top_k;
    for (int32_t i = 0; i < left; i++)
        sum += c[i].weight;
    if (how->top_p > 0 && how->top_p < 1) {
        int32_t at = 0;
        for (kept = 0; at < left && kept < how->top_p * sum;)
            kept += c[at++].weight;
        left = at > 0 ? at : 1;
    }
    while (left > 1 && c[left - 1].weight < how->min_p)
        left--;
    qsort(c, (size_t)left, sizeof *c, lower);
    for (int32_t i = kept = 0; i < left; i++)
        kept += c[i].weight;
    for (int32_t i = 0; i < left; i++)
        if (how->u * kept < (run += c[i].weight))
            return c[i].id;
    return c[left - 1].id;
}

static void run_sample(const void *p) {
    const sample_args *a = p;
    int32_t *token = fake_out(a->token, 4 * a->rows, "sample");
    const sli_cuda_draw *how = fake_at(a->how, a->rows * (int64_t)sizeof *how, "sample");
    candidate *c = malloc((size_t)a->n * sizeof *c);
    for (int64_t i = 0; c != NULL && i < a->rows; i++)
        token[i] = draw(fake_at(a->logits + i * a->n, 4 * (int64_t)a->n, "sample"), a->n, &how[i], c);
    free(c);
}

sl_status fake_sample(sli_cuda *cuda, const float *logits, const sli_cuda_draw *how, int32_t *token, int64_t rows,
                      int32_t n) {
    sample_args a = {logits, how, token, rows, n};
    return fake_launch(fake_lane(cuda, 0), run_sample, &a, sizeof a);
}

typedef struct random_args {
    void *dst;
    sl_dtype dtype;
    int64_t n;
    uint64_t seed;
    float amplitude;
} random_args;

static void run_random(const void *p) {
    const random_args *a = p;
    void *to = fake_at(a->dst, a->n * size_of(a->dtype), "random");
    for (int64_t i = 0; i < a->n; i++)
        store(to, a->dtype, i, slk_random_value(a->seed, (uint64_t)i) * a->amplitude);
}

sl_status fake_random(sli_cuda *cuda, void *dst, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude) {
    random_args a = {dst, dtype, n, seed, amplitude};
    return fake_launch(fake_lane(cuda, 0), run_random, &a, sizeof a);
}

const sl_ops fake_ops = {.struct_size = SL_SIZE(sl_ops),
                         .gemm = gemm,
                         .q_bytes = q_bytes,
                         .q_pack = q_pack,
                         .qgemm = qgemm,
                         .norm = norm,
                         .attend = fake_attend,
                         .act_mul = act_mul,
                         .topk = topk,
                         .embed = embed,
                         .append = fake_append,
                         .move = fake_move,
                         .keep = fake_keep,
                         .quantise = fake_quantise,
                         .gather = gather};
