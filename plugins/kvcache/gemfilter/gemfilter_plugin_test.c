/* gemfilter on its own: scores and choice against brute force, the dialogue with the host, memory, refusals. */
#include "gem_select.c"
#include "gemfilter.c"

#include "test_host.h"

enum { H = 6, K = 3, D = 8, LAYERS = 10, CONTEXT = 64, SEQS = 3, N = 40 };

/* ---- scores and choice
 * ------------------------------------------------------------------------------------------------
 */

static void scores_equal_brute_force(void **state) {
    (void)state;
    float q[H * D], k[N * K * D], query[K * D], score[N];
    uint64_t seed = 11;
    for (int i = 0; i < H * D; i++)
        q[i] = test_normal(&seed);
    for (int i = 0; i < N * K * D; i++)
        k[i] = test_normal(&seed);
    gem_scores(q, k, N, H, K, D, query, score);
    for (int j = 0; j < N; j++) {
        double sum = 0;
        for (int h = 0; h < H; h++)
            for (int d = 0; d < D; d++)
                sum += (double)q[h * D + d] * k[(j * K + h / (H / K)) * D + d];
        if (fabs(sum - score[j]) > 1e-4)
            fail_msg("token %d: expected %.9g, got %.9g", j, sum, (double)score[j]);
    }
}

/* The sheet's words: average over `pool` neighbours with zeros outside, the best ones, ties to the older. */
static int64_t plainly(const gem_choice *c, const float *score, int64_t n, uint8_t *in) {
    double pooled[N];
    int64_t half = c->pool / 2, count = 0, free_places = c->topk;
    memset(in, 0, N);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t j = i - half; j <= i + half; j++)
            sum += j >= 0 && j < n ? score[j] : 0;
        pooled[i] = sum / (float)c->pool;
    }
    for (int64_t i = 0; i < n; i++)
        if (i < c->keep_first || i >= n - c->keep_last)
            in[i] = 1, free_places--;
    while (free_places-- > 0) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!in[i] && (best < 0 || pooled[i] > pooled[best]))
                best = i;
        if (best >= 0)
            in[best] = 1;
    }
    for (int64_t i = 0; i < n; i++)
        count += in[i];
    return count;
}

static void the_choice_is_ascending_unique_and_best(void **state) {
    (void)state;
    static const gem_choice choices[] = {{8, 5, 0, 0}, {8, 1, 0, 0},  {12, 7, 2, 4}, {6, 3, 2, 4},
                                         {1, 5, 0, 0}, {39, 5, 0, 1}, {40, 5, 0, 0}, {100, 5, 3, 3}};
    float score[N], pooled[N];
    int32_t order[N];
    uint8_t mark[N] = {0}, in[N];
    int64_t kept[N];
    gem_buffers b = {score, pooled, order, mark};
    for (uint64_t seed = 1; seed < 200; seed++) {
        uint64_t s = seed;
        const gem_choice *c = &choices[seed % (sizeof choices / sizeof *choices)];
        for (int i = 0; i < N; i++) /* whole numbers below zero, too: ties, and zeros of the border that count */
            score[i] = (float)((int)(test_uniform(&s) * 20) - 14);
        int64_t expected = c->topk >= N ? N : plainly(c, score, N, in), n = gem_select(c, &b, N, kept);
        if (c->topk >= N)
            memset(in, 1, sizeof in);
        assert_int_equal(n, expected);
        for (int64_t i = 0; i < n; i++) {
            assert_true(i == 0 || kept[i] > kept[i - 1]);
            if (!in[kept[i]])
                fail_msg("seed %d: token %d was chosen", (int)seed, (int)kept[i]);
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(mark[i], 0);
    }
}

static void layers_of_the_paper(void **state) {
    (void)state;
    sl_model_info m = {.struct_size = SL_SIZE(sl_model_info), .type = "llama", .n_layers = 32, .hidden = 4096};
    assert_int_equal(gem_default_layer(&m), 13);
    m.hidden = 2048;
    assert_int_equal(gem_default_layer(&m), 13); /* round(0.42 * 32) */
    m.n_layers = 12;
    assert_int_equal(gem_default_layer(&m), 5);
    m.n_layers = 1;
    assert_int_equal(gem_default_layer(&m), 0);
    m = (sl_model_info){.type = "mistral", .n_layers = 40, .hidden = 5120};
    assert_int_equal(gem_default_layer(&m), 19);
    m = (sl_model_info){.type = "phi3", .n_layers = 32, .hidden = 3072};
    assert_int_equal(gem_default_layer(&m), 19);
}

/* ---- the dialogue
 * -----------------------------------------------------------------------------------------------------
 */

typedef struct rig {
    test_host host;
    sl_layer_info layer, window;
    const sl_layer_info *layers[LAYERS];
    sl_model_info model;
    sl_instance *self;
} rig;

static sl_status try_open(rig *r, const char *const *sets, sl_error *err) {
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    r->layer = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                               .block = "gqa",
                               .n_heads = H,
                               .n_kv_heads = K,
                               .head_dim = D,
                               .v_head_dim = D};
    r->window = r->layer;
    r->window.window = 16;
    for (int l = 0; l < LAYERS; l++)
        r->layers[l] = l == 2 ? &r->window : &r->layer;
    r->model = (sl_model_info){
        .struct_size = SL_SIZE(sl_model_info), .type = "toy", .layers = r->layers, .n_layers = LAYERS, .hidden = 32};
    sl_params *values = test_params(&plugin, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .model = &r->model, .params = values};
    sl_status s = plugin.create(&args, &r->self, err);
    test_params_free(values);
    return s;
}

