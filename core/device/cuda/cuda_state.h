/* What only this module's own files see of a device in use: the driver, what was allocated, the matrix library. */
#ifndef SLUICE_CORE_CUDA_STATE_H
#define SLUICE_CORE_CUDA_STATE_H

#include "cuda_driver.h"
#include "cuda_impl.h"

typedef struct sli_cuda_block sli_cuda_block;
typedef struct sli_cublaslt sli_cublaslt;

struct sli_cuda_state {
    slk_driver driver;
    sl_host host;           /* given to entries that want one: nothing but log */
    sli_cuda_block *blocks; /* all that alloc gave */
    int64_t device_bytes;   /* sum of the blocks on the device */
    void *scratch;
    int64_t scratch_bytes;
    sli_cublaslt *blas; /* NULL until a matrix product was planned */
};

struct sli_cuda_graph {
    slk_driver_graph captured;
};

/* One finished line to the options' log. */
void sli_cuda_log(const sli_cuda *cuda, uint32_t level, const char *fmt, ...) SL_PRINTF(3, 4);

/* cuda_memory.c: the table's entries, and the end of all memory. */
void *sli_cuda_alloc(sli_cuda *cuda, uint32_t device, int64_t bytes, int64_t align, uint32_t tag);
void sli_cuda_release(sli_cuda *cuda, uint32_t device, void *p);
sl_status sli_cuda_scratch_reserve(sli_cuda *cuda, int64_t bytes);
void *sli_cuda_scratch(sli_cuda *cuda);
void sli_cuda_release_all(sli_cuda *cuda);

/* cuda_ops.c */
extern const sl_ops sli_cuda_ops;
sl_status sli_cuda_ops_reserve(sli_cuda *cuda, const sli_cuda_shapes *shapes, sl_error *err);

/* cuda_cublaslt.c: the library, opened when first needed, and the entries of "sl.exec/1". */
sl_status sli_cuda_gemm_create(const sl_host *host, const sl_lane *lane, const sl_gemm_desc *desc, sl_gemm_impl **out,
                               sl_error *err);
void sli_cuda_gemm_destroy(const sl_host *host, sl_gemm_impl *gemm);
sl_status sli_cuda_gemm(const sl_lane *lane, sl_gemm_impl *gemm, const sl_gemm_run *run);
void sli_cublaslt_close(sli_cuda *cuda); /* plans that nobody destroyed included */

#endif
