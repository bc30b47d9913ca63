/* See shadow_factor.h. The randomised way is algorithm 4.4 of Halko, Martinsson, Tropp, "Finding structure with
 * randomness", arXiv 0909.4061, on the row space. */
#include "shadow_factor.h"

#include <math.h>
#include <string.h>

/* LAPACK's own interface: column by column, every argument by address. */
extern void sgesdd_(const char *job, const int *m, const int *n, float *a, const int *lda, float *s, float *u,
                    const int *ldu, float *vt, const int *ldvt, float *work, const int *lwork, int *iwork, int *info);
extern void dsyevd_(const char *job, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
                    const int *lwork, int *iwork, const int *liwork, int *info);
extern void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work, const int *lwork,
                    int *info);
extern void dorgqr_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
                    double *work, const int *lwork, int *info);

enum { OVERSAMPLE = 16, POWER_ITERATIONS = 2, TILE_ROWS = 8 };

static void *borrow(const shadow_factor *f, int64_t bytes) {
    return f->mem->alloc(f->host, SL_DEVICE_CPU, bytes, 64, SL_MEM_SCRATCH);
}
static void give_back(const shadow_factor *f, void *p) { f->mem->release(f->host, SL_DEVICE_CPU, p); }

/* ---- products ---------------------------------------------------------------------------------------------------- */

typedef struct product {
    const float *a; /* [rows, width] */
    const double *b;
    double *out;
    float *out32;
    int64_t rows, width, n;
} product;

/* out32[s, k] = sum over w of a[s, w] b[w, k], rows [begin, end). b: [width, n]. */
static void times_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const product *p = user;
    for (int64_t s = begin; s < end; s++)
        for (int64_t k0 = 0; k0 < p->n; k0 += 128) { /* a stretch of the sums stays in registers and first cache */
            double sum[128] = {0};
            int64_t n = p->n - k0 < 128 ? p->n - k0 : 128;
            for (int64_t w = 0; w < p->width; w++) {
                const double x = p->a[s * p->width + w], *b = p->b + w * p->n + k0;
                for (int64_t k = 0; k < n; k++)
                    sum[k] += x * b[k];
            }
            for (int64_t k = 0; k < n; k++)
                p->out32[s * p->n + k0 + k] = (float)sum[k];
        }
}

/* out[w, k] = sum over s of a[s, w] y[s, k], rows w [begin, end). y: [rows, n] f32 in out32's place. */
static void transposed_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    (void)worker;
    const product *p = user;
    memset(p->out + begin * p->n, 0, sizeof *p->out * (size_t)((end - begin) * p->n));
    for (int64_t w0 = begin; w0 < end; w0 += TILE_ROWS) {
        int64_t w1 = w0 + TILE_ROWS < end ? w0 + TILE_ROWS : end;
        for (int64_t s = 0; s < p->rows; s++)
            for (int64_t w = w0; w < w1; w++) {
                const double x = p->a[s * p->width + w];
                const float *y = p->out32 + s * p->n;
                double *out = p->out + w * p->n;
                for (int64_t k = 0; k < p->n; k++)
                    out[k] += x * y[k];
            }
    }
}

static void times(const shadow_factor *f, const float *a, int64_t rows, int64_t width, const double *b, int64_t n,
                  float *out) {
    product p = {.a = a, .b = b, .out32 = out, .rows = rows, .width = width, .n = n};
    f->threads->parallel_for(f->host, rows, 8, times_range, &p);
}

/* [width, n] = a^T y */
static void transposed(const shadow_factor *f, const float *a, int64_t rows, int64_t width, float *y, int64_t n,
                       double *out) {
    product p = {.a = a, .out = out, .out32 = y, .rows = rows, .width = width, .n = n};
    f->threads->parallel_for(f->host, width, 1, transposed_range, &p);
}

/* ---- dense problems ---------------------------------------------------------------------------------------------- */

