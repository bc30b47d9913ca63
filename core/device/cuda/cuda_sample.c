/* Tokens drawn from rows of logits. */
#include <stddef.h>

#include "cuda_impl.h"

_Static_assert(sizeof(sli_cuda_draw) == sizeof(slk_sample_row) &&
                   offsetof(sli_cuda_draw, temperature) == offsetof(slk_sample_row, temperature) &&
                   offsetof(sli_cuda_draw, top_p) == offsetof(slk_sample_row, top_p) &&
                   offsetof(sli_cuda_draw, min_p) == offsetof(slk_sample_row, min_p) &&
                   offsetof(sli_cuda_draw, u) == offsetof(slk_sample_row, u) &&
                   offsetof(sli_cuda_draw, top_k) == offsetof(slk_sample_row, top_k),
               "the core's rows are the kernel's");

sl_status sli_cuda_sample(sli_cuda *cuda, const float *logits, const sli_cuda_draw *how, int32_t *token, int64_t rows,
                          int32_t n) {
    const slk_sample_params p = {
        .logits = logits, .how = (const slk_sample_row *)(const void *)how, .token = token, .stride = n, .n = n};
    return slk_cuda_sample(&cuda->k, cuda->lanes[0], &p, rows);
}
