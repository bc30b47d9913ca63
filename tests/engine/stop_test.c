/* Stop strings: against a search of the whole text, for every way of cutting it into pieces. */
#include "sl_test.h"

#include "base/ledger.h"
#include "engine/stop.h"
#include "sl_error.h"

/* First end of a stop string in text[0..n), the longest one there. Returns the end, 0 if there is none. */
static size_t find_first(const char *text, size_t n, const char *const *stops, int n_stops, int *hit) {
    *hit = -1;
    for (size_t end = 1; end <= n; end++) {
        for (int i = 0; i < n_stops; i++) {
            size_t len = strlen(stops[i]);
            if (len <= end && memcmp(text + end - len, stops[i], len) == 0 && (*hit < 0 || len > strlen(stops[*hit])))
                *hit = i;
        }
        if (*hit >= 0)
            return end;
    }
    return 0;
}

/* Length of the longest end of text that is a proper beginning of a stop string. */
static size_t must_hold(const char *text, size_t n, const char *const *stops, int n_stops) {
    size_t most = 0;
    for (int i = 0; i < n_stops; i++)
        for (size_t len = 1; len < strlen(stops[i]) && len <= n; len++)
            if (len > most && memcmp(text + n - len, stops[i], len) == 0)
                most = len;
    return most;
}

static void check_text(const char *text, size_t n, const char *const *stops, int n_stops, uint64_t *seed) {
    SL_ERROR(err);
    sli_stop *s;
    assert_int_equal(sli_stop_create(stops, n_stops, &s, &err), SL_OK);
    int hit;
    size_t end = find_first(text, n, stops, n_stops, &hit);
    char out[256];
    for (int round = 0; round < 2; round++) { /* twice: reset must forget everything */
        size_t done = 0, written = 0;
        while (done < n && sli_stop_hit(s) < 0) {
            size_t piece = 1 + (size_t)(test_uniform(seed) * 4);
            piece = piece < n - done ? piece : n - done;
            char *copy = malloc(piece + sli_stop_max_held(s)); /* exactly the room that is promised to be enough */
            size_t got = sli_stop_push(s, text + done, piece, copy);
            memcpy(out + written, copy, got);
            free(copy);
            written += got;
            done += piece;
            if (sli_stop_hit(s) < 0)
                assert_int_equal(written, done - must_hold(text, done, stops, n_stops));
        }
        assert_int_equal(sli_stop_hit(s), hit);
        if (hit >= 0) {
            assert_int_equal(written, end - strlen(stops[hit]));
            assert_int_equal(sli_stop_push(s, "more", 4, out + written), 0);
        }
        written += sli_stop_flush(s, out + written);
        assert_int_equal(written, hit >= 0 ? end - strlen(stops[hit]) : n);
        assert_memory_equal(out, text, written);
        sli_stop_reset(s);
    }
    sli_stop_destroy(s);
}

static void known_cases(void **state) {
    (void)state;
    uint64_t seed = 3;
    static const struct {
        const char *text, *stops[3];
        int n_stops;
    } cases[] = {
        {"hello\nUser: x", {"\nUser:"}, 1},
        {"aaab", {"aab"}, 1},
        {"ababac!", {"abac", "bab"}, 2},   /* the earliest end counts */
        {"xabc", {"bc", "abc", "c"}, 3},   /* of equal ends the longest */
        {"almost the en", {"the end"}, 1}, /* held to the very end, then passed on */
        {"\xe2\x82\xac and \xe2\x82", {"\xe2\x82\xac\xe2"}, 1},
        {"no stop strings", {NULL}, 0},
        {"###", {"#"}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int r = 0; r < 20; r++)
            check_text(cases[i].text, strlen(cases[i].text), cases[i].stops, cases[i].n_stops, &seed);
}

static void random_texts(void **state) {
    (void)state;
    uint64_t seed = 11;
    for (int round = 0; round < 20000; round++) {
        char text[40], stop[3][6];
        const char *stops[3] = {stop[0], stop[1], stop[2]};
        size_t n = (size_t)(test_uniform(&seed) * 40);
        for (size_t i = 0; i < n; i++)
            text[i] = (char)('a' + (int)(test_uniform(&seed) * 2.2));
        int n_stops = 1 + (int)(test_uniform(&seed) * 3);
        for (int i = 0; i < n_stops; i++) {
            size_t len = 1 + (size_t)(test_uniform(&seed) * 5);
            for (size_t j = 0; j < len; j++)
                stop[i][j] = (char)('a' + (int)(test_uniform(&seed) * 2.2));
            stop[i][len] = 0;
        }
        check_text(text, n, stops, n_stops, &seed);
    }
}

static void refuses_and_survives(void **state) {
    (void)state;
    SL_ERROR(err);
    sli_stop *s;
    const char *const bad[] = {"a", ""}, *const good[] = {"ab", "cd"};
    assert_int_equal(sli_stop_create(bad, 2, &s, &err), SL_E_INVALID);
    assert_string_equal(err.text, "a stop string is empty");
    sli_ledger_report before, after;
    sli_ledger_read(&before);
    for (int n = 0;; n++) {
        sli_ledger_fail_after(n);
        sl_status status = sli_stop_create(good, 2, &s, &err);
        sli_ledger_fail_after(-1);
        if (status == SL_OK)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        sli_ledger_read(&after);
        assert_int_equal(after.total, before.total);
        assert_true(n < 20);
    }
    sli_stop_destroy(s);
    sli_stop_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_cases),
        cmocka_unit_test(random_texts),
        cmocka_unit_test(refuses_and_survives),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
