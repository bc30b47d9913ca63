/* argmax and top-k over vectors: most vectors hold nothing above the bar and are passed by with one comparison. */
#include "select_heap.h"

static int32_t V_SUFFIX(argmax)(const float *x, int64_t n) {
    float bar = -INFINITY;
    int32_t best = 0;
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        for (unsigned above = v_gt_bits(v_load(x + i), v_set1(bar)); above; above &= above - 1) {
            const int32_t at = (int32_t)i + __builtin_ctz(above);
            if (x[at] > bar)
                bar = x[at], best = at;
        }
    for (; i < n; i++)
        if (x[i] > bar)
            bar = x[i], best = (int32_t)i;
    return best;
}

static int64_t V_SUFFIX(topk)(const float *x, int64_t n, int64_t k, float *values, int32_t *index) {
    k = k < n ? k : n;
    if (k <= 0)
        return 0;
    select_begin(x, index, k);
    int64_t i = k;
    for (; i + VL <= n; i += VL)
        for (unsigned above = v_gt_bits(v_load(x + i), v_set1(select_key(x, index[0]))); above; above &= above - 1) {
            const int32_t at = (int32_t)i + __builtin_ctz(above);
            if (x[at] > select_key(x, index[0]))
                select_sink(x, index, k, 0, at);
        }
    for (; i < n; i++)
        if (x[i] > select_key(x, index[0]))
            select_sink(x, index, k, 0, (int32_t)i);
    select_end(x, index, k, values);
    return k;
}

void V_FILL(select)(slk_kernels *k) {
    SLK_SET(k, argmax, V_SUFFIX(argmax));
    SLK_SET(k, topk, V_SUFFIX(topk));
}
