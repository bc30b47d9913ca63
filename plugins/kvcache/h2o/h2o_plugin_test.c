/* h2o on models/tiny: the sheet's invariants, and every choice against brute force from the queries and keys. */
#include "engine_run.h"

#include <unistd.h>

#include "engine/sums.h"

enum { MOST = 400, NEW = 24, HEADS = 8, CAP = 512 };

static void a_budget_that_covers_everything_equals_dense(void **state) {
    (void)state;
    int32_t tokens[MOST], plain[NEW], cut[NEW];
    sluice_engine *dense = run_open("engine.threads=2"), *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=400");
    int64_t n = run_tokens(dense, tokens, 120), vocab = dense->target.info->vocab;
    run_once(dense, tokens, n, NEW, plain);
    run_once(e, tokens, n, NEW, cut);
    assert_memory_equal(plain, cut, sizeof plain);
    float *a = malloc(sizeof *a * (size_t)(n * vocab)), *b = malloc(sizeof *b * (size_t)(n * vocab));
    sluice_session *s = run_session(dense, tokens, n), *t = run_session(e, tokens, n);
    assert_int_equal(sluice_logits(s, n, a, NULL), SLUICE_OK);
    assert_int_equal(sluice_logits(t, n, b, NULL), SLUICE_OK);
    assert_memory_equal(a, b, sizeof *a * (size_t)(n * vocab));
    free(a);
    free(b);
    sluice_close(dense);
    sluice_close(e);
}

/* ---- brute force ----------------------------------------------------------------------------------------------------------- */

/* What one KV head should hold, by the algorithm itself. */
typedef struct oracle {
    int64_t n;
    int32_t token[CAP];
    float key[CAP][64];
    double score[CAP];
} oracle;

/* Attends with the query heads of one row to what is held, the row's own key included. */
static void attend(oracle *o, const sl_layer_info *info, int32_t head, const float *q, const float *k, int32_t token) {
    const float *keys[CAP];
    int32_t group = info->n_heads / info->n_kv_heads;
    memcpy(o->key[o->n], k + head * info->head_dim, sizeof(float) * (size_t)info->head_dim);
    o->score[o->n] = 0;
    o->token[o->n++] = token;
    for (int64_t i = 0; i < o->n; i++)
        keys[i] = o->key[i];
    for (int32_t g = 0; g < group; g++)
        run_softmax(q + (head * group + g) * info->head_dim, keys, o->n, info->head_dim, info->attn_scale, o->score);
}

/* The engine's choice must be right for these scores; afterwards the oracle holds the same rows. */
static void follow(oracle *o, const int32_t *held, int64_t n_held, int64_t budget, int64_t recent) {
    uint8_t stays[CAP] = {0};
    int64_t at = 0;
    for (int64_t i = 0; i < o->n && at < n_held; i++)
        if (held[at] == o->token[i])
            stays[i] = 1, at++;
    assert_int_equal(at, n_held);
    assert_int_equal(n_held, o->n < budget ? o->n : budget);
    for (int64_t i = o->n - recent; o->n > budget && i < o->n; i++)
        assert_true(stays[i]);
    if (o->n > budget)
        run_check_top(o->score, o->n - recent, budget - recent, stays, 1e-4);
    int64_t kept = 0;
    for (int64_t i = 0; i < o->n; i++)
        if (stays[i]) {
            o->token[kept] = o->token[i];
            o->score[kept] = o->score[i];
            memmove(o->key[kept++], o->key[i], sizeof o->key[i]);
        }
    o->n = kept;
}

/* Rows of a step of one layer and head go through the oracle one by one, then the cut. */
static void check_step(sluice_engine *e, sluice_session *s, oracle *oracles, const run_taps *taps, int32_t first, int32_t n, int64_t budget,
                       int64_t recent, int is_cut) {
    int32_t held[CAP];
    for (int32_t l = 0; l < e->target.info->n_layers; l++) {
        const sl_layer_info *info = e->target.info->layers[l];
        assert_int_equal(info->head_dim, 64);
        for (int32_t h = 0; h < info->n_kv_heads; h++) {
            oracle *o = &oracles[l * HEADS + h];
            for (int32_t i = 0; i < n; i++)
                attend(o, info, h, taps->q[l] + i * info->n_heads * 64, taps->k[l] + i * info->n_kv_heads * 64, first + i);
            if (is_cut)
                follow(o, held, run_held(e, s, l, h, held), budget, recent);
        }
    }
}

