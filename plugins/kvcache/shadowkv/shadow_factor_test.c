/* shadow_factor: the three ways against each other and against what defines the best low-rank product: orthonormal
 * rows, and an error of exactly the singular values that were left out. */
#include "shadow_factor.c"

#include "test_host.h"

/* The pool as several workers: each range of a call is cut in `parts`, later parts first. */
static int parts = 1;

static void split_for(const sl_host *host, int64_t n, int64_t grain, sl_range_fn fn, void *user) {
    (void)host, (void)grain;
    for (int i = parts - 1; i >= 0; i--)
        if (n * i / parts < n * (i + 1) / parts)
            fn(user, n * i / parts, n * (i + 1) / parts, 0);
}

typedef struct problem {
    test_host host;
    shadow_factor f;
    int64_t rows, width;
    float *a; /* [rows, width] */
} problem;

/* Row and column spaces are random, singular values fall by the factor `decay`. */
static void open_problem(problem *p, int64_t rows, int64_t width, double decay) {
    test_host_init(&p->host);
    p->host.threads.parallel_for = split_for;
    p->f = (shadow_factor){&p->host.host, &p->host.mem, &p->host.threads, SHADOW_SVD_GRAM};
    p->rows = rows;
    p->width = width;
    p->a = calloc((size_t)(rows * width), sizeof *p->a);
    assert_non_null(p->a);
    uint64_t state = 5;
    double size = 1;
    for (int64_t k = 0; k < (rows < width ? rows : width); k++, size *= decay) {
        double *left = malloc(sizeof *left * (size_t)(rows + width)), *right = left + rows;
        for (int64_t i = 0; i < rows + width; i++)
            left[i] = normal(&state);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < width; j++)
                p->a[i * width + j] += (float)(size * left[i] * right[j]);
        free(left);
    }
}

static void close_problem(problem *p) {
    assert_int_equal(p->host.n_live, 0);
    free(p->a);
}

static void factor(problem *p, uint32_t method, int64_t rank, float *u, float *vt) {
    SL_ERROR(err);
    float *copy = malloc(sizeof *copy * (size_t)(p->rows * p->width));
    memcpy(copy, p->a, sizeof *copy * (size_t)(p->rows * p->width));
    p->f.method = method;
    if (shadow_factorise(&p->f, copy, p->rows, p->width, rank, u, vt, &err) < 0)
        fail_msg("%s", err.text);
    free(copy);
}

/* |A - U Vt| and |A|, Frobenius. */
static double error_of(const problem *p, const float *u, const float *vt, int64_t rank, double *whole) {
    double sum = 0, all = 0;
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->width; j++) {
            double x = p->a[i * p->width + j];
            all += x * x;
            for (int64_t k = 0; k < rank; k++)
                x -= (double)u[i * rank + k] * vt[k * p->width + j];
            sum += x * x;
        }
    *whole = sqrt(all);
    return sqrt(sum);
}

static void check_orthonormal(const problem *p, const float *vt, int64_t rank) {
    for (int64_t a = 0; a < rank; a++)
        for (int64_t b = 0; b <= a; b++) {
            double dot = 0;
            for (int64_t w = 0; w < p->width; w++)
                dot += (double)vt[a * p->width + w] * vt[b * p->width + w];
            assert_true(fabs(dot - (a == b)) < 1e-4);
        }
}

