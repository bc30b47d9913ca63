/* Sampling on a device against the host's definition (temperature, top-k, top-p, min-p, inverse of the sums in
 * ascending id), written down here in doubles over a sorted row; and the law itself, by chi-square. */
#include "testhost_rows.h"

static const float *sorted_row;
static int by_rank(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sorted_row[i] != sorted_row[j])
        return sorted_row[i] > sorted_row[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* Weights of the tokens that stay, by id. */
static void weigh(const float *z, int32_t n, const slk_sample_row *how, const int32_t *ranks, double *weight) {
    const int32_t k = how->top_k > 0 && how->top_k < n ? how->top_k : n;
    double sum = 0, before = 0;
    for (int32_t i = 0; i < n; i++)
        weight[i] = 0;
    for (int32_t r = 0; r < k; r++)
        sum += weight[ranks[r]] = exp(((double)z[ranks[r]] - z[ranks[0]]) / how->temperature);
    const int cuts = how->top_p > 0 && how->top_p < 1;
    for (int32_t r = 0; r < k; r++) {
        const double w = weight[ranks[r]];
        if ((cuts && r > 0 && before >= how->top_p * sum) || w < how->min_p)
            weight[ranks[r]] = 0;
        before += w;
    }
}

static int32_t draw(const double *weight, int32_t n, double u) {
    double sum = 0, run = 0;
    for (int32_t i = 0; i < n; i++)
        sum += weight[i];
    int32_t last = -1;
    for (int32_t i = 0; i < n; i++) {
        run += weight[i];
        if (weight[i] > 0)
            last = i;
        if (u * sum < run)
            return i;
    }
    return last;
}

static double uniform(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (double)(*s >> 11) * 0x1p-53;
}

static void run_sample(slt_host *h, const float *z, const slk_sample_row *how, int64_t rows, int32_t n, int64_t stride,
                       int32_t *token) {
    const slk_sample_params p = {.logits = slt_upload(h, z, rows * stride * 4),
                                 .how = slt_upload(h, how, rows * (int64_t)sizeof *how),
                                 .token = slt_device(h, rows * 4),
                                 .stride = stride,
                                 .n = n};
    assert_int_equal(slk_cuda_sample(&h->k, h->lane, &p, rows), SL_OK);
    slt_download(h, token, p.token, rows * 4);
}

/* rows of n logits, each sampled in its own way. Returns how many differ. */
static int64_t try_rows(slt_host *h, int64_t rows, int32_t n, uint64_t seed, int ties) {
    const int64_t stride = n + 3;
    float *z = slt_values(rows * stride, seed, 1);
    slk_sample_row *how = slt_alloc(rows, sizeof *how);
    int32_t *token = slt_alloc(rows, 4), *ranks = slt_alloc(n, 4);
    double *weight = slt_alloc(n, sizeof *weight);
    uint64_t s = seed;
    for (int64_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < n; i++) {
            float *v = z + r * stride + i;
            *v = *v * *v * *v * 14 + (i % 97 == 5 ? 4 : 0); /* few large ones */
            if (ties)
                *v = (float)(int)*v;
            if (i % 31 == 7)
                *v = -INFINITY;
        }
        const int pick = (int)(r % 8);
        how[r] = (slk_sample_row){.temperature = pick == 0 ? 0 : 0.3 + 1.5 * uniform(&s), .u = uniform(&s)};
        how[r].top_k = pick & 1 ? 1 + (int32_t)(uniform(&s) * (r % 3 ? 60 : n)) : 0;
        how[r].top_p = pick & 2 ? 0.05 + 0.94 * uniform(&s) : 0;
        how[r].min_p = pick & 4 ? 0.2 * uniform(&s) * uniform(&s) : 0;
        if (r == 1)
            how[r].u = 0;
        if (r == 2)
            how[r].u = 1 - 0x1p-53;
    }
    run_sample(h, z, how, rows, n, stride, token);
    int64_t different = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = z + r * stride;
        for (int32_t i = 0; i < n; i++)
            ranks[i] = i;
        sorted_row = row;
        qsort(ranks, (size_t)n, sizeof *ranks, by_rank);
        int32_t want = ranks[0];
        if (how[r].temperature != 0) {
            weigh(row, n, &how[r], ranks, weight);
            want = draw(weight, n, how[r].u);
            if (token[r] < 0 || token[r] >= n || !(weight[token[r]] > 0))
                fail_msg(
                    "%d logits, row %d (temperature %g, top_k %d, top_p %g, min_p %g): token %d, which cannot be drawn",
                    n, (int)r, how[r].temperature, how[r].top_k, how[r].top_p, how[r].min_p, token[r]);
        }
        if (token[r] != want && how[r].temperature == 0)
            fail_msg("%d logits, row %d, greedy: token %d, expected %d", n, (int)r, token[r], want);
        different += token[r] != want;
    }
    free(z), free(how), free(token), free(ranks), free(weight);
    return different;
}

