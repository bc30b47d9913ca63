/* Tensors of seeded values, made where they are needed: models without a checkpoint. */
#include "cuda_impl.h"

sl_status sli_cuda_random(sli_cuda *cuda, void *dst, sl_dtype dtype, int64_t n, uint64_t seed, float amplitude) {
    const slk_random_params p = {.y = dst, .n = n, .seed = seed, .amplitude = amplitude};
    return slk_cuda_random(&cuda->k, cuda->lanes[0], &p, dtype);
}
