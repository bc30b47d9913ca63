/* duoattention against the reference's algorithm in PyTorch (duo_golden.json, made by
 * recipes/duoattention/make_golden.py): logits of models/tiny, chunk by chunk. */
#include "duo_rig_test.h"

#include "base/json.h"

enum { TOKENS = 200 };
static const double tolerance = 2e-3; /* both are fp32 with sums in another order; logits are about 10 */

static json_t *golden;

static int read_golden(void **state) {
    golden = json_load_file(run_place("SLUICE_SOURCE", "plugins/attention/duoattention/duo_golden.json"), 0, NULL);
    assert_non_null(golden);
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++)
            assert_true(json_real_value(json_array_get(json_array_get(json_object_get(golden, "gates"), (size_t)l),
                                                       (size_t)h)) == gates[l][h]);
    return write_pattern(state);
}

static int drop_golden(void **state) {
    json_decref(golden);
    return remove_pattern(state);
}

/* Rows [begin, end) of the session have just been computed. Returns how many of them the case knows. */
static int compare(sluice_engine *e, const json_t *rows, int64_t begin, int64_t end) {
    SL_ERROR(err);
    float *logits = malloc(sizeof *logits * (size_t)e->target.info->vocab);
    int n = 0;
    assert_non_null(logits);
    for (int64_t t = begin; t < end; t++) {
        char name[16];
        snprintf(name, sizeof name, "%d", (int)t);
        const json_t *row = json_object_get(rows, name), *ids = json_object_get(row, "ids"),
                     *want = json_object_get(row, "logits");
        if (row == NULL)
            continue;
        assert_int_equal(sli_network_head(&e->target, (const int32_t[]){(int32_t)(t - begin)}, 1, logits, &err), SL_OK);
        for (size_t i = 0; i < json_array_size(ids); i++) {
            double a = logits[json_integer_value(json_array_get(ids, i))], b = json_real_value(json_array_get(want, i));
            if (fabs(a - b) > tolerance)
                fail_msg("token %d, logit %d: %.5f, expected %.5f", (int)t, (int)i, a, b);
        }
        n++;
    }
    free(logits);
    return n;
}

/* Chunks of those sizes, the rest one by one. */
static int run_case(sluice_engine *e, const char *name, const int32_t *chunks, int n_chunks) {
    const json_t *c = json_object_get(json_object_get(golden, "cases"), name), *ids = json_object_get(golden, "ids");
    int32_t tokens[TOKENS];
    run_taps taps = {0};
    int n = 0;
    assert_int_equal(json_array_size(ids), TOKENS);
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    sluice_session *s = run_session(e, tokens, TOKENS);
    for (int i = 0; s->n_kv < TOKENS; i++) {
        int64_t begin = s->n_kv;
        run_rows(e, s, i < n_chunks ? chunks[i] : 1, i < n_chunks ? SL_STAGE_PREFILL : SL_STAGE_DECODE, &taps);
        n += compare(e, json_object_get(c, "rows"), begin, s->n_kv);
    }
    run_taps_free(&taps);
    sluice_session_close(s);
    return n;
}

static void chunks_as_in_the_reference(void **state) {
    (void)state;
    sluice_engine *e = OPEN(DUO);
    assert_int_equal(run_case(e, "chunk_50", (const int32_t[]){50, 50, 50, 30}, 4), 11);
    assert_int_equal(run_case(e, "chunk_whole", (const int32_t[]){180}, 1), 11);
    assert_int_equal(run_case(e, "single", NULL, 0), 11);
    sluice_close(e);
    e = OPEN(DUO, "attention.prefill_chunk=50"); /* boundaries inside of the engine's chunks */
    assert_int_equal(run_case(e, "chunk_50", (const int32_t[]){100, 80}, 2), 11);
    sluice_close(e);
}

static void an_exact_window_is_token_by_token(void **state) {
    (void)state;
    sluice_engine *e = OPEN(DUO, "attention.window=exact");
    assert_int_equal(run_case(e, "single", (const int32_t[]){200}, 1), 11);
    assert_int_equal(run_case(e, "single", (const int32_t[]){77, 3, 100}, 3), 11);
    sluice_close(e);
}

/* The cases differ from one another by more than the tolerance: the comparison can fail. */
static void cases_differ(void **state) {
    (void)state;
    const char *names[] = {"chunk_50", "chunk_whole", "single"}, *name;
    json_t *row;
    for (int i = 0; i < 3; i++) {
        json_t *all = json_object_get(json_object_get(json_object_get(golden, "cases"), names[i]), "rows");
        json_t *others = json_object_get(json_object_get(json_object_get(golden, "cases"), names[(i + 1) % 3]), "rows");
        double most = 0;
        json_object_foreach(all, name, row) {
            json_t *a = json_object_get(row, "logits"), *b = json_object_get(json_object_get(others, name), "logits");
            for (size_t k = 0; k < 8; k++)
                most = fmax(most, fabs(json_real_value(json_array_get(a, k)) - json_real_value(json_array_get(b, k))));
        }
        assert_true(most > 50 * tolerance);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_as_in_the_reference),
        cmocka_unit_test(an_exact_window_is_token_by_token),
        cmocka_unit_test(cases_differ),
    };
    return cmocka_run_group_tests(tests, read_golden, drop_golden);
}
