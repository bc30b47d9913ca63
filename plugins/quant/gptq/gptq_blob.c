/* Matrices in memory. 4 and 8 bits in groups of a multiple of 32 lie as the shared kernels want them; other widths and
 * groups row by row: scales (f16), zeros (u8, asymmetric only), codes as a bit stream, to an even number of bytes. */
#include "gptq.h"

#include <string.h>

#include "sl_bits.h"
#include "sl_half.h"

sl_q_format gptq_q_format(const gptq_header *h) {
    return (sl_q_format){.struct_size = SL_SIZE(sl_q_format),
                         .n = h->n,
                         .k = h->k,
                         .group = h->group,
                         .bits = h->bits,
                         .asymmetric = h->asym};
}

static int64_t row_bytes(const gptq_header *h) {
    int64_t groups = (h->k + h->group - 1) / h->group;
    return (groups * (h->asym ? 3 : 2) + sl_bits_bytes(h->k, (int)h->bits) + 1) / 2 * 2;
}

int64_t gptq_data_bytes(const sl_pack_env *env, const gptq_linear *l, gptq_header *h) {
    *h = (gptq_header){.n = l->n, .k = l->k, .group = l->group, .bits = (uint32_t)l->bits, .asym = (uint32_t)l->asym};
    sl_q_format f = gptq_q_format(h);
    int64_t bytes = env->ops->q_bytes(&f);
    h->is_decoded = bytes == 0;
    return bytes > 0 ? bytes : l->n * row_bytes(h);
}

sl_status gptq_data_write(const sl_pack_env *env, const gptq_header *h, const gptq_linear *l, void *data,
                          sl_error *err) {
    if (!h->is_decoded) {
        sl_q_format f = gptq_q_format(h);
        return env->ops->q_pack_codes(env->host, &f, l->code, l->scale, l->asym ? l->zero : NULL, data, err);
    }
    int64_t bytes = row_bytes(h), G = l->n_groups;
    memset(data, 0, (size_t)(l->n * bytes));
    for (int64_t r = 0; r < l->n; r++) {
        uint8_t *p = (uint8_t *)data + r * bytes;
        memcpy(p, l->scale + r * G, 2 * (size_t)G);
        p += 2 * G;
        if (h->asym) {
            memcpy(p, l->zero + r * G, (size_t)G);
            p += G;
        }
        for (int64_t i = 0; i < l->k; i++)
            sl_bits_put(p, i, l->bits, l->code[r * l->k + i]);
    }
    return SL_OK;
}

void gptq_decode_row(const void *user, int64_t row, float *w) {
    const gptq_rows *rows = user;
    const gptq_header *h = rows->h;
    int64_t G = (h->k + h->group - 1) / h->group;
    const uint8_t *p = rows->data + row * row_bytes(h), *zeros = p + 2 * G, *codes = zeros + (h->asym ? G : 0);
    for (int64_t g = 0; g < G; g++) {
        uint16_t bits;
        memcpy(&bits, p + 2 * g, sizeof bits);
        float scale = sl_f32_of_f16(bits), zero = h->asym ? (float)zeros[g] : (float)(1u << (h->bits - 1));
        int64_t end = (g + 1) * h->group < h->k ? (g + 1) * h->group : h->k;
        for (int64_t i = g * h->group; i < end; i++)
            w[i] = scale * ((float)sl_bits_get(codes, i, (int)h->bits) - zero);
    }
}
