/* duoattention's cache against plain arrays: random prompts, trees, cuts and forks, rows compared bit by bit through
 * the public view; scarce memory; steps that fail. */
#include "duo_attend.c"
#include "duo_cost.c"
#include "duo_device.c"
#include "duo_device_pages.c"
#include "duo_device_store.c"
#include "duo_pattern.c"
#include "duo_ring.c"
#include "duo_store.c"
#include "duo_view.c"
#include "duoattention.c"

#include "test_host.h"

#include <unistd.h>

enum { LAYERS = 4, MAX_SEQS = 5, MAX_CONTEXT = 90, MAX_ROWS = 60, MAX_TREE = 6, MAX_K = 5 };
enum { SINK = 3, RECENT = 8, SLACK = 4, SPARE = MAX_TREE + SLACK };

/* KV heads, key size, value size; and which heads stream ('s'). */
static const int32_t shapes[LAYERS][3] = {{5, 4, 4}, {2, 8, 3}, {3, 2, 8}, {1, 4, 4}};
static const char *const classes[LAYERS] = {"sffsf", "ss", "fff", "s"};

typedef struct plain_seq {
    int is_open;
    int64_t n, oldest; /* oldest: first token >= SINK that may still be there, by the sheet's rule */
    int32_t row[MAX_CONTEXT + MAX_ROWS];
} plain_seq;

typedef struct rig {
    test_host host;
    sl_layer_info layers[LAYERS];
    const sl_layer_info *layer_ptrs[LAYERS];
    sl_model_info model;
    sl_instance *self;
    plain_seq plain[MAX_SEQS];
    int32_t next_row;
    uint64_t seed;
    char pattern[64];
} rig;

static void open_rig(rig *r, const char *const *more, uint32_t compute) {
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    snprintf(r->pattern, sizeof r->pattern, "/tmp/duo_store_%ld.tsv", (long)getpid());
    FILE *f = fopen(r->pattern, "w");
    assert_non_null(f);
    for (int l = 0; l < LAYERS; l++) {
        r->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                       .block = "gqa",
                                       .n_heads = 2 * shapes[l][0],
                                       .n_kv_heads = shapes[l][0],
                                       .head_dim = shapes[l][1],
                                       .v_head_dim = shapes[l][2]};
        r->layer_ptrs[l] = &r->layers[l];
        for (int h = 0; h < shapes[l][0]; h++)
            fprintf(f, "%d%c", classes[l][h] == 'f', h + 1 < shapes[l][0] ? '\t' : '\n');
    }
    fclose(f);
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layer_ptrs, .n_layers = LAYERS};
    char file[96];
    snprintf(file, sizeof file, "pattern_file=%s", r->pattern);
    const char *sets[12] = {file, "threshold=0.5", "sink_size=3", "recent_size=8", "slack=4", "page=4"};
    for (int i = 6; more != NULL && *more != NULL; i++)
        sets[i] = *more++;
    sl_params *values = test_params(&plugin, sets);
    uint32_t stages[LAYERS] = {7, 7, 7, 7};
    sl_scope store_scope = {SL_SIZE(sl_scope), stages, LAYERS, SL_DEVICE_CPU, "kvcache.store", "kvcache", NULL};
    sl_scope scope = {SL_SIZE(sl_scope), stages, LAYERS, SL_DEVICE_CPU, "attention", "attention", &store_scope};
    sl_create_args args = {.struct_size = SL_SIZE(sl_create_args),
                           .host = &r->host.host,
                           .model = &r->model,
                           .params = values,
                           .scope = &scope};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = MAX_CONTEXT,
                        .max_rows = MAX_ROWS,
                        .max_seqs = MAX_SEQS,
                        .max_tree = MAX_TREE,
                        .n_workers = 1,
                        .compute = compute};
    SL_ERROR(err);
    if (plugin.accepts(&r->model, values, &scope, &err) < 0 || plugin.create(&args, &r->self, &err) < 0 ||
        plugin.activate(r->self, &limits, &err) < 0)
        fail_msg("%s", err_text_);
    test_params_free(values);
    unlink(r->pattern);
    r->seed = 11;
}

static void close_rig(rig *r) {
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
}

static int64_t draw(rig *r, int64_t n) { return (int64_t)(test_next(&r->seed) % (uint64_t)n); }

