/* swift inside the engine: drafting leaves the committed cache and the list of open sequences as they were; the skipped
 * model computes the same row by row in a draft fork as all at once in a scratch fork; draft forks continue, are cut
 * and are refused as work.h says; memory is what the README claims. */
#include "engine_run.h"

#include "engine/draft.h"
#include "engine/draft_fork.h"

enum { N = 120, W = 20, MOST = 200 };

static int32_t text[MOST];

#define SWIFT "speculation.plugin=swift"

static void must(sl_status status, const sl_error *err) {
    if (status < 0)
        fail_msg("%s", err->text);
}

/* Rows [0, n) of all layers, as the store holds them. */
static char *rows_of(sluice_engine *e, int32_t seq, int64_t n, int64_t *bytes) {
    SL_ERROR(err);
    const sli_network *net = &e->target;
    int64_t row = 0;
    for (int32_t l = 0; l < net->info->n_layers; l++)
        row += net->info->layers[l]->n_kv_heads * 2 * net->info->layers[l]->head_dim * (int64_t)sizeof(float);
    char *out = malloc((size_t)(*bytes = row * n)), *p = out;
    assert_non_null(out);
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        int64_t size = row * n / net->info->n_layers;
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .lane = net->lane,
                           .buffer = p,
                           .end = n,
                           .bytes = size,
                           .layer = l,
                           .seq = seq,
                           .direction = SL_COPY_EXPORT,
                           .dtype = SL_F32};
        must(net->layers[l].store->api->copy_rows(net->layers[l].store->self, &copy, &err), &err);
        p += size;
    }
    return out;
}

static int is_open(sluice_engine *e, int32_t seq) {
    const sli_store *store = e->target.layers[0].store;
    int64_t n, bytes;
    return store->api->length(store->self, seq, &n, &bytes) >= 0;
}

/* What stands in front of a decode step: a session with a request, all but its last token in the cache. */
static sluice_session *decoding(sluice_engine *e, sli_request *r, int64_t n) {
    sluice_session *s = run_session(e, text, n - 8);
    run_generate(e, &s, 1, 8);
    *r = (sli_request){.sampling = {.seed = {1, 0, 0}}, .n_limit = s->n + 30};
    r->random = sli_random_seeded(&r->sampling.seed);
    s->request = r;
    return s;
}

/* ---- drafting leaves no trace ------------------------------------------------------------------------------------ */

static void committed_rows_stay(void **state) {
    (void)state;
    static const char *const pages[] = {"kvcache.page=16", "kvcache.page=1", "kvcache.page=64"};
    for (int i = 0; i < 3; i++)
        for (int search = 0; search < 2; search++) {
            SL_ERROR(err);
            sluice_engine *e = run_open(SWIFT, pages[i], "speculation.stop_threshold=0", "speculation.max_draft=20",
                                        "speculation.context_window=4", "speculation.max_score=1", "speculation.topk=2",
                                        search ? "speculation.optimise=yes" : "speculation.optimise=no");
            sli_request r;
            sluice_session *s = decoding(e, &r, 90);
            int64_t bytes, n_kv = s->n_kv;
            char *before = rows_of(e, s->id, n_kv, &bytes);
            must(sli_draft_forks_open(e, &s, 1, &err), &err);
            assert_true(is_open(e, sli_fork_id(e->max_sessions, s->id)));
            must(sli_engine_draft(e, &s, 1, 0, &err), &err);
            assert_non_null(s->tree);
            assert_true(s->draft->depth[s->tree->n_nodes - 1] == 20);
            for (int32_t id = e->max_sessions; id < sli_fork_ids_end(e->max_sessions); id++)
                assert_false(is_open(e, id));
            assert_int_equal(s->n_kv, n_kv);
            char *after = rows_of(e, s->id, n_kv, &bytes);
            assert_memory_equal(before, after, (size_t)bytes);
            free(before);
            free(after);
            s->request = NULL;
            sluice_close(e);
        }
}

/* ---- draft forks as work.h says ---------------------------------------------------------------------------------- */

