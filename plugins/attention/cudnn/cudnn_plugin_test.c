/* cudnn without a GPU: what it refuses, which shapes it plans, and which calls go to which kernel. The services are
 * fakes that write down what they are asked. */
#include "cudnn.c"

#include "test_host.h"

enum { LAYERS = 3, HEADS = 4, KV = 2, DIM = 64, WIDTH = (HEADS + 2 * KV) * DIM, MAX_ROWS = 1024 };

struct sl_sdpa_impl {
    sl_sdpa_desc desc;
    int live;
};

/* What was asked of the fakes. */
static struct {
    sl_sdpa_impl plan[64];
    int n_plans, n_runs, n_ops, n_fills;
    int64_t refuse, scratch, fill_bytes; /* refuse: rows that no engine takes */
    char *fill_at;
    sl_sdpa_impl *ran;
    sl_sdpa_run run;
    void *workspace;
} seen;

static uint16_t qkv[MAX_ROWS * WIDTH], out[MAX_ROWS * HEADS * DIM];
static char scratch_block[64];

static sl_status fake_create(const sl_host *host, const sl_lane *lane, const sl_sdpa_desc *desc, sl_sdpa_impl **made,
                             sl_error *err) {
    (void)host, (void)lane;
    if (desc->n_q == seen.refuse)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "no engine");
    *made = &seen.plan[seen.n_plans++];
    **made = (sl_sdpa_impl){*desc, 1};
    return SL_OK;
}
static void fake_destroy(const sl_host *host, sl_sdpa_impl *plan) {
    (void)host;
    assert_int_equal(plan->live, 1);
    plan->live = 0;
}
static int64_t fake_workspace(const sl_sdpa_impl *plan) { return plan->desc.n_q; }
static sl_status fake_run(const sl_lane *lane, sl_sdpa_impl *plan, const sl_sdpa_run *args, void *workspace) {
    (void)lane;
    seen.n_runs++;
    seen.ran = plan;
    seen.run = *args;
    seen.workspace = workspace;
    return SL_OK;
}
static sl_status fake_attend(const sl_host *host, const sl_attend *args) {
    (void)host, (void)args;
    seen.n_ops++;
    return SL_OK;
}
static sl_status fake_reserve(const sl_host *host, uint32_t device, int64_t bytes, int64_t each) {
    (void)host;
    assert_int_equal(device, SL_DEVICE_CUDA);
    assert_int_equal(each, 0);
    seen.scratch = bytes;
    return SL_OK;
}
static void *fake_get(const sl_host *host, uint32_t device) {
    (void)host, (void)device;
    return scratch_block;
}
static const sl_lane lane = {.struct_size = SL_SIZE(sl_lane), .device = SL_DEVICE_CUDA};
static const sl_lane *fake_lane(const sl_host *host, uint32_t device, int32_t number) {
    (void)host;
    return device == SL_DEVICE_CUDA && number == 0 ? &lane : NULL;
}
static sl_status fake_fill(const sl_lane *on, void *at, int32_t byte, int64_t bytes) {
    (void)on;
    assert_int_equal(byte, 0);
    seen.n_fills++;
    seen.fill_at = at;
    seen.fill_bytes = bytes;
    return SL_OK;
}

static const sl_sdpa sdpa = {SL_SIZE(sl_sdpa), fake_create, fake_destroy, fake_workspace, fake_run};
static const sl_scratch scratch = {.struct_size = SL_SIZE(sl_scratch), .reserve = fake_reserve, .get = fake_get};
static const sl_exec exec = {.struct_size = SL_SIZE(sl_exec), .lane = fake_lane, .fill = fake_fill};

static const void *more(test_host *host, const char *id) {
    (void)host;
    return strcmp(id, SL_SDPA_ID) == 0      ? (const void *)&sdpa
           : strcmp(id, SL_SCRATCH_ID) == 0 ? (const void *)&scratch
           : strcmp(id, SL_EXEC_ID) == 0    ? (const void *)&exec
                                            : NULL;
}
static const void *without_cudnn(test_host *host, const char *id) {
    return strcmp(id, SL_SDPA_ID) == 0 ? NULL : more(host, id);
}

