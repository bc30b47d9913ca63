/* tidaldecode on the embedded model: the limits in which it is dense, trees against single steps, ragged and mixed
 * batches, speculation, forks and cuts, skipped layers, refusals. Equal means equal bits: the contract of the kernels.
 */
#include "tidal_rig.h"

#include <unistd.h>

#define TIDAL "attention.plugin=tidaldecode|attention.token_budget=32|attention.reselect_layers=4|"

static int32_t text[1000];
static float dense[16 * RIG_VOCAB], got[16 * RIG_VOCAB], other[16 * RIG_VOCAB];

/* The ways in which lists can be made. */
static const char *const modes[] = {
    TIDAL "attention.select_heads=query",
    TIDAL "attention.select_heads=query|attention.force_current=no",
    TIDAL "attention.select_heads=kv_group",
    TIDAL "attention.select_heads=kv_group|attention.group_reduce=sum_prob",
    TIDAL "attention.select_heads=layer",
    TIDAL "attention.select_heads=layer|attention.force_current=no",
    TIDAL "attention.select_heads=layer|attention.n_sink=4|attention.middle_ratio=0.75",
    TIDAL "attention.select_heads=query|attention.score_dtype=f16",
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

/* Logits of six tokens after a prompt of 150. */
static void six_after_150(const char *mode, const char *more, float *logits) {
    char sets[1024];
    snprintf(sets, sizeof sets, "%s%s", mode, more);
    sluice_engine *e = rig_open(sets);
    rig_decode(e, rig_prompt(e, text, 150), 150, text + 150, 6, logits);
    sluice_close(e);
}

static void covering_everything_is_dense(void **state) {
    (void)state;
    for (int m = 0; m < N_MODES; m++) {
        six_after_150(modes[m], "", got); /* really sparse */
        assert_false(rig_same(dense, got, 1));
        six_after_150(modes[m], "|attention.token_budget=156", got);
        assert_true(rig_same(dense, got, 6));
        six_after_150(modes[m], "|attention.min_context=156", got);
        assert_true(rig_same(dense, got, 6));
        if (m % 2 == 1 && test_length() < 2)
            continue;
        six_after_150(modes[m], "|attention.min_context=152", got); /* dense up to there, sparse behind */
        assert_true(rig_same(dense, got, 2));
        assert_false(rig_same(dense + 2 * RIG_VOCAB, got + 2 * RIG_VOCAB, 1));
        six_after_150(modes[m], "|attention.reselect_layers=3,4,5", got);
        assert_true(rig_same(dense, got, 6));
        six_after_150(modes[m], "|attention.reselect_layers=none", other);
        six_after_150(modes[m], "", got);
        assert_false(rig_same(other, got, 1));
    }
}

/* The recents of a window over everything, chosen without scores, are dense too. */
static void recents_alone_are_a_window(void **state) {
    (void)state;
    six_after_150(TIDAL "attention.select_heads=layer", "|attention.middle_ratio=0|attention.token_budget=155", got);
    assert_true(rig_same(dense, got, 5));
    assert_false(rig_same(dense + 5 * RIG_VOCAB, got + 5 * RIG_VOCAB, 1)); /* 156 keys, the first is not seen */
}

/* ---- trees ----------------------------------------------------------------------------------------------------- */

static void chain_equals_single_steps(void **state) {
    (void)state;
    for (int m = 0; m < N_MODES; m++)
        for (int crossing = 0; crossing < 2; crossing++) { /* min_context crossed inside the chain */
            char sets[1024];
            snprintf(sets, sizeof sets, "%s|attention.min_context=%d|speculation.plugin=prompt_lookup", modes[m],
                     crossing ? 153 : 32);
            sluice_engine *e = rig_open(sets);
            int32_t seq = rig_prompt(e, text, 150);
            rig_decode(e, seq, 150, text + 150, 6, got);
            rig_cut(e, seq, 150);
            rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6}, 1, NULL, other);
            assert_true(rig_same(got, other, 6));
            sluice_close(e);
        }
}

static void tree_paths_equal_single_steps(void **state) {
    (void)state;
    static const int32_t parent[] = {-1, 0, 0, 1, 2, 1, 4, 3}; /* leaves 5, 6, 7 */
    int32_t token[8], path[8], branch[8];
    for (int i = 0; i < 8; i++)
        token[i] = text[150 + 3 * i];
    for (int m = 0; m < N_MODES; m++) {
        char sets[1024];
        snprintf(sets, sizeof sets, "%s|attention.min_context=151|speculation.plugin=prompt_lookup", modes[m]);
        sluice_engine *e = rig_open(sets);
        int32_t seq = rig_prompt(e, text, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, token, parent, 8}, 1, NULL, other);
        for (int leaf = 5; leaf < 8; leaf++) {
            int n = 0;
            for (int node = leaf; node >= 0; node = parent[node])
                path[n++] = node;
            for (int i = 0; i < n; i++)
                branch[i] = token[path[n - 1 - i]];
            rig_cut(e, seq, 150);
            rig_decode(e, seq, 150, branch, n, got);
            for (int i = 0; i < n; i++)
                assert_true(rig_same(got + i * RIG_VOCAB, other + path[n - 1 - i] * RIG_VOCAB, 1));
        }
        sluice_close(e);
    }
}

