/* argmax and top-k for avx512. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#include "select_vec.h"
