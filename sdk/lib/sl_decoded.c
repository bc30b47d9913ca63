/* See sl_decoded.h. */
#include "sl_decoded.h"

#include "sl_error.h"
#include "sl_host_util.h"
#include "sl_tensor.h"

enum { LANES = 16 };

sl_status sl_decoder_init(sl_decoder *d, const sl_host *host, const char *plugin, sl_error *err) {
    *d = (sl_decoder){.host = host};
    SL_TRY(sl_host_require(host, plugin, SL_THREADS_ID, SL_SIZE(sl_threads), (const void **)&d->threads, err));
    SL_TRY(sl_host_require(host, plugin, SL_SCRATCH_ID, SL_SIZE(sl_scratch), (const void **)&d->scratch, err));
    return sl_host_require(host, plugin, SL_MEM_ID, SL_SIZE(sl_mem), (const void **)&d->mem, err);
}

sl_status sl_decoder_activate(sl_decoder *d, const sl_model_info *model, const sl_limits *limits) {
    int64_t width = model->hidden;
    for (int32_t l = 0; l < model->n_layers; l++) {
        const sl_layer_info *i = model->layers[l];
        int64_t o = (int64_t)i->n_heads * i->v_head_dim;
        width = o > width ? o : width;
        width = i->ffn > width ? i->ffn : width;
    }
    d->max_rows = limits->max_rows;
    return d->scratch->reserve(d->host, SL_DEVICE_CPU, 0, width * (int64_t)sizeof(float));
}

sl_status sl_decoder_widen(sl_decoder *d, int64_t width) {
    if (width <= d->width)
        return SL_OK;
    float *wider =
        d->mem->alloc(d->host, SL_DEVICE_CPU, d->max_rows * width * (int64_t)sizeof(float), 64, SL_MEM_SCRATCH);
    if (wider == NULL)
        return SL_E_NO_MEMORY;
    d->mem->release(d->host, SL_DEVICE_CPU, d->ordered);
    d->ordered = wider;
    d->width = width;
    d->order = NULL;
    return SL_OK;
}

void sl_decoder_deactivate(sl_decoder *d) {
    if (d->mem != NULL)
        d->mem->release(d->host, SL_DEVICE_CPU, d->ordered);
    d->ordered = NULL;
    d->width = 0;
    d->order = NULL;
}

sl_tensor sl_decoder_order(sl_decoder *d, const sl_tensor *x, const uint32_t *order, int fresh) {
    if (order == NULL)
        return *x;
    int64_t n = x->shape[0], k = x->shape[1];
    sl_tensor y;
    sl_tensor_make(&y, d->ordered, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){n, k});
    if (!fresh && d->order == order && d->source == x->data && d->n_rows == n)
        return y;
    for (int64_t t = 0; t < n; t++) {
        const float *from = (const float *)x->data + t * x->stride[0];
        for (int64_t i = 0; i < k; i++)
            d->ordered[t * k + i] = from[order[i]];
    }
    d->order = order;
    d->source = x->data;
    d->n_rows = n;
    return y;
}

/* ---- the product ---------------------------------------------------------------------------------------------------
 */

typedef struct job {
    const sl_decoder *d;
    const sl_decoded *m;
    const sl_quant_matmul *args;
    const sl_tensor *x;
} job;

/* Lane i mod LANES, then the lanes in order. Without sanitizers, which would keep vectors away and make whole models
 * crawl: sl_decoded_matmul has compared the widths. */
__attribute__((no_sanitize("address", "undefined"))) static float dot(const float *a, const float *b, int64_t n) {
    float lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++)
        lane[l] += a[i] * b[i];
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

static void rows(void *user, int64_t begin, int64_t end, int32_t worker) {
    const job *j = user;
    const sl_quant_matmul *a = j->args;
    float *w = j->d->scratch->worker(j->d->host, worker);
    for (int64_t n = begin; n < end; n++) {
        j->m->row(j->m->user, n, w);
        for (int64_t t = 0; t < j->x->shape[0]; t++) {
            float v = dot((const float *)j->x->data + t * j->x->stride[0], w, j->m->k);
            if (a->row_scale != NULL)
                v *= a->row_scale[t];
            if (a->bias != NULL)
                v += ((const float *)a->bias->data)[n];
            if (a->residual != NULL)
                v += ((const float *)a->residual->data)[t * a->residual->stride[0] + n];
            ((float *)a->y.data)[t * a->y.stride[0] + n] = v;
        }
    }
}

sl_status sl_decoded_matmul(const sl_decoder *d, const sl_decoded *m, const sl_quant_matmul *args, const sl_tensor *x) {
    job j = {d, m, args, x};
    if (x->ndim != 2 || x->dtype != SL_F32 || x->stride[1] != 1 || x->shape[1] != m->k || args->y.shape[1] != m->n ||
        args->y.shape[0] != x->shape[0] || args->y.stride[1] != 1)
        return SL_E_INVALID;
    d->threads->parallel_for(d->host, m->n, 1, rows, &j);
    return SL_OK;
}
