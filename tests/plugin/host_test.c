/* Services of the host: memory and its ledger tags, scratch, threads, exec on the CPU lane, metrics, logs, faults. */
#include "sl_test.h"

#include "base/ledger.h"
#include "plugin/plugin_host.h"
#include "sl_host_util.h"
#include "sluice/ops.h"

typedef struct fixture {
    sli_pool *pool;
    sli_host_context *context;
    sl_host *host;
    char log[4096];
    int lines;
} fixture;

static void keep_line(void *user, uint32_t level, const char *who, const char *text) {
    fixture *f = user;
    f->lines++;
    snprintf(f->log, sizeof f->log, "%u %s: %s", level, who, text);
}

static void begin(fixture *f, int validate) {
    memset(f, 0, sizeof *f);
    assert_int_equal(sli_pool_create(3, &f->pool, NULL), SL_OK);
    sli_host_options options = {.pool = f->pool,
                                .isa = SL_ISA_AVX2,
                                .validate = validate,
                                .log = keep_line,
                                .log_user = f,
                                .min_level = SL_LOG_INFO,
                                .engine = f};
    assert_int_equal(sli_host_context_create(&options, &f->context, NULL), SL_OK);
    assert_int_equal(sli_host_create(f->context, "sample", &f->lines, &f->host, NULL), SL_OK);
}

static void end(fixture *f) {
    sli_host_destroy(f->host);
    sli_host_context_destroy(f->context);
    sli_pool_destroy(f->pool);
}

static sli_host_faults faults(const fixture *f) {
    sli_host_faults out;
    sli_host_read_faults(f->context, &out);
    return out;
}

static void memory_is_counted_by_tag(void **state) {
    (void)state;
    for (int validate = 0; validate < 2; validate++) {
        fixture f;
        begin(&f, validate);
        const sl_mem *mem = sl_host_service(f.host, SL_MEM_ID, SL_SIZE(sl_mem));
        sli_ledger_report before, during, after;
        sli_ledger_read(&before);
        void *p[200];
        for (int i = 0; i < 200; i++) {
            p[i] = mem->alloc(f.host, SL_DEVICE_CPU, 1000, 1 << (i % 13), SL_MEM_KV);
            assert_non_null(p[i]);
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            assert_int_equal((uintptr_t)p[i] % (1u << (i % 13)), 0);
            for (int j = 0; j < 1000; j++)
                assert_int_equal(((char *)p[i])[j], 0);
            memset(p[i], i, 1000);
        }
        assert_int_equal(sli_host_bytes(f.host), 200000);
        sli_ledger_read(&during);
        if (!validate) { /* alignments up to 64 cost nothing, larger ones their slack */
            int64_t slack = 0;
            for (int i = 0; i < 200; i++)
                slack += (1 << (i % 13)) > 64 ? (1 << (i % 13)) - 64 : 0;
            assert_int_equal(during.now[SLI_TAG_KV] - before.now[SLI_TAG_KV], 200000 + slack);
        }
        for (int i = 199; i >= 0; i--)
            mem->release(f.host, SL_DEVICE_CPU, p[i]);
        sli_ledger_read(&after);
        assert_int_equal(after.now[SLI_TAG_KV], before.now[SLI_TAG_KV]);
        assert_int_equal(sli_host_bytes(f.host), 0);
        mem->release(f.host, SL_DEVICE_CPU, NULL);
        assert_int_equal(f.lines, 0);
        end(&f);
    }
}

