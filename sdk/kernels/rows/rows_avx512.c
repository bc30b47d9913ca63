/* Row helpers for avx512. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#include "rows_vec.h"
