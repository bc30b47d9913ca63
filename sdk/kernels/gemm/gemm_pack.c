/* The reference packer and its inverse. */
#include "gemm_pack.h"

#include "half.h"
#include "sl_error.h"

#include <math.h>

static sl_status check_format(const slk_q_format *f, sl_error *err) {
    if (f->bits != 8 && f->bits != 4)
        return sl_fail(err, SL_E_INVALID, "packed weights have 4 or 8 bits, not %u", f->bits);
    if (f->group % SLK_Q_CHUNK != 0)
        return sl_fail(err, SL_E_INVALID, "group of %u is not a multiple of %d", f->group, (int)SLK_Q_CHUNK);
    return SL_OK;
}

/* Scale of one group as f16 bits: the quotient rounded, kept away from 0. */
static sl_status group_scale(float range, float steps, uint16_t *bits, sl_error *err) {
    const uint16_t s = slk_f16_of_f32(range / steps);
    if (s >= 0x7c00)
        return sl_fail(err, SL_E_RANGE, "weight range %g is too large for an f16 scale", (double)range);
    *bits = range == 0 ? 0x3c00 : s == 0 ? 1 : s;
    return SL_OK;
}

static float clampf(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

static void put_code(const slk_q_format *f, uint8_t *codes, int64_t i, uint32_t code) {
    if (f->bits == 8)
        codes[i] = (uint8_t)code;
    else
        codes[i / 32 * 16 + i % 16] |= (uint8_t)(code << (i % 32 < 16 ? 0 : 4));
}

static sl_status pack_group(const slk_q_format *f, const float *w, int64_t n, int64_t g, uint8_t *block,
                            sl_error *err) {
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(w[i]))
            return sl_fail(err, SL_E_DATA, "a weight is not a finite number");
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    const float top = f->bits == 8 ? 255.0f : 15.0f, half = f->bits == 8 ? 128.0f : 8.0f;
    uint16_t scale = 0;
    SL_TRY(f->asym ? group_scale(hi - lo, top, &scale, err) : group_scale(-lo > hi ? -lo : hi, half - 1, &scale, err));
    const float s = slk_f32_of_f16(scale), zero = f->asym ? clampf(rintf(-lo / s), 0, top) : half;

    memset(block, 0, (size_t)(slk_q_header_bytes(f) + g * f->bits / 8));
    block[0] = (uint8_t)(scale & 255), block[1] = (uint8_t)(scale >> 8);
    if (f->asym)
        block[2] = (uint8_t)zero;
    for (int64_t i = 0; i < g; i++)
        put_code(f, block + slk_q_header_bytes(f), i,
                 (uint32_t)(i < n ? clampf(rintf(w[i] / s) + zero, 0, top) : zero));
    return SL_OK;
}

sl_status slk_q_pack(const slk_q_format *f, const float *w, int64_t ldw, int64_t N, int64_t K, void *dst,
                     sl_error *err) {
    SL_TRY(check_format(f, err));
    const int64_t g = slk_q_group(f, K), block_bytes = slk_q_block_bytes(f, K);
    uint8_t *block = dst;
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k += g, block += block_bytes) {
            const sl_status s = pack_group(f, w + n * ldw + k, K - k < g ? K - k : g, g, block, err);
            if (s < 0)
                return sl_fail_within(err, s, "row %lld, group at input %lld", (long long)n, (long long)k);
        }
    return SL_OK;
}

sl_status slk_q_pack_codes(const slk_q_format *f, const uint8_t *code, const uint16_t *scale, const uint8_t *zero,
                           int64_t N, int64_t K, void *dst, sl_error *err) {
    SL_TRY(check_format(f, err));
    const int64_t g = slk_q_group(f, K), block_bytes = slk_q_block_bytes(f, K);
    const uint32_t top = f->bits == 8 ? 255 : 15;
    uint8_t *block = dst;
    for (int64_t n = 0; n < N; n++, code += K)
        for (int64_t k = 0; k < K; k += g, block += block_bytes, scale++) {
            const uint32_t z = zero != NULL ? *zero++ : (top + 1) / 2;
            if ((*scale & 0x7c00) == 0x7c00 || z > top)
                return sl_fail(err, SL_E_DATA, "row %lld, group at input %lld: scale or zero out of range",
                               (long long)n, (long long)k);
            memset(block, 0, (size_t)block_bytes);
            block[0] = (uint8_t)(*scale & 255), block[1] = (uint8_t)(*scale >> 8);
            if (f->asym)
                block[2] = (uint8_t)z;
            for (int64_t i = 0; i < g; i++) {
                const uint32_t q = k + i < K ? code[k + i] : z;
                if (q > top)
                    return sl_fail(err, SL_E_DATA, "row %lld, input %lld: code %u has more than %u bits", (long long)n,
                                   (long long)(k + i), q, f->bits);
                put_code(f, block + slk_q_header_bytes(f), i, q);
            }
        }
    return SL_OK;
}

void slk_q_unpack(const slk_q_format *f, const void *packed, int64_t N, int64_t K, float *w, int64_t ldw) {
    const int64_t g = slk_q_group(f, K), block_bytes = slk_q_block_bytes(f, K);
    const uint8_t *block = packed;
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k += g, block += block_bytes) {
            const float s = slk_f32_of_f16((uint16_t)(block[0] | block[1] << 8)), zero = slk_q_zero(f, block);
            const uint8_t *codes = block + slk_q_header_bytes(f);
            for (int64_t i = 0; i < g && k + i < K; i++) {
                const uint32_t code =
                    f->bits == 8 ? codes[i] : codes[i / 32 * 16 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15u;
                w[n * ldw + k + i] = ((float)code - zero) * s;
            }
        }
}
