/* Activations and softmax for avx2. */
#include "kernels_fill.h"
#include "vec_avx2.h"

#include "act_vec.h"
