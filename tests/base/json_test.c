/* JSON: places of syntax errors, and getters that say what they expected. */
#include "checkpoint.h"

#include "base/json.h"

static sli_json parse(const char *text) {
    SL_ERROR(err);
    sli_json j;
    if (sli_json_parse("x.json", text, strlen(text), 0, &j, &err) < 0)
        fail_msg("%s", err.text);
    return j;
}

static void names_the_place_of_errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        size_t flags;
    } cases[] = {
        {"", "x.json:1:0: '[' or '{' expected", 0},
        {"{\n \"a\": 1,\n \"b\" 2\n}", "x.json:3:6: ':' expected", 0},
        {"{\"a\": 1", "x.json:1:7:", 0},
        {"{\"a\": 1} x", "x.json:1:10: end of file expected", 0},
        {"[1]", "x.json:1:1: expected an object", 0},
        {"{\"a\": 99999999999999999999}", "too big integer", 0},
        {"{\"a\": NaN}", "x.json:1:9:", 0},
        {"{\"a\": \"\xff\"}", "x.json:1:7: unable to decode byte 0xff", 0},
        {"{\"a\":1,\"a\":2}", "duplicate object key", JSON_REJECT_DUPLICATES},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        sli_json j;
        assert_int_equal(sli_json_parse("x.json", cases[i].text, strlen(cases[i].text), cases[i].flags, &j, &err),
                         SL_E_DATA);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("case %zu: %s", i, err.text);
    }
    SL_ERROR(err);
    sli_json j;
    assert_int_equal(sli_json_load("/nonexistent/x.json", 100, 0, &j, &err), SL_E_NOT_FOUND);
}

static void getters_read(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_json j =
        parse("{\"i\": 7, \"n\": 1e-5, \"b\": true, \"s\": \"text\", \"o\": {\"i\": -1}, \"a\": [1, 2], \"z\": null}");
    int64_t i = 0;
    double n = 0;
    int b = 0;
    const char *s = NULL;
    sli_json o;
    json_t *a = NULL;
    assert_int_equal(sli_json_int(&j, "i", SLI_JSON_REQUIRED, 7, 7, &i, &err), SL_OK);
    assert_int_equal(i, 7);
    assert_int_equal(sli_json_number(&j, "n", SLI_JSON_REQUIRED, 0, 1, &n, &err), SL_OK);
    assert_true(n == 1e-5);
    assert_int_equal(sli_json_number(&j, "i", SLI_JSON_REQUIRED, 0, 10, &n, &err), SL_OK);
    assert_true(n == 7);
    assert_int_equal(sli_json_bool(&j, "b", SLI_JSON_OPTIONAL, &b, &err), SL_OK);
    assert_int_equal(b, 1);
    assert_int_equal(sli_json_string(&j, "s", SLI_JSON_OPTIONAL, &s, &err), SL_OK);
    assert_string_equal(s, "text");
    assert_int_equal(sli_json_array(&j, "a", SLI_JSON_OPTIONAL, &a, &err), SL_OK);
    assert_int_equal(json_array_size(a), 2);
    assert_int_equal(sli_json_object(&j, "o", SLI_JSON_OPTIONAL, &o, &err), SL_OK);
    assert_int_equal(sli_json_int(&o, "i", SLI_JSON_REQUIRED, 0, INT64_MAX, &i, &err), SL_E_DATA);
    assert_string_equal(err.text, "x.json: \"o.i\": expected integer >= 0, found -1");
    /* Missing and null are the same to an optional getter, and leave the value alone. */
    i = 3;
    assert_int_equal(sli_json_int(&j, "none", SLI_JSON_OPTIONAL, 0, 9, &i, &err), SL_SKIPPED);
    assert_int_equal(sli_json_int(&j, "z", SLI_JSON_OPTIONAL, 0, 9, &i, &err), SL_SKIPPED);
    assert_int_equal(i, 3);
    sli_json_free(&j);
}

static void getters_refuse(void **state) {
    (void)state;
    static const struct {
        const char *value, *says;
        char kind;
    } cases[] = {
        {"\"x\"", "x.json: \"k\": expected integer >= 1, found \"x\"", 'i'},
        {"0", "x.json: \"k\": expected integer >= 1, found 0", 'i'},
        {"1.5", "expected integer >= 1, found 1.5", 'i'},
        {"null", "expected integer >= 1, found null", 'i'},
        {"\"a\\u0007\\u00e9\"", "found \"a???\"", 'i'},
        {"0", "expected number > 0, found 0", 'n'},
        {"-1e300", "expected number > 0, found -1", 'n'},
        {"[1]", "expected number > 0, found an array", 'n'},
        {"1", "expected true or false, found 1", 'b'},
        {"true", "expected a string, found true", 's'},
        {"\"\"", "expected an object, found \"\"", 'o'},
        {"{}", "expected an array, found an object", 'a'},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SL_ERROR(err);
        char text[64];
        snprintf(text, sizeof text, "{\"k\": %s}", cases[i].value);
        sli_json j = parse(text), o;
        int64_t n;
        double x;
        int b;
        const char *s;
        json_t *a;
        sl_status status = SL_OK;
        switch (cases[i].kind) {
        case 'i': status = sli_json_int(&j, "k", SLI_JSON_REQUIRED, 1, INT64_MAX, &n, &err); break;
        case 'n': status = sli_json_number(&j, "k", SLI_JSON_REQUIRED, SLI_JSON_ABOVE_ZERO, INFINITY, &x, &err); break;
        case 'b': status = sli_json_bool(&j, "k", SLI_JSON_REQUIRED, &b, &err); break;
        case 's': status = sli_json_string(&j, "k", SLI_JSON_REQUIRED, &s, &err); break;
        case 'o': status = sli_json_object(&j, "k", SLI_JSON_REQUIRED, &o, &err); break;
        case 'a': status = sli_json_array(&j, "k", SLI_JSON_REQUIRED, &a, &err); break;
        }
        assert_int_equal(status, SL_E_DATA);
        if (strstr(err.text, cases[i].says) == NULL)
            fail_msg("case %zu: %s", i, err.text);
        sli_json_free(&j);
    }
    SL_ERROR(err);
    sli_json j = parse("{}");
    const char *s;
    assert_int_equal(sli_json_string(&j, "k", SLI_JSON_REQUIRED, &s, &err), SL_E_DATA);
    assert_string_equal(err.text, "x.json: \"k\": expected a string, found nothing");
    sli_json_free(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_the_place_of_errors),
        cmocka_unit_test(getters_read),
        cmocka_unit_test(getters_refuse),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
