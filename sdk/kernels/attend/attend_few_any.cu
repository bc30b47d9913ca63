/* Attention of few rows over keys and values in f16, f32 or codes, made bf16 on their way into shared memory: the
 * products are those of bf16 rows of the same (rounded) values. attend_few.cuh. */
#include "attend_few.cuh"

SLK_FEW_KERNEL(attend_few_any, 64, 1, true)
SLK_FEW_KERNEL(attend_few_any, 64, 4, true)
SLK_FEW_KERNEL(attend_few_any, 128, 1, true)
SLK_FEW_KERNEL(attend_few_any, 128, 2, true)
SLK_FEW_KERNEL(attend_few_any, 256, 1, true)
SLK_FEW_KERNEL(attend_few_any, 256, 2, true)
