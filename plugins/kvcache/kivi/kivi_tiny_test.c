/* kivi on models/tiny: what the sheet promises of whole sequences, with attention plugins and policies on top of it. */
#include "engine_run.h"

#include <unistd.h>

enum { MOST = 420, NEW = 24, CAP = 512 };

#define KIVI "kvcache.plugin=kivi"

/* A longer prompt: the text several times, each time from a place further on. */
static int64_t long_prompt(sluice_engine *e, int32_t *tokens, int64_t n) {
    int32_t once[MOST];
    int64_t m = run_tokens(e, once, MOST);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = once[(i + i / m * 17) % m];
    return n;
}

static float *logits_of(sluice_session *s, int64_t n) {
    float *x = malloc(sizeof *x * (size_t)(n * s->engine->target.info->vocab));
    sluice_error err = {0};
    assert_non_null(x);
    if (sluice_logits(s, n, x, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    return x;
}

static void plain_settings_equal_dense(void **state) {
    (void)state;
    static const char *const ways[][3] = {
        {"kvcache.bits=16", "kvcache.residual=32", NULL},
        {"kvcache.bits=2", "kvcache.residual=512", NULL},
        {"kvcache.bits=2", "kvcache.residual=1024", "speculation.plugin=prompt_lookup"}};
    int32_t tokens[MOST], dense[64], out[64];
    sluice_engine *e = run_open("engine.threads=2");
    int64_t n = long_prompt(e, tokens, 250), vocab = e->target.info->vocab;
    run_once(e, tokens, n, 64, dense);
    sluice_session *s = run_session(e, tokens, n);
    float *expected = logits_of(s, n);
    for (int i = 0; i < 3; i++) {
        sluice_engine *k = run_open(KIVI, ways[i][0], ways[i][1], ways[i][2]);
        run_once(k, tokens, n, 64, out);
        assert_memory_equal(dense, out, sizeof dense);
        sluice_session *t = run_session(k, tokens, n);
        float *got = logits_of(t, n);
        assert_memory_equal(expected, got, sizeof *got * (size_t)(n * vocab));
        free(got);
        sluice_close(k);
    }
    free(expected);
    sluice_close(e);
}

/* A prompt attends to plain rows, whatever its chunks; so does every step up to R tokens. */
static void prompts_and_short_sequences_are_exact(void **state) {
    (void)state;
    int32_t tokens[MOST], dense[30], out[30];
    sluice_engine *e = run_open("engine.threads=1");
    sluice_engine *k = run_open(KIVI, "kvcache.bits=2", "kvcache.residual=64", "engine.prefill_chunk=7");
    int64_t n = long_prompt(e, tokens, 300), vocab = e->target.info->vocab;
    sluice_session *s = run_session(e, tokens, n), *t = run_session(k, tokens, n);
    float *a = logits_of(s, n), *b = logits_of(t, n);
    assert_memory_equal(a, b, sizeof *a * (size_t)(n * vocab));
    free(a);
    free(b);
    run_once(e, tokens, 34, 30, dense);
    run_once(k, tokens, 34, 30, out);
    assert_memory_equal(dense, out, sizeof dense);
    sluice_close(e);
    sluice_close(k);
}

/* Rows as floats, layer by layer, from one engine's store to another's. */
static void move_rows(sluice_engine *from, const sluice_session *s, sluice_engine *to, sluice_session *t) {
    SL_ERROR(err);
    for (int32_t l = 0; l < from->target.info->n_layers; l++) {
        const sl_layer_info *info = from->target.info->layers[l];
        int64_t bytes = s->n_kv * info->n_kv_heads * (info->head_dim + info->v_head_dim) * 4;
        sl_kv_copy c = {.struct_size = SL_SIZE(sl_kv_copy),
                        .buffer = malloc((size_t)bytes),
                        .end = s->n_kv,
                        .bytes = bytes,
                        .layer = l,
                        .seq = s->id,
                        .direction = SL_COPY_EXPORT,
                        .dtype = SL_F32};
        assert_int_equal(from->target.layers[l].store->api->copy_rows(from->target.layers[l].store->self, &c, &err),
                         SL_OK);
        c.seq = t->id;
        c.direction = SL_COPY_IMPORT;
        if (to->target.layers[l].store->api->copy_rows(to->target.layers[l].store->self, &c, &err) < 0)
            fail_msg("%s", err.text);
        free(c.buffer);
    }
    t->n_kv = s->n_kv;
}

/* Decoding over codes equals decoding over a dense cache that holds their values, bit by bit: in one step (after it the
 * store codes more). */
static void packed_attention_equals_unpacked(void **state) {
    (void)state;
    static const char *const ways[][3] = {{"kvcache.bits=2", "kvcache.residual=32", "kvcache.group_size=32"},
                                          {"kvcache.bits=4", "kvcache.residual=64", "kvcache.group_size=64"},
                                          {"kvcache.bits_k=8", "kvcache.bits_v=2", "kvcache.residual=96"},
                                          {"kvcache.bits_k=16", "kvcache.bits_v=4", "kvcache.residual=32"}};
    for (int i = 0; i < 4; i++) {
        int32_t tokens[MOST];
        sluice_engine *k =
            run_open(KIVI, ways[i][0], ways[i][1], ways[i][2], i % 2 ? "engine.isa=auto" : "engine.isa=avx2");
        sluice_engine *d = run_open("kvcache.dtype=f32", i % 2 ? "engine.isa=auto" : "engine.isa=avx2");
        int64_t n = long_prompt(k, tokens, 303);
        sluice_session *s = run_session(k, tokens, n);
        run_rows(k, s, 280, SL_STAGE_PREFILL, NULL);
        s->n_prompt = s->n_kv;
        for (int step = 0; step < 20; step++) { /* the prompt was cut short; its end goes token by token */
            run_rows(k, s, 1, SL_STAGE_DECODE, NULL);
            if (step % 5 != 4)
                continue;
            sluice_session *t = run_session(d, tokens, n);
            SL_ERROR(err);
            assert_int_equal(sli_network_seq_grow(&d->target, t->id, n, &err), SL_OK);
            move_rows(k, s, d, t);
            int64_t pending = n - t->n_kv;
            float *a = logits_of(t, pending);
            sluice_session *fork;
            assert_int_equal(sluice_session_fork(s, n, &fork, NULL), SLUICE_OK);
            float *b = logits_of(fork, pending);
            assert_memory_equal(a, b, sizeof *a * (size_t)(pending * k->target.info->vocab));
            free(a);
            free(b);
            sluice_session_close(fork);
            sluice_session_close(t);
        }
        sluice_close(k);
        sluice_close(d);
    }
}

/* Everything that a session holds, as floats of layer l. */
static void rows_of_layer(sluice_engine *e, const sluice_session *s, int32_t l, float *out, int64_t floats) {
    sl_kv_copy c = {.struct_size = SL_SIZE(sl_kv_copy),
                    .buffer = out,
                    .end = s->n_kv,
                    .bytes = floats * 4,
                    .layer = l,
                    .seq = s->id,
                    .direction = SL_COPY_EXPORT,
                    .dtype = SL_F32};
    memset(out, 0, (size_t)floats * sizeof *out);
    assert_int_equal(e->target.layers[l].store->api->copy_rows(e->target.layers[l].store->self, &c, NULL), SL_OK);
}

static void chunks_batches_threads_and_turns_change_nothing(void **state) {
    (void)state;
    static const char *const ways[][2] = {{"engine.prefill_chunk=512", "engine.threads=1"},
                                          {"engine.prefill_chunk=7", "engine.threads=2"},
                                          {"engine.prefill_chunk=64", "engine.threads=2"}};
    static int32_t text[3][60];
    int32_t tokens[MOST];
    for (int i = 0; i < 3; i++) {
        sluice_engine *e = run_open(KIVI, "kvcache.residual=32", ways[i][0], ways[i][1]);
        long_prompt(e, tokens, 300);
        sluice_session *s[5];
        for (int k = 0; k < 5; k++)
            s[k] = run_session(e, tokens + 3 * k, 200 - 13 * k);
        int n_sessions = i == 0 ? 1 : 5;
        run_generate(e, s, n_sessions, 30);
        for (int k = 0; k < n_sessions; k++) /* a second turn attends to codes of the first */
            assert_int_equal(sluice_session_append(s[k], tokens, 40, NULL), SLUICE_OK);
        run_generate(e, s, n_sessions, 30);
        memcpy(text[i], sluice_session_tokens(s[0]) + 200, sizeof(int32_t) * 30);
        memcpy(text[i] + 30, sluice_session_tokens(s[0]) + 270, sizeof(int32_t) * 30);
        assert_true(e->stats.allocs_in_steps == 0);
        sluice_close(e);
    }
    assert_memory_equal(text[0], text[1], sizeof text[0]);
    assert_memory_equal(text[0], text[2], sizeof text[0]);
}

static void forks_files_and_cuts(void **state) {
    (void)state;
    char path[] = "/tmp/sluice-kivi-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    static float a[CAP * 2 * 8 * 64], b[CAP * 2 * 8 * 64];
    int32_t tokens[MOST];
    sluice_error err = {0};
    sluice_engine *e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=64");
    int64_t n = long_prompt(e, tokens, 230);
    sluice_session *s = run_session(e, tokens, n), *fork, *loaded;
    run_generate(e, &s, 1, 20);
    assert_int_equal(sluice_session_fork(s, -1, &fork, NULL), SLUICE_OK);
    if (sluice_session_save(s, path, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(sluice_session_open(e, &loaded, NULL), SLUICE_OK);
    if (sluice_session_load(loaded, path, &err) != SLUICE_OK)
        fail_msg("%s", err.text);
    unlink(path);
    run_generate(e, &s, 1, 80);
    run_generate(e, &fork, 1, 80);
    run_generate(e, &loaded, 1, 80);
    assert_memory_equal(sluice_session_tokens(s), sluice_session_tokens(fork), sizeof(int32_t) * (size_t)s->n);
    assert_memory_equal(sluice_session_tokens(s), sluice_session_tokens(loaded), sizeof(int32_t) * (size_t)s->n);
    for (int32_t l = 0; l < e->target.info->n_layers; l++) {
        rows_of_layer(e, s, l, a, sizeof a / sizeof *a);
        rows_of_layer(e, fork, l, b, sizeof b / sizeof *b);
        assert_memory_equal(a, b, sizeof a);
        rows_of_layer(e, loaded, l, b, sizeof b / sizeof *b);
        assert_memory_equal(a, b, sizeof a);
    }
    /* a cut leaves the rows in front of it as they are, plain or coded */
    rows_of_layer(e, fork, 2, a, sizeof a / sizeof *a);
    assert_int_equal(sluice_session_truncate(fork, 170, NULL), SLUICE_OK);
    rows_of_layer(e, fork, 2, b, sizeof b / sizeof *b);
    assert_memory_equal(a, b, sizeof(float) * 170 * (size_t)(e->target.info->layers[2]->n_kv_heads * 64));
    run_generate(e, &fork, 1, 40);
    sluice_close(e);
    e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=64", "kvcache.truncate=exact");
    s = run_session(e, tokens, n);
    run_generate(e, &s, 1, 20);
    assert_true(sluice_session_truncate(s, 170, &err) < 0);
    assert_non_null(strstr(err.text, "cannot be cut"));
    run_generate(e, &s, 1, 5); /* unharmed */
    sluice_close(e);
}

/* ---- memory
 * ---------------------------------------------------------------------------------------------------------- */

/* One block of each kind a head: what the place of blocks between rows may cost. Checked memory has walls, which count.
 */
static int64_t spare_blocks(const sluice_engine *e) {
    int64_t bytes = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++)
        bytes += e->target.info->layers[l]->n_kv_heads * 2 * 32 * 64 * (4 + 1);
    return bytes;
}

static void the_ledger_is_the_quote(void **state) {
    (void)state;
    static const char *const bits[] = {"kvcache.bits=2", "kvcache.bits=4", "kvcache.bits=8", "kvcache.bits=16"};
    int32_t tokens[MOST];
    int64_t bytes[4];
    for (int i = 0; i < 4; i++) {
        sluice_engine *e = run_open(KIVI, bits[i], "kvcache.residual=32", "engine.max_seqs=1", "engine.validate=no");
        sluice_session *s = run_session(e, tokens, long_prompt(e, tokens, 400));
        run_generate(e, &s, 1, 49); /* 448 rows: whole groups */
        sl_kv_quote q = {
            .struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = s->n_kv, .stage = SL_STAGE_DECODE};
        assert_int_equal(s->n_kv, 448);
        assert_int_equal(e->target.stores[0].api->quote(e->target.stores[0].self, &q), SL_OK);
        bytes[i] = run_bytes_kv(e);
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        int64_t n, own;
        assert_int_equal(e->target.stores[0].api->length(e->target.stores[0].self, s->id, &n, &own), SL_OK);
        assert_int_equal(own, q.bytes);
        int64_t spare = spare_blocks(e); /* for the rows that grow promised */
        assert_in_range(bytes[i], q.bytes, q.bytes + spare);
        sluice_session_close(s);
        /* with room for exactly the rows that come, within 2 percent */
        s = run_session(e, tokens, 400);
        float *x = logits_of(s, 1);
        free(x);
        q.n_tokens = 400;
        assert_int_equal(e->target.stores[0].api->quote(e->target.stores[0].self, &q), SL_OK);
        assert_in_range(run_bytes_kv(e), q.bytes, q.bytes * 102 / 100);
        sluice_close(e);
    }
    assert_true(bytes[0] * 4 < bytes[3] && bytes[1] * 3 < bytes[3] && bytes[2] * 2 < bytes[3]);
}

/* ---- other plugins on it
 * --------------------------------------------------------------------------------------------- */

/* A token budget that covers everything: the same tokens as dense attention over the same store; a smaller one selects
 * by scores of coded keys and still goes through. */
static void tidaldecode_selects_over_codes(void **state) {
    (void)state;
    int32_t tokens[MOST], dense[NEW], out[NEW];
    sluice_engine *e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=32");
    int64_t n = long_prompt(e, tokens, 260);
    run_once(e, tokens, n, NEW, dense);
    sluice_close(e);
    e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=32", "attention.plugin=tidaldecode",
                 "attention.token_budget=512");
    run_once(e, tokens, n, NEW, out);
    assert_memory_equal(dense, out, sizeof dense);
    sluice_close(e);
    int32_t sparse[2][NEW];
    for (int i = 0; i < 2; i++) { /* the same lists over the same values: codes, or f32 rows that 16 bits keep */
        e = run_open(KIVI, i ? "kvcache.bits=8" : "kvcache.bits=16", "kvcache.residual=32",
                     "attention.plugin=tidaldecode", "attention.token_budget=64");
        run_once(e, tokens, n, NEW, sparse[i]);
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        assert_int_equal(e->stats.allocs_in_steps, 0);
        sluice_close(e);
    }
    assert_memory_equal(sparse[0], sparse[1], sizeof(int32_t) * 4);
}

/* At the end of a prompt policies meet plain rows: they keep what they keep over a dense store, and groups are formed
 * of what is left. Bytes are those of as many rows. */
static void policies_choose_as_over_a_dense_store(void **state) {
    (void)state;
    static const char *const policies[][3] = {
        {"kvcache.policy.plugin=streaming", "kvcache.policy.budget=97", "kvcache.policy.decode_interval=0"},
        {"kvcache.policy.plugin=snapkv", "kvcache.policy.budget=96", "kvcache.policy.window=16"},
        {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=97", "kvcache.policy.decode_interval=0"}};
    for (int i = 0; i < 3; i++) {
        int32_t tokens[MOST], held[2][CAP];
        sluice_engine *d = run_open(policies[i][0], policies[i][1], policies[i][2]);
        sluice_engine *e = run_open(KIVI, "kvcache.bits=2", "kvcache.residual=32", "engine.prefill_chunk=50",
                                    "engine.validate=no", policies[i][0], policies[i][1], policies[i][2]);
        int64_t n = long_prompt(e, tokens, 300);
        sluice_session *s = run_session(d, tokens, n), *t = run_session(e, tokens, n);
        free(logits_of(s, 1));
        free(logits_of(t, 1));
        for (int32_t l = 0; l < e->target.info->n_layers; l++)
            for (int32_t h = 0; h < e->target.info->layers[l]->n_kv_heads; h++) {
                int64_t kept = run_held(d, s, l, h, held[0]);
                assert_int_equal(run_held(e, t, l, h, held[1]), kept);
                assert_memory_equal(held[0], held[1], sizeof(int32_t) * (size_t)kept);
            }
        sluice_close(d); /* the ledger counts all engines */
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote),
                         .n_seqs = 1,
                         .n_tokens = run_held(e, t, 0, 0, held[0]),
                         .stage = SL_STAGE_DECODE};
        assert_int_equal(e->target.stores[0].api->quote(e->target.stores[0].self, &q), SL_OK);
        assert_in_range(run_bytes_kv(e), q.bytes, q.bytes * 102 / 100);
        assert_int_equal(sluice_session_append(t, tokens, 1, NULL), SLUICE_OK);
        run_generate(e, &t, 1, 40);
        assert_int_equal(e->stats.allocs_in_steps, 0);
        sluice_close(e);
    }
}

/* Rows that are coded already are dropped while decoding: budgets hold, memory stays where it is. */
static void policies_drop_coded_rows(void **state) {
    (void)state;
    static const char *const policies[][2] = {{"kvcache.policy.plugin=streaming", "kvcache.policy.budget=128"},
                                              {"kvcache.policy.plugin=h2o", "kvcache.policy.budget=128"}};
    for (int i = 0; i < 2; i++) {
        int32_t tokens[MOST], held[CAP];
        sluice_engine *e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=32", "engine.max_seqs=2",
                                    "engine.validate=no", policies[i][0], policies[i][1]);
        sluice_session *s = run_session(e, tokens, long_prompt(e, tokens, 200));
        run_generate(e, &s, 1, 40);
        int64_t rows = run_held(e, s, 1, 1, held), n, own, first = run_bytes_kv(e);
        assert_in_range(rows, 126, 128);
        for (int64_t k = 1; k < rows; k++)
            assert_true(held[k] > held[k - 1]);
        run_generate(e, &s, 1, 200);
        assert_int_equal(run_held(e, s, 1, 1, held), rows);
        assert_int_equal(e->stats.allocs_in_steps, 0);
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = rows, .stage = SL_STAGE_DECODE};
        assert_int_equal(e->target.stores[0].api->quote(e->target.stores[0].self, &q), SL_OK);
        assert_int_equal(e->target.stores[0].api->length(e->target.stores[0].self, s->id, &n, &own), SL_OK);
        assert_in_range(own, q.bytes / 2, q.bytes * 2 + spare_blocks(e)); /* groups are at least half full */
        assert_in_range(run_bytes_kv(e), own, first + spare_blocks(e));
        sluice_session *fork;
        assert_int_equal(sluice_session_fork(s, -1, &fork, NULL), SLUICE_OK);
        sluice_session *both[2] = {s, fork};
        run_generate(e, both, 2, 20);
        assert_memory_equal(sluice_session_tokens(s), sluice_session_tokens(fork), sizeof(int32_t) * (size_t)s->n);
        assert_true(sluice_session_save(s, "no such folder/rows", NULL) < 0);
        sluice_close(e);
    }
}

