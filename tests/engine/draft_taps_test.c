/* Hidden rows for drafters and their own acceptance, from inside of the engine: which rows are handed over, that they
 * are those of a plain pass, and what a drafter may not ask for or answer. */
#include "engine_run.h"

#include "engine/accept.h"
#include "engine/device_network.h"
#include "engine/draft_taps.h"
#include "sl_tensor.h"

static sluice_engine *engine;
static int64_t E;
static const int32_t prompt[] = {0, 100, 200, 300, 400, 500};
enum { N = sizeof prompt / sizeof *prompt };

static int open_engine(void **state) {
    (void)state;
    engine = run_open("engine.threads=1", "engine.device=cpu");
    E = engine->target.info->hidden;
    return 0;
}

static int close_engine(void **state) {
    (void)state;
    sluice_close(engine);
    return 0;
}

/* ---- what may be asked for ------------------------------------------------------------------------------------------
 */

static void taps_are_checked(void **state) {
    (void)state;
    static const struct {
        sl_tap tap;
        sl_status status;
    } cases[] = {
        {{SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL}, SL_OK},
        {{SL_SIZE(sl_tap), SL_TAP_LAYER_OUT, SL_TAP_ROWS_ALL, 5, SL_STAGE_PREFILL}, SL_OK},
        {{SL_SIZE(sl_tap), SL_TAP_LAYER_OUT, SL_TAP_ROWS_ALL, 6, SL_STAGE_PREFILL}, SL_E_RANGE},
        {{SL_SIZE(sl_tap), SL_TAP_LAYER_IN, SL_TAP_ROWS_ALL, -1, SL_STAGE_ALL}, SL_E_RANGE},
        {{SL_SIZE(sl_tap), SL_TAP_EMBED, SL_TAP_ROWS_ALL, 0, SL_STAGE_ALL}, SL_E_RANGE},
        {{SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, 3, -1, SL_STAGE_ALL}, SL_E_INVALID},
        {{SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, 0}, SL_E_INVALID},
        {{SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, 8}, SL_E_INVALID},
        {{SL_SIZE(sl_tap), SL_TAP_LOGITS, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL}, SL_E_UNIMPLEMENTED},
        {{SL_SIZE(sl_tap), 99, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL}, SL_E_UNIMPLEMENTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sli_draft_taps *t;
        SL_ERROR(err);
        const sl_tap *list[] = {&cases[i].tap};
        assert_int_equal(sli_draft_taps_create(&engine->target, list, 1, 64, 4, &t, &err), cases[i].status);
        if (i == 1)
            assert_true(sli_draft_taps_want_prompt(t));
        sli_draft_taps_destroy(t);
    }
    sli_draft_taps *t;
    SL_ERROR(err);
    assert_int_equal(sli_draft_taps_create(&engine->target, NULL, 0, 64, 4, &t, &err), SL_OK);
    assert_null(t);
    assert_false(sli_draft_taps_want_prompt(t));
}

/* ---- which rows come ------------------------------------------------------------------------------------------------
 */

/* Residual behind layer 2, and rows behind the final norm, of the last n tokens, by a pass over a prompt. */
static void plain_rows(const int32_t *tokens, int32_t n, float *layer, float *final) {
    static const sl_tap two[] = {{SL_SIZE(sl_tap), SL_TAP_LAYER_OUT, SL_TAP_ROWS_ALL, 2, SL_STAGE_ALL},
                                 {SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL}};
    const sl_tap *list[] = {&two[0], &two[1]};
    sli_draft_taps *t;
    SL_ERROR(err);
    int32_t begin[] = {0, n}, path[64], next = -1, count = 0;
    const sl_tap_rows *const *rows;
    for (int32_t i = 0; i < n; i++)
        path[i] = i;
    assert_int_equal(sli_draft_taps_create(&engine->target, list, 2, 64, 4, &t, &err), SL_OK);
    sluice_session *s = run_session(engine, tokens, n);
    sli_batch_clear(&engine->batch, 0, ++engine->target.step);
    sli_batch_add(&engine->batch, s->id, 0, SL_STAGE_PREFILL, tokens, n, NULL, NULL);
    sl_commit commit = {SL_SIZE(sl_commit), &engine->batch.view, begin, path, &next};
    assert_int_equal(sli_network_seq_grow(&engine->target, s->id, n, &err), SL_OK);
    assert_int_equal(sli_network_begin(&engine->target, &engine->batch.view, &err), SL_OK);
    sli_pass pass = {.batch = &engine->batch.view, .tap = sli_draft_taps_take, .tap_user = t};
    assert_int_equal(sli_network_forward(&engine->target, &pass, &err), SL_OK);
    assert_int_equal(sli_network_commit(&engine->target, &commit, &err), SL_OK);
    assert_int_equal(sli_draft_taps_hand_over(t, &engine->target, &commit, &rows, &count, &err), SL_OK);
    assert_int_equal(count, 2);
    assert_int_equal(rows[0]->rows.shape[0], n);
    assert_int_equal(rows[1]->rows.shape[0], 1);
    assert_int_equal(rows[1]->token_index[0], n - 1);
    memcpy(layer, (const float *)rows[0]->rows.data + (n - 1) * E, sizeof *layer * (size_t)E);
    memcpy(final, rows[1]->rows.data, sizeof *final * (size_t)E);
    sli_draft_taps_destroy(t);
    sluice_session_close(s);
}

/* Three sequences in one step: a prompt's chunk, a single row, and a tree of which a path stays. */
static void rows_are_those_of_a_plain_pass(void **state) {
    (void)state;
    static const sl_tap asked[] = {
        {SL_SIZE(sl_tap), SL_TAP_LAYER_OUT, SL_TAP_ROWS_ALL, 2, SL_STAGE_VERIFY},
        {SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_ACCEPTED, -1, SL_STAGE_DECODE | SL_STAGE_VERIFY},
        {SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_LAST, -1, SL_STAGE_ALL},
    };
    const sl_tap *list[] = {&asked[0], &asked[1], &asked[2]};
    /* root 500 behind five tokens; children 7 and 8; 9 and 10 behind 8 */
    static const int32_t token[] = {500, 7, 8, 9, 10}, parent[] = {-1, 0, 0, 2, 2};
    const sl_tree tree = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 5};
    sli_draft_taps *t;
    SL_ERROR(err);
    assert_int_equal(sli_draft_taps_create(&engine->target, list, 3, 64, 4, &t, &err), SL_OK);
    sluice_session *s[3] = {run_session(engine, prompt, N), run_session(engine, prompt, N),
                            run_session(engine, prompt, N)};
    run_taps nothing = {{0}, {0}};
    run_rows(engine, s[1], N - 1, SL_STAGE_PREFILL, &nothing);
    run_rows(engine, s[2], N - 1, SL_STAGE_PREFILL, &nothing);
    run_taps_free(&nothing);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sli_network_seq_grow(&engine->target, s[i]->id, 20, &err), SL_OK);
    sli_batch *b = &engine->batch;
    sli_batch_clear(b, 0, ++engine->target.step);
    sli_batch_add(b, s[0]->id, 0, SL_STAGE_PREFILL, prompt, 4, NULL, NULL);
    sli_batch_add(b, s[1]->id, N - 1, SL_STAGE_DECODE, prompt + N - 1, 1, NULL, NULL);
    sli_batch_add(b, s[2]->id, N - 1, SL_STAGE_VERIFY, token, 5, &tree, NULL);
    int32_t begin[] = {0, 4, 5, 8}, path[] = {0, 1, 2, 3, 0, 0, 2, 4}, next[] = {-1, 1, 2};
    sl_commit commit = {SL_SIZE(sl_commit), &b->view, begin, path, next};
    assert_int_equal(sli_network_begin(&engine->target, &b->view, &err), SL_OK);
    sli_pass pass = {.batch = &b->view, .tap = sli_draft_taps_take, .tap_user = t};
    assert_int_equal(sli_network_forward(&engine->target, &pass, &err), SL_OK);
    assert_int_equal(sli_network_commit(&engine->target, &commit, &err), SL_OK);
    const sl_tap_rows *const *got;
    int32_t n = 0;
    assert_int_equal(sli_draft_taps_hand_over(t, &engine->target, &commit, &got, &n, &err), SL_OK);

    static const struct {
        int tap, place, rows;
        int64_t first, last; /* token indices */
    } expected[] = {{0, 2, 5, 5, 7}, {1, 1, 1, 5, 5}, {1, 2, 3, 5, 7},
                    {2, 0, 1, 3, 3}, {2, 1, 1, 5, 5}, {2, 2, 1, 7, 7}};
    assert_int_equal(n, sizeof expected / sizeof *expected);
    for (int i = 0; i < n; i++) {
        assert_ptr_equal(got[i]->tap, &asked[expected[i].tap]);
        assert_int_equal(got[i]->seq, s[expected[i].place]->id);
        assert_int_equal(got[i]->rows.shape[0], expected[i].rows);
        assert_int_equal(got[i]->rows.shape[1], E);
        assert_int_equal(got[i]->token_index[0], expected[i].first);
        assert_int_equal(got[i]->token_index[expected[i].rows - 1], expected[i].last);
    }
    /* rows of the chunk, of the single row, of nodes 0, 2 and 4, as prompts of their own give them */
    float *layer = malloc(sizeof *layer * (size_t)E), *final = malloc(sizeof *final * (size_t)E);
    assert_non_null(layer);
    assert_non_null(final);
    int32_t text[N + 2];
    memcpy(text, prompt, sizeof prompt);
    plain_rows(prompt, 4, layer, final);
    assert_memory_equal(got[3]->rows.data, final, sizeof *final * (size_t)E);
    static const int32_t node_of_depth[] = {0, 2, 4};
    for (int d = 0; d < 3; d++) {
        text[N - 1 + d] = token[node_of_depth[d]];
        plain_rows(text, N + d, layer, final);
        assert_memory_equal((const float *)got[0]->rows.data + node_of_depth[d] * E, layer, sizeof *layer * (size_t)E);
        assert_memory_equal((const float *)got[2]->rows.data + d * E, final, sizeof *final * (size_t)E);
        if (d == 0) {
            assert_memory_equal(got[1]->rows.data, final, sizeof *final * (size_t)E);
            assert_memory_equal(got[4]->rows.data, final, sizeof *final * (size_t)E);
        }
    }
    assert_memory_equal(got[5]->rows.data, final, sizeof *final * (size_t)E);
    free(layer);
    free(final);
    sli_draft_taps_destroy(t);
    for (int i = 0; i < 3; i++)
        sluice_session_close(s[i]);
}

