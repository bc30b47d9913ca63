/* See sl_hessian.h. */
#include "sl_hessian.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"
#include "sl_factor.h"

int sl_pack_row(const sl_pack_env *env, const sl_tensor *w, int64_t row, float *to) {
    int64_t bytes = w->dtype == SL_F32 ? 4 : 2, k = w->shape[1];
    if (env->ops->convert(to, SL_F32, (const char *)w->data + row * w->stride[0] * bytes, w->dtype, k) < 0)
        return 0;
    for (int64_t i = 0; i < k; i++)
        if (!isfinite(to[i]))
            return 0;
    return 1;
}

typedef struct ranked {
    double weight;
    uint32_t index;
} ranked;

static int by_weight(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight ? 1 : -1) : x->index < y->index ? -1 : x->index > y->index;
}

static void rank(const double *h, int64_t k, ranked *list, uint32_t *order) {
    for (int64_t i = 0; i < k; i++)
        list[i] = (ranked){h[i * k + i], (uint32_t)i};
    qsort(list, (size_t)k, sizeof *list, by_weight);
    for (int64_t i = 0; i < k; i++)
        order[i] = list[i].index;
}

/* h <- h[order][order]; rows are moved along the cycles of the permutation. row: [k], moved: [k] zeros. */
static void reorder(double *h, int64_t k, const uint32_t *order, double *row, uint8_t *moved) {
    size_t bytes = sizeof *h * (size_t)k;
    for (int64_t first = 0; first < k; first++) {
        if (moved[first])
            continue;
        int64_t to = first;
        memcpy(row, h + first * k, bytes);
        while (order[to] != first) {
            memcpy(h + to * k, h + (int64_t)order[to] * k, bytes);
            moved[to] = 1;
            to = order[to];
        }
        memcpy(h + to * k, row, bytes);
        moved[to] = 1;
    }
    for (int64_t i = 0; i < k; i++) {
        memcpy(row, h + i * k, bytes);
        for (int64_t j = 0; j < k; j++)
            h[i * k + j] = row[order[j]];
    }
}

static void damp(const sl_hessian_plan *plan, double *h, int64_t k, const uint8_t *dead, const uint32_t *order) {
    double mean = 0;
    for (int64_t i = 0; i < k; i++) {
        double *d = &h[i * k + i];
        if (dead[order[i]] && !plan->damps_dead)
            *d = 1;
        mean += fabs(*d) / (double)k;
    }
    for (int64_t i = 0; i < k; i++) {
        double *d = &h[i * k + i];
        *d = dead[order[i]] && plan->damps_dead ? 1 : *d + plan->damp * mean;
    }
}

sl_status sl_hessian_factor(const sl_pack_env *env, const sl_hessian_plan *plan, double *h, int64_t k, uint8_t *dead,
                            uint32_t *order, sl_error *err) {
    double *work = sl_pack_alloc(env, SL_FACTOR_PANEL * k * (int64_t)sizeof *work);
    uint8_t *moved = sl_pack_alloc(env, k);
    ranked *list = sl_pack_alloc(env, k * (int64_t)sizeof *list);
    sl_status s = work != NULL && moved != NULL && list != NULL
                      ? SL_OK
                      : sl_fail(err, SL_E_NO_MEMORY, "no memory for the Hessian's factor");
    for (int64_t i = 0; s >= 0 && i < k; i++) {
        order[i] = (uint32_t)i;
        dead[i] = h[i * k + i] == 0;
    }
    if (s >= 0 && plan->by_weight) {
        rank(h, k, list, order);
        reorder(h, k, order, work, moved);
    }
    if (s >= 0) {
        damp(plan, h, k, dead, order);
        s = sl_inverse_factor(h, k, work, env->host, env->threads);
        if (s < 0)
            sl_fail(err, s,
                    "the Hessian of %lld inputs is not positive definite: more samples or more damping are needed",
                    (long long)k);
    }
    sl_pack_release(env, work);
    sl_pack_release(env, moved);
    sl_pack_release(env, list);
    return s;
}
