/* Matrix products with x in f32, for avx512. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#include "gemm_f32_vec.h"
