/* See device_fake.h: operations on rows of sequences - append, attend, move, keep - with true counts read from the step
 * in device memory, as kernels on a GPU read them. */
#include "device_fake_values.h"

#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

#include "../support/coded_rows.h"

/* ---- append ------------------------------------------------------------------------------------------------------ */

typedef struct append_args {
    sl_step_device step;
    sl_rope rope; /* struct_size 0: none */
    sl_tensor q, k, v, q_norm, k_norm;
    sl_view_device into;
    double eps;
} append_args;

/* What the view says of head h: strides, or a table in device memory. */
static int64_t head_of(const sl_view_device *v, int64_t h, int field) {
    if (v->heads != NULL)
        return *(const int64_t *)fake_at(v->heads + h * SL_HEAD_FIELDS + field, sizeof(int64_t), "view");
    return field == SL_HEAD_K   ? h * v->k_head_stride
           : field == SL_HEAD_V ? h * v->v_head_stride
                                : h * v->pages_head_stride;
}

/* Where slot s of head h is, of keys or values. */
static void *slot_at(const sl_view_device *v, int32_t seq, int64_t h, int64_t s, int values) {
    const int32_t *page =
        ints(v->pages + seq * v->pages_stride + head_of(v, h, SL_HEAD_PAGES) + s / v->page_rows, 1, "view");
    int64_t in_page = s % v->page_rows;
    const char *p = values ? (const char *)v->v_pool + *page * v->v_page_stride + in_page * v->v_row_stride
                           : (const char *)v->k_pool + *page * v->k_page_stride + in_page * v->k_row_stride;
    p += head_of(v, h, values ? SL_HEAD_V : SL_HEAD_K);
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
    const int32_t *row_seq = ints(s->row_seq, s->max_rows, "append"),
                  *begin = ints(s->row_begin, s->max_seqs + 1, "append"), *ids = ints(s->seq, s->max_seqs, "append");
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

sl_status fake_append(const sl_host *host, const sl_op_append *op) {
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
    const int32_t *device_n;
    int32_t n;
    sl_tensor q, o;
    sl_view_device view, plain; /* plain: of the view's rows that are no codes */
    sl_mask mask;
    double scale, softcap;
    float *colsum; /* NULL: not wanted */
    const float *colsum_weight;
    int64_t score_stride, colsum_heads;
} attend_args;

/* First token that a row sees of a windowed head, sinks aside. */
static int64_t first_token(const attend_args *a, int32_t place, int64_t token) {
    const sl_step_device *s = &a->step;
    int64_t from = token, n = a->mask.window_chunk, past = *ints(s->n_past + place, 1, "attend");
    if (n > 0 && !*ints(s->is_tree + place, 1, "attend")) {
        from = token - token % n > past ? token - token % n : past;
        if (from == 0 && a->mask.window_first)
            from = token;
    }
    return a->mask.window > 0 ? from - a->mask.window + 1 : 0;
}

/* Does row i see row j of its sequence's rows? */
static int sees(const sl_step_device *s, int32_t place, int32_t i, int32_t j, int32_t begin) {
    if (!*ints(s->is_tree + place, 1, "attend"))
        return j <= i - begin;
    const uint32_t *bits =
        fake_at(s->ancestors + (int64_t)i * (SL_MAX_TREE_NODES / 32), SL_MAX_TREE_NODES / 8, "attend");
    return (int)(bits[j / 32] >> j % 32 & 1);
}

typedef struct softmax {
    float most, sum, *o;
} softmax;

static void *at_view(const void *address, int64_t bytes) { return fake_at(address, bytes, "view"); }

/* A row as floats, wherever its head lies and whatever it is kept as. */
static void read_row(const sl_view_device *v, int32_t seq, int64_t h, int64_t slot, int values, float *out) {
    if (v->plain != NULL || (values ? v->v_bits : v->k_bits) > 0)
        coded_read(v, seq, h, slot, values, at_view, out);
    else
        coded_widen(out, slot_at(v, seq, h, slot, values), values ? v->v_dtype : v->k_dtype,
                    values ? v->v_dim : v->k_dim);
}

static float score_of(const attend_args *a, const float *q, int32_t seq, int64_t h, int64_t slot) {
    const sl_view_device *v = &a->view;
    float k[1024], score = 0;
    read_row(v, seq, h, slot, 0, k);
    for (int64_t d = 0; d < v->k_dim; d++)
        score += q[d] * k[d];
    score *= (float)a->scale;
    if (a->softcap > 0)
        score = (float)a->softcap * tanhf(score / (float)a->softcap);
    return score;
}

static void meet(const attend_args *a, const float *q, int32_t seq, int64_t h, int64_t slot, softmax *m) {
    const sl_view_device *v = &a->view;
    float value[1024];
    read_row(v, seq, h, slot, 1, value);
    float score = score_of(a, q, seq, h, slot), most = fmaxf(score, m->most), keep = expf(m->most - most),
          w = expf(score - most);
    m->sum = m->sum * keep + w;
    for (int64_t d = 0; d < v->v_dim; d++)
        m->o[d] = m->o[d] * keep + w * value[d];
    m->most = most;
}

/* Adds what row r gave each key, in a chain. */
static void count(const attend_args *a, const float *q, int32_t r, int32_t place, int64_t h, int64_t n,
                  const softmax *m) {
    const sl_step_device *s = &a->step;
    int64_t group = a->q.shape[1] / a->view.n_heads, kept = a->colsum_heads == a->q.shape[1] ? h : h / group;
    int32_t seq = *ints(s->seq + place, 1, "colsum"), begin = *ints(s->row_begin + place, 1, "colsum");
    float weight = *(const float *)fake_at(a->colsum_weight + r, 4, "colsum");
    float *sums =
        fake_at(a->colsum + (place * a->colsum_heads + kept) * a->score_stride, 4 * a->score_stride, "colsum");
    if (weight == 0)
        return;
    if (*ints(s->is_tree + place, 1, "colsum") || a->mask.window > 0 || n + r - begin >= a->score_stride)
        abort();
    for (int64_t slot = 0; slot <= n + r - begin; slot++)
        sums[slot] += weight * expf(score_of(a, q, seq, h / group, slot) - m->most) / m->sum;
}

static void attend_row(const attend_args *a, int32_t r, const int32_t *row_seq) {
    const sl_step_device *s = &a->step;
    int32_t place = row_seq[r], seq = *ints(s->seq + place, 1, "attend"),
            begin = *ints(s->row_begin + place, 1, "attend"), end = *ints(s->row_begin + place + 1, 1, "attend");
    const int32_t *token_index = ints(s->token_index, s->max_rows, "attend");
    int64_t H = a->q.shape[1], D = a->q.shape[2], Dv = a->o.shape[2], group = H / a->view.n_heads;
    float q[1024], o[1024];
    if (end - begin > s->max_seq_rows || *ints(s->n_past + place, 1, "attend") + end - begin > s->max_context)
        abort(); /* the bounds do not hold */
    for (int64_t h = 0; h < H; h++) {
        const uint16_t *from = row_of(&a->q, r, "attend");
        uint16_t *to = row_of(&a->o, r, "attend");
        int64_t n = committed(s, &a->view, place, seq, h / group);
        int windowed = a->view.heads == NULL || head_of(&a->view, h / group, SL_HEAD_WINDOWED);
        int64_t first = windowed ? first_token(a, place, token_index[r]) : 0;
        softmax m = {-INFINITY, 0, o};
        for (int64_t d = 0; d < D; d++)
            q[d] = load(from + h * D, SL_BF16, d);
        memset(o, 0, sizeof o);
        for (int64_t j = 0; j < n; j++)
            if (j >= first || j < a->mask.sinks)
                meet(a, q, seq, h / group, j, &m);
        for (int32_t j = 0; j < end - begin; j++)
            if (sees(s, place, r, j, begin) &&
                (token_index[begin + j] >= first || token_index[begin + j] < a->mask.sinks))
                meet(a, q, seq, h / group, n + j, &m);
        for (int64_t d = 0; d < Dv; d++)
            store(to + h * Dv, SL_BF16, d, o[d] / m.sum);
        if (a->colsum != NULL)
            count(a, q, r, place, h, n, &m);
    }
}

static void run_attend(const void *p) {
    attend_args *a = (attend_args *)(uintptr_t)p;
    if (a->view.plain != NULL)
        a->view.plain = &a->plain;
    int32_t n = a->device_n != NULL ? *ints(a->device_n, 1, "attend") : a->n;
    const int32_t *row_seq = ints(a->step.row_seq, a->step.max_rows, "attend");
    if (n > a->n)
        abort(); /* the bound does not hold */
    if (a->colsum != NULL) {
        int64_t bytes = 4 * a->step.max_seqs * a->colsum_heads * a->score_stride;
        memset(fake_at(a->colsum, bytes, "colsum"), 0, (size_t)bytes);
    }
    for (int32_t i = 0; i < n; i++)
        attend_row(a, i, row_seq);
}

sl_status fake_attend(const sl_host *host, const sl_attend *op) {
    (void)host;
    const sl_step_device *step = op->rows->batch->device;
    if (step == NULL || op->view->device == NULL || op->view->device->list != NULL || op->rows->index != NULL ||
        (op->want & ~(uint32_t)SL_WANT_COLSUM) || op->colsum_per_row || op->q.dtype != SL_BF16 ||
        op->o.dtype != SL_BF16 || op->q.shape[2] > 1024 || op->mask->base != SL_MASK_CAUSAL)
        return SL_E_UNIMPLEMENTED;
    attend_args a = {.step = *step,
                     .device_n = op->rows->device_n,
                     .n = op->rows->n,
                     .q = op->q,
                     .o = op->o,
                     .view = *op->view->device,
                     .mask = *op->mask,
                     .scale = op->scale,
                     .softcap = op->softcap};
    if (op->want & SL_WANT_COLSUM) {
        a.colsum = op->colsum, a.colsum_weight = op->colsum_weight, a.score_stride = op->score_stride;
        a.colsum_heads = op->colsum_heads > 0 ? op->colsum_heads : op->view->device->n_heads;
    }
    if (a.view.plain != NULL)
        a.plain = *a.view.plain;
    return fake_launch(op->lane, run_attend, &a, sizeof a);
}

/* ---- move, keep -------------------------------------------------------------------------------------------------- */

typedef struct move_args {
    sl_view_device layer;
    const int32_t *n_moves, *seq, *from, *to;
    int32_t max_moves;
    uint32_t staged;
} move_args;

static void run_move(const void *p) {
    const move_args *a = p;
    const sl_view_device *v = &a->layer;
    int32_t n = *ints(a->n_moves, 1, "move");
    for (int32_t m = 0; m < n && m < a->max_moves; m++)
        for (int64_t h = 0; h < v->n_heads; h++)
            for (int values = 0; values < 2; values++) {
                int32_t seq = *ints(a->seq + m, 1, "move");
                int64_t first = a->staged ? committed(NULL, v, 0, seq, h) : 0;
                void *to = slot_at(v, seq, h, first + *ints(a->to + m, 1, "move"), values);
                const void *from = slot_at(v, seq, h, first + *ints(a->from + m, 1, "move"), values);
                memcpy(to, from, (size_t)(values ? v->v_dim * size_of(v->v_dtype) : v->k_dim * size_of(v->k_dtype)));
            }
}

sl_status fake_move(const sl_host *host, const sl_op_move *op) {
    (void)host;
    for (int32_t l = 0; l < op->n_layers; l++) {
        move_args a = {*op->layers[l], op->n_moves, op->seq, op->from, op->to, op->max_moves, op->staged};
        if (op->staged && a.layer.n_rows == NULL)
            return SL_E_INVALID;
        SL_TRY(fake_launch(op->lane, run_move, &a, sizeof a));
    }
    return SL_OK;
}

typedef struct keep_args {
    sl_view_device layer;
    const int32_t *begin, *keep;
    int32_t seq;
} keep_args;

static void run_keep(const void *p) {
    const keep_args *a = p;
    const sl_view_device *v = &a->layer;
    const int32_t *begin = ints(a->begin, v->n_heads + 1, "keep");
    for (int64_t h = 0; h < v->n_heads; h++)
        for (int32_t i = begin[h]; i < begin[h + 1]; i++) {
            int32_t from = *ints(a->keep + i, 1, "keep");
            if (from < i - begin[h])
                abort(); /* slots do not ascend */
            for (int values = 0; values < 2; values++)
                memmove(slot_at(v, a->seq, h, i - begin[h], values), slot_at(v, a->seq, h, from, values),
                        (size_t)(values ? v->v_dim * size_of(v->v_dtype) : v->k_dim * size_of(v->k_dtype)));
        }
}

sl_status fake_keep(const sl_host *host, const sl_op_keep *op) {
    (void)host;
    keep_args a = {*op->layer, op->keep_begin, op->keep, op->seq};
    return fake_launch(op->lane, run_keep, &a, sizeof a);
}

/* ---- quantise ------------------------------------------------------------------------------------------------------
 */

typedef struct quantise_args {
    sl_view_device layer, plain;
    const int32_t *seq, *begin, *end, *side;
    int32_t n_jobs;
} quantise_args;

static void *at_quantise(const void *address, int64_t bytes) { return fake_at(address, bytes, "quantise"); }

static void run_quantise(const void *p) {
    const quantise_args *a = p;
    sl_view_device v = a->layer;
    v.plain = &a->plain;
    const int32_t *seq = ints(a->seq, a->n_jobs, "quantise"), *begin = ints(a->begin, a->n_jobs, "quantise"),
                  *end = ints(a->end, a->n_jobs, "quantise"), *side = ints(a->side, a->n_jobs, "quantise");
    for (int32_t j = 0; j < a->n_jobs; j++)
        coded_write(&v, seq[j], begin[j], end[j], side[j], at_quantise);
}

sl_status fake_quantise(const sl_host *host, const sl_op_quantise *op) {
    (void)host;
    for (int32_t l = 0; l < op->n_layers; l++) {
        const sl_view_device *v = op->layers[l];
        if (v->plain == NULL || op->lane->capturing)
            return SL_E_INVALID;
        quantise_args a = {*v, *v->plain, op->seq, op->begin, op->end, op->side, op->n_jobs};
        SL_TRY(fake_launch(op->lane, run_quantise, &a, sizeof a));
    }
    return SL_OK;
}
