/* Lists, ranges, pairs and test words of `sluice bench`. */
#include "bench_test.h" /* in front: cmocka has a macro fail() */

#include "sl_test.h"

static bench_list list;
static char why[256];

static int parse(const char *text) {
    list.n = 0;
    why[0] = '\0';
    return bench_list_parse(text, &list, why, sizeof why);
}

static void check(const char *text, const int64_t *expected, int n) {
    if (parse(text) < 0)
        fail_msg("%s: %s", text, why);
    if (list.n != n)
        fail_msg("%s: %d values, expected %d", text, list.n, n);
    for (int i = 0; i < n; i++)
        if (list.v[i] != expected[i])
            fail_msg("%s: value %d is %lld", text, i, (long long)list.v[i]);
}
#define CHECK(text, ...)                                                                                               \
    check(text, (const int64_t[]){__VA_ARGS__}, (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)))

static void lists_and_ranges(void **state) {
    (void)state;
    CHECK("512", 512);
    CHECK("0", 0);
    CHECK("512,1024,0", 512, 1024, 0);
    CHECK("1-4", 1, 2, 3, 4);
    CHECK("128-1024+256", 128, 384, 640, 896); /* the last one is not reached */
    CHECK("128-512+128", 128, 256, 384, 512);
    CHECK("64-1024*2", 64, 128, 256, 512, 1024);
    CHECK("3-100*3", 3, 9, 27, 81);
    CHECK("7-7*2", 7);
    CHECK("0-4+2", 0, 2, 4);
    CHECK("1,8-16+4,2", 1, 8, 12, 16, 2);
    CHECK("999999999", 999999999);
    parse("5");
    assert_int_equal(bench_list_parse("6", &list, why, sizeof why), 0); /* appends */
    assert_int_equal(list.n, 2);
}

static void what_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      ",",
                                      "1,",
                                      ",1",
                                      "x",
                                      "8,x",
                                      "-5",
                                      "1 2",
                                      "1-",
                                      "4-1",
                                      "1-4+",
                                      "1-4+0",
                                      "1-4*1",
                                      "0-4*2",
                                      "1-4*0",
                                      "1-4/2",
                                      "1.5",
                                      "1-2-3",
                                      "0x10",
                                      "+5",
                                      "1e3",
                                      "1000000000",
                                      "99999999999999999999999",
                                      "1-8++2",
                                      "1-2000",
                                      "1-999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (parse(bad[i]) == 0)
            fail_msg("\"%s\" was taken", bad[i]);
        if (strlen(why) < 10)
            fail_msg("\"%s\" was refused without a reason", bad[i]);
    }
    parse("8,1-x");
    assert_non_null(strstr(why, "\"1-x\"")); /* it says where */
}

static void pairs(void **state) {
    (void)state;
    list.n = 0;
    assert_int_equal(bench_pairs_parse("512,128;16,4", &list, why, sizeof why), 0);
    assert_int_equal(list.n, 4);
    assert_int_equal(list.v[0], 512);
    assert_int_equal(list.v[1], 128);
    assert_int_equal(list.v[2], 16);
    assert_int_equal(list.v[3], 4);
    static const char *const bad[] = {"", "512", "512,", "512,128,4", "512;128", "0,4", "4,0", "4,4;", "a,b", "1-2,3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (bench_pairs_parse(bad[i], &list, why, sizeof why) == 0)
            fail_msg("\"%s\" was taken", bad[i]);
}

static void check_word(const char *word, bench_test expected) {
    bench_tests got = {NULL, 0};
    assert_int_equal(bench_tests_words(word, 0, &got), 0);
    assert_int_equal(got.n, 1);
    const bench_test *t = &got.v[0];
    if (t->n_prompt != expected.n_prompt || t->n_gen != expected.n_gen || t->depth != expected.depth ||
        t->batch != expected.batch || t->sampled != expected.sampled)
        fail_msg("%s: pp%d tg%d @ %d x %d, sampled %d", word, (int)t->n_prompt, (int)t->n_gen, (int)t->depth, t->batch,
                 t->sampled);
    free(got.v);
}

static void words(void **state) {
    (void)state;
    check_word("pp512", (bench_test){.n_prompt = 512, .batch = 1});
    check_word("tg128@512", (bench_test){.n_gen = 128, .depth = 512, .batch = 1});
    check_word("ts8x4", (bench_test){.n_gen = 8, .batch = 4, .sampled = 1});
    check_word("pp512+tg64@16x2", (bench_test){.n_prompt = 512, .n_gen = 64, .depth = 16, .batch = 2});
    check_word("pp5+ts6", (bench_test){.n_prompt = 5, .n_gen = 6, .batch = 1, .sampled = 1});
    bench_tests got = {NULL, 0};
    assert_int_equal(bench_tests_words(" pp1, tg2 ts3,pp4 tg5", 1, &got), 0);
    assert_int_equal(got.n, 5);
    for (int i = 0; i < got.n; i++) {
        assert_int_equal(got.v[i].n_prompt + got.v[i].n_gen, i + 1);
        assert_int_equal(got.v[i].synthetic, 1);
    }
    free(got.v);
}

static void names(void **state) {
    (void)state;
    static const struct {
        bench_test test;
        const char *name;
    } all[] = {
        {{.n_prompt = 512, .batch = 1}, "pp512"},
        {{.n_gen = 128, .depth = 4096, .batch = 8}, "tg128 @ d4096 x 8"},
        {{.n_gen = 4, .batch = 1, .sampled = 1}, "ts4"},
        {{.n_prompt = 512, .n_gen = 128, .depth = 64, .batch = 1, .synthetic = 1}, "pp512+tg128 @ d64 synthetic"}};
    char name[128];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bench_test_name(&all[i].test, name, sizeof name);
        assert_string_equal(name, all[i].name);
    }
}

/* Each depth with each number of sessions with each length, in this order; tests of nothing are left out. */
static void products(void **state) {
    (void)state;
    static const bench_lists lists = {
        .prompt = {{8, 0}, 2}, .gen = {{4}, 1}, .pair = {{16, 2}, 2}, .depth = {{0, 9}, 2}, .batch = {{1, 3}, 2}};
    static const bench_lists zero = {.prompt = {{0}, 1}, .gen = {{0}, 1}, .depth = {{5}, 1}, .batch = {{1}, 1}};
    bench_tests got = {NULL, 0};
    assert_int_equal(bench_tests_cross(&lists, 0, &got), 0);
    assert_int_equal(got.n, 12);
    for (int i = 0; i < got.n; i++) {
        static const int64_t lengths[3][2] = {{8, 0}, {0, 4}, {16, 2}};
        assert_int_equal(got.v[i].n_prompt, lengths[i % 3][0]);
        assert_int_equal(got.v[i].n_gen, lengths[i % 3][1]);
        assert_int_equal(got.v[i].batch, i / 3 % 2 ? 3 : 1);
        assert_int_equal(got.v[i].depth, i / 6 ? 9 : 0);
    }
    free(got.v);
    got = (bench_tests){NULL, 0};
    assert_int_equal(bench_tests_cross(&zero, 0, &got), 0);
    assert_int_equal(got.n, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_and_ranges),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(pairs),
        cmocka_unit_test(words),
        cmocka_unit_test(names),
        cmocka_unit_test(products),
    };
    return cmocka_run_group_tests_name("bench_list", tests, NULL, NULL);
}
