/* See model.h: weights that nobody trained. Host and device make the same values, so that one of them can check the
 * other. */
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "base/dtype.h"
#include "base/ledger.h"
#include "device/cpu/pool.h"
#include "model/hf_config.h"
#include "model/model_impl.h"
#include "model/shapes.h"
#include "random/random_value.h"
#include "rows/half.h"
#include "sl_tensor.h"

enum { BLOCK = 1 << 16, ALIGN = 64 }; /* elements that a worker takes at once, at least; bytes */

static size_t n_slots(const sli_model *m) { return (size_t)(1 + m->desc.n_layers) * SLI_ROLE_COUNT; }

/* ---- values --------------------------------------------------------------------------------------------------------
 */

static uint64_t seed_of(const sli_model *m, const char *name) {
    uint64_t h = 0xcbf29ce484222325u ^ m->seed;
    for (const char *p = name; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 0x100000001b3u;
    return h;
}

/* Uniform values in [-a, a) have a variance of a^2 / 3. Embeddings and biases have the spread of an untrained model,
 * 0.02; products of normed rows have a variance of 1, and what is added to the residual less, so that it stays near 1
 * however many layers there are. */
static float amplitude_of(const sli_model *m, sli_weight_role role, const sl_tensor *t) {
    double in = t->ndim == 2 ? (double)t->shape[1] : 1, spread = 1 / sqrt(in);
    if (role == SLI_ROLE_EMBED || t->ndim == 1)
        spread = 0.02;
    else if (role == SLI_ROLE_O || role == SLI_ROLE_DOWN)
        spread /= sqrt(2.0 * m->desc.n_layers);
    return (float)(sqrt(3) * spread);
}

void sli_random_values(void *out, sl_dtype dtype, int64_t begin, int64_t n, uint64_t seed, float amplitude) {
    for (int64_t i = 0; i < n; i++) {
        float x = slk_random_value(seed, (uint64_t)(begin + i)) * amplitude;
        switch (dtype) {
        case SL_BF16: ((uint16_t *)out)[i] = slk_bf16_of_f32(x); break;
        case SL_F16: ((uint16_t *)out)[i] = slk_f16_of_f32(x); break;
        default: ((float *)out)[i] = x; break;
        }
    }
}

typedef struct fill_job {
    char *data;
    sl_dtype dtype;
    uint64_t seed;
    float amplitude;
} fill_job;

static void fill_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const fill_job *f = user;
    (void)worker;
    sli_random_values(f->data + begin * (sli_dtype_bits(f->dtype) / 8), f->dtype, begin, end - begin, f->seed,
                      f->amplitude);
}

/* ---- the model -----------------------------------------------------------------------------------------------------
 */

static int is_norm(sli_weight_role role) {
    return role == SLI_ROLE_FINAL_NORM || role == SLI_ROLE_NORM_ATTN || role == SLI_ROLE_NORM_FFN ||
           role == SLI_ROLE_Q_NORM || role == SLI_ROLE_K_NORM;
}

static sl_status no_memory(const char *name, int64_t bytes, sl_error *err) {
    return sl_fail(err, SL_E_NO_MEMORY, "no memory for %lld bytes of random weights (%s)", (long long)bytes, name);
}