/* ---- a model of three layers: plain, with a window, with softcapped scores -----------------------------------------
 */

typedef struct rig {
    test_host host;
    sl_layer_info layer[LAYERS];
    const sl_layer_info *layers[LAYERS];
    sl_model_info model;
    uint32_t stages[LAYERS];
    sl_scope scope;
    sl_params *params;
    sl_instance *self;
    /* a step of one prompt, and the call of one layer */
    int32_t row_begin[3];
    int64_t n_past[2];
    uint32_t stage[2];
    sl_batch batch;
    sl_rows rows;
    sl_mask mask;
    sl_view_device device;
    sl_view view;
    sl_note note;
    sl_attend attend;
} rig;

static sl_tensor tensor(uint16_t *data, int64_t n, int64_t heads, int64_t row) {
    return (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                       .data = data,
                       .shape = {n, heads, DIM},
                       .stride = {row, DIM, 1},
                       .dtype = SL_BF16,
                       .ndim = 3,
                       .device = SL_DEVICE_CUDA};
}

static void rig_init(rig *r, const char *padding_text) {
    static const double sizes[] = {1024, 256, 4096, 512}; /* in any order; 4096 is more than a step takes */
    const char *const sets[] = {padding_text, NULL};
    memset(r, 0, sizeof *r);
    memset(&seen, 0, sizeof seen);
    test_host_init(&r->host);
    r->host.more = more;
    r->host.ops.attend = fake_attend;
    for (int l = 0; l < LAYERS; l++) {
        r->layer[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                      .attn_scale = 0.125,
                                      .n_heads = HEADS,
                                      .n_kv_heads = KV,
                                      .head_dim = DIM,
                                      .v_head_dim = DIM};
        r->layers[l] = &r->layer[l];
        r->stages[l] = SL_STAGE_ALL;
    }
    r->layer[1].window = 300;
    r->layer[2].attn_softcap = 30;
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layers, .n_layers = LAYERS};
    r->scope = (sl_scope){
        .struct_size = SL_SIZE(sl_scope), .layer_stages = r->stages, .n_layers = LAYERS, .device = SL_DEVICE_CUDA};
    r->params = test_params(&plugin, padding_text != NULL ? sets : NULL);
    sl_param_value *list = (sl_param_value *)(uintptr_t)sl_param_find(r->params, "rows");
    list->list = sizes, list->n = 4;
}

static sl_status rig_create(rig *r, sl_error *err) {
    const sl_create_args args = {SL_SIZE(sl_create_args), &r->host.host, &r->model, r->params, &r->scope};
    return plugin.create(&args, &r->self, err);
}

static void rig_open(rig *r, const char *padding_text) {
    const sl_limits limits = {
        .struct_size = SL_SIZE(sl_limits), .max_rows = MAX_ROWS, .max_context = 8192, .max_seqs = 4};
    rig_init(r, padding_text);
    SL_ERROR(err);
    assert_int_equal(rig_create(r, &err), SL_OK);
    assert_int_equal(plugin.activate(r->self, &limits, &err), SL_OK);
}

static void rig_close(rig *r) {
    if (r->self != NULL && r->self->plan != NULL)
        plugin.deactivate(r->self);
    plugin.destroy(r->self);
    for (int i = 0; i < seen.n_plans; i++)
        assert_int_equal(seen.plan[i].live, 0);
    test_params_free(r->params);
}