/* The head alone on such a row gives the logits of the whole. */
static void head_of_a_row(void **state) {
    (void)state;
    int64_t V = engine->target.info->vocab;
    float *logits = malloc(sizeof *logits * (size_t)V), *again = malloc(sizeof *again * (size_t)V);
    float *layer = malloc(sizeof *layer * (size_t)E), *final = malloc(sizeof *final * (size_t)E);
    assert_true(logits && again && layer && final);
    plain_rows(prompt, N, layer, final);
    sluice_session *s = run_session(engine, prompt, N);
    sluice_error err;
    assert_int_equal(sluice_logits(s, 1, logits, &err), SLUICE_OK);
    const sl_head *head = engine->core_host->query(engine->core_host, SL_HEAD_ID);
    assert_non_null(head);
    assert_int_equal(head->logits(engine->core_host, 0, final, 1, again), SL_OK);
    assert_memory_equal(logits, again, sizeof *logits * (size_t)V);
    assert_int_equal(head->logits(engine->core_host, 1, final, 1, again), SL_E_NOT_FOUND);
    assert_int_equal(head->logits(engine->core_host, -1, final, 1, again), SL_E_NOT_FOUND);
    sluice_session_close(s);
    free(logits), free(again), free(layer), free(final);
}

/* ---- own acceptance -------------------------------------------------------------------------------------------------
 */

