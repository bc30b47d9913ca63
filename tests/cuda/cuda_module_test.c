/* The CUDA module through its table: memory, ledger, images and their refusals, launches, graphs, faults. */
#include "cuda_module.h"

#include <sys/wait.h>
#include <unistd.h>

#include "slk_cuda.h"

extern const unsigned char slk_image_gather[], slk_image_gather_end[];
static const sli_cuda_api *api;

static void test_table(void **state) {
    (void)state;
    assert_int_equal(api->struct_size, sizeof *api);
    assert_true(api->exec != NULL && api->exec->launch != NULL && api->exec->gemm != NULL && api->exec->lane == NULL);
    assert_true(api->ops != NULL && api->ops->struct_size == SL_SIZE(sl_ops));
    assert_true(api->ops->gemm && api->ops->qgemm && api->ops->q_bytes && api->ops->q_pack && api->ops->q_unpack &&
                api->ops->q_pack_codes && api->ops->norm && api->ops->rope && api->ops->attend && api->ops->act_mul &&
                api->ops->topk && api->ops->lse_merge && api->ops->embed && api->ops->append && api->ops->move &&
                api->ops->gather && api->random && api->sdpa);
}

/* On a machine without a driver the module opens, and says what is missing. */
static void test_no_driver(void **state) {
    (void)state;
    ledger l;
    char why[512] = "";
    sli_cuda *cuda = module_open(api, &l, 0, 0, why, sizeof why);
    if (cuda != NULL) {
        api->close(cuda);
        return; /* there is a device: nothing to be said */
    }
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    assert_non_null(strstr(why, driver == NULL ? "libcuda.so.1" : "no CUDA device"));
    assert_int_equal(l.calls, 0);
    sli_cuda_options options = {.ordinal = 0};
    assert_int_equal(api->open(&options, &cuda, NULL), SL_E_NOT_FOUND); /* without anybody to tell */
}

/* Under the fake driver only: one that is older than what the functions are asked for. */
static void test_old_driver(void **state) {
    (void)state;
    if (getenv("FAKE_DRIVER") == NULL)
        return;
    sli_cuda *cuda = NULL;
    sli_cuda_options options = {.ordinal = 0};
    SL_ERROR(err);
    setenv("FAKE_OLD_DRIVER", "1", 1);
    assert_int_equal(api->open(&options, &cuda, &err), SL_E_VERSION);
    unsetenv("FAKE_OLD_DRIVER");
    assert_non_null(strstr(err.text, "12.8"));
    assert_non_null(strstr(err.text, "13.0"));
}

