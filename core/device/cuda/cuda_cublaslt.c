/* See cuda_cublaslt.h. Row-major y[T, N] = x[T, K] w[N, K]^T is, column by column, Y (N x T) = W^T (W is K x N) X (K x
 * T). */
#include "cuda_cublaslt.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library ----------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define FUNCTION(name) {#name, offsetof(sli_cublaslt_api, name)},
    SLI_CUBLASLT_FUNCTIONS(FUNCTION)
#undef FUNCTION
};

static void *open_library(sl_error *err) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL); /* stays */
        if (library != NULL)
            return library;
        if (i == 0)
            sl_fail(err, SL_E_NOT_FOUND, "matrix products need cuBLASLt 13: %s", dlerror());
    }
    return NULL;
}

static sl_status load(sli_cublaslt_api *fn, sl_error *err) {
    void *library = open_library(err);
    if (library == NULL)
        return SL_E_NOT_FOUND;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *p = dlsym(library, functions[i].name);
        if (p == NULL)
            return sl_fail(err, SL_E_VERSION, "libcublasLt has no %s, needed is version 13", functions[i].name);
        memcpy((char *)fn + functions[i].offset, &p, sizeof p);
    }
    const size_t version = fn->cublasLtGetVersion();
    if (version < 130000)
        return sl_fail(err, SL_E_VERSION, "libcublasLt is version %zu, needed is 130000 (13.0)", version);
    return SL_OK;
}

sl_status sli_cublaslt_open(sli_cuda *cuda, sl_error *err) {
    if (cuda->state->blas != NULL)
        return SL_OK;
    sli_cublaslt *blas = calloc(1, sizeof *blas);
    if (blas == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for cuBLASLt");
    slk_driver_enter(&cuda->state->driver);
    sl_status status = load(&blas->fn, err);
    if (status == SL_OK) {
        const cublasStatus_t result = blas->fn.cublasLtCreate(&blas->handle);
        if (result != CUBLAS_STATUS_SUCCESS)
            status = sl_fail(err, SL_E_DEVICE, "cuBLASLt does not start: %s", blas->fn.cublasLtGetStatusName(result));
    }
    if (status == SL_OK) {
        blas->workspace = sli_cuda_alloc(cuda, SL_DEVICE_CUDA, SLI_CUBLASLT_WORKSPACE, 256, SL_MEM_SCRATCH);
        if (blas->workspace == NULL)
            status = sl_fail(err, SL_E_NO_MEMORY, "no device memory for cuBLASLt's workspace of %d bytes",
                             SLI_CUBLASLT_WORKSPACE);
    }
    if (status == SL_OK) {
        cuda->state->blas = blas;
        return SL_OK;
    }
    if (blas->handle != NULL)
        blas->fn.cublasLtDestroy(blas->handle);
    free(blas);
    return status;
}

void sli_cublaslt_close(sli_cuda *cuda) {
    sli_cublaslt *blas = cuda->state->blas;
    if (blas == NULL)
        return;
    slk_driver_wait(&cuda->state->driver, NULL);
    while (blas->gemms != NULL)
        sli_gemm_free(blas->gemms);
    blas->fn.cublasLtDestroy(blas->handle);
    sli_cuda_release(cuda, SL_DEVICE_CUDA, blas->workspace);
    free(blas);
    cuda->state->blas = NULL;
}

sl_status sli_cublaslt_check(const sl_gemm_impl *gemm, cublasStatus_t result, sl_error *err, const char *what,
                             int64_t rows) {
    if (result == CUBLAS_STATUS_SUCCESS)
        return SL_OK;
    const sl_status status = result == CUBLAS_STATUS_NOT_SUPPORTED   ? SL_E_UNIMPLEMENTED
                             : result == CUBLAS_STATUS_INVALID_VALUE ? SL_E_INVALID
                             : result == CUBLAS_STATUS_ALLOC_FAILED  ? SL_E_NO_MEMORY
                                                                     : SL_E_DEVICE;
    return slk_driver_refuse(&gemm->cuda->state->driver, status, err,
                             "a matrix product of %lld rows, %lld x %lld: %s: %s", (long long)rows,
                             (long long)gemm->desc.n, (long long)gemm->desc.k, what,
                             gemm->cuda->state->blas->fn.cublasLtGetStatusName(result));
}

/* ---- plans ----------------------------------------------------------------------------------------------------- */

static void drop_plan(sl_gemm_impl *g, sli_gemm_plan *plan) {
    const sli_cublaslt_api *fn = &g->cuda->state->blas->fn;
    const cublasLtMatrixLayout_t layouts[] = {plan->w, plan->x, plan->residual, plan->y};
    for (int i = 0; i < 4; i++)
        if (layouts[i] != NULL)
            fn->cublasLtMatrixLayoutDestroy(layouts[i]);
    memset(plan, 0, sizeof *plan);
}

static cublasStatus_t make_layouts(sl_gemm_impl *g, sli_gemm_plan *plan) {
    const sli_cublaslt_api *fn = &g->cuda->state->blas->fn;
    const uint64_t n = (uint64_t)g->desc.n, k = (uint64_t)g->desc.k, rows = (uint64_t)plan->key.rows;
    const struct {
        cublasLtMatrixLayout_t *to;
        cudaDataType_t type;
        uint64_t rows, cols;
        int64_t ld;
    } all[] = {{&plan->w, g->w_type, k, n, g->desc.k},
               {&plan->x, g->x_type, k, rows, plan->key.ldx},
               {&plan->residual, g->y_type, n, rows, plan->key.ldr},
               {&plan->y, g->y_type, n, rows, plan->key.ldy}};
    for (int i = 0; i < 4; i++) {
        const cublasStatus_t result =
            fn->cublasLtMatrixLayoutCreate(all[i].to, all[i].type, all[i].rows, all[i].cols, all[i].ld);
        if (result != CUBLAS_STATUS_SUCCESS)
            return result;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t ask(sl_gemm_impl *g, const sli_gemm_plan *plan, int wanted,
                          cublasLtMatmulHeuristicResult_t *found, int *n) {
    const sli_cublaslt *blas = g->cuda->state->blas;
    const sli_cublaslt_api *fn = &blas->fn;
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES}; /* x, w, y, residual */
    const uint64_t workspace = SLI_CUBLASLT_WORKSPACE;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* partial sums are never rounded to y's type */
    cublasLtMatmulPreference_t preference = NULL;
    cublasStatus_t result = fn->cublasLtMatmulPreferenceCreate(&preference);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = fn->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &workspace, sizeof workspace);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = fn->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                          &reduction, sizeof reduction);
    for (int i = 0; i < 4 && result == CUBLAS_STATUS_SUCCESS; i++) {
        const uint32_t bytes = 1u << (plan->key.align >> (4 * i) & 15u);
        result = fn->cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &bytes, sizeof bytes);
    }
    *n = 0;
    if (result == CUBLAS_STATUS_SUCCESS)
        result = fn->cublasLtMatmulAlgoGetHeuristic(blas->handle, g->matmul, plan->w, plan->x, plan->residual, plan->y,
                                                    preference, wanted, found, n);
    if (preference != NULL)
        fn->cublasLtMatmulPreferenceDestroy(preference);
    return result;
}