static struct {
    int32_t path[4], n_path, next;
    int n_nodes, calls;
    sl_status status;
} answer;

static sl_status accept_as_told(sl_instance *self, sl_accept *io) {
    (void)self;
    answer.calls++;
    answer.n_nodes = io->tree->n_nodes;
    assert_int_equal(io->tree->token[0], prompt[N - 1]);
    assert_null(io->extra);
    memcpy(io->path, answer.path, sizeof *io->path * (size_t)io->tree->n_nodes);
    io->n_path = answer.n_path;
    io->next = answer.next;
    return answer.status;
}

static void answers_are_checked(void **state) {
    (void)state;
    static const sl_speculation api = {.struct_size = SL_SIZE(sl_speculation), .accept = accept_as_told};
    static const int32_t token[] = {500, 7, 8, 9}, parent[] = {-1, 0, 0, 2};
    const sl_tree tree = {.struct_size = SL_SIZE(sl_tree), .token = token, .parent = parent, .n_nodes = 4};
    static const struct {
        int32_t path[4], n_path, next;
        sl_status given, status;
    } cases[] = {
        {{0, 2, 3}, 3, 11, SL_OK, SL_OK},
        {{0}, 1, 11, SL_OK, SL_OK},
        {{0, 1, 3}, 3, 11, SL_OK, SL_E_INVALID}, /* 3 hangs on 2 */
        {{2, 3}, 2, 11, SL_OK, SL_E_INVALID},
        {{0}, 0, 11, SL_OK, SL_E_INVALID},
        {{0, 4}, 2, 11, SL_OK, SL_E_INVALID},
        {{0, -1}, 2, 11, SL_OK, SL_E_INVALID},
        {{0, 2, 3, 0}, 5, 11, SL_OK, SL_E_INVALID},
        {{0}, 1, 4096, SL_OK, SL_E_RANGE},
        {{0}, 1, -1, SL_OK, SL_E_RANGE},
        {{0}, 1, 11, SL_E_STATE, SL_E_STATE},
    };
    sli_drafter before = engine->drafter;
    sluice_session *s = run_session(engine, prompt, N);
    sli_request request = {.n_limit = 50};
    float logits[1] = {0};
    s->request = &request;
    engine->drafter = (sli_drafter){.self = (sl_instance *)(void *)&answer, .api = &api};
    assert_true(sli_accepts_itself(engine));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t path[4] = {0}, n_path = 1, next = -1;
        SL_ERROR(err);
        memcpy(answer.path, cases[i].path, sizeof answer.path);
        answer.n_path = cases[i].n_path;
        answer.next = cases[i].next;
        answer.status = cases[i].given;
        s->tree = &tree;
        assert_int_equal(sli_accept_draft(engine, s, logits, path, &n_path, &next, &err), cases[i].status);
        assert_int_equal(answer.n_nodes, 4);
        if (cases[i].status < 0) {
            assert_non_null(strstr(err_text_, "drafter"));
            continue;
        }
        assert_int_equal(n_path, cases[i].n_path);
        assert_memory_equal(path, cases[i].path, sizeof *path * (size_t)n_path);
        assert_int_equal(next, 11);
    }
    /* no draft: it is asked about the last token alone; rows of the chunk all stay */
    int32_t path[4] = {0, 1, 2, 3}, n_path = 4, next = -1;
    SL_ERROR(err);
    s->tree = NULL;
    answer.path[0] = 0, answer.n_path = 1, answer.next = 12, answer.status = SL_OK;
    assert_int_equal(sli_accept_draft(engine, s, logits, path, &n_path, &next, &err), SL_OK);
    assert_int_equal(answer.n_nodes, 1);
    assert_int_equal(n_path, 4);
    assert_int_equal(next, 12);
    engine->drafter = before;
    assert_false(sli_accepts_itself(engine));
    s->request = NULL;
    sluice_session_close(s);
}