static void test_no_such_device(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    sli_cuda *other = NULL;
    sli_cuda_options options = {.ordinal = 4711};
    SL_ERROR(err);
    assert_int_equal(api->open(&options, &other, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "4711"));
    api->close(cuda);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static void read_back(sli_cuda *cuda, void *to, const void *from, int64_t bytes) {
    const sl_lane *lane = api->lane(cuda, 0);
    SL_ERROR(err);
    assert_int_equal(api->exec->copy(lane, to, from, bytes), SL_OK);
    if (api->exec->sync(lane, &err) != SL_OK)
        fail_msg("%s", err.text);
}

static void test_memory(void **state) {
    (void)state;
    ledger l;
    const int64_t cap = 64 << 20;
    OPEN_OR_SKIP(cuda, api, &l, 0, cap);
    assert_true(api->lane(cuda, 0) != NULL && api->lane(cuda, 1) != NULL && api->lane(cuda, 2) == NULL);
    void *half = api->alloc(cuda, SL_DEVICE_CUDA, cap / 2, 256, SL_MEM_WEIGHTS);
    assert_non_null(half);
    void *rest = api->alloc(cuda, SL_DEVICE_CUDA, cap / 2, 4096, SL_MEM_KV);
    assert_non_null(rest);
    assert_int_equal((uintptr_t)rest % 4096, 0);
    assert_null(api->alloc(cuda, SL_DEVICE_CUDA, 1, 1, SL_MEM_KV)); /* the cap */
    assert_int_equal(l.now[SL_DEVICE_CUDA], cap);
    unsigned char *pinned = api->alloc(cuda, SL_DEVICE_HOST_PINNED, 1000, 64, SL_MEM_PLUGIN); /* not under the cap */
    assert_non_null(pinned);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(pinned[i], 0);
    assert_int_equal(l.now[SL_DEVICE_HOST_PINNED], 1000);
    memset(pinned, 1, 1000);
    read_back(cuda, pinned, rest, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(pinned[i], 0); /* zeroed */
    api->release(cuda, SL_DEVICE_CUDA, half);
    api->release(cuda, SL_DEVICE_CUDA, NULL);
    assert_int_equal(l.now[SL_DEVICE_CUDA], cap / 2);
    assert_int_equal(api->scratch_reserve(cuda, 1 << 20), SL_OK);
    void *scratch = api->scratch(cuda);
    assert_non_null(scratch);
    assert_int_equal(api->scratch_reserve(cuda, 1 << 10), SL_OK); /* smaller: as it was */
    assert_ptr_equal(api->scratch(cuda), scratch);
    assert_int_equal(api->scratch_reserve(cuda, cap), SL_E_NO_MEMORY);
    assert_null(api->alloc(cuda, SL_DEVICE_CUDA, 16, 3, SL_MEM_KV)); /* no power of two */
    assert_null(api->alloc(cuda, SL_DEVICE_CPU, 16, 64, SL_MEM_KV));
    api->close(cuda); /* with memory still held */
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
    assert_int_equal(l.now[SL_DEVICE_HOST_PINNED], 0);
}

static void test_red_zones(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 1, 0);
    const sl_lane *lane = api->lane(cuda, 0);
    for (int front = 0; front < 2; front++) {
        unsigned char *good = api->alloc(cuda, SL_DEVICE_CUDA, 100, 16, SL_MEM_KV);
        unsigned char *bad = api->alloc(cuda, SL_DEVICE_CUDA, 100, 1024, SL_MEM_KV);
        assert_true(good != NULL && bad != NULL && (uintptr_t)bad % 1024 == 0);
        assert_int_equal(api->exec->fill(lane, good, 1, 100), SL_OK);
        assert_int_equal(api->exec->fill(lane, front ? bad - 1 : bad + 100, 1, 1), SL_OK);
        l.log[0] = '\0';
        api->release(cuda, SL_DEVICE_CUDA, good);
        assert_string_equal(l.log, "");
        api->release(cuda, SL_DEVICE_CUDA, bad);
        assert_non_null(strstr(l.log, front ? "in front of" : "behind"));
        assert_non_null(strstr(l.log, "100 bytes"));
        assert_non_null(api->fault(cuda));
    }
    SL_ERROR(err);
    assert_int_equal(api->capture_begin(cuda, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "debug"));
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

/* ---- images and launches ----------------------------------------------------------------------------------------- */

static sl_image gather_image(const char *const *kernels) {
    return (sl_image){.struct_size = SL_SIZE(sl_image),
                      .data = slk_image_gather,
                      .bytes = slk_image_gather_end - slk_image_gather,
                      .name = "gather",
                      .kernels = kernels};
}

static void test_refusals(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    const sl_exec *exec = api->exec;
    const sl_lane *lane = api->lane(cuda, 0);
    static const char *const right[] = {"slk_gather_f32", NULL}, *const more[] = {"slk_gather_f32", "slk_absent", NULL},
                             *const none[] = {NULL};
    sl_image_impl *image = NULL;
    sl_function_impl *function = NULL;
    SL_ERROR(err);
    sl_image m = gather_image(more);
    assert_int_equal(exec->image_load(NULL, lane, &m, &image, &err), SL_E_NOT_FOUND);
    assert_true(image == NULL && strstr(err.text, "slk_absent") != NULL);
    m = gather_image(none);
    assert_int_equal(exec->image_load(NULL, lane, &m, &image, &err), SL_E_DATA);
    assert_true(image == NULL && strstr(err.text, "slk_gather_f32") != NULL);
    m = gather_image(right);
    m.arch = 750;
    assert_int_equal(exec->image_load(NULL, lane, &m, &image, &err), SL_E_UNIMPLEMENTED);
    m = gather_image(right);
    m.min_driver = 99000;
    assert_int_equal(exec->image_load(NULL, lane, &m, &image, &err), SL_E_VERSION);
    m = gather_image(right);
    assert_int_equal(exec->image_load(NULL, lane, &m, &image, &err), SL_OK);
    assert_int_equal(exec->function(NULL, image, "slk_absent", 8, 0, 1, &function, &err), SL_E_NOT_FOUND);
    assert_int_equal(exec->function(NULL, image, "slk_gather_f32", 8, 0, 1, &function, &err), SL_E_INVALID);
    char size[64];
    snprintf(size, sizeof size, "8 bytes, it has %zu", sizeof(slk_gather_params));
    if (strstr(err.text, size) == NULL)
        fail_msg("%s", err.text);
    assert_int_equal(
        exec->function(NULL, image, "slk_gather_f32", sizeof(slk_gather_params), 1 << 20, 1, &function, &err),
        SL_E_UNIMPLEMENTED);
    assert_null(function);
    assert_int_equal(
        exec->function(NULL, image, "slk_gather_f32", sizeof(slk_gather_params), 100 << 10, 1, &function, &err), SL_OK);
    slk_gather_params p = {0};
    sl_launch launch = {.struct_size = SL_SIZE(sl_launch),
                        .params = &p,
                        .param_bytes = sizeof p,
                        .grid = {1, 1, 1},
                        .block = {4096, 1, 1}}; /* more threads than a block can have */
    assert_true(exec->launch(lane, function, &launch) < 0);
    assert_true(api->fault(cuda) != NULL && strstr(api->fault(cuda), "slk_gather_f32") != NULL);
    launch.block[0] = 32, launch.param_bytes = 8;
    assert_int_equal(exec->launch(lane, function, &launch), SL_E_INVALID);
    launch.param_bytes = sizeof p, launch.shared_bytes = 101 << 10;
    assert_int_equal(exec->launch(lane, function, &launch), SL_E_INVALID);
    launch.shared_bytes = 0;
    const sl_launch_attr unknown = {SL_SIZE(sl_launch_attr), 99, 0, 0, 0}, *attrs[] = {&unknown};
    launch.attrs = attrs, launch.n_attrs = 1;
    assert_int_equal(exec->launch(lane, function, &launch), SL_E_UNIMPLEMENTED);
    api->close(cuda);
}

/* A captured gather behind a captured copy: a replay sees what its inputs hold then. */
static void test_graph(void **state) {
    (void)state;
    enum { ROWS = 50, N = 20, WIDTH = 64 };
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    const sl_exec *exec = api->exec;
    const sl_lane *lane = api->lane(cuda, 0);
    SL_ERROR(err);
    static slk_cuda k;
    assert_int_equal(slk_cuda_open(&k, NULL, exec, lane, &err), SL_OK);
    float *x = api->alloc(cuda, SL_DEVICE_CUDA, ROWS * WIDTH * 4, 256, SL_MEM_PLUGIN);
    float *y = api->alloc(cuda, SL_DEVICE_CUDA, N * WIDTH * 4, 256, SL_MEM_PLUGIN);
    int32_t *row = api->alloc(cuda, SL_DEVICE_CUDA, N * 4, 256, SL_MEM_PLUGIN);
    int32_t *staged = api->alloc(cuda, SL_DEVICE_HOST_PINNED, N * 4, 64, SL_MEM_PLUGIN);
    assert_true(x != NULL && y != NULL && row != NULL && staged != NULL);
    const slk_gather_params p = {.x = x, .row = row, .y = y, .width = WIDTH, .ldx = WIDTH, .ldy = WIDTH, .n = N};
    sli_cuda_graph *graph = NULL;
    assert_int_equal(api->capture_begin(cuda, &err), SL_OK);
    assert_int_equal(lane->capturing, 1);
    assert_null(api->alloc(cuda, SL_DEVICE_CUDA, 16, 16, SL_MEM_PLUGIN));
    assert_int_equal(exec->sync(lane, &err), SL_E_STATE);
    assert_int_equal(exec->copy(lane, row, staged, N * 4), SL_OK);
    assert_int_equal(slk_cuda_gather(&k, lane, &p), SL_OK);
    assert_int_equal(api->capture_end(cuda, &graph, &err), SL_OK);
    assert_int_equal(lane->capturing, 0);
    assert_int_equal(api->graph_nodes(graph), 2);
    int64_t others, edges, dependent;
    api->graph_form(graph, &others, &edges, &dependent);
    assert_int_equal(edges, 1);
    assert_int_equal(dependent, 0);
    assert_int_equal(others, 1);
    static float host[ROWS * WIDTH], got[N * WIDTH];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < ROWS * WIDTH; i++)
            host[i] = (float)(i * 3 + round * 100000);
        for (int i = 0; i < N; i++)
            staged[i] = (i * 7 + round * 11) % ROWS;
        assert_int_equal(exec->copy(lane, x, host, sizeof host), SL_OK);
        assert_int_equal(api->graph_launch(cuda, graph, &err), SL_OK);
        read_back(cuda, got, y, sizeof got);
        for (int i = 0; i < N * WIDTH; i++)
            if (got[i] != host[staged[i / WIDTH] * WIDTH + i % WIDTH])
                fail_msg("replay %d: row %d, element %d: %g", round, i / WIDTH, i % WIDTH, (double)got[i]);
    }
    /* a capture that is left: work runs again */
    assert_int_equal(api->capture_begin(cuda, &err), SL_OK);
    assert_int_equal(slk_cuda_gather(&k, lane, &p), SL_OK);
    api->capture_abort(cuda);
    assert_int_equal(exec->fill(lane, y, 0, sizeof got), SL_OK);
    assert_int_equal(slk_cuda_gather(&k, lane, &p), SL_OK);
    read_back(cuda, got, y, sizeof got);
    assert_true(got[0] == host[staged[0] * WIDTH]);
    api->graph_destroy(cuda, graph);
    api->close(cuda);
    assert_int_equal(l.now[SL_DEVICE_CUDA], 0);
}

