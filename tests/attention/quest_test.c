/* quest on the embedded model: the limits in which it is dense, trees against single steps, ragged and mixed batches,
 * speculation, forks, cuts, loaded sessions, stages of their own, memory, refusals. Equal means equal bits. */
#include "tidal_rig.h"

#include <unistd.h>

#define QUEST "attention.plugin=quest|attention.page_size=8|attention.token_budget=32|"

static int32_t text[1000];
static float dense[16 * RIG_VOCAB], got[16 * RIG_VOCAB], other[16 * RIG_VOCAB];

/* The ways in which lists can be made. */
static const char *const modes[] = {
    QUEST "attention.select_heads=kv_group",
    QUEST "attention.select_heads=query",
    QUEST "attention.select_heads=query|attention.force_last=no",
    QUEST "attention.select_heads=kv_group|attention.page_size=1",
    QUEST "attention.meta_dtype=kv|attention.dense_layers=0",
};
enum { N_MODES = sizeof modes / sizeof *modes };

static int take_text(void **state) {
    (void)state;
    sluice_engine *e = rig_open("attention.plugin=dense");
    rig_tokens(e, text, 1000);
    int32_t seq = rig_prompt(e, text, 150);
    rig_decode(e, seq, 150, text + 150, 6, dense);
    sluice_close(e);
    return 0;
}

static sluice_engine *open_with(const char *mode, const char *more) {
    char sets[1024];
    snprintf(sets, sizeof sets, "%s|%s", mode, more);
    return rig_open(sets);
}

/* Logits of six tokens after a prompt of 150. */
static void six_after_150(const char *mode, const char *more, float *logits) {
    sluice_engine *e = open_with(mode, more);
    rig_decode(e, rig_prompt(e, text, 150), 150, text + 150, 6, logits);
    sluice_close(e);
}

static void covering_everything_is_dense(void **state) {
    (void)state;
    for (int m = 0; m < N_MODES; m++) {
        six_after_150(modes[m], "", got); /* really sparse */
        assert_false(rig_same(dense, got, 1));
        six_after_150(modes[m], "attention.token_budget=160", got);
        assert_true(rig_same(dense, got, 6));
        six_after_150(modes[m], "attention.min_pages=160", got);
        assert_true(rig_same(dense, got, 6));
        six_after_150(modes[m], "attention.dense_layers=6", got);
        assert_true(rig_same(dense, got, 6));
    }
    /* 19 pages of 8: dense as long as there are 19, up to position 151 */
    six_after_150(modes[0], "attention.token_budget=152", got);
    assert_true(rig_same(dense, got, 2));
    assert_false(rig_same(dense + 2 * RIG_VOCAB, got + 2 * RIG_VOCAB, 1));
    six_after_150(modes[0], "attention.dense_layers=5", other);
    six_after_150(modes[0], "attention.dense_layers=4", got);
    assert_false(rig_same(other, got, 1));
}

/* min_pages is a floor of the budget. */
static void budgets_have_a_floor(void **state) {
    (void)state;
    six_after_150(QUEST, "attention.token_budget=8", got);
    six_after_150(QUEST, "attention.token_budget=24", other);
    assert_true(rig_same(got, other, 6));
    six_after_150(QUEST, "attention.token_budget=8|attention.min_pages=1", other); /* the page being written alone */
    assert_false(rig_same(got, other, 1));
}

/* ---- trees ----------------------------------------------------------------------------------------------------- */

/* Chains that cross pages (152), and the length at which the row is dense no more. */
static void chain_equals_single_steps(void **state) {
    (void)state;
    static const char *const more[] = {"", "attention.token_budget=152"};
    for (int m = 0; m < N_MODES; m++)
        for (int i = 0; i < 2; i++) {
            char sets[256];
            snprintf(sets, sizeof sets, "%s|speculation.plugin=prompt_lookup", more[i]);
            sluice_engine *e = open_with(modes[m], sets);
            int32_t seq = rig_prompt(e, text, 150);
            rig_decode(e, seq, 150, text + 150, 12, got);
            rig_cut(e, seq, 150);
            rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 12}, 1, NULL, other);
            assert_true(rig_same(got, other, 12));
            rig_cut(e, seq, 155); /* half of it was wrong */
            rig_step(e, &(rig_rows){seq, 155, SL_STAGE_VERIFY, text + 155, NULL, 7}, 1, NULL, other);
            assert_true(rig_same(got + 5 * RIG_VOCAB, other, 7));
            sluice_close(e);
        }
}

