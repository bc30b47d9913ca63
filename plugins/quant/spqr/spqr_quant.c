/* SpQR, arXiv 2306.03078, algorithm 1: the walk of GPTQ over groups of 16 inputs whose scales and zeros are quantised
 * in their turn over 16 rows, and weights that would hurt most kept apart. The test for outliers is that of the
 * official code (leave one out). Where it differs: a range that is one point is widened to 0 instead of to [-1, 1]. */
#include "spqr.h"

#include <math.h>
#include <string.h>

#include "sl_bits.h"
#include "sl_error.h"
#include "sl_half.h"
#include "sl_obs.h"

/* ---- a range -> scale and zero, neither rounded --------------------------------------------------------------------
 */

typedef struct quantiser {
    double scale, zero, top;
} quantiser;

static quantiser fit_range(const double *w, int64_t n, int64_t skip, int bits) {
    double low = INFINITY, high = -INFINITY, top = (1 << bits) - 1;
    for (int64_t i = 0; i < n; i++) {
        if (i == skip)
            continue;
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    if (!(high > low)) { /* one value: 0 joins it, so that it is met exactly */
        low = low < 0 ? low : 0;
        high = high > 0 ? high : 0;
    }
    double scale = high > low ? (high - low) / top : 1;
    return (quantiser){scale, high > low ? -low / scale : 0, top};
}

static double code_of(const quantiser *q, double w) {
    double c = rint(w / (q->scale > 1e-9 ? q->scale : 1e-9) + q->zero);
    return c < 0 ? 0 : c > q->top ? q->top : c;
}

static double value_of(const quantiser *q, double code) { return q->scale * (code - q->zero); }

/* ---- one matrix: tiles of rows -------------------------------------------------------------------------------------
 */

typedef struct matrix {
    const sl_pack_env *env;
    const spqr_settings *s;
    const sl_tensor *weight;
    const uint8_t *dead;   /* [k] by input */
    const uint32_t *order; /* [k] input at each place */
    const double *u;
    double tau;
    spqr_matrix *out;
    uint8_t *codes, *stat; /* of out, to be written */
    uint16_t *second;
    float *exact; /* [n, k] weights of outliers, NaN elsewhere */
    double *room;
    int64_t room_size;
    double *loss; /* [tiles] */
    int *failed;  /* [tiles] 1: NaN or Inf, 2: out of f16's range */
} matrix;

typedef struct tile {
    const matrix *m;
    int64_t row0;
    int rows, failed;
    quantiser q[SL_OBS_ROWS];
    double *group; /* [group] */
    double *mark;  /* [group] 1: likely an outlier */
} tile;

/* Error of all weights but one, each divided by how much its column's error costs. */
static double weighted_error(const matrix *m, const double *w, int64_t j, int64_t n, int64_t skip, const quantiser *q) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (value_of(q, code_of(q, w[i])) - w[i]) / m->u[(j + i) * m->out->k + j + i];
        sum += i == skip ? 0 : e * e;
    }
    return sum;
}

/* Weights without which the rest of the group is met so much better give way to the mean of the others. */
static void leave_out(const tile *t, double *w, int64_t j, int64_t n) {
    const matrix *m = t->m;
    quantiser all = fit_range(w, n, -1, m->s->bits);
    double base = weighted_error(m, w, j, n, -1, &all), sum = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        quantiser others = fit_range(w, n, i, m->s->bits);
        t->mark[i] = base - weighted_error(m, w, j, n, i, &others) > m->tau;
        if (!t->mark[i])
            sum += w[i], kept++;
    }
    for (int64_t i = 0; i < n; i++)
        if (t->mark[i])
            w[i] = kept > 0 ? sum / (double)kept : 0;
}

static uint16_t half(tile *t, double v) {
    uint16_t h = sl_f16_of_f32((float)v);
    if ((h & 0x7c00) == 0x7c00)
        t->failed = 2;
    return h;
}

