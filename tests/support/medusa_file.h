/* medusa_file.h - files of Medusa heads for tests: random ones in every layout, or with given output matrices. */
#ifndef SLUICE_TEST_MEDUSA_FILE_H
#define SLUICE_TEST_MEDUSA_FILE_H

#include "sl_test.h"

typedef struct medusa_file {
    int heads, blocks;
    int64_t hidden, vocab;
    const char *prefix;   /* "" or "medusa_head." */
    const char *accuracy; /* metadata; NULL: none */
    uint64_t seed;
    double scale;           /* of W1 and b1, times 1 / sqrt(hidden); 0: all zero */
    int own;                /* each head has its own W2 */
    const float *const *w2; /* [heads] of [vocab, hidden]; NULL: random */
    int bf16;               /* else f32 */
} medusa_file;

static inline void medusa_put(FILE *f, float x, int bf16) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16);
    assert_int_equal(bf16 ? fwrite(&half, sizeof half, 1, f) : fwrite(&x, sizeof x, 1, f), 1);
}

static inline void medusa_file_write(const char *path, const medusa_file *m) {
    char *header = malloc(1 << 16);
    assert_non_null(header);
    size_t used = (size_t)sprintf(header, "{");
    int64_t at = 0, width = m->bf16 ? 2 : 4, d = m->hidden;
    const char *dtype = m->bf16 ? "BF16" : "F32";
    if (m->accuracy != NULL)
        used += (size_t)sprintf(header + used, "\"__metadata__\":{\"accuracy\":\"%s\"},", m->accuracy);
    for (int k = 0; k < m->heads; k++) {
        for (int i = 0; i < m->blocks; i++) {
            used += (size_t)sprintf(header + used,
                                    "\"%s%d.%d.linear.weight\":{\"dtype\":\"%s\",\"shape\":[%lld,%lld],"
                                    "\"data_offsets\":[%lld,%lld]},",
                                    m->prefix, k, i, dtype, (long long)d, (long long)d, (long long)at,
                                    (long long)(at + d * d * width));
            at += d * d * width;
            used += (size_t)sprintf(
                header + used,
                "\"%s%d.%d.linear.bias\":{\"dtype\":\"%s\",\"shape\":[%lld],\"data_offsets\":[%lld,%lld]},", m->prefix,
                k, i, dtype, (long long)d, (long long)at, (long long)(at + d * width));
            at += d * width;
        }
        if (m->own) {
            used += (size_t)sprintf(header + used,
                                    "\"%s%d.%d.weight\":{\"dtype\":\"%s\",\"shape\":[%lld,%lld],"
                                    "\"data_offsets\":[%lld,%lld]},",
                                    m->prefix, k, m->blocks, dtype, (long long)m->vocab, (long long)d, (long long)at,
                                    (long long)(at + m->vocab * d * width));
            at += m->vocab * d * width;
        }
    }
    header[used - 1] = '}';
    while (used % 8 != 0)
        header[used++] = ' ';
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    uint64_t n = used, seed = m->seed != 0 ? m->seed : 1;
    assert_int_equal(fwrite(&n, sizeof n, 1, f), 1);
    assert_int_equal(fwrite(header, 1, used, f), used);
    double scale = m->scale / sqrt((double)d);
    for (int k = 0; k < m->heads; k++) {
        for (int64_t i = 0; i < m->blocks * (d * d + d); i++)
            medusa_put(f, m->scale > 0 ? (float)(scale * test_normal(&seed)) : 0, m->bf16);
        for (int64_t i = 0; m->own && i < m->vocab * d; i++)
            medusa_put(f, m->w2 != NULL ? m->w2[k][i] : test_normal(&seed), m->bf16);
    }
    assert_int_equal(fclose(f), 0);
    free(header);
}

#endif
