/* token_recycling in the engine: tokens are those of plain decoding, greedy and sampled, alone and together, whatever the
 * matrix holds; the matrix holds what the last rows of each token say; looping text goes several tokens a step. */
#include "sl_test.h"

#include <limits.h>
#include <unistd.h>

#include <jansson.h>

#include "engine/engine.h"
#include "plugin/loader.h"
#include "sluice/speculation.h"

enum { N_PROMPTS = 40, N_TOKENS = 16, N_LOOP = 60, TOGETHER = 5 };

typedef struct prompt {
    int32_t *ids, greedy[N_TOKENS];
    int64_t n;
} prompt;

static prompt prompts[N_PROMPTS];
static int32_t loop_ids[32]; /* a prompt behind which tiny repeats itself */
static int64_t n_loop_ids;
static char init_file[] = "/tmp/sluice-recycling-XXXXXX";

/* ---- engines, outputs --------------------------------------------------------------------------------------------------- */

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define RECYCLING "speculation.plugin=token_recycling"

static const char *source(const char *relative) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", getenv("SLUICE_SOURCE"), relative);
    return path;
}

static int try_open(const char *const *sets, sluice_engine **out, sluice_error *err) {
    char model[PATH_MAX + 16];
    const char *all[16] = {model, "engine.threads=1", "engine.validate=yes"};
    int n = 3;
    snprintf(model, sizeof model, "model.path=%s", source("models/tiny"));
    while (*sets != NULL)
        all[n++] = *sets++;
    sluice_options options = {.sets = all, .n_sets = n};
    return sluice_open(&options, out, err);
}

static sluice_engine *opened(const char *const *sets) {
    sluice_engine *e = NULL;
    sluice_error err;
    if (try_open(sets, &e, &err) < 0)
        fail_msg("%s", err.text);
    return e;
}