static void tree_paths_equal_single_steps(void **state) {
    (void)state;
    static const int32_t parent[] = {-1, 0, 0, 1, 2, 1, 4, 3, 6, 8, 9, 10}; /* leaves 5, 7, 11; two cross a page */
    enum { NODES = sizeof parent / sizeof *parent };
    static const int leaves[] = {5, 7, 11};
    int32_t token[NODES], path[NODES], branch[NODES];
    for (int i = 0; i < NODES; i++)
        token[i] = text[150 + 3 * i];
    for (int m = 0; m < N_MODES; m++) {
        sluice_engine *e = open_with(modes[m], "speculation.plugin=prompt_lookup");
        int32_t seq = rig_prompt(e, text, 149);
        rig_step(e, &(rig_rows){seq, 149, SL_STAGE_VERIFY, token, parent, NODES}, 1, NULL, other);
        for (int l = 0; l < 3; l++) {
            int n = 0;
            for (int node = leaves[l]; node >= 0; node = parent[node])
                path[n++] = node;
            for (int i = 0; i < n; i++)
                branch[i] = token[path[n - 1 - i]];
            rig_cut(e, seq, 149);
            rig_decode(e, seq, 149, branch, n, got);
            for (int i = 0; i < n; i++)
                assert_true(rig_same(got + i * RIG_VOCAB, other + path[n - 1 - i] * RIG_VOCAB, 1));
        }
        sluice_close(e);
    }
}

/* A path that is kept out of the middle of a tree is summarised like tokens that came one by one. */
static void kept_paths_are_summarised(void **state) {
    (void)state;
    static const int32_t parent[] = {-1, 0, 0, 2, 3, 3}, path[] = {0, 2, 3, 5};
    int32_t token[6], kept[4];
    for (int i = 0; i < 6; i++)
        token[i] = text[200 + i];
    for (int i = 0; i < 4; i++)
        kept[i] = token[path[i]];
    sluice_engine *e = open_with(modes[1], "speculation.plugin=prompt_lookup");
    int32_t seq = rig_prompt(e, text, 149), plain = rig_prompt(e, text, 149), begin[] = {0, 4}, next = -1;
    sl_tree tree = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 6};
    sli_batch *b = &e->work_batch;
    SL_ERROR(err);
    sli_batch_clear(b, 0, ++e->target.step);
    sli_batch_add(b, seq, 149, SL_STAGE_VERIFY, token, 6, &tree, NULL);
    assert_int_equal(sli_network_begin(&e->target, &b->view, &err), SL_OK);
    assert_int_equal(sli_network_forward(&e->target, &(sli_pass){.batch = &b->view}, &err), SL_OK);
    sl_commit commit = {SL_SIZE(sl_commit), &b->view, begin, path, &next};
    assert_int_equal(sli_network_commit(&e->target, &commit, &err), SL_OK);
    rig_decode(e, plain, 149, kept, 4, other);
    rig_decode(e, seq, 153, text + 300, 9, got);
    rig_decode(e, plain, 153, text + 300, 9, other);
    assert_true(rig_same(got, other, 9));
    sluice_close(e);
}

