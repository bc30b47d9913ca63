/* The INI language: what is read, and the message for everything that is not. */
#include "sl_test.h"

#include "base/ledger.h"
#include "config/ini.h"

static sl_status parse(sli_ini *ini, const char *text, size_t n, sl_error *err) {
    return sli_ini_parse(ini, text, n, "run.ini", "conf", SLI_FROM_FILE, err);
}

static const char *value(const sli_ini *ini, const char *section, const char *key) {
    const sli_key *k = sli_section_get(sli_ini_find(ini, section), key);
    return k == NULL ? NULL : k->value;
}

static void reads_the_language(void **state) {
    (void)state;
    static const char text[] = "\xef\xbb\xbf; a comment\r\n"
                               "# another\r\n"
                               "[attention]\r\n"
                               "  plugin = tidaldecode   ; inline\r\n"
                               "\ttoken_budget=256\r\n"
                               "note = a;b # c = d\r\n"
                               "empty =\r\n"
                               "\r\n"
                               "[ attention.layers   0-1 ] ; head\r\n"
                               "url = http://x:1/y=z\r\n"
                               "[quant.match model.layers.[0-3].mlp.a_name_that_is_longer_than_fifty_bytes.weight]\r\n"
                               "bits = 4";
    SL_ERROR(err);
    sli_ini ini = {0};
    assert_int_equal(parse(&ini, text, sizeof text - 1, &err), SL_OK);
    assert_int_equal(ini.n_sections, 3);
    assert_string_equal(value(&ini, "attention", "plugin"), "tidaldecode");
    assert_string_equal(value(&ini, "attention", "token_budget"), "256");
    assert_string_equal(value(&ini, "attention", "note"), "a;b # c = d");
    assert_string_equal(value(&ini, "attention", "empty"), "");
    assert_string_equal(value(&ini, "attention.layers 0-1", "url"), "http://x:1/y=z");
    const char *glob = "quant.match model.layers.[0-3].mlp.a_name_that_is_longer_than_fifty_bytes.weight";
    const sli_section *q = sli_ini_find(&ini, glob);
    assert_non_null(q);
    assert_string_equal(q->where, "run.ini:11");
    assert_string_equal(q->keys[0].where, "run.ini:12");
    assert_string_equal(q->keys[0].dir, "conf");
    sli_ini_free(&ini);
}

/* inih's buffer has 200 bytes: values on both sides of that come back whole. */
static void long_values_are_whole(void **state) {
    (void)state;
    for (int n = 1; n < 5000; n += n < 300 ? 1 : 400) {
        char body[5100], text[5300];
        for (int i = 0; i < n; i++)
            body[i] = i > 0 && i + 1 < n && i % 7 == 3 ? ' ' : (char)('a' + i % 26);
        body[n] = 0;
        snprintf(text, sizeof text, "[s]\nkey =  %s   ; and a comment\n  next = 1\n", body);
        SL_ERROR(err);
        sli_ini ini = {0};
        assert_int_equal(parse(&ini, text, strlen(text), &err), SL_OK);
        assert_string_equal(value(&ini, "s", "key"), body);
        assert_string_equal(value(&ini, "s", "next"), "1");
        sli_ini_free(&ini);
    }
}

#define BLANKS50 "                                                  "
#define KEY65 "k1234567890123456789012345678901234567890123456789012345678901234"
static const struct {
    const char *text;
    size_t n; /* 0: strlen */
    const char *parts[3];
} wrong[] = {
    {"[a]\nx=1\n[b]\n[a]\n", 0, {"run.ini:4:", "section [a] was already opened", "run.ini:1"}},
    {"[a b]\n[ a  b ]\n", 0, {"run.ini:2:", "section [a b] was already opened"}},
    {"[a]\nx=1\n\nx=2\n", 0, {"run.ini:4:", "key \"x\" was already set in [a]", "run.ini:2"}},
    {"x = 1\n[a]\n", 0, {"run.ini:1:", "\"x\" stands before the first [section]"}},
    {"[a]\nplugin\n", 0, {"run.ini:2:", "expected \"key = value\" or \"[section]\"", "found \"plugin\""}},
    {"[a]\nplugin : x\n", 0, {"run.ini:2:", "expected \"key = value\""}},
    {"[a]\nplug:in = x\n", 0, {"run.ini:2:", "without blanks"}},
    {"[a]\n= x\n", 0, {"run.ini:2:", "expected a key"}},
    {"[a]\nmy key = x\n", 0, {"run.ini:2:", "expected a key"}},
    {"[a]\n" KEY65 " = x\n", 0, {"run.ini:2:", "1 to 64 bytes"}},
    {"[a]\nx" BLANKS50 BLANKS50 BLANKS50 BLANKS50 "=1\n", 0, {"run.ini:2:", "too many blanks"}},
    {"[a\nx=1\n", 0, {"run.ini:1:", "ends with \"]\""}},
    {"[a] trailing\n", 0, {"run.ini:1:", "ends with \"]\""}},
    {"\n[]\n", 0, {"run.ini:2:", "needs a name"}},
    {"[ ]\n", 0, {"run.ini:1:", "needs a name"}},
    {"[", 0, {"run.ini:1:", "ends with \"]\""}},
    {"[a]\nx=;1\n", 0, {"run.ini:2:", "begins with \";\""}},
    {"[a]\nx=1\0002\n", 10, {"run.ini:2:", "control character 0x00"}},
    {"[a]\nx=\033[31m\n", 0, {"run.ini:2:", "control character 0x1b"}},
    {"[a]\rx=1\r", 0, {"run.ini:1:", "control character 0x0d"}},
    {"\xff\xfe[\0a\0]\0", 8, {"run.ini:1:", "control character"}},
};