/* The copy lane waits for the compute lane's event and the other way round; time passes between events. */
static void test_events(void **state) {
    (void)state;
    enum { BYTES = 64 << 20 };
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    const sl_exec *exec = api->exec;
    const sl_lane *compute = api->lane(cuda, 0), *copies = api->lane(cuda, 1);
    SL_ERROR(err);
    unsigned char *d = api->alloc(cuda, SL_DEVICE_CUDA, BYTES, 256, SL_MEM_PLUGIN);
    unsigned char *pinned = api->alloc(cuda, SL_DEVICE_HOST_PINNED, BYTES, 256, SL_MEM_PLUGIN);
    assert_true(d != NULL && pinned != NULL);
    sl_event_impl *begin, *filled, *copied;
    assert_int_equal(exec->event_create(NULL, compute, &begin), SL_OK);
    assert_int_equal(exec->event_create(NULL, compute, &filled), SL_OK);
    assert_int_equal(exec->event_create(NULL, copies, &copied), SL_OK);
    for (int round = 1; round <= 3; round++) {
        assert_int_equal(exec->record(compute, begin), SL_OK);
        assert_int_equal(exec->fill(compute, d, round, BYTES), SL_OK);
        assert_int_equal(exec->record(compute, filled), SL_OK);
        assert_int_equal(exec->wait(copies, filled), SL_OK);
        assert_int_equal(exec->copy(copies, pinned, d, BYTES), SL_OK);
        assert_int_equal(exec->record(copies, copied), SL_OK);
        assert_int_equal(exec->wait(compute, copied), SL_OK);
        assert_int_equal(exec->fill(compute, d, 99, BYTES), SL_OK);
        assert_int_equal(exec->sync(compute, &err), SL_OK);
        assert_true(pinned[0] == round && pinned[BYTES - 1] == round && pinned[BYTES / 2] == round);
        float fill_ms = 0, both_ms = 0;
        assert_int_equal(api->elapsed(cuda, begin, filled, &fill_ms), SL_OK);
        assert_int_equal(api->elapsed(cuda, begin, copied, &both_ms), SL_OK);
        assert_true(fill_ms > 0 && both_ms > fill_ms);
    }
    exec->event_destroy(NULL, begin);
    exec->event_destroy(NULL, filled);
    exec->event_destroy(NULL, copied);
    api->close(cuda);
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

/* A kernel that reads where nothing is. 0: the text of the fault names kernel and error. */
static int fault_named(uint32_t debug) {
    ledger l;
    char why[512];
    SL_ERROR(err);
    static slk_cuda k;
    sli_cuda *cuda = module_open(api, &l, debug, 0, why, sizeof why);
    if (cuda == NULL)
        return 3;
    const sl_lane *lane = api->lane(cuda, 0);
    if (slk_cuda_open(&k, NULL, api->exec, lane, &err) != SL_OK)
        return 4;
    slk_gather_params p = {.x = (const float *)(uintptr_t)64, .width = 8, .ldx = 8, .ldy = 8, .n = 1};
    p.row = api->alloc(cuda, SL_DEVICE_CUDA, 256, 256, SL_MEM_PLUGIN);
    p.y = api->alloc(cuda, SL_DEVICE_CUDA, 256, 256, SL_MEM_PLUGIN);
    const sl_status launched = slk_cuda_gather(&k, lane, &p);
    const sl_status waited = api->exec->sync(lane, &err);
    const char *fault = api->fault(cuda);
    printf("debug %u: %s\n", debug, fault != NULL ? fault : "no fault");
    if ((debug ? launched : waited) != SL_E_DEVICE || fault == NULL || strstr(fault, "kernel slk_gather_f32") == NULL ||
        strstr(fault, "ILLEGAL_ADDRESS") == NULL)
        return 5;
    api->close(cuda);
    return l.now[SL_DEVICE_CUDA] == 0 ? 0 : 6;
}

/* In a process of its own: the context does not survive. */
static void test_faults(void **state) {
    (void)state;
    ledger l;
    OPEN_OR_SKIP(cuda, api, &l, 0, 0);
    api->close(cuda);
    const char *length = getenv("SLUICE_TEST_LENGTH");
    if (length != NULL && strcmp(length, "short") == 0)
        return; /* under a sanitizer: a fault on purpose would be its finding */
    char self[512];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = '\0';
    static char *const variants[] = {"0", "1"};
    for (int i = 0; i < 2; i++) {
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char *const args[] = {self, variants[i], NULL};
            execv(self, args);
            _exit(127);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(int argc, char **argv) {
    api = module_api();
    if (argc > 1)
        return fault_named(argv[1][0] == '1');
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table),          cmocka_unit_test(test_no_driver),
                                       cmocka_unit_test(test_no_such_device), cmocka_unit_test(test_old_driver),
                                       cmocka_unit_test(test_memory),         cmocka_unit_test(test_red_zones),
                                       cmocka_unit_test(test_refusals),       cmocka_unit_test(test_graph),
                                       cmocka_unit_test(test_events),         cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests_name("cuda_module", tests, NULL, NULL);
}
