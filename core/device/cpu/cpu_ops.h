/* cpu_ops.h - "sl.ops/1" on the CPU: launchers that split the kernels' work over the pool. */
#ifndef SLUICE_CORE_CPU_OPS_H
#define SLUICE_CORE_CPU_OPS_H

#include "sluice/ops.h"

#include "device/cpu/pool.h"
#include "kernels.h"
#include "sl_error.h"

enum { SLI_ATTEND_TILE = 16 }; /* query rows that one kernel call takes together */

/* The largest shapes that operations will meet. */
typedef struct sli_ops_shapes {
    int64_t heads, head_dim, group; /* of any layer */
    int64_t keys;                   /* rows of the longest sequence, staged ones included */
    int64_t rows, width;            /* of an input of a linear */
} sli_ops_shapes;

/* What the operations need beside their arguments. One an engine. */
typedef struct sli_ops_context {
    const slk_kernels *kernels;
    sli_pool *pool;
    char **worker_scratch; /* [n_workers] of the kernel, then slots, partial results, pieces and scores */
    int64_t slots_offset, part_offset, pieces_offset, scores_offset;
    int64_t max_keys, max_pieces; /* pieces: segments of one head that are read as one run of slots */
    uint16_t *x_bf16; /* [rows, width] inputs rounded for bf16 products */
    int64_t x_bf16_cap;
    int32_t n_workers;
} sli_ops_context;

sl_status sli_ops_create(sli_ops_context *ctx, sli_pool *pool, uint32_t isa, const sli_ops_shapes *shapes);
void sli_ops_destroy(sli_ops_context *ctx);

/* The context that a host was provided with. */
sli_ops_context *sli_ops_context_of(const sl_host *host);

extern const sl_ops sli_ops_cpu;

sl_status sli_op_attend(const sl_host *host, const sl_attend *args);

#endif
