/* RMS norm over vectors: squares in VL lanes of f32, lane = i mod VL. */
static void V_SUFFIX(rmsnorm)(const slk_norm *p, int64_t row_begin, int64_t row_end) {
    for (int64_t r = row_begin; r < row_end; r++) {
        const float *x = p->x + r * p->ldx;
        float *y = p->y + r * p->ldy, *res = p->residual ? p->residual + r * p->ldr : NULL;
        vf sum = v_zero();
        for (int64_t i = 0; i < p->n; i += VL) {
            const int64_t n = p->n - i < VL ? p->n - i : VL;
            vf a = v_load_n(x + i, n);
            if (res) {
                a = v_add(v_load_n(res + i, n), a);
                v_store_n(res + i, a, n);
            }
            sum = v_fma(a, a, sum);
        }
        const vf inv = v_set1(1.0f / sqrtf(v_sum(sum) / (float)p->n + p->eps));
        if (res)
            x = res;
        for (int64_t i = 0; i < p->n; i += VL) {
            const int64_t n = p->n - i < VL ? p->n - i : VL;
            const vf a = v_mul(v_load_n(x + i, n), inv);
            v_store_n(y + i, p->w ? v_mul(v_load_n(p->w + i, n), a) : a, n);
        }
    }
}

void V_FILL(norm)(slk_kernels *k) { SLK_SET(k, rmsnorm, V_SUFFIX(rmsnorm)); }
