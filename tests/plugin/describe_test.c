/* Descriptions as JSON, and what becomes of packages that crash, hang or end the process while they are scanned. */
#include "sl_test.h"

#include <limits.h>
#include <time.h>

#include "base/ledger.h"
#include "plugin/describe.h"
#include "plugin/loader.h"

static const char *packages;

static char *package(const char *name) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.so", packages, name);
    return path;
}

static const char *text_of(json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static void describes_a_package_in_a_child(void **state) {
    (void)state;
    json_t *all = NULL;
    assert_int_equal(sli_plugins_describe_child(package("attention_good"), 0, &all, NULL), SL_OK);
    assert_int_equal(json_array_size(all), 1);
    json_t *d = json_array_get(all, 0);
    assert_string_equal(text_of(d, "id"), "good");
    assert_string_equal(text_of(d, "version"), "1.2.3");
    assert_string_equal(text_of(d, "summary"), "does what \"attention\" does, for tests");
    assert_string_equal(text_of(d, "abi"), "0.1");
    assert_string_equal(text_of(d, "license"), "Apache-2.0");
    assert_string_equal(text_of(d, "path"), package("attention_good"));
    assert_true(json_is_null(json_object_get(d, "paper")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(d, "roles"), 0)), "attention");
    assert_string_equal(json_string_value(json_array_get(json_object_get(d, "needs"), 0)), "sl.mem/1");
    assert_string_equal(json_string_value(json_array_get(json_object_get(d, "provides"), 0)), "org.example.sample/1");
    assert_int_equal(json_array_size(json_object_get(d, "wants")), 0);
    assert_int_equal(json_array_size(json_object_get(d, "devices")), 1);
    json_t *params = json_object_get(d, "params"), *mode = json_array_get(params, 0),
           *budget = json_array_get(params, 1);
    assert_int_equal(json_array_size(params), 2);
    assert_string_equal(text_of(mode, "type"), "enum");
    assert_int_equal(json_array_size(json_object_get(mode, "choices")), 6);
    assert_true(json_is_null(json_object_get(mode, "min")));
    assert_string_equal(text_of(budget, "name"), "budget");
    assert_string_equal(text_of(budget, "type"), "int");
    assert_string_equal(text_of(budget, "default"), "64");
    assert_true(json_number_value(json_object_get(budget, "min")) == 1);
    assert_true(json_number_value(json_object_get(budget, "max")) == 4096);
    assert_true(json_is_true(json_object_get(budget, "expert")));
    assert_true(json_is_false(json_object_get(budget, "required")));
    json_decref(all);
    /* Nothing was opened here. */
    assert_null(sli_packages_open());
}

static void reports_how_a_child_ended(void **state) {
    (void)state;
    static const struct {
        const char *file, *says;
        sl_status code;
    } cases[] = {
        {"attention_crash", "package crashed with signal 11", SL_E_DATA},
        {"attention_exit", "ended the process (exit status 3)", SL_E_DATA},
        {"attention_hang", "did not answer within 0.3 s", SL_E_DATA},
        {"attention_magic", "magic is 0x12345678", SL_E_VERSION},
        {"attention_text", "cannot be opened", SL_E_IO},
        {"attention_missing", "No such file", SL_E_NOT_FOUND},
    };
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *out = NULL;
        SL_ERROR(err);
        int ms = strstr(cases[i].file, "hang") != NULL ? 300 : 0;
        sl_status s = sli_plugins_describe_child(package(cases[i].file), ms, &out, &err);
        if (s != cases[i].code || strstr(err_text_, cases[i].says) == NULL || strstr(err_text_, cases[i].file) == NULL)
            fail_msg("%s: status %d, message: %s", cases[i].file, s, err_text_);
        assert_null(out);
    }
    sli_ledger_read(&after);
    assert_int_equal(after.total, before.total);
}

static void finds_who_provides_a_capability(void **state) {
    (void)state;
    const char *dirs[] = {packages}; /* crashing and hanging ones are in there, too, behind the good one or before it */
    const sli_search search = {.dirs = dirs, .n_dirs = 1, .base_dir = "/nonexistent"};
    sli_provider_search user = {.search = &search};
    const char *who = sli_provider_scan(&user, "org.example.sample/1");
    assert_non_null(who);
    assert_non_null(strstr(who, "("));
    assert_non_null(strstr(who, packages));
}

static void shows_texts_that_are_not_utf8(void **state) {
    (void)state;
    static const char *const roles[] = {"quant", NULL};
    const sl_plugin odd = {.struct_size = SL_SIZE(sl_plugin),
                           .id = "odd",
                           .roles = roles,
                           .summary = "caf\xe9",
                           .devices = SL_ON_CPU | SL_ON_CUDA};
    json_t *d = sli_plugin_json(&odd, "0.1", "x.so");
    assert_string_equal(text_of(d, "summary"), "caf?");
    assert_int_equal(json_array_size(json_object_get(d, "devices")), 2);
    assert_int_equal(json_array_size(json_object_get(d, "params")), 0);
    json_decref(d);
}

int main(void) {
    packages = getenv("SLUICE_PACKAGES");
    if (packages == NULL)
        return fprintf(stderr, "SLUICE_PACKAGES is not set\n"), 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(describes_a_package_in_a_child),
        cmocka_unit_test(reports_how_a_child_ended),
        cmocka_unit_test(finds_who_provides_a_capability),
        cmocka_unit_test(shows_texts_that_are_not_utf8),
    };
    return cmocka_run_group_tests_name("describe", tests, NULL, NULL);
}
