/* Matrix products with x in f32, for avx2. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "gemm_f32_vec.h"