static float element_of(int32_t row, int layer, int which, int64_t e) {
    uint32_t h = (uint32_t)row * 2654435761u + (uint32_t)(layer * 40503 + which * 7919 + (int)e * 104729);
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
    return (float)(int32_t)(h % 255) - 127.0f; /* exact in every dtype */
}

/* ---- a step
 * ----------------------------------------------------------------------------------------------------------- */

typedef struct step {
    sl_batch b;
    int32_t seq[MAX_SEQS], begin[MAX_SEQS + 1], row_seq[MAX_ROWS], id[MAX_ROWS];
    int64_t past[MAX_SEQS];
    uint32_t stage[MAX_SEQS];
} step;

static void add_rows(rig *r, step *s, int32_t seq, int32_t n, uint32_t stage) {
    int32_t at = s->b.n_seqs++;
    s->seq[at] = seq;
    s->past[at] = r->plain[seq].n;
    s->stage[at] = stage;
    for (int32_t i = 0; i < n; i++) {
        s->row_seq[s->b.n_rows] = at;
        s->id[s->b.n_rows++] = r->next_row++;
    }
    s->begin[at + 1] = s->b.n_rows;
    s->b.struct_size = SL_SIZE(sl_batch);
    s->b.seq = s->seq, s->b.row_begin = s->begin, s->b.n_past = s->past, s->b.stage = s->stage,
    s->b.row_seq = s->row_seq;
}

