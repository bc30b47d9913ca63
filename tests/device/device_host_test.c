/* The device as the core's rooms see it: the module found and opened, its memory in the books of hosts and ledger,
 * lanes and operations led to where they belong, and the choice between a GPU and the CPU with its reasons. */
#include "sl_test.h"

#include <stdlib.h>

#include "base/ledger.h"
#include "device/cpu/cpu_ops.h"
#include "device/device.h"
#include "engine/choose_device.h"
#include "libsluice.h"
#include "plugin/host_impl.h"
#include "plugin/match.h"
#include "sl_host_util.h"

typedef struct fixture {
    sli_pool *pool;
    sli_device *device;
    sli_host_context *context;
    sl_host *host;
    char log[1024];
} fixture;

static void keep_line(void *user, uint32_t level, const char *who, const char *text) {
    fixture *f = user;
    snprintf(f->log, sizeof f->log, "%u %s: %s", level, who, text);
}

static void begin(fixture *f, int64_t kv_limit) {
    SL_ERROR(err);
    memset(f, 0, sizeof *f);
    sli_cuda_options which = {.ordinal = 3};
    if (sli_device_open(&which, &f->device, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(sli_pool_create(1, &f->pool, NULL), SL_OK);
    sli_host_options options = {
        .pool = f->pool, .device = f->device, .validate = 1, .kv_limit = kv_limit, .log = keep_line, .log_user = f};
    assert_int_equal(sli_host_context_create(&options, &f->context, NULL), SL_OK);
    assert_int_equal(sli_host_create(f->context, "sample", NULL, &f->host, NULL), SL_OK);
}

static void end(fixture *f) {
    sli_host_destroy(f->host);
    sli_host_context_destroy(f->context);
    sli_pool_destroy(f->pool);
    sli_device_close(f->device);
}

static void opens_and_describes(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    assert_string_equal(f.device->info.name, "Fake GPU");
    assert_int_equal(f.device->info.n_processors, 3); /* the ordinal went through */
    assert_int_equal(f.device->lane->device, SL_DEVICE_CUDA);
    assert_ptr_not_equal(f.device->lane, f.device->copy_lane);
    assert_ptr_equal(sli_device_module(), f.device->api);
    end(&f);
}

static void memory_is_counted_apart(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_mem *mem = sl_host_service(f.host, SL_MEM_ID, SL_SIZE(sl_mem));
    sli_ledger_report host_before, host_after;
    sli_ledger_device_report gpu, pinned;
    sli_ledger_read(&host_before);
    void *kv = mem->alloc(f.host, SL_DEVICE_CUDA, 5000, 256, SL_MEM_KV),
         *other = mem->alloc(f.host, SL_DEVICE_CUDA, 70, 64, SL_MEM_PLUGIN),
         *ring = mem->alloc(f.host, SL_DEVICE_HOST_PINNED, 300, 64, SL_MEM_PLUGIN);
    assert_true(kv != NULL && other != NULL && ring != NULL);
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &gpu);
    sli_ledger_read_device(SLI_LEDGER_PINNED, &pinned);
    sli_ledger_read(&host_after);
    assert_int_equal(gpu.now[SLI_TAG_KV], 5000);
    assert_int_equal(gpu.now[SLI_TAG_PLUGIN], 70);
    assert_int_equal(gpu.total, 5070);
    assert_int_equal(pinned.total, 300);
    assert_int_equal(host_after.now[SLI_TAG_KV], host_before.now[SLI_TAG_KV]);
    assert_int_equal(sli_host_bytes(f.host), 5370);
    mem->release(f.host, SL_DEVICE_CUDA, kv);
    mem->release(f.host, SL_DEVICE_HOST_PINNED, ring);
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &gpu);
    sli_ledger_read_device(SLI_LEDGER_PINNED, &pinned);
    assert_int_equal(gpu.total, 70);
    assert_int_equal(gpu.peak[SLI_TAG_KV], 5000);
    assert_int_equal(pinned.total, 0);
    sli_host_destroy(f.host); /* `other` was left behind: told, and given back all the same */
    assert_non_null(strstr(f.log, "left 1 blocks with 70 bytes"));
    f.host = NULL;
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &gpu);
    assert_int_equal(gpu.total, 0);
    end(&f);
}