static void memory_mistakes_are_survived_and_told(void **state) {
    (void)state;
    fixture f;
    begin(&f, 1);
    const sl_mem *mem = sl_host_service(f.host, SL_MEM_ID, SL_SIZE(sl_mem));
    assert_null(mem->alloc(f.host, SL_DEVICE_CUDA, 10, 64, SL_MEM_KV));
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, -1, 64, SL_MEM_KV));
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, 10, 96, SL_MEM_KV));
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, 10, 8192, SL_MEM_KV));
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, 10, 64, SL_MEM_KV_HOST + 1));
    assert_null(mem->alloc(f.host, SL_DEVICE_CPU, INT64_MAX, 4096, SL_MEM_KV));
    assert_int_equal(faults(&f).wrong_state, 4);
    int local;
    mem->release(f.host, SL_DEVICE_CPU, &local);
    assert_int_equal(faults(&f).bad_pointers, 1);
    assert_non_null(strstr(f.log, "4 sample: released"));

    char *p = mem->alloc(f.host, SL_DEVICE_CPU, 50, 64, SL_MEM_PLUGIN);
    p[50] = 1;
    mem->release(f.host, SL_DEVICE_CPU, p);
    assert_int_equal(faults(&f).overruns, 1);
    assert_non_null(strstr(f.log, "behind a block of 50 bytes"));

    /* In a step: served, counted, told once. */
    sli_host_step_begin(f.context);
    int before = f.lines;
    p = mem->alloc(f.host, SL_DEVICE_CPU, 50, 64, SL_MEM_PLUGIN);
    char *q = mem->alloc(f.host, SL_DEVICE_CPU, 50, 64, SL_MEM_PLUGIN);
    assert_true(p != NULL && q != NULL);
    sli_host_step_end(f.context);
    assert_int_equal(faults(&f).allocs_in_step, 2);
    assert_int_equal(f.lines, before + 1);

    sli_ledger_report held, gone;
    sli_ledger_read(&held);
    sli_host_destroy(f.host); /* leaves p and q */
    f.host = NULL;
    sli_ledger_read(&gone);
    assert_true(held.now[SLI_TAG_PLUGIN] - gone.now[SLI_TAG_PLUGIN] >= 100);
    assert_int_equal(faults(&f).leaks, 1);
    assert_non_null(strstr(f.log, "left 2 blocks with 100 bytes behind"));
    end(&f);
}

static void memory_runs_out_cleanly(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_mem *mem = sl_host_service(f.host, SL_MEM_ID, SL_SIZE(sl_mem));
    static const int after[] = {0, 1, 1}; /* the table; the table is made, the record; there is a table, the block */
    for (int i = 0; i < 3; i++) {
        sli_ledger_fail_after(after[i]);
        assert_null(mem->alloc(f.host, SL_DEVICE_CPU, 100, 64, SL_MEM_KV));
        sli_ledger_fail_after(-1);
        assert_int_equal(sli_host_bytes(f.host), 0);
    }
    /* the limit of the cache is for its first tier */
    sli_host_context *context = NULL;
    sli_host_options options = {.pool = f.pool, .kv_limit = 1000};
    sl_host *limited = NULL;
    sli_ledger_report before, during;
    assert_int_equal(sli_host_context_create(&options, &context, NULL), SL_OK);
    assert_int_equal(sli_host_create(context, "limited", NULL, &limited, NULL), SL_OK);
    sli_ledger_read(&before);
    assert_null(mem->alloc(limited, SL_DEVICE_CPU, 1001, 64, SL_MEM_KV));
    void *far = mem->alloc(limited, SL_DEVICE_HOST_PINNED, 5000, 64, SL_MEM_KV_HOST);
    void *near = mem->alloc(limited, SL_DEVICE_CPU, 1000, 64, SL_MEM_KV);
    assert_true(far != NULL && near != NULL);
    sli_ledger_read(&during);
    assert_int_equal(during.now[SLI_TAG_KV] - before.now[SLI_TAG_KV], 1000);
    assert_int_equal(during.now[SLI_TAG_KV_HOST] - before.now[SLI_TAG_KV_HOST], 5000);
    mem->release(limited, SL_DEVICE_HOST_PINNED, far);
    mem->release(limited, SL_DEVICE_CPU, near);
    sli_host_destroy(limited);
    sli_host_context_destroy(context);
    end(&f);
    context = NULL;
    sli_ledger_fail_after(0);
    assert_int_equal(sli_host_context_create(&options, &context, NULL), SL_E_NO_MEMORY);
    sli_ledger_fail_after(-1);
}

static void note_worker(void *user, int64_t first, int64_t last, int32_t worker) {
    const sl_host *host = user;
    const sl_scratch *scratch = host->query(host, SL_SCRATCH_ID);
    memset(scratch->worker(host, worker), worker, 200);
    (void)first, (void)last;
}

