/* Written over either vocabulary of vectors: loads by kind and the exponential. */
#ifndef SLUICE_KERNELS_VEC_COMMON_H
#define SLUICE_KERNELS_VEC_COMMON_H

/* Elements [i, i + VL) of a row, or the first n of them and zeros. */
V_INLINE vf v_load_kind(int kind, const void *row, int64_t i) {
    if (kind == KIND_F32)
        return v_load((const float *)row + i);
    const uint16_t *p = (const uint16_t *)row + i;
    return kind == KIND_F16 ? v_load_f16(p) : v_load_bf16(p);
}
V_INLINE vf v_load_kind_n(int kind, const void *row, int64_t i, int64_t n) {
    if (kind == KIND_F32)
        return v_load_n((const float *)row + i, n);
    const uint16_t *p = (const uint16_t *)row + i;
    return kind == KIND_F16 ? v_load_f16_n(p, n) : v_load_bf16_n(p, n);
}

/* exp(x) within 2 ulp; 0 below about -104, inf above 88.73; NaN stays. Argument reduction by ln 2 in two parts and the
 * polynomial of Cephes' expf. */
V_INLINE vf v_exp(vf x) {
    x = v_min(v_set1(89.0f), v_max(v_set1(-104.0f), x)); /* this order of arguments lets NaN through */
    const vf n = v_round(v_mul(x, v_set1(1.44269504088896341f)));
    vf r = v_fnma(n, v_set1(0.693359375f), x);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set1(1.0f));
    return v_scale2(p, n);
}
V_INLINE float v_exp1(float x) {
    float out[VL];
    v_store(out, v_exp(v_set1(x)));
    return out[0];
}

#endif
