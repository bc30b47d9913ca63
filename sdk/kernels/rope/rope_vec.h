/* Rotary embedding over vectors. Products are rounded before the sum, so the result is bit-equal to the reference. */
V_INLINE void rope_pair(vf *a, vf *b, vf c, vf s) {
    const vf x = v_sub(v_mul(*a, c), v_mul(*b, s));
    *b = v_add(v_mul(*b, c), v_mul(*a, s));
    *a = x;
}

static void rope_rest(float *x, const float *c, const float *s, int64_t i, int64_t half, int64_t step, int64_t other) {
    for (; i < half; i++) {
        const float a = x[i * step], b = x[i * step + other];
        x[i * step] = a * c[i] - b * s[i];
        x[i * step + other] = b * c[i] + a * s[i];
    }
}

static void rope_halves(float *x, const float *c, const float *s, int64_t half) {
    int64_t i = 0;
    for (; i + VL <= half; i += VL) {
        vf a = v_load(x + i), b = v_load(x + half + i);
        rope_pair(&a, &b, v_load(c + i), v_load(s + i));
        v_store(x + i, a);
        v_store(x + half + i, b);
    }
    rope_rest(x, c, s, i, half, 1, half);
}

static void rope_interleaved(float *x, const float *c, const float *s, int64_t half) {
    int64_t i = 0;
    for (; i + VL <= half; i += VL) {
        vf a, b, lo, hi;
        v_unzip(v_load(x + 2 * i), v_load(x + 2 * i + VL), &a, &b);
        rope_pair(&a, &b, v_load(c + i), v_load(s + i));
        v_zip(a, b, &lo, &hi);
        v_store(x + 2 * i, lo);
        v_store(x + 2 * i + VL, hi);
    }
    rope_rest(x, c, s, i, half, 2, 1);
}

static void V_SUFFIX(rope)(const slk_rope *p, int64_t row_begin, int64_t row_end) {
    for (int64_t r = row_begin; r < row_end; r++)
        for (int64_t h = 0; h < p->heads; h++)
            (p->interleaved ? rope_interleaved : rope_halves)(p->x + r * p->ldx + h * p->ld_head,
                                                              p->cos_row + r * p->ld_trig, p->sin_row + r * p->ld_trig,
                                                              p->n_rot / 2);
}

void V_FILL(rope)(slk_kernels *k) { SLK_SET(k, rope, V_SUFFIX(rope)); }