static void limits_and_faults_hold_there_too(void **state) {
    (void)state;
    fixture f;
    begin(&f, 1000);
    const sl_mem *mem = sl_host_service(f.host, SL_MEM_ID, SL_SIZE(sl_mem));
    void *a = mem->alloc(f.host, SL_DEVICE_CUDA, 600, 64, SL_MEM_KV);
    assert_non_null(a);
    assert_null(mem->alloc(f.host, SL_DEVICE_CUDA, 401, 64, SL_MEM_KV)); /* of all KV, wherever */
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, 401, 64, SL_MEM_KV));
    void *b = mem->alloc(f.host, SL_DEVICE_CPU, 400, 64, SL_MEM_KV);
    assert_non_null(b);
    assert_null(mem->alloc(f.host, 17, 1, 64, SL_MEM_PLUGIN));
    sli_host_step_begin(f.context);
    void *c = mem->alloc(f.host, SL_DEVICE_CUDA, 8, 64, SL_MEM_PLUGIN);
    sli_host_step_end(f.context);
    sli_host_faults faults;
    sli_host_read_faults(f.context, &faults);
    assert_int_equal(faults.allocs_in_step, 1);
    mem->release(f.host, SL_DEVICE_CUDA, a);
    mem->release(f.host, SL_DEVICE_CPU, b);
    mem->release(f.host, SL_DEVICE_CUDA, c);
    mem->release(f.host, SL_DEVICE_CUDA, a); /* twice */
    sli_host_read_faults(f.context, &faults);
    assert_int_equal(faults.bad_pointers, 1);
    assert_int_equal(faults.leaks, 0);
    end(&f);
}

static void scratch_of_the_device(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_scratch *scratch = sl_host_service(f.host, SL_SCRATCH_ID, SL_SIZE(sl_scratch));
    assert_null(scratch->get(f.host, SL_DEVICE_CUDA));
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CUDA, 100, 0), SL_E_STATE); /* outside of activate */
    sli_host_set_activating(f.host, 1);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CUDA, 100, 0), SL_OK);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CUDA, 0, 8), SL_E_INVALID); /* it has no workers */
    sli_host_set_activating(f.host, 0);
    assert_non_null(scratch->get(f.host, SL_DEVICE_CUDA));
    assert_null(scratch->get(f.host, SL_DEVICE_CPU));
    end(&f);
}