static void scratch_grows_at_activate_only(void **state) {
    (void)state;
    fixture f;
    begin(&f, 1);
    const sl_scratch *scratch = sl_host_service(f.host, SL_SCRATCH_ID, SL_SIZE(sl_scratch));
    const sl_threads *threads = sl_host_service(f.host, SL_THREADS_ID, SL_SIZE(sl_threads));
    assert_null(scratch->get(f.host, SL_DEVICE_CPU));
    assert_null(scratch->worker(f.host, 0));
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 10, 10), SL_E_STATE);
    assert_int_equal(faults(&f).wrong_state, 1);
    sli_host_set_activating(f.host, 1);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CUDA, 10, 10), SL_E_UNIMPLEMENTED);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, -1, 10), SL_E_INVALID);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, INT64_MAX - 10, 0), SL_E_INVALID);
    sli_ledger_fail_after(0);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 1000, 0), SL_E_NO_MEMORY);
    sli_ledger_fail_after(-1);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 0, INT64_MAX / 2), SL_E_NO_MEMORY);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 1000, 200), SL_OK);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 500, 100), SL_OK); /* the largest need counts */
    sli_host_set_activating(f.host, 0);

    unsigned char *shared = scratch->get(f.host, SL_DEVICE_CPU);
    assert_int_equal((uintptr_t)shared % 64, 0);
    memset(shared, 0, 1000);
    assert_int_equal(threads->n_workers(f.host), 3);
    threads->parallel_for(f.host, 3, 1, note_worker, f.host);
    for (int w = 0; w < 3; w++) {
        unsigned char *own = scratch->worker(f.host, w);
        assert_int_equal((uintptr_t)own % 64, 0);
        for (int i = 0; i < 200; i++)
            assert_int_equal(own[i], w);
    }
    assert_null(scratch->worker(f.host, 3));
    assert_null(scratch->worker(f.host, -1));
    /* A second host of the context shares the block; a checking host spoils it for the next one. */
    sl_host *other;
    assert_int_equal(sli_host_create(f.context, "other", NULL, &other, NULL), SL_OK);
    float spoilt;
    memset(shared, 0, 1000);
    assert_ptr_equal(scratch->get(f.host, SL_DEVICE_CPU), shared);
    assert_int_equal(shared[999], 0);
    assert_ptr_equal(scratch->get(other, SL_DEVICE_CPU), shared); /* its turn */
    assert_int_equal(shared[999], 0xff);
    sli_host_destroy(other);
    memset(shared, 0, 1000);
    sli_host_before_call(f.context);
    memcpy(&spoilt, shared + 996, sizeof spoilt);
    assert_true(isnan(spoilt));
    memcpy(&spoilt, (unsigned char *)scratch->worker(f.host, 2) + 196, sizeof spoilt);
    assert_true(isnan(spoilt));
    end(&f);
}

static void nest(void *user, int64_t first, int64_t last, int32_t worker) {
    const sl_host *host = user;
    (void)first, (void)last, (void)worker;
    if (first == 0)
        sli_pool_parallel_for(sli_host_pool(host), 1, 1, note_worker, user);
}

static void threads_and_cpu(void **state) {
    (void)state;
    fixture f;
    begin(&f, 1);
    const sl_threads *threads = sl_host_service(f.host, SL_THREADS_ID, SL_SIZE(sl_threads));
    const sl_cpu *cpu = sl_host_service(f.host, SL_CPU_ID, SL_SIZE(sl_cpu));
    const sl_scratch *scratch = sl_host_service(f.host, SL_SCRATCH_ID, SL_SIZE(sl_scratch));
    assert_int_equal(cpu->isa(f.host), SL_ISA_AVX2);
    sli_host_set_activating(f.host, 1);
    assert_int_equal(scratch->reserve(f.host, SL_DEVICE_CPU, 0, 200), SL_OK);
    threads->parallel_for(f.host, 3, 1, nest, f.host);
    assert_int_equal(faults(&f).wrong_state, 1);
    assert_non_null(strstr(f.log, "parallel_for was called inside parallel_for"));
    end(&f);
}