/* One list for a tree: of a single row it is the row's own; it covers everything or it changes the result. */
static void shared_lists(void **state) {
    (void)state;
    static const char *const some[] = {QUEST "attention.select_heads=kv_group", QUEST "attention.select_heads=query"};
    for (int m = 0; m < 2; m++) {
        sluice_engine *e = open_with(some[m], "attention.verify_select=shared|speculation.plugin=prompt_lookup");
        int32_t seq = rig_prompt(e, text, 150);
        rig_decode(e, seq, 150, text + 150, 1, got);
        rig_cut(e, seq, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 1}, 1, NULL, other);
        assert_true(rig_same(got, other, 1));
        rig_cut(e, seq, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6}, 1, NULL, other);
        assert_false(rig_same(dense, other, 1));
        /* three sequences in one step, each as alone; one of them is short, hence dense */
        int32_t second = rig_prompt(e, text + 50, 120), third = rig_prompt(e, text + 9, 20);
        rig_cut(e, seq, 150);
        rig_rows all[] = {{third, 20, SL_STAGE_DECODE, text + 29, NULL, 1},
                          {seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6},
                          {second, 120, SL_STAGE_VERIFY, text + 170, NULL, 4}};
        rig_step(e, all, 3, NULL, got);
        assert_true(rig_same(other, got + RIG_VOCAB, 6));
        rig_cut(e, second, 120);
        rig_step(e, &all[2], 1, NULL, other);
        assert_true(rig_same(other, got + 7 * RIG_VOCAB, 4));
        sluice_close(e);
        e = open_with(some[m],
                      "attention.verify_select=shared|attention.token_budget=160|speculation.plugin=prompt_lookup");
        seq = rig_prompt(e, text, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6}, 1, NULL, other);
        assert_true(rig_same(dense, other, 6));
        sluice_close(e);
    }
}

/* ---- company --------------------------------------------------------------------------------------------------- */

/* A step with a prompt's chunk, decoding rows and trees of several lengths: every row as alone. */
static void mixed_steps_change_nothing(void **state) {
    (void)state;
    for (int m = 0; m < N_MODES; m++) {
        sluice_engine *e = open_with(modes[m], "speculation.plugin=prompt_lookup");
        int32_t a = rig_prompt(e, text, 60), b = rig_prompt(e, text + 7, 150), c = rig_prompt(e, text + 3, 20),
                d = rig_prompt(e, text + 11, 200);
        rig_rows rows[] = {{a, 60, SL_STAGE_PREFILL, text + 60, NULL, 5},
                           {b, 150, SL_STAGE_DECODE, text + 157, NULL, 1},
                           {c, 20, SL_STAGE_DECODE, text + 23, NULL, 1},
                           {d, 200, SL_STAGE_VERIFY, text + 211, NULL, 4}};
        rig_step(e, rows, 4, NULL, got);
        for (int i = 0, at = 0; i < 4; at += rows[i++].n) {
            rig_cut(e, rows[i].seq, rows[i].n_past);
            rig_step(e, &rows[i], 1, NULL, other);
            assert_true(rig_same(other, got + at * RIG_VOCAB, rows[i].n));
        }
        sluice_close(e);
    }
}

/* A prompt in one chunk, in many, or by another plugin: the bounds are the same. */
static void chunks_and_stages_change_nothing(void **state) {
    (void)state;
    six_after_150(modes[0], "", got);
    sluice_engine *e = open_with(modes[0], "");
    int32_t seq = rig_seq(e);
    static const int32_t cuts[] = {0, 1, 2, 31, 47, 64, 65, 149, 150};
    for (int i = 0; i < 8; i++)
        rig_step(e, &(rig_rows){seq, cuts[i], SL_STAGE_PREFILL, text + cuts[i], NULL, cuts[i + 1] - cuts[i]}, 1, NULL,
                 NULL);
    rig_decode(e, seq, 150, text + 150, 6, other);
    assert_true(rig_same(got, other, 6));
    sluice_close(e);
    six_after_150(modes[0], "attention.prefill.plugin=dense", other);
    assert_true(rig_same(got, other, 6));
}

typedef struct heard {
    int32_t token[5][64];
    int n[5];
} heard;

static int hear(void *user, const sluice_chunk *chunk) {
    heard *h = user;
    for (int32_t i = 0; i < chunk->n_tokens; i++)
        h->token[chunk->index][h->n[chunk->index]++] = chunk->tokens[i];
    return 0;
}

