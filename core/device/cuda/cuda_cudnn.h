/* cuDNN, opened at run time, as the two files of its service share it. */
#ifndef SLUICE_CORE_CUDA_CUDNN_H
#define SLUICE_CORE_CUDA_CUDNN_H

#include <cudnn_graph.h>

#include "cuda_impl.h"

/* X(name, result, arguments) */
#define SLI_CUDNN_FUNCTIONS(X)                                                                                         \
    X(cudnnGetVersion, size_t, (void))                                                                                 \
    X(cudnnCreate, cudnnStatus_t, (cudnnHandle_t *))                                                                   \
    X(cudnnDestroy, cudnnStatus_t, (cudnnHandle_t))                                                                    \
    X(cudnnSetStream, cudnnStatus_t, (cudnnHandle_t, cudaStream_t))                                                    \
    X(cudnnGetErrorString, const char *, (cudnnStatus_t))                                                              \
    X(cudnnGetLastErrorString, void, (char *, size_t))                                                                 \
    X(cudnnBackendCreateDescriptor, cudnnStatus_t, (cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *))         \
    X(cudnnBackendDestroyDescriptor, cudnnStatus_t, (cudnnBackendDescriptor_t))                                        \
    X(cudnnBackendFinalize, cudnnStatus_t, (cudnnBackendDescriptor_t))                                                 \
    X(cudnnBackendSetAttribute, cudnnStatus_t,                                                                         \
      (cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t, const void *))     \
    X(cudnnBackendGetAttribute, cudnnStatus_t,                                                                         \
      (cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t, int64_t *,         \
       void *))                                                                                                        \
    X(cudnnBackendExecute, cudnnStatus_t, (cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t))

typedef struct sli_cudnn {
#define FIELD(name, result, arguments) result(*name) arguments;
    SLI_CUDNN_FUNCTIONS(FIELD)
#undef FIELD
} sli_cudnn;

/* Names of the tensors that are given when a plan runs. */
enum {
    SLI_SDPA_Q = 1,
    SLI_SDPA_K,
    SLI_SDPA_V,
    SLI_SDPA_O,
    SLI_SDPA_LSE,
    SLI_SDPA_SCALE,  /* by value: float */
    SLI_SDPA_HIDDEN, /* by value: float, the score of a hidden key */
    SLI_SDPA_N_Q,    /* by value: int32_t, with n_q != n_kv */
    SLI_SDPA_N_KV
};

/* Writes what went wrong, with cuDNN's own words; returns SL_E_DEVICE, or SL_E_UNIMPLEMENTED where cuDNN says that it
 * does not do this. */
sl_status sli_cudnn_fail(const sli_cudnn *dnn, sl_error *err, const char *what, cudnnStatus_t status);

/* The fastest plan for this attention, by cuDNN's own estimate. The plan is the caller's to destroy. cuda_cudnn_graph.c
 */
sl_status sli_cudnn_sdpa_plan(const sli_cudnn *dnn, cudnnHandle_t handle, const sl_sdpa_desc *desc,
                              cudnnBackendDescriptor_t *plan, int64_t *workspace, sl_error *err);

#endif
