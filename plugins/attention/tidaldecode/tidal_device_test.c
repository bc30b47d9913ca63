/* TidalDecode on a device: which layer attends to what, in which order lists are made and read, and what is refused.
 * Operations are fakes that write down their calls; the lists themselves are the pick kernel's (sdk/kernels/pick). */
#include "tidal_device.c"

#include "test_lane.h"

enum { LAYERS = 5, MAX_CALLS = 32 };

typedef struct call {
    char op; /* 'd' dense, 's' dense with scores, 'l' through lists, 'p' pick */
    int layer;
    int32_t n_groups;
    const int32_t *list;
    int64_t budget, all_up_to, stride;
} call;

static call calls[MAX_CALLS];
static int n_calls;

static sl_status fake_attend(const sl_host *host, const sl_attend *a) {
    (void)host;
    const sl_view_device *v = a->view->device;
    call c = {.op = v->list != NULL            ? 'l'
                    : a->want & SL_WANT_SCORES ? 's'
                                               : 'd',
              .layer = a->layer,
              .list = v->list,
              .n_groups = v->n_groups,
              .stride = v->list != NULL ? v->list_stride : a->score_stride};
    assert_int_equal((a->scores != NULL), (a->want & SL_WANT_SCORES) != 0);
    assert_true(v->list == NULL || v->per_row == 1);
    calls[n_calls++] = c;
    return SL_OK;
}

static sl_status fake_pick(const sl_host *host, const sl_op_pick *a) {
    (void)host;
    assert_int_equal(a->heads, 8);
    calls[n_calls++] = (call){.op = 'p',
                              .n_groups = a->groups,
                              .list = a->list,
                              .budget = a->budget,
                              .all_up_to = a->all_up_to,
                              .stride = a->list_stride};
    return SL_OK;
}

typedef struct rig {
    test_host host;
    test_lane lane;
    sl_layer_info layer;
    const sl_layer_info *layers[LAYERS];
    sl_model_info model;
    tidal_role roles[LAYERS];
    sl_scratch scratch;
    int64_t scratch_bytes;
    sl_instance self;
} rig;

static rig *the_rig;
static char scratch_block[64];

static sl_status scratch_reserve(const sl_host *host, uint32_t device, int64_t bytes, int64_t per_worker) {
    (void)host;
    assert_int_equal(device, SL_DEVICE_CUDA);
    assert_int_equal(per_worker, 0);
    the_rig->scratch_bytes = bytes;
    return SL_OK;
}

static void *scratch_get(const sl_host *host, uint32_t device) {
    (void)host, (void)device;
    return scratch_block;
}

static const sl_limits ordinary = {.struct_size = SL_SIZE(sl_limits),
                                   .max_context = 1000,
                                   .max_rows = 64,
                                   .max_seqs = 5,
                                   .max_tree = 1,
                                   .compute = SL_BF16};

/* Layer 0 dense, 1 selects, 2 reads its lists, 3 selects again, 4 reads those. */
static void open_rig(rig *r) {
    memset(r, 0, sizeof *r);
    the_rig = r;
    test_host_init(&r->host);
    test_lane_init(&r->lane, &r->host);
    r->host.ops.attend = fake_attend;
    r->host.ops.pick = fake_pick;
    r->layer = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info), .n_heads = 8, .n_kv_heads = 2};
    for (int l = 0; l < LAYERS; l++)
        r->layers[l] = &r->layer;
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layers, .n_layers = LAYERS};
    static const tidal_role roles[LAYERS] = {
        {-1, TIDAL_DENSE}, {1, TIDAL_SELECT}, {1, TIDAL_SPARSE}, {3, TIDAL_SELECT}, {3, TIDAL_SPARSE}};
    memcpy(r->roles, roles, sizeof roles);
    r->scratch = (sl_scratch){SL_SIZE(sl_scratch), scratch_reserve, scratch_get, NULL};
    r->self = (sl_instance){.host = &r->host.host,
                            .mem = &r->host.mem,
                            .scratch = &r->scratch,
                            .ops = &r->host.ops,
                            .model = &r->model,
                            .roles = r->roles,
                            .max_groups = 2,
                            .on_device = 1};
    r->self.rule =
        (tidal_rule){.budget = 64, .middle_ratio = 1, .heads = TIDAL_KV_GROUP, .force_current = 1, .min_context = 100};
    n_calls = 0;
}

