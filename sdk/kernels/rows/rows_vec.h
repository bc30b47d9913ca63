/* Row helpers over vectors. */
static float V_SUFFIX(dot)(const float *a, const float *b, int64_t n) {
    enum { CHAINS = 8 };
    vf sum[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        sum[c] = v_zero();
    int64_t i = 0;
    for (; i + CHAINS * VL <= n; i += CHAINS * VL) {
        V_UNROLL
        for (int c = 0; c < CHAINS; c++)
            sum[c] = v_fma(v_load(a + i + c * VL), v_load(b + i + c * VL), sum[c]);
    }
    for (int c = 0; i < n; i += VL, c++) {
        const int64_t m = n - i < VL ? n - i : VL;
        sum[c] = v_fma(v_load_n(a + i, m), v_load_n(b + i, m), sum[c]);
    }
    for (int half = CHAINS / 2; half > 0; half /= 2)
        for (int c = 0; c < half; c++)
            sum[c] = v_add(sum[c], sum[c + half]);
    return v_sum(sum[0]);
}

static void V_SUFFIX(axpy)(float alpha, const float *x, float *y, int64_t n) {
    const vf a = v_set1(alpha);
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        v_store_n(y + i, v_fma(a, v_load_n(x + i, m), v_load_n(y + i, m)), m);
    }
}

V_INLINE void widen(int kind, float *dst, const uint16_t *src, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(dst + i, v_load_kind(kind, src, i));
    if (i < n)
        v_store_n(dst + i, v_load_kind_n(kind, src, i, n - i), n - i);
}

V_INLINE void narrow(int kind, uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        kind == KIND_F16 ? v_store_f16(dst + i, v_load(src + i)) : v_store_bf16(dst + i, v_load(src + i));
    if (i < n) {
        uint16_t last[VL];
        const vf a = v_load_n(src + i, n - i);
        kind == KIND_F16 ? v_store_f16(last, a) : v_store_bf16(last, a);
        memcpy(dst + i, last, (size_t)(n - i) * sizeof *dst);
    }
}

static void V_SUFFIX(f32_of_f16)(float *dst, const uint16_t *src, int64_t n) { widen(KIND_F16, dst, src, n); }
static void V_SUFFIX(f32_of_bf16)(float *dst, const uint16_t *src, int64_t n) { widen(KIND_BF16, dst, src, n); }
static void V_SUFFIX(f16_of_f32)(uint16_t *dst, const float *src, int64_t n) { narrow(KIND_F16, dst, src, n); }
static void V_SUFFIX(bf16_of_f32)(uint16_t *dst, const float *src, int64_t n) { narrow(KIND_BF16, dst, src, n); }

void V_FILL(rows)(slk_kernels *k) {
    SLK_SET(k, dot, V_SUFFIX(dot));
    SLK_SET(k, axpy, V_SUFFIX(axpy));
    SLK_SET(k, f32_of_f16, V_SUFFIX(f32_of_f16));
    SLK_SET(k, f32_of_bf16, V_SUFFIX(f32_of_bf16));
    SLK_SET(k, f16_of_f32, V_SUFFIX(f16_of_f32));
    SLK_SET(k, bf16_of_f32, V_SUFFIX(bf16_of_f32));
}