/* Invariant 3 of the technique, for a tall matrix, a wide one and a square one. */
static void check_errors(int64_t rows, int64_t width) {
    problem p;
    open_problem(&p, rows, width, 0.9);
    int64_t most = rows < width ? rows : width;
    float *u = malloc(sizeof *u * (size_t)(rows * most)), *vt = malloc(sizeof *vt * (size_t)(width * most));
    double *s = calloc((size_t)most, sizeof *s), whole;
    factor(&p, SHADOW_SVD_EXACT, most, u, vt);
    for (int64_t k = 0; k < most; k++) {
        for (int64_t i = 0; i < rows; i++)
            s[k] += (double)u[i * most + k] * u[i * most + k];
        assert_true(k == 0 || s[k] <= s[k - 1] * (1 + 1e-5));
    }
    for (uint32_t method = 0; method < 3; method++) {
        double last = INFINITY;
        for (int64_t rank = 1; rank <= most; rank += rank < 8 ? 1 : 7) {
            double left = 0;
            for (int64_t k = rank; k < most; k++)
                left += s[k];
            factor(&p, method, rank, u, vt);
            check_orthonormal(&p, vt, rank);
            double error = error_of(&p, u, vt, rank, &whole);
            assert_true(error <= last * (1 + 1e-6) + 1e-5 * whole);
            /* the range finder may miss a little of what it cannot see; the others nothing */
            double slack = method == SHADOW_SVD_RANDOMIZED ? 0.01 : 1e-4;
            assert_true(fabs(error - sqrt(left)) <= slack * sqrt(left) + 1e-5 * whole);
            last = error;
        }
        factor(&p, method, most, u, vt);
        assert_true(error_of(&p, u, vt, most, &whole) < 1e-5 * whole);
    }
    free(u);
    free(vt);
    free(s);
    close_problem(&p);
}

static void test_errors(void **state) {
    (void)state;
    check_errors(70, 30);
    check_errors(20, 33);
    check_errors(32, 32);
}

/* Wide enough that the range finder is really used: rank + oversampling is far below the width. */
static void test_range_finder(void **state) {
    (void)state;
    problem p;
    open_problem(&p, 400, 256, 0.8);
    float *u[2], *vt[2];
    double error[2], whole;
    for (int i = 0; i < 2; i++) {
        u[i] = malloc(sizeof **u * 400 * 8), vt[i] = malloc(sizeof **vt * 256 * 8);
        factor(&p, i == 0 ? SHADOW_SVD_GRAM : SHADOW_SVD_RANDOMIZED, 8, u[i], vt[i]);
        error[i] = error_of(&p, u[i], vt[i], 8, &whole);
        check_orthonormal(&p, vt[i], 8);
    }
    assert_true(memcmp(vt[0], vt[1], sizeof **vt * 256 * 8) != 0); /* another way, indeed */
    assert_true(error[1] >= error[0] * (1 - 1e-5) && error[1] < error[0] * 1.01);
    for (int i = 0; i < 2; i++)
        free(u[i]), free(vt[i]);
    close_problem(&p);
}

static void test_workers(void **state) {
    (void)state;
    problem p;
    open_problem(&p, 150, 256, 0.95);
    float *u[2], *vt[2];
    for (uint32_t method = 0; method < 3; method++) {
        for (int i = 0; i < 2; i++) {
            parts = i == 0 ? 1 : 7;
            u[i] = malloc(sizeof **u * 150 * 6), vt[i] = malloc(sizeof **vt * 256 * 6);
            factor(&p, method, 6, u[i], vt[i]);
        }
        assert_memory_equal(u[0], u[1], sizeof **u * 150 * 6);
        assert_memory_equal(vt[0], vt[1], sizeof **vt * 256 * 6);
        for (int i = 0; i < 2; i++)
            free(u[i]), free(vt[i]);
    }
    parts = 1;
    close_problem(&p);
}

static void test_failures(void **state) {
    (void)state;
    problem p;
    SL_ERROR(err);
    open_problem(&p, 40, 256, 0.9);
    float u[40 * 4], vt[4 * 256];
    for (uint32_t method = 0; method < 3; method++) {
        p.f.method = method;
        for (p.host.budget = 0;; p.host.budget += 997) { /* whatever cannot be had is said, and given back */
            sl_status s = shadow_factorise(&p.f, p.a, 40, 256, 4, u, vt, &err);
            assert_int_equal(p.host.n_live, 0);
            if (s == SL_OK)
                break;
            assert_int_equal(s, SL_E_NO_MEMORY);
        }
        assert_true(p.host.budget > 0);
    }
    p.host.budget = -1;
    p.a[77] = NAN;
    for (p.f.method = 0; p.f.method < 3; p.f.method++)
        assert_int_equal(shadow_factorise(&p.f, p.a, 40, 256, 4, u, vt, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "finite"));
    close_problem(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_errors), cmocka_unit_test(test_range_finder),
                                       cmocka_unit_test(test_workers), cmocka_unit_test(test_failures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