static float read_element(const char *p, sl_dtype type) {
    float x;
    uint16_t half;
    if (type == SL_F32) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    memcpy(&half, p, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Slot `slot` of head h holds row `id`, which is token `token` (-1: staged). */
static void check_row(const sl_segment *g, int layer, int32_t h, int64_t slot, int32_t id, int64_t token) {
    if (token >= 0)
        assert_int_equal(g->token_index != NULL ? g->token_index[slot] : g->token_base + slot, token);
    int64_t size = sl_dtype_bits(g->k_dtype) / 8;
    for (int which = 0; which < 2; which++) {
        const void *const *pages = which == 0 ? g->k_pages : g->v_pages;
        const char *p = (const char *)pages[slot / g->page_rows] +
                        slot % g->page_rows * (which == 0 ? g->k_row_stride : g->v_row_stride) +
                        (h - g->head_begin) * (which == 0 ? g->k_head_stride : g->v_head_stride);
        for (int32_t d = 0; d < shapes[layer][1 + which]; d++) {
            float want = element_of(id, layer, which, h * shapes[layer][1 + which] + d),
                  got = read_element(p + d * size, g->k_dtype);
            if (!(got == want))
                fail_msg("layer %d head %d slot %d: %g, expected %g", layer, h, (int)slot, (double)got, (double)want);
        }
    }
}

/* All heads of all sequences of the step: the window of those that stream, everything of the others, then staged rows.
 */
static void check_view(rig *r, const step *s, int layer) {
    const sl_view *v;
    sl_rows rows = {SL_SIZE(sl_rows), &s->b, NULL, NULL, s->b.n_rows, 0};
    assert_int_equal(duo_store.view(r->self, NULL, layer, &rows, NULL, &v), SL_OK);
    for (int32_t at = 0; at < s->b.n_seqs; at++) {
        const plain_seq *p = &r->plain[s->seq[at]];
        int32_t n_heads = 0;
        for (int32_t i = 0; i < v->seqs[at]->n_segments; i++) {
            const sl_segment *g = v->seqs[at]->segments[i];
            for (int32_t h = g->head_begin; h < g->head_begin + g->n_heads; h++, n_heads++) {
                int streams = classes[layer][h] == 's';
                int64_t first = streams && p->n - RECENT > SINK ? p->n - RECENT : 0, slot = 0;
                assert_int_equal(g->n_committed, first == 0 ? p->n : SINK + p->n - first);
                for (int64_t t = 0; first > 0 && t < SINK; t++)
                    check_row(g, layer, h, slot++, p->row[t], t);
                for (int64_t t = first; t < p->n; t++)
                    check_row(g, layer, h, slot++, p->row[t], t);
                assert_int_equal(g->n_staged, s->begin[at + 1] - s->begin[at]);
                for (int32_t k = s->begin[at]; k < s->begin[at + 1]; k++)
                    check_row(g, layer, h, slot++, s->id[k], -1);
            }
        }
        assert_int_equal(n_heads, shapes[layer][0]);
    }
}

/* Every layer: append, look, settle (in two parts where there are two sequences). */
static void run_layers(rig *r, const step *s, int32_t n_layers) {
    static float k[MAX_ROWS * 64], v[MAX_ROWS * 64];
    for (int layer = 0; layer < n_layers; layer++) {
        int64_t K = shapes[layer][0], D = shapes[layer][1], Dv = shapes[layer][2];
        for (int32_t i = 0; i < s->b.n_rows; i++) {
            for (int64_t e = 0; e < K * D; e++)
                k[i * K * D + e] = element_of(s->id[i], layer, 0, e);
            for (int64_t e = 0; e < K * Dv; e++)
                v[i * K * Dv + e] = element_of(s->id[i], layer, 1, e);
        }
        sl_rows rows = {SL_SIZE(sl_rows), &s->b, NULL, NULL, s->b.n_rows, 0};
        sl_kv_append a = {.struct_size = SL_SIZE(sl_kv_append), .rows = &rows, .layer = layer};
        sl_tensor_make(&a.k, k, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){s->b.n_rows, K, D});
        sl_tensor_make(&a.v, v, SL_F32, SL_DEVICE_CPU, 3, (int64_t[]){s->b.n_rows, K, Dv});
        assert_int_equal(duo_store.append(r->self, &a), SL_OK);
        check_view(r, s, layer);
        int32_t index[MAX_ROWS], half = s->begin[1] < s->b.n_rows ? s->begin[1] : s->b.n_rows / 2;
        for (int32_t i = 0; i < s->b.n_rows; i++)
            index[i] = i;
        for (int part = 0; part < 2; part++) {
            sl_rows some = {
                SL_SIZE(sl_rows), &s->b, index + (part > 0 ? half : 0), NULL, part > 0 ? s->b.n_rows - half : half, 0};
            sl_kv_side side = {.struct_size = SL_SIZE(sl_kv_side), .rows = &some, .layer = layer};
            assert_int_equal(duo_store.settle(r->self, &side), SL_OK);
        }
    }
}

/* The plain arrays keep the same rows. */
static void keep(rig *r, const step *s, int32_t at, const int32_t *path, int32_t n_path) {
    plain_seq *p = &r->plain[s->seq[at]];
    int64_t end = p->n + s->begin[at + 1] - s->begin[at], oldest = end - (RECENT + SPARE);
    p->oldest = oldest > p->oldest ? oldest : p->oldest;
    for (int32_t i = 0; i < n_path; i++)
        p->row[p->n + i] = s->id[s->begin[at] + path[i]];
    p->n += n_path;
}

static void run_step(rig *r, step *s) {
    SL_ERROR(err);
    int32_t path[MAX_ROWS], begin[MAX_SEQS + 1] = {0}, next[MAX_SEQS] = {0};
    if (duo_store.reserve(r->self, &s->b, &err) < 0)
        fail_msg("%s", err_text_);
    run_layers(r, s, LAYERS);
    for (int32_t at = 0; at < s->b.n_seqs; at++) {
        int32_t n = s->begin[at + 1] - s->begin[at], *p = path + begin[at], n_path = 0;
        for (int32_t i = 0; i < n; i++)
            if (s->stage[at] == SL_STAGE_PREFILL ? i + 1 < n || draw(r, 4) > 0 : i == 0 || draw(r, 2) == 0)
                p[n_path++] = i; /* a prompt's last row may be cancelled; of a tree anything is kept */
        begin[at + 1] = begin[at] + n_path;
        keep(r, s, at, p, n_path);
    }
    sl_commit c = {SL_SIZE(sl_commit), &s->b, begin, path, next};
    if (duo_store.commit(r->self, NULL, &c, &err) < 0)
        fail_msg("%s", err_text_);
}

static void check_sequence(rig *r, int32_t seq) {
    step s = {.b = {.n_seqs = 0}};
    int64_t n_tokens, bytes, n_rows[MAX_K];
    add_rows(r, &s, seq, 0, SL_STAGE_DECODE);
    for (int layer = 0; layer < LAYERS; layer++) {
        check_view(r, &s, layer);
        assert_int_equal(duo_store.rows(r->self, layer, seq, n_rows), SL_OK);
        for (int h = 0; h < shapes[layer][0]; h++)
            assert_int_equal(n_rows[h], classes[layer][h] == 's' && r->plain[seq].n > SINK + RECENT ? SINK + RECENT
                                                                                                    : r->plain[seq].n);
    }
    assert_int_equal(duo_store.length(r->self, seq, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, r->plain[seq].n);
}

/* Does the cache still have what a sequence of n tokens sees? */
static int is_there(const plain_seq *p, int64_t n) {
    int64_t recent = n - RECENT > SINK ? n - RECENT : SINK;
    return n <= SINK || recent >= (p->oldest > SINK ? p->oldest : SINK);
}

/* ---- random life
 * -------------------------------------------------------------------------------------------------------- */

static void grow_to(rig *r, int32_t seq, int64_t n) {
    SL_ERROR(err);
    if (duo_store.grow(r->self, seq, n, &err) < 0)
        fail_msg("%s", err_text_);
}

static void some_rows(rig *r) {
    step s = {.b = {.n_seqs = 0}};
    int32_t room = MAX_ROWS;
    for (int32_t seq = 0; seq < MAX_SEQS; seq++) {
        plain_seq *p = &r->plain[seq];
        int64_t left = MAX_CONTEXT - p->n;
        if (!p->is_open || left < 1 || draw(r, 3) == 0)
            continue;
        uint32_t stage = draw(r, 3) == 0 ? SL_STAGE_PREFILL : draw(r, 2) == 0 ? SL_STAGE_DECODE : SL_STAGE_VERIFY;
        int64_t n = stage == SL_STAGE_PREFILL ? 1 + draw(r, 40) : stage == SL_STAGE_DECODE ? 1 : 1 + draw(r, MAX_TREE);
        n = n < left ? n : left;
        if (n > room)
            continue;
        grow_to(r, seq, p->n + n + (draw(r, 3) == 0 ? draw(r, left - n + 1) : 0));
        add_rows(r, &s, seq, (int32_t)n, stage);
        room -= (int32_t)n;
    }
    if (s.b.n_seqs > 0)
        run_step(r, &s);
}

static void a_cut(rig *r, int32_t seq) {
    plain_seq *p = &r->plain[seq];
    int64_t n = p->n - draw(r, p->n < 12 ? p->n + 1 : 12), minimum = -1;
    n = draw(r, 8) == 0 ? draw(r, SINK + 1) : n;
    n = n > p->n ? p->n : n;
    sl_status status = duo_store.truncate(r->self, seq, n, &minimum);
    assert_int_equal(status, is_there(p, n) ? SL_OK : SL_E_RANGE);
    if (status < 0) {
        assert_true(minimum > n && is_there(p, minimum) && !is_there(p, minimum - 1));
        return;
    }
    p->n = n;
    if (n <= SINK)
        p->oldest = 0;
}

static void a_fork(rig *r, int32_t child, int32_t parent) {
    const plain_seq *p = &r->plain[parent];
    int64_t upto = p->n - draw(r, p->n < 12 ? p->n + 1 : 12);
    SL_ERROR(err);
    sl_status status = duo_store.open(r->self, child, parent, upto, &err);
    assert_int_equal(status, is_there(p, upto) ? SL_OK : SL_E_RANGE);
    if (status < 0)
        return;
    r->plain[child] = *p;
    r->plain[child].n = upto;
    if (upto <= SINK)
        r->plain[child].oldest = 0;
    /* its ring is as long as it needs, so rows beyond a fork may be missing sooner; what it sees is there */
    int64_t oldest = r->self->seqs[child].ring.oldest;
    assert_true(oldest <= (upto - RECENT > SINK ? upto - RECENT : SINK));
    r->plain[child].oldest = oldest;
}

static void live(rig *r, int rounds) {
    for (int round = 0; round < rounds; round++) {
        int32_t seq = (int32_t)draw(r, MAX_SEQS), other = (int32_t)draw(r, MAX_SEQS);
        plain_seq *p = &r->plain[seq];
        if (!p->is_open && r->plain[other].is_open)
            a_fork(r, seq, other);
        else if (!p->is_open) {
            assert_int_equal(duo_store.open(r->self, seq, -1, 0, NULL), SL_OK);
            *p = (plain_seq){.is_open = 1};
        } else if (draw(r, 4) == 0)
            a_cut(r, seq);
        else if (draw(r, 12) == 0) {
            duo_store.close(r->self, seq);
            p->is_open = 0;
        } else
            some_rows(r);
        for (int32_t i = 0; i < MAX_SEQS; i++)
            if (r->plain[i].is_open)
                check_sequence(r, i);
    }
}

static void random_life(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        rig r;
        open_rig(&r, i == 2 ? (const char *const[]){"dtype=bf16", NULL} : NULL, i == 1 ? SL_BF16 : SL_F32);
        live(&r, 1200);
        close_rig(&r);
    }
}

/* ---- memory
 * ----------------------------------------------------------------------------------------------------------------- */

static int64_t live_bytes(const rig *r) { return r->host.bytes_live; }

static void bytes_follow_the_quote(void **state) {
    (void)state;
    rig r;
    open_rig(&r, NULL, SL_F32);
    int64_t idle = live_bytes(&r), n_tokens, bytes = 0;
    for (int64_t n = 1; n <= MAX_CONTEXT; n += 7) {
        sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 2, .n_tokens = n};
        assert_int_equal(duo_store.quote(r.self, &q), SL_OK);
        for (int32_t seq = 0; seq < 2; seq++) {
            assert_int_equal(duo_store.open(r.self, seq, -1, 0, NULL), SL_OK);
            grow_to(&r, seq, n);
        }
        assert_int_equal(duo_store.length(r.self, 0, &n_tokens, &bytes), SL_OK);
        assert_int_equal(live_bytes(&r) - idle, q.bytes);
        assert_int_equal(2 * bytes, q.bytes);
        duo_store.close(r.self, 0);
        duo_store.close(r.self, 1);
        assert_int_equal(live_bytes(&r), idle);
    }
    close_rig(&r);
}

