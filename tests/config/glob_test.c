/* Patterns over tensor names. */
#include "sl_test.h"

#include "config/glob.h"

static const struct {
    const char *pattern, *text;
    int fits;
} cases[] = {
    {"", "", 1},
    {"", "a", 0},
    {"*", "", 1},
    {"*", "anything.at.all", 1},
    {"a*", "a", 1},
    {"a*c", "abcbc", 1},
    {"a*c", "abcb", 0},
    {"*a*b*", "xxaxxbxx", 1},
    {"*a*b*", "xxbxxaxx", 0},
    {"a?c", "abc", 1},
    {"a?c", "ac", 0},
    {"[abc]", "b", 1},
    {"[abc]", "d", 0},
    {"[a-c]x", "bx", 1},
    {"[!a-c]", "b", 0},
    {"[!a-c]", "d", 1},
    {"[]]", "]", 1},
    {"[!]]", "]", 0},
    {"[a-]", "-", 1},
    {"[-a]", "-", 1},
    {"**", "x", 1},
    {"a**b", "ab", 1},
    {"a", "ab", 0},
    {"ab", "a", 0},
    {"model.layers.*.mlp.*", "model.layers.11.mlp.up_proj.weight", 1},
    {"model.layers.*.mlp.*", "model.layers.11.self_attn.q_proj.weight", 0},
    {"model.layers.[0-3].*", "model.layers.3.mlp", 1},
    {"model.layers.[0-3].*", "model.layers.13.mlp", 0},
    {"*.weight", "a.weight.b", 0},
    {"*.weight", "a.weight.weight", 1},
};

static void fits(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (sli_glob_match(cases[i].pattern, cases[i].text) != cases[i].fits)
            fail_msg("\"%s\" over \"%s\": expected %d", cases[i].pattern, cases[i].text, cases[i].fits);
}

/* Against the plain recursive definition, on all short patterns and texts over a tiny alphabet. */
static int by_definition(const char *p, const char *t) {
    if (*p == 0)
        return *t == 0;
    if (*p == '*')
        return by_definition(p + 1, t) || (*t != 0 && by_definition(p, t + 1));
    return *t != 0 && (*p == '?' || *p == *t) && by_definition(p + 1, t + 1);
}

static void equals_the_definition(void **state) {
    (void)state;
    for (int p = 0; p < 4 * 4 * 4 * 4 * 4; p++)
        for (int t = 0; t < 64; t++) {
            char pattern[6] = "", text[7] = "";
            for (int i = 0, v = p; i < 5; i++, v /= 4)
                pattern[i] = "ab*?"[v % 4];
            for (int i = 0; i < 6; i++)
                text[i] = "ab"[t >> i & 1];
            text[1 + t % 6] = 0;
            assert_int_equal(sli_glob_match(pattern, text), by_definition(pattern, text));
        }
}

static void form_and_weight(void **state) {
    (void)state;
    assert_null(sli_glob_wrong("a[b]*"));
    assert_non_null(sli_glob_wrong("a[b"));
    assert_non_null(sli_glob_wrong("[]"));
    assert_non_null(sli_glob_wrong(""));
    assert_int_equal(sli_glob_literals("a.[bcd]*?e"), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fits), cmocka_unit_test(equals_the_definition),
                                       cmocka_unit_test(form_and_weight)};
    return cmocka_run_group_tests_name("glob", tests, NULL, NULL);
}
