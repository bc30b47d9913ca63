/* The k best of a row so far, as a heap whose root is the worst of them. Works in the caller's output arrays. */
#ifndef SLUICE_KERNELS_SELECT_HEAP_H
#define SLUICE_KERNELS_SELECT_HEAP_H

#include <math.h>
#include <stdint.h>

static inline float select_key(const float *x, int32_t i) { return x[i] == x[i] ? x[i] : -INFINITY; }

/* a ranks below b: smaller, or equal with the higher index. */
static inline int select_below(const float *x, int32_t a, int32_t b) {
    const float va = select_key(x, a), vb = select_key(x, b);
    return va < vb || (va == vb && a > b);
}

/* Let `item` sink from place `at` to where no child ranks below it. */
static inline void select_sink(const float *x, int32_t *heap, int64_t n, int64_t at, int32_t item) {
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && select_below(x, heap[child + 1], heap[child]))
            child++;
        if (!select_below(x, heap[child], item))
            break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

/* The first n elements of x become the heap. */
static inline void select_begin(const float *x, int32_t *heap, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        heap[i] = (int32_t)i;
    for (int64_t i = n / 2; i-- > 0;)
        select_sink(x, heap, n, i, heap[i]);
}

/* Heap -> descending order; the values beside it. */
static inline void select_end(const float *x, int32_t *heap, int64_t n, float *values) {
    for (int64_t left = n - 1; left > 0; left--) {
        const int32_t worst = heap[0], moved = heap[left];
        select_sink(x, heap, left, 0, moved);
        heap[left] = worst;
    }
    for (int64_t i = 0; values && i < n; i++)
        values[i] = select_key(x, heap[i]);
}

#endif
