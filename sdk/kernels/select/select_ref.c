/* argmax and top-k in plain C. */
#include "kernels_fill.h"
#include "select_heap.h"

static int32_t argmax_ref(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (select_key(x, (int32_t)i) > select_key(x, (int32_t)best))
            best = i;
    return (int32_t)best;
}

static int64_t topk_ref(const float *x, int64_t n, int64_t k, float *values, int32_t *index) {
    k = k < n ? k : n;
    if (k <= 0)
        return 0;
    select_begin(x, index, k);
    for (int64_t i = k; i < n; i++) /* later elements have higher indices: equal ones never displace */
        if (select_key(x, (int32_t)i) > select_key(x, index[0]))
            select_sink(x, index, k, 0, (int32_t)i);
    select_end(x, index, k, values);
    return k;
}

void slk_select_fill_ref(slk_kernels *k) {
    SLK_SET(k, argmax, argmax_ref);
    SLK_SET(k, topk, topk_ref);
}
