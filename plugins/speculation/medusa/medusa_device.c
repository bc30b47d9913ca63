/* See medusa_device.h. A step reads all weights once: K (d^2 + V d) bf16 values for K heads, or K d^2 and the model's
 * head, which bounds it: 0.5 ms for five heads of an 8B model with W2 of their own on an H200, 0.3 ms where they share.
 */
#include "medusa_device.h"

#include "sl_tensor.h"

enum { STAGE_VALUES = 4 << 20 }; /* of weights on their way */

/* ---- weights ------------------------------------------------------------------------------------------------------
 */

static sl_status send_matrix(const medusa_device *d, const medusa_heads *h, const sl_tensor *from, uint16_t *to,
                             void *stage, sl_error *err) {
    int64_t n = from->shape[0] * from->shape[1], size = (int64_t)sl_dtype_bits(from->dtype) / 8;
    for (int64_t i = 0, some; i < n; i += some) {
        some = n - i < STAGE_VALUES ? n - i : STAGE_VALUES;
        SL_TRY(h->ops->convert(stage, SL_BF16, (const char *)from->data + i * size, from->dtype, some));
        SL_TRY(d->exec->copy(d->lane, to + i, stage, 2 * some));
        SL_TRY(d->exec->sync(d->lane, err)); /* the stage is filled again */
    }
    return SL_OK;
}

static uint16_t *w1_of(const medusa_device *d, const medusa_heads *h, int32_t head, int32_t block) {
    return (uint16_t *)d->w1 + (head * h->n_blocks + block) * h->hidden * h->hidden;
}

static sl_status send_weights(const medusa_device *d, const medusa_heads *h, void *stage, sl_error *err) {
    uint16_t *w2 = d->w2;
    for (int32_t k = 0; k < h->n; k++) {
        for (int32_t i = 0; i < h->n_blocks; i++)
            SL_TRY(send_matrix(d, h, &h->head[k].w1[i], w1_of(d, h, k, i), stage, err));
        if (h->head[k].w2.data != NULL) {
            SL_TRY(send_matrix(d, h, &h->head[k].w2, w2, stage, err));
            w2 += h->vocab * h->hidden;
        }
    }
    SL_TRY(d->exec->copy(d->lane, d->b1, h->biases, h->n * h->n_blocks * h->hidden * (int64_t)sizeof *d->b1));
    return d->exec->sync(d->lane, err);
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static sl_status take_memory(medusa_device *d, const medusa_heads *h, int64_t max_rows, sl_error *err) {
    int64_t E = h->hidden, V = h->vocab, K = h->n;
    const struct {
        void **p;
        int64_t bytes;
        uint32_t device, tag;
    } all[] = {
        {&d->w1, 2 * K * h->n_blocks * E * E, SL_DEVICE_CUDA, SL_MEM_WEIGHTS},
        {&d->w2, 2 * d->n_own * V * E, SL_DEVICE_CUDA, SL_MEM_WEIGHTS},
        {(void **)&d->b1, 4 * K * h->n_blocks * E, SL_DEVICE_CUDA, SL_MEM_WEIGHTS},
        {(void **)&d->t, 4 * d->rows * E, SL_DEVICE_CUDA, SL_MEM_SCRATCH},
        {&d->y, 2 * d->rows * K * E, SL_DEVICE_CUDA, SL_MEM_SCRATCH},
        {(void **)&d->logits, 4 * d->rows * K * V, SL_DEVICE_CUDA, SL_MEM_SCRATCH},
        {(void **)&d->ids, 4 * max_rows * d->ids_of_a_row, SL_DEVICE_CUDA, SL_MEM_SCRATCH},
        {(void **)&d->host_ids, 4 * max_rows * d->ids_of_a_row, SL_DEVICE_HOST_PINNED, SL_MEM_SCRATCH},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].bytes == 0)
            continue;
        *all[i].p = h->mem->alloc(h->host, all[i].device, all[i].bytes, 256, all[i].tag);
        if (*all[i].p == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "medusa: no device memory for %d heads: %lld bytes more were asked for",
                           h->n, (long long)all[i].bytes);
    }
    return SL_OK;
}

sl_status medusa_device_open(medusa_device *d, const medusa_heads *h, int32_t topk, int64_t max_rows, sl_error *err) {
    const sl_exec *exec = sl_host_service(h->host, SL_EXEC_ID, SL_FIELD_END(sl_exec, sync));
    *d = (medusa_device){.exec = exec,
                         .lane = exec != NULL ? exec->lane(h->host, SL_DEVICE_CUDA, 0) : NULL,
                         .topk = topk,
                         .ids_of_a_row = (int64_t)h->n * topk,
                         .rows = max_rows < MEDUSA_ROWS ? (int32_t)max_rows : MEDUSA_ROWS};
    if (d->lane == NULL || !SL_HAS_FN(h->model_head, sl_head, queue))
        return sl_fail(err, SL_E_NOT_FOUND, "medusa: the host has no lane of the device, or no output head on it");
    for (int32_t k = 0; k < h->n; k++)
        d->n_own += h->head[k].w2.data != NULL;
    SL_TRY(take_memory(d, h, max_rows, err));
    void *stage = h->mem->alloc(h->host, SL_DEVICE_HOST_PINNED, 2 * (int64_t)STAGE_VALUES, 256, SL_MEM_SCRATCH);
    if (stage == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "medusa: no pinned memory to send weights through");
    sl_status s = send_weights(d, h, stage, err);
    h->mem->release(h->host, SL_DEVICE_HOST_PINNED, stage);
    return s;
}

