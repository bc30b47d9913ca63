/* What eviction policies share, on models/tiny: cuts at the ends of chunks, budgets that heads share, cuts while
 * decoding. Each policy's own choice is tested beside it. */
#include "engine_run.h"

enum { MOST = 400, NEW = 8, CHUNK = 32, PROMPT = 112, CAP = 512 };

/* ---- chunks
 * ------------------------------------------------------------------------------------------------------------- */

static const char *const policies[][4] = {
    {"plugin=streaming", "budget=24", "sinks=4", "decode_interval=1"},
    {"plugin=streaming", "budget=0.25", "sinks=2", "decode_interval=0"},
    {"plugin=h2o", "budget=24", "group_agg=mean", "decode_interval=1"},
    {"plugin=h2o", "budget=24", "window=8", "decode_interval=0"},
    {"plugin=snapkv", "budget=24", "window=8", "kernel=3"},
    {"plugin=snapkv", "budget=0.3", "window=4", "head_budget=ada"},
};
enum { N_POLICIES = sizeof policies / sizeof *policies };

static sluice_engine *open_policy(int which, const char *set, const char *other) {
    char text[4][64];
    for (int i = 0; i < 4; i++)
        snprintf(text[i], sizeof text[i], "kvcache.policy.%s", policies[which][i]);
    return run_open("engine.prefill_chunk=32", text[0], text[1], text[2], text[3], set, other);
}

/* A chunk ends as a prompt does: the chunks of one prompt are turns of one conversation. Neighbours change nothing. */
static void chunks_are_turns(void **state) {
    (void)state;
    for (int which = 0; which < N_POLICIES; which++) {
        static int32_t held[3][8192];
        int32_t tokens[MOST], text[3][NEW];
        int n_held[3];
        for (int way = 0; way < 3; way++) {
            sluice_engine *e = open_policy(which, way == 0 ? "kvcache.policy.chunked=no" : "kvcache.policy.chunked=yes",
                                           way == 2 ? "engine.max_rows=40" : "engine.threads=1");
            assert_true(run_tokens(e, tokens, PROMPT) == PROMPT);
            sluice_session *s[3] = {run_session(e, tokens, way == 0 ? CHUNK : PROMPT)};
            for (int at = CHUNK; way == 0 && at < PROMPT; at += CHUNK) {
                assert_int_equal(sluice_prefill(s[0], 0, NULL), SLUICE_OK);
                assert_int_equal(
                    sluice_session_append(s[0], tokens + at, PROMPT - at < CHUNK ? PROMPT - at : CHUNK, NULL),
                    SLUICE_OK);
            }
            for (int i = 1; way == 2 && i < 3; i++)
                s[i] = run_session(e, tokens + 5 * i, 60 + 7 * i);
            run_generate(e, s, way == 2 ? 3 : 1, NEW);
            n_held[way] = run_held_all(e, s[0], held[way]);
            memcpy(text[way], sluice_session_tokens(s[0]) + PROMPT, sizeof text[way]);
            sluice_close(e);
        }
        for (int way = 1; way < 3; way++)
            if (n_held[0] != n_held[way] || memcmp(held[0], held[way], sizeof held[0][0] * (size_t)n_held[0]) != 0 ||
                memcmp(text[0], text[way], sizeof text[0]) != 0)
                fail_msg("%s: turns hold %d rows, chunks%s %d, or others", policies[which][0], n_held[0],
                         way == 2 ? " among others" : "", n_held[way]);
    }
}

typedef struct peak {
    const sluice_engine *engine;
    int64_t bytes, n_chunks;
} peak;

static int look(void *user, const sluice_chunk *chunk) {
    peak *p = user;
    int64_t bytes = run_bytes_kv(p->engine);
    if (chunk->prompt_done < chunk->prompt_total)
        p->n_chunks++;
    p->bytes = bytes > p->bytes ? bytes : p->bytes;
    return 0;
}

/* Room is taken chunk by chunk: a prompt never holds more than the budget and two chunks, in whole pages. */
static void memory_never_holds_the_prompt(void **state) {
    (void)state;
    for (int which = 0; which < N_POLICIES; which++) {
        int32_t tokens[MOST];
        int64_t bytes[2], row = 0;
        for (int chunked = 0; chunked < 2; chunked++) {
            sluice_engine *e = open_policy(which, chunked ? "kvcache.policy.chunked=yes" : "kvcache.policy.chunked=no",
                                           "engine.max_seqs=1");
            int64_t n = run_tokens(e, tokens, MOST);
            assert_in_range(n, 110, MOST); /* and again, until there are 330 */
            sluice_session *s = run_session(e, tokens, 110);
            for (int i = 0; i < 2; i++)
                assert_int_equal(sluice_session_append(s, tokens, 110, NULL), SLUICE_OK);
            peak p = {.engine = e};
            sluice_sampling how;
            sluice_default_sampling(e, &how);
            how.max_tokens = 2;
            how.ignore_eos = 1;
            assert_int_equal(sluice_generate(e, &s, 1, &how, 1, look, &p, NULL), SLUICE_OK);
            assert_true(p.n_chunks >= 9);
            bytes[chunked] = p.bytes;
            row = 0;
            for (int32_t l = 0; l < e->target.info->n_layers; l++)
                row += 2 * 4 * (int64_t)e->target.info->layers[l]->n_kv_heads * e->target.info->layers[l]->head_dim;
            sluice_close(e);
        }
        int64_t budget = strchr(policies[which][1], '.') != NULL ? 100 : 24, most = (budget + 2 * CHUNK + 31) / 16 * 16;
        assert_true(bytes[0] >= 330 * row);
        if (bytes[1] > most * row * 102 / 100)
            fail_msg("%s: %lld rows were held at once, expected at most %lld", policies[which][0],
                     (long long)(bytes[1] / row), (long long)most);
    }
}

