/* Rotary embedding for avx512. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#include "rope_vec.h"
