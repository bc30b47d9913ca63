/* See successors.h. */
#include "successors.h"

#include <stdio.h>
#include <string.h>

void successors_clear(successors *m) { memset(m->id, 0xff, (size_t)successors_bytes(m)); /* -1 */ }

int successors_store(successors *m, int32_t token, const int32_t *ids) {
    int32_t *row = m->id + token * m->k;
    int is_new = row[0] < 0, n = 0;
    while (n < m->k && ids[n] >= 0 && ids[n] < m->vocab)
        n++;
    if (n == 0)
        return 0;
    for (int i = 0; i < m->k; i++)
        row[i] = i < n ? ids[i] : -1;
    return is_new;
}

static int is_row(const int32_t *id, int64_t k, int64_t vocab) {
    for (int64_t i = 0; i < k; i++) {
        if (id[i] < -1 || id[i] >= vocab || (i > 0 && id[i] >= 0 && id[i - 1] < 0))
            return 0;
        for (int64_t j = 0; j < i; j++)
            if (id[i] >= 0 && id[j] == id[i])
                return 0;
    }
    return 1;
}

static void read_row(const void *ids, int64_t k, int64_t token, int32_t *row) {
    memcpy(row, (const char *)ids + (size_t)(token * k) * sizeof *row, (size_t)k * sizeof *row);
}

sl_status successors_take(successors *m, const void *ids, int64_t k, sl_error *err) {
    int32_t row[SUCCESSORS_MAX];
    for (int64_t t = 0; t < m->vocab; t++) {
        read_row(ids, k, t, row);
        if (!is_row(row, k, m->vocab))
            return sl_fail(err, SL_E_DATA,
                           "row %lld of " SUCCESSORS_TENSOR ": expected distinct ids of [0, %lld), then only -1",
                           (long long)t, (long long)m->vocab);
    }
    for (int64_t t = 0; t < m->vocab; t++) {
        read_row(ids, k, t, row);
        for (int64_t i = 0; i < m->k; i++)
            m->id[t * m->k + i] = i < k ? row[i] : -1;
    }
    return SL_OK;
}

int64_t successors_header(const successors *m, uint64_t vocab_fingerprint, char *out) {
    int n = snprintf(
        out + 8, SUCCESSORS_HEADER_MAX - 8,
        "{\"__metadata__\":{\"" SUCCESSORS_FINGERPRINT "\":\"" SUCCESSORS_FINGERPRINT_FORMAT "\"},\"" SUCCESSORS_TENSOR
        "\":{\"dtype\":\"I32\",\"shape\":[%lld,%lld],\"data_offsets\":[0,%lld]}}",
        (unsigned long long)vocab_fingerprint, (long long)m->vocab, (long long)m->k, (long long)successors_bytes(m));
    while (n % 8 != 0)
        out[8 + n++] = ' ';
    for (int i = 0; i < 8; i++) /* little endian */
        out[i] = (char)((uint64_t)n >> (8 * i) & 0xff);
    return n + 8;
}