static void scarce_memory_changes_nothing(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    assert_int_equal(duo_store.open(r.self, 0, -1, 0, NULL), SL_OK);
    r.plain[0] = (plain_seq){.is_open = 1};
    grow_to(&r, 0, 30);
    step s = {.b = {.n_seqs = 0}};
    add_rows(&r, &s, 0, 30, SL_STAGE_PREFILL);
    run_step(&r, &s);
    int64_t before = live_bytes(&r);
    for (int64_t more = 0; more < 4000; more += 100) { /* fails in a page, in the ring */
        r.host.budget = before + more;
        sl_status status = duo_store.grow(r.self, 0, 60, &err);
        if (status >= 0)
            break;
        assert_int_equal(status, SL_E_NO_MEMORY);
        assert_int_equal(live_bytes(&r), before);
        status = duo_store.open(r.self, 1, 0, r.plain[0].n, &err);
        if (status < 0) {
            assert_int_equal(status, SL_E_NO_MEMORY);
            assert_int_equal(live_bytes(&r), before);
        } else
            duo_store.close(r.self, 1);
        check_sequence(&r, 0);
    }
    r.host.budget = -1;
    close_rig(&r);
}

/* ---- what must not happen
 * --------------------------------------------------------------------------------------------------- */

/* A chunk that pushed rows out of some layers before the step failed: the sequence says so and can begin again. */
static void a_step_that_fails(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    assert_int_equal(duo_store.open(r.self, 0, -1, 0, NULL), SL_OK);
    r.plain[0] = (plain_seq){.is_open = 1};
    grow_to(&r, 0, MAX_CONTEXT);
    step s = {.b = {.n_seqs = 0}};
    add_rows(&r, &s, 0, 20, SL_STAGE_PREFILL);
    run_step(&r, &s);
    int64_t n = r.plain[0].n;
    step few = {.b = {.n_seqs = 0}}; /* rows that the ring has room for: nothing is lost */
    add_rows(&r, &few, 0, SPARE, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.self, &few.b, &err), SL_OK);
    run_layers(&r, &few, 2);
    check_sequence(&r, 0);
    step many = {.b = {.n_seqs = 0}};
    add_rows(&r, &many, 0, 40, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.self, &many.b, &err), SL_OK);
    run_layers(&r, &many, 1);
    assert_int_equal(duo_store.reserve(r.self, &many.b, &err), SL_E_STATE);
    assert_non_null(strstr(err_text_, "step that failed"));
    assert_int_equal(duo_store.open(r.self, 1, 0, n, &err), SL_E_RANGE);
    assert_int_equal(duo_store.truncate(r.self, 0, n - 1, NULL), SL_E_RANGE);
    assert_int_equal(duo_store.truncate(r.self, 0, SINK, NULL), SL_OK);
    r.plain[0].n = SINK;
    r.plain[0].oldest = 0;
    check_sequence(&r, 0);
    step again = {.b = {.n_seqs = 0}};
    add_rows(&r, &again, 0, 40, SL_STAGE_PREFILL);
    run_step(&r, &again);
    check_sequence(&r, 0);
    close_rig(&r);
}