static const sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                                 .max_context = CONTEXT,
                                 .max_rows = 16,
                                 .max_seqs = SEQS,
                                 .max_tree = 1,
                                 .n_workers = 1};

static void open_rig(rig *r, const char *const *sets) {
    assert_int_equal(try_open(r, sets, NULL), SL_OK);
    assert_int_equal(plugin.activate(r->self, &limits, NULL), SL_OK);
}

static void close_rig(rig *r) {
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
}

/* What the host does with the work: keys and a query that follow from the tokens, in chunks of its own. */
static float q_value(int32_t token, int i) { return (float)((token * 7 + i * 3) % 11) - 5; }
static float k_value(int32_t token, int i) { return (float)((token * 5 + i * 13) % 17) - 8; }

typedef struct answer_of_host {
    float q[H * D], k[CONTEXT * K * D];
    sl_tap_rows rows[2];
    const sl_tap_rows *list[2];
    sl_work_result result;
    const sl_work_result *results[1];
} answer_of_host;

static void run_work(sl_prompt *io, answer_of_host *a, sl_status status) {
    const sl_work *w = io->works[0];
    for (int i = 0; i < H * D; i++)
        a->q[i] = q_value(w->token[w->n_rows - 1], i);
    for (int32_t r = 0; r < w->n_rows; r++)
        for (int i = 0; i < K * D; i++)
            a->k[r * K * D + i] = k_value(w->token[r], i);
    memset(a->rows, 0, sizeof a->rows);
    a->rows[0].rows.data = a->q;
    a->rows[1].rows.data = a->k;
    a->list[0] = &a->rows[0], a->list[1] = &a->rows[1];
    a->result = (sl_work_result){.struct_size = SL_SIZE(sl_work_result), .work = w, .taps = a->list, .status = status};
    a->results[0] = &a->result;
    io->results = a->results;
    io->n_results = 1;
}

static void turn(rig *r, int32_t seq, const int32_t *token, int64_t n, sl_prompt *io, answer_of_host *a,
                 int64_t expected_begin) {
    *io = (sl_prompt){.struct_size = SL_SIZE(sl_prompt), .token = token, .n = n, .seq = seq};
    assert_int_equal(prompt.begin(r->self, io, NULL), SL_OK);
    assert_int_equal(io->answer, SL_PROMPT_WORK);
    assert_int_equal(io->n_works, 1);
    assert_int_equal(io->works[0]->begin, expected_begin);
    assert_int_equal(io->works[0]->n_rows, n - expected_begin);
    assert_ptr_equal(io->works[0]->token, token + expected_begin);
    run_work(io, a, SL_OK);
    assert_int_equal(prompt.begin(r->self, io, NULL), SL_OK);
    assert_int_equal(io->answer, SL_PROMPT_REPLACE);
}

/* The answer to a whole prompt, found here. */
static void check_answer(const sl_prompt *io, const gem_choice *c) {
    float score[N];
    uint8_t in[N];
    assert_in_range(io->n, 1, N);
    for (int64_t j = 0; j < io->n; j++) {
        score[j] = 0;
        for (int h = 0; h < H; h++)
            for (int d = 0; d < D; d++)
                score[j] += q_value(io->token[io->n - 1], h * D + d) * k_value(io->token[j], h / (H / K) * D + d);
    }
    assert_int_equal(io->n_new, plainly(c, score, io->n, in));
    for (int64_t i = 0; i < io->n_new; i++) {
        assert_true(in[io->new_index[i]] && (i == 0 || io->new_index[i] > io->new_index[i - 1]));
        assert_int_equal(io->new_token[i], io->token[io->new_index[i]]);
    }
}