/* Scales (or zeros) of the tile's rows become codes of a second quantiser; shift: their place in `stat`. */
static void second_level(tile *t, int64_t g, int bits, int shift) {
    const matrix *m = t->m;
    double v[SL_OBS_ROWS];
    for (int r = 0; r < t->rows; r++)
        v[r] = shift == 0 ? t->q[r].scale : t->q[r].zero;
    quantiser q = fit_range(v, t->rows, -1, bits);
    uint16_t *second = m->second + 4 * (t->row0 / m->s->tile * m->out->groups + g) + shift / 2;
    second[0] = half(t, q.scale);
    second[1] = half(t, q.zero);
    for (int r = 0; r < t->rows; r++) {
        double code = code_of(&q, v[r]);
        m->stat[(t->row0 + r) * m->out->groups + g] |= (uint8_t)((unsigned)code << shift);
        *(shift == 0 ? &t->q[r].scale : &t->q[r].zero) = value_of(&q, code);
    }
}

static void first_level(tile *t, int64_t g) {
    for (int r = 0; r < t->rows; r++) {
        uint8_t *p = t->m->stat + 4 * ((t->row0 + r) * t->m->out->groups + g);
        uint16_t s = half(t, t->q[r].scale), z = half(t, t->q[r].zero);
        p[0] = (uint8_t)(s & 255), p[1] = (uint8_t)(s >> 8), p[2] = (uint8_t)(z & 255), p[3] = (uint8_t)(z >> 8);
    }
}

static void fit(void *user, const double *w, int64_t j, int64_t len) {
    tile *t = user;
    const matrix *m = t->m;
    for (int r = 0; r < t->rows; r++) {
        memcpy(t->group, w + r * m->out->k + j, sizeof *w * (size_t)len);
        if (!m->s->simplified && len > 1 && isfinite(m->tau))
            leave_out(t, t->group, j, len);
        t->q[r] = fit_range(t->group, len, -1, m->s->bits);
    }
    if (m->second == NULL) {
        first_level(t, j / m->s->group);
        return;
    }
    second_level(t, j / m->s->group, m->s->scale_bits, 0);
    second_level(t, j / m->s->group, m->s->zero_bits, 4);
}

static void column(void *user, const double *w, int64_t j, double *value) {
    tile *t = user;
    const matrix *m = t->m;
    int64_t k = m->out->k, bytes = m->s->group * m->s->bits / 8;
    for (int r = 0; r < t->rows; r++) {
        double now = w[r * k + j], code = code_of(&t->q[r], now), e;
        value[r] = value_of(&t->q[r], code);
        e = (now - value[r]) / m->u[j * k + j];
        if (e * e > m->tau) { /* the base holds (about) 0, the rest is kept apart */
            code = code_of(&t->q[r], 0);
            value[r] = now;
            m->exact[(t->row0 + r) * k + j] = (float)now;
        }
        int64_t at = (t->row0 + r) * m->out->groups + j / m->s->group;
        sl_bits_put(m->codes + at * bytes, j % m->s->group, m->s->bits, (uint32_t)code);
    }
}

static void run_tile(const matrix *m, int64_t index, double *room) {
    int64_t k = m->out->k;
    double *w = room, *error = w + m->s->tile * k, *group = error + m->s->tile * m->s->block;
    float *row = (float *)(group + 2 * m->s->group);
    tile t = {.m = m, .row0 = index * m->s->tile, .group = group, .mark = group + m->s->group};
    t.rows = (int)(m->out->n - t.row0 < m->s->tile ? m->out->n - t.row0 : m->s->tile);
    for (int r = 0; r < t.rows; r++) {
        if (!sl_pack_row(m->env, m->weight, t.row0 + r, row)) {
            m->failed[index] = 1;
            return;
        }
        for (int64_t i = 0; i < k; i++) {
            w[r * k + i] = m->dead[m->order[i]] ? 0 : row[m->order[i]];
            m->exact[(t.row0 + r) * k + i] = NAN;
        }
    }
    sl_obs obs = {.u = m->u,
                  .n = k,
                  .block = m->s->block,
                  .group = m->s->group,
                  .fit = fit,
                  .column = column,
                  .user = &t,
                  .rows = t.rows};
    m->loss[index] = sl_obs_run(&obs, w, error);
    m->failed[index] = t.failed;
}

