/* Matrix products over vectors, written once. The including file compiles for one instruction set and defines, over its
 * vocabulary (vec_*.h), how X and W meet:
 *     gemm_x           element type of x                      GEMM_STEP      elements of k in one vector
 *     gemm_v           vector of GEMM_STEP elements           gemm_fma(acc, x, w)
 *     gemm_load_x(p), gemm_load_x_n(p, n)                     gemm_load_w(kind, row, k), gemm_load_w_n(kind, row, k, n)
 *
 * Every output has one accumulator of VL lanes that runs through k in steps of GEMM_STEP, ceil(K / GEMM_STEP) of them,
 * the last filled up with zeros; then v_sums. Both ways below keep to that, so they agree bit for bit:
 *
 *     direct   T <= 4: weights are loaded (and converted or expanded) into registers, once
 *     panel    T > 4: weights of GEMM_PANEL outputs go, expanded, into a buffer in L1 and meet all rows of x from there
 */
enum {
    GEMM_MR = 4,              /* rows of x in a tile */
    GEMM_NT = VL / 4,         /* outputs in a tile of 4 rows: VL accumulators, one v_sums */
    GEMM_N1 = 8,              /* outputs in a tile of 1 row: enough chains to cover the latency of FMA */
    GEMM_PANEL = 8,           /* outputs in a panel */
    GEMM_KB = 32 * GEMM_STEP, /* elements of k in a panel: it takes 16 KB (AVX-512) or 8 KB (AVX2) of L1 */
    GEMM_TB = 64,             /* most rows of x that a panel meets before the next one */
    GEMM_X_BYTES = 1 << 20    /* and most bytes: they are read again for each panel, from L2 */
};

/* The epilogue: sums of rows t.. and outputs n.., mr rows of nr of which n_valid count, into y. */
static void gemm_store(const slk_gemm *p, int mr, int nr, int64_t t, int64_t n, int64_t n_valid, float *sum) {
    for (int i = 0; i < mr; i++, sum += nr) {
        float *y = p->y + (t + i) * p->ldy + n;
        if (p->bias)
            for (int64_t j = 0; j < n_valid; j++)
                sum[j] += p->bias[n + j];
        if (p->residual)
            for (int64_t j = 0; j < n_valid; j++)
                sum[j] += p->residual[(t + i) * p->ldr + n + j];
        if (p->accumulate)
            for (int64_t j = 0; j < n_valid; j++)
                sum[j] += y[j];
        for (int64_t j = 0; j < n_valid; j++)
            y[j] = sum[j];
    }
}

/* Horizontal sums of acc[mr * nr], then the epilogue. */
V_INLINE void gemm_emit(const slk_gemm *p, int mr, int nr, int64_t t, int64_t n, int64_t n_valid, const vf *acc) {
    vf in[VL];
    float sum[VL];
    V_UNROLL
    for (int lane = 0; lane < VL; lane++)
        in[V_SUMS_INDEX(lane)] = lane < mr * nr ? acc[lane] : v_zero();
    v_store(sum, v_sums(in));
    gemm_store(p, mr, nr, t, n, n_valid, sum);
}

/* ---- direct ---------------------------------------------------------------------------------------------------- */

/* acc[i * nr + j] of rows x.. and outputs w.., plain weights. */
V_INLINE void direct_plain(int kind, int mr, int nr, const gemm_x *x, int64_t ldx, const char *w, int64_t ldw,
                           int64_t K, vf *acc) {
    int64_t k = 0;
    for (; k + GEMM_STEP <= K; k += GEMM_STEP) {
        gemm_v xv[GEMM_MR];
        V_UNROLL
        for (int i = 0; i < mr; i++)
            xv[i] = gemm_load_x(x + i * ldx + k);
        V_UNROLL
        for (int j = 0; j < nr; j++) {
            const gemm_v wv = gemm_load_w(kind, w + j * ldw, k);
            V_UNROLL
            for (int i = 0; i < mr; i++)
                acc[i * nr + j] = gemm_fma(acc[i * nr + j], xv[i], wv);
        }
    }
    if (k < K) {
        V_UNROLL
        for (int j = 0; j < nr; j++) {
            const gemm_v wv = gemm_load_w_n(kind, w + j * ldw, k, K - k);
            V_UNROLL
            for (int i = 0; i < mr; i++)
                acc[i * nr + j] = gemm_fma(acc[i * nr + j], gemm_load_x_n(x + i * ldx + k, K - k), wv);
        }
    }
}

