/* shadowkv through its tables: what is selected, against the definition in plain double arithmetic; what is rebuilt and
 * fetched, against the true rows; trees and prompts of several rows. Forks, cuts and memory: shadowkv_life_test.c. */
#include "shadow_block.c"
#include "shadow_cost.c"
#include "shadow_factor.c"
#include "shadow_pool.c"
#include "shadow_select.c"
#include "shadow_seq.c"
#include "shadow_tier.c"
#include "shadow_view.c"
#include "shadowkv.c"

#include "test_host.h"

#include "shadow_rig.h"

/* ---- the definition
 * ----------------------------------------------------------------------------------------------------- */

enum { MAX_CHUNKS = MAX_CONTEXT / 4 };

typedef struct truth {
    double landmark[MAX_CHUNKS][16], least[MAX_CHUNKS];
    uint8_t outlier[MAX_CHUNKS];
    int64_t n;
} truth;

/* Landmarks and outliers of chunks [first, first + n) of a sequence, one head. */
static void define_block(const rig *r, int32_t seq, int layer, int32_t head, int64_t c, int64_t first, int64_t n,
                         int64_t E, truth *t) {
    const int32_t *s = shapes[layer];
    float raw[MAX_WIDTH], k[32][MAX_WIDTH], v[MAX_WIDTH], q[MAX_WIDTH];
    t->n = n;
    for (int64_t i = 0; i < n; i++) {
        double *mean = t->landmark[i];
        memset(mean, 0, sizeof t->landmark[i]);
        for (int64_t j = 0; j < c; j++) {
            int64_t token = (first + i) * c + j;
            make_row(r, layer, r->plain[seq].row[token], token, raw, k[j], v, q);
            for (int32_t d = 0; d < s[2]; d++)
                mean[d] += k[j][head * s[2] + d] / (double)c;
        }
        t->least[i] = INFINITY;
        for (int64_t j = 0; j < c; j++) {
            double kk = 0, mm = 0, km = 0;
            for (int32_t d = 0; d < s[2]; d++) {
                double x = k[j][head * s[2] + d];
                kk += x * x, mm += mean[d] * mean[d], km += x * mean[d];
            }
            t->least[i] = km / sqrt(kk * mm) < t->least[i] ? km / sqrt(kk * mm) : t->least[i];
        }
        t->outlier[i] = 0;
    }
    for (int64_t e = 0; e < E; e++) {
        int64_t worst = 0;
        for (int64_t i = 0; i < n; i++)
            if (t->outlier[worst] || (!t->outlier[i] && t->least[i] < t->least[worst]))
                worst = i;
        t->outlier[worst] = 1;
    }
}

/* Softmax over landmarks for each query head, summed over rows, the largest of the group's heads. */
static void define_scores(const truth *t, int layer, int32_t head, const float *q, int64_t n_rows, double *score) {
    const int32_t *s = shapes[layer];
    int32_t G = s[0] / s[1];
    for (int64_t i = 0; i < t->n; i++)
        score[i] = -1;
    for (int32_t g = 0; g < G; g++) {
        double sum[MAX_CHUNKS] = {0};
        for (int64_t row = 0; row < n_rows; row++) {
            double p[MAX_CHUNKS] = {0}, total = 0;
            for (int64_t i = 0; i < t->n; i++) {
                double dot = 0;
                for (int32_t d = 0; d < s[2]; d++)
                    dot += q[(row * s[0] + head * G + g) * s[2] + d] * t->landmark[i][d];
                total += p[i] = t->outlier[i] ? 0 : exp(dot / sqrt((double)s[2]));
            }
            for (int64_t i = 0; i < t->n; i++)
                sum[i] += p[i] / total;
        }
        for (int64_t i = 0; i < t->n; i++)
            score[i] = sum[i] > score[i] ? sum[i] : score[i];
    }
}

/* chosen[i]: exactly the k best that are no outliers, up to rounding. */
static void check_choice(const truth *t, const double *score, const uint8_t *chosen, int64_t k) {
    double worst = INFINITY, best = -INFINITY;
    int64_t n = 0;
    for (int64_t i = 0; i < t->n; i++) {
        if (t->outlier[i])
            continue;
        n += chosen[i];
        if (chosen[i])
            worst = score[i] < worst ? score[i] : worst;
        else
            best = score[i] > best ? score[i] : best;
    }
    assert_int_equal(n, k);
    assert_true(worst >= best * (1 - 1e-5));
}

