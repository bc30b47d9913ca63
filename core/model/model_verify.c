/* sli_model_verify of model.h: a scan for NaN and Inf, which are the numbers whose exponent bits are all ones. */
#include <inttypes.h>
#include <string.h>

#include "model.h"

enum { BLOCK = 4096 };

/* Number of elements of x[n] with all bits of `mask` set. Plain loops: compilers make vectors of them. */
static int64_t count16(const uint16_t *x, int64_t n, uint16_t mask) {
    int64_t found = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t end = n - at < BLOCK ? n : at + BLOCK;
        uint16_t here = 0; /* at most BLOCK */
        for (int64_t i = at; i < end; i++)
            here = (uint16_t)(here + ((x[i] & mask) == mask));
        found += here;
    }
    return found;
}

static int64_t count32(const uint32_t *x, int64_t n, uint32_t mask) {
    int64_t found = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t end = n - at < BLOCK ? n : at + BLOCK;
        uint32_t here = 0;
        for (int64_t i = at; i < end; i++)
            here += (x[i] & mask) == mask;
        found += here;
    }
    return found;
}

static int bad_at(const sl_tensor *t, int64_t i) {
    switch (t->dtype) {
    case SL_F16: return (((const uint16_t *)t->data)[i] & 0x7c00) == 0x7c00;
    case SL_BF16: return (((const uint16_t *)t->data)[i] & 0x7f80) == 0x7f80;
    default: return (((const uint32_t *)t->data)[i] & 0x7f800000) == 0x7f800000;
    }
}

/* index = -1 and count = 0 when all is well. */
static sli_bad_weight scan(const char *name, const sl_tensor *t) {
    int64_t n = 1;
    for (uint32_t i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    sli_bad_weight bad = {name, t, -1, 0};
    switch (t->dtype) {
    case SL_F16: bad.count = count16(t->data, n, 0x7c00); break;
    case SL_BF16: bad.count = count16(t->data, n, 0x7f80); break;
    default: bad.count = count32(t->data, n, 0x7f800000); break;
    }
    if (bad.count > 0)
        for (bad.index = 0; !bad_at(t, bad.index);)
            bad.index++;
    return bad;
}

sl_status sli_model_verify(const sli_model *m, void (*found)(void *user, const sli_bad_weight *bad), void *user,
                           sl_error *err) {
    const sli_model_desc *d = sli_model_describe(m);
    int64_t n_bad = 0;
    for (int32_t layer = -1; layer < d->n_layers; layer++)
        for (sli_weight_role role = 0; role < SLI_ROLE_COUNT; role++) {
            const sl_tensor *t = sli_model_weight(m, layer, role);
            uint64_t seed;
            float amplitude;
            if (t == NULL || t->data == NULL || sli_model_random(m, t, &seed, &amplitude) ||
                (role == SLI_ROLE_HEAD && d->tied)) /* a tied head was seen as the embedding */
                continue;
            sli_bad_weight bad = scan(sli_model_weight_name(m, layer, role), t);
            if (bad.count == 0)
                continue;
            if (n_bad++ == 0)
                sl_fail(err, SL_E_DATA,
                        "tensor \"%s\": NaN or Inf at element %" PRId64 ", and %" PRId64 " such elements in all",
                        bad.name, bad.index, bad.count);
            if (found != NULL)
                found(user, &bad);
        }
    return n_bad == 0 ? SL_OK : SL_E_DATA;
}
