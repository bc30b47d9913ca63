/* RMS norm: variants against double; rows do not depend on their company. */
#include "kernels_test.h"

static void try_norm(uint64_t *rng, int64_t rows, int64_t n, int with_w, int with_residual, float scale) {
    const slk_kernels *tables[SLK_ISA_END];
    const int n_tables = test_tables(tables);
    const int64_t ld = n + 3;
    const size_t size = (size_t)(rows * ld);
    float *x = test_normals(rng, size, scale), *w = test_normals(rng, (size_t)n, 1),
          *res0 = test_normals(rng, size, scale);
    float *res = test_alloc(size * sizeof *res), *y = test_alloc(size * sizeof *y),
          *alone = test_alloc(size * sizeof *y);
    const float eps = 1e-5f;
    for (int i = 0; i < n_tables; i++) {
        slk_norm p = {.x = x,
                      .ldx = ld,
                      .y = y,
                      .ldy = ld,
                      .residual = with_residual ? res : NULL,
                      .ldr = ld,
                      .w = with_w ? w : NULL,
                      .n = n,
                      .eps = eps};
        memset(y, 0, size * sizeof *y), memset(alone, 0, size * sizeof *y);
        if (size > 0)
            memcpy(res, res0, size * sizeof *res);
        tables[i]->rmsnorm(&p, 0, rows);
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t j = 0; j < n; j++) {
                const float a = with_residual ? res0[r * ld + j] + x[r * ld + j] : x[r * ld + j];
                if (with_residual)
                    assert_true(res[r * ld + j] == a);
                sum += (double)a * a;
            }
            for (int64_t j = 0; j < n;
                 j++) { /* squares sum in f32 (relative error 1e-6 at most), three more roundings */
                const float a = with_residual ? res0[r * ld + j] + x[r * ld + j] : x[r * ld + j];
                const double want = (with_w ? w[j] : 1) * (a / sqrt(sum / (double)n + (double)eps));
                if (!(fabs(y[r * ld + j] - want) <= 2e-6 * fabs(want)))
                    fail_msg("%s: row %d, %d of %d: %.9g, expected %.9g", tables[i]->rmsnorm_name, (int)r, (int)j,
                             (int)n, (double)y[r * ld + j], want);
            }
        }
        if (size > 0)
            memcpy(res, res0, size * sizeof *res);
        for (int64_t r = rows; r-- > 0;) {
            slk_norm one = p;
            one.x = x + r * ld, one.y = alone + r * ld, one.residual = with_residual ? res + r * ld : NULL;
            tables[i]->rmsnorm(&one, 0, 1);
        }
        check_bits("rows alone", y, alone, size);
        if (!with_residual && size > 0) { /* in place */
            memcpy(alone, x, size * sizeof *x);
            slk_norm in_place = p;
            in_place.x = in_place.y = alone;
            tables[i]->rmsnorm(&in_place, 0, rows);
            for (int64_t r = 0; r < rows; r++)
                check_bits("in place", y + r * ld, alone + r * ld, (size_t)n);
        }
    }
    free(x), free(w), free(res0), free(res), free(y), free(alone);
}

static void test_shapes(void **state) {
    (void)state;
    uint64_t rng = 41;
    for (int64_t n = 1; n <= 70; n++)
        try_norm(&rng, test_range(&rng, 0, 4), n, (int)(n & 1), (int)(n / 2 & 1), 1);
    try_norm(&rng, 3, 4096, 1, 1, 1);
    try_norm(&rng, 3, 320, 1, 0, 1e-15f); /* eps dominates */
    try_norm(&rng, 3, 320, 1, 1, 1e15f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests_name("norm", tests, NULL, NULL);
}