static void rows_are_those_of_brute_force(void **state) {
    (void)state;
    int32_t tokens[MOST];
    run_taps taps = {0};
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40");
    int64_t n = run_tokens(e, tokens, 110);
    oracle *oracles = calloc((size_t)e->target.info->n_layers * HEADS, sizeof *oracles);
    assert_non_null(oracles);
    sluice_session *s = run_session(e, tokens, 80);
    run_rows(e, s, 50, SL_STAGE_PREFILL, &taps);
    check_step(e, s, oracles, &taps, 0, 50, 40, 20, 0); /* the end of a chunk is not the end of the prompt */
    run_rows(e, s, 30, SL_STAGE_PREFILL, &taps);
    check_step(e, s, oracles, &taps, 50, 30, 40, 20, 1);
    for (int32_t i = 80; i < n; i++) {
        assert_int_equal(sluice_session_append(s, tokens + i, 1, NULL), SLUICE_OK);
        run_rows(e, s, 1, SL_STAGE_DECODE, &taps);
        check_step(e, s, oracles, &taps, i, 1, 40, 20, 1);
    }
    free(oracles);
    run_taps_free(&taps);
    sluice_close(e);
}

/* ---- how the prompt came, who shared the batch -------------------------------------------------------------------------------- */

static void chunks_and_batches_change_nothing(void **state) {
    (void)state;
    int32_t tokens[MOST], held[2][4096] = {{0}}, text[2][NEW];
    const char *chunk[2] = {"engine.prefill_chunk=512", "engine.prefill_chunk=7"};
    for (int i = 0; i < 2; i++) {
        sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40", chunk[i]);
        int64_t n = run_tokens(e, tokens, 120);
        sluice_session *s[5];
        for (int k = 0; k < 5; k++)
            s[k] = run_session(e, tokens + (k > 0 ? 3 * k : 0), n - (k > 0 ? 7 * k : 0));
        run_generate(e, s, i == 0 ? 1 : 5, NEW); /* alone, then among others */
        assert_int_equal(run_held_all(e, s[0], held[i]), 40 * e->target.info->n_layers * e->target.info->layers[0]->n_kv_heads);
        memcpy(text[i], sluice_session_tokens(s[0]) + n, sizeof text[i]);
        for (int k = 1; k < 5 && i == 1; k++) { /* and the others do not mind either */
            int32_t alone[NEW], among[NEW];
            memcpy(among, sluice_session_tokens(s[k]) + n - 7 * k, sizeof among);
            sluice_session_close(s[k]);
            run_once(e, tokens + 3 * k, n - 7 * k, NEW, alone);
            assert_memory_equal(alone, among, sizeof alone);
        }
        sluice_close(e);
    }
    assert_memory_equal(held[0], held[1], sizeof held[0]);
    assert_memory_equal(text[0], text[1], sizeof text[0]);
}

/* ---- forks, cuts, speculation ----------------------------------------------------------------------------------------------------- */

static void forks_go_their_own_ways(void **state) {
    (void)state;
    int32_t tokens[MOST], alone[2][NEW];
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40");
    run_tokens(e, tokens, 120);
    sluice_error err = {0};
    for (int i = 0; i < 2; i++) { /* two questions behind one context, each in a session of its own */
        sluice_session *s = run_session(e, tokens, 90);
        assert_int_equal(sluice_score(s, 1, NULL, NULL, &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(s, tokens + 90 + 10 * i, 10, &err), SLUICE_OK);
        run_generate(e, &s, 1, NEW);
        memcpy(alone[i], sluice_session_tokens(s) + 100, sizeof alone[i]);
        sluice_session_close(s);
    }
    sluice_session *context = run_session(e, tokens, 90), *fork[2];
    assert_int_equal(sluice_score(context, 1, NULL, NULL, &err), SLUICE_OK);
    int32_t before[4096], after[4096];
    int held = run_held_all(e, context, before);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sluice_session_fork(context, -1, &fork[i], &err), SLUICE_OK);
        assert_int_equal(sluice_session_append(fork[i], tokens + 90 + 10 * i, 10, &err), SLUICE_OK);
    }
    run_generate(e, fork, 2, NEW);
    for (int i = 0; i < 2; i++)
        assert_memory_equal(sluice_session_tokens(fork[i]) + 100, alone[i], sizeof alone[i]);
    assert_int_equal(run_held_all(e, context, after), held);
    assert_memory_equal(before, after, sizeof *before * (size_t)held);
    /* where rows are gone, neither a fork nor a cut can pretend that they are there; at 0 everything begins anew */
    sluice_session *early = NULL;
    assert_true(sluice_session_fork(context, 60, &early, &err) < 0);
    assert_non_null(strstr(err.text, "90"));
    assert_true(sluice_session_truncate(context, 60, &err) < 0);
    assert_non_null(strstr(err.text, "shortest: 90"));
    assert_true(sluice_session_save(context, "/dev/null", &err) < 0);
    assert_int_equal(sluice_session_truncate(context, 0, &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(context, tokens, 100, &err), SLUICE_OK);
    run_generate(e, &context, 1, NEW);
    int32_t fresh[NEW];
    run_once(e, tokens, 100, NEW, fresh);
    assert_memory_equal(fresh, sluice_session_tokens(context) + 100, sizeof fresh);
    sluice_close(e);
}