/* A model in another basis hands over the rows that it would have had in its own, and its head takes them. */
static void rotated_rows_are_plain(void **state) {
    (void)state;
    float *rows[2][2], *logits[2];
    sluice_engine *plain = engine;
    int64_t V = engine->target.info->vocab;
    for (int turned = 0; turned < 2; turned++) {
        if (turned)
            engine = run_open("engine.threads=1", "quant.rewrite.plugin=hadamard", "quant.rewrite.keep=f32");
        rows[turned][0] = calloc((size_t)(N * E), sizeof(float));
        rows[turned][1] = calloc((size_t)(N * E), sizeof(float));
        logits[turned] = calloc((size_t)V, sizeof(float));
        plain_rows(prompt, N, rows[turned][0], rows[turned][1]);
        const sl_head *head = engine->core_host->query(engine->core_host, SL_HEAD_ID);
        assert_int_equal(head->logits(engine->core_host, 0, rows[turned][1], 1, logits[turned]), SL_OK);
        if (turned)
            sluice_close(engine);
    }
    engine = plain;
    check_close("layer", rows[0][0], rows[1][0], (size_t)E, 1e-4, 1e-4);
    check_close("final norm", rows[0][1], rows[1][1], (size_t)E, 1e-4, 1e-4);
    check_close("head", logits[0], logits[1], (size_t)V, 1e-4, 1e-4);
    for (int turned = 0; turned < 2; turned++) {
        free(rows[turned][0]);
        free(rows[turned][1]);
        free(logits[turned]);
    }
}