/* ---- budgets that heads share
 * ------------------------------------------------------------------------------------------------ */

static void a_shared_budget_that_covers_everything_equals_dense(void **state) {
    (void)state;
    int32_t tokens[MOST], plain[NEW], cut[NEW];
    sluice_engine *dense = run_open("engine.threads=1");
    run_tokens(dense, tokens, PROMPT);
    run_once(dense, tokens, PROMPT, NEW, plain);
    sluice_close(dense);
    sluice_engine *e =
        run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=112", "kvcache.policy.head_budget=ada");
    run_once(e, tokens, PROMPT, NEW, cut);
    assert_memory_equal(plain, cut, sizeof plain);
    sluice_close(e);
}

/* Column sums of the last `window` queries over the keys in front of them, over the group, not pooled. */
static void observe(const sl_layer_info *info, int32_t head, const float *q, const float *k, int64_t n, int64_t window,
                    double *sum) {
    static double all[CAP];
    const float *keys[CAP];
    int32_t group = info->n_heads / info->n_kv_heads;
    for (int64_t i = 0; i < n; i++)
        keys[i] = k + (i * info->n_kv_heads + head) * info->head_dim;
    memset(all, 0, sizeof all);
    for (int32_t g = 0; g < group; g++)
        for (int64_t i = n - window; i < n; i++)
            run_softmax(q + (i * info->n_heads + head * group + g) * info->head_dim, keys, i + 1, info->head_dim,
                        info->attn_scale, all);
    memcpy(sum, all, sizeof *sum * (size_t)(n - window));
}

/* AdaKV: of each head its own best fifth, the rest are the best of all heads. */
static void shared_rows_are_those_of_brute_force(void **state) {
    (void)state;
    enum { WINDOW = 12, BUDGET = 42, EACH = BUDGET - WINDOW, SAFE = EACH / 5, FRONT = PROMPT - WINDOW, HEADS = 8 };
    int32_t tokens[MOST], held[CAP];
    static double sum[HEADS * FRONT], own[FRONT];
    static uint8_t stays[HEADS * FRONT];
    run_taps taps = {0};
    sluice_engine *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=42", "kvcache.policy.window=12",
                                "kvcache.policy.kernel=1", "kvcache.policy.head_budget=ada");
    run_tokens(e, tokens, PROMPT);
    sluice_session *s = run_session(e, tokens, PROMPT);
    run_rows(e, s, PROMPT, SL_STAGE_PREFILL, &taps);
    int differ = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++) {
        const sl_layer_info *info = e->target.info->layers[l];
        int32_t K = info->n_kv_heads;
        assert_in_range(K, 2, HEADS);
        memset(stays, 0, sizeof stays);
        for (int32_t h = 0; h < K; h++) {
            int64_t n = run_held(e, s, l, h, held);
            assert_true(n >= WINDOW + SAFE);
            differ |= n != BUDGET;
            for (int64_t i = 0; i < n - WINDOW; i++)
                stays[h * FRONT + held[i]] = 1;
            for (int64_t i = 0; i < WINDOW; i++)
                assert_int_equal(held[n - WINDOW + i], FRONT + i);
            observe(info, h, taps.q[l], taps.k[l], PROMPT, WINDOW, sum + h * FRONT);
            /* its best SAFE rows are safe: they get a score that no other has */
            memcpy(own, sum + h * FRONT, sizeof own);
            for (int k = 0; k < SAFE; k++) {
                int best = 0;
                for (int i = 1; i < FRONT; i++)
                    best = own[i] > own[best] ? i : best;
                own[best] = -1;
                sum[h * FRONT + best] += 1e6;
            }
        }
        run_check_top(sum, K * FRONT, K * EACH, stays, 1e-4);
    }
    assert_true(differ);
    run_taps_free(&taps);
    sluice_close(e);
}