/* A row set's list of one unit and head: chunks of [0, n) that it names; the rest must be every exact row. */
static void read_list(const sl_rowset *set, int64_t unit, int32_t head, int64_t c, int64_t n, int64_t n_past,
                      uint8_t *named) {
    const int64_t *list = &set->list_begin[unit * set->n_groups + head];
    int64_t tail = n * c;
    memset(named, 0, (size_t)n);
    assert_int_equal(set->run, c);
    for (int64_t e = list[0]; e < list[1]; e++) {
        assert_int_equal(set->token[e] % c, 0);
        assert_true(e == list[0] || set->token[e] > set->token[e - 1]);
        if (set->token[e] < n * c)
            named[set->token[e] / c] = 1;
        else {
            assert_int_equal(set->token[e], tail);
            tail += c;
        }
    }
    assert_true(tail >= n_past);
}

/* ---- selection, and what the view makes of it
 * -------------------------------------------------------------------------------- */

typedef struct decode_case {
    const char *const *sets;
    int64_t chunk, E, budget, local;
    int32_t n_prompt;
} decode_case;

/* Decodes rows after a prompt; selection, view and content are checked in every layer and head. */
static void check_decode(const decode_case *c) {
    static rig r;
    static step t;
    static row_data d;
    static truth def;
    open_rig(&r, c->sets);
    r.position_shift = 3; /* positions are no token indices */
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, c->n_prompt);
    int64_t n = c->n_prompt / c->chunk - c->local,
            k = c->budget / c->chunk < n - c->E ? c->budget / c->chunk : n - c->E;
    assert_int_equal(r.self->seqs[0].n_factored, n * c->chunk);
    for (int i = 0; i < 6; i++) {
        make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
        assert_int_equal(store.grow(r.self, 0, t.past[0] + 1, NULL), SL_OK);
        assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
        for (int l = 0; l < LAYERS; l++) {
            const sl_rowset *set;
            append_rows(&r, &t, l, &d);
            const sl_view *v = look(&r, &t, l, &d, &set);
            assert_non_null(set);
            assert_null(v->slots);
            for (int32_t h = 0; h < shapes[l][1]; h++) {
                double score[MAX_CHUNKS];
                uint8_t named[MAX_CHUNKS];
                define_block(&r, 0, l, h, c->chunk, 0, n, c->E, &def);
                define_scores(&def, l, h, d.q, 1, score);
                read_list(set, 0, h, c->chunk, n, t.past[0], named);
                for (int64_t j = 0; j < n; j++)
                    assert_true(named[j] || !def.outlier[j]); /* outliers are always there ... */
                check_choice(&def, score, named, k);          /* ... and do not count among the selected */
                const sl_segment *g = segment_of(v, h);
                int64_t rows = t.past[0] - n * c->chunk, slot = 0;
                for (int64_t j = 0; j < n; j++)
                    rows += named[j] * c->chunk;
                assert_int_equal(g->n_committed, rows);
                assert_int_equal(g->n_staged, 1);
                for (int64_t j = 0; j < n; j++)
                    for (int64_t e = 0; named[j] && e < c->chunk; e++)
                        assert_int_equal(token_of(g, slot++), j * c->chunk + e);
                float got[MAX_WIDTH];
                read_row(g, h, g->n_committed, shapes[l][2], 0, got); /* the staged row */
                assert_memory_equal(got, d.k + h * shapes[l][2], sizeof *got * (size_t)shapes[l][2]);
                /* the region holds exactly what is selected now */
                const shadow_region *region = &r.self->seqs[0].regions[l];
                int64_t held = 0;
                for (int32_t e = 0; e < r.self->seqs[0].n_slots; e++) {
                    int32_t chunk = region->chunk[h * r.self->seqs[0].n_slots + e];
                    if (chunk < 0)
                        continue;
                    assert_true(named[chunk] && !def.outlier[chunk]);
                    held++;
                }
                assert_int_equal(held, k);
            }
            check_content(&r, v, 0, l, 1e-3, 0);
        }
        commit_rows(&r, &t, NULL, 1);
    }
    close_rig(&r);
}