static void run_tiles(void *user, int64_t begin, int64_t end, int32_t worker) {
    const matrix *m = user;
    for (int64_t i = begin; i < end; i++)
        run_tile(m, i, m->room + worker * m->room_size);
}

/* ---- threshold, sparse part ----------------------------------------------------------------------------------------
 */

/* tau: the mean over columns of (variance over rows / U_jj^2), times the setting. */
static sl_status find_tau(matrix *m, double *tau) {
    int64_t n = m->out->n, k = m->out->k;
    *tau = m->s->threshold;
    if (!isfinite(m->s->threshold) || m->s->threshold == 0)
        return SL_OK;
    double *sum = sl_pack_alloc(m->env, 2 * k * (int64_t)sizeof *sum), *square = sum != NULL ? sum + k : NULL, mean = 0;
    float *row = sl_pack_alloc(m->env, k * (int64_t)sizeof *row);
    sl_status s = sum != NULL && row != NULL ? SL_OK : SL_E_NO_MEMORY;
    for (int64_t r = 0; s >= 0 && r < n; r++) {
        if (!sl_pack_row(m->env, m->weight, r, row))
            s = SL_E_DATA;
        for (int64_t i = 0; i < k; i++) {
            double w = m->dead[m->order[i]] ? 0 : row[m->order[i]];
            sum[i] += w;
            square[i] += w * w;
        }
    }
    for (int64_t i = 0; s >= 0 && n > 1 && i < k; i++) {
        double variance = (square[i] - sum[i] * sum[i] / (double)n) / (double)(n - 1), d = m->u[i * k + i];
        mean += (variance > 0 ? variance : 0) / (d * d) / (double)k;
    }
    *tau = m->s->threshold * mean;
    sl_pack_release(m->env, sum);
    sl_pack_release(m->env, row);
    return s;
}

/* Joins what the walk left into the matrix: counts outliers, takes the final block, writes what is added to the base.
 */
static sl_status assemble(matrix *m, sl_error *err) {
    spqr_matrix *o = m->out, base = *o;
    int64_t n = o->n, k = o->k, bytes[SPQR_PARTS];
    for (int64_t i = 0; i < n * k; i++)
        o->nnz += !isnan(m->exact[i]);
    if (o->nnz > UINT32_MAX)
        return sl_fail(err, SL_E_RANGE, "more than 2^32 outliers");
    int ordered = m->s->act_order;
    o->owned = sl_pack_alloc(m->env, spqr_place(o, NULL, ordered));
    float *row = sl_pack_alloc(m->env, k * (int64_t)sizeof *row);
    if (o->owned == NULL || row == NULL) {
        sl_pack_release(m->env, row);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the packed matrix");
    }
    spqr_place(o, o->owned, ordered);
    spqr_part_bytes(o, bytes);
    base.codes = m->codes;
    base.stat = m->stat;
    base.second = m->second;
    memcpy((void *)(uintptr_t)o->codes, m->codes, (size_t)bytes[SPQR_CODES]);
    memcpy((void *)(uintptr_t)o->stat, m->stat, (size_t)bytes[SPQR_STAT]);
    if (m->second != NULL)
        memcpy((void *)(uintptr_t)o->second, m->second, (size_t)bytes[SPQR_SECOND]);
    if (ordered)
        memcpy((void *)(uintptr_t)o->order, m->order, (size_t)bytes[SPQR_ORDER]);
    uint32_t *rowptr = (uint32_t *)(uintptr_t)o->rowptr;
    uint16_t *val = (uint16_t *)(uintptr_t)o->val;
    int64_t at = 0;
    sl_status s = SL_OK;
    for (int64_t r = 0; r < n; r++) {
        spqr_decode_base(&base, r, row);
        rowptr[r] = (uint32_t)at;
        for (int64_t i = 0; i < k; i++)
            if (!isnan(m->exact[r * k + i])) {
                spqr_set_column(o, at, i);
                val[at] = sl_f16_of_f32(m->exact[r * k + i] - row[i]);
                if ((val[at++] & 0x7c00) == 0x7c00)
                    s = sl_fail(err, SL_E_RANGE, "an outlier is too large for f16");
            }
    }
    rowptr[n] = (uint32_t)at;
    sl_pack_release(m->env, row);
    return s;
}

