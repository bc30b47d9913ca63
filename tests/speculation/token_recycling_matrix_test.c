/* What token_recycling learns, in the engine: the matrix holds what the last rows of each token say, begins as it was
 * saved, is shared or a request's own; looping text goes several tokens a step. */
#include "e2e.h"

#include <sys/stat.h>

#include "engine/engine.h"
#include "plugin/loader.h"
#include "sluice/speculation.h"

enum { N_TOKENS = 16, N_LOOP = 60, TOGETHER = 5, K = 8 };

#define RECYCLING "speculation.plugin=token_recycling", "engine.validate=yes"
#define PLAIN "speculation.plugin=none"

static e2e_prompts prompts;
static e2e_prompt loop_prompt; /* behind which tiny repeats itself */

static sluice_engine *opened(const char *const *sets) { return e2e_open("models/tiny", sets); }

static void check_lossless(sluice_engine *e, sluice_stats *stats) {
    sluice_get_stats(e, stats);
    assert_int_equal(stats->allocs_in_steps, 0);
    assert_int_equal(stats->lossless, 1);
    assert_true(stats->drafted > 0 && stats->accepted > 0);
}

static void check_greedy(const char *what, sluice_engine *e, int n, int together) {
    e2e_check_greedy(what, e, prompts.prompt, n, together);
}

/* ---- what it is for
 * -------------------------------------------------------------------------------------------------------- */

static sluice_stats loop(sluice_engine *e, int32_t *out) {
    sluice_sampling how = e2e_greedy(N_LOOP);
    e2e_output o;
    sluice_stats stats;
    sluice_reset_stats(e);
    e2e_continue(e, &loop_prompt, 1, 1, &how, &o);
    memcpy(out, o.tokens, sizeof *out * N_LOOP);
    e2e_outputs_free(&o, 1);
    sluice_get_stats(e, &stats);
    return stats;
}

/* A text that repeats itself goes several tokens a step; asked again, a shared matrix has it at once, a request's own
 * matrix has forgotten it. */
static void looping_text(void **state) {
    (void)state;
    int32_t plain[N_LOOP], got[N_LOOP];
    sluice_engine *e = opened(SETS(PLAIN));
    loop(e, plain);
    sluice_close(e);
    for (int apart = 0; apart < 2; apart++) {
        e = opened(SETS(RECYCLING, apart ? "speculation.scope=request" : "speculation.scope=global"));
        sluice_stats first = loop(e, got);
        assert_memory_equal(got, plain, sizeof plain);
        sluice_stats again = loop(e, got);
        assert_memory_equal(got, plain, sizeof plain);
        assert_true((double)first.emitted / (double)first.steps > 2);
        if (apart) {
            assert_int_equal(first.drafted, again.drafted);
            assert_int_equal(first.steps, again.steps);
        } else {
            assert_true(again.steps < first.steps);
        }
        assert_int_equal(again.allocs_in_steps, 0);
        print_message("# looping text: %.2f tokens a step, again %.2f\n", (double)first.emitted / (double)first.steps,
                      (double)again.emitted / (double)again.steps);
        sluice_close(e);
    }
}

/* A fork knows what its parent knew and goes on as plain decoding does. */
static void forks(void **state) {
    (void)state;
    int32_t plain[N_LOOP];
    sluice_engine *e = opened(SETS(PLAIN));
    loop(e, plain);
    sluice_close(e);
    e = opened(SETS(RECYCLING, "speculation.scope=request"));
    sluice_session *parent = e2e_session(e, loop_prompt.ids, loop_prompt.n_ids), *fork;
    sluice_sampling how = e2e_greedy(N_LOOP / 2);
    e2e_output o;
    e2e_generate(e, &parent, 1, &how, 1, &o);
    e2e_outputs_free(&o, 1);
    assert_int_equal(sluice_session_fork(parent, -1, &fork, NULL), SLUICE_OK);
    sluice_session_close(parent);
    sluice_reset_stats(e);
    e2e_generate(e, &fork, 1, &how, 1, &o);
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    e2e_check_tokens("the fork", plain + N_LOOP / 2, N_LOOP / 2, o.tokens, o.n);
    assert_true(stats.steps < N_LOOP / 2 / 2); /* no time spent on learning the loop again */
    e2e_outputs_free(&o, 1);
    sluice_close(e);
}

/* ---- the matrix
 * ---------------------------------------------------------------------------------------------------------------- */

/* Looks over the drafter's shoulder: keeps a matrix of its own, computed from the engine's logits. */
static struct spy {
    sluice_engine *engine;
    const sl_speculation *api;
    int32_t *matrix; /* [vocab, 8] */
    int64_t n_prompt, n_verified, n_empty;
} spy;

