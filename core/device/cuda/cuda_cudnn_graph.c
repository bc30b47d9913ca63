/* Attention as cuDNN's graph of operations: the pattern that its fused engines know.
 *
 * The order of the nodes and every virtual tensor matter: an engine compares the graph with its own. Left out or put
 * elsewhere, a node makes it fall to slow engines or to none. So the logarithm of the sum is there even when nobody
 * wants it.
 */
#include "cuda_cudnn.h"

#include <stdbool.h>

#include "sl_error.h"

enum { MAX_OPS = 20, MAX_DESCRIPTORS = 80, MAX_CONFIGS = 8 };

typedef cudnnBackendDescriptor_t desc_t;

/* Descriptors under construction; the first failure stays. */
typedef struct builder {
    const sli_cudnn *dnn;
    sl_error *err;
    sl_status status;
    desc_t all[MAX_DESCRIPTORS], op[MAX_OPS];
    int n_all, n_ops;
    int64_t next_name;
} builder;

static void check(builder *b, const char *what, cudnnStatus_t status) {
    if (b->status == SL_OK && status != CUDNN_STATUS_SUCCESS)
        b->status = sli_cudnn_fail(b->dnn, b->err, what, status);
}

static desc_t make(builder *b, cudnnBackendDescriptorType_t type) {
    desc_t d = NULL;
    if (b->status != SL_OK)
        return NULL;
    if (b->n_all == MAX_DESCRIPTORS) {
        b->status = sl_fail(b->err, SL_E_INTERNAL, "cuDNN graph of more than %d descriptors", MAX_DESCRIPTORS);
        return NULL;
    }
    check(b, "making a descriptor", b->dnn->cudnnBackendCreateDescriptor(type, &d));
    if (d != NULL)
        b->all[b->n_all++] = d;
    return d;
}

static void set(builder *b, desc_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                const void *value) {
    if (b->status == SL_OK)
        check(b, "setting an attribute", b->dnn->cudnnBackendSetAttribute(d, name, type, n, value));
}

