/* Picks the matrix product by dtypes. */
#include "kernels.h"

#include <assert.h>

void slk_gemm_run(const slk_kernels *k, const slk_gemm *p, int64_t n_begin, int64_t n_end) {
    assert(0 <= n_begin && n_begin <= n_end && n_end <= p->N);
    assert(p->x_dtype == SL_F32 || (p->x_dtype == SL_BF16 && p->w_dtype == SL_BF16));
    const struct {
        uint32_t x_dtype, w_dtype, bits;
        slk_gemm_fn fn;
    } rows[] = {{SL_F32, SL_F32, 0, k->gemm_f32},      {SL_F32, SL_F16, 0, k->gemm_f16},
                {SL_F32, SL_BF16, 0, k->gemm_bf16},    {SL_BF16, SL_BF16, 0, k->gemm_bf16_bf16},
                {SL_F32, SLK_W_PACKED, 8, k->gemm_q8}, {SL_F32, SLK_W_PACKED, 4, k->gemm_q4}};
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
        if (p->x_dtype == rows[i].x_dtype && p->w_dtype == rows[i].w_dtype &&
            (!rows[i].bits || p->q.bits == rows[i].bits)) {
            rows[i].fn(p, n_begin, n_end);
            return;
        }
    assert(!"no kernel for these dtypes");
}
