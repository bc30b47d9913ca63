/* Matrices as AutoGPTQ's checkpoints hold them: P.qweight [in b / 32, out], P.qzeros [groups, out b / 32] (I32),
 * P.scales [groups, out] (F16), P.g_idx [in] (I32). All widths are one little-endian bit stream: along the inputs of an
 * output in qweight, along the outputs of a group in qzeros. Zeros are stored less one in version 1. Ours add P.source.
 */
#include "gptq.h"

#include <string.h>

#include "sl_error.h"
#include "sl_half.h"
#include "sl_tensor.h"

/* ---- bit streams of words that lie `stride` apart ------------------------------------------------------------------
 */

static uint32_t get(const uint32_t *words, int64_t stride, int64_t i, int bits) {
    int64_t at = i * bits;
    int shift = (int)(at % 32);
    uint64_t v = words[at / 32 * stride];
    if (shift + bits > 32)
        v |= (uint64_t)words[(at / 32 + 1) * stride] << 32;
    return (uint32_t)(v >> shift) & ((1u << bits) - 1);
}

static void put(uint32_t *words, int64_t stride, int64_t i, int bits, uint32_t code) {
    int64_t at = i * bits;
    uint64_t v = (uint64_t)code << at % 32;
    words[at / 32 * stride] |= (uint32_t)v;
    if (at % 32 + bits > 32)
        words[(at / 32 + 1) * stride] |= (uint32_t)(v >> 32);
}

static int64_t words_of(int64_t n, int bits) { return (n * bits + 31) / 32; }

/* Version 1 stores the zero less one; the field is as wide as a code, so 0 becomes 2^bits - 1 and must be masked. */
static uint32_t zero_of(uint32_t stored, int v2, int bits) { return (stored + (v2 ? 0 : 1)) & ((1u << bits) - 1); }
static uint32_t stored_of(uint32_t zero, int v2, int bits) { return (zero - (v2 ? 0 : 1)) & ((1u << bits) - 1); }

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

typedef struct parts {
    sl_tensor qweight, qzeros, scales, g_idx;
    int has_g_idx;
} parts;

static int64_t group_at(const parts *p, const gptq_linear *l, int64_t i) {
    return p->has_g_idx ? ((const int32_t *)p->g_idx.data)[i] : i / l->group;
}

static sl_status find_parts(const sl_packed_file *f, const gptq_settings *s, const sl_linear *linear, gptq_linear *l,
                            parts *p, sl_error *err) {
    int64_t n = l->n, k = l->k;
    SL_TRY(sl_packed_file_get(f, linear->name, ".qweight", SL_I32, 2, (int64_t[]){-1, n}, &p->qweight, err));
    if (p->qweight.shape[0] != words_of(k, s->bits))
        return sl_fail(err, SL_E_INVALID, "%s has %lld words for %lld inputs, bits = %d needs %lld", linear->name,
                       (long long)p->qweight.shape[0], (long long)k, s->bits, (long long)words_of(k, s->bits));
    SL_TRY(sl_packed_file_get(f, linear->name, ".scales", SL_F16, 2, (int64_t[]){-1, n}, &p->scales, err));
    l->n_groups = p->scales.shape[0];
    SL_TRY(sl_packed_file_get(f, linear->name, ".qzeros", SL_I32, 2, (int64_t[]){l->n_groups, words_of(n, s->bits)},
                              &p->qzeros, err));
    p->has_g_idx = sl_packed_file_has(f, linear->name, ".g_idx");
    if (p->has_g_idx)
        SL_TRY(sl_packed_file_get(f, linear->name, ".g_idx", SL_I32, 1, (int64_t[]){k}, &p->g_idx, err));
    l->group = s->group_size < 0 || s->group_size > k ? k : s->group_size;
    if (l->n_groups != (k + l->group - 1) / l->group)
        return sl_fail(err, SL_E_INVALID, "%s has %lld groups of its %lld inputs, group_size = %lld makes %lld",
                       linear->name, (long long)l->n_groups, (long long)k, (long long)s->group_size,
                       (long long)((k + l->group - 1) / l->group));
    return SL_OK;
}

/* The order in which groups follow each other: a stable sort by g_idx. The flag desc_act of a checkpoint says nothing:
 * static groups have it and are in order all the same. */
static sl_status find_order(const sl_pack_env *env, const parts *p, const sl_linear *linear, gptq_linear *l,
                            sl_error *err) {
    int64_t monotone = 1, k = l->k;
    for (int64_t i = 0; i < k; i++) {
        int64_t g = group_at(p, l, i);
        if (g < 0 || g >= l->n_groups)
            return sl_fail(err, SL_E_DATA, "%s: g_idx %lld of input %lld is outside of its %lld groups", linear->name,
                           (long long)g, (long long)i, (long long)l->n_groups);
        monotone &= g == i / l->group;
    }
    if (monotone)
        return SL_OK;
    l->order = sl_pack_alloc(env, k * (int64_t)sizeof *l->order);
    int64_t *next = sl_pack_alloc(env, l->n_groups * (int64_t)sizeof *next);
    sl_status s =
        l->order != NULL && next != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "%s: no memory", linear->name);
    for (int64_t g = 0; s >= 0 && g < l->n_groups; g++)
        next[g] = g * l->group;
    for (int64_t i = 0; s >= 0 && i < k; i++) {
        int64_t g = group_at(p, l, i), end = (g + 1) * l->group < k ? (g + 1) * l->group : k;
        if (next[g] == end)
            s = sl_fail(err, SL_E_UNIMPLEMENTED, "%s: group %lld has more than group_size = %lld inputs", linear->name,
                        (long long)g, (long long)l->group);
        else
            l->order[next[g]++] = (uint32_t)i;
    }
    sl_pack_release(env, next);
    return s;
}