static void test_decode(void **state) {
    (void)state;
    check_decode(
        &(decode_case){SETS("min_prompt=0", "rank=64", "sparse_budget=64", "outlier_chunks=5"), 8, 5, 64, 4, 301});
    check_decode(&(decode_case){SETS("min_prompt=0", "rank=64", "sparse_budget=16", "outlier_chunks=0", "chunk_size=4",
                                     "local_chunks=1", "svd=exact"),
                                4, 0, 16, 1, 200});
    check_decode(&(decode_case){
        SETS("min_prompt=0", "rank=64", "sparse_budget=64", "outlier_chunks=3", "chunk_size=32", "svd=gram"), 32, 3, 64,
        4, 500});
    check_decode(
        &(decode_case){SETS("min_prompt=0", "rank=64", "sparse_budget=512", "outlier_chunks=2", "host_values=no"), 8, 2,
                       512, 4, 300}); /* all of them */
}

/* Invariant 1: what a query attends to is everything, and it is right. */
static void test_everything(void **state) {
    (void)state;
    static rig r;
    static step t;
    static row_data d;
    open_rig(&r, SETS("min_prompt=0", "rank=999", "sparse_budget=2048", "outlier_chunks=4"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 403);
    make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
    assert_int_equal(store.grow(r.self, 0, 404, NULL), SL_OK);
    assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_rowset *set;
        append_rows(&r, &t, l, &d);
        const sl_view *v = look(&r, &t, l, &d, &set);
        for (int32_t h = 0; h < shapes[l][1]; h++)
            assert_int_equal(segment_of(v, h)->n_committed, 403);
        check_content(&r, v, 0, l, 1e-3, 0);
        assert_int_equal(store.view(r.self, &r.lane, l, &t.rows, NULL, &v),
                         SL_OK); /* asked for by nobody in particular */
        for (int32_t h = 0; h < shapes[l][1]; h++)
            assert_int_equal(segment_of(v, h)->n_committed, 403);
        check_content(&r, v, 0, l, 1e-3, 0);
    }
    close_rig(&r);
}

/* bf16 rows and factors: within what bf16 can tell. */
static void test_bf16(void **state) {
    (void)state;
    static rig r;
    static step t;
    static row_data d;
    open_rig_for(&r, SETS("min_prompt=0", "rank=999", "sparse_budget=2048", "outlier_chunks=1"), SL_BF16, 1);
    sl_kv_layout how = {.struct_size = SL_SIZE(sl_kv_layout)};
    assert_int_equal(store.layout(r.self, 0, &how), SL_OK);
    assert_int_equal(how.dtype, SL_BF16);
    assert_true((how.flags & SL_KV_SELECTS) && (how.flags & SL_KV_WANTS_RAW) && !(how.flags & SL_KV_EXPORTS));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 200);
    make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
    assert_int_equal(store.grow(r.self, 0, 201, NULL), SL_OK);
    assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_rowset *set;
        append_rows(&r, &t, l, &d);
        check_content(&r, look(&r, &t, l, &d, &set), 0, l, 0.1, 0.01);
    }
    close_rig(&r);
}

/* ---- the second tier
 * ------------------------------------------------------------------------------------------------------- */

typedef struct trace {
    int64_t tokens[16][LAYERS][3][MAX_CONTEXT];
    float k[16][LAYERS][3][MAX_CONTEXT][16], v[16][LAYERS][3][MAX_CONTEXT][8];
} trace;

