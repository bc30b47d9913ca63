/* Lists picked on a device, against sorting on the host: the same slots, whatever ties, lengths and padding. */
#include "testhost_cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 3 };

typedef struct shape {
    int32_t rows, heads, groups;
    int64_t stride, budget, all_up_to;
    int32_t n_past[PLACES]; /* row i is of place i % PLACES */
    int32_t n_rows;         /* rows behind are padding */
    int levels;             /* scores are one of so many values: ties; 0: any */
    int half;
} shape;

static float rounded(float x) { /* to f16 and back, for values that are exact or far from a tie */
    int e;
    const float m = frexpf(x, &e);
    return x == 0 ? 0 : ldexpf(nearbyintf(ldexpf(m, 11)), e - 11);
}

static const float *of_sort;
static int by_score(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    const float x = of_sort[i], y = of_sort[j];
    return x > y ? -1 : x < y ? 1 : (i > j) - (i < j);
}
static int ascending(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return (i > j) - (i < j);
}

static void try_shape(slt_host *h, const shape *s, uint64_t seed) {
    const int64_t count = s->rows * s->heads * s->stride, list_stride = s->all_up_to + 3;
    const int members = s->heads / s->groups;
    float *scores = malloc((size_t)count * sizeof *scores), *best = malloc((size_t)s->stride * sizeof *best);
    int32_t *ids = malloc((size_t)s->stride * sizeof *ids), *row_seq = malloc((size_t)s->rows * sizeof *row_seq);
    slt_random(scores, count, seed);
    for (int64_t i = 0; i < count; i++)
        scores[i] = s->levels > 0 ? (float)((int)((scores[i] + 1) * 0.5f * (float)s->levels) - s->levels / 2) * 0.25f
                                  : scores[i] * 30;
    if (s->levels > 0)
        scores[0] = -0.0f;
    for (int32_t i = 0; i < s->rows; i++)
        row_seq[i] = i < s->n_rows ? i % PLACES : -1;
    const int64_t lists = (int64_t)s->rows * s->groups;
    const slk_pick_params p = {.scores = slt_upload(h, scores, count * 4),
                               .row_seq = slt_upload(h, row_seq, s->rows * 4),
                               .n_past = slt_upload(h, s->n_past, sizeof s->n_past),
                               .n_rows = slt_upload(h, &s->n_rows, 4),
                               .list = slt_device(h, lists * list_stride * 4),
                               .list_n = slt_device(h, lists * 4),
                               .score_stride = s->stride,
                               .list_stride = list_stride,
                               .budget = s->budget,
                               .all_up_to = s->all_up_to,
                               .heads = s->heads,
                               .groups = s->groups,
                               .half = s->half};
    assert_int_equal(slk_cuda_pick(&h->k, h->lane, &p, s->rows), SL_OK);
    int32_t *list = malloc((size_t)(lists * list_stride) * 4), *n_of = malloc((size_t)lists * 4);
    slt_download(h, list, p.list, lists * list_stride * 4);
    slt_download(h, n_of, p.list_n, lists * 4);
    for (int32_t row = 0; row < s->rows; row++)
        for (int32_t g = 0; g < s->groups; g++) {
            const int64_t n = row < s->n_rows ? s->n_past[row % PLACES] : 0;
            const int64_t want = n <= s->all_up_to ? n : s->budget;
            const int32_t *got = list + (row * s->groups + g) * list_stride;
            if (n_of[row * s->groups + g] != want)
                fail_msg("row %d, group %d of %d heads: %d slots, expected %lld", row, g, s->heads,
                         n_of[row * s->groups + g], (long long)want);
            for (int64_t i = 0; i < n; i++) {
                ids[i] = (int32_t)i;
                best[i] = -INFINITY;
                for (int m = 0; m < members; m++)
                    best[i] = fmaxf(best[i], scores[((int64_t)row * s->heads + g * members + m) * s->stride + i]);
                if (s->half)
                    best[i] = rounded(best[i]);
            }
            of_sort = best;
            if (n > s->all_up_to)
                qsort(ids, (size_t)n, sizeof *ids, by_score);
            qsort(ids, (size_t)want, sizeof *ids, ascending);
            for (int64_t i = 0; i < want; i++)
                if (got[i] != ids[i])
                    fail_msg("row %d, group %d of %d heads, %lld of %lld: slot %lld is %d, expected %d", row, g,
                             s->heads, (long long)want, (long long)n, (long long)i, got[i], ids[i]);
            for (int64_t i = want; i < list_stride; i++) /* what is behind keeps its poison */
                assert_int_equal((uint32_t)got[i], 0xffffffffu);
        }
    free(scores), free(best), free(ids), free(row_seq), free(list), free(n_of);
}

static void test_shapes(void **state) {
    slt_host *h = slt_get(state);
    static const shape shapes[] = {
        {1, 1, 1, 100, 5, 8, {50, 0, 0}, 1, 0, 0},
        {3, 4, 2, 1000, 255, 256, {999, 257, 256}, 3, 0, 0},
        {4, 8, 8, 2047, 31, 31, {2047, 32, 31}, 3, 0, 0},    /* a row of padding */
        {3, 32, 8, 5000, 255, 300, {4999, 0, 301}, 3, 3, 0}, /* three values: nearly all tie */
        {3, 4, 1, 5003, 4096, 4096, {5003, 4097, 4096}, 3, 40, 0},
        {2, 4, 1, 40000, 255, 256, {40000, 39999, 0}, 2, 0, 1}, /* rounded to f16 */
        {5, 8, 2, 131072, 1023, 1024, {131072, 100001, 1025}, 4, 0, 0},
        {1, 2, 1, 70000, 1, 1, {70000, 0, 0}, 1, 1, 0}, /* all equal: the first slot */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        try_shape(h, &shapes[i], 100 + i);
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    void *m = slt_device(h, 4096);
    const slk_pick_params good = {.scores = m,
                                  .row_seq = m,
                                  .n_past = m,
                                  .n_rows = m,
                                  .list = m,
                                  .list_n = m,
                                  .score_stride = 8,
                                  .list_stride = 8,
                                  .budget = 4,
                                  .all_up_to = 8,
                                  .heads = 4,
                                  .groups = 2};
    slk_pick_params p = good;
    p.groups = 3;
    assert_int_equal(slk_cuda_pick(&h->k, h->lane, &p, 1), SL_E_INVALID);
    p = good, p.all_up_to = 9;
    assert_int_equal(slk_cuda_pick(&h->k, h->lane, &p, 1), SL_E_INVALID);
    p = good, p.budget = 9;
    assert_int_equal(slk_cuda_pick(&h->k, h->lane, &p, 1), SL_E_INVALID);
    p = good;
    assert_int_equal(slk_cuda_pick(&h->k, h->lane, &p, -1), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("pick_cuda", tests, slt_setup, slt_teardown);
}