static void messages(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        SL_ERROR(err);
        sli_ini ini = {0};
        size_t n = wrong[i].n ? wrong[i].n : strlen(wrong[i].text);
        assert_int_equal(parse(&ini, wrong[i].text, n, &err), SL_E_DATA);
        for (int k = 0; k < 3 && wrong[i].parts[k] != NULL; k++)
            if (strstr(err.text, wrong[i].parts[k]) == NULL)
                fail_msg("case %zu: expected \"%s\" in: %s", i, wrong[i].parts[k], err.text);
        sli_ini_free(&ini);
    }
}

static void limits(void **state) {
    (void)state;
    size_t n = (1u << 20) + 1;
    char *text = malloc(n);
    memset(text, '\n', n);
    SL_ERROR(err);
    sli_ini ini = {0};
    assert_int_equal(parse(&ini, text, n, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "larger than"));
    assert_int_equal(parse(&ini, text, n - 1, &err), SL_OK);
    size_t used = 0;
    for (int i = 0; i < 1001; i++)
        used += (size_t)snprintf(text + used, n - used, "[s%d]\n", i);
    assert_int_equal(parse(&ini, text, used, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "run.ini:1001: more than 1000 sections"));
    sli_ini_free(&ini);
    used = (size_t)snprintf(text, n, "[s]\n");
    for (int i = 0; i < 1001; i++)
        used += (size_t)snprintf(text + used, n - used, "k%d=\n", i);
    assert_int_equal(parse(&ini, text, used, &err), SL_E_DATA);
    assert_non_null(strstr(err.text, "run.ini:1002: more than 1000 keys"));
    sli_ini_free(&ini);
    free(text);
}

static void overrides(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_ini ini = {0};
    assert_int_equal(sli_ini_set(&ini, "attention.token_budget=256", &err), SL_OK);
    assert_int_equal(sli_ini_set(&ini, "attention.token_budget = 512 ", &err), SL_OK); /* the last one counts */
    assert_int_equal(sli_ini_set(&ini, "quant.match model.layers.*.mlp.*.bits=4", &err), SL_OK);
    assert_int_equal(sli_ini_set(&ini, "model.path=a.b=c.d", &err), SL_OK);
    assert_string_equal(value(&ini, "attention", "token_budget"), "512");
    assert_string_equal(value(&ini, "quant.match model.layers.*.mlp.*", "bits"), "4");
    assert_string_equal(value(&ini, "model", "path"), "a.b=c.d");
    assert_string_equal(sli_section_get(sli_ini_find(&ini, "model"), "path")->where, "--set");
    assert_string_equal(sli_section_get(sli_ini_find(&ini, "model"), "path")->dir, "");
    static const char *const bad[] = {"",        "a",        "a.b",    "a=b",      ".b=c", "a.=c",
                                      "a.b c=d", "a.b=x ;y", "a.b=;y", "a.b=x\ny", "=",    ".="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sli_ini_set(&ini, bad[i], &err), SL_E_INVALID);
        assert_non_null(strstr(err.text, "--set"));
    }
    sli_ini_free(&ini);
}

static void files(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_ini ini = {0};
    assert_int_equal(sli_ini_read(&ini, "no/such.ini", &err), SL_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "\"no/such.ini\": No such file"));
    assert_int_equal(sli_ini_read(&ini, getenv("SLUICE_SOURCE"), &err), SL_E_IO); /* a folder */
    sli_ini_free(&ini);
}

static void paths(void **state) {
    (void)state;
    sli_arena pool = {0};
    assert_string_equal(sli_path_folder(&pool, "run.ini"), "");
    assert_string_equal(sli_path_folder(&pool, "/run.ini"), "/");
    assert_string_equal(sli_path_folder(&pool, "a/b/run.ini"), "a/b");
    assert_string_equal(sli_arena_path_join(&pool, "", "x"), "x");
    assert_string_equal(sli_arena_path_join(&pool, "a", "x"), "a/x");
    assert_string_equal(sli_arena_path_join(&pool, "/", "x"), "/x");
    assert_string_equal(sli_arena_path_join(&pool, "a", "/x"), "/x");
    sli_arena_free(&pool);
}

static void memory_runs_out_cleanly(void **state) {
    (void)state;
    char text[9000];
    size_t used = 0;
    for (int i = 0; i < 60; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "[section number %d]\nkey = value %d\nother = 7\n", i, i);
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    sl_status s = SL_E_NO_MEMORY;
    for (int n = 0; s == SL_E_NO_MEMORY; n++) {
        SL_ERROR(err);
        sli_ini ini = {0};
        sli_ledger_fail_after(n);
        s = parse(&ini, text, used, &err);
        sli_ledger_fail_after(-1);
        sli_ini_free(&ini);
        sli_ledger_read(&after);
        assert_int_equal(after.now[SLI_TAG_MISC], before.now[SLI_TAG_MISC]);
        assert_true(n < 100);
    }
    assert_int_equal(s, SL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_language),
        cmocka_unit_test(long_values_are_whole),
        cmocka_unit_test(messages),
        cmocka_unit_test(limits),
        cmocka_unit_test(overrides),
        cmocka_unit_test(files),
        cmocka_unit_test(paths),
        cmocka_unit_test(memory_runs_out_cleanly),
    };
    return cmocka_run_group_tests_name("ini", tests, NULL, NULL);
}
