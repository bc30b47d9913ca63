/* See sl_map.h. */
#include "sl_map.h"

#include <math.h>
#include <string.h>

enum { MAX_MATRIX = 16384 }; /* elements of a matrix product's result that are kept aside */

#define T float
#define F(name) name##_f32
#include "sl_map_hadamard.h"
#undef T
#undef F
#define T double
#define F(name) name##_f64
#include "sl_map_hadamard.h"
#undef T
#undef F

static int is_matrix(const sl_tensor *t, int64_t n) {
    return t->data != NULL && t->dtype == SL_F32 && t->ndim == 2 && t->shape[0] == n && t->shape[1] == n;
}

static const char *hadamard_fault(const sl_map *map) {
    int64_t m = map->n, elements = 0;
    for (const int32_t *k = map->orders; k != NULL && *k != 0; k++) {
        if (*k < 1 || *k > MAX_MATRIX || m % *k != 0)
            return "an order of the map does not divide its size";
        m /= *k;
        elements += (int64_t)*k * *k;
    }
    if ((m & (m - 1)) != 0)
        return "what the map's orders leave of its size is no power of two";
    if (elements > 0 &&
        (map->a.data == NULL || map->a.dtype != SL_F32 || map->a.ndim != 1 || map->a.shape[0] != elements))
        return "the map's matrices are not those of its orders";
    if (map->signs.data != NULL &&
        (map->signs.dtype != SL_F32 || map->signs.ndim != 1 || map->signs.shape[0] != map->n))
        return "the map's signs are not f32 [n]";
    return NULL;
}

const char *sl_map_fault(const sl_map *map, int64_t width) {
    if (map->kind == SL_MAP_NONE)
        return NULL;
    if (map->kind == SL_MAP_ROUND)
        return map->bits >= 2 && map->bits <= 8 && map->clip > 0 ? NULL
                                                                 : "a map rounds to 2 to 8 bits and a positive clip";
    if (map->n < 1 || map->stride < 1 || width % (map->n * map->stride) != 0)
        return "the row's width is no multiple of the map's size";
    if (map->kind != SL_MAP_HADAMARD && map->n > MAX_MATRIX)
        return "the map's matrix is too large";
    int64_t p;
    switch (map->kind) {
    case SL_MAP_DIAGONAL:
        return map->a.data != NULL && map->a.dtype == SL_F32 && map->a.ndim == 1 && map->a.shape[0] == map->n
                   ? NULL
                   : "the map's diagonal is not f32 [n]";
    case SL_MAP_HADAMARD: return hadamard_fault(map);
    case SL_MAP_KRONECKER:
        p = map->a.ndim == 2 ? map->a.shape[0] : 0;
        return p > 0 && map->n % p == 0 && is_matrix(&map->a, p) && is_matrix(&map->b, map->n / p)
                   ? NULL
                   : "the map's factors are not f32 [p, p] and [n / p, n / p]";
    case SL_MAP_DENSE: return is_matrix(&map->a, map->n) ? NULL : "the map's matrix is not f32 [n, n]";
    case SL_MAP_PER_HEAD:
        return map->a.data != NULL && map->a.dtype == SL_F32 && map->a.ndim == 3 &&
                       map->a.shape[0] == width / (map->n * map->stride) && map->a.shape[1] == map->n &&
                       map->a.shape[2] == map->n
                   ? NULL
                   : "the map's matrices are not f32 [stretches, n, n]";
    default: return "the map is of an unknown kind";
    }
}

static void round_row(const sl_map *map, float *x, int64_t n) {
    float low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low || i == 0 ? x[i] : low;
        high = x[i] > high || i == 0 ? x[i] : high;
    }
    const float levels = (float)((1 << map->bits) - 1), clip = (float)map->clip;
    float scale, zero, first, last;
    if (map->asymmetric) {
        scale = (high - low) * clip / levels;
        zero = low * clip, first = 0, last = levels;
    } else {
        const float most = (-low > high ? -low : high) * clip;
        zero = 0, last = (levels - 1) / 2, first = -last - 1;
        scale = most / last;
    }
    if (!(scale > 0))
        return; /* all the same: nothing to lose */
    for (int64_t i = 0; i < n; i++) {
        const float q = rintf((x[i] - zero) / scale);
        x[i] = (q < first ? first : q > last ? last : q) * scale + zero;
    }
}

static void apply(const sl_map *map, int inverse, float *x, int64_t stretch) {
    const int64_t n = map->n, stride = map->stride;
    const float *a = map->a.data;
    int64_t p;
    switch (map->kind) {
    case SL_MAP_DIAGONAL:
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < stride; j++)
                x[i * stride + j] = inverse ? x[i * stride + j] / a[i] : x[i * stride + j] * a[i];
        break;
    case SL_MAP_HADAMARD: hadamard_f32(map, inverse, x); break;
    case SL_MAP_KRONECKER:
        p = map->a.shape[0];
        for (int64_t i = 0; i < p; i++)
            along_axis_f32(map->b.data, inverse, x + i * (n / p) * stride, n / p, stride);
        along_axis_f32(a, inverse, x, p, n / p * stride);
        break;
    case SL_MAP_DENSE: along_axis_f32(a, inverse, x, n, stride); break;
    case SL_MAP_PER_HEAD: along_axis_f32(a + stretch * n * n, inverse, x, n, stride); break;
    default: break;
    }
}

void sl_map_rows(const sl_map *map, int backwards, float *x, int64_t rows, int64_t width) {
    if (map->kind == SL_MAP_NONE || (map->kind == SL_MAP_ROUND && backwards))
        return;
    const int inverse = (map->inverse != 0) != (backwards != 0);
    const int64_t size = map->n * map->stride;
    for (int64_t r = 0; r < rows; r++, x += width) {
        if (map->kind == SL_MAP_ROUND)
            round_row(map, x, width);
        else
            for (int64_t i = 0; i < width / size; i++)
                apply(map, inverse, x + i * size, i);
    }
}

void sl_map_hadamard_f64(const sl_map *map, int backwards, double *x, int64_t width) {
    const int inverse = (map->inverse != 0) != (backwards != 0);
    const int64_t size = map->n * map->stride;
    for (int64_t i = 0; i < width / size; i++)
        hadamard_f64(map, inverse, x + i * size);
}
