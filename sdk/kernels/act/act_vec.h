/* Activations and softmax over vectors. An element's result does not depend on where it stands in the row. */
V_INLINE vf sigmoid_of(vf x, vf u) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), u)))); }

V_INLINE vf act_of(int gelu, vf g) {
    if (!gelu)
        return sigmoid_of(g, g);
    const vf c = v_set1(2.0f * 0.7978845608028654f); /* 2 sqrt(2 / pi) */
    const vf cube = v_mul(v_mul(v_mul(v_set1(0.044715f), g), g), g);
    return sigmoid_of(g, v_mul(c, v_add(g, cube)));
}

V_INLINE void act_rows(int gelu, const slk_act *p, int64_t row_begin, int64_t row_end) {
    for (int64_t r = row_begin; r < row_end; r++)
        for (int64_t i = 0; i < p->n; i += VL) {
            const int64_t n = p->n - i < VL ? p->n - i : VL;
            vf a = act_of(gelu, v_load_n(p->gate + r * p->ld_gate + i, n));
            if (p->up)
                a = v_mul(a, v_load_n(p->up + r * p->ld_up + i, n));
            v_store_n(p->y + r * p->ldy + i, a, n);
        }
}

static void V_SUFFIX(silu_mul)(const slk_act *p, int64_t row_begin, int64_t row_end) {
    act_rows(0, p, row_begin, row_end);
}
static void V_SUFFIX(gelu_mul)(const slk_act *p, int64_t row_begin, int64_t row_end) {
    act_rows(1, p, row_begin, row_end);
}

static float V_SUFFIX(softmax)(float *x, int64_t n) {
    vf top = v_set1(-INFINITY), sum = v_zero();
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        top = v_max(v_fill_from(v_load_n(x + i, m), m, -INFINITY), top);
    }
    const float max = v_largest(top);
    if (max == -INFINITY) {
        for (int64_t i = 0; i < n; i++)
            x[i] = 0;
        return -INFINITY;
    }
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        const vf e = v_fill_from(v_exp(v_sub(v_load_n(x + i, m), v_set1(max))), m, 0);
        v_store_n(x + i, e, m);
        sum = v_add(sum, e);
    }
    const float total = v_sum(sum);
    const vf inv = v_set1(1.0f / total);
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        v_store_n(x + i, v_mul(v_load_n(x + i, m), inv), m);
    }
    return max + logf(total);
}

void V_FILL(act)(slk_kernels *k) {
    SLK_SET(k, silu_mul, V_SUFFIX(silu_mul));
    SLK_SET(k, gelu_mul, V_SUFFIX(gelu_mul));
    SLK_SET(k, softmax, V_SUFFIX(softmax));
}