static void lost_sums_are_told(void **state) {
    (void)state;
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=60");
    int64_t n = run_tokens(e, tokens, 120);
    sluice_error err = {0};
    sluice_sampling p;
    sluice_session *s = run_session(e, tokens, 50);
    assert_int_equal(sluice_score(s, 1, NULL, NULL, &err), SLUICE_OK); /* counted, and short enough to stay whole */
    assert_int_equal(sluice_session_truncate(s, 30, &err), SLUICE_OK);
    assert_int_equal(sluice_session_append(s, tokens + 30, 20, &err), SLUICE_OK);
    sluice_default_sampling(e, &p);
    p.max_tokens = 4, p.ignore_eos = 1;
    assert_int_equal(sluice_generate(e, &s, 1, &p, 1, NULL, NULL, &err), SLUICE_OK); /* still within the budget */
    assert_int_equal(sluice_session_append(s, tokens + 50, n - 50, &err), SLUICE_OK);
    assert_true(sluice_generate(e, &s, 1, &p, 1, NULL, NULL, &err) < 0);
    assert_non_null(strstr(err.text, "cut below"));

    /* a file holds rows, not what they looked at */
    char path[] = "/tmp/sluice_h2o_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    sluice_session *saved = run_session(e, tokens, 50), *loaded = NULL;
    assert_int_equal(sluice_score(saved, 1, NULL, NULL, &err), SLUICE_OK);
    assert_int_equal(sluice_session_save(saved, path, &err), SLUICE_OK);
    assert_int_equal(sluice_session_open(e, &loaded, &err), SLUICE_OK);
    assert_int_equal(sluice_session_load(loaded, path, &err), SLUICE_OK);
    remove(path);
    assert_int_equal(sluice_session_append(loaded, tokens + 50, n - 50, &err), SLUICE_OK);
    assert_true(sluice_generate(e, &loaded, 1, &p, 1, NULL, NULL, &err) < 0);
    assert_non_null(strstr(err.text, "loaded from a file"));
    sluice_close(e);
}

static void one_shot_goes_with_speculation(void **state) {
    (void)state;
    int32_t tokens[MOST], plain[64], drafted[64], held[CAP];
    sluice_engine *a = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40", "kvcache.policy.window=8",
                                "kvcache.policy.decode_interval=0");
    sluice_engine *b = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40", "kvcache.policy.window=8",
                                "kvcache.policy.decode_interval=0", "speculation.plugin=prompt_lookup");
    int64_t n = run_tokens(a, tokens, 120);
    run_once(a, tokens, n, 64, plain);
    sluice_session *s = run_session(b, tokens, n);
    run_generate(b, &s, 1, 64);
    memcpy(drafted, sluice_session_tokens(s) + n, sizeof drafted);
    assert_memory_equal(plain, drafted, sizeof plain);
    sluice_stats stats;
    sluice_get_stats(b, &stats);
    assert_true(stats.accepted > 0 && stats.accepted < stats.drafted); /* some were kept, some refused */
    int64_t rows = run_held(b, s, 0, 0, held);
    assert_int_equal(rows, 40 + s->n_kv - n);
    for (int64_t i = 32; i < rows; i++)
        assert_int_equal(held[i], s->n_kv - rows + i);
    sluice_close(a);
    sluice_close(b);
}

