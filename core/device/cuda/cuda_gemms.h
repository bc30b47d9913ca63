/* Planned products of the matrix library, kept by shape. One that is first met in a capture is not timed. */
#ifndef SLUICE_CORE_CUDA_GEMMS_H
#define SLUICE_CORE_CUDA_GEMMS_H

#include "cuda_impl.h"

/* NULL: the library has none for this. */
sl_gemm_impl *sli_cuda_gemm_get(sli_cuda *cuda, const sl_lane *lane, int64_t n, int64_t k, sl_dtype in, sl_dtype out,
                                uint32_t epilogue);

#endif