static void run_trace(const char *const *sets, trace *out, int64_t *back, int restart) {
    static rig r;
    static step t;
    static row_data d;
    memset(out, 0, sizeof *out);
    open_rig(&r, sets);
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    for (int i = 0; i < 16; i++) {
        make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
        assert_int_equal(store.grow(r.self, 0, t.past[0] + 1, NULL), SL_OK);
        if (restart) { /* a region without a history */
            shadow_region_close(r.self, &r.self->seqs[0]);
            assert_int_equal(store.grow(r.self, 0, t.past[0] + 1, NULL), SL_OK);
        }
        assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
        for (int l = 0; l < LAYERS; l++) {
            const sl_rowset *set;
            append_rows(&r, &t, l, &d);
            const sl_view *v = look(&r, &t, l, &d, &set);
            for (int32_t h = 0; h < shapes[l][1]; h++) {
                const sl_segment *g = segment_of(v, h);
                for (int64_t s = 0; s < g->n_committed; s++) {
                    out->tokens[i][l][h][s] = token_of(g, s);
                    read_row(g, h, s, shapes[l][2], 0, out->k[i][l][h][s]);
                    read_row(g, h, s, shapes[l][3], 1, out->v[i][l][h][s]);
                }
            }
        }
        commit_rows(&r, &t, NULL, 1);
    }
    *back = r.self->tier.bytes_back;
    close_rig(&r);
}

/* Invariant 4: values from the tier or in place, with or without a history: bit by bit the same. Hits spare transfers.
 */
static void test_tier(void **state) {
    (void)state;
    trace *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    int64_t with_hits, without, none;
    run_trace(SETS("min_prompt=0", "rank=5", "sparse_budget=96", "outlier_chunks=2"), a, &with_hits, 0);
    run_trace(SETS("min_prompt=0", "rank=5", "sparse_budget=96", "outlier_chunks=2"), b, &without, 1);
    assert_memory_equal(a, b, sizeof *a);
    run_trace(SETS("min_prompt=0", "rank=5", "sparse_budget=96", "outlier_chunks=2", "host_values=no"), b, &none, 0);
    assert_memory_equal(a, b, sizeof *a);
    int64_t all = 0;
    for (int l = 0; l < LAYERS; l++)
        all += shapes[l][1] * 96 * shapes[l][3] * 4;
    assert_int_equal(without, 16 * all); /* every selected value, in every step */
    assert_int_equal(none, 0);
    assert_true(with_hits >= all && with_hits < without);
    free(a);
    free(b);
}

/* ---- warm
 * -------------------------------------------------------------------------------------------------------------------
 */

/* The region begins with exact keys of what the last prompt row selects; what is brought later comes from the factors.
 */
static void test_warm(void **state) {
    (void)state;
    static rig r;
    static row_data d;
    open_rig(&r, SETS("min_prompt=0", "rank=2", "sparse_budget=64", "outlier_chunks=2", "warm=yes"));
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    const shadow_seq *s = &r.self->seqs[0];
    for (int l = 0; l < LAYERS; l++)
        for (int32_t h = 0; h < shapes[l][1]; h++) {
            uint8_t mark[MAX_CHUNKS];
            char *work = malloc((size_t)shadow_select_scratch(r.self));
            make_row(&r, l, r.plain[0].row[299], 299, d.raw, d.k, d.v, d.q);
            int64_t k = shadow_choose(r.self, s, l, h, d.q, 1, 0, mark, work);
            free(work);
            assert_int_equal(k, s->n_slots);
            for (int32_t e = 0; e < s->n_slots; e++) {
                int32_t chunk = s->regions[l].chunk[h * s->n_slots + e];
                assert_true(chunk >= 0);
                for (int64_t row = 0; row < 8; row++) {
                    make_row(&r, l, r.plain[0].row[chunk * 8 + row], chunk * 8 + row, d.raw, d.k, d.v, d.q);
                    const shadow_place *p = &r.self->places[l];
                    assert_memory_equal(s->regions[l].k + (h * s->n_slots + e) * p->k_chunk + row * p->D * 4,
                                        d.k + h * p->D, (size_t)p->D * 4);
                    assert_memory_equal(s->regions[l].v + (h * s->n_slots + e) * p->v_chunk + row * p->Dv * 4,
                                        d.v + h * p->Dv, (size_t)p->Dv * 4);
                }
            }
        }
    close_rig(&r);
}

/* ---- several rows: trees, later prompts
 * ---------------------------------------------------------------------------------------- */

/* Each row's list is what that row alone would get, and its slots name those rows; staged rows are the mask's affair.
 */
