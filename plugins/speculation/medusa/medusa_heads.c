/* See medusa_heads.h. */
#include "medusa_heads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_tensor.h"

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

static int is_float(const sl_tensor *t) { return t->dtype == SL_F32 || t->dtype == SL_F16 || t->dtype == SL_BF16; }

/* 0: the file has no such tensor. */
static int find(const medusa_heads *h, sl_tensor *out, const char *prefix, int32_t head, int32_t index,
                const char *rest) {
    char name[96];
    snprintf(name, sizeof name, "%s%d.%d.%s", prefix, head, index, rest);
    return h->artifacts->tensor(h->host, h->file, name, out) >= 0;
}

/* A matrix [rows, hidden] (rows 0: a vector [hidden]) that must be there. */
static sl_status take_tensor(const medusa_heads *h, const char *path, const char *prefix, int32_t head, int32_t index,
                             const char *rest, int64_t rows, sl_tensor *out, sl_error *err) {
    char shape[64];
    if (rows > 0)
        snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)rows, (long long)h->hidden);
    else
        snprintf(shape, sizeof shape, "[%lld]", (long long)h->hidden);
    if (!find(h, out, prefix, head, index, rest))
        return sl_fail(err, SL_E_NOT_FOUND, "%s: no tensor %s%d.%d.%s, expected %s", path, prefix, head, index, rest,
                       shape);
    int fits = rows > 0 ? out->ndim == 2 && out->shape[0] == rows && out->shape[1] == h->hidden
                        : out->ndim == 1 && out->shape[0] == h->hidden;
    if (!fits || !is_float(out))
        return sl_fail(err, SL_E_DATA,
                       "%s: %s%d.%d.%s is %s with %u dimensions of %lld ..., expected F32, F16 or BF16 %s", path,
                       prefix, head, index, rest, sl_dtype_name(out->dtype), out->ndim,
                       out->ndim > 0 ? (long long)out->shape[0] : 0, shape);
    return SL_OK;
}

static sl_status take_bias(medusa_heads *h, const char *path, const char *prefix, int32_t head, int32_t block,
                           sl_error *err) {
    sl_tensor t;
    SL_TRY(take_tensor(h, path, prefix, head, block, "linear.bias", 0, &t, err));
    float *to = h->biases + (head * h->n_blocks + block) * h->hidden;
    SL_TRY(h->ops->convert(to, SL_F32, t.data, t.dtype, h->hidden));
    return sl_tensor_make(&h->head[head].b1[block], to, SL_F32, SL_DEVICE_CPU, 1, &h->hidden);
}