void medusa_device_close(medusa_device *d, const medusa_heads *h) {
    if (d->lane == NULL)
        return;
    void *const all[] = {d->w1, d->w2, d->b1, d->t, d->y, d->logits, d->ids};
    SL_ERROR(ignored);
    d->exec->sync(d->lane, &ignored); /* whatever is in flight: memory goes */
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        h->mem->release(h->host, SL_DEVICE_CUDA, all[i]);
    h->mem->release(h->host, SL_DEVICE_HOST_PINNED, d->host_ids);
    *d = (medusa_device){0};
}

/* ---- a step -------------------------------------------------------------------------------------------------------
 */

static sl_tensor device_rows(const void *data, sl_dtype dtype, int64_t n, int64_t width, int64_t stride) {
    sl_tensor t;
    sl_tensor_make(&t, (void *)(uintptr_t)data, dtype, SL_DEVICE_CUDA, 2, (int64_t[]){n, width});
    t.stride[0] = stride;
    return t;
}

static sl_status queue_product(const medusa_device *d, const medusa_heads *h, const sl_tensor *x, const void *w,
                               const float *bias, sl_tensor *y) {
    int64_t N = y->shape[1], E = h->hidden;
    sl_tensor matrix = device_rows(w, SL_BF16, N, E, E), b;
    sl_tensor_make(&b, (void *)(uintptr_t)bias, SL_F32, SL_DEVICE_CUDA, 1, &N);
    sl_op_gemm args = {.struct_size = SL_SIZE(sl_op_gemm),
                       .lane = d->lane,
                       .x = x,
                       .w = &matrix,
                       .y = y,
                       .bias = bias != NULL ? &b : NULL,
                       .compute = SL_BF16};
    return h->ops->gemm(h->host, &args);
}

/* y <- y + SiLU(W1 y + b1); the first block reads x. */
static sl_status queue_block(const medusa_device *d, const medusa_heads *h, int32_t head, int32_t block,
                             const sl_tensor *x, sl_tensor *y) {
    const sl_tensor *in = block == 0 ? x : y;
    int64_t E = h->hidden;
    sl_tensor t = device_rows(d->t, SL_F32, x->shape[0], E, E);
    SL_TRY(queue_product(d, h, in, w1_of(d, h, head, block), d->b1 + (head * h->n_blocks + block) * E, &t));
    sl_op_act_mul act = {
        .struct_size = SL_SIZE(sl_op_act_mul), .lane = d->lane, .gate = &t, .y = y, .act = SL_ACT_SILU, .residual = in};
    return h->ops->act_mul(h->host, &act);
}

/* Logits of each head from rows y [n, heads, hidden]. Heads that share the model's go through it in one product where
 * all of them do. */
static sl_status queue_logits(const medusa_device *d, const medusa_heads *h, int32_t n) {
    int64_t E = h->hidden, V = h->vocab, K = h->n, own = 0;
    if (d->n_own == 0) {
        sl_tensor y = device_rows(d->y, SL_BF16, n * K, E, E), logits = device_rows(d->logits, SL_F32, n * K, V, V);
        return h->model_head->queue(h->host, 0, &y, &logits);
    }
    for (int32_t k = 0; k < h->n; k++) {
        sl_tensor y = device_rows((uint16_t *)d->y + k * E, SL_BF16, n, E, K * E);
        sl_tensor logits = device_rows(d->logits + k * V, SL_F32, n, V, K * V);
        if (h->head[k].w2.data == NULL)
            SL_TRY(h->model_head->queue(h->host, 0, &y, &logits));
        else
            SL_TRY(queue_product(d, h, &y, (uint16_t *)d->w2 + own++ * V * E, NULL, &logits));
    }
    return SL_OK;
}

sl_status medusa_device_run(medusa_device *d, const medusa_heads *h, void *x, int32_t n, int32_t at) {
    int64_t E = h->hidden, V = h->vocab, K = h->n;
    sl_tensor in = device_rows(x, SL_BF16, n, E, E);
    for (int32_t k = 0; k < h->n; k++) {
        sl_tensor y = device_rows((uint16_t *)d->y + k * E, SL_BF16, n, E, K * E);
        for (int32_t i = 0; i < h->n_blocks; i++)
            SL_TRY(queue_block(d, h, k, i, &in, &y));
    }
    SL_TRY(queue_logits(d, h, n));
    sl_op_topk best = {.struct_size = SL_SIZE(sl_op_topk),
                       .lane = d->lane,
                       .x = d->logits,
                       .id = d->ids + at * d->ids_of_a_row,
                       .rows = n * K,
                       .n = V,
                       .stride = V,
                       .k = d->topk};
    return h->ops->topk(h->host, &best);
}

sl_status medusa_device_fetch(medusa_device *d, int32_t n) {
    return d->exec->copy(d->lane, d->host_ids, d->ids, 4 * n * d->ids_of_a_row);
}