/* Greedy texts of five prompts, together or one after the other. */
static void generate(sluice_engine *e, int together, heard *h) {
    sluice_session *s[5];
    sluice_sampling sampling;
    sluice_default_sampling(e, &sampling);
    sampling.temperature = 0;
    sampling.max_tokens = 24;
    sampling.ignore_eos = 1;
    memset(h, 0, sizeof *h);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(sluice_session_open(e, &s[i], NULL), SLUICE_OK);
        assert_int_equal(sluice_session_append(s[i], text + 13 * i, 60 + 31 * i, NULL), SLUICE_OK);
    }
    for (int i = 0; i < 5 && !together; i++) {
        heard one = {0};
        assert_int_equal(sluice_generate(e, &s[i], 1, &sampling, 1, hear, &one, NULL), SLUICE_OK);
        memcpy(h->token[i], one.token[0], sizeof one.token[0]);
        h->n[i] = one.n[0];
    }
    if (together)
        assert_int_equal(sluice_generate(e, s, 5, &sampling, 1, hear, h, NULL), SLUICE_OK);
    for (int i = 0; i < 5; i++)
        sluice_session_close(s[i]);
}

static void drafters_and_batches_change_nothing(void **state) {
    (void)state;
    static const char *const with[] = {
        "speculation.plugin=prompt_lookup|speculation.ngram_min=1|speculation.full_window=no",
        "speculation.plugin=token_recycling", "speculation.plugin=sps"};
    static heard plain, now;
    sluice_engine *e = open_with(modes[0], "engine.validate=yes");
    generate(e, 0, &plain);
    generate(e, 1, &now);
    assert_memory_equal(&plain, &now, sizeof plain);
    sluice_stats stats;
    sluice_get_stats(e, &stats);
    assert_int_equal(stats.allocs_in_steps, 0);
    sluice_close(e);
    for (int d = 0; d < 3; d++) {
        char sets[800];
        snprintf(sets, sizeof sets, "%s", with[d]);
        if (d == 2) /* the drafter's own model is sparse, too */
            snprintf(sets, sizeof sets,
                     "%s|draft.model.path=%s/models/tiny|draft.attention.plugin=quest|"
                     "draft.attention.page_size=4|draft.attention.token_budget=16",
                     with[d], getenv("SLUICE_SOURCE"));
        e = open_with(modes[0], sets);
        for (int together = 0; together < 2; together++) {
            sluice_reset_stats(e);
            generate(e, together, &now);
            assert_memory_equal(&plain, &now, sizeof plain);
            sluice_get_stats(e, &stats);
            assert_true(stats.accepted > 0 && stats.accepted < stats.drafted);
        }
        sluice_close(e);
    }
}

/* ---- forks, cuts, files ---------------------------------------------------------------------------------------- */

static void forks_and_cuts_leave_nothing(void **state) {
    (void)state;
    sluice_engine *e = open_with(modes[0], "");
    int32_t seq = rig_prompt(e, text, 150), fork = 5;
    rig_decode(e, seq, 150, text + 150, 6, got);
    assert_int_equal(sli_network_seq_open(&e->target, fork, seq, 152, NULL), SL_OK);
    assert_int_equal(sli_network_seq_grow(&e->target, fork, 300, NULL), SL_OK);
    rig_decode(e, fork, 152, text + 20, 9, other); /* goes its own way */
    assert_false(rig_same(got + 2 * RIG_VOCAB, other, 1));
    rig_decode(e, seq, 156, text + 400, 9, other); /* and so does the parent */
    rig_cut(e, fork, 152);
    rig_decode(e, fork, 152, text + 152, 4, other); /* and back */
    assert_true(rig_same(got + 2 * RIG_VOCAB, other, 4));
    rig_cut(e, seq, 20);
    rig_step(e, &(rig_rows){seq, 20, SL_STAGE_PREFILL, text + 20, NULL, 130}, 1, NULL, NULL);
    rig_decode(e, seq, 150, text + 150, 6, other);
    assert_true(rig_same(got, other, 6));
    sli_network_seq_close(&e->target, fork);
    sluice_close(e);
}

