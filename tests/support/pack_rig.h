/* pack_rig.h - what tests of quantisers with data share: a host with the services they need, a group of matrices,
 * inputs with a Hessian, a file that lives in memory. */
#ifndef SLUICE_TEST_PACK_RIG_H
#define SLUICE_TEST_PACK_RIG_H

#include "test_host.h"

#include "sluice/packing.h"

#include "device/cpu/cpu_ops.h"
#include "model/safetensors.h"
#include "sl_error.h"
#include "sl_tensor.h"

enum { RIG_LINEARS = 3, RIG_TENSORS = 32, RIG_WIDTH = 256 };

typedef struct rig_tensor {
    char name[256];
    sl_tensor tensor; /* data malloc'd */
} rig_tensor;

typedef struct pack_rig {
    test_host host;
    sl_scratch scratch;
    sl_model model;
    sl_artifacts artifacts;
    sl_calibration_run run;
    int calibrates;
    sl_model_info info;
    const char *plugin, *parameters, *fingerprint; /* metadata of the file */
    rig_tensor file[RIG_TENSORS];
    int n_file;
    float row[4096];
    /* a group */
    sl_linear linear[RIG_LINEARS];
    const sl_linear *list[RIG_LINEARS];
    sl_linear_group group;
    float *weight[RIG_LINEARS], *inputs;
    double *hessian;
    int64_t n_inputs;
} pack_rig;

static inline pack_rig *rig_of(const sl_host *host) { return ((test_host *)host->impl)->user; }

static sl_status rig_reserve(const sl_host *h, uint32_t device, int64_t bytes, int64_t worker_bytes) {
    (void)h, (void)device, (void)bytes;
    return worker_bytes <= (int64_t)sizeof((pack_rig *)0)->row ? SL_OK : SL_E_NO_MEMORY;
}
static void *rig_worker(const sl_host *h, int32_t worker) {
    (void)worker;
    return rig_of(h)->row;
}
static sl_status rig_find(pack_rig *r, const char *name, sl_tensor *out) {
    for (int i = 0; i < r->n_file; i++)
        if (strcmp(r->file[i].name, name) == 0) {
            *out = r->file[i].tensor;
            return SL_OK;
        }
    return SL_E_NOT_FOUND;
}
static sl_status rig_model_tensor(const sl_host *h, const char *name, sl_tensor *out) {
    (void)h, (void)name, (void)out;
    return SL_E_NOT_FOUND;
}
static sl_status rig_open_artifact(const sl_host *h, const char *path, sl_artifact **out, sl_error *err) {
    (void)path, (void)err;
    *out = (sl_artifact *)rig_of(h);
    return SL_OK;
}
static void rig_close_artifact(const sl_host *h, sl_artifact *a) { (void)h, (void)a; }
static sl_status rig_artifact_tensor(const sl_host *h, const sl_artifact *a, const char *name, sl_tensor *out) {
    (void)a;
    return rig_find(rig_of(h), name, out);
}
static const char *rig_metadata(const sl_host *h, const sl_artifact *a, const char *key) {
    const pack_rig *r = rig_of(h);
    (void)a;
    return strcmp(key, "sluice.plugin") == 0       ? r->plugin
           : strcmp(key, "sluice.parameters") == 0 ? r->parameters
           : strcmp(key, "sluice.model") == 0      ? r->fingerprint
                                                   : NULL;
}

/* The product by the packed format's own definition. */
static sl_status rig_qgemm(const sl_host *h, const sl_op_qgemm *a) {
    int64_t n = a->format->n, k = a->format->k;
    float *w = malloc(sizeof *w * (size_t)(n * k));
    assert_non_null(w);
    sli_ops_cpu.q_unpack(h, a->format, a->blob, w);
    for (int64_t t = 0; t < a->x->shape[0]; t++)
        for (int64_t i = 0; i < n; i++) {
            double sum = a->bias != NULL ? ((const float *)a->bias->data)[i] : 0;
            for (int64_t j = 0; j < k; j++)
                sum += (double)w[i * k + j] * ((const float *)a->x->data)[t * a->x->stride[0] + j];
            ((float *)a->y->data)[t * a->y->stride[0] + i] = (float)sum;
        }
    free(w);
    return SL_OK;
}