static sl_status walk(matrix *m, sl_error *err, double *loss) {
    const sl_pack_env *env = m->env;
    const spqr_matrix *o = m->out;
    int64_t bytes[SPQR_PARTS];
    spqr_part_bytes(o, bytes);
    m->room_size = m->s->tile * (o->k + m->s->block) + 2 * m->s->group + o->k;
    m->codes = sl_pack_alloc(env, bytes[SPQR_CODES]);
    m->stat = sl_pack_alloc(env, bytes[SPQR_STAT]);
    m->second = bytes[SPQR_SECOND] > 0 ? sl_pack_alloc(env, bytes[SPQR_SECOND]) : NULL;
    m->exact = sl_pack_alloc(env, o->n * o->k * (int64_t)sizeof *m->exact);
    m->room = sl_pack_alloc(env, env->threads->n_workers(env->host) * m->room_size * (int64_t)sizeof *m->room);
    m->loss = sl_pack_alloc(env, o->tiles * (int64_t)sizeof *m->loss);
    m->failed = sl_pack_alloc(env, o->tiles * (int64_t)sizeof *m->failed);
    if (m->codes == NULL || m->stat == NULL || (bytes[SPQR_SECOND] > 0 && m->second == NULL) || m->exact == NULL ||
        m->room == NULL || m->loss == NULL || m->failed == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory to quantise it");
    sl_status s = find_tau(m, &m->tau);
    if (s < 0)
        return sl_fail(err, s, s == SL_E_DATA ? "a weight is not a finite number" : "no memory to quantise it");
    env->threads->parallel_for(env->host, o->tiles, 1, run_tiles, m);
    for (int64_t i = 0; i < o->tiles; i++) {
        *loss += m->loss[i];
        if (m->failed[i])
            return sl_fail(
                err, m->failed[i] == 1 ? SL_E_DATA : SL_E_RANGE, "rows from %lld: %s", (long long)(i * m->s->tile),
                m->failed[i] == 1 ? "a weight is not a finite number" : "a scale or zero is out of f16's range");
    }
    return assemble(m, err);
}

sl_status spqr_quantize(const sl_pack_env *env, const spqr_settings *s, const sl_linear_group *group,
                        const sl_calibration *data, spqr_matrix *out, double *loss, sl_error *err) {
    int64_t k = group->in;
    uint8_t *dead = sl_pack_alloc(env, k);
    uint32_t *order = sl_pack_alloc(env, k * (int64_t)sizeof *order);
    sl_status status = dead != NULL && order != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "no memory");
    if (status >= 0)
        status = sl_hessian_factor(env, &(sl_hessian_plan){s->percdamp, s->act_order, 1}, data->hessian, k, dead, order,
                                   err);
    *loss = 0;
    for (int32_t i = 0; status >= 0 && i < group->n; i++) {
        const sl_tensor *w = &group->linears[i]->weight;
        matrix m = {.env = env, .s = s, .weight = w, .dead = dead, .order = order, .u = data->hessian, .out = &out[i]};
        spqr_shape(&out[i], w->shape[0], k, s);
        status = walk(&m, err, loss);
        if (status < 0)
            sl_fail_within(err, status, "%s", group->linears[i]->name);
        void *owned[] = {m.codes, m.stat, m.second, m.exact, m.room, m.loss, m.failed};
        for (size_t j = 0; j < sizeof owned / sizeof *owned; j++)
            sl_pack_release(env, owned[j]);
    }
    sl_pack_release(env, dead);
    sl_pack_release(env, order);
    return status;
}