sl_status sli_gemm_queue(sl_gemm_impl *g, const sli_gemm_plan *plan, const cublasLtMatmulAlgo_t *algo,
                         const sli_gemm_operands *at, sl_error *err) {
    const sli_cublaslt *blas = g->cuda->state->blas;
    struct sl_lane_impl *lane = &g->cuda->state->driver.lanes[0];
    const float one = 1, residual = at->residual != NULL ? 1.0f : 0.0f;
    const int32_t i_one = 1, i_zero = 0;
    const void *alpha = g->integer ? (const void *)&i_one : &one,
               *beta = g->integer ? (const void *)&i_zero : &residual;
    const cublasStatus_t result = blas->fn.cublasLtMatmul(
        blas->handle, g->matmul, alpha, at->w, plan->w, at->x, plan->x, beta,
        at->residual != NULL ? at->residual : at->y, at->residual != NULL ? plan->residual : plan->y, at->y, plan->y,
        algo, blas->workspace, SLI_CUBLASLT_WORKSPACE, (cudaStream_t)lane->stream);
    lane->last = "a matrix product";
    SL_TRY(sli_cublaslt_check(g, result, err, "running", plan->key.rows));
    if (!lane->driver->debug)
        return SL_OK;
    return slk_driver_check(lane, lane->driver->cu.cuStreamSynchronize(lane->stream), err,
                            "a matrix product of %lld rows, %lld x %lld", (long long)plan->key.rows,
                            (long long)g->desc.n, (long long)g->desc.k);
}