/* ---- on a device ---------------------------------------------------------------------------------------------------
 */

/* What a device (device_fake.h) gives: rows behind the final norm, which stay there; and the head, for rows of the host
 * as for its own. */
static void on_a_device(void **state) {
    (void)state;
    enum { ROWS = 70 }; /* more than the head takes at once */
    sluice_engine *e = run_open("engine.device=cuda", "speculation.plugin=prompt_lookup", "engine.max_rows=64");
    SL_ERROR(err);
    static const sl_tap residual = {SL_SIZE(sl_tap), SL_TAP_LAYER_OUT, SL_TAP_ROWS_ALL, 2, SL_STAGE_ALL},
                        final = {SL_SIZE(sl_tap), SL_TAP_FINAL_NORM, SL_TAP_ROWS_ACCEPTED, -1, SL_STAGE_ALL};
    const sl_tap *refused[] = {&residual}, *served[] = {&final};
    sli_draft_taps *t;
    assert_int_equal(sli_draft_taps_create(&e->target, refused, 1, 64, 4, &t, &err), SL_E_UNIMPLEMENTED);
    assert_non_null(strstr(err.text, "engine.device"));
    assert_int_equal(sli_draft_taps_create(&e->target, served, 1, 64, 4, &t, &err), SL_OK);

    /* hidden rows of a prompt, handed over twice: numbers of rows on their way are not overwritten */
    const sl_head *head = e->core_host->query(e->core_host, SL_HEAD_ID);
    const sl_exec *exec = e->core_host->query(e->core_host, SL_EXEC_ID);
    const sl_lane *lane = exec->lane(e->core_host, SL_DEVICE_CUDA, 0);
    int64_t V = e->target.info->vocab;
    float *x = calloc(ROWS * (size_t)E, sizeof *x), *want = malloc(ROWS * sizeof *want * (size_t)V),
          *got = malloc(ROWS * sizeof *got * (size_t)V);
    assert_non_null(x);
    assert_non_null(want);
    assert_non_null(got);
    sluice_session *s = run_session(e, prompt, N);
    int32_t begin[] = {0, N}, path[N], next = -1, count = 0;
    for (int32_t i = 0; i < N; i++)
        path[i] = i;
    sli_batch_clear(&e->batch, 0, ++e->target.step);
    sli_batch_add(&e->batch, s->id, 0, SL_STAGE_PREFILL, prompt, N, NULL, NULL);
    sl_commit commit = {SL_SIZE(sl_commit), &e->batch.view, begin, path, &next};
    assert_int_equal(sli_network_seq_grow(&e->target, s->id, N, &err), SL_OK);
    assert_int_equal(sli_network_begin(&e->target, &e->batch.view, &err), SL_OK);
    sli_pass pass = {.batch = &e->batch.view};
    assert_int_equal(sli_network_forward(&e->target, &pass, &err), SL_OK);
    assert_int_equal(sli_network_commit(&e->target, &commit, &err), SL_OK);
    const sl_tap_rows *const *rows;
    for (int i = 0; i < 5; i++)
        assert_int_equal(sli_draft_taps_hand_over(t, &e->target, &commit, &rows, &count, &err), SL_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0]->rows.device, SL_DEVICE_CUDA);
    assert_int_equal(rows[0]->rows.dtype, SL_BF16);
    assert_int_equal(rows[0]->rows.shape[0], N);
    assert_int_equal(rows[0]->token_index[N - 1], N - 1);
    /* through the head they are the logits of the pass, bit by bit */
    float *device = e->target.device->logits;
    sl_tensor out;
    sl_tensor_make(&out, device, SL_F32, SL_DEVICE_CUDA, 2, (int64_t[]){N, V});
    assert_int_equal(head->queue(e->core_host, 0, &rows[0]->rows, &out), SL_OK);
    assert_int_equal(exec->copy(lane, got, device, (int64_t)sizeof *got * N * V), SL_OK);
    assert_int_equal(exec->sync(lane, &err), SL_OK);
    assert_int_equal(sli_network_head(&e->target, NULL, N, want, &err), SL_OK);
    assert_memory_equal(got, want, sizeof *got * N * (size_t)V);

    /* rows of the host, more than go at once: those of the CPU's head up to bf16 */
    for (int64_t i = 0; i < ROWS * E; i++)
        x[i] = (float)((i * 37) % 101 - 50) / 64; /* exact in bf16 */
    const sl_head *plain = engine->core_host->query(engine->core_host, SL_HEAD_ID);
    assert_int_equal(head->logits(e->core_host, 0, x, ROWS, got), SL_OK);
    assert_int_equal(plain->logits(engine->core_host, 0, x, ROWS, want), SL_OK);
    double most = 0;
    for (int64_t i = 0; i < ROWS * V; i++)
        most = fmax(most, fabs((double)got[i] - want[i]) / (1 + fabs((double)want[i])));
    assert_true(most < 1e-4);
    assert_int_equal(plain->queue(engine->core_host, 0, &rows[0]->rows, &out), SL_E_UNIMPLEMENTED);
    out.dtype = SL_BF16;
    assert_int_equal(head->queue(e->core_host, 0, &rows[0]->rows, &out), SL_E_INVALID);
    free(x);
    free(want);
    free(got);
    sli_draft_taps_destroy(t);
    sluice_close(e);
}

int main(void) {
    setenv("SLUICE_CUDA_MODULE", run_place("SLUICE_BUILD", "tests/device_fake.so"), 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taps_are_checked),       cmocka_unit_test(rows_are_those_of_a_plain_pass),
        cmocka_unit_test(head_of_a_row),          cmocka_unit_test(answers_are_checked),
        cmocka_unit_test(rotated_rows_are_plain), cmocka_unit_test(on_a_device),
    };
    return cmocka_run_group_tests_name("draft_taps", tests, open_engine, close_engine);
}
