/* Row helpers for avx2. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "rows_vec.h"
