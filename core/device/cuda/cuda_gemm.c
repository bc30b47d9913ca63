/* Typed matrix products of "sl.exec/1" on the compute lane, by cuBLASLt.
 *
 *   x, w            y              bias           residual
 *   bf16            bf16, f32      y's dtype      y's dtype
 *   f16             f16, f32       y's dtype      y's dtype
 *   f32             f32            f32            f32
 *   e4m3            bf16, f16      y's dtype      y's dtype    with SCALE_ROWS: row_scale [T] and column_scale [N]
 *   e4m3            f32            none           f32          likewise
 *   int8            i32            none           none
 *
 * Sums are f32 (i32 for int8). A residual that is not y itself lies without gaps between rows. What a product cannot do
 * is refused when it is created. Rows of a run may be any up to max_rows: each count gets a plan when it first comes,
 * by the library's heuristics on the host; those of max_rows and of some batches are timed at create, unless the mode
 * is deterministic or the lane is capturing.
 */
#include "cuda_cublaslt.h"

#include <stdlib.h>

#include "sl_tensor.h"

static const struct {
    sl_dtype in, out;
    cudaDataType_t in_type, out_type;
    uint32_t epilogues;
} kinds[] = {
#define PLAIN (SL_EPILOGUE_BIAS | SL_EPILOGUE_RESIDUAL)
    {SL_BF16, SL_BF16, CUDA_R_16BF, CUDA_R_16BF, PLAIN},
    {SL_BF16, SL_F32, CUDA_R_16BF, CUDA_R_32F, PLAIN},
    {SL_F16, SL_F16, CUDA_R_16F, CUDA_R_16F, PLAIN},
    {SL_F16, SL_F32, CUDA_R_16F, CUDA_R_32F, PLAIN},
    {SL_F32, SL_F32, CUDA_R_32F, CUDA_R_32F, PLAIN},
    {SL_F8_E4M3, SL_BF16, CUDA_R_8F_E4M3, CUDA_R_16BF, PLAIN | SL_EPILOGUE_SCALE_ROWS},
    {SL_F8_E4M3, SL_F16, CUDA_R_8F_E4M3, CUDA_R_16F, PLAIN | SL_EPILOGUE_SCALE_ROWS},
    {SL_F8_E4M3, SL_F32, CUDA_R_8F_E4M3, CUDA_R_32F, SL_EPILOGUE_RESIDUAL | SL_EPILOGUE_SCALE_ROWS},
    {SL_I8, SL_I32, CUDA_R_8I, CUDA_R_32I, 0},
#undef PLAIN
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* Tuning takes this much memory at most, and never more than half of what is free. */
static const int64_t tune_bytes = (int64_t)2 << 30;

/* ---- create ---------------------------------------------------------------------------------------------------- */

static sl_status check_desc(const sl_lane *lane, const sl_gemm_desc *d, int *kind, sl_error *err) {
    const sl_dtype sums = d->x_dtype == SL_I8 ? SL_I32 : SL_F32;
    if (lane->impl != &lane->impl->driver->lanes[0])
        return sl_fail(err, SL_E_UNIMPLEMENTED, "matrix products run on lane 0");
    if (d->n <= 0 || d->k <= 0 || d->max_rows <= 0)
        return sl_fail(err, SL_E_INVALID, "a matrix product of up to %lld rows, %lld x %lld: expected all above 0",
                       (long long)d->max_rows, (long long)d->n, (long long)d->k);
    for (*kind = 0; *kind < N_KINDS; ++*kind)
        if (kinds[*kind].in == d->x_dtype && kinds[*kind].in == d->w_dtype && kinds[*kind].out == d->y_dtype)
            break;
    if (*kind == N_KINDS)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "a matrix product of %s with %s into %s: expected both bf16, f16 (into the same or f32), f32, "
                       "e4m3 (into bf16, f16 or f32) or int8 (into int32)",
                       sl_dtype_name(d->x_dtype), sl_dtype_name(d->w_dtype), sl_dtype_name(d->y_dtype));
    if (d->compute != SL_DTYPE_NONE && d->compute != sums)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "a matrix product of %s sums in %s, not in %s",
                       sl_dtype_name(d->x_dtype), sl_dtype_name(sums), sl_dtype_name(d->compute));
    if ((d->epilogue & ~kinds[*kind].epilogues) != 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "a matrix product of %s into %s: epilogue %#x, possible is %#x",
                       sl_dtype_name(d->x_dtype), sl_dtype_name(d->y_dtype), d->epilogue, kinds[*kind].epilogues);
    return SL_OK;
}

