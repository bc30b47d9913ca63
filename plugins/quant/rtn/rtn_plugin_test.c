/* rtn: which formats it claims, how it lays groups of matrices out in one blob, and which operation multiplies what.
 * The arithmetic of packed formats is the kernels' and tested there; here the operations are fakes that write down
 * their calls. */
#include "rtn.c"

#include "test_lane.h"

typedef struct call {
    const char *op;
    const void *blob, *weight;
    sl_q_format format;
    const sl_tensor *bias, *residual;
    uint32_t compute, act_mul, act;
} call;

static call last;
static char *packed_at[8];
static int n_packed;

static int64_t q_bytes(const sl_q_format *f) {
    if (f->group % 32 != 0 && f->group != f->k)
        return 0;
    int64_t groups = (f->k + f->group - 1) / f->group;
    return f->n * (f->k * f->bits / 8 + groups * (f->asymmetric ? 4 : 2));
}

static float packed_first, packed_last; /* elements of the matrix that was packed last */

/* Fills the blob's bytes with the number of the call. */
static sl_status q_pack(const sl_host *host, const sl_q_format *f, const sl_tensor *w, void *blob, sl_error *err) {
    (void)host, (void)err;
    if (w->dtype == SL_F32) {
        packed_first = ((const float *)w->data)[0];
        packed_last = ((const float *)w->data)[f->n * f->k - 1];
    }
    packed_at[n_packed] = blob;
    memset(blob, ++n_packed, (size_t)q_bytes(f));
    return SL_OK;
}

static sl_status gemm(const sl_host *host, const sl_op_gemm *a) {
    (void)host;
    last = (call){.op = "gemm", .weight = a->w->data, .bias = a->bias, .residual = a->residual, .compute = a->compute};
    return SL_OK;
}

static sl_status qgemm(const sl_host *host, const sl_op_qgemm *a) {
    (void)host;
    last = (call){.op = "qgemm",
                  .blob = a->blob,
                  .format = *a->format,
                  .bias = a->bias,
                  .residual = a->residual,
                  .act_mul = a->act_mul,
                  .act = a->act};
    return SL_OK;
}

/* ---- a group of three matrices, and a head
 * --------------------------------------------------------------------------- */

typedef struct rig {
    test_host host;
    sl_instance *self;
    const sl_quant *api;
    sl_linear linears[3], head;
    const sl_linear *list[3], *head_list[1];
    sl_linear_group qkv, head_group;
} rig;

static float weights[4][96 * 64];

static test_lane device; /* of open_on_device */
static int on_device;

static void open_rig(rig *r, const char *const *sets) {
    static const char *const names[] = {"q_proj.weight", "k_proj.weight", "v_proj.weight"}, *const role[] = {"q", "k",
                                                                                                             "v"};
    static const int64_t outs[] = {96, 33, 33};
    const sl_plugin *p = &plugin;
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    r->host.ops.q_bytes = q_bytes, r->host.ops.q_pack = q_pack, r->host.ops.gemm = gemm, r->host.ops.qgemm = qgemm;
    for (int i = 0; i < 3; i++) {
        r->linears[i] = (sl_linear){.struct_size = SL_SIZE(sl_linear), .name = names[i], .role = role[i]};
        assert_int_equal(
            sl_tensor_make(&r->linears[i].weight, weights[i], SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){outs[i], 64}),
            SL_OK);
        r->list[i] = &r->linears[i];
    }
    r->qkv = (sl_linear_group){SL_SIZE(sl_linear_group), "attn.qkv", r->list, 3, 0, 64};
    r->head = (sl_linear){.struct_size = SL_SIZE(sl_linear), .name = "lm_head.weight", .role = "head"};
    assert_int_equal(sl_tensor_make(&r->head.weight, weights[3], SL_BF16, SL_DEVICE_CPU, 2, (int64_t[]){96, 64}),
                     SL_OK);
    r->head_list[0] = &r->head;
    r->head_group = (sl_linear_group){SL_SIZE(sl_linear_group), "head", r->head_list, 1, -1, 64};
    sl_params *values = test_params(p, sets);
    sl_scope scope = {.struct_size = SL_SIZE(sl_scope), .device = on_device ? SL_DEVICE_CUDA : SL_DEVICE_CPU};
    if (on_device)
        test_lane_init(&device, &r->host);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .params = values, .scope = &scope};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .compute = SL_BF16};
    assert_int_equal(p->create(&args, &r->self, NULL), SL_OK);
    assert_int_equal(p->activate(r->self, &limits, NULL), SL_OK);
    test_params_free(values);
    r->api = p->query(r->self, SL_QUANT_ID);
    assert_non_null(r->api);
}

static void close_rig(rig *r) {
    const sl_plugin *p = &plugin;
    p->deactivate(r->self);
    p->destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
}