static sl_work item(const sluice_session *s, uint32_t kv, int64_t begin, int32_t n, const uint32_t *attn,
                    const uint32_t *ffn, uint32_t logits) {
    return (sl_work){.struct_size = SL_SIZE(sl_work),
                     .token = s->tokens + begin,
                     .attn_layers = attn,
                     .ffn_layers = ffn,
                     .begin = begin,
                     .n_rows = n,
                     .seq = s->id,
                     .exit_layer = -1,
                     .rows_kind = SL_WORK_IDS,
                     .kv = kv,
                     .when = SL_WORK_IN_STEP,
                     .logits = logits};
}

static sl_work_result run_item(sluice_engine *e, const sl_work *w) {
    SL_ERROR(err);
    sl_work_result r;
    must(sli_engine_work(e, &w, 1, &r, &err), &err);
    return r;
}

/* Rows of a fork are made of text that stands in the session's tokens, but is not committed. */
static sluice_session *behind(sluice_engine *e, int64_t n_kv, int64_t n) {
    sluice_session *s = run_session(e, text, n_kv);
    double unused[1];
    assert_int_equal(sluice_score(s, 1, unused, NULL, NULL), SLUICE_OK);
    assert_int_equal(s->n_kv, n_kv);
    memcpy(s->tokens + n_kv, text + n_kv, sizeof *text * (size_t)(n - n_kv));
    return s;
}

static float eps = 2e-4f;
static char where[64];
static void check_logits(const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) < eps))
            fail_msg("%s logit %lld: %g and %g", where, (long long)i, a[i], b[i]);
}

/* The scoring forward is the draft, teacher-forced: the same logits row by row and at once, for any set. */
static void at_once_equals_row_by_row(void **state) {
    (void)state;
    static const uint32_t sets[][6] = {
        {1, 1, 1, 1, 1, 1}, {1, 0, 1, 0, 1, 1}, {1, 1, 0, 0, 1, 1}, {1, 0, 0, 0, 0, 1}, {1, 1, 1, 1, 0, 1}};
    static const char *const others[] = {"kvcache.page=16", "engine.prefill_chunk=7", "kvcache.dtype=bf16"};
    for (int o = 0; o < 3; o++) {
        sluice_engine *e = run_open(SWIFT, others[o]);
        eps = o == 2 ? 0.1f : 2e-4f; /* a key next to a step of bf16 falls to either side */
        int64_t V = e->target.info->vocab;
        sluice_session *s = behind(e, N, N + W);
        for (int a = 0; a < 5; a++) {
            const uint32_t *attn = sets[a], *ffn = sets[(a + 2) % 5];
            sl_work all = item(s, SL_WORK_KV_SCRATCH, N, W, attn, ffn, SL_WORK_LOGITS_ALL);
            sl_work_result r = run_item(e, &all);
            assert_int_equal(r.status, SL_OK);
            float *expected = malloc(sizeof *expected * (size_t)(W * V));
            assert_non_null(expected);
            memcpy(expected, r.logits, sizeof *expected * (size_t)(W * V));
            assert_false(is_open(e, sli_scratch_id(e->max_sessions)));
            for (int32_t i = 0; i < W; i++) {
                sl_work one = item(s, SL_WORK_KV_DRAFT, N + i, 1, attn, ffn, SL_WORK_LOGITS_LAST);
                r = run_item(e, &one);
                assert_int_equal(r.status, SL_OK);
                snprintf(where, sizeof where, "%s, set %d, row %d:", others[o], a, i);
                check_logits(expected + i * V, r.logits, V);
            }
            snprintf(where, sizeof where, "%s, set %d, cut:", others[o], a);
            /* cut and continued, several rows at once */
            sl_work tail = item(s, SL_WORK_KV_DRAFT, N + 5, W - 5, attn, ffn, SL_WORK_LOGITS_ALL);
            r = run_item(e, &tail);
            assert_int_equal(r.status, SL_OK);
            check_logits(expected + 5 * V, r.logits, (W - 5) * V);
            /* cut below what is committed: rows that were the whole model's are now the set's */
            sl_work low = item(s, SL_WORK_KV_DRAFT, N - 3, W + 3, attn, ffn, SL_WORK_LOGITS_LAST);
            sl_work lowest = item(s, SL_WORK_KV_SCRATCH, N - 3, W + 3, attn, ffn, SL_WORK_LOGITS_LAST);
            r = run_item(e, &lowest);
            memcpy(expected, r.logits, sizeof *expected * (size_t)V);
            r = run_item(e, &low);
            assert_int_equal(r.status, SL_OK);
            check_logits(expected, r.logits, V);
            sli_draft_forks_close(e);
            free(expected);
        }
        sluice_close(e);
    }
    eps = 2e-4f;
}