/* Milliseconds of three runs behind one; negative: it does not run. */
static float time_one(sl_gemm_impl *g, const sli_gemm_plan *plan, const cublasLtMatmulAlgo_t *algo,
                      const sli_gemm_operands *at, sl_event_impl *const events[2]) {
    const sl_exec *exec = g->cuda->k.exec;
    const sl_lane *lane = g->cuda->lanes[0];
    float ms = -1;
    if (sli_gemm_queue(g, plan, algo, at, NULL) < 0 || exec->record(lane, events[0]) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (sli_gemm_queue(g, plan, algo, at, NULL) < 0)
            return -1;
    if (exec->record(lane, events[1]) < 0 || exec->sync(lane, NULL) < 0 ||
        slk_driver_elapsed(&g->cuda->state->driver, events[0], events[1], &ms) < 0)
        return -1;
    return ms;
}

/* The fastest of the candidates; the first where none can be timed. */
static int fastest(sl_gemm_impl *g, const sli_gemm_plan *plan, const sli_gemm_operands *at,
                   const cublasLtMatmulHeuristicResult_t *found, int n) {
    const sl_exec *exec = g->cuda->k.exec;
    sl_event_impl *events[2] = {NULL, NULL};
    slk_driver *driver = &g->cuda->state->driver;
    const int fault_before = driver->fault[0] != '\0';
    int best = 0;
    float best_ms = -1;
    if (exec->event_create(&g->cuda->state->host, g->cuda->lanes[0], &events[0]) == SL_OK &&
        exec->event_create(&g->cuda->state->host, g->cuda->lanes[0], &events[1]) == SL_OK)
        for (int i = 0; i < n; i++) {
            const float ms =
                found[i].state == CUBLAS_STATUS_SUCCESS ? time_one(g, plan, &found[i].algo, at, events) : -1;
            if (ms >= 0 && (best_ms < 0 || ms < best_ms))
                best = i, best_ms = ms;
        }
    for (int i = 0; i < 2; i++)
        exec->event_destroy(&g->cuda->state->host, events[i]);
    if (!fault_before && !driver->fault_lasts)
        driver->fault[0] = '\0'; /* a candidate that did not run is no fault */
    return best;
}

sl_status sli_gemm_plan_for(sl_gemm_impl *g, const sli_gemm_key *key, const sli_gemm_operands *tune,
                            const sli_gemm_plan **out, sl_error *err) {
    for (int i = 0; i < g->n_plans; i++)
        if (memcmp(&g->plans[i].key, key, sizeof *key) == 0) {
            *out = &g->plans[i];
            return SL_OK;
        }
    sli_gemm_plan plan = {.key = *key};
    cublasLtMatmulHeuristicResult_t found[SLI_GEMM_CANDIDATES];
    int n = 0;
    cublasStatus_t result = make_layouts(g, &plan);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = ask(g, &plan, tune != NULL ? SLI_GEMM_CANDIDATES : 1, found, &n);
    if (result == CUBLAS_STATUS_SUCCESS && n == 0)
        result = CUBLAS_STATUS_NOT_SUPPORTED;
    if (result != CUBLAS_STATUS_SUCCESS) {
        drop_plan(g, &plan);
        return sli_cublaslt_check(g, result, err, "no kernel for these types, strides and alignments", key->rows);
    }
    plan.algo = found[tune != NULL ? fastest(g, &plan, tune, found, n) : 0].algo;
    sli_gemm_plan *place;
    if (g->n_plans < SLI_GEMM_PLANS)
        place = &g->plans[g->n_plans++];
    else { /* full: the oldest goes, but never one that was tuned */
        const int32_t places = SLI_GEMM_PLANS - g->n_tuned;
        g->oldest = (g->oldest + 1) % places;
        place = &g->plans[g->n_tuned + g->oldest];
        drop_plan(g, place);
    }
    *place = plan;
    *out = place;
    return SL_OK;
}

void sli_gemm_free(sl_gemm_impl *g) {
    sli_cublaslt *blas = g->cuda->state->blas;
    for (sl_gemm_impl **at = &blas->gemms; *at != NULL; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    for (int i = 0; i < g->n_plans; i++)
        drop_plan(g, &g->plans[i]);
    if (g->matmul != NULL)
        blas->fn.cublasLtMatmulDescDestroy(g->matmul);
    free(g);
}