static void lanes_lead_to_their_device(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_exec *exec = sl_host_service(f.host, SL_EXEC_ID, SL_SIZE(sl_exec));
    const sl_lane *cpu = exec->lane(f.host, SL_DEVICE_CPU, 0), *gpu = exec->lane(f.host, SL_DEVICE_CUDA, 0);
    assert_ptr_equal(gpu, f.device->lane);
    assert_ptr_equal(exec->lane(f.host, SL_DEVICE_CUDA, 1), f.device->copy_lane);
    assert_null(exec->lane(f.host, SL_DEVICE_CUDA, 2));
    sl_device_info info = {.struct_size = SL_SIZE(sl_device_info)};
    assert_int_equal(exec->device_info(cpu, &info), SL_OK);
    assert_int_equal(info.arch, 0);
    assert_int_equal(exec->device_info(gpu, &info), SL_OK);
    assert_int_equal(info.arch, 900);
    assert_int_equal(exec->launch(gpu, NULL, NULL), SL_E_DEVICE); /* the fake's answer */
    assert_int_equal(exec->launch(cpu, NULL, NULL), SL_E_UNIMPLEMENTED);
    char from[4] = "abc", to[4] = "";
    assert_int_equal(exec->copy(gpu, to, from, 4), SL_OK);
    assert_string_equal(to, "abc");
    assert_int_equal(exec->copy(gpu, NULL, from, 4), SL_E_INVALID);
    /* events of both, which are no secret of each other */
    sl_event_impl *on_cpu = NULL, *on_gpu = NULL;
    assert_int_equal(exec->event_create(f.host, cpu, &on_cpu), SL_OK);
    assert_int_equal(exec->event_create(f.host, gpu, &on_gpu), SL_OK);
    assert_int_equal(exec->wait(gpu, on_gpu), SL_E_STATE); /* not recorded yet: it was the fake that was asked */
    assert_int_equal(exec->record(gpu, on_gpu), SL_OK);
    assert_int_equal(exec->wait(gpu, on_gpu), SL_OK);
    assert_int_equal(exec->record(cpu, on_cpu), SL_OK);
    assert_int_equal(exec->wait(gpu, on_cpu), SL_OK); /* it has passed */
    assert_int_equal(exec->record(gpu, on_cpu), SL_E_INVALID);
    assert_int_equal(exec->record(cpu, on_gpu), SL_E_INVALID);
    assert_int_equal(exec->wait(cpu, on_gpu), SL_E_UNIMPLEMENTED);
    exec->event_destroy(f.host, on_cpu);
    exec->event_destroy(f.host, on_gpu);
    exec->event_destroy(f.host, NULL);
    /* products */
    sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc), .n = 7, .k = 1, .max_rows = 1};
    sl_gemm_impl *gemm = NULL;
    float y = 0;
    sl_gemm_run run = {.struct_size = SL_SIZE(sl_gemm_run), .y = &y, .rows = 1};
    assert_int_equal(exec->gemm_create(f.host, gpu, &desc, &gemm, NULL), SL_OK);
    assert_int_equal(exec->gemm(gpu, gemm, &run), SL_OK);
    assert_true(y == 7);
    assert_int_equal(exec->gemm(cpu, gemm, &run), SL_E_INVALID);
    exec->gemm_destroy(f.host, gemm);
    desc.n = 0;
    assert_int_equal(exec->gemm_create(f.host, gpu, &desc, &gemm, NULL), SL_E_INVALID);
    end(&f);
}

