/* Matrix products in plain C: double accumulation in ascending k, the definition of the result. */
#include "half.h"
#include "kernels_fill.h"

static void store(const slk_gemm *p, int64_t t, int64_t n, double sum) {
    float v = (float)sum, *y = p->y + t * p->ldy + n;
    if (p->bias)
        v += p->bias[n];
    if (p->residual)
        v += p->residual[t * p->ldr + n];
    *y = p->accumulate ? *y + v : v;
}

static float f32_at(const void *p, int64_t i) { return ((const float *)p)[i]; }
static float f16_at(const void *p, int64_t i) { return slk_f32_of_f16(((const uint16_t *)p)[i]); }
static float bf16_at(const void *p, int64_t i) { return slk_f32_of_bf16(((const uint16_t *)p)[i]); }

static inline void plain(const slk_gemm *p, int64_t n0, int64_t n1, float (*x_at)(const void *, int64_t),
                         float (*w_at)(const void *, int64_t)) {
    for (int64_t t = 0; t < p->T; t++)
        for (int64_t n = n0; n < n1; n++) {
            double sum = 0;
            for (int64_t k = 0; k < p->K; k++)
                sum += (double)x_at(p->x, t * p->ldx + k) * (double)w_at(p->w, n * p->ldw + k);
            store(p, t, n, sum);
        }
}

static void gemm_f32_ref(const slk_gemm *p, int64_t n0, int64_t n1) { plain(p, n0, n1, f32_at, f32_at); }
static void gemm_f16_ref(const slk_gemm *p, int64_t n0, int64_t n1) { plain(p, n0, n1, f32_at, f16_at); }
static void gemm_bf16_ref(const slk_gemm *p, int64_t n0, int64_t n1) { plain(p, n0, n1, f32_at, bf16_at); }
static void gemm_bf16_bf16_ref(const slk_gemm *p, int64_t n0, int64_t n1) { plain(p, n0, n1, bf16_at, bf16_at); }

/* Sum over groups of scale * sum((code - zero) * x). */
static double packed_dot(const slk_gemm *p, const float *x, const uint8_t *row) {
    const int64_t g = slk_q_group(&p->q, p->K), header = slk_q_header_bytes(&p->q);
    const uint8_t *block = row;
    double sum = 0;
    for (int64_t k = 0; k < p->K; k += g, block += slk_q_block_bytes(&p->q, p->K)) {
        const double scale = slk_f32_of_f16((uint16_t)(block[0] | block[1] << 8)), zero = slk_q_zero(&p->q, block);
        const uint8_t *codes = block + header;
        const int64_t n = p->K - k < g ? p->K - k : g;
        double part = 0;
        for (int64_t i = 0; i < n; i++) {
            const int code = p->q.bits == 8 ? codes[i] : codes[i / 32 * 16 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
            part += (code - zero) * (double)x[k + i];
        }
        sum += scale * part;
    }
    return sum;
}

static void packed(const slk_gemm *p, int64_t n0, int64_t n1) {
    const uint8_t *w = p->w;
    const int64_t row_bytes = slk_q_row_bytes(&p->q, p->K);
    for (int64_t t = 0; t < p->T; t++)
        for (int64_t n = n0; n < n1; n++)
            store(p, t, n, packed_dot(p, (const float *)p->x + t * p->ldx, w + n * row_bytes));
}

static void gemm_q8_ref(const slk_gemm *p, int64_t n0, int64_t n1) { packed(p, n0, n1); }
static void gemm_q4_ref(const slk_gemm *p, int64_t n0, int64_t n1) { packed(p, n0, n1); }

void slk_gemm_fill_ref(slk_kernels *k) {
    SLK_SET(k, gemm_f32, gemm_f32_ref);
    SLK_SET(k, gemm_f16, gemm_f16_ref);
    SLK_SET(k, gemm_bf16, gemm_bf16_ref);
    SLK_SET(k, gemm_q8, gemm_q8_ref);
    SLK_SET(k, gemm_q4, gemm_q4_ref);
}
void slk_gemm_bf16x_fill_ref(slk_kernels *k) { SLK_SET(k, gemm_bf16_bf16, gemm_bf16_bf16_ref); }