static int is_asymmetric(const parts *p, const gptq_linear *l, int v2) {
    int64_t width = p->qzeros.shape[1];
    for (int64_t g = 0; g < l->n_groups; g++)
        for (int64_t r = 0; r < l->n; r++)
            if (zero_of(get((const uint32_t *)p->qzeros.data + g * width, 1, r, l->bits), v2, l->bits) !=
                1u << (l->bits - 1))
                return 1;
    return 0;
}

static sl_status read_codes(const sl_pack_env *env, const gptq_settings *s, const parts *p, const sl_linear *linear,
                            gptq_linear *l, sl_error *err) {
    int64_t n = l->n, k = l->k, G = l->n_groups, width = p->qzeros.shape[1];
    l->code = sl_pack_alloc(env, n * k);
    l->scale = sl_pack_alloc(env, n * G * (int64_t)sizeof *l->scale);
    l->zero = sl_pack_alloc(env, n * G);
    if (l->code == NULL || l->scale == NULL || l->zero == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for its codes", linear->name);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < k; i++)
            l->code[r * k + i] =
                (uint8_t)get((const uint32_t *)p->qweight.data + r, n, l->order != NULL ? l->order[i] : i, l->bits);
        for (int64_t g = 0; g < G; g++) {
            uint16_t scale = ((const uint16_t *)p->scales.data)[g * n + r];
            if ((scale & 0x7c00) == 0x7c00)
                return sl_fail(err, SL_E_DATA, "%s: the scale of output %lld, group %lld is not a finite number",
                               linear->name, (long long)r, (long long)g);
            l->scale[r * G + g] = scale;
            l->zero[r * G + g] =
                (uint8_t)zero_of(get((const uint32_t *)p->qzeros.data + g * width, 1, r, l->bits), s->v2, l->bits);
        }
    }
    return SL_OK;
}

sl_status gptq_read(const sl_pack_env *env, const gptq_settings *s, const sl_packed_file *file, const sl_linear *linear,
                    int with_codes, gptq_linear *out, sl_error *err) {
    parts p = {0};
    *out = (gptq_linear){.n = linear->weight.shape[0], .k = linear->weight.shape[1], .bits = s->bits};
    sl_status status = find_parts(file, s, linear, out, &p, err);
    if (status >= 0)
        status = find_order(env, &p, linear, out, err);
    if (status >= 0) {
        out->asym = is_asymmetric(&p, out, s->v2);
        if (with_codes)
            status = read_codes(env, s, &p, linear, out, err);
    }
    if (status < 0)
        gptq_linear_free(env, out);
    return status;
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

sl_status gptq_write(const sl_pack_env *env, const gptq_settings *s, const sl_linear *linear, const gptq_linear *l,
                     sl_pack_tensor out[GPTQ_TENSORS], char names[GPTQ_TENSORS][SL_PACKED_NAME_BYTES], sl_error *err) {
    const struct {
        const char *suffix;
        sl_dtype dtype;
        uint32_t ndim;
        int64_t shape[2];
    } rows[GPTQ_TENSORS] = {{".qweight", SL_I32, 2, {words_of(l->k, l->bits), l->n}},
                            {".qzeros", SL_I32, 2, {l->n_groups, words_of(l->n, l->bits)}},
                            {".scales", SL_F16, 2, {l->n_groups, l->n}},
                            {".g_idx", SL_I32, 1, {l->k, 0}},
                            {".source", SL_I64, 1, {1, 0}}};
    for (int i = 0; i < GPTQ_TENSORS; i++) {
        int64_t bytes = sl_dtype_bits(rows[i].dtype) / 8;
        for (uint32_t d = 0; d < rows[i].ndim; d++)
            bytes *= rows[i].shape[d];
        void *data = sl_pack_alloc(env, bytes);
        if (data == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to write it", linear->name);
        sl_packed_name(names[i], linear->name, rows[i].suffix);
        out[i] = (sl_pack_tensor){.struct_size = SL_SIZE(sl_pack_tensor), .name = names[i]};
        sl_tensor_make(&out[i].tensor, data, rows[i].dtype, SL_DEVICE_CPU, rows[i].ndim, rows[i].shape);
    }
    uint32_t *qweight = out[0].tensor.data, *qzeros = out[1].tensor.data;
    uint16_t *scales = out[2].tensor.data;
    int32_t *g_idx = out[3].tensor.data;
    uint64_t source = sl_packed_source(&linear->weight);
    memcpy(out[4].tensor.data, &source, sizeof source);
    int64_t width = out[1].tensor.shape[1];
    for (int64_t i = 0; i < l->k; i++) {
        int64_t input = l->order != NULL ? l->order[i] : i;
        g_idx[input] = (int32_t)(i / l->group);
        for (int64_t r = 0; r < l->n; r++)
            put(qweight + r, l->n, input, l->bits, l->code[r * l->k + i]);
    }
    for (int64_t g = 0; g < l->n_groups; g++)
        for (int64_t r = 0; r < l->n; r++) {
            scales[g * l->n + r] = l->scale[r * l->n_groups + g];
            put(qzeros + g * width, 1, r, l->bits, stored_of(l->zero[r * l->n_groups + g], s->v2, l->bits));
        }
    return SL_OK;
}