static void close_rig(rig *r) {
    tidal_device_deactivate(&r->self);
    test_lane_finish(&r->lane);
    assert_int_equal(r->host.n_live, 0);
}

static sl_status layer_of(rig *r, int l, uint64_t step, const uint32_t *stages, int32_t n_seqs, int32_t n) {
    sl_batch b = {.struct_size = SL_SIZE(sl_batch), .stage = stages, .n_seqs = n_seqs, .n_rows = n, .step = step};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &b, .n = n};
    sl_view_device device = {.struct_size = SL_SIZE(sl_view_device), .n_heads = 2};
    sl_view view = {.struct_size = SL_SIZE(sl_view), .kinds = SL_SEGMENT_ROWS, .device = &device};
    sl_attend a = {.struct_size = SL_SIZE(sl_attend), .lane = &r->lane.lane, .rows = &rows, .view = &view, .layer = l};
    return tidal_device_attention.attend(&r->self, &a);
}

static const uint32_t decode[2] = {SL_STAGE_DECODE, SL_STAGE_DECODE}, mixed[2] = {SL_STAGE_PREFILL, SL_STAGE_DECODE};

static void lists_go_up_the_layers(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    assert_int_equal(tidal_device_activate(&r.self, &ordinary, NULL), SL_OK);
    assert_int_equal(r.self.device->max_rows, 8);
    assert_int_equal(r.scratch_bytes, 8 * 8 * 1004 * 4);
    for (int l = 0; l < LAYERS; l++)
        assert_int_equal(layer_of(&r, l, 7, decode, 2, 2), SL_OK);
    static const char expected[] = "dsplspl";
    assert_int_equal(n_calls, 7);
    for (int i = 0; i < n_calls; i++)
        assert_int_equal(calls[i].op, expected[i]);
    assert_int_equal(calls[2].budget, 63); /* and the current token */
    assert_int_equal(calls[2].all_up_to, 99);
    assert_int_equal(calls[2].n_groups, 2);
    assert_ptr_equal(calls[3].list, calls[2].list);
    assert_int_equal(calls[3].stride, calls[2].stride);
    assert_int_equal(calls[3].layer, 2);
    /* the next step makes its own: a layer whose selecting layer was skipped selects in its stead */
    n_calls = 0;
    assert_int_equal(layer_of(&r, 4, 8, decode, 2, 2), SL_OK);
    assert_int_equal(layer_of(&r, 4, 8, decode, 2, 2), SL_OK);
    assert_int_equal(n_calls, 3);
    assert_int_equal(calls[0].op, 's');
    assert_int_equal(calls[2].op, 'l');
    close_rig(&r);
}

static void prompts_are_dense(void **state) {
    (void)state;
    rig r;
    open_rig(&r);
    assert_int_equal(tidal_device_activate(&r.self, &ordinary, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++)
        assert_int_equal(layer_of(&r, l, 1, mixed, 2, 60), SL_OK);
    assert_int_equal(n_calls, LAYERS);
    for (int i = 0; i < n_calls; i++)
        assert_int_equal(calls[i].op, 'd');
    assert_int_equal(layer_of(&r, 1, 2, decode, 2, 9), SL_E_UNIMPLEMENTED); /* more rows than there is room for */
    close_rig(&r);
}

static void what_it_refuses(void **state) {
    (void)state;
    SL_ERROR(err);
    rig r;
    open_rig(&r);
    sl_limits limits = ordinary;
    limits.deterministic = 1;
    assert_int_equal(tidal_device_activate(&r.self, &limits, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "engine.deterministic"));
    assert_int_equal(tidal_device_check(&r.self, NULL, &err), SL_OK);
    r.self.rule.heads = TIDAL_LAYER;
    assert_int_equal(tidal_device_check(&r.self, NULL, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "select_heads = kv_group"));
    r.self.rule.heads = TIDAL_KV_GROUP;
    r.self.correction_period = 256;
    assert_int_equal(tidal_device_check(&r.self, NULL, &err), SL_E_UNIMPLEMENTED);
    r.self.correction_period = 0;
    r.host.ops.pick = NULL;
    assert_int_equal(tidal_device_check(&r.self, NULL, &err), SL_E_NOT_FOUND);
    r.host.budget = 0;
    assert_int_equal(tidal_device_activate(&r.self, &ordinary, &err), SL_E_NO_MEMORY);
    assert_null(r.self.device);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists_go_up_the_layers), cmocka_unit_test(prompts_are_dense),
                                       cmocka_unit_test(what_it_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