static const void *rig_service(test_host *t, const char *id) {
    pack_rig *r = t->user;
    return strcmp(id, SL_SCRATCH_ID) == 0       ? (const void *)&r->scratch
           : strcmp(id, SL_MODEL_ID) == 0       ? (const void *)&r->model
           : strcmp(id, SL_ARTIFACT_ID) == 0    ? (const void *)&r->artifacts
           : strcmp(id, SL_CALIBRATION_ID) == 0 ? (r->calibrates ? &r->run : NULL)
                                                : NULL;
}

static inline void rig_host(pack_rig *r, int calibrates) {
    test_host_init(&r->host);
    r->host.user = r;
    r->host.more = rig_service;
    r->host.ops.convert = sli_ops_cpu.convert;
    r->host.ops.q_bytes = sli_ops_cpu.q_bytes;
    r->host.ops.q_pack = sli_ops_cpu.q_pack;
    r->host.ops.q_pack_codes = sli_ops_cpu.q_pack_codes;
    r->host.ops.q_unpack = sli_ops_cpu.q_unpack;
    r->host.ops.qgemm = rig_qgemm;
    r->scratch = (sl_scratch){.struct_size = SL_SIZE(sl_scratch), .reserve = rig_reserve, .worker = rig_worker};
    r->model = (sl_model){.struct_size = SL_SIZE(sl_model), .tensor = rig_model_tensor};
    r->artifacts =
        (sl_artifacts){SL_SIZE(sl_artifacts), rig_open_artifact, rig_close_artifact, rig_artifact_tensor, rig_metadata};
    r->run = (sl_calibration_run){.struct_size = SL_SIZE(sl_calibration_run)};
    r->info =
        (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .name = "toy", .hidden = RIG_WIDTH, .fingerprint = 7};
    r->fingerprint = "0000000000000007";
    r->calibrates = calibrates;
}

/* n matrices [outs[i], k] and n_inputs rows of correlated inputs with a few large weights; input 5 is always 0. */
static inline void rig_group(pack_rig *r, int n, const int64_t *outs, int64_t k, int64_t n_inputs, uint64_t seed) {
    static const char *const names[] = {"model.layers.0.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.k_proj.weight",
                                        "model.layers.0.self_attn.v_proj.weight"};
    for (int i = 0; i < n; i++) {
        r->weight[i] = malloc(sizeof(float) * (size_t)(outs[i] * k));
        assert_non_null(r->weight[i]);
        for (int64_t j = 0; j < outs[i] * k; j++)
            r->weight[i][j] = 0.1f * test_normal(&seed) * (test_uniform(&seed) < 0.01 ? 6 : 1);
        r->linear[i] = (sl_linear){.struct_size = SL_SIZE(sl_linear), .name = names[i], .role = "q"};
        sl_tensor_make(&r->linear[i].weight, r->weight[i], SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){outs[i], k});
        r->list[i] = &r->linear[i];
    }
    r->group = (sl_linear_group){SL_SIZE(sl_linear_group), "attn.qkv", r->list, n, 0, k};
    r->inputs = malloc(sizeof(float) * (size_t)(n_inputs * k));
    r->hessian = calloc((size_t)(k * k), sizeof(double));
    assert_true(r->inputs != NULL && r->hessian != NULL);
    r->n_inputs = n_inputs;
    for (int64_t t = 0; t < n_inputs; t++) {
        float common = test_normal(&seed);
        for (int64_t j = 0; j < k; j++)
            r->inputs[t * k + j] =
                j == 5 ? 0 : (test_normal(&seed) + common) * (float)(0.2 + (double)(j * 37 % 64) / 32);
    }
    for (int64_t t = 0; t < n_inputs; t++)
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j < k; j++)
                r->hessian[i * k + j] += (double)r->inputs[t * k + i] * r->inputs[t * k + j];
}