static void check_rows_alone(const char *const *sets, uint32_t stage, int32_t n_rows) {
    static rig r;
    static step t;
    static row_data d;
    open_rig_for(&r, sets, SL_F32, MAX_TREE);
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    feed(&r, 0, 3, SL_STAGE_DECODE);
    make_step(&r, &t, 0, n_rows, stage);
    static const int32_t depth[MAX_TREE] = {0, 1, 1, 1, 2, 2, 3, 3};
    for (int32_t i = 0; stage == SL_STAGE_VERIFY && i < n_rows; i++) {
        t.index[i] = t.past[0] + depth[i];
        t.position[i] = (float)t.index[i];
    }
    assert_int_equal(store.grow(r.self, 0, t.past[0] + n_rows, NULL), SL_OK);
    assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
    int64_t n = r.self->seqs[0].n_factored / 8;
    for (int l = 0; l < LAYERS; l++) {
        const sl_rowset *set;
        append_rows(&r, &t, l, &d);
        const sl_view *v = look(&r, &t, l, &d, &set);
        assert_non_null(v->slots);
        check_content(&r, v, 0, l, 1e-3, 0);
        for (int32_t i = 0; i < n_rows; i++)
            for (int32_t h = 0; h < shapes[l][1]; h++) {
                uint8_t named[MAX_CHUNKS], alone[MAX_CHUNKS];
                char *work = malloc((size_t)shadow_select_scratch(r.self));
                read_list(set, i, h, 8, n, t.past[0], named);
                shadow_choose(r.self, &r.self->seqs[0], l, h, d.q + i * shapes[l][0] * shapes[l][2], 1, 0, alone, work);
                free(work);
                const shadow_block *b = r.self->seqs[0].blocks[0];
                for (int32_t e = 0; e < b->n_kept; e++)
                    assert_int_equal(named[b->layers[l].kept[h * b->n_kept + e]], alone[e]);
                const sl_segment *g = segment_of(v, h);
                const int64_t *list = &v->slots->list_begin[i * v->slots->n_groups + h];
                int64_t tokens = t.past[0] - n * 8, at = list[0];
                for (int64_t c = 0; c < n; c++)
                    for (int64_t e = 0; named[c] && e < 8; e++, tokens++)
                        assert_int_equal(token_of(g, v->slots->token[at++]), c * 8 + e);
                for (int64_t token = n * 8; token < t.past[0]; token++)
                    assert_int_equal(token_of(g, v->slots->token[at++]), token);
                assert_int_equal(at, list[1]);
                assert_int_equal(list[1] - list[0], tokens);
            }
    }
    if (stage == SL_STAGE_VERIFY) { /* an accepted path that is not the first rows */
        const int32_t path[] = {0, 3, 4, 7};
        commit_rows(&r, &t, path, 4);
        make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
        assert_int_equal(store.grow(r.self, 0, t.past[0] + 1, NULL), SL_OK);
        assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
        for (int l = 0; l < LAYERS; l++) {
            const sl_rowset *set;
            append_rows(&r, &t, l, &d);
            check_content(&r, look(&r, &t, l, &d, &set), 0, l, 1e-3, 0);
        }
    }
    close_rig(&r);
}