static void test_claims(void **state) {
    (void)state;
    static const struct {
        const char *sets[5], *format;
        double bits; /* of the group's last matrix: 33 rows of 64 */
    } cases[] = {
        {{NULL}, "int4 g32", 4.5},
        {{"bits=8", NULL}, "int8 g32", 8.5},
        {{"bits=8", "group=64", NULL}, "int8 g64", 8.25},
        {{"bits=4", "group=0", NULL}, "int4 row", 4.25},
        {{"bits=4", "scheme=asymmetric", NULL}, "int4a g32", 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        open_rig(&r, cases[i].sets);
        sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
        assert_int_equal(r.api->claim(r.self, &r.qkv, &claim, NULL), SL_OK);
        assert_string_equal(claim.format, cases[i].format);
        if (!(fabs(claim.bits_per_weight - cases[i].bits) < 1e-9))
            fail_msg("%s: %g bits a weight, expected %g", claim.format, claim.bits_per_weight, cases[i].bits);
        assert_int_equal(claim.x_dtype, SL_F32);
        /* the head stays as it is, unless asked for */
        assert_int_equal(r.api->claim(r.self, &r.head_group, &claim, NULL), SL_OK);
        assert_string_equal(claim.format, "BF16");
        close_rig(&r);
    }
    rig r;
    open_rig(&r, (const char *const[]){"head=yes", NULL});
    sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
    assert_int_equal(r.api->claim(r.self, &r.head_group, &claim, NULL), SL_OK);
    assert_string_equal(claim.format, "int4 g32");
    close_rig(&r);
    open_rig(&r, (const char *const[]){"group=33", NULL});
    SL_ERROR(err);
    assert_true(r.api->claim(r.self, &r.qkv, &claim, &err) < 0);
    assert_non_null(strstr(err.text, "33"));
    close_rig(&r);
}

static void test_pack_and_multiply(void **state) {
    (void)state;
    rig r;
    open_rig(&r, (const char *const[]){"bits=8", NULL});
    int64_t bytes = 0, sizes[3], begin[3];
    assert_int_equal(r.api->pack_size(r.self, &r.qkv, &bytes, NULL), SL_OK);
    for (int i = 0; i < 3; i++) {
        sl_q_format f = {.n = r.linears[i].weight.shape[0], .k = 64, .group = 32, .bits = 8};
        sizes[i] = q_bytes(&f);
        begin[i] = i == 0 ? 0 : begin[i - 1] + (sizes[i - 1] + 63) / 64 * 64;
    }
    assert_int_equal(bytes, begin[2] + (sizes[2] + 63) / 64 * 64);
    char *blob = aligned_alloc(64, (size_t)bytes + 64), *moved = aligned_alloc(64, (size_t)bytes + 64);
    assert_true(blob != NULL && moved != NULL);
    memset(blob, 0xee, (size_t)bytes + 64);
    n_packed = 0;
    assert_int_equal(r.api->pack_into(r.self, &r.qkv, blob, NULL), SL_OK);
    assert_int_equal(n_packed, 3);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(packed_at[i], blob + begin[i]);
    for (int64_t i = bytes; i < bytes + 64; i++)
        assert_int_equal((unsigned char)blob[i], 0xee);
    memcpy(moved, blob, (size_t)bytes); /* the blob is position-independent */
    sl_quant_handle *h = NULL;
    assert_int_equal(r.api->bind(r.self, &r.qkv, moved, &h, NULL), SL_OK);
    float x[64] = {0}, y[96];
    sl_tensor bias = {.data = y}, residual = {.data = x};
    sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul), .bias = &bias, .residual = &residual};
    sl_tensor_make(&args.x, x, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){1, 64});
    sl_tensor_make(&args.y, y, SL_F32, SL_DEVICE_CPU, 2, (int64_t[]){1, 96});
    for (int i = 0; i < 3; i++) {
        args.which = i;
        assert_int_equal(r.api->matmul(h, &args), SL_OK);
        assert_string_equal(last.op, "qgemm");
        assert_ptr_equal(last.blob, moved + begin[i]);
        assert_int_equal(last.format.n, r.linears[i].weight.shape[0]);
        assert_int_equal(last.format.k, 64);
        assert_int_equal(last.format.bits, 8);
        assert_ptr_equal(last.bias, &bias);
        assert_ptr_equal(last.residual, &residual);
    }
    r.api->unbind(r.self, h);
    /* the head takes no bytes and is multiplied from the checkpoint, in the engine's precision */
    assert_int_equal(r.api->pack_size(r.self, &r.head_group, &bytes, NULL), SL_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(r.api->bind(r.self, &r.head_group, NULL, &h, NULL), SL_OK);
    args.which = 0;
    assert_int_equal(r.api->matmul(h, &args), SL_OK);
    assert_string_equal(last.op, "gemm");
    assert_ptr_equal(last.weight, weights[3]);
    assert_int_equal(last.compute, SL_BF16);
    r.api->unbind(r.self, h);
    free(blob);
    free(moved);
    close_rig(&r);
}