static void copies_and_events_on_the_cpu_lane(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_exec *exec = sl_host_service(f.host, SL_EXEC_ID, SL_SIZE(sl_exec));
    const sl_lane *lane = exec->lane(f.host, SL_DEVICE_CPU, 0);
    assert_non_null(lane);
    assert_int_equal(lane->device, SL_DEVICE_CPU);
    assert_ptr_not_equal(exec->lane(f.host, SL_DEVICE_CPU, 1), lane);
    assert_null(exec->lane(f.host, SL_DEVICE_CUDA, 0));
    assert_null(exec->lane(f.host, SL_DEVICE_CPU, -1));
    assert_null(exec->lane(f.host, SL_DEVICE_CPU, 1000));
    char a[8] = "abcdefg", b[8];
    assert_int_equal(exec->copy(lane, b, a, 8), SL_OK);
    assert_string_equal(b, "abcdefg");
    assert_int_equal(exec->fill(lane, b, 'x', 3), SL_OK);
    assert_string_equal(b, "xxxdefg");
    assert_int_equal(exec->copy(lane, b, a, -1), SL_E_INVALID);
    assert_int_equal(exec->copy(lane, NULL, a, 1), SL_E_INVALID);
    assert_int_equal(exec->fill(lane, b, 0, -1), SL_E_INVALID);
    sl_event_impl *event = NULL;
    assert_int_equal(exec->event_create(f.host, lane, &event), SL_OK);
    assert_int_equal(exec->record(lane, event), SL_OK);
    assert_int_equal(exec->wait(lane, event), SL_OK);
    assert_int_equal(exec->sync(lane, NULL), SL_OK);
    exec->event_destroy(f.host, event);
    SL_ERROR(err);
    const sl_image image = {.struct_size = SL_SIZE(sl_image), .name = "attend"};
    sl_image_impl *loaded = NULL;
    sl_tensor_map map;
    assert_int_equal(exec->image_load(f.host, lane, &image, &loaded, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err_text_, "image attend: this lane is a CPU"));
    assert_int_equal(exec->function(f.host, NULL, "k", 8, 0, 0, NULL, &err), SL_E_UNIMPLEMENTED);
    assert_int_equal(exec->launch(lane, NULL, NULL), SL_E_UNIMPLEMENTED);
    assert_int_equal(exec->tensor_map(f.host, lane, NULL, NULL, 0, &map, &err), SL_E_UNIMPLEMENTED);
    end(&f);
}

/* A stand-in for the engine's operations: a plain matrix product. */
static sl_status plain_gemm(const sl_host *host, const sl_op_gemm *args) {
    fixture *f = sli_host_engine(host);
    f->lines += 100;
    const float *x = args->x->data, *w = args->w->data;
    float *y = args->y->data;
    for (int64_t t = 0; t < args->x->shape[0]; t++)
        for (int64_t n = 0; n < args->w->shape[0]; n++) {
            float sum = args->bias != NULL ? ((const float *)args->bias->data)[n] : 0;
            for (int64_t k = 0; k < args->w->shape[1]; k++)
                sum += x[t * args->x->stride[0] + k] * w[n * args->w->stride[0] + k];
            y[t * args->y->stride[0] + n] = sum;
        }
    return SL_OK;
}

static void products_go_through_the_operations(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_exec *exec = sl_host_service(f.host, SL_EXEC_ID, SL_SIZE(sl_exec));
    const sl_lane *lane = exec->lane(f.host, SL_DEVICE_CPU, 0);
    sl_gemm_desc desc = {.struct_size = SL_SIZE(sl_gemm_desc),
                         .n = 2,
                         .k = 3,
                         .max_rows = 2,
                         .x_dtype = SL_F32,
                         .w_dtype = SL_F32,
                         .y_dtype = SL_F32,
                         .compute = SL_F32,
                         .epilogue = SL_EPILOGUE_BIAS};
    sl_gemm_impl *gemm = NULL;
    SL_ERROR(err);
    assert_int_equal(exec->gemm_create(f.host, lane, &desc, &gemm, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err_text_, "sl.ops/1"));
    static const sl_ops ops = {.struct_size = SL_SIZE(sl_ops), .gemm = plain_gemm};
    assert_int_equal(sli_host_provide(f.context, SL_OPS_ID, &ops, NULL), SL_OK);
    assert_int_equal(exec->gemm_create(f.host, lane, &desc, &gemm, &err), SL_OK);
    const float x[] = {1, 2, 3, 9, 4, 5, 6, 9}, w[] = {1, 0, 0, 0, 1, 1}, bias[] = {10, 20};
    float y[4];
    sl_gemm_run run = {
        .struct_size = SL_SIZE(sl_gemm_run), .x = x, .w = w, .y = y, .bias = bias, .rows = 2, .ldx = 4, .ldy = 2};
    assert_int_equal(exec->gemm(lane, gemm, &run), SL_OK);
    assert_true(y[0] == 11 && y[1] == 25 && y[2] == 14 && y[3] == 31);
    run.rows = 3;
    assert_int_equal(exec->gemm(lane, gemm, &run), SL_E_RANGE);
    run.rows = 2, run.bias = NULL;
    assert_int_equal(exec->gemm(lane, gemm, &run), SL_E_INVALID);
    exec->gemm_destroy(f.host, gemm);
    desc.x_dtype = SL_BF16;
    assert_int_equal(exec->gemm_create(f.host, lane, &desc, &gemm, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err_text_, "x is BF16"));
    end(&f);
}