/* Eigenvectors of the symmetric [n, n] matrix replace it, a row each, eigenvalues ascending. */
static sl_status eigen(const shadow_factor *f, double *a, int n, sl_error *err) {
    int lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n, info = 0;
    double *w = borrow(f, (int64_t)sizeof *w * (n + lwork));
    int *iwork = borrow(f, (int64_t)sizeof *iwork * liwork);
    if (w != NULL && iwork != NULL)
        dsyevd_("V", "U", &n, a, &n, w, w + n, &lwork, iwork, &liwork, &info);
    int out_of_memory = w == NULL || iwork == NULL;
    give_back(f, w);
    give_back(f, iwork);
    if (out_of_memory)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for eigenvectors of order %d", n);
    return info == 0
               ? SL_OK
               : sl_fail(err, SL_E_DATA, "shadowkv: dsyevd of order %d ended with %d: keys are not finite", n, info);
}

/* Orthonormal columns with the span of z: [width, n] row by row. */
static sl_status orthonormal(const shadow_factor *f, double *z, int width, int n, sl_error *err) {
    int lwork = 64 * n, info = 0;
    double *columns = borrow(f, (int64_t)sizeof *columns * ((int64_t)width * n + n + lwork));
    if (columns == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for a basis of %d by %d", width, n);
    double *tau = columns + (int64_t)width * n, *work = tau + n;
    for (int w = 0; w < width; w++)
        for (int k = 0; k < n; k++)
            columns[(int64_t)k * width + w] = z[(int64_t)w * n + k];
    dgeqrf_(&width, &n, columns, &width, tau, work, &lwork, &info);
    if (info == 0)
        dorgqr_(&width, &n, &n, columns, &width, tau, work, &lwork, &info);
    for (int w = 0; w < width; w++)
        for (int k = 0; k < n; k++)
            z[(int64_t)w * n + k] = columns[(int64_t)k * width + w];
    give_back(f, columns);
    return info == 0 ? SL_OK : sl_fail(err, SL_E_DATA, "shadowkv: dorgqr ended with %d", info);
}

static void transpose_out(const double *v, int64_t width, int64_t rank, float *vt) {
    for (int64_t w = 0; w < width; w++)
        for (int64_t k = 0; k < rank; k++)
            vt[k * width + w] = (float)v[w * rank + k];
}

/* ---- the three ways ---------------------------------------------------------------------------------------------- */

/* A^T A = V diag(s^2) V^T; U = A V. */
static sl_status by_gram(const shadow_factor *f, float *a, int64_t rows, int64_t width, int64_t rank, float *u,
                         float *vt, sl_error *err) {
    double *gram = borrow(f, (int64_t)sizeof *gram * width * (width + rank));
    if (gram == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for a Gram matrix of order %lld", (long long)width);
    double *v = gram + width * width;
    transposed(f, a, rows, width, a, width, gram);
    sl_status s = eigen(f, gram, (int)width, err);
    if (s >= 0) {
        for (int64_t w = 0; w < width; w++)
            for (int64_t k = 0; k < rank; k++)
                v[w * rank + k] = gram[(width - 1 - k) * width + w];
        times(f, a, rows, width, v, rank, u);
        transpose_out(v, width, rank, vt);
    }
    give_back(f, gram);
    return s;
}

/* Deterministic normal numbers: splitmix64, Box and Muller. */
static double normal(uint64_t *state) {
    double x[2];
    for (int i = 0; i < 2; i++) {
        uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        x[i] = ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
    }
    return sqrt(-2 * log(x[0])) * cos(6.283185307179586 * x[1]);
}

/* Q: an orthonormal basis of (nearly) the first n right singular directions; then the small problem B = A Q. */
static sl_status by_range(const shadow_factor *f, float *a, int64_t rows, int64_t width, int64_t rank, int64_t n,
                          float *u, float *vt, sl_error *err) {
    double *q = borrow(f, (int64_t)sizeof *q * (width * n + n * n + n * rank + width * rank));
    float *y = borrow(f, (int64_t)sizeof *y * rows * n);
    sl_status s = q != NULL && y != NULL
                      ? SL_OK
                      : sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for a sketch of %lld by %lld",
                                (long long)rows, (long long)n);
    if (s >= 0) {
        double *small = q + width * n, *e = small + n * n, *v = e + n * rank;
        uint64_t state = 20241021;
        for (int64_t i = 0; i < width * n; i++)
            q[i] = normal(&state);
        times(f, a, rows, width, q, n, y);
        for (int i = 0; s >= 0 && i <= POWER_ITERATIONS; i++) {
            transposed(f, a, rows, width, y, n, q);
            s = orthonormal(f, q, (int)width, (int)n, err);
            times(f, a, rows, width, q, n, y);
        }
        if (s >= 0) {
            transposed(f, y, rows, n, y, n, small);
            s = eigen(f, small, (int)n, err);
        }
        if (s >= 0) {
            for (int64_t w = 0; w < n; w++)
                for (int64_t k = 0; k < rank; k++)
                    e[w * rank + k] = small[(n - 1 - k) * n + w];
            times(f, y, rows, n, e, rank, u);
            for (int64_t w = 0; w < width; w++)
                for (int64_t k = 0; k < rank; k++) {
                    double sum = 0;
                    for (int64_t j = 0; j < n; j++)
                        sum += q[w * n + j] * e[j * rank + k];
                    v[w * rank + k] = sum;
                }
            transpose_out(v, width, rank, vt);
        }
    }
    give_back(f, q);
    give_back(f, y);
    return s;
}

/* The array is A^T column by column, whose left singular vectors are A's right ones. */
static sl_status by_svd(const shadow_factor *f, float *a, int64_t rows, int64_t width, int64_t rank, float *u,
                        float *vt, sl_error *err) {
    int m = (int)width, n = (int)rows, least = m < n ? m : n, info = 0, lwork = -1;
    float need;
    float *s = borrow(f, (int64_t)sizeof *s * least), *left = borrow(f, (int64_t)sizeof *left * m * least),
          *right = borrow(f, (int64_t)sizeof *right * least * n), *work = NULL;
    int *iwork = borrow(f, (int64_t)sizeof *iwork * 8 * least);
    sl_status status = SL_OK;
    if (s != NULL && left != NULL && right != NULL && iwork != NULL) {
        sgesdd_("S", &m, &n, a, &m, s, left, &m, right, &least, &need, &lwork, iwork, &info);
        lwork = (int)(need * 1.0001f) + 64;
        work = borrow(f, (int64_t)sizeof *work * lwork);
    }
    if (work == NULL)
        status = sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for singular vectors of %d by %d", n, m);
    else {
        sgesdd_("S", &m, &n, a, &m, s, left, &m, right, &least, work, &lwork, iwork, &info);
        if (info != 0)
            status =
                sl_fail(err, SL_E_DATA, "shadowkv: sgesdd of %d by %d ended with %d: keys are not finite", n, m, info);
    }
    for (int64_t i = 0; status >= 0 && i < rows; i++)
        for (int64_t k = 0; k < rank; k++)
            u[i * rank + k] = right[i * least + k] * s[k];
    if (status >= 0)
        memcpy(vt, left, sizeof *vt * (size_t)(rank * width)); /* column k of the left is row k of Vt */
    give_back(f, s);
    give_back(f, left);
    give_back(f, right);
    give_back(f, work);
    give_back(f, iwork);
    return status;
}

sl_status shadow_factorise(const shadow_factor *f, float *a, int64_t rows, int64_t width, int64_t rank, float *u,
                           float *vt, sl_error *err) {
    for (int64_t i = 0; i < rows * width; i++)
        if (!isfinite(a[i]))
            return sl_fail(err, SL_E_DATA, "shadowkv: a key is not finite");
    if (f->method == SHADOW_SVD_EXACT)
        return by_svd(f, a, rows, width, rank, u, vt, err);
    int64_t n = rank + OVERSAMPLE < rows ? rank + OVERSAMPLE : rows;
    /* each pass of the range finder costs 2 n against the width of the Gram matrix */
    if (f->method == SHADOW_SVD_GRAM || (2 * POWER_ITERATIONS + 3) * n >= width)
        return by_gram(f, a, rows, width, rank, u, vt, err);
    return by_range(f, a, rows, width, rank, n, u, vt, err);
}