static void calls_out_of_place(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    int64_t n, bytes;
    open_rig(&r, NULL, SL_F32);
    assert_true(duo_store.open(r.self, MAX_SEQS, -1, 0, &err) < 0);
    assert_true(duo_store.open(r.self, 0, 1, 0, &err) < 0); /* no such parent */
    assert_true(duo_store.grow(r.self, 0, 5, &err) < 0);
    assert_true(duo_store.length(r.self, 0, &n, &bytes) < 0);
    assert_true(duo_store.truncate(r.self, 0, 0, NULL) < 0);
    assert_int_equal(duo_store.open(r.self, 0, -1, 0, &err), SL_OK);
    assert_true(duo_store.open(r.self, 0, -1, 0, &err) < 0); /* twice */
    assert_true(duo_store.grow(r.self, 0, 10 * MAX_CONTEXT, &err) < 0);
    r.plain[0].is_open = 1;
    step s = {.b = {.n_seqs = 0}};
    add_rows(&r, &s, 0, 5, SL_STAGE_PREFILL);
    assert_int_equal(duo_store.reserve(r.self, &s.b, &err), SL_E_STATE); /* nobody grew it */
    grow_to(&r, 0, MAX_CONTEXT);
    run_step(&r, &s);
    step wide = {.b = {.n_seqs = 0}};
    add_rows(&r, &wide, 0, 40, SL_STAGE_PREFILL);
    run_step(&r, &wide);
    step drafts = {.b = {.n_seqs = 0}};
    add_rows(&r, &drafts, 0, SPARE + 1, SL_STAGE_VERIFY); /* more than was announced */
    assert_int_equal(duo_store.reserve(r.self, &drafts.b, &err), SL_E_STATE);
    sl_rows rows = {SL_SIZE(sl_rows), &wide.b, NULL, NULL, 0, 0};
    sl_rowset set = {.struct_size = SL_SIZE(sl_rowset)};
    const sl_view *v;
    assert_int_equal(duo_store.view(r.self, NULL, 0, &rows, &set, &v), SL_E_UNIMPLEMENTED);
    close_rig(&r);
}