/* Matchness of a set that skips nothing, on the target's own greedy text, is 1. */
static void nothing_skipped_predicts_everything(void **state) {
    (void)state;
    sluice_engine *e = run_open(SWIFT);
    int64_t V = e->target.info->vocab;
    sluice_session *s = run_session(e, text, N);
    run_generate(e, &s, 1, W + 2);
    const uint32_t all[6] = {1, 1, 1, 1, 1, 1};
    sl_work w = item(s, SL_WORK_KV_SCRATCH, N, W, all, all, SL_WORK_LOGITS_ALL);
    sl_work_result r = run_item(e, &w);
    assert_int_equal(r.status, SL_OK);
    for (int32_t i = 0; i < W; i++) {
        int32_t best = 0;
        for (int32_t v = 1; v < V; v++)
            best = r.logits[i * V + v] > r.logits[i * V + best] ? v : best;
        assert_int_equal(best, s->tokens[N + i + 1]);
    }
    sluice_close(e);
}

/* Sequences with the same masks share a batch and get what each gets alone. */
static void together_equals_alone(void **state) {
    (void)state;
    SL_ERROR(err);
    static const uint32_t attn[6] = {1, 0, 1, 1, 0, 1}, ffn[6] = {1, 1, 0, 1, 0, 1};
    sluice_engine *e = run_open(SWIFT, "kvcache.page=16");
    int64_t V = e->target.info->vocab;
    sluice_session *s[3];
    sl_work w[3];
    const sl_work *works[3];
    sl_work_result alone[3], got[3];
    float *expected = malloc(sizeof *expected * (size_t)(3 * V));
    assert_non_null(expected);
    for (int i = 0; i < 3; i++) {
        s[i] = behind(e, 40 + 30 * i, 60 + 30 * i);
        w[i] = item(s[i], SL_WORK_KV_DRAFT, 40 + 30 * i, 1, attn, ffn, SL_WORK_LOGITS_LAST);
        works[i] = &w[i];
        alone[i] = run_item(e, works[i]);
        assert_int_equal(alone[i].status, SL_OK);
        memcpy(expected + i * V, alone[i].logits, sizeof *expected * (size_t)V);
    }
    uint64_t step = e->target.step;
    must(sli_engine_work(e, works, 3, got, &err), &err);
    assert_int_equal(e->target.step, step + 1);
    for (int i = 0; i < 3; i++)
        check_logits(expected + i * V, got[i].logits, V);
    for (int i = 0; i < 3; i++) { /* and the next round */
        w[i].begin++, w[i].token++;
        alone[i] = run_item(e, works[i]);
        memcpy(expected + i * V, alone[i].logits, sizeof *expected * (size_t)V);
    }
    must(sli_engine_work(e, works, 3, got, &err), &err);
    for (int i = 0; i < 3; i++)
        check_logits(expected + i * V, got[i].logits, V);
    sli_draft_forks_close(e);
    free(expected);
    sluice_close(e);
}