static void test_same_tokens(void **state) {
    slt_host *h = slt_get(state);
    int64_t rows = 0, different = 0;
    static const struct {
        int32_t rows, n;
    } shapes[] = {{16, 128256}, {9, 262144}, {9, 300001}, {1500, 1000}, {64, 8192}, {40, 2}, {40, 33}, {9, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int ties = 0; ties < 2; ties++) {
            different += try_rows(h, shapes[i].rows, shapes[i].n, 11 + i, ties);
            rows += shapes[i].rows;
        }
    print_message("%d of %d rows differ from the host's token\n", (int)different, (int)rows);
    assert_true(different * 1000 <= rows);
}

static void test_law(void **state) {
    slt_host *h = slt_get(state);
    enum { N = 40, ROWS = 20000 };
    float *z = slt_alloc(ROWS * N, 4);
    slk_sample_row *how = slt_alloc(ROWS, sizeof *how);
    int32_t *token = slt_alloc(ROWS, 4), ranks[N];
    uint64_t s = 99;
    for (int i = 0; i < ROWS * N; i++)
        z[i] = (float)(i % N % 7) * 0.5f;
    for (int r = 0; r < ROWS; r++)
        how[r] = (slk_sample_row){.temperature = 0.9, .top_k = 30, .top_p = 0.95, .u = uniform(&s)};
    run_sample(h, z, how, ROWS, N, N, token);
    double weight[N], sum = 0, chi = 0;
    int count[N] = {0}, cells = 0;
    for (int i = 0; i < N; i++)
        ranks[i] = i;
    sorted_row = z;
    qsort(ranks, N, sizeof *ranks, by_rank);
    weigh(z, N, how, ranks, weight);
    for (int i = 0; i < N; i++)
        sum += weight[i];
    for (int r = 0; r < ROWS; r++) {
        assert_in_range(token[r], 0, N - 1);
        count[token[r]]++;
    }
    for (int i = 0; i < N; i++) {
        const double expected = ROWS * weight[i] / sum;
        if (weight[i] > 0)
            chi += (count[i] - expected) * (count[i] - expected) / expected, cells++;
        else
            assert_int_equal(count[i], 0);
    }
    /* mean cells - 1, standard deviation sqrt(2 (cells - 1)): five of them */
    if (chi > cells - 1 + 5 * sqrt(2.0 * (cells - 1)))
        fail_msg("chi-square %g with %d cells", chi, cells);
    free(z), free(how), free(token);
}

static void test_bad_rows(void **state) {
    slt_host *h = slt_get(state);
    enum { N = 5000, ROWS = 5 };
    float *z = slt_values(ROWS * N, 4, 1);
    z[4999] = NAN;
    z[N + 17] = INFINITY;
    for (int i = 0; i < N; i++)
        z[2 * N + i] = -INFINITY;
    for (int i = 0; i < N; i++)
        z[3 * N + i] = i == 4321 ? -50 : -INFINITY;
    slk_sample_row how[ROWS];
    for (int i = 0; i < ROWS; i++)
        how[i] = (slk_sample_row){.temperature = i % 2, .top_p = 0.5, .u = 0.5};
    how[3].temperature = 1;
    int32_t token[ROWS];
    run_sample(h, z, how, ROWS, N, N, token);
    assert_int_equal(token[0], -1);
    assert_int_equal(token[1], -1);
    assert_int_equal(token[2], -1);
    assert_int_equal(token[3], 4321);
    assert_in_range(token[4], 0, N - 1);
    free(z);
    void *m = slt_device(h, 64);
    const slk_sample_params p = {.logits = m, .how = m, .token = m};
    assert_int_equal(slk_cuda_sample(&h->k, h->lane, &p, 1), SL_E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_tokens), cmocka_unit_test(test_law),
                                       cmocka_unit_test(test_bad_rows)};
    return cmocka_run_group_tests_name("sample_cuda", tests, slt_setup, slt_teardown);
}