/* Scopes: its cache and its attention belong together in every layer and stage. */
static void scopes(void **state) {
    (void)state;
    rig r;
    SL_ERROR(err);
    open_rig(&r, NULL, SL_F32);
    uint32_t all[LAYERS] = {7, 7, 7, 7}, some[LAYERS] = {7, 0, 7, 7}, decode[LAYERS] = {2, 2, 2, 2};
    sl_scope store = {SL_SIZE(sl_scope), all, LAYERS, SL_DEVICE_CPU, "kvcache.store", "kvcache", NULL};
    sl_scope attention = {SL_SIZE(sl_scope), all, LAYERS, SL_DEVICE_CPU, "attention", "attention", NULL};
    assert_int_equal(plugin.accepts(&r.model, NULL, &attention, &err), SL_OK);
    assert_true(plugin.accepts(&r.model, NULL, &store, &err) < 0);
    store.also = &attention; /* in either order */
    assert_int_equal(plugin.accepts(&r.model, NULL, &store, &err), SL_OK);
    store.also = NULL, attention.also = &store;
    attention.layer_stages = some;
    assert_true(plugin.accepts(&r.model, NULL, &attention, &err) < 0);
    assert_non_null(strstr(err_text_, "layer 1"));
    attention.layer_stages = decode;
    assert_true(plugin.accepts(&r.model, NULL, &attention, &err) < 0);
    attention.also = NULL;
    assert_int_equal(plugin.accepts(&r.model, NULL, &attention, &err), SL_OK); /* over another cache */
    r.layers[2].attn_softcap = 30;
    assert_true(plugin.accepts(&r.model, NULL, &attention, &err) < 0);
    r.layers[2].attn_softcap = 0, r.layers[2].block = "mla";
    assert_true(plugin.accepts(&r.model, NULL, &attention, &err) < 0);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_life),
        cmocka_unit_test(bytes_follow_the_quote),
        cmocka_unit_test(scarce_memory_changes_nothing),
        cmocka_unit_test(a_step_that_fails),
        cmocka_unit_test(calls_out_of_place),
        cmocka_unit_test(scopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