#if defined(GEMM_PACKED)
V_INLINE float block_scale(const uint8_t *block) {
    uint16_t bits;
    memcpy(&bits, block, sizeof bits);
    return v_f32_of_f16(bits);
}

/* The same for packed weights: header of each block, then its codes in chunks. */
V_INLINE void direct_packed(int kind, int mr, int nr, const float *x, int64_t ldx, const uint8_t *w, int64_t row_bytes,
                            const slk_q_format *q, int64_t K, vf *acc) {
    const int64_t g = slk_q_group(q, K), header = slk_q_header_bytes(q), block_bytes = slk_q_block_bytes(q, K);
    const int chunk_bytes = kind == KIND_Q4 ? SLK_Q_CHUNK / 2 : SLK_Q_CHUNK;
    for (int64_t k0 = 0; k0 < K; k0 += g, w += block_bytes) {
        const int64_t end = K - k0 < g ? K : k0 + g;
        v_scale8 s8[GEMM_N1];
        v_scale4 s4[GEMM_N1];
        V_UNROLL
        for (int j = 0; j < nr; j++) {
            const float scale = block_scale(w + j * row_bytes), zero = slk_q_zero(q, w + j * row_bytes);
            if (kind == KIND_Q4)
                s4[j] = v_q4_scale(scale, zero);
            else
                s8[j] = v_q8_scale(scale, zero);
        }
        const uint8_t *codes = w + header;
        int64_t k = k0;
        for (; k + SLK_Q_CHUNK <= end; k += SLK_Q_CHUNK, codes += chunk_bytes) {
            V_UNROLL
            for (int j = 0; j < nr; j++) {
                const uint8_t *row = codes + j * row_bytes;
                V_UNROLL
                for (int c = 0; c < SLK_Q_CHUNK; c += VL) {
                    const vf wv = kind == KIND_Q4 ? v_q4_load(row, c, s4[j]) : v_q8_load(row, c, s8[j]);
                    V_UNROLL
                    for (int i = 0; i < mr; i++)
                        acc[i * nr + j] = v_fma(v_load(x + i * ldx + k + c), wv, acc[i * nr + j]);
                }
            }
        }
        for (int64_t c = 0; k + c < end; c += VL) { /* the end of K inside a chunk */
            V_UNROLL
            for (int j = 0; j < nr; j++) {
                const uint8_t *row = codes + j * row_bytes;
                const vf wv = kind == KIND_Q4 ? v_q4_load(row, c, s4[j]) : v_q8_load(row, c, s8[j]);
                const int64_t n = end - k - c < VL ? end - k - c : VL;
                V_UNROLL
                for (int i = 0; i < mr; i++)
                    acc[i * nr + j] = v_fma(v_load_n(x + i * ldx + k + c, n), wv, acc[i * nr + j]);
            }
        }
    }
}
#endif

V_INLINE void direct_tile(int kind, int mr, int nr, const slk_gemm *p, int64_t t, int64_t n) {
    vf acc[VL];
    V_UNROLL
    for (int i = 0; i < mr * nr; i++)
        acc[i] = v_zero();
    const gemm_x *x = (const gemm_x *)p->x + t * p->ldx;
#if defined(GEMM_PACKED)
    if (kind == KIND_Q8 || kind == KIND_Q4) {
        const int64_t row_bytes = slk_q_row_bytes(&p->q, p->K);
        direct_packed(kind, mr, nr, x, p->ldx, (const uint8_t *)p->w + n * row_bytes, row_bytes, &p->q, p->K, acc);
    } else
#endif
    {
        const int64_t ldw = p->ldw * kind_bytes(kind);
        direct_plain(kind, mr, nr, x, p->ldx, (const char *)p->w + n * ldw, ldw, p->K, acc);
    }
    gemm_emit(p, mr, nr, t, n, nr, acc);
}

V_INLINE void direct_rows(int kind, int mr, int nr, const slk_gemm *p, int64_t n0, int64_t n1) {
    int64_t n = n0;
    for (; n + nr <= n1; n += nr)
        direct_tile(kind, mr, nr, p, 0, n);
    for (; n < n1; n++)
        direct_tile(kind, mr, 1, p, 0, n);
}