static sl_status take_heads(medusa_heads *h, const char *path, const char *prefix, sl_error *err) {
    sl_tensor more;
    int64_t bytes = h->n * h->n_blocks * h->hidden * (int64_t)sizeof *h->biases;
    h->biases = h->mem->alloc(h->host, SL_DEVICE_CPU, bytes, 64, SL_MEM_WEIGHTS);
    if (h->biases == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the biases of %d heads", h->n);
    for (int32_t k = 0; k < h->n; k++) {
        for (int32_t i = 0; i < h->n_blocks; i++) {
            SL_TRY(take_tensor(h, path, prefix, k, i, "linear.weight", h->hidden, &h->head[k].w1[i], err));
            SL_TRY(take_bias(h, path, prefix, k, i, err));
        }
        if (find(h, &more, prefix, k, h->n_blocks, "linear.weight"))
            return sl_fail(err, SL_E_INVALID, "%s: head %d has more than num_layers = %d blocks", path, k, h->n_blocks);
        if (find(h, &more, prefix, k, h->n_blocks, "weight"))
            SL_TRY(take_tensor(h, path, prefix, k, h->n_blocks, "weight", h->vocab, &h->head[k].w2, err));
    }
    return SL_OK;
}

sl_status medusa_heads_open(medusa_heads *h, const char *path, int32_t n_heads, int32_t n_blocks, sl_error *err) {
    sl_tensor first;
    SL_TRY(h->artifacts->open(h->host, path, &h->file, err));
    const char *prefix = find(h, &first, "", 0, 0, "linear.weight") ? "" : "medusa_head.";
    int32_t n = 0;
    while (n < MEDUSA_MAX_HEADS && find(h, &first, prefix, n, 0, "linear.weight"))
        n++;
    if (n == 0)
        return sl_fail(err, SL_E_NOT_FOUND,
                       "%s: no heads: expected tensors 0.0.linear.weight ... or medusa_head.0.0.linear.weight ...",
                       path);
    if (n_heads > n)
        return sl_fail(err, SL_E_RANGE, "%s has %d heads, num_heads = %d", path, n, n_heads);
    h->n = n_heads > 0 ? n_heads : n;
    h->n_blocks = n_blocks;
    return take_heads(h, path, prefix, err);
}

void medusa_heads_close(medusa_heads *h) {
    if (h->file != NULL)
        h->artifacts->close(h->host, h->file);
    if (h->biases != NULL)
        h->mem->release(h->host, SL_DEVICE_CPU, h->biases);
    h->file = NULL;
    h->biases = NULL;
}

sl_status medusa_heads_accuracy(const medusa_heads *h, const char *path, int32_t topk, double *accuracy,
                                sl_error *err) {
    const char *p = h->artifacts->metadata(h->host, h->file, "accuracy");
    if (p == NULL)
        return sl_fail(
            err, SL_E_NOT_FOUND,
            "tree = auto: %s carries no accuracies of its heads (metadata `accuracy`); recipes/medusa measures "
            "them",
            path);
    for (int32_t k = 0; k < h->n; k++) {
        for (int32_t r = 0; r < topk; r++)
            accuracy[k * topk + r] = 0;
        for (int32_t r = 0;; r++) {
            char *end;
            double v = strtod(p, &end);
            if (end == p)
                break;
            if (!(v >= 0 && v <= 1))
                return sl_fail(err, SL_E_DATA, "%s: accuracy of head %d, rank %d is not within 0 and 1", path, k, r);
            if (r < topk)
                accuracy[k * topk + r] = v;
            p = end;
        }
        p += strspn(p, " \t");
        if ((*p != ';' && *p != '\0') || (*p == '\0' && k + 1 < h->n))
            return sl_fail(
                err, SL_E_DATA,
                "%s: metadata `accuracy` gives %d heads, expected %d lists of numbers separated by semicolons", path,
                k + (*p == '\0'), h->n);
        p += *p == ';';
    }
    return SL_OK;
}

/* ---- multiplying --------------------------------------------------------------------------------------------------
 */

static void *room(const medusa_heads *h, int64_t n, size_t size) {
    return h->mem->alloc(h->host, SL_DEVICE_CPU, n * (int64_t)size, 64, SL_MEM_SCRATCH);
}

sl_status medusa_heads_activate(medusa_heads *h, sl_error *err) {
    h->x = room(h, MEDUSA_ROWS * h->hidden, sizeof *h->x);
    h->t = room(h, MEDUSA_ROWS * h->hidden, sizeof *h->t);
    h->y = room(h, MEDUSA_ROWS * h->n * h->hidden, sizeof *h->y);
    h->logits = room(h, MEDUSA_ROWS * h->vocab, sizeof *h->logits);
    h->ids = room(h, MEDUSA_ROWS * MEDUSA_MAX_TOPK, sizeof *h->ids);
    if (h->x && h->t && h->y && h->logits && h->ids)
        return SL_OK;
    medusa_heads_deactivate(h);
    return sl_fail(err, SL_E_NO_MEMORY, "no memory for the heads' logits");
}

void medusa_heads_deactivate(medusa_heads *h) {
    void *all[] = {h->x, h->t, h->y, h->logits, h->ids};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] != NULL)
            h->mem->release(h->host, SL_DEVICE_CPU, all[i]);
    h->x = h->t = h->y = h->logits = NULL;
    h->ids = NULL;
}