static void loaded_sessions_go_on(void **state) {
    (void)state;
    char path[] = "/tmp/sluice_quest_XXXXXX";
    close(mkstemp(path));
    sluice_engine *e = open_with(modes[0], "");
    sluice_session *a, *b;
    heard one = {0}, two = {0};
    sluice_sampling sampling;
    sluice_default_sampling(e, &sampling);
    sampling.temperature = 0, sampling.max_tokens = 10, sampling.ignore_eos = 1;
    assert_int_equal(sluice_session_open(e, &a, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_open(e, &b, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_append(a, text, 150, NULL), SLUICE_OK);
    assert_int_equal(sluice_generate(e, &a, 1, &sampling, 1, hear, &one, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_save(a, path, NULL), SLUICE_OK);
    assert_int_equal(sluice_session_load(b, path, NULL), SLUICE_OK);
    one.n[0] = 0;
    assert_int_equal(sluice_generate(e, &a, 1, &sampling, 1, hear, &one, NULL), SLUICE_OK);
    assert_int_equal(sluice_generate(e, &b, 1, &sampling, 1, hear, &two, NULL), SLUICE_OK);
    assert_memory_equal(one.token[0], two.token[0], 10 * sizeof(int32_t));
    sluice_close(e);
    unlink(path);
}

/* Bounds take 1 / P of the rows they belong to, in the layers that select, block by block. */
static void memory_is_what_the_readme_says(void **state) {
    (void)state;
    enum { CONTEXT = 128 * 7, L = 4, K = 2, D = 64 };
    static const char *const with[] = {"attention.plugin=dense|kvcache.dtype=f16",
                                       QUEST "|kvcache.dtype=f16|attention.meta_dtype=kv"};
    sluice_stats stats[2];
    for (int i = 0; i < 2; i++) { /* one after the other: the ledger is the process's */
        sluice_engine *e = rig_open(with[i]);
        sluice_session *s;
        assert_int_equal(sluice_session_open(e, &s, NULL), SLUICE_OK);
        assert_int_equal(sli_network_seq_grow(&e->target, s->id, CONTEXT, NULL), SL_OK);
        sluice_get_stats(e, &stats[i]);
        sluice_close(e);
    }
    int64_t extra = stats[1].bytes_kv - stats[0].bytes_kv, want = CONTEXT / 8 * L * K * 2 * D * 2;
    if (extra < want || (double)extra > 1.02 * (double)want)
        fail_msg("%lld bytes, expected %lld", (long long)extra, (long long)want);
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

static void refused(const char *sets, const char *says) {
    char why[1024];
    sluice_engine *e = rig_try(sets, why, sizeof why);
    if (e != NULL || strstr(why, says) == NULL)
        fail_msg("%s: %s", sets, e != NULL ? "was not refused" : why);
}

static void wrong_settings_are_refused(void **state) {
    (void)state;
    refused(QUEST "attention.token_budget=33", "token_budget = 33 is no multiple of page_size = 8");
    refused(QUEST "attention.page_size=65", "page_size");
    refused(QUEST "attention.dense_layers=7", "dense_layers = 7 is outside of 0 .. 6");
    refused(QUEST "attention.min_pages=0", "min_pages");
    refused(QUEST "attention.force_last=no|attention.verify_select=shared", "verify_select = shared always attends");
    refused(QUEST "kvcache.policy.plugin=snapkv|kvcache.policy.budget=64", "selects tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covering_everything_is_dense),
        cmocka_unit_test(budgets_have_a_floor),
        cmocka_unit_test(chain_equals_single_steps),
        cmocka_unit_test(tree_paths_equal_single_steps),
        cmocka_unit_test(kept_paths_are_summarised),
        cmocka_unit_test(shared_lists),
        cmocka_unit_test(mixed_steps_change_nothing),
        cmocka_unit_test(chunks_and_stages_change_nothing),
        cmocka_unit_test(drafters_and_batches_change_nothing),
        cmocka_unit_test(forks_and_cuts_leave_nothing),
        cmocka_unit_test(loaded_sessions_go_on),
        cmocka_unit_test(memory_is_what_the_readme_says),
        cmocka_unit_test(wrong_settings_are_refused),
    };
    return cmocka_run_group_tests_name("quest", tests, take_text, NULL);
}
