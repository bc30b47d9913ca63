/* argmax and top-k for avx2. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "select_vec.h"