static sl_tensor rows_of(float *data, int64_t n, int64_t width) {
    sl_tensor t;
    sl_tensor_make(&t, data, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){n, width});
    return t;
}

static sl_status multiply(const medusa_heads *h, const sl_tensor *w, const sl_tensor *bias, float *x, float *y,
                          int64_t n) {
    sl_tensor in = rows_of(x, n, w->shape[1]), out = rows_of(y, n, w->shape[0]);
    sl_op_gemm args = {.struct_size = SL_SIZE(sl_op_gemm),
                       .lane = h->lane,
                       .x = &in,
                       .w = w,
                       .y = &out,
                       .bias = bias,
                       .compute = h->compute};
    return h->ops->gemm(h->host, &args);
}

/* y <- y + SiLU(W1 y + b1) */
static sl_status run_block(const medusa_heads *h, const medusa_head *head, int32_t block, float *y, int64_t n) {
    SL_TRY(multiply(h, &head->w1[block], &head->b1[block], y, h->t, n));
    for (int64_t i = 0; i < n * h->hidden; i++)
        y[i] += h->t[i] / (1 + expf(-h->t[i]));
    return SL_OK;
}

static sl_status best_of(const medusa_heads *h, int64_t n, int32_t topk) {
    sl_op_topk args = {.struct_size = SL_SIZE(sl_op_topk),
                       .lane = h->lane,
                       .x = h->logits,
                       .id = h->ids,
                       .rows = n,
                       .n = h->vocab,
                       .stride = h->vocab,
                       .k = topk};
    return h->ops->topk(h->host, &args);
}

/* Rows [0, n) of y wait for the model's head: row i is head_of[i] for the caller's row row_of[i]. */
static sl_status run_shared(const medusa_heads *h, const int32_t *row_of, const int32_t *head_of, int32_t n,
                            int32_t topk, int32_t *const *out) {
    for (int32_t i = 0; i < n; i += MEDUSA_ROWS) {
        int32_t some = n - i < MEDUSA_ROWS ? n - i : MEDUSA_ROWS;
        SL_TRY(h->model_head->logits(h->host, 0, h->y + i * h->hidden, some, h->logits));
        SL_TRY(best_of(h, some, topk));
        for (int32_t j = 0; j < some; j++)
            memcpy(out[row_of[i + j]] + head_of[i + j] * topk, h->ids + j * topk, sizeof *h->ids * (size_t)topk);
    }
    return SL_OK;
}

sl_status medusa_heads_run(medusa_heads *h, int32_t n_rows, int32_t topk, int32_t *const *out) {
    int32_t row_of[MEDUSA_ROWS * MEDUSA_MAX_HEADS], head_of[MEDUSA_ROWS * MEDUSA_MAX_HEADS], n_shared = 0;
    for (int32_t k = 0; k < h->n; k++) {
        const medusa_head *head = &h->head[k];
        float *y = h->y + n_shared * h->hidden;
        memcpy(y, h->x, sizeof *y * (size_t)(n_rows * h->hidden));
        for (int32_t i = 0; i < h->n_blocks; i++)
            SL_TRY(run_block(h, head, i, y, n_rows));
        if (head->w2.data == NULL) {
            for (int32_t r = 0; r < n_rows; r++, n_shared++)
                row_of[n_shared] = r, head_of[n_shared] = k;
            continue;
        }
        SL_TRY(multiply(h, &head->w2, NULL, y, h->logits, n_rows));
        SL_TRY(best_of(h, n_rows, topk));
        for (int32_t r = 0; r < n_rows; r++)
            memcpy(out[r] + k * topk, h->ids + r * topk, sizeof *h->ids * (size_t)topk);
    }
    return run_shared(h, row_of, head_of, n_shared, topk, out);
}