static void services_of_the_engine(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    static const sl_rng table = {.struct_size = SL_SIZE(sl_rng)};
    assert_null(f.host->query(f.host, SL_RNG_ID));
    assert_int_equal(sli_host_provide(f.context, SL_RNG_ID, &table, NULL), SL_OK);
    assert_ptr_equal(f.host->query(f.host, SL_RNG_ID), &table);
    assert_null(sl_host_service(f.host, SL_RNG_ID, SL_SIZE(sl_rng) + 8)); /* too old for who asks */
    SL_ERROR(err);
    assert_int_equal(sli_host_provide(f.context, SL_RNG_ID, &table, &err), SL_E_INVALID);
    assert_int_equal(sli_host_provide(f.context, SL_MEM_ID, &table, &err), SL_E_INVALID);
    const void *out;
    assert_int_equal(sl_host_require(f.host, "sample", "org.example/1", 8, &out, &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err_text_, "sample: this host does not offer org.example/1"));
    assert_int_equal(sl_host_require(f.host, "sample", SL_RNG_ID, 8, &out, &err), SL_OK);
    assert_ptr_equal(sli_host_engine(f.host), &f);
    assert_ptr_equal(sli_host_user(f.host), &f.lines);
    assert_string_equal(sli_host_id(f.host), "sample");
    assert_int_equal(f.host->abi_minor, SL_ABI_MINOR);
    end(&f);
}

static void metrics_and_logs(void **state) {
    (void)state;
    fixture f;
    begin(&f, 0);
    const sl_metrics *metrics = sl_host_service(f.host, SL_METRICS_ID, SL_SIZE(sl_metrics));
    sl_host *second, *other;
    assert_int_equal(sli_host_create(f.context, "sample", NULL, &second, NULL), SL_OK);
    assert_int_equal(sli_host_create(f.context, "other", NULL, &other, NULL), SL_OK);
    char same_text[] = "hits"; /* equal by text, not by address */
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    metrics->add(f.host, "hits", 2);
    metrics->add(second, same_text, 3);
    metrics->add(other, "hits", 10);
    metrics->add(f.host, "misses", 1);
    sli_ledger_read(&after);
    assert_int_equal(after.allocations, before.allocations);
    sli_host_destroy(second);
    sli_host_destroy(other);
    const char *who, *name;
    double value;
    assert_int_equal(sli_host_metric(f.context, 0, &who, &name, &value), 1);
    assert_true(strcmp(who, "sample") == 0 && strcmp(name, "hits") == 0 && value == 5);
    assert_int_equal(sli_host_metric(f.context, 1, &who, &name, &value), 1);
    assert_true(strcmp(who, "other") == 0 && value == 10);
    assert_int_equal(sli_host_metric(f.context, 3, &who, &name, &value), 0);
    sli_host_reset_metrics(f.context);
    sli_host_metric(f.context, 0, &who, &name, &value);
    assert_true(value == 0);
    static char names[400][16];
    for (int i = 0; i < 400; i++) {
        snprintf(names[i], sizeof names[i], "m%d", i);
        metrics->add(f.host, names[i], 1);
    }
    assert_int_equal(faults(&f).metrics_dropped, 400 + 3 - 256);
    assert_int_equal(f.lines, 1);

    sl_logf(f.host, SL_LOG_WARNING, "%d of %s", 3, "five");
    assert_string_equal(f.log, "2 sample: 3 of five");
    sl_logf(f.host, SL_LOG_DEBUG, "quiet"); /* below min_level */
    assert_string_equal(f.log, "2 sample: 3 of five");
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_counted_by_tag),
        cmocka_unit_test(memory_mistakes_are_survived_and_told),
        cmocka_unit_test(memory_runs_out_cleanly),
        cmocka_unit_test(scratch_grows_at_activate_only),
        cmocka_unit_test(threads_and_cpu),
        cmocka_unit_test(copies_and_events_on_the_cpu_lane),
        cmocka_unit_test(products_go_through_the_operations),
        cmocka_unit_test(services_of_the_engine),
        cmocka_unit_test(metrics_and_logs),
    };
    return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
