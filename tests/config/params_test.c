/* Typed parameters: every kind of value, every kind of message. */
#include "sl_test.h"

#include "base/ledger.h"
#include "config/ini.h"
#include "config/near.h"
#include "config/params.h"

static const char *const modes[] = {"exact", "window", NULL};
#define DEF(id, type, fallback, min, max, flags)                                                                       \
    static const sl_param_def def_##id = {SL_SIZE(sl_param_def),                                                       \
                                          #id,                                                                         \
                                          "About " #id ".",                                                            \
                                          fallback,                                                                    \
                                          (type) == SL_PARAM_ENUM ? modes : NULL,                                      \
                                          min,                                                                         \
                                          max,                                                                         \
                                          type,                                                                        \
                                          flags}
DEF(token_budget, SL_PARAM_INT, "256", 1, 4096, 0);
DEF(wide, SL_PARAM_INT, NULL, 1, 0, 0);
DEF(ratio, SL_PARAM_FLOAT, "0.5", 0, 1, 0);
DEF(at_least, SL_PARAM_FLOAT, NULL, 2, (double)INFINITY, 0);
DEF(at_most, SL_PARAM_INT, NULL, -(double)INFINITY, 7, 0);
DEF(fuse, SL_PARAM_BOOL, "yes", 1, 0, 0);
DEF(mode, SL_PARAM_ENUM, "window", 1, 0, 0);
DEF(other_mode, SL_PARAM_ENUM, NULL, 1, 0, 0);
DEF(label, SL_PARAM_STRING, NULL, 1, 0, 0);
DEF(table, SL_PARAM_PATH, NULL, 1, 0, 0);
DEF(layers, SL_PARAM_INT_LIST, NULL, 0, 99, 0);
DEF(wide_layers, SL_PARAM_INT_LIST, NULL, 1, 0, 0);
DEF(scales, SL_PARAM_FLOAT_LIST, "1,2.5", 1, 0, 0);
static const sl_param_def *const defs[] = {
    &def_token_budget, &def_wide,  &def_ratio, &def_at_least, &def_at_most, &def_fuse,        &def_mode,
    &def_other_mode,   &def_label, &def_table, &def_layers,   &def_scales,  &def_wide_layers, NULL};
DEF(must, SL_PARAM_INT, NULL, 1, 0, SL_PARAM_REQUIRED);
static const sl_param_def *const needy[] = {&def_must, NULL};
static const char *const also[] = {"plugin", NULL};

/* Binds a text of keys, placed in [attention] of run.ini (so the first key is on line 2). */
static sl_status bind(const sl_param_def *const *d, const char *keys, sl_params **out, sl_error *err) {
    char text[2000];
    sli_ini ini = {0};
    snprintf(text, sizeof text, "[attention]\n%s", keys);
    sl_status s = sli_ini_parse(&ini, text, strlen(text), "run.ini", getenv("SLUICE_SOURCE"), SLI_FROM_FILE, err);
    if (s >= 0)
        s = sli_params_bind(d, sli_ini_find(&ini, "attention"), also, out, err);
    sli_ini_free(&ini); /* what was bound must not need it */
    return s;
}

static void defaults_apply(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_params *p = NULL;
    assert_int_equal(sli_params_bind(defs, NULL, NULL, &p, &err), SL_OK);
    assert_int_equal(p->n, 13);
    assert_int_equal(sli_param_int(p, "token_budget"), 256);
    assert_true(sli_param_real(p, "token_budget") == 256);
    assert_true(sli_param_real(p, "ratio") == 0.5);
    assert_true(sli_param_bool(p, "fuse"));
    assert_int_equal(sli_param_int(p, "mode"), 1);
    assert_int_equal(sli_param_int(p, "other_mode"), -1);
    assert_null(sli_param_text(p, "label"));
    assert_int_equal(sli_param_find(p, "wide")->is_set, 0);
    assert_int_equal(sli_param_find(p, "mode")->is_set, 1);
    assert_int_equal(sli_param_find(p, "mode")->is_given, 0);
    assert_int_equal(sli_param_find(p, "scales")->n, 2);
    assert_true(sli_param_find(p, "scales")->list[1] == 2.5);
    assert_null(sli_param_find(p, "nothing"));
    sli_params_free(p);
}

