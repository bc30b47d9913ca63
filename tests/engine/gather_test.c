/* What calibration keeps of inputs: the Hessian is X^T X, sums are sums, rows are evenly spaced - however the rows
 * come. */
#include "engine/gather.h"

#include "base/ledger.h"
#include "sl_error.h"
#include "sl_test.h"

enum { IN = 300, ROWS = 700 }; /* more than a stripe, more than a part */

static float x[ROWS * IN];

/* The product of the engine, in plain C. */
static sl_status gemm(const sl_host *host, const sl_op_gemm *a) {
    (void)host;
    for (int64_t t = 0; t < a->x->shape[0]; t++)
        for (int64_t n = 0; n < a->w->shape[0]; n++) {
            float sum = 0;
            for (int64_t k = 0; k < a->x->shape[1]; k++)
                sum += ((const float *)a->x->data)[t * a->x->stride[0] + k] *
                       ((const float *)a->w->data)[n * a->w->stride[0] + k];
            ((float *)a->y->data)[t * a->y->stride[0] + n] = sum;
        }
    return SL_OK;
}

static const sl_ops ops = {.struct_size = SL_SIZE(sl_ops), .gemm = gemm};

static void test_statistics(void **state) {
    (void)state;
    uint64_t seed = 3;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = test_normal(&seed);
    static const int64_t cuts[][4] = {{700}, {1, 299, 400}, {256, 256, 188}};
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        sli_gather g = {.ops = &ops};
        sl_calibration_wants wants = {SL_SIZE(sl_calibration_wants), 7,
                                      SL_CALIBRATION_SUMS | SL_CALIBRATION_HESSIAN | SL_CALIBRATION_ROWS, 0};
        assert_int_equal(sli_gather_init(&g, &wants, IN, ROWS, NULL), SL_OK);
        for (int64_t i = 0, at = 0; i < 4 && cuts[c][i] > 0; at += cuts[c][i++])
            assert_int_equal(sli_gather_add(&g, x + at * IN, cuts[c][i]), SL_OK);
        const sl_calibration *v = sli_gather_finish(&g);
        assert_int_equal(v->n_rows, ROWS);
        for (int i = 0; i < IN; i++) {
            double sum = 0, sum_abs = 0, max = 0;
            for (int t = 0; t < ROWS; t++) {
                sum += x[t * IN + i];
                sum_abs += fabs((double)x[t * IN + i]);
                max = fabs((double)x[t * IN + i]) > max ? fabs((double)x[t * IN + i]) : max;
            }
            assert_true(fabs(v->sum[i] - sum) < 1e-9 && fabs(v->sum_abs[i] - sum_abs) < 1e-9 &&
                        v->max_abs[i] == (float)max);
            assert_true(fabs(v->sum_sq[i] - v->hessian[i * IN + i]) < 1e-5 * v->sum_sq[i]);
            for (int j = 0; j < IN; j += 7) {
                double h = 0;
                for (int t = 0; t < ROWS; t++)
                    h += (double)x[t * IN + i] * x[t * IN + j];
                if (!(fabs(v->hessian[i * IN + j] - h) < 1e-2) || v->hessian[i * IN + j] != v->hessian[j * IN + i])
                    fail_msg("hessian of %d, %d is %g, expected %g", i, j, v->hessian[i * IN + j], h);
            }
        }
        assert_int_equal(v->n_kept, 7);
        for (int i = 0; i < 7; i++) /* the last row of each seventh */
            assert_memory_equal(v->rows + i * IN, x + (100 * (i + 1) - 1) * IN, sizeof(float) * IN);
        sli_gather_free(&g);
    }
}

static void test_what_was_not_wanted_is_not_there(void **state) {
    (void)state;
    sli_gather g = {.ops = &ops};
    sl_calibration_wants wants = {.struct_size = SL_SIZE(sl_calibration_wants), .kinds = SL_CALIBRATION_SUMS};
    assert_int_equal(sli_gather_init(&g, &wants, IN, ROWS, NULL), SL_OK);
    const sl_calibration *v = sli_gather_finish(&g);
    assert_true(v->sum != NULL && v->hessian == NULL && v->rows == NULL);
    sli_gather_free(&g);
    SL_ERROR(err);
    wants.kinds = SL_CALIBRATION_ROWS; /* none of them */
    assert_int_equal(sli_gather_init(&g, &wants, IN, ROWS, &err), SL_E_INVALID);
    wants.kinds = 1u << 9;
    assert_int_equal(sli_gather_init(&g, &wants, IN, ROWS, &err), SL_E_INVALID);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    wants = (sl_calibration_wants){SL_SIZE(sl_calibration_wants), 10, SL_CALIBRATION_HESSIAN | SL_CALIBRATION_ROWS, 0};
    for (int64_t i = 0; i < 4; i++) {
        sli_ledger_fail_after(i);
        assert_int_equal(sli_gather_init(&g, &wants, IN, ROWS, &err), SL_E_NO_MEMORY);
        sli_ledger_fail_after(-1);
    }
    sli_ledger_read(&after);
    assert_int_equal(before.total, after.total);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_what_was_not_wanted_is_not_there),
    };
    return cmocka_run_group_tests_name("gather", tests, NULL, NULL);
}
