/* GPTQ, arXiv 2210.17323, algorithm 1, with act-order and static groups of the reference implementation. Where it
 * differs: groups are fitted on weights that hold all feedback so far, scales are rounded to f16 before codes are
 * chosen, and a symmetric range is symmetric even if no weight of the group is negative. */
#include "gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_half.h"
#include "sl_obs.h"

enum { TILE = 16 }; /* rows that are walked together */

/* ---- the quantiser of a group --------------------------------------------------------------------------------------
 */

static double clamp(double x, double top) { return x < 0 ? 0 : x > top ? top : x; }

static int set_scale(double range, double top, double *scale) {
    uint16_t h = sl_f16_of_f32((float)(range / top));
    *scale = sl_f32_of_f16(h == 0 ? 1 : h);
    return isfinite(*scale);
}

static double error_of(const gptq_settings *s, const double *w, int64_t n, double scale, double zero) {
    double top = (1 << s->bits) - 1, sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow(fabs(scale * (clamp(rint(w[i] / scale) + zero, top) - zero) - w[i]), s->mse_norm);
    return sum;
}

int gptq_fit(const gptq_settings *s, const double *w, int64_t n, double *scale, double *zero) {
    double low = 0, high = 0, top = (1 << s->bits) - 1;
    for (int64_t i = 0; i < n; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    if (s->sym) {
        high = -low > high ? -low : high;
        low = -high;
    }
    if (high == low)
        low = -1, high = 1;
    /* the range as it is, and, with mse, smaller ones, of which the best stays */
    int64_t tries = s->mse ? (int64_t)(s->mse_shrink * (double)s->mse_grid) : 1;
    double best = INFINITY;
    for (int64_t i = 0; i < tries || i < 1; i++) {
        double p = 1 - (double)i / (double)s->mse_grid, sc, z, e = 0;
        if (!set_scale(p * (high - low), top, &sc))
            return 0;
        z = s->sym ? (top + 1) / 2 : clamp(rint(-p * low / sc), top);
        if (tries > 1)
            e = error_of(s, w, n, sc, z);
        if (e < best)
            best = e, *scale = sc, *zero = z;
    }
    return 1;
}

/* ---- one matrix: tiles of rows, each on its own --------------------------------------------------------------------
 */

typedef struct matrix {
    const sl_pack_env *env;
    const gptq_settings *s;
    const sl_tensor *weight;
    const uint8_t *dead;    /* [k] by input */
    const uint32_t *walk;   /* [k] input at each step of the walk */
    const uint32_t *target; /* [k] place of its code */
    const double *u;
    gptq_linear *out;
    double *room; /* of each worker: room_size */
    int64_t room_size;
    double *loss; /* [tiles] */
    int *failed;  /* [tiles] 1: not a number, 2: out of range */
} matrix;

typedef struct tile {
    const matrix *m;
    int64_t row0;
    int rows, failed;
    double scale[TILE], zero[TILE];
    double *group; /* [group] weights of one row, side by side */
} tile;

/* Keeps the quantiser of group g for the file. */
static void keep(tile *t, int r, int64_t g) {
    gptq_linear *o = t->m->out;
    int64_t at = (t->row0 + r) * o->n_groups + g;
    o->scale[at] = sl_f16_of_f32((float)t->scale[r]);
    o->zero[at] = (uint8_t)t->zero[r];
}

static void fit_rows(tile *t, const double *w, int64_t ld, int64_t j, int64_t len, int64_t g) {
    for (int r = 0; r < t->rows; r++) {
        if (!gptq_fit(t->m->s, w + r * ld + j, len, &t->scale[r], &t->zero[r])) {
            t->failed = 2;
            t->scale[r] = 1;
        }
        keep(t, r, g);
    }
}

static void fit(void *user, const double *w, int64_t j, int64_t len) {
    tile *t = user;
    fit_rows(t, w, t->m->out->k, j, len, j / t->m->out->group);
}

static void column(void *user, const double *w, int64_t j, double *value) {
    tile *t = user;
    gptq_linear *o = t->m->out;
    int64_t i = t->m->walk[j], k = o->k, at = t->m->target[j];
    double top = (1 << o->bits) - 1;
    for (int r = 0; r < t->rows; r++) {
        if (t->m->s->static_groups) {
            int64_t g = (t->row0 + r) * o->n_groups + i / o->group;
            t->scale[r] = sl_f32_of_f16(o->scale[g]);
            t->zero[r] = o->zero[g];
        }
        double q = clamp(rint(w[r * k + j] / t->scale[r]) + t->zero[r], top);
        o->code[(t->row0 + r) * k + at] = (uint8_t)q;
        value[r] = t->scale[r] * (q - t->zero[r]);
    }
}

static void run_tile(const matrix *m, int64_t index, double *room) {
    const gptq_linear *o = m->out;
    int64_t k = o->k;
    double *w = room, *error = w + TILE * k, *row64 = error + TILE * m->s->block_size;
    float *row = (float *)(row64 + k);
    tile t = {.m = m, .row0 = index * TILE};
    t.rows = (int)(o->n - t.row0 < TILE ? o->n - t.row0 : TILE);
    int whole = m->s->group_size < 0;
    for (int r = 0; r < t.rows; r++) {
        if (!sl_pack_row(m->env, m->weight, t.row0 + r, row)) {
            m->failed[index] = 1;
            return;
        }
        for (int64_t i = 0; i < k; i++)
            row64[i] = row[i];
        if (whole) { /* from the original weights, dead inputs included */
            if (!gptq_fit(m->s, row64, k, &t.scale[r], &t.zero[r]))
                t.failed = 2, t.scale[r] = 1;
            keep(&t, r, 0);
        }
        for (int64_t i = 0; i < k; i++)
            row64[i] = m->dead[i] ? 0 : row64[i];
        for (int64_t g = 0; m->s->static_groups && !whole && g < o->n_groups; g++) {
            tile one = {.m = m, .row0 = t.row0 + r, .rows = 1};
            int64_t j = g * o->group, len = o->group < k - j ? o->group : k - j;
            fit_rows(&one, row64, k, j, len, g);
            t.failed = one.failed ? one.failed : t.failed;
        }
        for (int64_t i = 0; i < k; i++)
            w[r * k + i] = row64[m->walk[i]];
    }
    sl_obs obs = {.u = m->u,
                  .n = k,
                  .block = m->s->block_size,
                  .group = whole || m->s->static_groups ? 0 : o->group,
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

static sl_status run_matrix(matrix *m, const sl_linear *linear, double *loss, sl_error *err) {
    const sl_pack_env *env = m->env;
    int64_t tiles = (m->out->n + TILE - 1) / TILE, k = m->out->k;
    m->room_size = TILE * (k + m->s->block_size) + 2 * k;
    m->room = sl_pack_alloc(env, env->threads->n_workers(env->host) * m->room_size * (int64_t)sizeof *m->room);
    m->loss = sl_pack_alloc(env, tiles * (int64_t)sizeof *m->loss);
    m->failed = sl_pack_alloc(env, tiles * (int64_t)sizeof *m->failed);
    sl_status s = SL_OK;
    if (m->room == NULL || m->loss == NULL || m->failed == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to quantise it", linear->name);
    else
        env->threads->parallel_for(env->host, tiles, 1, run_tiles, m);
    for (int64_t i = 0; s >= 0 && i < tiles; i++) {
        *loss += m->loss[i];
        if (m->failed[i])
            s = sl_fail(err, m->failed[i] == 1 ? SL_E_DATA : SL_E_RANGE, "%s, rows from %lld: %s", linear->name,
                        (long long)i * TILE,
                        m->failed[i] == 1 ? "a weight is not a finite number"
                                          : "a range is too large for an f16 scale");
    }
    sl_pack_release(env, m->room);
    sl_pack_release(env, m->loss);
    sl_pack_release(env, m->failed);
    return s;
}

/* ---- a group -------------------------------------------------------------------------------------------------------
 */

static int by_index(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Where codes go. With groups along the walk (sorted): the order of groups, and inside a group that of inputs, which is
 * all that a file tells. Else, static groups and whole rows: the inputs' own places. */
static void find_targets(const uint32_t *walk, int64_t k, int64_t group, uint32_t *sorted, uint32_t *target) {
    for (int64_t i = 0; i < k; i++)
        target[i] = walk[i];
    if (sorted == NULL)
        return;
    memcpy(sorted, walk, sizeof *sorted * (size_t)k);
    for (int64_t g = 0; g < k; g += group) {
        int64_t n = k - g < group ? k - g : group;
        qsort(sorted + g, (size_t)n, sizeof *sorted, by_index);
        for (int64_t i = g; i < g + n; i++)
            target[i] = (uint32_t)(g + ((uint32_t *)bsearch(&walk[i], sorted + g, (size_t)n, sizeof *sorted, by_index) -
                                        (sorted + g)));
    }
}

static sl_status make_linear(const sl_pack_env *env, const gptq_settings *s, const sl_linear *linear,
                             const uint32_t *order, gptq_linear *out) {
    int64_t n = linear->weight.shape[0], k = linear->weight.shape[1];
    int64_t group = s->group_size < 0 || s->group_size > k ? k : s->group_size;
    *out = (gptq_linear){
        .n = n, .k = k, .group = group, .n_groups = (k + group - 1) / group, .bits = s->bits, .asym = !s->sym};
    out->code = sl_pack_alloc(env, n * k);
    out->scale = sl_pack_alloc(env, n * out->n_groups * (int64_t)sizeof *out->scale);
    out->zero = sl_pack_alloc(env, n * out->n_groups);
    out->order = order != NULL ? sl_pack_alloc(env, k * (int64_t)sizeof *order) : NULL;
    if (out->code == NULL || out->scale == NULL || out->zero == NULL || (order != NULL && out->order == NULL))
        return SL_E_NO_MEMORY;
    if (order != NULL)
        memcpy(out->order, order, sizeof *order * (size_t)k);
    return SL_OK;
}

sl_status gptq_quantize(const sl_pack_env *env, const gptq_settings *s, const sl_linear_group *group,
                        const sl_calibration *data, gptq_linear *out, double *loss, sl_error *err) {
    int64_t k = group->in;
    int sorts = s->desc_act && !s->static_groups && s->group_size > 0 && s->group_size < k;
    uint8_t *dead = sl_pack_alloc(env, k);
    uint32_t *walk = sl_pack_alloc(env, k * (int64_t)sizeof *walk);
    uint32_t *target = sl_pack_alloc(env, k * (int64_t)sizeof *target);
    uint32_t *sorted = sorts ? sl_pack_alloc(env, k * (int64_t)sizeof *sorted) : NULL;
    sl_status status = dead != NULL && walk != NULL && target != NULL && (!sorts || sorted != NULL)
                           ? SL_OK
                           : sl_fail(err, SL_E_NO_MEMORY, "no memory for the order of %lld inputs", (long long)k);
    *loss = 0;
    if (status >= 0)
        status = sl_hessian_factor(env, &(sl_hessian_plan){s->damp_percent, s->desc_act, 0}, data->hessian, k, dead,
                                   walk, err);
    if (status >= 0)
        find_targets(walk, k, s->group_size, sorted, target);
    for (int32_t i = 0; status >= 0 && i < group->n; i++) {
        matrix m = {.env = env,
                    .s = s,
                    .weight = &group->linears[i]->weight,
                    .dead = dead,
                    .walk = walk,
                    .target = target,
                    .u = data->hessian,
                    .out = &out[i]};
        if (make_linear(env, s, group->linears[i], sorted, &out[i]) < 0)
            status = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for its codes", group->linears[i]->name);
        else
            status = run_matrix(&m, group->linears[i], loss, err);
    }
    sl_pack_release(env, dead);
    sl_pack_release(env, walk);
    sl_pack_release(env, target);
    sl_pack_release(env, sorted);
    return status;
}