static void given_values_win(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_params *p = NULL;
    assert_int_equal(
        bind(defs,
             "plugin = x\ntoken_budget = 4096\nwide=-9223372036854775808\nratio=1e-1\nfuse = off\nmode=exact ; why\n"
             "label = two words # and more\ntable = VERSION\nlayers= 0, 3 ,5\nscales =\n",
             &p, &err),
        SL_OK);
    assert_int_equal(sli_param_int(p, "token_budget"), 4096);
    assert_true(sli_param_int(p, "wide") == INT64_MIN);
    assert_true(sli_param_real(p, "ratio") == 0.1);
    assert_false(sli_param_bool(p, "fuse"));
    assert_int_equal(sli_param_int(p, "mode"), 0);
    assert_string_equal(sli_param_text(p, "label"), "two words # and more");
    assert_int_equal(sli_param_find(p, "label")->is_given, 1);
    char path[2000];
    snprintf(path, sizeof path, "%s/VERSION", getenv("SLUICE_SOURCE"));
    assert_string_equal(sli_param_text(p, "table"), path);
    assert_int_equal(sli_param_find(p, "layers")->n, 3);
    assert_true(sli_param_find(p, "layers")->list[1] == 3);
    assert_int_equal(sli_param_find(p, "scales")->n, 0);
    assert_int_equal(sli_param_find(p, "scales")->is_set, 1);
    sli_params_free(p);
}

static void bool_words(void **state) {
    (void)state;
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++) {
        SL_ERROR(err);
        char keys[40];
        sl_params *p = NULL;
        snprintf(keys, sizeof keys, "fuse = %s", words[i]);
        assert_int_equal(bind(defs, keys, &p, &err), SL_OK);
        assert_int_equal(sli_param_bool(p, "fuse"), i & 1);
        sli_params_free(p);
    }
}

static const struct {
    const char *keys;
    sl_status code;
    const char *parts[4];
} wrong[] = {
    {"token_bugdet = 3",
     SL_E_INVALID,
     {"unknown key \"token_bugdet\" in [attention] (run.ini:2)", "did you mean \"token_budget\"?"}},
    {"plugn = x", SL_E_INVALID, {"unknown key \"plugn\"", "did you mean \"plugin\"?"}},
    {"zzzz = x", SL_E_INVALID, {"unknown key \"zzzz\" in [attention] (run.ini:2)"}},
    {"\n\ntoken_budget = 0",
     SL_E_RANGE,
     {"key \"token_budget\" in [attention] (run.ini:4)", "0 is out of range 1 to 4096"}},
    {"token_budget = 4097", SL_E_RANGE, {"out of range 1 to 4096"}},
    {"token_budget = 4k", SL_E_INVALID, {"(run.ini:2): expected a whole number, found \"4k\""}},
    {"token_budget = 1.5", SL_E_INVALID, {"expected a whole number"}},
    {"token_budget = 0x10", SL_E_INVALID, {"expected a whole number"}},
    {"token_budget = 5 # five", SL_E_INVALID, {"expected a whole number", "starts with \" ;\""}},
    {"token_budget =", SL_E_INVALID, {"expected a value of type int, found nothing"}},
    {"wide = 9223372036854775808", SL_E_INVALID, {"expected a whole number"}},
    {"ratio = 1.01", SL_E_RANGE, {"1.01 is out of range 0 to 1"}},
    {"ratio = nan", SL_E_INVALID, {"expected a number, found \"nan\""}},
    {"ratio = 1e999", SL_E_INVALID, {"expected a number"}},
    {"ratio = 1,5", SL_E_INVALID, {"expected a number"}},
    {"at_least = 1", SL_E_RANGE, {"must be 2 or more"}},
    {"at_most = 8", SL_E_RANGE, {"must be 7 or less"}},
    {"fuse = maybe", SL_E_INVALID, {"expected yes or no, found \"maybe\""}},
    {"mode = exakt", SL_E_INVALID, {"expected exact | window, found \"exakt\"", "did you mean \"exact\"?"}},
    {"table = no/such/file", SL_E_NOT_FOUND, {"key \"table\"", "run.ini:2", "no/such/file", "No such file"}},
    {"layers = 1,,2", SL_E_INVALID, {"element 2: expected a whole number, found \"\""}},
    {"layers = 1,2,", SL_E_INVALID, {"element 3"}},
    {"layers = 1,100", SL_E_RANGE, {"100 is out of range 0 to 99"}},
    {"wide_layers = 9007199254740993", SL_E_INVALID, {"element 1: expected a whole number"}},
    {"layers = 1 2", SL_E_INVALID, {"element 1", "\"1 2\""}},
    {"scales = 1,x", SL_E_INVALID, {"element 2: expected a number, found \"x\""}},
};

