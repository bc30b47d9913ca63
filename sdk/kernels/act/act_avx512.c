/* Activations and softmax for avx512. */
#include "kernels_fill.h"
#include "vec_avx512.h"

#include "act_vec.h"