/* Where tokens may depend on it, drafts are accepted a few at a time, and rejected ones leave nothing. */
static void drafters(void **state) {
    (void)state;
    static float a[CAP * 2 * 8 * 64];
    int32_t tokens[MOST];
    run_refused("leave speculation out", KIVI, "speculation.plugin=prompt_lookup");
    run_refused("engine.prefill_chunk", KIVI, "kvcache.chunked=yes");
    sluice_engine *e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=32", "speculation.plugin=prompt_lookup",
                                "engine.deterministic=no");
    sluice_session *s[3];
    long_prompt(e, tokens, 300);
    for (int k = 0; k < 3; k++)
        s[k] = run_session(e, tokens + 5 * k, 200 + 20 * k);
    run_generate(e, s, 3, 64);
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_true(stats.accepted > 0 && stats.drafted > stats.accepted);
    assert_int_equal(e->stats.allocs_in_steps, 0);
    for (int k = 0; k < 3; k++) {
        int64_t rows[16];
        assert_int_equal(s[k]->n, 264 + 20 * k);
        assert_int_equal(sli_network_rows(&e->target, 0, s[k]->id, rows), SL_OK);
        assert_int_equal(rows[0], s[k]->n_kv);
    }
    rows_of_layer(e, s[0], 0, a, sizeof a / sizeof *a);
    sluice_close(e);
    e = run_open(KIVI, "kvcache.bits=4", "kvcache.residual=32", "kvcache.chunked=yes", "engine.prefill_chunk=64",
                 "engine.deterministic=no");
    s[0] = run_session(e, tokens, 300);
    run_generate(e, s, 1, 30);
    assert_int_equal(e->stats.allocs_in_steps, 0);
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_settings_equal_dense),
        cmocka_unit_test(prompts_and_short_sequences_are_exact),
        cmocka_unit_test(packed_attention_equals_unpacked),
        cmocka_unit_test(chunks_batches_threads_and_turns_change_nothing),
        cmocka_unit_test(forks_files_and_cuts),
        cmocka_unit_test(the_ledger_is_the_quote),
        cmocka_unit_test(tidaldecode_selects_over_codes),
        cmocka_unit_test(policies_choose_as_over_a_dense_store),
        cmocka_unit_test(policies_drop_coded_rows),
        cmocka_unit_test(drafters),
    };
    return cmocka_run_group_tests_name("kivi_tiny", tests, NULL, NULL);
}