V_INLINE void direct(int kind, const slk_gemm *p, int64_t n0, int64_t n1) {
    switch (p->T) {
    case 1: direct_rows(kind, 1, GEMM_N1, p, n0, n1); break;
    case 2: direct_rows(kind, 2, VL / 2, p, n0, n1); break;
    case 3: direct_rows(kind, 3, GEMM_NT, p, n0, n1); break;
    case 4: direct_rows(kind, 4, GEMM_NT, p, n0, n1); break;
    default: break;
    }
}

/* ---- panel ----------------------------------------------------------------------------------------------------- */

/* Weights of outputs n.. (nv of them, zeros up to GEMM_PANEL) and inputs [k0, k1) -> buf, for each tile of GEMM_NT
 * outputs: vectors in the order (step of k, output). */
V_INLINE void panel_pack(int kind, const slk_gemm *p, int64_t n, int64_t nv, int64_t k0, int64_t k1, gemm_x *buf) {
    for (int64_t j = 0; j < GEMM_PANEL; j++) {
        gemm_x *out = buf + j / GEMM_NT * GEMM_NT * GEMM_KB + j % GEMM_NT * GEMM_STEP;
        if (j >= nv) {
            for (int64_t k = k0; k < k1; k += GEMM_STEP, out += GEMM_NT * GEMM_STEP)
                memset(out, 0, GEMM_STEP * sizeof *out);
            continue;
        }
#if defined(GEMM_PACKED)
        if (kind == KIND_Q8 || kind == KIND_Q4) {
            const int64_t g = slk_q_group(&p->q, p->K), block_bytes = slk_q_block_bytes(&p->q, p->K);
            const uint8_t *row = (const uint8_t *)p->w + (n + j) * slk_q_row_bytes(&p->q, p->K);
            for (int64_t k = k0; k < k1; k += SLK_Q_CHUNK) {
                const uint8_t *block = row + k / g * block_bytes;
                const uint8_t *codes = block + slk_q_header_bytes(&p->q) + k % g * p->q.bits / 8;
                const float scale = block_scale(block), zero = slk_q_zero(&p->q, block);
                const v_scale8 s8 = v_q8_scale(scale, zero);
                const v_scale4 s4 = v_q4_scale(scale, zero);
                V_UNROLL
                for (int c = 0; c < SLK_Q_CHUNK; c += VL, out += GEMM_NT * GEMM_STEP) {
                    if (k + c >= k1)
                        break;
                    v_store(out, kind == KIND_Q4 ? v_q4_load(codes, c, s4) : v_q8_load(codes, c, s8));
                }
            }
            continue;
        }
#endif
        const char *row = (const char *)p->w + (n + j) * p->ldw * kind_bytes(kind);
        int64_t k = k0;
        for (; k + GEMM_STEP <= k1; k += GEMM_STEP, out += GEMM_NT * GEMM_STEP)
            gemm_store_panel(out, gemm_load_w(kind, row, k));
        if (k < k1)
            gemm_store_panel(out, gemm_load_w_n(kind, row, k, k1 - k));
    }
}

/* acc[i * GEMM_NT + j] += rows x.. times one tile of the panel, kn elements of k. */
V_INLINE void panel_tile(int mr, const gemm_x *x, int64_t ldx, const gemm_x *w, int64_t kn, vf *acc) {
    int64_t k = 0;
    for (; k + GEMM_STEP <= kn; k += GEMM_STEP, w += GEMM_NT * GEMM_STEP) {
        gemm_v wv[GEMM_NT];
        V_UNROLL
        for (int j = 0; j < GEMM_NT; j++)
            wv[j] = gemm_load_x(w + j * GEMM_STEP);
        V_UNROLL
        for (int i = 0; i < mr; i++) {
            const gemm_v xv = gemm_load_x(x + i * ldx + k);
            V_UNROLL
            for (int j = 0; j < GEMM_NT; j++)
                acc[i * GEMM_NT + j] = gemm_fma(acc[i * GEMM_NT + j], xv, wv[j]);
        }
    }
    if (k < kn) {
        V_UNROLL
        for (int i = 0; i < mr; i++) {
            const gemm_v xv = gemm_load_x_n(x + i * ldx + k, kn - k);
            V_UNROLL
            for (int j = 0; j < GEMM_NT; j++)
                acc[i * GEMM_NT + j] = gemm_fma(acc[i * GEMM_NT + j], xv, gemm_load_x(w + j * GEMM_STEP));
        }
    }
}