static void make_tokens(int32_t *token, uint64_t seed) {
    for (int i = 0; i < N; i++)
        token[i] = (int32_t)(test_next(&seed) % 1000);
}

static void a_long_prompt_is_replaced(void **state) {
    (void)state;
    static answer_of_host a;
    rig r;
    sl_prompt io;
    int32_t token[N];
    make_tokens(token, 5);
    open_rig(&r, (const char *const[]){"topk=10", NULL});
    turn(&r, 1, token, N, &io, &a, 0);
    const sl_work *w = &r.self->work;
    assert_int_equal(w->exit_layer, 5); /* round(0.42 * 10) = 4 is the layer whose q and k are known at the end */
    assert_int_equal(w->exit_at, SL_WORK_EXIT_QKV);
    assert_int_equal(w->kv, SL_WORK_KV_SCRATCH);
    assert_int_equal(w->branch, 0);
    assert_int_equal(w->logits, SL_WORK_LOGITS_NONE);
    assert_true(w->taps[0]->point == SL_TAP_Q && w->taps[0]->rows == SL_TAP_ROWS_LAST && w->taps[0]->layer == 4);
    assert_true(w->taps[1]->point == SL_TAP_K && w->taps[1]->rows == SL_TAP_ROWS_ALL && w->taps[1]->layer == 4);
    check_answer(&io, &(gem_choice){10, 5, 0, 0});
    assert_null(io.new_position);
    assert_true(io.next_position == 0);
    close_rig(&r);

    open_rig(&r, (const char *const[]){"topk=10", "positions=original", "pool=3", "keep_first=1", "keep_last=4",
                                       "filter_layer=0", NULL});
    turn(&r, 0, token, N, &io, &a, 0);
    assert_int_equal(r.self->work.exit_layer, 1);
    check_answer(&io, &(gem_choice){10, 3, 1, 4});
    for (int64_t i = 0; i < io.n_new; i++)
        assert_true(io.new_position[i] == (float)io.new_index[i]);
    assert_true(io.next_position == N);
    close_rig(&r);
}

static void a_short_prompt_is_left_alone(void **state) {
    (void)state;
    rig r;
    int32_t token[N];
    make_tokens(token, 6);
    open_rig(&r, (const char *const[]){"topk=40", NULL});
    sl_prompt io = {.struct_size = SL_SIZE(sl_prompt), .token = token, .n = N};
    io.answer = SL_PROMPT_WORK;
    assert_int_equal(prompt.begin(r.self, &io, NULL), SL_OK);
    assert_int_equal(io.answer, SL_PROMPT_CONTINUE);
    assert_int_equal(io.n_works, 0);
    close_rig(&r);
}

static void work_that_failed_is_told(void **state) {
    (void)state;
    static answer_of_host a;
    rig r;
    int32_t token[N];
    SL_ERROR(err);
    make_tokens(token, 7);
    open_rig(&r, (const char *const[]){"topk=10", NULL});
    sl_prompt io = {.struct_size = SL_SIZE(sl_prompt), .token = token, .n = N};
    assert_int_equal(prompt.begin(r.self, &io, NULL), SL_OK);
    run_work(&io, &a, SL_E_RANGE);
    assert_int_equal(prompt.begin(r.self, &io, &err), SL_E_RANGE);
    assert_non_null(strstr(err.text, "layers 0 to 4"));
    io = (sl_prompt){.struct_size = SL_SIZE(sl_prompt), .token = token, .n = CONTEXT + 1};
    assert_int_equal(prompt.begin(r.self, &io, &err), SL_E_RANGE);
    close_rig(&r);
}

