/* paged under random editing: rows appended in draft trees and chains, dropped by head, forked, cut, closed, against a
 * plain list of what each head should hold. Rows say in their values which token, head and layer they are. */
#include "engine_run.h"

enum { SEQS = 6, MOST = 200, LISTS = 64 };

typedef struct shadow {
    int is_open;
    int64_t n_tokens, n_edited;
    int32_t stamp[MOST];        /* of each token, different in different histories */
    int32_t token[LISTS][MOST]; /* what a head holds */
    int64_t n[LISTS];
} shadow;

typedef struct bench {
    sluice_engine *e;
    const sl_kv_store *api;
    sl_instance *self;
    int32_t layers, heads, dim;
    shadow seqs[SEQS];
    float *k, *v;
    int32_t stamps;
    uint64_t random;
} bench;

static int64_t below(bench *b, int64_t n) { return (int64_t)(test_uniform(&b->random) * (double)n); }

static float value(const bench *b, int32_t stamp, int32_t layer, int32_t head, int32_t d, int is_v) {
    return (float)(stamp * 64 + layer * b->heads + head) + (float)d / 128.0f + (is_v ? 0.25f / 128.0f : 0);
}

static void check_all(bench *b, int32_t seq) {
    shadow *s = &b->seqs[seq];
    sli_batch_clear(&b->e->work_batch, 0, 0);
    sli_batch_add(&b->e->work_batch, seq, s->n_tokens, SL_STAGE_DECODE, NULL, 0, NULL, NULL);
    sl_rows none = {SL_SIZE(sl_rows), &b->e->work_batch.view, NULL, NULL, 0, 0};
    for (int32_t l = 0; l < b->layers; l++) {
        const sl_view *view;
        int64_t rows[16];
        assert_int_equal(b->api->view(b->self, b->e->target.lane, l, &none, NULL, &view), SL_OK);
        assert_int_equal(b->api->rows(b->self, l, seq, rows), SL_OK);
        int seen = 0;
        for (int32_t i = 0; i < view->seqs[0]->n_segments; i++) {
            const sl_segment *g = view->seqs[0]->segments[i];
            for (int32_t h = g->head_begin; h < g->head_begin + g->n_heads; h++, seen++) {
                const int64_t *n = &s->n[l * b->heads + h];
                assert_int_equal(g->n_committed, *n);
                assert_int_equal(rows[h], *n);
                for (int64_t slot = 0; slot < *n; slot++) {
                    int32_t token = s->token[l * b->heads + h][slot];
                    assert_int_equal(g->token_index != NULL ? g->token_index[slot] : g->token_base + slot, token);
                    const float *k =
                        (const float *)((const char *)g->k_pages[slot / g->page_rows] +
                                        slot % g->page_rows * g->k_row_stride + (h - g->head_begin) * g->k_head_stride);
                    const float *v =
                        (const float *)((const char *)g->v_pages[slot / g->page_rows] +
                                        slot % g->page_rows * g->v_row_stride + (h - g->head_begin) * g->v_head_stride);
                    for (int32_t d = 0; d < b->dim; d += 21) {
                        assert_true(k[d] == value(b, s->stamp[token], l, h, d, 0));
                        assert_true(v[d] == value(b, s->stamp[token], l, h, d, 1));
                    }
                }
            }
        }
        assert_int_equal(seen, b->heads);
    }
    int64_t n_tokens, bytes;
    assert_int_equal(b->api->length(b->self, seq, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, s->n_tokens);
}

/* n rows are staged, those of an ascending path stay. */
static void append(bench *b, int32_t seq) {
    shadow *s = &b->seqs[seq];
    SL_ERROR(err);
    int32_t n = 1 + (int32_t)below(b, 9), path[16], n_path = 0, stamp[16], begin[2] = {0, 0}, next = -1;
    if (s->n_tokens + n > MOST)
        return;
    for (int32_t i = 0; i < n; i++) {
        stamp[i] = ++b->stamps % 200000;
        if (i == 0 || below(b, 2))
            path[n_path++] = i;
    }
    begin[1] = n_path;
    if (b->api->grow(b->self, seq, s->n_tokens + n, &err) < 0)
        fail_msg("%s", err.text);
    sli_batch_clear(&b->e->work_batch, 0, 1);
    sli_batch_add(&b->e->work_batch, seq, s->n_tokens, SL_STAGE_VERIFY, NULL, n, NULL, NULL);
    const sl_batch *batch = &b->e->work_batch.view;
    sl_rows rows = {SL_SIZE(sl_rows), batch, NULL, NULL, n, 0};
    sli_engine_step_begin(b->e); /* the checking host faults when something is allocated now */
    assert_int_equal(b->api->reserve(b->self, batch, &err), SL_OK);
    for (int32_t l = 0; l < b->layers; l++) {
        for (int32_t i = 0; i < n; i++)
            for (int32_t h = 0; h < b->heads; h++)
                for (int32_t d = 0; d < b->dim; d++) {
                    b->k[(i * b->heads + h) * b->dim + d] = value(b, stamp[i], l, h, d, 0);
                    b->v[(i * b->heads + h) * b->dim + d] = value(b, stamp[i], l, h, d, 1);
                }
        sl_kv_append args = {
            .struct_size = SL_SIZE(sl_kv_append), .lane = b->e->target.lane, .rows = &rows, .layer = l};
        args.k.data = b->k, args.v.data = b->v;
        assert_int_equal(b->api->append(b->self, &args), SL_OK);
    }
    sl_commit commit = {SL_SIZE(sl_commit), batch, begin, path, &next};
    assert_int_equal(b->api->commit(b->self, b->e->target.lane, &commit, &err), SL_OK);
    sli_engine_step_end(b->e);
    for (int32_t i = 0; i < n_path; i++) {
        s->stamp[s->n_tokens + i] = stamp[path[i]];
        for (int32_t t = 0; t < b->layers * b->heads; t++)
            s->token[t][s->n[t]++] = (int32_t)s->n_tokens + i;
    }
    s->n_tokens += n_path;
}

/* Drops rows of one layer or of all: equally many in each head, or as it comes. */
static void edit(bench *b, int32_t seq) {
    shadow *s = &b->seqs[seq];
    int64_t begin[17];
    static int32_t keep[16 * MOST];
    int32_t first = below(b, 3) == 0 ? (int32_t)below(b, b->layers) : 0, last = first > 0 ? first + 1 : b->layers;
    double share = test_uniform(&b->random);
    int drops = 0;
    for (int32_t l = first; l < last; l++) {
        begin[0] = 0;
        for (int32_t h = 0; h < b->heads; h++) {
            int64_t at = begin[h], *n = &s->n[l * b->heads + h];
            int32_t *token = s->token[l * b->heads + h];
            for (int64_t slot = 0; slot < *n; slot++)
                if (test_uniform(&b->random) < share)
                    keep[at++] = (int32_t)slot;
            begin[h + 1] = at;
            drops |= at - begin[h] < *n;
            for (int64_t i = 0; i < at - begin[h]; i++)
                token[i] = token[keep[begin[h] + i]];
            *n = at - begin[h];
        }
        sl_kv_edit e = {.struct_size = SL_SIZE(sl_kv_edit), .keep_begin = begin, .keep = keep, .layer = l, .seq = seq};
        assert_int_equal(b->api->edit(b->self, &e), SL_OK);
    }
    if (drops)
        s->n_edited = s->n_tokens;
}

static void cut(bench *b, int32_t seq) {
    shadow *s = &b->seqs[seq];
    int64_t n = below(b, s->n_tokens + 1), minimum = -1;
    sl_status status = b->api->truncate(b->self, seq, n, &minimum);
    if (n > 0 && n < s->n_edited) {
        assert_int_equal(status, SL_E_RANGE);
        assert_int_equal(minimum, s->n_edited);
        return;
    }
    assert_int_equal(status, SL_OK);
    s->n_tokens = n;
    s->n_edited = n == 0 ? 0 : s->n_edited;
    for (int32_t t = 0; t < b->layers * b->heads; t++)
        while (s->n[t] > 0 && s->token[t][s->n[t] - 1] >= n)
            s->n[t]--;
}

static void open_or_fork(bench *b, int32_t seq) {
    shadow *s = &b->seqs[seq];
    SL_ERROR(err);
    int32_t parent = (int32_t)below(b, SEQS);
    const shadow *p = &b->seqs[parent];
    if (!p->is_open)
        parent = -1;
    int64_t upto = parent >= 0 ? below(b, 2) ? p->n_tokens : below(b, p->n_tokens + 1) : 0;
    sl_status status = b->api->open(b->self, seq, parent, upto, &err);
    if (parent >= 0 && upto > 0 && upto < p->n_edited) {
        assert_int_equal(status, SL_E_RANGE);
        return;
    }
    assert_int_equal(status, SL_OK);
    *s = parent >= 0 ? *p : (shadow){0};
    s->is_open = 1;
    s->n_tokens = upto;
    s->n_edited = upto == 0 ? 0 : s->n_edited;
    for (int32_t t = 0; t < b->layers * b->heads; t++)
        while (s->n[t] > 0 && s->token[t][s->n[t] - 1] >= upto)
            s->n[t]--;
}

static void rows_survive_whatever_happens(void **state) {
    (void)state;
    static bench b;
    b = (bench){.random = 99};
    b.e = run_open("kvcache.page=4", "kvcache.dtype=f32");
    const sl_model_info *info = b.e->target.info;
    b.api = b.e->target.stores[0].api;
    b.self = b.e->target.stores[0].self;
    b.layers = info->n_layers, b.heads = info->layers[0]->n_kv_heads, b.dim = info->layers[0]->head_dim;
    assert_true(b.layers * b.heads <= LISTS);
    b.k = calloc((size_t)(16 * b.heads * b.dim), sizeof *b.k);
    b.v = calloc((size_t)(16 * b.heads * b.dim), sizeof *b.v);
    assert_true(b.k != NULL && b.v != NULL);
    int rounds = test_length() == 0 ? 1500 : 6000;
    for (int i = 0; i < rounds; i++) {
        int32_t seq = (int32_t)below(&b, SEQS);
        shadow *s = &b.seqs[seq];
        int64_t what = below(&b, 100);
        if (!s->is_open)
            open_or_fork(&b, seq);
        else if (what < 60)
            append(&b, seq);
        else if (what < 82)
            edit(&b, seq);
        else if (what < 92)
            cut(&b, seq);
        else {
            b.api->close(b.self, seq);
            s->is_open = 0;
        }
        if (i % 7 == 0)
            for (int32_t k = 0; k < SEQS; k++)
                if (b.seqs[k].is_open)
                    check_all(&b, k);
    }
    assert_int_equal(b.e->stats.allocs_in_steps, 0);
    for (int32_t k = 0; k < SEQS; k++)
        if (b.seqs[k].is_open)
            b.api->close(b.self, k);
    free(b.k);
    free(b.v);
    sluice_close(b.e);
}

static void wrong_edits_are_refused(void **state) {
    (void)state;
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.page=4");
    int64_t n = run_tokens(e, tokens, 50);
    sluice_session *s = run_session(e, tokens, n);
    run_generate(e, &s, 1, 2);
    const sl_kv_store *api = e->target.stores[0].api;
    sl_instance *self = e->target.stores[0].self;
    int64_t rows = s->n_kv;
    const struct {
        int64_t begin[3];
        int32_t keep[4];
    } wrong[] = {{{0, 2, 3}, {1, 1, 0, 0}},
                 {{0, 2, 3}, {2, 1, 0, 0}},
                 {{0, 2, 4}, {-1, 1, 0, 1}},
                 {{0, 2, 3}, {0, 1, 1000, 0}},
                 {{0, 2, 1}, {0, 1, 0, 0}}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sl_kv_edit bad = {
            .struct_size = SL_SIZE(sl_kv_edit), .keep_begin = wrong[i].begin, .keep = wrong[i].keep, .seq = s->id};
        assert_int_equal(api->edit(self, &bad), SL_E_INVALID);
    }
    sl_kv_edit merging = {.struct_size = SL_SIZE(sl_kv_edit),
                          .keep_begin = wrong[0].begin,
                          .keep = wrong[0].keep,
                          .merge_into = tokens,
                          .seq = s->id};
    assert_int_equal(api->edit(self, &merging), SL_E_UNIMPLEMENTED);
    merging.layer = 100;
    assert_int_equal(api->edit(self, &merging), SL_E_RANGE);
    int64_t held[16];
    assert_int_equal(api->rows(self, 0, s->id, held), SL_OK);
    assert_int_equal(held[0], rows);
    sluice_close(e);
}

/* ---- column sums of the shared operation
 * ------------------------------------------------------------------------------------- */

/* Row by row, by query head, weighted: all forms must tell the same probabilities. */
static void forms_of_column_sums_agree(void **state) {
    (void)state;
    enum { ROWS = 9, STRIDE = 128, H = 16 };
    int32_t tokens[MOST];
    sluice_engine *e = run_open("kvcache.page=4");
    int64_t n = run_tokens(e, tokens, 60);
    sluice_session *s = run_session(e, tokens, n);
    run_generate(e, &s, 1, 1);
    const sl_layer_info *info = e->target.info->layers[0];
    int32_t heads = info->n_heads, K = info->n_kv_heads;
    SL_ERROR(err);
    assert_int_equal(sli_network_seq_grow(&e->target, s->id, s->n_kv + ROWS, &err), SL_OK);
    sli_batch_clear(&e->work_batch, 0, 1);
    sli_batch_add(&e->work_batch, s->id, s->n_kv, SL_STAGE_PREFILL, NULL, ROWS, NULL, NULL);
    sl_rows rows = {SL_SIZE(sl_rows), &e->work_batch.view, NULL, NULL, ROWS, 0};
    assert_int_equal(e->target.stores[0].api->reserve(e->target.stores[0].self, &e->work_batch.view, &err), SL_OK);
    static float q[ROWS * H * 64], o[ROWS * H * 64], per_row[ROWS * H * STRIDE], weighed[ROWS * H * STRIDE],
        summed[H * STRIDE], by_group[H * STRIDE];
    uint64_t seed = 5;
    for (int i = 0; i < ROWS * H * 64; i++)
        q[i] = test_normal(&seed);
    sl_mask mask = {.struct_size = SL_SIZE(sl_mask), .base = SL_MASK_CAUSAL};
    sl_attend a = {.struct_size = SL_SIZE(sl_attend),
                   .lane = e->target.lane,
                   .rows = &rows,
                   .mask = &mask,
                   .scale = 0.125,
                   .want = SL_WANT_COLSUM,
                   .score_stride = STRIDE,
                   .colsum = per_row,
                   .colsum_heads = heads,
                   .colsum_per_row = 1};
    sl_kv_append append = {.struct_size = SL_SIZE(sl_kv_append), .lane = e->target.lane, .rows = &rows};
    append.k.data = append.v.data = q;
    assert_int_equal(e->target.stores[0].api->append(e->target.stores[0].self, &append), SL_OK);
    assert_int_equal(e->target.stores[0].api->view(e->target.stores[0].self, e->target.lane, 0, &rows, NULL, &a.view),
                     SL_OK);
    for (sl_tensor *t = &a.q; t != NULL; t = t == &a.q ? &a.o : NULL) {
        *t = (sl_tensor){.struct_size = SL_SIZE(sl_tensor),
                         .data = t == &a.q ? q : o,
                         .ndim = 3,
                         .dtype = SL_F32,
                         .shape = {ROWS, heads, info->head_dim},
                         .stride = {heads * info->head_dim, info->head_dim, 1}};
    }
    assert_int_equal(e->target.ops->attend(e->target.host, &a), SL_OK);
    float weights[ROWS] = {1, 0, 0.5f, 2, 1, 1, 0, 3, 1}, whole[ROWS] = {1, 0, 1, 1, 1, 0, 0, 1, 1};
    a.colsum = weighed, a.colsum_weight = weights, a.colsum_heads = K;
    assert_int_equal(e->target.ops->attend(e->target.host, &a), SL_OK);
    a.colsum = summed, a.colsum_weight = whole, a.colsum_per_row = 0, a.colsum_heads = heads;
    assert_int_equal(e->target.ops->attend(e->target.host, &a), SL_OK);
    a.colsum = by_group, a.colsum_weight = NULL, a.colsum_heads = 0;
    assert_int_equal(e->target.ops->attend(e->target.host, &a), SL_OK);
    int64_t slots = s->n_kv + ROWS;
    for (int64_t i = 0; i < slots; i++)
        for (int32_t h = 0; h < heads; h++) {
            double sum = 0, group = 0;
            for (int32_t r = 0; r < ROWS; r++) {
                double of_group = 0;
                for (int32_t g = h / (heads / K) * (heads / K), end = g + heads / K; g < end; g++)
                    of_group += per_row[(r * heads + g) * STRIDE + i];
                sum += whole[r] * per_row[(r * heads + h) * STRIDE + i];
                group += of_group;
                if (weights[r] != 0)
                    assert_true(fabs(weighed[(r * K + h / (heads / K)) * STRIDE + i] - weights[r] * of_group) < 1e-5);
                assert_true(i < s->n_kv + r + 1 || per_row[(r * heads + h) * STRIDE + i] == 0); /* causal */
            }
            assert_true(fabs(summed[h * STRIDE + i] - sum) < 1e-5);
            assert_true(fabs(by_group[h / (heads / K) * STRIDE + i] - group) < 1e-5);
        }
    a.colsum_weight = weights; /* summed rows count whole or not at all */
    assert_int_equal(e->target.ops->attend(e->target.host, &a), SL_E_UNIMPLEMENTED);
    sluice_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_survive_whatever_happens),
        cmocka_unit_test(wrong_edits_are_refused),
        cmocka_unit_test(forms_of_column_sums_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