/* mr rows from t against all tiles of a panel. `kept` holds the accumulators between panels of the same outputs. */
V_INLINE void panel_rows(int mr, const slk_gemm *p, int64_t t, int64_t n, int64_t nv, int64_t k0, int64_t k1,
                         const gemm_x *buf, vf *kept) {
    const gemm_x *x = (const gemm_x *)p->x + t * p->ldx + k0;
    for (int64_t c = 0; c < nv; c += GEMM_NT, buf += GEMM_NT * GEMM_KB, kept += VL) {
        vf acc[VL];
        V_UNROLL
        for (int i = 0; i < mr * GEMM_NT; i++)
            acc[i] = k0 > 0 ? kept[i] : v_zero();
        panel_tile(mr, x, p->ldx, buf, k1 - k0, acc);
        if (k1 == p->K) {
            gemm_emit(p, mr, GEMM_NT, t, n + c, nv - c < GEMM_NT ? nv - c : GEMM_NT, acc);
        } else {
            V_UNROLL
            for (int i = 0; i < mr * GEMM_NT; i++)
                kept[i] = acc[i];
        }
    }
}

/* One function a number of rows, shared by all kinds of weights. */
static void panel_rows_1(const slk_gemm *p, int64_t t, int64_t n, int64_t nv, int64_t k0, int64_t k1, const gemm_x *buf,
                         vf *kept) {
    panel_rows(1, p, t, n, nv, k0, k1, buf, kept);
}
static void panel_rows_2(const slk_gemm *p, int64_t t, int64_t n, int64_t nv, int64_t k0, int64_t k1, const gemm_x *buf,
                         vf *kept) {
    panel_rows(2, p, t, n, nv, k0, k1, buf, kept);
}
static void panel_rows_3(const slk_gemm *p, int64_t t, int64_t n, int64_t nv, int64_t k0, int64_t k1, const gemm_x *buf,
                         vf *kept) {
    panel_rows(3, p, t, n, nv, k0, k1, buf, kept);
}
static void panel_rows_4(const slk_gemm *p, int64_t t, int64_t n, int64_t nv, int64_t k0, int64_t k1, const gemm_x *buf,
                         vf *kept) {
    panel_rows(4, p, t, n, nv, k0, k1, buf, kept);
}

V_INLINE void panels(int kind, const slk_gemm *p, int64_t n0, int64_t n1) {
    _Alignas(64) gemm_x buf[GEMM_PANEL * GEMM_KB];
    vf kept[GEMM_TB * GEMM_PANEL];
    int64_t step = p->K > 0 ? GEMM_X_BYTES / (int64_t)sizeof(gemm_x) / p->K / GEMM_MR * GEMM_MR : GEMM_TB;
    step = step < 16 ? 16 : step > GEMM_TB ? GEMM_TB : step;
    for (int64_t t0 = 0; t0 < p->T; t0 += step) {
        const int64_t t1 = p->T - t0 < step ? p->T : t0 + step;
        for (int64_t n = n0; n < n1; n += GEMM_PANEL) {
            const int64_t nv = n1 - n < GEMM_PANEL ? n1 - n : GEMM_PANEL;
            for (int64_t k0 = 0; k0 < p->K || k0 == 0; k0 += GEMM_KB) {
                const int64_t k1 = p->K - k0 < GEMM_KB ? p->K : k0 + GEMM_KB;
                panel_pack(kind, p, n, nv, k0, k1, buf);
                for (int64_t t = t0; t < t1; t += GEMM_MR) {
                    vf *at = kept + (t - t0) * GEMM_PANEL;
                    switch (t1 - t) {
                    case 1: panel_rows_1(p, t, n, nv, k0, k1, buf, at); break;
                    case 2: panel_rows_2(p, t, n, nv, k0, k1, buf, at); break;
                    case 3: panel_rows_3(p, t, n, nv, k0, k1, buf, at); break;
                    default: panel_rows_4(p, t, n, nv, k0, k1, buf, at); break;
                    }
                }
            }
        }
    }
}

V_INLINE void gemm(int kind, const slk_gemm *p, int64_t n0, int64_t n1) {
    if (p->T <= GEMM_MR)
        direct(kind, p, n0, n1);
    else
        panels(kind, p, n0, n1);
}
