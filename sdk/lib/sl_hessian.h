/* What packers with a Hessian share: services, memory, the order of inputs, damping. */
#ifndef SLUICE_LIB_HESSIAN_H
#define SLUICE_LIB_HESSIAN_H

#include "sluice/ops.h"

/* Services of the host that a packer works with. */
typedef struct sl_pack_env {
    const sl_host *host;
    const sl_ops *ops;
    const sl_mem *mem;
    const sl_threads *threads;
} sl_pack_env;

/* Zeroed scratch memory of the ledger; NULL: none. [setup] */
static inline void *sl_pack_alloc(const sl_pack_env *env, int64_t bytes) {
    return env->mem->alloc(env->host, SL_DEVICE_CPU, bytes, 64, SL_MEM_SCRATCH);
}
static inline void sl_pack_release(const sl_pack_env *env, void *p) { env->mem->release(env->host, SL_DEVICE_CPU, p); }

/* Row of a matrix of f32, f16 or bf16 as f32. 0: NaN or Inf in it. [any] */
int sl_pack_row(const sl_pack_env *env, const sl_tensor *w, int64_t row, float *to);

typedef struct sl_hessian_plan {
    double damp;    /* this part of the mean diagonal is added to the diagonal */
    int by_weight;  /* inputs of large diagonal first; ties: lower index first */
    int damps_dead; /* 0: dead inputs (diagonal 0) get 1, then all are damped (GPTQ); 1: all are damped by the mean
                       before that, dead ones get 1 at last (SpQR) */
} sl_hessian_plan;

/* Turns h [k, k] into U of sl_factor.h, after reordering and damping. dead [k], by input: 1 where the input never was
 * anything but 0. order [k]: the input at each place. SL_E_DATA, SL_E_NO_MEMORY, with text. [setup] */
sl_status sl_hessian_factor(const sl_pack_env *env, const sl_hessian_plan *plan, double *h, int64_t k, uint8_t *dead,
                            uint32_t *order, sl_error *err);

#endif