static sluice_session *session_of(sluice_engine *e, const int32_t *ids, int64_t n) {
    sluice_session *s = NULL;
    sluice_error err;
    if (sluice_session_open(e, &s, &err) < 0 || sluice_session_append(s, ids, n, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void generate(sluice_engine *e, sluice_session **s, int n, const sluice_sampling *how) {
    sluice_error err;
    if (sluice_generate(e, s, n, how, 1, NULL, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

static sluice_sampling sampling(double temperature, int32_t n) {
    return (sluice_sampling){.temperature = temperature, .top_p = 1, .repeat_penalty = 1, .max_tokens = n, .ignore_eos = 1, .seed = 11};
}

/* Continues all prompts up to n, `together` of them in one call; out: [n][N_TOKENS]. */
static void continue_all(sluice_engine *e, int n, int together, double temperature, int32_t (*out)[N_TOKENS]) {
    sluice_sampling how = sampling(temperature, N_TOKENS);
    for (int first = 0; first < n; first += together) {
        sluice_session *s[TOGETHER];
        int count = n - first < together ? n - first : together;
        for (int i = 0; i < count; i++)
            s[i] = session_of(e, prompts[first + i].ids, prompts[first + i].n);
        generate(e, s, count, &how);
        for (int i = 0; i < count; i++) {
            assert_int_equal(sluice_session_length(s[i]), prompts[first + i].n + N_TOKENS);
            memcpy(out[first + i], sluice_session_tokens(s[i]) + prompts[first + i].n, sizeof *out);
            sluice_session_close(s[i]);
        }
    }
}

static void check_lossless(sluice_engine *e, sluice_stats *stats) {
    sluice_get_stats(e, stats);
    assert_int_equal(stats->allocs_in_steps, 0);
    assert_int_equal(stats->lossless, 1);
    assert_true(stats->drafted > 0 && stats->accepted > 0);
}

/* ---- the same tokens ------------------------------------------------------------------------------------------------------ */

static void check_greedy(const char *what, sluice_engine *e, int n, int together) {
    int32_t got[N_PROMPTS][N_TOKENS];
    continue_all(e, n, together, 0, got);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < N_TOKENS; j++)
            if (got[i][j] != prompts[i].greedy[j])
                fail_msg("%s, %d together, prompt %d: token %d is %d, expected %d", what, together, i, j, got[i][j],
                         prompts[i].greedy[j]);
}

static void greedy_is_plain(void **state) {
    (void)state;
    sluice_engine *e = opened(SETS(RECYCLING));
    sluice_stats stats;
    check_greedy("token_recycling", e, N_PROMPTS, 1);
    check_lossless(e, &stats);
    int64_t drafted = 0;
    for (int i = 0; i < SLUICE_MAX_DEPTH; i++)
        drafted += stats.drafted_by_depth[i];
    assert_true(drafted <= stats.drafted); /* levels, not nodes */
    assert_true(stats.steps < N_PROMPTS * (N_TOKENS - 1));
    print_message("# 40 prompts: %.2f tokens a step, %lld of %lld nodes accepted\n", (double)stats.emitted / (double)stats.steps,
                  (long long)stats.accepted, (long long)stats.drafted);
    check_greedy("token_recycling", e, N_PROMPTS, TOGETHER);
    check_lossless(e, &stats);
    sluice_close(e);
}

static void sampled_is_plain(void **state) {
    (void)state;
    static int32_t plain[N_PROMPTS][N_TOKENS], got[N_PROMPTS][N_TOKENS];
    sluice_engine *e = opened(SETS("speculation.plugin=none"));
    continue_all(e, N_PROMPTS, TOGETHER, 0.8, plain);
    sluice_close(e);
    e = opened(SETS(RECYCLING));
    for (int together = 1; together <= TOGETHER; together += TOGETHER - 1) {
        sluice_stats stats;
        sluice_reset_stats(e);
        continue_all(e, N_PROMPTS, together, 0.8, got);
        assert_memory_equal(got, plain, sizeof plain);
        check_lossless(e, &stats);
    }
    sluice_close(e);
}

/* Every parameter away from its default. */
static void every_setting_is_plain(void **state) {
    (void)state;
    static const struct {
        const char *name, *set[3];
        int32_t depth; /* of the tree */
    } settings[] = {
        {"cut = 8", {"speculation.cut=8"}, 3},
        {"topk = 2", {"speculation.topk=2"}, 6},
        {"topk = 16 and paths", {"speculation.topk=16", "speculation.template=0 1 15 0,0 0,9 0,0,0"}, 3},
        {"prune_empty = no", {"speculation.prune_empty=no"}, 6},
        {"scope = request", {"speculation.scope=request"}, 6},
        {"update_from_prompt = yes", {"speculation.update_from_prompt=yes"}, 6},
        {"small steps", {"engine.max_rows=64", "engine.prefill_chunk=3"}, 6}, /* the engine's limit cuts the tree */
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const char *sets[4] = {RECYCLING};
        for (int j = 0; j < 2 && settings[i].set[j] != NULL; j++)
            sets[j + 1] = settings[i].set[j];
        sluice_engine *e = opened(sets);
        sluice_stats stats;
        check_greedy(settings[i].name, e, 10, TOGETHER);
        check_greedy(settings[i].name, e, 5, 1);
        check_lossless(e, &stats);
        if (stats.drafted_by_depth[settings[i].depth - 1] == 0 || stats.drafted_by_depth[settings[i].depth] != 0)
            fail_msg("%s: trees are not of depth %d", settings[i].name, settings[i].depth);
        sluice_close(e);
    }
}

/* ---- what it is for -------------------------------------------------------------------------------------------------------- */

static sluice_stats loop(sluice_engine *e, int32_t *out) {
    sluice_sampling how = sampling(0, N_LOOP);
    sluice_session *s = session_of(e, loop_ids, n_loop_ids);
    sluice_stats stats;
    sluice_reset_stats(e);
    generate(e, &s, 1, &how);
    memcpy(out, sluice_session_tokens(s) + n_loop_ids, sizeof *out * N_LOOP);
    sluice_session_close(s);
    sluice_get_stats(e, &stats);
    return stats;
}

/* A text that repeats itself goes several tokens a step; asked again, a shared matrix has it at once, a request's own
 * matrix has forgotten it. */
static void looping_text(void **state) {
    (void)state;
    int32_t plain[N_LOOP], got[N_LOOP];
    sluice_engine *e = opened(SETS("speculation.plugin=none"));
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
    sluice_engine *e = opened(SETS("speculation.plugin=none"));
    loop(e, plain);
    sluice_close(e);
    e = opened(SETS(RECYCLING, "speculation.scope=request"));
    sluice_session *s[2] = {session_of(e, loop_ids, n_loop_ids)};
    sluice_sampling how = sampling(0, N_LOOP / 2);
    sluice_error err;
    generate(e, s, 1, &how);
    if (sluice_session_fork(s[0], -1, &s[1], &err) < 0)
        fail_msg("%s", err.text);
    sluice_reset_stats(e);
    generate(e, &s[1], 1, &how);
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_true(stats.steps < N_LOOP / 2 / 2); /* no time spent on learning the loop again */
    assert_memory_equal(sluice_session_tokens(s[1]) + n_loop_ids, plain, sizeof plain);
    sluice_session_close(s[0]);
    generate(e, &s[1], 1, &how);
    sluice_close(e);
}

/* ---- the matrix ---------------------------------------------------------------------------------------------------------------- */

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
        if (in_prompt && !e->drafter.caps.topk_prompt && (s->first_logits < 0 || r + 1 < b->row_begin[b->row_seq[r] + 1])) {
            assert_int_equal(ids[0], -1);
            spy.n_empty++;
            continue;
        }
        assert_int_equal(sli_network_head(&e->target, &r, 1, logits, NULL), SL_OK); /* rows of the step still lie there */
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
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/plugins/speculation/token_recycling/speculation_token_recycling.so", getenv("SLUICE_BUILD"));
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

/* Rows of the matrix are the best ids of the last row of their token: verified rows, rejected ones included, the prompt's
 * last one, and all of the prompt's where that is asked for; chunks, several sequences, prompts beside decoding. */
static void matrix_is_what_was_seen(void **state) {
    (void)state;
    for (int from_prompt = 0; from_prompt < 2; from_prompt++) {
        sluice_engine *e = opened(SETS(RECYCLING, "speculation.cut=12", "engine.prefill_chunk=4",
                                       from_prompt ? "speculation.update_from_prompt=yes" : "speculation.update_from_prompt=no"));
        int64_t n_matrix = 8 * (int64_t)e->target.info->vocab, n;
        sl_speculation table = *e->drafter.api;
        spy = (struct spy){.engine = e, .api = e->drafter.api, .matrix = malloc(sizeof *spy.matrix * (size_t)n_matrix)};
        assert_non_null(spy.matrix);
        memset(spy.matrix, 0xff, sizeof *spy.matrix * (size_t)n_matrix);
        table.observe = spy_observe;
        e->drafter.api = &table;
        int64_t n_prompt = 0;
        sluice_session *s[3];
        for (int i = 0; i < 3; i++) { /* of different lengths: they begin to decode in different steps */
            s[i] = session_of(e, prompts[3 * i + 1].ids, prompts[3 * i + 1].n);
            n_prompt += prompts[3 * i + 1].n;
        }
        sluice_sampling how = sampling(0, N_TOKENS);
        generate(e, s, 3, &how);
        assert_int_equal(spy.n_prompt, from_prompt ? n_prompt : 3);
        assert_int_equal(spy.n_empty, from_prompt ? 0 : n_prompt - 3);
        assert_true(spy.n_verified > 3 * (N_TOKENS - 1));
        char *bytes = saved(e, &n);
        assert_memory_equal(bytes + n - (int64_t)sizeof *spy.matrix * n_matrix, spy.matrix, sizeof *spy.matrix * (size_t)n_matrix);
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
        sluice_engine *e = opened(SETS(RECYCLING, "speculation.cut=8", i ? "speculation.topk=8" : "speculation.topk=3"));
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

/* ---- init ------------------------------------------------------------------------------------------------------------------------ */

static void write_init(const char *bytes, int64_t n) {
    FILE *f = fopen(init_file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, (size_t)n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void check_refused(const char *set, const char *text) {
    sluice_engine *e = NULL;
    sluice_error err;
    assert_true(try_open(SETS(RECYCLING, set), &e, &err) < 0);
    if (strstr(err.text, text) == NULL)
        fail_msg("expected \"%s\" in: %s", text, err.text);
}

/* A saved matrix, written to a file, is where the next engine begins. Any matrix gives the same tokens. */
static void init_loads(void **state) {
    (void)state;
    int32_t plain[N_LOOP], got[N_LOOP];
    int64_t n, n_ids = 8 * 4096;
    char set[PATH_MAX];
    snprintf(set, sizeof set, "speculation.init=%s", init_file);
    sluice_engine *e = opened(SETS(RECYCLING));
    sluice_stats first = loop(e, plain), again = loop(e, plain);
    char *bytes = saved(e, &n), *ids = bytes + n - 4 * n_ids;
    sluice_close(e);
    write_init(bytes, n);
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
    write_init(bytes, n);
    e = opened(SETS(RECYCLING, set));
    check_greedy("random matrix", e, 20, TOGETHER);
    sluice_stats stats;
    check_lossless(e, &stats);
    sluice_close(e);

    memcpy(ids + 32, ids + 36, 4); /* token 1: the same id twice */
    write_init(bytes, n);
    check_refused(set, "row 1 of recycling.M: expected distinct ids of [0, 4096), then only -1");
    memcpy(strstr(bytes + 8, "vocab_fingerprint\":\"") + 20, "0000000000000000", 16);
    write_init(bytes, n);
    check_refused(set, "was made for another vocabulary (vocab_fingerprint 0000000000000000");
    strstr(bytes + 8, "recycling.M")[10] = 'N';
    write_init(bytes, n);
    check_refused(set, "no tensor recycling.M");
    write_init(bytes, n - 4);
    check_refused(set, init_file);
    free(bytes);
    char other[512] = "........{\"recycling.M\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}   ";
    size_t header = strlen(other) - 8;
    assert_int_equal(header % 8, 0);
    memset(other, 0, 8);
    other[0] = (char)header;
    write_init(other, (int64_t)header + 8 + 16);
    check_refused(set, "recycling.M: expected I32 [4096, 1 to 16]");
    check_refused("speculation.template=0 1,0", "template: path \"1,0\" is there, but not the path to its parent");
    check_refused("speculation.cut=1", "cut");
    check_refused("speculation.topk=17", "topk");
}

/* ---- set-up ------------------------------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    (void)state;
    json_t *root = json_load_file(source("tests/data/tiny/prompts40.json"), 0, NULL);
    json_t *list = json_object_get(root, "prompts");
    if (json_array_size(list) != N_PROMPTS)
        return -1;
    for (size_t i = 0; i < N_PROMPTS; i++) {
        json_t *p = json_array_get(list, i), *ids = json_object_get(p, "prompt_ids"), *greedy = json_object_get(p, "greedy_ids");
        prompts[i].n = (int64_t)json_array_size(ids);
        prompts[i].ids = malloc(sizeof *prompts[i].ids * json_array_size(ids));
        if (prompts[i].ids == NULL || json_array_size(greedy) < N_TOKENS)
            return -1;
        for (size_t j = 0; j < json_array_size(ids); j++)
            prompts[i].ids[j] = (int32_t)json_integer_value(json_array_get(ids, j));
        for (size_t j = 0; j < N_TOKENS; j++)
            prompts[i].greedy[j] = (int32_t)json_integer_value(json_array_get(greedy, j));
    }
    json_decref(root);
    sluice_engine *e = opened(SETS("speculation.plugin=none"));
    static const char text[] = "The old house stood";
    n_loop_ids = sluice_tokenize(e, text, strlen(text), SLUICE_ADD_SPECIAL, loop_ids, 32, NULL);
    sluice_close(e);
    int fd = mkstemp(init_file);
    return n_loop_ids > 0 && n_loop_ids <= 32 && fd >= 0 ? close(fd) : -1;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < N_PROMPTS; i++)
        free(prompts[i].ids);
    return unlink(init_file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_plain),
        cmocka_unit_test(sampled_is_plain),
        cmocka_unit_test(every_setting_is_plain),
        cmocka_unit_test(looping_text),
        cmocka_unit_test(forks),
        cmocka_unit_test(matrix_is_what_was_seen),
        cmocka_unit_test(memory),
        cmocka_unit_test(init_loads),
    };
    return cmocka_run_group_tests_name("token_recycling in the engine", tests, set_up, tear_down);
}