/* Rows of refused drafts do not count: with drafts that step cuts later, but every sum is one of accepted rows. The
 * scores of a head add up to one for each accepted row and query head, whatever was drafted. */
static void refused_drafts_leave_no_trace_in_the_sums(void **state) {
    (void)state;
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=300", "engine.deterministic=no",
                                "speculation.plugin=prompt_lookup");
    int64_t n = run_tokens(e, tokens, 120);
    sluice_session *s = run_session(e, tokens, n);
    run_generate(e, &s, 1, 64);
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_true(stats.accepted > 0 && stats.accepted < stats.drafted);
    for (int32_t l = 0; l < e->target.info->n_layers; l++) {
        int32_t heads, K = e->target.info->layers[l]->n_kv_heads, G = e->target.info->layers[l]->n_heads / K;
        int64_t stride;

        const float *sums = sli_sums_of(&e->target, 0, l, s->id, &heads, &stride);
        assert_non_null(sums);
        assert_int_equal(heads, K);
        for (int32_t h = 0; h < heads; h++) {
            double total = 0, behind = 0;
            for (int64_t i = 0; i < s->n_kv; i++)
                total += sums[h * stride + i];
            for (int64_t i = s->n_kv; i < stride; i++)
                behind += fabsf(sums[h * stride + i]);
            assert_true(fabs(total - (double)(s->n_kv * G)) < 1e-2 && behind == 0);
        }
    }
    sluice_close(e);
}

static void memory_is_constant_while_decoding(void **state) {
    (void)state;
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=46", "engine.max_seqs=1");
    int64_t n = run_tokens(e, tokens, 120), row = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        row += 2 * 4 * (int64_t)e->target.info->layers[l]->n_kv_heads * e->target.info->layers[l]->head_dim;
    sluice_session *s = run_session(e, tokens, n);
    for (int i = 0; i < 4; i++) {
        run_generate(e, &s, 1, 20);
        assert_in_range(run_bytes_kv(e), 48 * row, 48 * row * 102 / 100); /* 46 rows and two to come, in pages of 16 */
    }
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_int_equal(stats.tokens, 80);
    sluice_close(e);
}

static void chains_and_parameters(void **state) {
    (void)state;
    int32_t tokens[MOST], held[CAP];
    /* the first policy cuts to 60, the second what is left to 40 - 1 */
    sluice_engine *e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=60", "kvcache.policy 2.plugin=streaming",
                                "kvcache.policy 2.budget=40");
    int64_t n = run_tokens(e, tokens, 120);
    sluice_session *s = run_session(e, tokens, n);
    run_generate(e, &s, 1, 4);
    assert_int_equal(run_held(e, s, 0, 0, held), 39);
    sluice_close(e);
    e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.heavy_ratio=0.1", "kvcache.policy.recent_ratio=0.2");
    s = run_session(e, tokens, 100);
    run_generate(e, &s, 1, 4);
    assert_int_equal(run_held(e, s, 0, 0, held), 30);
    sluice_close(e);
    e = run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=0.5", "kvcache.policy.decode_interval=8", "kvcache.policy.group_agg=max",
                 "kvcache.policy.sinks=2");
    s = run_session(e, tokens, 99);
    run_generate(e, &s, 1, 8); /* 7 tokens behind the cut at 49 rows */
    assert_int_equal(run_held(e, s, 1, 1, held), 56);
    assert_int_equal(held[0], 0);
    assert_int_equal(held[1], 1);
    run_generate(e, &s, 1, 1);
    sluice_close(e);
    run_refused("decode_interval", "kvcache.policy.plugin=h2o", "speculation.plugin=prompt_lookup");
    run_refused("leaves no row", "kvcache.policy.plugin=h2o", "kvcache.policy.budget=20", "kvcache.policy.decode_interval=0");
    run_refused("together", "kvcache.policy.plugin=h2o", "kvcache.policy.heavy_ratio=0.1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_that_covers_everything_equals_dense),
        cmocka_unit_test(rows_are_those_of_brute_force),
        cmocka_unit_test(chunks_and_batches_change_nothing),
        cmocka_unit_test(forks_go_their_own_ways),
        cmocka_unit_test(lost_sums_are_told),
        cmocka_unit_test(one_shot_goes_with_speculation),
        cmocka_unit_test(refused_drafts_leave_no_trace_in_the_sums),
        cmocka_unit_test(memory_is_constant_while_decoding),
        cmocka_unit_test(chains_and_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
