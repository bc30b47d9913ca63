/* Hadamard maps over elements of type T; included once for each type. F(name) makes the names of a type. */

/* y = A x along the middle axis of x [n, inner], in place; A [n, n] f32, transposed or not. */
static void F(along_axis)(const float *a, int transposed, T *x, int64_t n, int64_t inner) {
    T y[MAX_MATRIX];
    const int64_t most = MAX_MATRIX / n < inner ? MAX_MATRIX / n : inner;
    for (int64_t begin = 0; begin < inner; begin += most) {
        const int64_t m = inner - begin < most ? inner - begin : most;
        for (int64_t i = 0; i < n; i++) {
            T *to = y + i * m;
            for (int64_t j = 0; j < m; j++)
                to[j] = 0;
            for (int64_t k = 0; k < n; k++) {
                const T c = transposed ? a[k * n + i] : a[i * n + k];
                const T *from = x + k * inner + begin;
                for (int64_t j = 0; j < m; j++)
                    to[j] += c * from[j];
            }
        }
        for (int64_t i = 0; i < n; i++)
            memcpy(x + i * inner + begin, y + i * m, sizeof *x * (size_t)m);
    }
}

/* The fast Walsh-Hadamard transform along the middle axis of x [m, inner]; not scaled. Symmetric. */
static void F(walsh)(T *x, int64_t m, int64_t inner) {
    for (int64_t h = 1; h < m; h *= 2)
        for (int64_t i = 0; i < m; i += 2 * h) {
            T *low = x + i * inner, *high = low + h * inner;
            for (int64_t j = 0; j < h * inner; j++) {
                const T a = low[j], b = high[j];
                low[j] = a + b;
                high[j] = a - b;
            }
        }
}

/* One stretch x [n, stride]: kron(A_1, .., A_r, S) / sqrt(n). */
static void F(hadamard)(const sl_map *map, int inverse, T *x) {
    const int64_t n = map->n, stride = map->stride;
    const float *signs = map->signs.data, *a = map->a.data;
    const T scale = (T)(1 / sqrt((double)n));
    int64_t m = n;
    for (const int32_t *k = map->orders; k != NULL && *k != 0; k++)
        m /= *k;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < stride; j++)
            x[i * stride + j] *= signs != NULL && !inverse ? scale * (T)signs[i] : scale;
    for (int64_t i = 0; i < n; i += m)
        F(walsh)(x + i * stride, m, stride);
    int64_t outer = 1, rest = n;
    for (const int32_t *k = map->orders; k != NULL && *k != 0; k++) { /* factors act on axes of their own: any order */
        rest /= *k;
        for (int64_t o = 0; o < outer; o++)
            F(along_axis)(a, inverse, x + o * *k * rest * stride, *k, rest * stride);
        outer *= *k;
        a += (int64_t)*k * *k;
    }
    for (int64_t i = 0; i < n && inverse && signs != NULL; i++)
        for (int64_t j = 0; j < stride; j++)
            x[i * stride + j] *= (T)signs[i];
}