/* Later turns, forks and other texts compute what the early layers have not seen; the answer is that of the whole. */
static void known_prefixes_are_reused(void **state) {
    (void)state;
    static answer_of_host a;
    rig r;
    sl_prompt io;
    int32_t token[N], other[N];
    gem_choice c = {10, 5, 0, 0};
    make_tokens(token, 8);
    open_rig(&r, (const char *const[]){"topk=10", "reuse_prefix=yes", NULL});
    turn(&r, 0, token, 20, &io, &a, 0);
    assert_int_equal(r.self->work.kv, SL_WORK_KV_OWN);
    assert_int_equal(r.self->work.branch, 1);
    check_answer(&io, &c);
    turn(&r, 0, token, 33, &io, &a, 20);
    check_answer(&io, &c);
    turn(&r, 0, token, 33, &io, &a, 31); /* two rows at least: one would run in the decode stage */
    check_answer(&io, &c);
    turn(&r, 0, token, 34, &io, &a, 32);
    check_answer(&io, &c);
    memcpy(other, token, sizeof other);
    other[12]++;
    turn(&r, 0, other, N, &io, &a, 12);
    check_answer(&io, &c);

    sl_event e = {.struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_FORK, .seq = 2, .other = 0};
    assert_int_equal(plugin.event(r.self, &e, NULL), SL_OK);
    turn(&r, 2, token, 30, &io, &a, 12);
    check_answer(&io, &c);
    turn(&r, 0, other, N, &io, &a, N - 2); /* the parent is as it was */
    check_answer(&io, &c);

    /* the host has lost the branch */
    io = (sl_prompt){.struct_size = SL_SIZE(sl_prompt), .token = token, .n = 30, .seq = 2};
    assert_int_equal(prompt.begin(r.self, &io, NULL), SL_OK);
    assert_int_equal(io.works[0]->begin, 28);
    run_work(&io, &a, SL_E_RANGE);
    assert_int_equal(prompt.begin(r.self, &io, NULL), SL_OK);
    assert_int_equal(io.answer, SL_PROMPT_WORK);
    assert_int_equal(io.works[0]->begin, 0);
    run_work(&io, &a, SL_OK);
    assert_int_equal(prompt.begin(r.self, &io, NULL), SL_OK);
    check_answer(&io, &c);

    int64_t held = r.host.bytes_live;
    e = (sl_event){.struct_size = SL_SIZE(sl_event), .kind = SL_EVENT_FINISH, .seq = 2};
    assert_int_equal(plugin.event(r.self, &e, NULL), SL_OK);
    assert_true(r.host.bytes_live < held);
    turn(&r, 2, token, 30, &io, &a, 0);
    close_rig(&r);
}

static void want_of_memory_is_told(void **state) {
    (void)state;
    rig r;
    int32_t token[N];
    SL_ERROR(err);
    make_tokens(token, 9);
    assert_int_equal(
        try_open(&r, (const char *const[]){"topk=10", "reuse_prefix=yes", "positions=original", NULL}, NULL), SL_OK);
    int64_t before = r.host.n_live, needed = 0;
    for (; needed < 100000; needed += 64) {
        r.host.budget = r.host.bytes_live + needed;
        sl_status s = plugin.activate(r.self, &limits, &err);
        if (s >= 0)
            break;
        assert_int_equal(s, SL_E_NO_MEMORY);
        assert_int_equal(r.host.n_live, before);
    }
    assert_in_range(needed, 64, 99999);
    sl_prompt io = {.struct_size = SL_SIZE(sl_prompt), .token = token, .n = N};
    assert_int_equal(prompt.begin(r.self, &io, &err), SL_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "reuse_prefix"));
    r.host.budget = -1;
    io = (sl_prompt){.struct_size = SL_SIZE(sl_prompt), .token = token, .n = N};
    assert_int_equal(prompt.begin(r.self, &io, &err), SL_OK);
    close_rig(&r);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *sets[4], *word;
    } bad[] = {{{"pool=4", NULL}, "odd"},
               {{"topk=8", "keep_first=4", "keep_last=5", NULL}, "more than topk"},
               {{"filter_layer=10", NULL}, "layers 0 to 9"},
               {{"filter_layer=2", NULL}, "looks back 16"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rig r;
        SL_ERROR(err);
        assert_true(try_open(&r, bad[i].sets, &err) < 0);
        if (strstr(err.text, bad[i].word) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].word);
        assert_int_equal(r.host.n_live, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_equal_brute_force),
        cmocka_unit_test(the_choice_is_ascending_unique_and_best),
        cmocka_unit_test(layers_of_the_paper),
        cmocka_unit_test(a_long_prompt_is_replaced),
        cmocka_unit_test(a_short_prompt_is_left_alone),
        cmocka_unit_test(work_that_failed_is_told),
        cmocka_unit_test(known_prefixes_are_reused),
        cmocka_unit_test(want_of_memory_is_told),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("gemfilter_plugin", tests, NULL, NULL);
}