/* A prompt of n rows at the start of its sequence. */
static void prompt(rig *r, int32_t layer, int32_t n) {
    r->row_begin[1] = r->row_begin[2] = n;
    r->n_past[0] = 0;
    r->stage[0] = SL_STAGE_PREFILL;
    r->batch = (sl_batch){.struct_size = SL_SIZE(sl_batch),
                          .row_begin = r->row_begin,
                          .n_past = r->n_past,
                          .stage = r->stage,
                          .n_seqs = 1,
                          .n_rows = n};
    r->rows = (sl_rows){.struct_size = SL_SIZE(sl_rows), .batch = &r->batch, .n = n + 7}; /* a bound */
    r->mask = (sl_mask){.struct_size = SL_SIZE(sl_mask), .window = r->layer[layer].window};
    r->device = (sl_view_device){.struct_size = SL_SIZE(sl_view_device), .k_dtype = SL_BF16, .v_dtype = SL_BF16};
    r->view = (sl_view){.struct_size = SL_SIZE(sl_view), .device = &r->device};
    r->note = (sl_note){.struct_size = SL_SIZE(sl_note), .lane = &lane, .rows = &r->rows, .layer = layer};
    r->note.q = tensor(qkv, n + 7, HEADS, WIDTH);
    r->note.k = tensor(qkv + HEADS * DIM, n + 7, KV, WIDTH);
    r->note.v = tensor(qkv + (HEADS + KV) * DIM, n + 7, KV, WIDTH);
    r->attend = (sl_attend){.struct_size = SL_SIZE(sl_attend),
                            .lane = &lane,
                            .rows = &r->rows,
                            .mask = &r->mask,
                            .view = &r->view,
                            .q = r->note.q,
                            .o = tensor(out, n + 7, HEADS, HEADS * DIM),
                            .scale = 0.125,
                            .softcap = r->layer[layer].attn_softcap,
                            .layer = layer};
}

/* Rows of the plan that served the call; 0: the host's kernel did. */
static int64_t served(rig *r) {
    const sl_attention *api = plugin.query(r->self, SL_ATTENTION_ID);
    const int runs = seen.n_runs, ops = seen.n_ops;
    if (r->note.lane != NULL)
        assert_int_equal(api->note_rows(r->self, &r->note), SL_OK);
    assert_int_equal(api->attend(r->self, &r->attend), SL_OK);
    assert_int_equal(seen.n_runs - runs + seen.n_ops - ops, 1); /* one of them, once */
    return seen.n_runs > runs ? seen.ran->desc.n_q : 0;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------
 */

static void refuses_the_cpu(void **state) {
    (void)state;
    rig r;
    rig_init(&r, NULL);
    r.scope.device = SL_DEVICE_CPU;
    SL_ERROR(err);
    assert_int_equal(plugin.devices, SL_ON_CUDA);
    assert_int_equal(rig_create(&r, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "CUDA devices only"));
    rig_close(&r);
}

static void refuses_a_host_without_cudnn(void **state) {
    (void)state;
    rig r;
    rig_init(&r, NULL);
    r.host.more = without_cudnn;
    SL_ERROR(err);
    assert_int_equal(rig_create(&r, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, SL_SDPA_ID));
    rig_close(&r);
}

static void refuses_deterministic_mode(void **state) {
    (void)state;
    rig r;
    rig_init(&r, NULL);
    SL_ERROR(err);
    assert_int_equal(rig_create(&r, &err), SL_OK);
    const sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .max_rows = MAX_ROWS, .deterministic = 1};
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "deterministic = no"));
    assert_int_equal(seen.n_plans, 0);
    rig_close(&r);
}

static void plans_what_a_step_can_hold(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    assert_int_equal(seen.n_plans, 2 * 3); /* two layers; 256, 512, 1024 */
    assert_int_equal(seen.scratch, 1024);
    const sl_sdpa_desc *d = &seen.plan[1].desc;
    assert_int_equal(d->n_q, 512);
    assert_int_equal(d->n_kv, 512);
    assert_int_equal(d->q_row, WIDTH);
    assert_int_equal(d->v_row, WIDTH);
    assert_int_equal(d->o_row, HEADS * DIM);
    assert_int_equal(d->causal, 1);
    assert_int_equal(d->want_lse, 0);
    rig_close(&r);
}