/* The statistics, in fresh memory each time since packers overwrite them; free the Hessian. */
static inline sl_calibration rig_data(const pack_rig *r) {
    size_t bytes = sizeof(double) * (size_t)(r->group.in * r->group.in);
    sl_calibration c = {.struct_size = SL_SIZE(sl_calibration), .n_rows = r->n_inputs, .n_samples = 1};
    c.hessian = malloc(bytes);
    assert_non_null(c.hessian);
    memcpy(c.hessian, r->hessian, bytes);
    return c;
}

/* Keeps what a packer wrote as the file. */
static inline void rig_store(pack_rig *r, const sl_pack_tensor *const *tensors, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        int64_t bytes = 0;
        rig_tensor *t = &r->file[r->n_file++];
        assert_true(r->n_file <= RIG_TENSORS);
        assert_int_equal(sl_tensor_bytes(&tensors[i]->tensor, &bytes), SL_OK);
        assert_true(sl_tensor_is_contiguous(&tensors[i]->tensor));
        snprintf(t->name, sizeof t->name, "%s", tensors[i]->name);
        t->tensor = tensors[i]->tensor;
        t->tensor.data = malloc((size_t)bytes + 1);
        assert_non_null(t->tensor.data);
        if (bytes > 0)
            memcpy(t->tensor.data, tensors[i]->tensor.data, (size_t)bytes);
    }
}

static inline void rig_drop_file(pack_rig *r) {
    while (r->n_file > 0)
        free(r->file[--r->n_file].tensor.data);
}

static inline void rig_free(pack_rig *r) {
    rig_drop_file(r);
    for (int i = 0; i < RIG_LINEARS; i++)
        free(r->weight[i]);
    free(r->inputs);
    free(r->hessian);
    assert_int_equal(r->host.n_live, 0);
}

/* Error of other weights of matrix i, weighted with the Hessian: sum over rows of d H d^T. */
static inline double rig_error(const pack_rig *r, int i, const float *w) {
    int64_t n = r->linear[i].weight.shape[0], k = r->group.in;
    double sum = 0;
    for (int64_t row = 0; row < n; row++)
        for (int64_t t = 0; t < r->n_inputs; t++) {
            double y = 0;
            for (int64_t j = 0; j < k; j++)
                y += ((double)w[row * k + j] - r->weight[i][row * k + j]) * r->inputs[t * k + j];
            sum += y * y;
        }
    return sum;
}

/* The matrix that a bound group multiplies with, by multiplying the unit vectors, `rows` at a time. */
static inline void rig_matrix(const sl_quant *api, sl_quant_handle *h, int which, int64_t n, int64_t k, int64_t rows,
                              float *w) {
    float *x = calloc((size_t)(rows * k), sizeof *x), *y = calloc((size_t)(rows * n), sizeof *y);
    assert_true(x != NULL && y != NULL);
    for (int64_t at = 0; at < k; at += rows) {
        int64_t m = k - at < rows ? k - at : rows;
        sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul), .which = which};
        sl_quant_input in = {.struct_size = SL_SIZE(sl_quant_input)};
        memset(x, 0, sizeof *x * (size_t)(rows * k));
        for (int64_t t = 0; t < m; t++)
            x[t * k + at + t] = 1;
        sl_tensor_make(&args.x, x, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){m, k});
        sl_tensor_make(&args.y, y, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){m, n});
        in.x = args.x;
        assert_int_equal(api->prepare(h, &in, &args.prepared), SL_OK);
        assert_int_equal(api->matmul(h, &args), SL_OK);
        for (int64_t t = 0; t < m; t++)
            for (int64_t i = 0; i < n; i++)
                w[i * k + at + t] = y[t * n + i];
    }
    free(x);
    free(y);
}

#endif
