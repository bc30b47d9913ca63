/* Attention of few rows over bf16 keys and values: attend_few.cuh. Other sizes of heads take the next larger one. */
#include "attend_few.cuh"

SLK_FEW_KERNEL(attend_few, 64, 1, false)
SLK_FEW_KERNEL(attend_few, 64, 4, false)
SLK_FEW_KERNEL(attend_few, 128, 1, false)
SLK_FEW_KERNEL(attend_few, 128, 2, false)
SLK_FEW_KERNEL(attend_few, 256, 1, false)
SLK_FEW_KERNEL(attend_few, 256, 2, false)