/* The 8 best by scanning, ties the lower id. */
static void best_ids(const float *logits, int32_t vocab, int32_t *out) {
    for (int k = 0; k < 8; k++) {
        out[k] = -1;
        for (int32_t i = 0; i < vocab; i++) {
            int taken = 0;
            for (int j = 0; j < k; j++)
                taken = taken || out[j] == i;
            if (!taken && (out[k] < 0 || logits[i] > logits[out[k]]))
                out[k] = i;
        }
    }
}

static sl_status spy_observe(sl_instance *self, const sl_observe *seen) {
    const sl_batch *b = seen->commit->batch;
    sluice_engine *e = spy.engine;
    int32_t V = e->target.info->vocab;
    float *logits = malloc(sizeof *logits * (size_t)V);
    assert_non_null(logits);
    for (int32_t r = 0; r < b->n_rows; r++) {
        const sluice_session *s = e->active[b->row_seq[r]];
        int in_prompt = b->stage[b->row_seq[r]] == SL_STAGE_PREFILL;
        int32_t ids[8], expected[8];
        memcpy(ids, seen->topk + 8 * r, sizeof ids);
        if (in_prompt && !e->drafter.caps.topk_prompt &&
            (s->first_logits < 0 || r + 1 < b->row_begin[b->row_seq[r] + 1])) {
            assert_int_equal(ids[0], -1);
            spy.n_empty++;
            continue;
        }
        assert_int_equal(sli_network_head(&e->target, &r, 1, logits, NULL),
                         SL_OK); /* rows of the step still lie there */
        best_ids(logits, V, expected);
        assert_memory_equal(ids, expected, sizeof ids);
        memcpy(spy.matrix + 8 * (int64_t)b->token[r], expected, sizeof expected);
        if (in_prompt)
            spy.n_prompt++;
        else
            spy.n_verified++;
    }
    free(logits);
    return spy.api->observe(self, seen);
}

static char *saved(sluice_engine *e, int64_t *n) {
    sli_plugin p;
    const char *path = e2e_built("plugins/speculation/token_recycling/speculation_token_recycling.so");
    assert_int_equal(sli_plugin_open(NULL, "speculation", path, &p, NULL), SL_OK);
    sl_state_io io = {.struct_size = SL_SIZE(sl_state_io), .seq = -1, .op = SL_STATE_SIZE};
    assert_int_equal(p.plugin->state(e->drafter.self, &io, NULL), SL_OK);
    char *bytes = malloc((size_t)io.bytes);
    assert_non_null(bytes);
    io.data = bytes;
    io.op = SL_STATE_SAVE;
    assert_int_equal(p.plugin->state(e->drafter.self, &io, NULL), SL_OK);
    *n = io.bytes;
    return bytes;
}

/* Rows of the matrix are the best ids of the last row of their token: verified rows, rejected ones included, the
 * prompt's last one, and all of the prompt's where that is asked for; chunks, several sequences, prompts beside
 * decoding. */
static void matrix_is_what_was_seen(void **state) {
    (void)state;
    for (int from_prompt = 0; from_prompt < 2; from_prompt++) {
        sluice_engine *e =
            opened(SETS(RECYCLING, "speculation.cut=12", "engine.prefill_chunk=4",
                        from_prompt ? "speculation.update_from_prompt=yes" : "speculation.update_from_prompt=no"));
        int64_t n_matrix = 8 * (int64_t)e->target.info->vocab, n;
        sl_speculation table = *e->drafter.api;
        spy = (struct spy){.engine = e, .api = e->drafter.api, .matrix = malloc(sizeof *spy.matrix * (size_t)n_matrix)};
        assert_non_null(spy.matrix);
        memset(spy.matrix, 0xff, sizeof *spy.matrix * (size_t)n_matrix);
        table.observe = spy_observe;
        e->drafter.api = &table;
        int64_t n_prompt = 0;
        for (int i = 0; i < TOGETHER; i++)
            n_prompt += prompts.prompt[i].n_ids; /* of different lengths: they begin to decode in different steps */
        check_greedy("watched", e, TOGETHER, TOGETHER);
        assert_int_equal(spy.n_prompt, from_prompt ? n_prompt : TOGETHER);
        assert_int_equal(spy.n_empty, from_prompt ? 0 : n_prompt - TOGETHER);
        assert_true(spy.n_verified > TOGETHER * (N_TOKENS - 1));
        char *bytes = saved(e, &n);
        assert_memory_equal(bytes + n - (int64_t)sizeof *spy.matrix * n_matrix, spy.matrix,
                            sizeof *spy.matrix * (size_t)n_matrix);
        free(bytes);
        free(spy.matrix);
        sluice_close(e);
    }
}

/* Vocabulary x topk x 4 bytes; nothing grows with the text. */
static void memory(void **state) {
    (void)state;
    int64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        sluice_engine *e =
            opened(SETS(RECYCLING, "speculation.cut=8", i ? "speculation.topk=8" : "speculation.topk=3"));
        sluice_stats before, after;
        sluice_get_stats(e, &before);
        check_greedy("memory", e, 5, TOGETHER);
        sluice_get_stats(e, &after);
        assert_int_equal(before.bytes_plugin, after.bytes_plugin);
        bytes[i] = after.bytes_plugin;
        sluice_close(e);
    }
    assert_int_equal(bytes[1] - bytes[0], 4096 * (8 - 3) * 4);
}

