/* Activations and softmax in plain C. */
#include "kernels_fill.h"

#include <math.h>

static float sigmoid_of(float x, float u) { return x / (1.0f + expf(-u)); }

static void silu_mul_ref(const slk_act *p, int64_t row_begin, int64_t row_end) {
    for (int64_t r = row_begin; r < row_end; r++) {
        const float *g = p->gate + r * p->ld_gate, *up = p->up ? p->up + r * p->ld_up : NULL;
        for (int64_t i = 0; i < p->n; i++)
            p->y[r * p->ldy + i] = sigmoid_of(g[i], g[i]) * (up ? up[i] : 1.0f);
    }
}

static void gelu_mul_ref(const slk_act *p, int64_t row_begin, int64_t row_end) {
    const float c = 0.7978845608028654f; /* sqrt(2 / pi) */
    for (int64_t r = row_begin; r < row_end; r++) {
        const float *gate = p->gate + r * p->ld_gate, *up = p->up ? p->up + r * p->ld_up : NULL;
        for (int64_t i = 0; i < p->n; i++) {
            const float g = gate[i], u = 2.0f * c * (g + 0.044715f * g * g * g);
            p->y[r * p->ldy + i] = sigmoid_of(g, u) * (up ? up[i] : 1.0f);
        }
    }
}

static float softmax_ref(float *x, int64_t n) {
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    if (max == -INFINITY) {
        for (int64_t i = 0; i < n; i++)
            x[i] = 0;
        return -INFINITY;
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    const float inv = (float)(1 / sum);
    for (int64_t i = 0; i < n; i++)
        x[i] *= inv;
    return max + logf((float)sum);
}

void slk_act_fill_ref(slk_kernels *k) {
    SLK_SET(k, silu_mul, silu_mul_ref);
    SLK_SET(k, gelu_mul, gelu_mul_ref);
    SLK_SET(k, softmax, softmax_ref);
}
