/* Attention for avx2. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "attend_vec.h"