static cublasStatus_t set_u32(const sl_gemm_impl *g, cublasLtMatmulDescAttributes_t attribute, int32_t value) {
    return g->cuda->state->blas->fn.cublasLtMatmulDescSetAttribute(g->matmul, attribute, &value, sizeof value);
}
static cublasStatus_t set_pointer(const sl_gemm_impl *g, cublasLtMatmulDescAttributes_t attribute, const void *p) {
    return g->cuda->state->blas->fn.cublasLtMatmulDescSetAttribute(g->matmul, attribute, &p, sizeof p);
}

static cublasStatus_t describe(sl_gemm_impl *g) {
    const sli_cublaslt_api *fn = &g->cuda->state->blas->fn;
    cublasStatus_t result = fn->cublasLtMatmulDescCreate(
        &g->matmul, g->integer ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, g->integer ? CUDA_R_32I : CUDA_R_32F);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = set_u32(g, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (result == CUBLAS_STATUS_SUCCESS && (g->desc.epilogue & SL_EPILOGUE_BIAS)) {
        result = set_u32(g, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        if (result == CUBLAS_STATUS_SUCCESS)
            result = set_u32(g, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)g->y_type);
    }
    if (result == CUBLAS_STATUS_SUCCESS && (g->desc.epilogue & SL_EPILOGUE_SCALE_ROWS)) {
        result = set_u32(g, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
        if (result == CUBLAS_STATUS_SUCCESS)
            result = set_u32(g, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    }
    return result;
}

static cublasStatus_t set_vectors(sl_gemm_impl *g, const void *bias, const float *row_scale,
                                  const float *column_scale) {
    cublasStatus_t result = CUBLAS_STATUS_SUCCESS;
    if (g->desc.epilogue & SL_EPILOGUE_BIAS)
        result = set_pointer(g, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (result == CUBLAS_STATUS_SUCCESS && (g->desc.epilogue & SL_EPILOGUE_SCALE_ROWS)) {
        result = set_pointer(g, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, column_scale);
        if (result == CUBLAS_STATUS_SUCCESS)
            result = set_pointer(g, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, row_scale);
    }
    return result;
}

static int64_t round_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

/* Counts of rows that are timed besides max_rows: batches that decode. */
static const int64_t tuned_rows[] = {32, 64, 128, 256};

/* The plan of max_rows, and those of batches, timed on memory of its own where there is enough. */
static sl_status plan_largest(sl_gemm_impl *g, sl_error *err) {
    slk_driver *driver = &g->cuda->state->driver;
    const sl_gemm_desc *d = &g->desc;
    const int64_t in = sl_dtype_bits(d->x_dtype) / 8, y_size = sl_dtype_bits(d->y_dtype) / 8;
    const int64_t w = round_up(d->n * d->k * in), x = round_up(d->max_rows * d->k * in),
                  y = round_up(d->max_rows * d->n * y_size),
                  vector = round_up((d->n > d->max_rows ? d->n : d->max_rows) * 4);
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    const sl_exec *exec = g->cuda->k.exec;
    const sl_lane *lane = g->cuda->lanes[0];
    const int64_t bytes = w + x + y + vector;
    SL_TRY(exec->device_info(lane, &info));
    unsigned char *memory = NULL;
    if (!g->cuda->k.deterministic && !driver->debug && !lane->capturing && bytes <= tune_bytes &&
        bytes <= info.memory_free / 2) {
        void *p = NULL;
        if (slk_driver_alloc(driver, bytes, &p, NULL) == SL_OK && exec->fill(lane, p, 0x3c, bytes) == SL_OK)
            memory = p;
        else
            slk_driver_free(driver, p);
    }
    sli_gemm_operands at = {0};
    if (memory != NULL) {
        at = (sli_gemm_operands){.w = memory, .x = memory + w, .y = memory + w + x};
        at.residual = d->epilogue & SL_EPILOGUE_RESIDUAL ? at.y : NULL;
    }
    /* without memory: the alignment of a pointer that is never followed */
    const void *some = memory != NULL ? memory + w + x + y : (const void *)(uintptr_t)256;
    sli_gemm_key key = {.rows = d->max_rows, .ldx = d->k, .ldy = d->n, .ldr = d->n, .align = 0x88888};
    const sli_gemm_plan *plan;
    sl_status status = sli_cublaslt_check(g, set_vectors(g, some, some, some), err, "setting vectors", d->max_rows);
    if (status == SL_OK)
        status = sli_gemm_plan_for(g, &key, memory != NULL ? &at : NULL, &plan, err);
    g->n_tuned = g->n_plans;
    for (size_t i = 0; status == SL_OK && memory != NULL && i < sizeof tuned_rows / sizeof *tuned_rows; i++) {
        key.rows = tuned_rows[i]; /* one that cannot be planned is met again when it comes */
        if (key.rows < d->max_rows && sli_gemm_plan_for(g, &key, &at, &plan, NULL) == SL_OK)
            g->n_tuned = g->n_plans;
    }
    if (memory != NULL) {
        slk_driver_wait(driver, NULL);
        slk_driver_free(driver, memory);
    }
    return status;
}

sl_status sli_cuda_gemm_create(const sl_host *host, const sl_lane *lane, const sl_gemm_desc *desc, sl_gemm_impl **out,
                               sl_error *err) {
    (void)host;
    *out = NULL;
    int kind = 0;
    sli_cuda *cuda = sli_cuda_of(lane);
    SL_TRY(check_desc(lane, desc, &kind, err));
    if (lane->capturing && cuda->state->blas == NULL)
        return sl_fail(err, SL_E_STATE, "the first matrix product was created in a capture");
    SL_TRY(sli_cublaslt_open(cuda, err));
    sl_gemm_impl *g = calloc(1, sizeof *g);
    if (g == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a matrix product");
    g->cuda = cuda;
    g->desc = *desc;
    g->x_type = g->w_type = kinds[kind].in_type;
    g->y_type = kinds[kind].out_type;
    g->integer = desc->x_dtype == SL_I8;
    g->next = cuda->state->blas->gemms;
    cuda->state->blas->gemms = g;
    slk_driver_enter(&cuda->state->driver);
    sl_status status = sli_cublaslt_check(g, describe(g), err, "describing", desc->max_rows);
    if (status == SL_OK)
        status = plan_largest(g, err);
    if (status < 0)
        sli_gemm_free(g);
    else
        *out = g;
    return status;
}

void sli_cuda_gemm_destroy(const sl_host *host, sl_gemm_impl *gemm) {
    (void)host;
    if (gemm != NULL)
        sli_gemm_free(gemm);
}

/* ---- run ------------------------------------------------------------------------------------------------------- */

/* Logarithm of an address's alignment, 8 at most. */
static uint32_t alignment(const void *p) {
    const uintptr_t u = (uintptr_t)p | 256;
    return (uint32_t)__builtin_ctzll((unsigned long long)u);
}

sl_status sli_cuda_gemm(const sl_lane *lane, sl_gemm_impl *g, const sl_gemm_run *run) {
    slk_driver *driver = &g->cuda->state->driver;
    const sl_gemm_desc *d = &g->desc;
    const float *column_scale = SL_HAS(run, sl_gemm_run, column_scale) ? run->column_scale : NULL;
    if (run->rows == 0)
        return SL_OK;
    if (lane != g->cuda->lanes[0] || run->rows < 0 || run->rows > d->max_rows || run->ldx < d->k || run->ldy < d->n ||
        run->x == NULL || run->w == NULL || run->y == NULL)
        return slk_driver_refuse(
            driver, SL_E_INVALID, NULL,
            "a matrix product of %lld rows, strides %lld and %lld: planned were %lld x %lld, up to %lld rows "
            "of the compute lane",
            (long long)run->rows, (long long)run->ldx, (long long)run->ldy, (long long)d->n, (long long)d->k,
            (long long)d->max_rows);
    if (((d->epilogue & SL_EPILOGUE_BIAS) && run->bias == NULL) ||
        ((d->epilogue & SL_EPILOGUE_RESIDUAL) && run->residual == NULL) ||
        ((d->epilogue & SL_EPILOGUE_SCALE_ROWS) && (run->row_scale == NULL || column_scale == NULL)))
        return slk_driver_refuse(
            driver, SL_E_INVALID, NULL,
            "a matrix product with epilogue %#x: bias, residual, row_scale or column_scale is missing", d->epilogue);
    const sli_gemm_operands at = {
        .x = run->x, .w = run->w, .y = run->y, .residual = d->epilogue & SL_EPILOGUE_RESIDUAL ? run->residual : NULL};
    const void *bias = d->epilogue & SL_EPILOGUE_BIAS ? run->bias : NULL;
    const sli_gemm_key key = {.rows = run->rows,
                              .ldx = run->ldx,
                              .ldy = run->ldy,
                              .ldr = at.residual != NULL && at.residual != at.y ? d->n : run->ldy,
                              .align = alignment(at.x) | alignment(at.w) << 4 | alignment(at.y) << 8 |
                                       alignment(at.residual) << 12 | alignment(bias) << 16};
    const sli_gemm_plan *plan;
    slk_driver_enter(driver);
    SL_TRY(
        sli_cublaslt_check(g, set_vectors(g, bias, run->row_scale, column_scale), NULL, "setting vectors", run->rows));
    SL_TRY(sli_gemm_plan_for(g, &key, NULL, &plan, NULL));
    return sli_gemm_queue(g, plan, &plan->algo, &at, NULL);
}