static sl_status make(sli_model *m, const sli_model_shape *shape, int32_t layer, const sli_weight_row *row,
                      sl_error *err) {
    char name[SLI_WEIGHT_NAME_BYTES];
    sli_weight_name(name, row->name, layer);
    size_t slot = sli_weight_slot(m, layer, row->role);
    sli_named_tensor *t = &m->made[slot];
    int64_t size[2], n;
    uint32_t ndim = sli_weight_shape(m, layer, row, size);
    if ((t->name = sli_strdup(SLI_TAG_MISC, name)) == NULL)
        return no_memory(name, 0, err);
    t->file = shape->name;
    SL_TRY(sl_tensor_make(&t->tensor, NULL, ndim == 1 ? SL_F32 : shape->dtype, SL_DEVICE_CPU, ndim, size));
    SL_TRY(sl_tensor_count(&t->tensor, &n));
    SL_TRY(sl_tensor_bytes(&t->tensor, &t->bytes));
    t->tensor.flags |= SL_TENSOR_READ_ONLY;
    m->weights[slot] = t;
    m->params += n;
    m->bytes += t->bytes;
    if (ndim == 2 && !shape->in_host_memory) {
        m->reserved_bytes += (t->bytes + ALIGN - 1) / ALIGN * ALIGN;
        return SL_OK;
    }
    fill_job job = {sli_alloc(SLI_TAG_WEIGHTS, (size_t)t->bytes), t->tensor.dtype, seed_of(m, name),
                    amplitude_of(m, row->role, &t->tensor)};
    if ((t->tensor.data = job.data) == NULL)
        return no_memory(name, t->bytes, err);
    t->tensor.align = ALIGN;
    if (is_norm(row->role))
        for (int64_t i = 0; i < n; i++)
            ((float *)job.data)[i] = 1;
    else if (shape->pool != NULL)
        sli_pool_parallel_for(shape->pool, n, BLOCK, fill_range, &job);
    else
        fill_range(&job, 0, n, 0);
    return SL_OK;
}

/* Addresses for the matrices that are not made: a copy of a tensor still tells which one it is. */
static sl_status reserve(sli_model *m, sl_error *err) {
    if (m->reserved_bytes == 0)
        return SL_OK;
    void *p = mmap(NULL, (size_t)m->reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return no_memory("their addresses", m->reserved_bytes, err);
    char *next = m->reserved = p;
    for (size_t i = 0; i < n_slots(m); i++)
        if (m->made[i].name != NULL && m->made[i].tensor.data == NULL) {
            m->made[i].tensor.data = next;
            m->made[i].tensor.align = ALIGN;
            next += (m->made[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
        }
    return SL_OK;
}

static sl_status make_all(sli_model *m, const sli_model_shape *shape, sl_error *err) {
    SL_TRY(sli_shape_describe(shape->name, &m->desc, err));
    size_t slots = n_slots(m);
    m->desc.dtype = shape->dtype;
    m->seed = shape->seed;
    m->weights = sli_calloc(SLI_TAG_MISC, slots, sizeof *m->weights);
    m->made = sli_calloc(SLI_TAG_MISC, slots, sizeof *m->made);
    if (m->weights == NULL || m->made == NULL)
        return no_memory("their list", (int64_t)(slots * sizeof *m->made), err);
    const sli_arch *a = m->desc.arch;
    for (int32_t layer = -1; layer < m->desc.n_layers; layer++)
        for (int32_t i = 0; i < a->n_weights; i++)
            if (sli_weight_wanted(m, layer, &a->weights[i]))
                SL_TRY(make(m, shape, layer, &a->weights[i], err));
    SL_TRY(reserve(m, err));
    if (m->desc.tied)
        m->weights[sli_weight_slot(m, -1, SLI_ROLE_HEAD)] = m->weights[sli_weight_slot(m, -1, SLI_ROLE_EMBED)];
    return SL_OK;
}

sl_status sli_model_open_shape(const sli_model_shape *shape, sli_model **out, sl_error *err) {
    *out = NULL;
    sli_model *m = sli_alloc(SLI_TAG_MISC, sizeof *m);
    if (m == NULL)
        return no_memory("its description", (int64_t)sizeof *m, err);
    sl_status s = make_all(m, shape, err);
    if (s < 0) {
        sli_model_close(m);
        return s;
    }
    *out = m;
    return SL_OK;
}

int sli_model_random(const sli_model *m, const sl_tensor *weight, uint64_t *seed, float *amplitude) {
    const char *p = weight->data;
    if (m->reserved == NULL || p < m->reserved || p >= m->reserved + m->reserved_bytes)
        return 0;
    for (size_t i = 0; i < n_slots(m); i++)
        if (m->made[i].name != NULL && p == m->made[i].tensor.data) {
            *seed = seed_of(m, m->made[i].name);
            *amplitude = amplitude_of(m, (sli_weight_role)(i % SLI_ROLE_COUNT), &m->made[i].tensor);
            return 1;
        }
    return 0;
}