static void h2o_shares_budgets_too(void **state) {
    (void)state;
    int32_t tokens[MOST], held[CAP];
    sluice_engine *e =
        run_open("kvcache.policy.plugin=h2o", "kvcache.policy.budget=40", "kvcache.policy.head_budget=ada");
    run_tokens(e, tokens, PROMPT);
    sluice_session *s = run_session(e, tokens, PROMPT);
    run_generate(e, &s, 1, NEW); /* a cut every step: heads go on from lengths of their own */
    int differ = 0;
    for (int32_t l = 0; l < e->target.info->n_layers; l++) {
        int64_t all = 0, K = e->target.info->layers[l]->n_kv_heads;
        for (int32_t h = 0; h < K; h++) {
            int64_t n = run_held(e, s, l, h, held);
            differ |= n != 40;
            all += n;
            for (int64_t i = 1; i <= 20; i++) /* the newest half of the budget */
                assert_int_equal(held[n - i], s->n_kv - i);
        }
        assert_int_equal(all, 40 * K);
    }
    assert_true(differ);
    sluice_close(e);
}

/* ---- snapkv while decoding
 * ---------------------------------------------------------------------------------------------------- */

/* With decode_interval = 3 the three tokens decoded since the last cut observe, over what is held. */
static void decoded_tokens_observe(void **state) {
    (void)state;
    enum { WINDOW = 4, BUDGET = 40, EVERY = 3, ROUNDS = 4 };
    int32_t tokens[MOST], before[CAP], held[CAP];
    run_taps taps = {0};
    sluice_engine *e = run_open("kvcache.policy.plugin=snapkv", "kvcache.policy.budget=40", "kvcache.policy.window=4",
                                "kvcache.policy.kernel=1", "kvcache.policy.decode_interval=3");
    int32_t n_layers = e->target.info->n_layers;
    const sl_layer_info *info = e->target.info->layers[0];
    int64_t D = info->head_dim, K = info->n_kv_heads, H = info->n_heads;
    run_tokens(e, tokens, PROMPT);
    sluice_session *s = run_session(e, tokens, 60);
    float *keys = calloc((size_t)(n_layers * CAP * K * D), sizeof *keys); /* by layer and token */
    double *sum = calloc((size_t)(n_layers * K * CAP), sizeof *sum);      /* by layer, head and token */
    assert_true(keys != NULL && sum != NULL);
    run_rows(e, s, 60, SL_STAGE_PREFILL, &taps);
    for (int32_t l = 0; l < n_layers; l++)
        memcpy(keys + l * CAP * K * D, taps.k[l], sizeof *keys * (size_t)(60 * K * D));
    for (int step = 0; step < ROUNDS * EVERY; step++) {
        int64_t at = s->n_kv;
        int is_cut = step % EVERY == EVERY - 1;
        static int32_t list[64][CAP];
        static int64_t n_list[64];
        for (int32_t l = 0; l < n_layers; l++)
            for (int32_t h = 0; h < K; h++)
                n_list[l * K + h] = run_held(e, s, l, h, list[l * K + h]);
        assert_int_equal(sluice_session_append(s, tokens + at, 1, NULL), SLUICE_OK);
        run_rows(e, s, 1, SL_STAGE_DECODE, &taps);
        for (int32_t l = 0; l < n_layers; l++)
            for (int32_t h = 0; h < K; h++) {
                const float *key[CAP];
                double seen[CAP] = {0}, score[CAP];
                uint8_t stays[CAP] = {0};
                int64_t n = n_list[l * K + h];
                memcpy(before, list[l * K + h], sizeof *before * (size_t)n);
                before[n++] = (int32_t)at;
                memcpy(keys + ((l * CAP + at) * K + h) * D, taps.k[l] + h * D, sizeof *keys * (size_t)D);
                for (int64_t i = 0; i < n; i++)
                    key[i] = keys + ((l * CAP + before[i]) * K + h) * D;
                for (int64_t g = 0; g < H / K; g++)
                    run_softmax(taps.q[l] + (h * (H / K) + g) * D, key, n, D, info->attn_scale, seen);
                double *total = sum + (l * K + h) * CAP;
                for (int64_t i = 0; i < n; i++)
                    total[before[i]] += seen[i];
                int64_t n_held = run_held(e, s, l, h, held), k = 0;
                if (!is_cut) {
                    assert_int_equal(n_held, n);
                    continue;
                }
                for (int64_t i = 0; i < n; i++) {
                    stays[i] = k < n_held && held[k] == before[i];
                    k += stays[i];
                    score[i] = total[before[i]];
                }
                assert_int_equal(n_held, BUDGET);
                for (int64_t i = n - WINDOW; i < n; i++)
                    assert_true(stays[i]);
                run_check_top(score, n - WINDOW, BUDGET - WINDOW, stays, 1e-4);
                memset(total, 0, sizeof *total * CAP);
            }
    }
    free(keys);
    free(sum);
    run_taps_free(&taps);
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_are_turns),
        cmocka_unit_test(memory_never_holds_the_prompt),
        cmocka_unit_test(a_shared_budget_that_covers_everything_equals_dense),
        cmocka_unit_test(shared_rows_are_those_of_brute_force),
        cmocka_unit_test(h2o_shares_budgets_too),
        cmocka_unit_test(decoded_tokens_observe),
    };
    return cmocka_run_group_tests_name("policy_modes", tests, NULL, NULL);
}
