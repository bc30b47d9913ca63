/* Rotary embedding in plain C. */
#include "kernels_fill.h"

static void rope_ref(const slk_rope *p, int64_t row_begin, int64_t row_end) {
    const int64_t half = p->n_rot / 2, step = p->interleaved ? 2 : 1, other = p->interleaved ? 1 : half;
    for (int64_t r = row_begin; r < row_end; r++)
        for (int64_t h = 0; h < p->heads; h++) {
            float *x = p->x + r * p->ldx + h * p->ld_head;
            const float *c = p->cos_row + r * p->ld_trig, *s = p->sin_row + r * p->ld_trig;
            for (int64_t i = 0; i < half; i++) {
                const float a = x[i * step], b = x[i * step + other];
                x[i * step] = a * c[i] - b * s[i];
                x[i * step + other] = b * c[i] + a * s[i];
            }
        }
}

void slk_rope_fill_ref(slk_kernels *k) { SLK_SET(k, rope, rope_ref); }
