/* argmax and top-k against a full sort, with many ties and NaN. */
#include "kernels_test.h"

static const float *sorted_row;
static float key(int32_t i) { return isnan(sorted_row[i]) ? -INFINITY : sorted_row[i]; }
static int by_rank(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return key(i) != key(j) ? (key(i) > key(j) ? -1 : 1) : (i > j) - (i < j);
}

static void test_against_sort(void **state) {
    (void)state;
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    uint64_t rng = 61;
    for (int round = 0; round < 200; round++) {
        const int n = test_range(&rng, 1, 300), k = test_range(&rng, 0, round % 2 ? 12 : n + 3);
        float *x = test_normals(&rng, (size_t)n, 1), *values = test_alloc((size_t)k * sizeof *values);
        int32_t *order = test_alloc((size_t)n * sizeof *order), *index = test_alloc((size_t)k * sizeof *index);
        for (int i = 0; i < n; i++) {
            order[i] = i;
            if (round % 3 == 1)
                x[i] = (float)test_range(&rng, 0, 3); /* ties */
            if (round % 3 == 2 && test_range(&rng, 0, 2) == 0)
                x[i] = test_range(&rng, 0, 1) ? NAN : -INFINITY;
        }
        sorted_row = x;
        qsort(order, (size_t)n, sizeof *order, by_rank);
        for (int t = 0; t < n_tables; t++) {
            assert_int_equal(tables[t]->argmax(x, n), order[0]);
            const int64_t got = tables[t]->topk(x, n, k, values, index);
            assert_int_equal(got, k < n ? k : n);
            for (int i = 0; i < got; i++) {
                assert_int_equal(index[i], order[i]);
                assert_true(values[i] == key(order[i]));
            }
            assert_int_equal(tables[t]->topk(x, n, k, NULL, index), got);
        }
        free(x), free(values), free(order), free(index);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_sort)};
    return cmocka_run_group_tests_name("select", tests, NULL, NULL);
}