/* On a device a group is one matrix in one blob, whatever memory its linears come from. */
static void test_groups_on_a_device(void **state) {
    (void)state;
    static const struct {
        const char *sets[3], *format;
        uint32_t kind, bits;
    } cases[] = {{{"bits=8", NULL}, "int8 g32", SL_Q_INTEGER, 8},
                 {{"bits=4", NULL}, "int4 g32", SL_Q_INTEGER, 4},
                 {{"format=e4m3", "bits=4", NULL}, "e4m3 row", SL_Q_E4M3, 8}};
    on_device = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        open_rig(&r, cases[i].sets);
        r.linears[2].weight.device = SL_DEVICE_CUDA; /* copied down to be packed */
        weights[0][0] = 3.5f;
        weights[2][33 * 64 - 1] = 7.25f;
        sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
        assert_int_equal(r.api->claim(r.self, &r.qkv, &claim, NULL), SL_OK);
        assert_string_equal(claim.format, cases[i].format);
        assert_int_equal(claim.x_dtype, SL_BF16);
        assert_int_equal(claim.flags, SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL | SL_QUANT_FUSES_GROUP |
                                          SL_QUANT_FUSES_ACT_MUL);
        sl_q_format all = {.n = 96 + 33 + 33, .k = 64, .group = cases[i].kind == SL_Q_E4M3 ? 64 : 32,
                           .bits = cases[i].bits};
        int64_t bytes = 0;
        assert_int_equal(r.api->pack_size(r.self, &r.qkv, &bytes, NULL), SL_OK);
        assert_int_equal(bytes, padded(q_bytes(&all)));
        char *blob = aligned_alloc(64, (size_t)bytes);
        n_packed = 0;
        assert_int_equal(r.api->pack_into(r.self, &r.qkv, blob, NULL), SL_OK);
        assert_int_equal(n_packed, 1);
        assert_true(packed_first == 3.5f && packed_last == 7.25f);
        sl_quant_handle *h = NULL;
        assert_int_equal(r.api->bind(r.self, &r.qkv, blob, &h, NULL), SL_OK);
        sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul), .lane = &device.lane, .which = SL_QUANT_ALL};
        assert_int_equal(r.api->matmul(h, &args), SL_OK);
        assert_string_equal(last.op, "qgemm");
        assert_ptr_equal(last.blob, blob);
        assert_int_equal(last.format.n, 162);
        assert_int_equal(last.format.target, SL_Q_CUDA);
        assert_int_equal(last.format.kind, cases[i].kind);
        assert_int_equal(last.format.bits, cases[i].bits);
        args.act_mul = 1, args.which = 1, args.act = SL_ACT_RELU; /* which is ignored */
        assert_int_equal(r.api->matmul(h, &args), SL_OK);
        assert_int_equal(last.act_mul, 1);
        assert_int_equal(last.act, SL_ACT_RELU);
        args.act_mul = 0;
        assert_int_equal(r.api->matmul(h, &args), SL_E_UNIMPLEMENTED);
        r.api->unbind(r.self, h);
        /* the head is nobody's group */
        assert_int_equal(r.api->claim(r.self, &r.head_group, &claim, NULL), SL_OK);
        assert_int_equal(claim.flags & SL_QUANT_FUSES_GROUP, 0);
        assert_int_equal(r.api->bind(r.self, &r.head_group, NULL, &h, NULL), SL_OK);
        args.which = 0;
        assert_int_equal(r.api->matmul(h, &args), SL_OK);
        assert_string_equal(last.op, "gemm");
        r.api->unbind(r.self, h);
        free(blob);
        close_rig(&r);
        test_lane_finish(&device);
    }
    on_device = 0;
}

static void test_floats_need_a_device(void **state) {
    (void)state;
    const sl_plugin *p = &plugin;
    test_host host;
    test_host_init(&host);
    host.ops.q_bytes = q_bytes, host.ops.q_pack = q_pack, host.ops.gemm = gemm, host.ops.qgemm = qgemm;
    sl_params *values = test_params(p, (const char *const[]){"format=e4m3", NULL});
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args), .host = &host.host, .params = values};
    sl_instance *self = NULL;
    SL_ERROR(err);
    assert_int_equal(p->create(&args, &self, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "GPU only"));
    test_params_free(values);
}

static void test_needs_operations(void **state) {
    (void)state;
    const sl_plugin *p = &plugin;
    test_host host;
    test_host_init(&host);
    host.ops.struct_size = SL_FIELD_END(sl_ops, q_bytes); /* an older host */
    sl_params *values = test_params(p, NULL);
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args), .host = &host.host, .params = values};
    sl_instance *self = NULL;
    SL_ERROR(err);
    assert_true(p->create(&args, &self, &err) < 0);
    assert_non_null(strstr(err.text, SL_OPS_ID));
    test_params_free(values);
    p->destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_pack_and_multiply),
        cmocka_unit_test(test_groups_on_a_device),
        cmocka_unit_test(test_floats_need_a_device),
        cmocka_unit_test(test_needs_operations),
    };
    return cmocka_run_group_tests_name("rtn_plugin", tests, NULL, NULL);
}
