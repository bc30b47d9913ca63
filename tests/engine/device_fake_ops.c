/* See device_fake.h: the operations, as plain loops in f32 over what kernels on a GPU are given, with true counts read from
 * the step in device memory, and outputs rounded to their dtype. */
#include "device_fake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random/random_value.h"
#include "rows/half.h"
#include "sl_error.h"

/* ---- elements ---------------------------------------------------------------------------------------------------- */

static int64_t size_of(sl_dtype dtype) { return dtype == SL_F32 ? 4 : 2; }

static float load(const void *p, sl_dtype dtype, int64_t i) {
    return dtype == SL_F32    ? ((const float *)p)[i]
           : dtype == SL_BF16 ? slk_f32_of_bf16(((const uint16_t *)p)[i])
                              : slk_f32_of_f16(((const uint16_t *)p)[i]);
}

static void store(void *p, sl_dtype dtype, int64_t i, float v) {
    if (dtype == SL_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = dtype == SL_BF16 ? slk_bf16_of_f32(v) : slk_f16_of_f32(v);
}

/* Row i of a tensor whose other dimensions are contiguous. */
static void *row_of(const sl_tensor *t, int64_t i, const char *who) {
    int64_t width = t->ndim == 1 ? t->shape[0] : t->ndim == 2 ? t->shape[1] : t->shape[1] * t->shape[2];
    return fake_at((const char *)t->data + i * t->stride[0] * size_of(t->dtype), width * size_of(t->dtype), who);
}

static const int32_t *ints(const int32_t *p, int64_t n, const char *who) { return fake_at(p, 4 * n, who); }

static int is_float(const sl_tensor *t) {
    return t->device == SL_DEVICE_CUDA && (t->dtype == SL_F32 || t->dtype == SL_BF16 || t->dtype == SL_F16);
}

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

static void norm_row(const void *x, sl_dtype from, const float *w, void *y, sl_dtype to, int64_t n, double eps) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)load(x, from, k) * load(x, from, k);
    float r = (float)(1 / sqrt(sum / (double)n + eps));
    for (int64_t k = 0; k < n; k++)
        store(y, to, k, load(x, from, k) * r * w[k]);
}

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

static float output(const gemm_args *a, const float *x, const float *bias, int64_t j, int64_t n) {
    const void *w = row_of(&a->w, j, "gemm");
    float sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += x[k] * load(w, a->w.dtype, k);
    return sum + (bias != NULL ? bias[j] : 0);
}

