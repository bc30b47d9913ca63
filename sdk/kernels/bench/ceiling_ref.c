/* Loops of bench_ceiling.h in plain C; the compiler makes of them what every machine of this kind has. */
#include <stddef.h>

#include "bench_ceiling.h"

enum { LANES = 32 };

static uint64_t read_all(const void *data, int64_t bytes) {
    const uint64_t *x = data;
    uint64_t sum[8] = {0};
    for (int64_t i = 0; i < bytes / 8; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += x[i + j];
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

static double multiply_add(int64_t rounds, float *sink) {
    float y[LANES] = {0};
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < LANES; i++)
            y[i] = y[i] * 0.999f + 0.001f;
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += y[i];
    *sink = sum;
    return 2.0 * LANES * (double)rounds;
}

const slk_ceiling slk_ceiling_ref = {"ref", 0, read_all, multiply_add, NULL};