/* One list for a tree: of a single row it is the row's own; it covers everything or it changes the result. */
static void shared_lists(void **state) {
    (void)state;
    for (int m = 0; m < N_MODES; m++) {
        if (strstr(modes[m], "force_current=no") != NULL)
            continue; /* in a shared list the rows themselves never compete */
        char sets[1024];
        snprintf(sets, sizeof sets, "%s|attention.verify_select=shared|speculation.plugin=prompt_lookup", modes[m]);
        sluice_engine *e = rig_open(sets);
        int32_t seq = rig_prompt(e, text, 150);
        rig_decode(e, seq, 150, text + 150, 1, got);
        rig_cut(e, seq, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 1}, 1, NULL, other);
        assert_true(rig_same(got, other, 1));
        rig_cut(e, seq, 150);
        rig_step(e, &(rig_rows){seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6}, 1, NULL, other);
        assert_false(rig_same(dense, other, 1));
        /* two sequences in one step, each as alone */
        int32_t second = rig_prompt(e, text + 50, 120);
        rig_cut(e, seq, 150);
        rig_rows both[] = {{seq, 150, SL_STAGE_VERIFY, text + 150, NULL, 6},
                           {second, 120, SL_STAGE_VERIFY, text + 170, NULL, 4}};
        rig_step(e, both, 2, NULL, got);
        assert_true(rig_same(other, got, 6));
        rig_cut(e, second, 120);
        rig_step(e, &both[1], 1, NULL, other);
        assert_true(rig_same(other, got + 6 * RIG_VOCAB, 4));
        sluice_close(e);
        snprintf(sets, sizeof sets,
                 "%s|attention.verify_select=shared|attention.token_budget=160|speculation.plugin=prompt_lookup",
                 modes[m]);
        e = rig_open(sets);
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
        char sets[1024];
        snprintf(sets, sizeof sets, "%s|speculation.plugin=prompt_lookup", modes[m]);
        sluice_engine *e = rig_open(sets);
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
        "|speculation.plugin=prompt_lookup|speculation.ngram_min=1|speculation.full_window=no",
        "|speculation.plugin=sps"};
    static const int some[] = {2, 0, 6};
    for (int k = 0; k < 1 + test_length(); k++) {
        static heard plain, now;
        char sets[1024];
        sluice_engine *e = rig_open(modes[some[k]]);
        generate(e, 0, &plain);
        generate(e, 1, &now);
        assert_memory_equal(&plain, &now, sizeof plain);
        sluice_close(e);
        for (int d = 0; d < (k == 0 ? 2 : 1); d++) {
            snprintf(sets, sizeof sets, "%s%s", modes[some[k]], with[d]);
            if (d == 1)
                snprintf(sets + strlen(sets), sizeof sets - strlen(sets),
                         "|draft.model.path=%s/models/tiny|draft.attention.plugin=tidaldecode|"
                         "draft.attention.token_budget=32",
                         getenv("SLUICE_SOURCE"));
            e = rig_open(sets);
            for (int together = 0; together < 2; together++) {
                sluice_reset_stats(e);
                generate(e, together, &now);
                assert_memory_equal(&plain, &now, sizeof plain);
                sluice_stats stats;
                sluice_get_stats(e, &stats);
                assert_true(stats.accepted > 0 && stats.accepted < stats.drafted);
            }
            sluice_close(e);
        }
    }
}

static void forks_and_cuts_leave_nothing(void **state) {
    (void)state;
    sluice_engine *e = rig_open(modes[2]);
    int32_t seq = rig_prompt(e, text, 150);
    rig_decode(e, seq, 150, text + 150, 6, got);
    int32_t fork = seq + 1;
    assert_int_equal(sli_network_seq_open(&e->target, fork, seq, 152, NULL), SL_OK);
    sli_engine_event(e, SL_EVENT_FORK, fork, seq, 152);
    assert_int_equal(sli_network_seq_grow(&e->target, fork, 300, NULL), SL_OK);
    rig_decode(e, fork, 152, text + 20, 3, other); /* goes its own way */
    assert_false(rig_same(got + 2 * RIG_VOCAB, other, 1));
    rig_cut(e, fork, 152);
    sli_engine_event(e, SL_EVENT_TRUNCATE, fork, -1, 152);
    rig_decode(e, fork, 152, text + 152, 4, other); /* and back */
    assert_true(rig_same(got + 2 * RIG_VOCAB, other, 4));
    sluice_close(e);
}

