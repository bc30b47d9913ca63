/* bf16 x bf16 for avx2, without vdpbf16ps. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "gemm_bf16x_vec.h"