static void set_desc(builder *b, desc_t d, cudnnBackendAttributeName_t name, desc_t value) {
    set(b, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finish(builder *b, desc_t d, const char *what) {
    if (b->status == SL_OK)
        check(b, what, b->dnn->cudnnBackendFinalize(d));
}

enum { VIRTUAL = 1, BY_VALUE = 2 };

static desc_t tensor(builder *b, int64_t name, cudnnDataType_t dtype, const int64_t dim[4], const int64_t stride[4],
                     int kind) {
    desc_t t = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t align = 16;
    bool yes = true;
    set(b, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
    set(b, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &dtype);
    set(b, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    set(b, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(b, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    if (kind == VIRTUAL)
        set(b, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (kind == BY_VALUE)
        set(b, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finish(b, t, "a tensor");
    return t;
}

/* Packed [1, heads, rows, columns]. */
static desc_t packed(builder *b, int64_t name, cudnnDataType_t dtype, int64_t heads, int64_t rows, int64_t columns,
                     int kind) {
    int64_t dim[4] = {1, heads, rows, columns};
    int64_t stride[4] = {heads * rows * columns, rows * columns, columns, 1};
    return tensor(b, name != 0 ? name : b->next_name++, dtype, dim, stride, kind);
}

static void add_op(builder *b, desc_t op, const char *what) {
    finish(b, op, what);
    if (b->status == SL_OK)
        b->op[b->n_ops++] = op;
}

/* y = mode(x, other), or chosen by `choice`; axis of an index, else -1; unused tensors NULL. */
static void pointwise(builder *b, const char *what, cudnnPointwiseMode_t mode, cudnnDataType_t precision, int64_t axis,
                      desc_t x, desc_t other, desc_t choice, desc_t y) {
    desc_t kind = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(b, kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    if (axis >= 0)
        set(b, kind, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finish(b, kind, what);
    desc_t op = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_desc(b, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    set_desc(b, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (other != NULL)
        set_desc(b, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, other);
    if (choice != NULL)
        set_desc(b, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, choice);
    set_desc(b, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_op(b, op, what);
}

static void matmul(builder *b, const char *what, desc_t x, desc_t w, desc_t y) {
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    desc_t kind = make(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(b, kind, what);
    desc_t op = make(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_desc(b, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, x);
    set_desc(b, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, w);
    set_desc(b, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    set_desc(b, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
    add_op(b, op, what);
}

static void reduce(builder *b, const char *what, cudnnReduceTensorOp_t how, desc_t x, desc_t y) {
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    desc_t kind = make(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
    set(b, kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    finish(b, kind, what);
    desc_t op = make(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_desc(b, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_desc(b, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_desc(b, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
    add_op(b, op, what);
}

/* Scores that a query may not see become -inf: query i sees keys 0 .. i + n_kv - n_q. */
static desc_t masked(builder *b, const sl_sdpa_desc *d, desc_t score) {
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, i32 = CUDNN_DATA_INT32, truth = CUDNN_DATA_BOOLEAN;
    int64_t h = d->heads, n = d->n_q, m = d->n_kv;
    desc_t row = packed(b, 0, i32, h, n, m, VIRTUAL);
    pointwise(b, "the row's number", CUDNN_POINTWISE_GEN_INDEX, i32, 2, score, NULL, NULL, row);
    if (n != m) {
        desc_t up = packed(b, 0, i32, h, n, m, VIRTUAL), shifted = packed(b, 0, i32, h, n, m, VIRTUAL);
        pointwise(b, "the row's number and keys", CUDNN_POINTWISE_ADD, i32, -1, row,
                  packed(b, SLI_SDPA_N_KV, i32, 1, 1, 1, BY_VALUE), NULL, up);
        pointwise(b, "the row's number less queries", CUDNN_POINTWISE_SUB, i32, -1, up,
                  packed(b, SLI_SDPA_N_Q, i32, 1, 1, 1, BY_VALUE), NULL, shifted);
        row = shifted;
    }
    desc_t column = packed(b, 0, i32, h, n, m, VIRTUAL), seen = packed(b, 0, truth, h, n, m, VIRTUAL);
    pointwise(b, "the column's number", CUDNN_POINTWISE_GEN_INDEX, i32, 3, score, NULL, NULL, column);
    pointwise(b, "the comparison", CUDNN_POINTWISE_CMP_GE, truth, -1, row, column, NULL, seen);
    desc_t out = packed(b, 0, f32, h, n, m, VIRTUAL);
    pointwise(b, "the choice", CUDNN_POINTWISE_BINARY_SELECT, f32, -1, score,
              packed(b, SLI_SDPA_HIDDEN, f32, 1, 1, 1, BY_VALUE), seen, out);
    return out;
}

static void attention(builder *b, const sl_sdpa_desc *d) {
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT, bf16 = CUDNN_DATA_BFLOAT16;
    int64_t h = d->heads, g = d->kv_heads, e = d->head_dim, n = d->n_q, m = d->n_kv;
    const int64_t q_dim[4] = {1, h, n, e}, q_stride[4] = {n * d->q_row, d->q_head, d->q_row, 1};
    const int64_t k_dim[4] = {1, g, e, m}, k_stride[4] = {m * d->k_row, d->k_head, 1, d->k_row}; /* transposed */
    const int64_t v_dim[4] = {1, g, m, e}, v_stride[4] = {m * d->v_row, d->v_head, d->v_row, 1};
    const int64_t o_stride[4] = {n * d->o_row, d->o_head, d->o_row, 1};

    desc_t q = tensor(b, SLI_SDPA_Q, bf16, q_dim, q_stride, 0), k = tensor(b, SLI_SDPA_K, bf16, k_dim, k_stride, 0);
    desc_t dot = packed(b, 0, f32, h, n, m, VIRTUAL), score = packed(b, 0, f32, h, n, m, VIRTUAL);
    matmul(b, "queries times keys", q, k, dot);
    pointwise(b, "the scale", CUDNN_POINTWISE_MUL, f32, -1, dot, packed(b, SLI_SDPA_SCALE, f32, 1, 1, 1, BY_VALUE),
              NULL, score);
    if (d->causal)
        score = masked(b, d, score);

    desc_t top = packed(b, 0, f32, h, n, 1, VIRTUAL), less = packed(b, 0, f32, h, n, m, VIRTUAL);
    desc_t weight = packed(b, 0, f32, h, n, m, VIRTUAL), sum = packed(b, 0, f32, h, n, 1, VIRTUAL);
    desc_t log_sum = packed(b, 0, f32, h, n, 1, VIRTUAL);
    desc_t lse = packed(b, SLI_SDPA_LSE, f32, h, n, 1, d->want_lse ? 0 : VIRTUAL);
    desc_t share = packed(b, 0, bf16, h, n, m, VIRTUAL);
    reduce(b, "the largest score", CUDNN_REDUCE_TENSOR_MAX, score, top);
    pointwise(b, "less the largest score", CUDNN_POINTWISE_SUB, f32, -1, score, top, NULL, less);
    pointwise(b, "the exponentials", CUDNN_POINTWISE_EXP, f32, -1, less, NULL, NULL, weight);
    reduce(b, "their sum", CUDNN_REDUCE_TENSOR_ADD, weight, sum);
    pointwise(b, "its logarithm", CUDNN_POINTWISE_LOG, f32, -1, sum, NULL, NULL, log_sum);
    pointwise(b, "the log-sum-exp", CUDNN_POINTWISE_ADD, f32, -1, top, log_sum, NULL, lse);
    pointwise(b, "the shares", CUDNN_POINTWISE_DIV, f32, -1, weight, sum, NULL, share);
    matmul(b, "shares times values", share, tensor(b, SLI_SDPA_V, bf16, v_dim, v_stride, 0),
           tensor(b, SLI_SDPA_O, bf16, q_dim, o_stride, 0));
}

/* The first of the estimated configurations that makes a plan: the list is sorted by expected time. */
static sl_status choose(builder *b, cudnnHandle_t handle, desc_t graph, desc_t *plan, int64_t *workspace) {
    const sli_cudnn *dnn = b->dnn;
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    desc_t estimate = make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), config[MAX_CONFIGS];
    set_desc(b, estimate, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(b, estimate, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(b, estimate, "the choice of an engine");
    for (int i = 0; i < MAX_CONFIGS; i++)
        config[i] = make(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (b->status != SL_OK)
        return b->status;
    int64_t n = 0;
    cudnnStatus_t status = dnn->cudnnBackendGetAttribute(estimate, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, MAX_CONFIGS, &n, config);
    if (status != CUDNN_STATUS_SUCCESS)
        return sli_cudnn_fail(dnn, b->err, "the list of engines", status);
    if (n > MAX_CONFIGS)
        n = MAX_CONFIGS;
    status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; i < n; i++) {
        desc_t p = NULL;
        int64_t got = 0;
        status = dnn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &p);
        if (status == CUDNN_STATUS_SUCCESS)
            status = dnn->cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        if (status == CUDNN_STATUS_SUCCESS)
            status = dnn->cudnnBackendSetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config[i]);
        if (status == CUDNN_STATUS_SUCCESS)
            status = dnn->cudnnBackendFinalize(p);
        if (status == CUDNN_STATUS_SUCCESS)
            status = dnn->cudnnBackendGetAttribute(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                                   &got, workspace);
        if (status == CUDNN_STATUS_SUCCESS) {
            *plan = p;
            return SL_OK;
        }
        if (p != NULL)
            dnn->cudnnBackendDestroyDescriptor(p);
    }
    sli_cudnn_fail(dnn, b->err, "no engine takes this attention", status);
    return SL_E_UNIMPLEMENTED;
}

sl_status sli_cudnn_sdpa_plan(const sli_cudnn *dnn, cudnnHandle_t handle, const sl_sdpa_desc *desc,
                              cudnnBackendDescriptor_t *plan, int64_t *workspace, sl_error *err) {
    builder b = {.dnn = dnn, .err = err, .next_name = 100};
    attention(&b, desc);
    desc_t graph = make(&b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(&b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    set(&b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b.n_ops, b.op);
    finish(&b, graph, "the graph of operations");
    sl_status status = b.status == SL_OK ? choose(&b, handle, graph, plan, workspace) : b.status;
    for (int i = b.n_all - 1; i >= 0; i--)
        dnn->cudnnBackendDestroyDescriptor(b.all[i]);
    return status;
}