static void run_gemm(const void *p) {
    const gemm_args *a = p;
    int64_t N = a->y.shape[1], K = a->x.shape[1];
    float *x = malloc(sizeof *x * (size_t)K);
    const float *bias = a->bias.data != NULL ? row_of(&a->bias, 0, "gemm") : NULL;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        const void *from = row_of(&a->x, i, "gemm");
        void *y = row_of(&a->y, i, "gemm");
        const float *add = a->residual.data != NULL ? row_of(&a->residual, i, "gemm") : NULL;
        for (int64_t k = 0; k < K; k++)
            x[k] = load(from, a->x.dtype, k);
        for (int64_t j = 0; j < N; j++) {
            float v = output(a, x, bias, j, K);
            if (a->act_mul)
                v = activate(a->act, v) * output(a, x, bias, N + j, K);
            store(y, a->y.dtype, j, v + (add != NULL ? add[j] : 0));
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
    sl_tensor gate, up, y;
    uint32_t act;
} act_args;

static void run_act(const void *p) {
    const act_args *a = p;
    for (int64_t i = 0; i < a->y.shape[0]; i++) {
        const void *g = row_of(&a->gate, i, "act_mul"), *u = row_of(&a->up, i, "act_mul");
        void *y = row_of(&a->y, i, "act_mul");
        for (int64_t k = 0; k < a->y.shape[1]; k++)
            store(y, a->y.dtype, k, activate(a->act, load(g, a->gate.dtype, k)) * load(u, a->up.dtype, k));
    }
}

static sl_status act_mul(const sl_host *host, const sl_op_act_mul *op) {
    (void)host;
    act_args a = {*op->gate, *op->up, *op->y, op->act};
    return fake_launch(op->lane, run_act, &a, sizeof a);
}

/* ---- append ------------------------------------------------------------------------------------------------------ */

typedef struct append_args {
    sl_step_device step;
    sl_rope rope; /* struct_size 0: none */
    sl_tensor q, k, v, q_norm, k_norm;
    sl_view_device into;
    double eps;
} append_args;

/* Where slot s of head h is, of keys or values. */
static void *slot_at(const sl_view_device *v, int32_t seq, int64_t h, int64_t s, int values) {
    const int32_t *page = ints(v->pages + seq * v->pages_stride + h * v->pages_head_stride + s / v->page_rows, 1, "view");
    int64_t in_page = s % v->page_rows;
    const char *p = values ? (const char *)v->v_pool + *page * v->v_page_stride + in_page * v->v_row_stride +
                                 h * v->v_head_stride
                           : (const char *)v->k_pool + *page * v->k_page_stride + in_page * v->k_row_stride +
                                 h * v->k_head_stride;
    return fake_at(p, values ? v->v_dim * size_of(v->v_dtype) : v->k_dim * size_of(v->k_dtype), "view");
}

static int64_t committed(const sl_step_device *step, const sl_view_device *v, int32_t place, int32_t seq, int64_t h) {
    if (v->n_rows == NULL)
        return *ints(step->n_past + place, 1, "view");
    return *ints(v->n_rows + seq * v->n_rows_stride + h * v->n_rows_head_stride, 1, "view");
}

static void turn(const sl_rope *r, float position, float *x) {
    int64_t half = r->dims / 2, at = (int64_t)position * half;
    const float *cosines = fake_at(r->device_cos + at, 4 * half, "append"),
                *sines = fake_at(r->device_sin + at, 4 * half, "append");
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

/* Head h of a row, normed and rotated. */
static void head(const append_args *a, const sl_tensor *t, const sl_tensor *w, int64_t i, int64_t h, float *out) {
    int64_t D = t->shape[2];
    const uint16_t *from = row_of(t, i, "append");
    if (w->data != NULL)
        norm_row(from + h * D, t->dtype, row_of(w, 0, "append"), out, SL_F32, D, a->eps);
    else
        for (int64_t d = 0; d < D; d++)
            out[d] = load(from + h * D, t->dtype, d);
    if (a->rope.struct_size > 0)
        turn(&a->rope, *(const float *)fake_at(a->step.position + i, 4, "append"), out);
}

static void run_append(const void *p) {
    const append_args *a = p;
    const sl_step_device *s = &a->step;
    const int32_t *row_seq = ints(s->row_seq, s->max_rows, "append"), *begin = ints(s->row_begin, s->max_seqs + 1, "append"),
                  *ids = ints(s->seq, s->max_seqs, "append");
    float x[1024];
    for (int32_t i = 0; i < s->max_rows; i++) {
        int32_t place = row_seq[i];
        if (place < 0)
            continue;
        for (int64_t h = 0; h < a->q.shape[1]; h++) {
            uint16_t *q = row_of(&a->q, i, "append");
            head(a, &a->q, &a->q_norm, i, h, x);
            for (int64_t d = 0; d < a->q.shape[2]; d++)
                store(q + h * a->q.shape[2], SL_BF16, d, x[d]);
        }
        for (int64_t h = 0; h < a->k.shape[1]; h++) {
            int64_t slot = committed(s, &a->into, place, ids[place], h) + i - begin[place];
            void *k = slot_at(&a->into, ids[place], h, slot, 0), *v = slot_at(&a->into, ids[place], h, slot, 1);
            const uint16_t *from = row_of(&a->v, i, "append");
            head(a, &a->k, &a->k_norm, i, h, x);
            for (int64_t d = 0; d < a->into.k_dim; d++)
                store(k, a->into.k_dtype, d, x[d]);
            for (int64_t d = 0; d < a->into.v_dim; d++)
                store(v, a->into.v_dtype, d, load(from + h * a->into.v_dim, SL_BF16, d));
        }
    }
}

static sl_status append(const sl_host *host, const sl_op_append *op) {
    (void)host;
    const sl_step_device *step = op->rows->batch->device;
    if (step == NULL || op->rows->index != NULL || op->rows->n != step->max_rows || op->n_maps > 0 || op->overwrite ||
        op->into->k_pool == NULL || op->q->dtype != SL_BF16 || op->k->dtype != SL_BF16 || op->q->shape[2] > 1024)
        return SL_E_INVALID;
    append_args a = {.step = *step, .q = *op->q, .k = *op->k, .v = *op->v, .into = *op->into, .eps = op->norm_eps};
    if (op->rope != NULL)
        a.rope = *op->rope;
    if (op->q_norm != NULL)
        a.q_norm = *op->q_norm, a.k_norm = *op->k_norm;
    return fake_launch(op->lane, run_append, &a, sizeof a);
}

/* ---- attend ------------------------------------------------------------------------------------------------------ */

typedef struct attend_args {
    sl_step_device step;
    const int32_t *index, *device_n;
    int32_t n;
    sl_tensor q, o;
    sl_view_device view;
    int64_t window;
    double scale, softcap;
} attend_args;

/* Does row i see row j of its sequence's rows? */
static int sees(const sl_step_device *s, int32_t place, int32_t i, int32_t j, int32_t begin) {
    if (!*ints(s->is_tree + place, 1, "attend"))
        return j <= i - begin;
    const uint32_t *bits = fake_at(s->ancestors + (int64_t)i * (SL_MAX_TREE_NODES / 32), SL_MAX_TREE_NODES / 8, "attend");
    return (int)(bits[j / 32] >> j % 32 & 1);
}

typedef struct softmax {
    float most, sum, *o;
} softmax;

static void meet(const attend_args *a, const float *q, int32_t seq, int64_t h, int64_t slot, softmax *m) {
    const sl_view_device *v = &a->view;
    const void *k = slot_at(v, seq, h, slot, 0), *value = slot_at(v, seq, h, slot, 1);
    float score = 0;
    for (int64_t d = 0; d < v->k_dim; d++)
        score += q[d] * load(k, v->k_dtype, d);
    score *= (float)a->scale;
    if (a->softcap > 0)
        score = (float)a->softcap * tanhf(score / (float)a->softcap);
    float most = fmaxf(score, m->most), keep = expf(m->most - most), w = expf(score - most);
    m->sum = m->sum * keep + w;
    for (int64_t d = 0; d < v->v_dim; d++)
        m->o[d] = m->o[d] * keep + w * load(value, v->v_dtype, d);
    m->most = most;
}

static void attend_row(const attend_args *a, int32_t i, int32_t r, const int32_t *row_seq) {
    const sl_step_device *s = &a->step;
    int32_t place = row_seq[r], seq = *ints(s->seq + place, 1, "attend"), begin = *ints(s->row_begin + place, 1, "attend"),
            end = *ints(s->row_begin + place + 1, 1, "attend");
    const int32_t *token_index = ints(s->token_index, s->max_rows, "attend");
    int64_t H = a->q.shape[1], D = a->q.shape[2], Dv = a->o.shape[2], group = H / a->view.n_heads;
    float q[1024], o[1024];
    if (end - begin > s->max_seq_rows || *ints(s->n_past + place, 1, "attend") + end - begin > s->max_context)
        abort(); /* the bounds do not hold */
    for (int64_t h = 0; h < H; h++) {
        const uint16_t *from = row_of(&a->q, i, "attend");
        uint16_t *to = row_of(&a->o, i, "attend");
        int64_t n = committed(s, &a->view, place, seq, h / group), first = 0;
        softmax m = {-INFINITY, 0, o};
        for (int64_t d = 0; d < D; d++)
            q[d] = load(from + h * D, SL_BF16, d);
        memset(o, 0, sizeof o);
        if (a->window > 0 && token_index[r] - a->window + 1 > 0)
            first = token_index[r] - a->window + 1;
        for (int64_t j = first; j < n; j++)
            meet(a, q, seq, h / group, j, &m);
        for (int32_t j = 0; j < end - begin; j++)
            if (sees(s, place, r, j, begin) && (a->window == 0 || token_index[begin + j] > token_index[r] - a->window))
                meet(a, q, seq, h / group, n + j, &m);
        for (int64_t d = 0; d < Dv; d++)
            store(to + h * Dv, SL_BF16, d, o[d] / m.sum);
    }
}

static void run_attend(const void *p) {
    const attend_args *a = p;
    int32_t n = a->device_n != NULL ? *ints(a->device_n, 1, "attend") : a->n;
    const int32_t *row_seq = ints(a->step.row_seq, a->step.max_rows, "attend"),
                  *index = a->index != NULL ? ints(a->index, n, "attend") : NULL;
    if (n > a->n)
        abort(); /* the bound does not hold */
    for (int32_t i = 0; i < n; i++)
        attend_row(a, i, index != NULL ? index[i] : i, row_seq);
}

static sl_status attend(const sl_host *host, const sl_attend *op) {
    (void)host;
    const sl_step_device *step = op->rows->batch->device;
    if (step == NULL || op->view->device == NULL || op->view->device->list != NULL || op->want != 0 ||
        op->q.dtype != SL_BF16 || op->o.dtype != SL_BF16 || op->q.shape[2] > 1024 || op->mask->base != SL_MASK_CAUSAL)
        return SL_E_UNIMPLEMENTED;
    attend_args a = {.step = *step,
                     .index = op->rows->index,
                     .device_n = op->rows->device_n,
                     .n = op->rows->n,
                     .q = op->q,
                     .o = op->o,
                     .view = *op->view->device,
                     .window = op->mask->window,
                     .scale = op->scale,
                     .softcap = op->softcap};
    return fake_launch(op->lane, run_attend, &a, sizeof a);
}

/* ---- move, topk, random ------------------------------------------------------------------------------------------ */

typedef struct move_args {
    sl_view_device layer;
    const int32_t *n_moves, *seq, *from, *to;
    int32_t max_moves;
} move_args;

static void run_move(const void *p) {
    const move_args *a = p;
    const sl_view_device *v = &a->layer;
    int32_t n = *ints(a->n_moves, 1, "move");
    for (int32_t m = 0; m < n && m < a->max_moves; m++)
        for (int64_t h = 0; h < v->n_heads; h++)
            for (int values = 0; values < 2; values++) {
                int32_t seq = *ints(a->seq + m, 1, "move");
                void *to = slot_at(v, seq, h, *ints(a->to + m, 1, "move"), values);
                const void *from = slot_at(v, seq, h, *ints(a->from + m, 1, "move"), values);
                memcpy(to, from, (size_t)(values ? v->v_dim * size_of(v->v_dtype) : v->k_dim * size_of(v->k_dtype)));
            }
}

static sl_status move(const sl_host *host, const sl_op_move *op) {
    (void)host;
    for (int32_t l = 0; l < op->n_layers; l++) {
        move_args a = {*op->layers[l], op->n_moves, op->seq, op->from, op->to, op->max_moves};
        SL_TRY(fake_launch(op->lane, run_move, &a, sizeof a));
    }
    return SL_OK;
}

static void run_topk(const void *p) {
    const sl_op_topk *a = p;
    int32_t *id = fake_at(a->id, 4 * a->rows, "topk");
    for (int64_t i = 0; i < a->rows; i++) {
        const float *x = fake_at(a->x + i * a->stride, 4 * a->n, "topk");
        id[i] = 0;
        for (int64_t k = 1; k < a->n; k++)
            if (x[k] > x[id[i]])
                id[i] = (int32_t)k;
    }
}

static sl_status topk(const sl_host *host, const sl_op_topk *op) {
    (void)host;
    return op->k == 1 && op->value == NULL ? fake_launch(op->lane, run_topk, op, sizeof *op) : SL_E_UNIMPLEMENTED;
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
                         .attend = attend,
                         .act_mul = act_mul,
                         .topk = topk,
                         .embed = embed,
                         .append = append,
                         .move = move,
                         .gather = gather};
