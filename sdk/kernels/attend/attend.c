/* Sizes of attention's scratch; see attend_scratch.h for what lies where. */
#include "attend_scratch.h"

int64_t slk_attend_scratch_bytes(int64_t group, int64_t d_k, int64_t d_v) {
    return attend_scratch_floats(group, d_k, d_v) * (int64_t)sizeof(float);
}