/* ---- layers that are not run ----------------------------------------------------------------------------------- */

/* Without the selecting layer the next one selects in its stead; without the re-selecting one an old list is not used
 * on. */
static void next_layer_selects_for_a_skipped_one(void **state) {
    (void)state;
    const struct {
        int skipped;
        const char *with, *like;
    } cases[] = {
        {2, TIDAL "attention.reselect_layers=none",
         TIDAL "attention.sparse_layer_start=3|attention.reselect_layers=none"},
        {4, TIDAL "attention.reselect_layers=4", TIDAL "attention.reselect_layers=5"},
    };
    for (int i = 0; i < 2; i++) {
        uint32_t layers[] = {1, 1, 1, 1, 1, 1};
        layers[cases[i].skipped] = 0;
        sli_pass pass = {.attn_layers = layers};
        float *to[] = {got, other};
        for (int k = 0; k < 2; k++) {
            sluice_engine *e = rig_open(k == 0 ? cases[i].with : cases[i].like);
            int32_t seq = rig_prompt(e, text, 150);
            rig_step(e, &(rig_rows){seq, 150, SL_STAGE_DECODE, text + 150, NULL, 1}, 1, &pass, to[k]);
            sluice_close(e);
        }
        assert_true(rig_same(got, other, 1));
    }
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
    refused(TIDAL "attention.reselect_layers=13", "layer 13 is outside of 3 .. 5");
    refused(TIDAL "attention.reselect_layers=2", "layer 2 is outside of 3 .. 5");
    refused(TIDAL "attention.sparse_layer_start=5", "sparse_layer_start = 5 is outside of 1 .. 4");
    refused(TIDAL "attention.n_sink=4", "n_sink is for select_heads = layer only");
    refused(TIDAL "attention.select_heads=query|attention.group_reduce=max",
            "group_reduce is for select_heads = kv_group only");
    refused(TIDAL "attention.token_budget=31", "token_budget");
    refused(TIDAL "attention.calibration=/nonexistent", "nonexistent");
}

/* A safetensors file without tensors. */
static void write_calibration(const char *path, const char *fingerprint, const char *layers) {
    char header[512];
    int n = snprintf(header, sizeof header, "{\"__metadata__\":{\"fingerprint\":\"%s\",\"reselect_layers\":\"%s\"}}",
                     fingerprint, layers);
    unsigned char length[8] = {(unsigned char)n, (unsigned char)(n >> 8)};
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(length, 1, 8, f), 8);
    assert_int_equal(fwrite(header, 1, (size_t)n, f), n);
    fclose(f);
}

static void calibration_stands_for_auto(void **state) {
    (void)state;
    char path[] = "/tmp/sluice_tidal_XXXXXX", sets[1024], fingerprint[17];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    sluice_engine *e = rig_open("attention.plugin=dense");
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)e->target.info->fingerprint);
    sluice_close(e);
    snprintf(sets, sizeof sets, "attention.plugin=tidaldecode|attention.token_budget=32|attention.calibration=%s",
             path);
    write_calibration(path, fingerprint, "5");
    six_after_150(sets, "", got);
    six_after_150("attention.plugin=tidaldecode|attention.token_budget=32|attention.reselect_layers=5", "", other);
    assert_true(rig_same(got, other, 6));
    write_calibration(path, fingerprint, "6");
    refused(sets, "layer 6 is outside of 3 .. 5");
    write_calibration(path, fingerprint, "auto");
    refused(sets, "must be none, or layer ids");
    write_calibration(path, "0000000000000000", "5");
    refused(sets, "made for the model with fingerprint 0000000000000000");
    snprintf(sets + strlen(sets), sizeof sets - strlen(sets), "|attention.reselect_layers=4");
    refused(sets, "with reselect_layers = auto only");
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(covering_everything_is_dense),
        cmocka_unit_test(recents_alone_are_a_window),
        cmocka_unit_test(chain_equals_single_steps),
        cmocka_unit_test(tree_paths_equal_single_steps),
        cmocka_unit_test(shared_lists),
        cmocka_unit_test(mixed_steps_change_nothing),
        cmocka_unit_test(drafters_and_batches_change_nothing),
        cmocka_unit_test(forks_and_cuts_leave_nothing),
        cmocka_unit_test(next_layer_selects_for_a_skipped_one),
        cmocka_unit_test(wrong_settings_are_refused),
        cmocka_unit_test(calibration_stands_for_auto),
    };
    return cmocka_run_group_tests_name("tidaldecode", tests, take_text, NULL);
}
