/* The life of an instance, with a real package: order, messages, clean-up after each failure, what a checking host
 * sees. */
#include "sl_test.h"

#include <limits.h>

#include "base/ledger.h"
#include "plugin/instance.h"
#include "plugin/loader.h"
#include "sluice/attention.h"

/* In the order of the sample package's choices. */
enum { MODE_PLAIN, MODE_LEAK, MODE_OVERRUN, MODE_FAIL_CREATE, MODE_FAIL_ACTIVATE, MODE_KEEP };

static sli_pool *pool;
static sli_host_context *context;
static char last_line[512];
static int lines;

static void keep_line(void *user, uint32_t level, const char *who, const char *text) {
    (void)user;
    lines += level == SL_LOG_PLUGIN_MISBEHAVED;
    if (level == SL_LOG_PLUGIN_MISBEHAVED)
        snprintf(last_line, sizeof last_line, "%s: %s", who, text);
}

static int begin(void **state) {
    (void)state;
    last_line[0] = '\0', lines = 0;
    sli_pool_create(2, &pool, NULL);
    sli_host_options options = {.pool = pool, .validate = 1, .log = keep_line};
    return sli_host_context_create(&options, &context, NULL);
}

static int end(void **state) {
    (void)state;
    sli_host_context_destroy(context);
    sli_pool_destroy(pool);
    return 0;
}

static const sl_plugin *plugin(const char *file) {
    char path[PATH_MAX];
    sli_plugin found;
    SL_ERROR(err);
    snprintf(path, sizeof path, "%s/%s.so", getenv("SLUICE_PACKAGES"), file);
    if (sli_plugin_open(NULL, "attention", path, &found, &err) < 0)
        fail_msg("%s", err_text_);
    return found.plugin;
}

static sl_status create(const sl_plugin *p, int mode, sli_instance **out, sl_error *err) {
    const sl_param_value value = {.struct_size = SL_SIZE(sl_param_value), .name = "mode", .integer = mode, .is_set = 1};
    const sl_param_value *const values[] = {&value};
    const sl_params params = {SL_SIZE(sl_params), values, 1};
    const uint32_t stages[1] = {SL_STAGE_ALL};
    const sl_scope scope = {.struct_size = SL_SIZE(sl_scope),
                            .layer_stages = stages,
                            .n_layers = 1,
                            .role = "attention",
                            .section = "attention.decode"};
    return sli_instance_create(context, p, NULL, &params, &scope, &lines, out, err);
}

static const sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                                 .max_context = 100,
                                 .max_rows = 10,
                                 .max_seqs = 1,
                                 .max_tree = 1,
                                 .n_workers = 2,
                                 .compute = SL_F32};

static void lives_in_order(void **state) {
    (void)state;
    sli_instance *i = NULL;
    SL_ERROR(err);
    assert_int_equal(create(plugin("attention_good"), MODE_PLAIN, &i, &err), SL_OK);
    assert_ptr_equal(sli_host_user(i->host), &lines);
    const sl_attention *table = i->table;
    sl_attn_caps caps = {.struct_size = SL_SIZE(sl_attn_caps)};
    assert_int_equal(table->caps(i->self, 0, &caps), SL_OK);
    assert_int_equal(caps.flags, SL_ATTN_EXACT);
    sli_ledger_report idle, now;
    sli_ledger_read(&idle);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(sli_instance_activate(i, &limits, &err), SL_OK);
        assert_int_equal(i->active, 1);
        sli_ledger_read(&now);
        assert_true(now.now[SLI_TAG_KV] - idle.now[SLI_TAG_KV] >= 100);
        sli_instance_deactivate(i);
        sli_instance_deactivate(i); /* nothing to do */
        sli_ledger_read(&now);
        assert_int_equal(now.now[SLI_TAG_KV], idle.now[SLI_TAG_KV]);
    }
    const void *other;
    assert_null(sli_instance_table(i, "sl.select/1", 8));
    assert_ptr_equal(sli_instance_table(i, SL_ATTENTION_ID, 8), table);
    assert_null(sli_instance_table(i, SL_ATTENTION_ID, 1000));
    assert_int_equal(sli_instance_role(i, "quant", &other, &err), SL_E_INVALID);
    assert_int_equal(sli_instance_activate(i, &limits, &err), SL_OK);
    sli_instance_destroy(i); /* deactivates first */
    sli_instance_destroy(NULL);
    if (lines != 0)
        fail_msg("%s", last_line);
}

static void failures_leave_nothing_behind(void **state) {
    (void)state;
    sli_instance *i = NULL;
    SL_ERROR(err);
    const sl_plugin *good = plugin("attention_good"), *incomplete = plugin("attention_interface");
    assert_int_equal(create(good, MODE_PLAIN, &i, &err), SL_OK); /* the id is known from here on */
    sli_instance_destroy(i);
    i = NULL;
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    assert_int_equal(create(good, MODE_FAIL_CREATE, &i, &err), SL_E_DATA);
    assert_string_equal(err_text_, "[attention.decode] good: the artifact is for another model");
    for (int n = 0; n < 3; n++) {
        sli_ledger_fail_after(n);
        sl_status s = create(good, MODE_PLAIN, &i, &err);
        sli_ledger_fail_after(-1);
        assert_int_equal(s, SL_E_NO_MEMORY);
        assert_non_null(strstr(err_text_, "good"));
    }
    assert_null(i);
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);

    assert_int_equal(create(incomplete, MODE_PLAIN, &i, &err), SL_E_VERSION);
    assert_string_equal(err_text_,
                        "[attention.decode]: interface: the mandatory function caps of sl.attention/1 is NULL");
    assert_null(i);

    assert_int_equal(create(good, MODE_FAIL_ACTIVATE, &i, &err), SL_OK);
    assert_int_equal(sli_instance_activate(i, &limits, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err_text_, "good: activate failed: out of memory"));
    assert_int_equal(i->active, 0);
    sli_instance_destroy(i);
    assert_int_equal(lines, 0);
}

static void run_mode(int mode) {
    sli_instance *i = NULL;
    SL_ERROR(err);
    assert_int_equal(create(plugin("attention_good"), mode, &i, &err), SL_OK);
    assert_int_equal(sli_instance_activate(i, &limits, &err), SL_OK);
    sli_instance_destroy(i);
}

static void checking_host_sees_misbehaviour(void **state) {
    (void)state;
    sli_host_faults faults;
    run_mode(MODE_OVERRUN);
    sli_host_read_faults(context, &faults);
    assert_int_equal(faults.overruns, 1);
    assert_string_equal(last_line, "good: wrote 1 bytes behind a block of 100 bytes");
    run_mode(MODE_LEAK);
    sli_host_read_faults(context, &faults);
    assert_int_equal(faults.leaks, 2); /* kept by deactivate, left by destroy */
    run_mode(MODE_KEEP);
    sli_host_read_faults(context, &faults);
    assert_int_equal(faults.leaks, 4);
    assert_string_equal(last_line, "good: deactivate kept 100 bytes"); /* each kind is told once an instance */
    assert_int_equal(lines, 3);
}

int main(void) {
    if (getenv("SLUICE_PACKAGES") == NULL)
        return fprintf(stderr, "SLUICE_PACKAGES is not set\n"), 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lives_in_order, begin, end),
        cmocka_unit_test_setup_teardown(failures_leave_nothing_behind, begin, end),
        cmocka_unit_test_setup_teardown(checking_host_sees_misbehaviour, begin, end),
    };
    return cmocka_run_group_tests_name("instance", tests, NULL, NULL);
}