static void test_rows(void **state) {
    (void)state;
    check_rows_alone(SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=3"), SL_STAGE_VERIFY, 8);
    check_rows_alone(SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=3"), SL_STAGE_PREFILL, 50);
    check_rows_alone(SETS("min_prompt=0", "rank=64", "sparse_budget=32", "host_values=no", "outlier_chunks=0"),
                     SL_STAGE_VERIFY, 8);
}

/* verify_select = shared: one list, from the sum over rows; prompt_select = all: no list. */
static void test_shared_and_all(void **state) {
    (void)state;
    static rig r;
    static step t;
    static row_data d;
    static truth def;
    prepare_rig(&r);
    sl_limits limits = limits_of(SL_F32, MAX_TREE);
    SL_ERROR(err);
    const char *const *sets = SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=3",
                                   "verify_select=shared", "prompt_select=all");
    assert_int_equal(try_create(&r, sets, &err), SL_OK);
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_E_INVALID); /* tokens would depend on speculation */
    assert_non_null(strstr(err.text, "deterministic"));
    limits.deterministic = 0;
    assert_int_equal(plugin.activate(r.self, &limits, &err), SL_OK);
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    for (int pass = 0; pass < 2; pass++) {
        make_step(&r, &t, 0, 6, pass == 0 ? SL_STAGE_VERIFY : SL_STAGE_PREFILL);
        assert_int_equal(store.grow(r.self, 0, t.past[0] + 6, NULL), SL_OK);
        assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
        for (int l = 0; l < LAYERS; l++) {
            const sl_rowset *set;
            append_rows(&r, &t, l, &d);
            const sl_view *v = look(&r, &t, l, &d, &set);
            assert_null(v->slots);
            check_content(&r, v, 0, l, 1e-3, 0);
            for (int32_t h = 0; h < shapes[l][1]; h++) {
                if (pass == 1) {
                    assert_null(set);
                    assert_int_equal(segment_of(v, h)->n_committed, t.past[0]);
                    continue;
                }
                double score[MAX_CHUNKS];
                uint8_t named[MAX_CHUNKS];
                int64_t n = 300 / 8 - 4;
                assert_int_equal(set->per_row, 0);
                define_block(&r, 0, l, h, 8, 0, n, 3, &def);
                define_scores(&def, l, h, d.q, 6, score);
                read_list(set, 0, h, 8, n, t.past[0], named);
                check_choice(&def, score, named, 4);
            }
        }
        commit_rows(&r, &t, NULL, 6);
    }
    close_rig(&r);
}

/* A layer's window: chunks that it hides wholly are no candidates. */
static void test_window(void **state) {
    (void)state;
    static rig r;
    static step t;
    static row_data d;
    open_rig(&r, SETS("min_prompt=0", "rank=64", "sparse_budget=32", "outlier_chunks=1"));
    for (int l = 0; l < LAYERS; l++)
        r.layers[l].window = 101;
    open_seq(&r, 0, -1, 0);
    feed_prompt(&r, 0, 300);
    make_step(&r, &t, 0, 1, SL_STAGE_DECODE);
    assert_int_equal(store.grow(r.self, 0, 301, NULL), SL_OK);
    assert_int_equal(store.reserve(r.self, &t.b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        const sl_rowset *set;
        append_rows(&r, &t, l, &d);
        const sl_view *v = look(&r, &t, l, &d, &set);
        check_content(&r, v, 0, l, 1e-3, 0);
        for (int32_t h = 0; h < shapes[l][1]; h++) {
            const shadow_block *b = r.self->seqs[0].blocks[0];
            uint8_t named[MAX_CHUNKS];
            int64_t n = b->n_chunks, selected = 0;
            read_list(set, 0, h, 8, n, 300, named);
            for (int64_t c = 0; c < n; c++) {
                int is_outlier = b->layers[l].outlier[h] == c;
                assert_true(is_outlier || !named[c] || c * 8 + 8 > 200); /* tokens 200 .. 300 are in the window */
                selected += named[c] && !is_outlier;
            }
            assert_int_equal(selected, 4);
        }
    }
    close_rig(&r);
}

/* The choice of the k best, with ties and with what is no number. */
static void test_top(void **state) {
    (void)state;
    uint64_t seed = 9;
    for (int round = 0; round < 2000; round++) {
        float x[40], work[40];
        uint8_t mark[40], want[40] = {0};
        int64_t n = 1 + (int64_t)(test_next(&seed) % 40), k = (int64_t)(test_next(&seed) % (uint64_t)(n + 1));
        for (int64_t i = 0; i < n; i++)
            x[i] = test_uniform(&seed) < 0.1 ? NAN : (float)(test_next(&seed) % 7);
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < n; i++)
                if (!want[i] && (best < 0 || x[i] > x[best] || (isnan(x[best]) && !isnan(x[i]))))
                    best = i;
            want[best] = 1;
        }
        shadow_top(x, n, k, work, mark);
        assert_memory_equal(mark, want, (size_t)n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top),  cmocka_unit_test(test_decode),         cmocka_unit_test(test_everything),
        cmocka_unit_test(test_bf16), cmocka_unit_test(test_tier),           cmocka_unit_test(test_warm),
        cmocka_unit_test(test_rows), cmocka_unit_test(test_shared_and_all), cmocka_unit_test(test_window)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