static void messages(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SL_ERROR(err);
        sl_params *p = NULL;
        assert_int_equal(bind(defs, wrong[i].keys, &p, &err), wrong[i].code);
        assert_int_equal(err.code, wrong[i].code);
        assert_null(p);
        for (int k = 0; k < 4 && wrong[i].parts[k] != NULL; k++)
            if (strstr(err.text, wrong[i].parts[k]) == NULL)
                fail_msg("\"%s\": expected \"%s\" in: %s", wrong[i].keys, wrong[i].parts[k], err.text);
    }
}

static void required_keys(void **state) {
    (void)state;
    SL_ERROR(err);
    sl_params *p = NULL;
    assert_int_equal(bind(needy, "", &p, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "[attention] (run.ini:1) needs the key \"must\": About must."));
    assert_int_equal(bind(needy, "must=4", &p, &err), SL_OK);
    sli_params_free(p);
}

static void bad_tables_are_errors(void **state) {
    (void)state;
    sl_param_def bad = def_token_budget;
    const sl_param_def *const table[] = {&bad, NULL}, *const twice[] = {&def_ratio, &def_ratio, NULL};
    SL_ERROR(err);
    sl_params *p = NULL;
    bad.type = 99;
    assert_int_equal(sli_params_bind(table, NULL, NULL, &p, &err), SL_E_INVALID);
    bad.type = SL_PARAM_ENUM;
    assert_int_equal(sli_params_bind(table, NULL, NULL, &p, &err), SL_E_INVALID);
    bad = def_token_budget, bad.fallback = "many";
    assert_int_equal(sli_params_bind(table, NULL, NULL, &p, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "(default)"));
    bad = def_token_budget, bad.struct_size = 8;
    assert_int_equal(sli_params_bind(table, NULL, NULL, &p, &err), SL_E_INVALID);
    assert_int_equal(sli_params_bind(twice, NULL, NULL, &p, &err), SL_E_INVALID);
    assert_non_null(strstr(err.text, "defined twice"));
    assert_string_equal(sli_param_type_name(SL_PARAM_INT_LIST), "int list");
    assert_string_equal(sli_param_type_name(77), "?");
}

static void memory_runs_out_cleanly(void **state) {
    (void)state;
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    sl_status s = SL_E_NO_MEMORY;
    for (int n = 0; s == SL_E_NO_MEMORY; n++) {
        SL_ERROR(err);
        sl_params *p = NULL;
        sli_ledger_fail_after(n);
        s = bind(defs, "label = x\nlayers = 1,2,3", &p, &err);
        sli_ledger_fail_after(-1);
        sli_params_free(p);
        sli_ledger_read(&after);
        assert_int_equal(after.now[SLI_TAG_MISC], before.now[SLI_TAG_MISC]);
        assert_true(n < 100);
    }
    assert_int_equal(s, SL_OK);
}

static void distances(void **state) {
    (void)state;
    assert_int_equal(sli_edit_distance("", "abc"), 3);
    assert_int_equal(sli_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(sli_edit_distance("budget", "bugdet"), 1);
    assert_int_equal(sli_edit_distance("page", "apge"), 1);
    assert_int_equal(sli_edit_distance("same", "same"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_apply), cmocka_unit_test(given_values_win),
        cmocka_unit_test(bool_words),     cmocka_unit_test(messages),
        cmocka_unit_test(required_keys),  cmocka_unit_test(bad_tables_are_errors),
        cmocka_unit_test(distances),      cmocka_unit_test(memory_runs_out_cleanly),
    };
    return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
