/* RMS norm in plain C, squares summed in double. */
#include "kernels_fill.h"

#include <math.h>

static void rmsnorm_ref(const slk_norm *p, int64_t row_begin, int64_t row_end) {
    for (int64_t r = row_begin; r < row_end; r++) {
        const float *x = p->x + r * p->ldx;
        float *y = p->y + r * p->ldy;
        if (p->residual) {
            float *res = p->residual + r * p->ldr;
            for (int64_t i = 0; i < p->n; i++)
                res[i] += x[i];
            x = res;
        }
        double sum = 0;
        for (int64_t i = 0; i < p->n; i++)
            sum += (double)x[i] * x[i];
        const float inv = 1.0f / sqrtf((float)(sum / (double)p->n) + p->eps);
        for (int64_t i = 0; i < p->n; i++)
            y[i] = p->w ? p->w[i] * (x[i] * inv) : x[i] * inv;
    }
}

void slk_norm_fill_ref(slk_kernels *k) { SLK_SET(k, rmsnorm, rmsnorm_ref); }
