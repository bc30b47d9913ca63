/* none: linears one by one on the CPU, a group as one matrix on a device. The operation is a fake that writes down its
 * call. */
#include "none.c"

#include "test_host.h"

static sl_op_gemm last;
static sl_tensor last_w;

static sl_status gemm(const sl_host *host, const sl_op_gemm *a) {
    (void)host;
    last = *a;
    last_w = *a->w;
    return SL_OK;
}

typedef struct rig {
    test_host host;
    sl_instance *self;
    sl_linear linears[2];
    const sl_linear *list[2];
    sl_linear_group group;
} rig;

static uint16_t memory[3 * 8 * 16];

static void open_rig(rig *r, uint32_t device) {
    static const int64_t outs[] = {8, 16};
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    r->host.ops.gemm = gemm;
    uint16_t *at = memory;
    for (int i = 0; i < 2; i++) {
        r->linears[i] = (sl_linear){.struct_size = SL_SIZE(sl_linear), .name = i == 0 ? "gate" : "up"};
        sl_tensor_make(&r->linears[i].weight, at, SL_BF16, device, 2, (int64_t[]){outs[i], 16});
        r->list[i] = &r->linears[i];
        at += outs[i] * 16;
    }
    r->group = (sl_linear_group){SL_SIZE(sl_linear_group), "ffn.gate_up", r->list, 2, 0, 16};
    sl_scope scope = {.struct_size = SL_SIZE(sl_scope), .device = device};
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .scope = &scope};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .compute = SL_BF16};
    assert_int_equal(plugin.create(&args, &r->self, NULL), SL_OK);
    assert_int_equal(plugin.activate(r->self, &limits, NULL), SL_OK);
}

static void close_rig(rig *r) {
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
}

static void one_by_one(void **state) {
    (void)state;
    rig r;
    open_rig(&r, SL_DEVICE_CPU);
    sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
    assert_int_equal(quant.claim(r.self, &r.group, &claim, NULL), SL_OK);
    assert_int_equal(claim.flags, SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL);
    assert_int_equal(claim.x_dtype, SL_F32);
    sl_quant_handle *h = NULL;
    assert_int_equal(quant.bind(r.self, &r.group, NULL, &h, NULL), SL_OK);
    sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul), .which = 1};
    assert_int_equal(quant.matmul(h, &args), SL_OK);
    assert_ptr_equal(last_w.data, r.linears[1].weight.data);
    assert_int_equal(last_w.shape[0], 16);
    assert_int_equal(last.compute, SL_BF16);
    assert_int_equal(last.act_mul, 0);
    quant.unbind(r.self, h);
    close_rig(&r);
}

static void a_group_is_one_matrix(void **state) {
    (void)state;
    rig r;
    open_rig(&r, SL_DEVICE_CUDA);
    sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
    assert_int_equal(quant.claim(r.self, &r.group, &claim, NULL), SL_OK);
    assert_int_equal(claim.flags,
                     SL_QUANT_FUSES_BIAS | SL_QUANT_FUSES_RESIDUAL | SL_QUANT_FUSES_GROUP | SL_QUANT_FUSES_ACT_MUL);
    assert_int_equal(claim.x_dtype, SL_BF16);
    sl_quant_handle *h = NULL;
    assert_int_equal(quant.bind(r.self, &r.group, NULL, &h, NULL), SL_OK);
    sl_quant_matmul args = {.struct_size = SL_SIZE(sl_quant_matmul), .which = SL_QUANT_ALL};
    assert_int_equal(quant.matmul(h, &args), SL_OK);
    assert_ptr_equal(last_w.data, memory);
    assert_int_equal(last_w.shape[0], 24);
    args.which = 1, args.act_mul = 1, args.act = SL_ACT_GELU; /* which is ignored */
    assert_int_equal(quant.matmul(h, &args), SL_OK);
    assert_ptr_equal(last_w.data, memory);
    assert_int_equal(last.act_mul, 1);
    assert_int_equal(last.act, SL_ACT_GELU);
    args.act_mul = 0;
    assert_int_equal(quant.matmul(h, &args), SL_OK);
    assert_ptr_equal(last_w.data, r.linears[1].weight.data);
    quant.unbind(r.self, h);
    close_rig(&r);
}

static void linears_apart_are_refused(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    open_rig(&r, SL_DEVICE_CUDA);
    sl_quant_handle *h = NULL;
    sl_quant_claim claim = {.struct_size = SL_SIZE(sl_quant_claim)};
    r.linears[1].weight.data = memory + 9 * 16;
    assert_int_equal(quant.bind(r.self, &r.group, NULL, &h, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "up does not stand behind gate"));
    r.linears[1].weight.dtype = SL_F16;
    assert_int_equal(quant.claim(r.self, &r.group, &claim, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "different dtypes"));
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_by_one),
        cmocka_unit_test(a_group_is_one_matrix),
        cmocka_unit_test(linears_apart_are_refused),
    };
    return cmocka_run_group_tests_name("none_plugin", tests, NULL, NULL);
}