static void operations_go_by_lane_and_target(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    sl_op_gather gather = {.struct_size = SL_SIZE(sl_op_gather), .lane = f.device->lane};
    sl_op_move move = {.struct_size = SL_SIZE(sl_op_move), .lane = f.device->lane};
    assert_int_equal(sli_ops_any.gather(f.host, &gather), SL_E_CANCELLED);
    assert_int_equal(sli_ops_any.move(f.host, &move), SL_E_UNIMPLEMENTED); /* the fake has none */
    const sl_exec *exec = sl_host_service(f.host, SL_EXEC_ID, SL_SIZE(sl_exec));
    gather.lane = exec->lane(f.host, SL_DEVICE_CPU, 0);
    assert_int_equal(sli_ops_any.gather(f.host, &gather), SL_E_UNIMPLEMENTED);
    sl_q_format format = {.struct_size = SL_SIZE(sl_q_format), .n = 2, .k = 64, .group = 32, .bits = 8};
    assert_int_equal(sli_ops_any.q_bytes(&format), sli_ops_cpu.q_bytes(&format));
    format.target = SL_Q_CUDA;
    assert_int_equal(sli_ops_any.q_bytes(&format), 4244);
    assert_int_equal(sli_ops_cpu.q_bytes(&format), 0); /* not the CPU's to pack */
    assert_int_equal(sli_ops_any.q_pack(f.host, &format, NULL, NULL, NULL), SL_E_UNIMPLEMENTED);
    /* every operation that the CPU has is there */
    const void *const *cpu = (const void *const *)(const void *)&sli_ops_cpu,
                      *const *any = (const void *const *)(const void *)&sli_ops_any;
    for (size_t i = 1; i < sizeof(sl_ops) / sizeof(void *); i++)
        assert_true(cpu[i] == NULL || any[i] != NULL);
    end(&f);
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

static sl_status choose(const char *ini, const char *only_cpu, sli_device_choice *out, sl_error *err) {
    sli_config *config = NULL;
    if (sli_config_load_text(ini, strlen(ini), "run.ini", getenv("SLUICE_SOURCE"), NULL, 0, &config, err) < 0)
        fail_msg("%s: %s", ini, err->text);
    sl_status s = sli_choose_device(config, only_cpu, out, err);
    sli_config_free(config);
    return s;
}

static void what_decides(void **state) {
    (void)state;
    static const struct {
        const char *more, *only_cpu, *why; /* NULL: the GPU */
    } cases[] = {
        {"", NULL, NULL},
        {"compute = bf16\n", NULL, NULL},
        {"[speculation]\nplugin = token_recycling\n", NULL, NULL},
        {"[quant]\nplugin = rtn\n", NULL, NULL},
        {"compute = f32\n", NULL, "engine.compute = f32"},
        {"", "calibration", "calibration runs on the CPU only"},
        {"[attention]\nplugin = quest\n", NULL, "[attention] quest runs on the CPU only"},
        {"[attention.layers 1]\nplugin = quest\n", NULL, "[attention.layers 1] quest runs on the CPU only"},
        {"[kvcache.policy]\nplugin = h2o\n", NULL, NULL},
        {"[kvcache.prompt]\nplugin = gemfilter\n", NULL, "prompt transformers"},
        {"[quant.rewrite]\nplugin = hadamard\n", NULL, "in another basis"},
        {"[draft.model]\npath = .\n", NULL, "[draft.model]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int wanted = 0; wanted < 3; wanted++) {
            static const char *const devices[] = {"auto", "cpu", "cuda"};
            char ini[512];
            SL_ERROR(err);
            sli_device_choice chosen;
            snprintf(ini, sizeof ini, "[engine]\ndevice = %s\n%s", devices[wanted], cases[i].more);
            sl_status s = choose(ini, cases[i].only_cpu, &chosen, &err);
            int gpu = cases[i].why == NULL;
            if (wanted == 1) {
                assert_int_equal(s, SL_OK);
                assert_null(chosen.device);
                assert_string_equal(chosen.reason, "");
            } else if (wanted == 2 && !gpu) {
                assert_int_equal(s, SL_E_UNIMPLEMENTED);
                assert_non_null(strstr(err.text, "engine.device = cuda: "));
                assert_non_null(strstr(err.text, cases[i].why));
            } else {
                if (s < 0)
                    fail_msg("%s: %s", ini, err.text);
                if (!gpu && strstr(chosen.reason, cases[i].why) == NULL)
                    fail_msg("%s: \"%s\"", ini, chosen.reason);
                assert_int_equal(chosen.device != NULL, gpu);
                sli_device_close(chosen.device);
            }
        }
}

/* What a plugin refuses on a GPU only when it is asked: auto goes on to the CPU, cuda says why not. */
static void refused_on_the_gpu(void **state) {
    (void)state;
    char model[1024];
    snprintf(model, sizeof model, "model.path=%s/models/tiny", getenv("SLUICE_SOURCE"));
    const char *sets[] = {model, "attention.plugin=tidaldecode", "engine.deterministic=yes", "engine.device=auto"};
    sluice_options options = {.sets = sets, .n_sets = 4};
    sluice_engine *e = NULL;
    sluice_error error;
    sluice_info info;
    if (sluice_open(&options, &e, &error) < 0)
        fail_msg("%s", error.text);
    sluice_get_info(e, &info);
    assert_string_equal(info.device, "cpu");
    assert_non_null(strstr(info.device_reason, "tidaldecode"));
    assert_non_null(strstr(info.device_reason, "engine.deterministic"));
    sluice_close(e);
    sli_ledger_device_report gpu;
    sli_ledger_read_device(SLI_LEDGER_DEVICE, &gpu);
    assert_int_equal(gpu.total, 0);
    sets[3] = "engine.device=cuda";
    assert_true(sluice_open(&options, &e, &error) < 0);
    assert_non_null(strstr(error.text, "engine.deterministic"));
    sets[3] = "engine.device=cpu";
    assert_int_equal(sluice_open(&options, &e, &error), SLUICE_OK);
    sluice_get_info(e, &info);
    assert_string_equal(info.device_reason, "");
    sluice_close(e);
}

static void no_gpu_is_a_reason(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_device_choice chosen;
    setenv("FAKE_CUDA", "none", 1);
    assert_int_equal(choose("[engine]\ndevice = auto\n", NULL, &chosen, &err), SL_OK);
    assert_null(chosen.device);
    assert_string_equal(chosen.reason, "no GPU is in this machine (fake)");
    assert_int_equal(choose("[engine]\ndevice = cuda\n", NULL, &chosen, &err), SL_E_NOT_FOUND);
    assert_string_equal(err.text, "engine.device = cuda: no GPU is in this machine (fake)");
    unsetenv("FAKE_CUDA");
}

static void memory_cap_reaches_the_module(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_device_choice chosen;
    assert_int_equal(choose("[engine]\ndevice = cuda\ngpu_memory = 2\n", NULL, &chosen, &err), SL_OK);
    const sli_device *d = chosen.device;
    assert_null(d->api->alloc(d->cuda, SL_DEVICE_CUDA, (2 << 20) + 1, 64, SL_MEM_PLUGIN));
    void *p = d->api->alloc(d->cuda, SL_DEVICE_CUDA, 2 << 20, 64, SL_MEM_PLUGIN);
    assert_non_null(p);
    d->api->release(d->cuda, SL_DEVICE_CUDA, p);
    sli_device_close(chosen.device);
}

static void capabilities_follow(void **state) {
    (void)state;
    const char *caps[SLI_MAX_CAPABILITIES];
    sli_host_capabilities_with(0, caps);
    assert_false(sli_match_has(NULL, 0, caps, 0, "sl.ops.device/1"));
    assert_false(sli_match_has(NULL, 0, caps, 0, "sl.model.draft/1"));
    assert_true(sli_match_has(NULL, 0, caps, 0, "sl.mem/1"));
    sli_host_capabilities_with(SLI_OFFERS_DEVICE | SLI_OFFERS_SDPA, caps);
    assert_true(sli_match_has(NULL, 0, caps, 0, "sl.ops.device/1"));
    assert_true(sli_match_has(NULL, 0, caps, 0, "sl.sdpa/1"));
    assert_false(sli_match_has(NULL, 0, caps, 0, "sl.model.draft/1"));
}

/* First of all, while no module is open. */
static void a_module_that_is_not_there(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_cuda_options options = {.ordinal = 0};
    sli_device *d = NULL;
    char *real = strdup(getenv("SLUICE_CUDA_MODULE"));
    assert_null(sli_device_module());
    setenv("SLUICE_CUDA_MODULE", "no/such/module.so", 1);
    assert_int_equal(sli_device_open(&options, &d, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "no/such/module.so"));
    setenv("SLUICE_CUDA_MODULE", getenv("SLUICE_NO_MODULE"), 1); /* a library, of something else */
    assert_int_equal(sli_device_open(&options, &d, &err), SL_E_IO);
    assert_non_null(strstr(err.text, "does not export"));
    setenv("SLUICE_CUDA_MODULE", real, 1);
    free(real);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_module_that_is_not_there),
        cmocka_unit_test(opens_and_describes),
        cmocka_unit_test(memory_is_counted_apart),
        cmocka_unit_test(limits_and_faults_hold_there_too),
        cmocka_unit_test(scratch_of_the_device),
        cmocka_unit_test(lanes_lead_to_their_device),
        cmocka_unit_test(operations_go_by_lane_and_target),
        cmocka_unit_test(what_decides),
        cmocka_unit_test(refused_on_the_gpu),
        cmocka_unit_test(no_gpu_is_a_reason),
        cmocka_unit_test(memory_cap_reaches_the_module),
        cmocka_unit_test(capabilities_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