/* ---- init
 * ------------------------------------------------------------------------------------------------------------------------
 */

static void check_refused(const char *set, const char *text) {
    sluice_error err;
    e2e_open_refused("models/tiny", SETS(RECYCLING, set), &err);
    if (strstr(err.text, text) == NULL)
        fail_msg("expected \"%s\" in: %s", text, err.text);
}

/* A saved matrix, written to a file, is where the next engine begins. Any matrix gives the same tokens. */
static void init_loads(void **state) {
    (void)state;
    int32_t plain[N_LOOP], got[N_LOOP];
    int64_t n, n_ids = 8 * 4096;
    char set[PATH_MAX + 32], dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", e2e_temp("recycling"));
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(set, sizeof set, "speculation.init=%s/saved", dir);
    sluice_engine *e = opened(SETS(RECYCLING));
    sluice_stats first = loop(e, plain), again = loop(e, plain);
    char *bytes = saved(e, &n), *ids = bytes + n - 4 * n_ids;
    sluice_close(e);
    e2e_put(dir, "saved", bytes, (size_t)n);
    for (int apart = 0; apart < 2; apart++) {
        e = opened(SETS(RECYCLING, set, apart ? "speculation.scope=request" : "speculation.scope=global"));
        sluice_stats loaded = loop(e, got);
        assert_memory_equal(got, plain, sizeof plain);
        assert_true(loaded.steps <= again.steps + 2 && loaded.steps < first.steps);
        sluice_close(e);
    }
    uint64_t seed = 3;
    for (int64_t token = 0; token < 4096; token++) {
        int32_t row[8], at = (int32_t)(test_next(&seed) % 4096);
        for (int i = 0; i < 8; i++)
            row[i] = (at + 5 * i) % 4096;
        memcpy(ids + token * 32, row, sizeof row);
    }
    e2e_put(dir, "saved", bytes, (size_t)n);
    e = opened(SETS(RECYCLING, set));
    check_greedy("random matrix", e, 10, TOGETHER);
    sluice_stats stats;
    check_lossless(e, &stats);
    sluice_close(e);

    memcpy(ids + 32, ids + 36, 4); /* token 1: the same id twice */
    e2e_put(dir, "saved", bytes, (size_t)n);
    check_refused(set, "row 1 of recycling.M: expected distinct ids of [0, 4096), then only -1");
    memcpy(strstr(bytes + 8, "vocab_fingerprint\":\"") + 20, "0000000000000000", 16);
    e2e_put(dir, "saved", bytes, (size_t)n);
    check_refused(set, "was made for another vocabulary (vocab_fingerprint 0000000000000000");
    strstr(bytes + 8, "recycling.M")[10] = 'N';
    e2e_put(dir, "saved", bytes, (size_t)n);
    check_refused(set, "no tensor recycling.M");
    e2e_put(dir, "saved", bytes, (size_t)n - 4);
    check_refused(set, "recycling/saved");
    free(bytes);
    char other[512] = {0};
    int header = snprintf(other + 8, 128, "%-88s",
                          "{\"recycling.M\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}");
    other[0] = (char)header;
    e2e_put(dir, "saved", other, (size_t)header + 8 + 16);
    check_refused(set, "recycling.M: expected I32 [4096, 1 to 16]");
    check_refused("speculation.template=0 1,0", "template: path \"1,0\" is there, but not the path to its parent");
    check_refused("speculation.cut=1", "cut");
    check_refused("speculation.topk=17", "topk");
}

/* ---- set-up
 * ------------------------------------------------------------------------------------------------------------------------
 */

static int set_up(void **state) {
    (void)state;
    static const char text[] = "The old house stood";
    static int32_t ids[32];
    e2e_prompts_read("tests/data/tiny/prompts40.json", &prompts);
    sluice_engine *e = opened(SETS(PLAIN));
    loop_prompt = (e2e_prompt){
        .text = text, .ids = ids, .n_ids = sluice_tokenize(e, text, strlen(text), SLUICE_ADD_SPECIAL, ids, 32, NULL)};
    sluice_close(e);
    return prompts.prompt[0].n_greedy == N_TOKENS && loop_prompt.n_ids > 0 && loop_prompt.n_ids <= 32 ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    e2e_prompts_free(&prompts);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(looping_text), cmocka_unit_test(forks),      cmocka_unit_test(matrix_is_what_was_seen),
        cmocka_unit_test(memory),       cmocka_unit_test(init_loads),
    };
    return cmocka_run_group_tests_name("token_recycling_matrix", tests, set_up, tear_down);
}