static void refused_items(void **state) {
    (void)state;
    static const uint32_t some[6] = {1, 0, 1, 1, 1, 1}, fewer[6] = {1, 0, 0, 1, 1, 1}, all[6] = {1, 1, 1, 1, 1, 1};
    sluice_engine *e = run_open(SWIFT);
    sluice_session *s = behind(e, N, N + W);
    sl_work w = item(s, SL_WORK_KV_DRAFT, N + 1, 1, NULL, NULL, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_E_RANGE); /* nothing in front of it */
    w = item(s, SL_WORK_KV_DRAFT, N, 2, some, all, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_OK);
    w = item(s, SL_WORK_KV_DRAFT, N + 2, 1, all, all, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_E_INVALID); /* layer 1 lacks two rows */
    w.attn_layers = NULL;
    assert_int_equal(run_item(e, &w).status, SL_E_INVALID);
    w.attn_layers = fewer;
    assert_int_equal(run_item(e, &w).status, SL_OK);
    w = item(s, SL_WORK_KV_DRAFT, N + 3, 1, some, all, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_E_INVALID); /* now layer 2 lacks one */
    w = item(s, SL_WORK_KV_DRAFT, N, 1, all, all, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_OK); /* cut to what all have */
    w = item(s, SL_WORK_KV_DRAFT, N + 5, 1, all, all, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_E_RANGE);
    sli_draft_forks_close(e);
    assert_false(is_open(e, sli_fork_id(e->max_sessions, s->id)));
    w = item(s, SL_WORK_KV_DRAFT, N, 1, NULL, NULL, SL_WORK_LOGITS_NONE);
    w.model = 1;
    assert_true(run_item(e, &w).status < 0);
    sluice_close(e);
}

/* The plan is in the batch for everybody to see. */
static const uint32_t *seen_attn, *seen_ffn;
static sl_status (*true_reserve)(sl_instance *, const sl_batch *, sl_error *);
static sl_status spy_reserve(sl_instance *self, const sl_batch *batch, sl_error *err) {
    seen_attn = batch->attn_layers;
    seen_ffn = batch->ffn_layers;
    return true_reserve(self, batch, err);
}

static void batch_tells_the_plan(void **state) {
    (void)state;
    static const uint32_t attn[6] = {1, 0, 1, 1, 0, 1}, ffn[6] = {1, 1, 0, 1, 0, 1};
    sluice_engine *e = run_open(SWIFT);
    sl_kv_store spy = *e->target.stores[0].api;
    true_reserve = spy.reserve;
    spy.reserve = spy_reserve;
    sluice_session *s = behind(e, N, N + W);
    const sl_kv_store *true_api = e->target.stores[0].api;
    e->target.stores[0].api = &spy;
    sl_work w = item(s, SL_WORK_KV_DRAFT, N, 1, attn, ffn, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_OK);
    assert_true(seen_attn == attn && seen_ffn == ffn);
    w = item(s, SL_WORK_KV_SCRATCH, N, 1, NULL, NULL, SL_WORK_LOGITS_NONE);
    assert_int_equal(run_item(e, &w).status, SL_OK);
    assert_true(seen_attn == NULL && seen_ffn == NULL);
    e->target.stores[0].api = true_api;
    sli_draft_forks_close(e);
    sluice_close(e);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* max_draft x V x 12 bytes a sequence, and with bayes the matrix of all tries. */
static void memory_is_as_claimed(void **state) {
    (void)state;
    sluice_stats without;
    sluice_engine *plain = run_open("speculation.plugin=none");
    sluice_get_stats(plain, &without);
    sluice_close(plain);
    for (int i = 0; i < 2; i++) {
        sluice_engine *e =
            i == 0 ? run_open(SWIFT, "speculation.max_draft=9")
                   : run_open(SWIFT, "speculation.max_draft=9", "speculation.optimise=yes", "speculation.bayes=yes");
        sluice_stats stats;
        sluice_get_stats(e, &stats);
        double expected = 5.0 * 9 * e->target.info->vocab * 12 + (i == 1 ? 1001.0 * 1001 * 8 : 0);
        double taken = (double)(stats.bytes_plugin - without.bytes_plugin);
        if (!(fabs(taken - expected) < 0.02 * expected))
            fail_msg("%.0f bytes, claimed are %.0f", taken, expected);
        sluice_close(e);
    }
}

static int set_up(void **state) {
    (void)state;
    sluice_engine *e = run_open("speculation.plugin=none");
    int64_t n = run_tokens(e, text, MOST);
    sluice_close(e);
    return n >= N + W + 4 ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(committed_rows_stay),
        cmocka_unit_test(at_once_equals_row_by_row),
        cmocka_unit_test(nothing_skipped_predicts_everything),
        cmocka_unit_test(together_equals_alone),
        cmocka_unit_test(refused_items),
        cmocka_unit_test(batch_tells_the_plan),
        cmocka_unit_test(memory_is_as_claimed),
    };
    return cmocka_run_group_tests_name("swift_engine", tests, set_up, NULL);
}