static void whole_prompts_are_planned_ones(void **state) {
    (void)state;
    rig r;
    rig_open(&r, NULL);
    prompt(&r, 0, 512);
    assert_int_equal(served(&r), 512);
    assert_int_equal(seen.n_fills, 0);
    assert_ptr_equal(seen.run.q, qkv);
    assert_ptr_equal(seen.run.k, qkv + HEADS * DIM);
    assert_ptr_equal(seen.run.v, qkv + (HEADS + KV) * DIM);
    assert_ptr_equal(seen.run.o, out);
    assert_ptr_equal(seen.workspace, scratch_block);
    /* a little shorter: rows behind it are cleared */
    prompt(&r, 0, 1000);
    assert_int_equal(served(&r), 1024);
    assert_int_equal(seen.n_fills, 1);
    assert_ptr_equal(seen.fill_at, qkv + 1000 * WIDTH);
    assert_int_equal(seen.fill_bytes, 24 * WIDTH * 2);
    prompt(&r, 0, 600); /* too short for 1024 */
    assert_int_equal(served(&r), 0);
    prompt(&r, 0, 1025); /* longer than all */
    assert_int_equal(served(&r), 0);
    prompt(&r, 1, 256); /* inside of its window */
    assert_int_equal(served(&r), 256);
    prompt(&r, 1, 512);
    assert_int_equal(served(&r), 0);
    prompt(&r, 2, 512);
    assert_int_equal(served(&r), 0);
    rig_close(&r);
    rig_open(&r, "padding=100");
    prompt(&r, 0, 513);
    assert_int_equal(served(&r), 1024);
    rig_close(&r);
}

static void other_calls_are_the_hosts(void **state) {
    (void)state;
    rig r;
    int32_t number = 0;
    sl_lane recording = lane;
    float one = 1;
    recording.capturing = 1;
    rig_open(&r, NULL);
#define HOSTS(change)                                                                                                  \
    do {                                                                                                               \
        prompt(&r, 0, 512);                                                                                            \
        change;                                                                                                        \
        if (served(&r) != 0)                                                                                           \
            fail_msg("cuDNN was asked although %s", #change);                                                          \
    } while (0)
    HOSTS(r.n_past[0] = 1);
    HOSTS(r.stage[0] = SL_STAGE_DECODE);
    HOSTS(r.batch.n_seqs = 2);
    HOSTS(r.rows.index = &number);
    HOSTS(r.attend.lane = &recording);
    HOSTS(r.attend.want = SL_WANT_LSE);
    HOSTS(r.attend.row_scale = &one);
    HOSTS(r.mask.base = SL_MASK_FULL);
    HOSTS(r.mask.n_spans = 1);
    HOSTS(r.device.list = &number);
    HOSTS(r.device.k_bits = 4);
    HOSTS(r.device.v_dtype = SL_F32);
    HOSTS(r.note.layer = 1);
    HOSTS(r.note.k.stride[0] += 8);
    HOSTS(r.note.v.data = qkv);
    HOSTS(r.attend.q.dtype = SL_F32);
    HOSTS(r.attend.o.stride[0] = WIDTH);
    HOSTS(r.attend.scale = 1);
    rig_close(&r);
}

/* Sizes that no engine takes are the host's; the others stay. */
static void lives_without_an_engine(void **state) {
    (void)state;
    const sl_limits limits = {.struct_size = SL_SIZE(sl_limits), .max_rows = MAX_ROWS};
    rig r;
    rig_init(&r, NULL);
    seen.refuse = 512;
    SL_ERROR(err);
    assert_int_equal(rig_create(&r, &err), SL_OK);
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_OK);
    prompt(&r, 0, 512);
    assert_int_equal(served(&r), 0);
    prompt(&r, 0, 1024);
    assert_int_equal(served(&r), 1024);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_the_cpu),
        cmocka_unit_test(refuses_a_host_without_cudnn),
        cmocka_unit_test(refuses_deterministic_mode),
        cmocka_unit_test(plans_what_a_step_can_hold),
        cmocka_unit_test(whole_prompts_are_planned_ones),
        cmocka_unit_test(other_calls_are_the_hosts),
        cmocka_unit_test(lives_without_an_engine),
    };
    return cmocka_run_group_tests_name("cudnn", tests, NULL, NULL);
}
