/* kivi: random steps, trees, edits, forks, cuts, copies and failures against a store that is nothing but arrays and the
 * paper's rules. Values are compared bit by bit through the public view, and the books of the pools after every act. */
#include "kivi.c"
#include "kivi_cost.c"
#include "kivi_device.c"
#include "kivi_device_rows.c"
#include "kivi_device_seqs.c"
#include "kivi_edit.c"
#include "kivi_list.c"
#include "kivi_seqs.c"
#include "kivi_view.c"

#include "half.h"
#include "test_host.h"

enum { LAYERS = 3, LISTS = 6, MAX_SEQS = 5, MAX_CONTEXT = 300, MAX_STAGED = 40, WIDEST = 64, G = 32 };

/* Layers of different shapes: KV heads, key size, value size. */
static const int32_t shapes[LAYERS][3] = {{2, 32, 32}, {1, 64, 32}, {3, 8, 64}};

/* ---- the store under test ------------------------------------------------------------------------------------------
 */

typedef struct row {
    int32_t token, group; /* group of coded keys, 0: plain */
    int v_coded;
    float x[2][WIDEST];
} row;

typedef struct plain_list {
    row rows[MAX_CONTEXT + MAX_STAGED];
    int64_t n;
} plain_list;

typedef struct plain_seq {
    int is_open, flushed;
    int64_t n_tokens, n_edited;
    plain_list lists[LISTS];
} plain_seq;

typedef struct rig {
    test_host host;
    sl_layer_info layers[LAYERS];
    const sl_layer_info *layer_ptrs[LAYERS];
    sl_model_info model;
    sl_instance *self;
    plain_seq seqs[MAX_SEQS];
    int32_t next_group;
    int64_t R;
    int bits[2], has_cuts;
    uint64_t seed;
} rig;

static void open_rig(rig *r, const char *const *sets) {
    memset(r, 0, sizeof *r);
    test_host_init(&r->host);
    for (int l = 0; l < LAYERS; l++) {
        r->layers[l] = (sl_layer_info){.struct_size = SL_SIZE(sl_layer_info),
                                       .block = "gqa",
                                       .n_heads = shapes[l][0],
                                       .n_kv_heads = shapes[l][0],
                                       .head_dim = shapes[l][1],
                                       .v_head_dim = shapes[l][2]};
        r->layer_ptrs[l] = &r->layers[l];
    }
    r->model = (sl_model_info){.struct_size = SL_SIZE(sl_model_info), .layers = r->layer_ptrs, .n_layers = LAYERS};
    sl_params *values = test_params(&plugin, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &r->host.host, .model = &r->model, .params = values};
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = MAX_CONTEXT,
                        .max_rows = 2 * MAX_STAGED,
                        .max_seqs = MAX_SEQS,
                        .max_tree = MAX_STAGED,
                        .n_workers = 1,
                        .compute = SL_F32};
    assert_int_equal(plugin.create(&args, &r->self, NULL), SL_OK);
    assert_int_equal(plugin.activate(r->self, &limits, NULL), SL_OK);
    test_params_free(values);
    r->R = r->self->R;
    r->bits[0] = r->self->bits[0], r->bits[1] = r->self->bits[1];
    r->seed = 77;
}

static void close_rig(rig *r) {
    plugin.deactivate(r->self);
    plugin.destroy(r->self);
    assert_int_equal(r->host.n_live, 0);
    assert_int_equal(r->host.bytes_live, 0);
}

static int64_t draw(rig *r, int64_t n) { return (int64_t)(test_next(&r->seed) % (uint64_t)n); }

/* ---- the rules, once more ------------------------------------------------------------------------------------------
 */

static void code_numbers(float *x[], int n, int bits) {
    float low = *x[0], high = *x[0], most = (float)((1 << bits) - 1);
    for (int i = 0; i < n; i++)
        low = fminf(low, *x[i]), high = fmaxf(high, *x[i]);
    const float m = slk_f32_of_f16(slk_f16_of_f32(low)), s = slk_f32_of_f16(slk_f16_of_f32((high - low) / most));
    for (int i = 0; i < n; i++)
        *x[i] = s > 0 ? rintf(fminf(fmaxf((*x[i] - m) / s, 0), most)) * s + m : m;
}

static void code_group(rig *r, row *rows, int n, int32_t d) {
    float *x[128];
    ++r->next_group;
    for (int i = 0; i < n; i++)
        rows[i].group = r->next_group;
    for (int32_t c = 0; c < d; c++) {
        for (int i = 0; i < n; i++)
            x[i] = &rows[i].x[0][c];
        code_numbers(x, n, r->bits[0]);
    }
}

static const int32_t *shape_of(int list) { return shapes[list < 2 ? 0 : list < 3 ? 1 : 2]; }

static void plain_flush(rig *r, plain_seq *s) {
    for (int k = 0; k < LISTS; k++) {
        plain_list *l = &s->lists[k];
        int64_t coded = 0;
        while (coded < l->n && l->rows[coded].group != 0)
            coded++;
        for (; r->bits[0] < 16 && l->n - coded >= r->R; coded += r->R)
            for (int64_t g = 0; g < r->R; g += G)
                code_group(r, &l->rows[coded + g], G, shape_of(k)[1]);
        for (int64_t i = 0; r->bits[1] < 16 && i < l->n - r->R; i++) {
            row *w = &l->rows[i];
            for (int32_t c = 0; !w->v_coded && c < shape_of(k)[2]; c += G) {
                float *x[G];
                for (int d = 0; d < G; d++)
                    x[d] = &w->x[1][c + d];
                code_numbers(x, G, r->bits[1]);
            }
            w->v_coded = 1;
        }
    }
}

/* Coded rows of neighbouring groups that fit into one block become one group. */
static void plain_regroup(rig *r, plain_list *l, int32_t d) {
    for (int64_t i = 0, n, next; i < l->n && l->rows[i].group != 0; i += n) {
        int groups = 0;
        for (n = 0; i + n < l->n && l->rows[i + n].group != 0; n = next, groups++) {
            for (next = n; i + next < l->n && l->rows[i + next].group == l->rows[i + n].group;)
                next++;
            if (next > G)
                break;
        }
        if (groups > 1)
            code_group(r, &l->rows[i], (int)n, d);
    }
}

/* ---- looking -------------------------------------------------------------------------------------------------------
 */

/* Channel d of a row of a segment, by the words of kv.h. */
static float read_value(const sl_segment *s, int side, int64_t slot, int32_t d, int32_t width) {
    const sl_qrows *q = side == 0 ? s->k_quant : s->v_quant;
    const char *page = (const char *)(side == 0 ? s->k_pages : s->v_pages)[slot / s->page_rows];
    int64_t at = slot % s->page_rows;
    (void)width;
    page += at * (side == 0 ? s->k_row_stride : s->v_row_stride);
    if (s->kind == SL_SEGMENT_ROWS || q == NULL)
        return ((const float *)(const void *)page)[d];
    int64_t stride = q->axis == SL_QUANT_PER_CHANNEL ? at / q->group * q->scale_stride : at * q->scale_stride;
    int64_t element = q->axis == SL_QUANT_PER_CHANNEL ? d : d / q->group;
    const uint16_t *scale =
        (const uint16_t *)(const void *)((const char *)q->scale_pages[slot / s->page_rows] + stride);
    const uint16_t *zero = (const uint16_t *)(const void *)((const char *)q->zero_pages[slot / s->page_rows] + stride);
    int code = ((const uint8_t *)page)[d * (int)q->bits / 8] >> d * (int)q->bits % 8 & ((1 << q->bits) - 1);
    assert_true(q->zero_is_min == 1 && q->scale_dtype == SL_F16);
    return (float)code * slk_f32_of_f16(scale[element]) + slk_f32_of_f16(zero[element]);
}

/* The rows of a sequence that stands at `place` of the step, staged ones behind the committed. */
static void check_seq(rig *r, const sl_view *v, int place, int layer, const plain_seq *s, int64_t n_staged) {
    static int seen[LISTS];
    const sl_seq_view *view = v->seqs[place];
    int first = layer == 0 ? 0 : layer == 1 ? 2 : 3;
    for (int32_t h = 0; h < shapes[layer][0]; h++) {
        const plain_list *l = &s->lists[first + h];
        int64_t slot = 0, committed = l->n - n_staged, coded_k = 0, coded_v = 0;
        seen[first + h]++;
        for (int32_t k = 0; k < view->n_segments; k++) {
            const sl_segment *g = view->segments[k];
            if (g->head_begin != h)
                continue;
            assert_int_equal(g->n_heads, 1);
            for (int64_t i = 0; i < g->n_committed + g->n_staged; i++, slot++) {
                const row *w = &l->rows[slot];
                assert_int_equal(i < g->n_committed, slot < committed);
                if (i < g->n_committed)
                    assert_int_equal(g->token_index != NULL ? g->token_index[i] : g->token_base + i, w->token);
                assert_int_equal(w->group != 0, g->k_quant != NULL);
                assert_int_equal(w->v_coded, g->v_quant != NULL);
                coded_k += w->group != 0, coded_v += w->v_coded;
                for (int side = 0; side < 2; side++)
                    for (int32_t d = (int32_t)draw(r, 7); d < shapes[layer][1 + side]; d += 7) {
                        float got = read_value(g, side, i, d, shapes[layer][1 + side]);
                        if (got != w->x[side][d])
                            fail_msg("layer %d head %d slot %lld of %lld, %s %d: %.9g, expected %.9g", layer, h,
                                     (long long)slot, (long long)l->n, side ? "value" : "key", d, (double)got,
                                     (double)w->x[side][d]);
                    }
            }
        }
        assert_int_equal(slot, l->n);
        if (s->n_edited == 0 && !r->has_cuts && s->flushed) { /* the sheet's closed forms */
            int64_t k0 = r->bits[0] < 16 ? committed / r->R * r->R : 0;
            int64_t v0 = r->bits[1] < 16 && committed > r->R ? committed - r->R : 0;
            assert_int_equal(coded_k, k0);
            assert_int_equal(coded_v, v0);
            const kivi_list *own = &r->self->seqs[view->seq].lists[first + h];
            assert_int_equal(own->n_coded, k0);
            assert_int_equal(own->n_coded_v, v0);
        }
    }
}

static void check_sequence(rig *r, int32_t id) {
    const int32_t ids[] = {id}, begin[] = {0, 0};
    const int64_t past[] = {r->seqs[id].n_tokens};
    sl_batch b = {.struct_size = SL_SIZE(sl_batch), .seq = ids, .row_begin = begin, .n_past = past, .n_seqs = 1};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &b};
    int64_t n_tokens, bytes;
    assert_int_equal(store.length(r->self, id, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, r->seqs[id].n_tokens);
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *v;
        assert_int_equal(store.view(r->self, NULL, l, &rows, NULL, &v), SL_OK);
        check_seq(r, v, 0, l, &r->seqs[id], 0);
    }
}

/* Every reference is one entry of a list; blocks of groups are half full on average; all else is free, once. */
static void check_books(const rig *r) {
    for (int32_t i = 0; i < r->self->n_shapes; i++) {
        kivi_shape *sh = &r->self->shapes[i];
        static int32_t seen[KIVI_POOLS][8192];
        memset(seen, 0, sizeof seen);
        for (int q = 0; q < MAX_SEQS; q++) {
            const kivi_sequence *s = &r->self->seqs[q];
            assert_int_equal(s->lists != NULL, r->seqs[q].is_open);
            for (int32_t k = 0; s->lists != NULL && k < r->self->n_lists; k++) {
                const kivi_list *l = &s->lists[k];
                int64_t n = 0;
                for (int64_t j = 0; j < l->n_blocks && r->self->shape_of_list[k] == sh; j++) {
                    const kivi_block *b = &l->blocks[j];
                    seen[b->coded ? KIVI_KQ : KIVI_K][b->k]++;
                    if (b->v >= 0)
                        seen[KIVI_V][b->v]++;
                    if (b->vq >= 0)
                        seen[KIVI_VQ][b->vq]++;
                    assert_true(b->n > 0 && b->nv <= b->n && (b->nv == 0 || b->vq >= 0) &&
                                (b->nv == b->n || b->v >= 0));
                    assert_true(b->coded == (j < l->tail) && (b->coded || b->n == G || j == l->n_blocks - 1));
                    n += b->n;
                }
                if (r->self->shape_of_list[k] == sh)
                    assert_int_equal(n, l->n);
            }
        }
        for (int p = 0; p < KIVI_POOLS; p++) {
            const sl_blocks *pool = &sh->pools[p];
            int32_t n_free = 0;
            assert_true(pool->n_ids <= 8192);
            for (int32_t id = 0; id < pool->n_ids; id++) {
                assert_int_equal(seen[p][id], pool->refs[id]);
                n_free += pool->refs[id] == 0 && pool->base[id] != NULL;
            }
            assert_int_equal(n_free, pool->n_free);
        }
    }
}

/* ---- acting --------------------------------------------------------------------------------------------------------
 */

static int32_t pick(rig *r, int want_open) {
    int32_t found[MAX_SEQS], n = 0;
    for (int32_t i = 0; i < MAX_SEQS; i++)
        if (r->seqs[i].is_open == want_open)
            found[n++] = i;
    return n > 0 ? found[draw(r, n)] : -1;
}

static void plain_cut(plain_seq *s, int64_t n) {
    s->n_tokens = n;
    s->n_edited = n == 0 ? 0 : s->n_edited;
    for (int k = 0; k < LISTS; k++)
        while (s->lists[k].n > 0 && s->lists[k].rows[s->lists[k].n - 1].token >= n)
            s->lists[k].n--;
}

static void act_open(rig *r) {
    int32_t id = pick(r, 0), parent = draw(r, 3) > 0 ? pick(r, 1) : -1;
    if (id < 0)
        return;
    const plain_seq *p = parent >= 0 ? &r->seqs[parent] : NULL;
    int64_t upto = p == NULL ? 0 : !r->has_cuts || draw(r, 2) ? p->n_tokens : draw(r, p->n_tokens + 1);
    sl_status status = store.open(r->self, id, parent, upto, NULL);
    if (p != NULL && upto > 0 && upto < p->n_edited) {
        assert_int_equal(status, SL_E_RANGE);
        return;
    }
    assert_int_equal(status, SL_OK);
    if (p != NULL)
        r->seqs[id] = *p;
    else
        memset(&r->seqs[id], 0, sizeof r->seqs[id]);
    r->seqs[id].is_open = 1;
    plain_cut(&r->seqs[id], upto);
}

static void act_close(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    store.close(r->self, id);
    r->seqs[id].is_open = 0;
}

static void act_cut(rig *r) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    plain_seq *s = &r->seqs[id];
    int64_t n = draw(r, 4) == 0 || !r->has_cuts ? 0 : draw(r, s->n_tokens + 1), minimum = -1;
    sl_status status = store.truncate(r->self, id, n, &minimum);
    if (n > 0 && n < s->n_edited) {
        assert_int_equal(status, SL_E_RANGE);
        assert_int_equal(minimum, s->n_edited);
        return;
    }
    if (status == SL_E_RANGE && minimum == s->n_tokens) /* too many parts of groups */
        return;
    assert_int_equal(status, SL_OK);
    plain_cut(s, n);
}

static void make_scarce(rig *r, int scarce) { r->host.budget = scarce ? r->host.bytes_live + draw(r, 9) * 1024 : -1; }

/* A step of one or two sequences: prompt chunks, chains or trees of which a part stays. */
static void act_step(rig *r, int scarce) {
    int32_t ids[2], begin[3] = {0}, row_seq[2 * MAX_STAGED], path[2 * MAX_STAGED], path_begin[3] = {0};
    uint32_t stage[2];
    int64_t past[2];
    int n_seqs = 0, first = (int)draw(r, MAX_SEQS);
    for (int32_t i = 0; i < MAX_SEQS && n_seqs < 1 + (int)draw(r, 2); i++) {
        int32_t id = (first + i) % MAX_SEQS;
        plain_seq *s = &r->seqs[id];
        int64_t room = MAX_CONTEXT - s->n_tokens, longest = 0;
        for (int k = 0; s->is_open && k < LISTS; k++)
            longest = s->lists[k].n > longest ? s->lists[k].n : longest;
        if (!s->is_open || room == 0)
            continue;
        int32_t n = 1 + (int32_t)draw(r, draw(r, 2) ? 4 : room < MAX_STAGED ? room : MAX_STAGED);
        n = n < room ? n : (int32_t)room;
        ids[n_seqs] = id;
        past[n_seqs] = s->n_tokens;
        stage[n_seqs] = draw(r, 3) ? SL_STAGE_VERIFY : SL_STAGE_PREFILL;
        for (int32_t k = begin[n_seqs]; k < begin[n_seqs] + n; k++)
            row_seq[k] = n_seqs;
        begin[n_seqs + 1] = begin[n_seqs] + n;
        n_seqs++;
    }
    if (n_seqs == 0)
        return;
    int32_t n_rows = begin[n_seqs];
    sl_batch b = {.struct_size = SL_SIZE(sl_batch),
                  .seq = ids,
                  .row_begin = begin,
                  .n_past = past,
                  .row_seq = row_seq,
                  .stage = stage,
                  .n_seqs = n_seqs,
                  .n_rows = n_rows};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &b, .n = n_rows};
    for (int i = 0; i < n_seqs; i++) {
        make_scarce(r, scarce);
        sl_status status = store.grow(r->self, ids[i], past[i] + begin[i + 1] - begin[i] + draw(r, 20), NULL);
        make_scarce(r, 0);
        assert_true(status == SL_OK || (scarce && status == SL_E_NO_MEMORY));
        if (status < 0)
            return;
    }
    int64_t before = r->host.n_allocations;
    for (int i = 0; i < n_seqs; i++)
        if (stage[i] != SL_STAGE_PREFILL)
            plain_flush(r, &r->seqs[ids[i]]), r->seqs[ids[i]].flushed = 1;
    assert_int_equal(store.reserve(r->self, &b, NULL), SL_OK);
    static float x[2][2 * MAX_STAGED * 3 * WIDEST];
    for (int l = 0; l < LAYERS; l++) {
        int lists = l == 0 ? 0 : l == 1 ? 2 : 3;
        for (int32_t i = 0; i < n_rows; i++) {
            plain_seq *s = &r->seqs[ids[row_seq[i]]];
            for (int32_t h = 0; h < shapes[l][0]; h++) {
                plain_list *list = &s->lists[lists + h];
                row *w = &list->rows[list->n + i - begin[row_seq[i]]];
                w->group = w->v_coded = 0;
                for (int side = 0; side < 2; side++)
                    for (int32_t d = 0; d < shapes[l][1 + side]; d++)
                        x[side][(i * shapes[l][0] + h) * shapes[l][1 + side] + d] = w->x[side][d] =
                            (float)d / 16 + (float)test_uniform(&r->seed) - (float)test_uniform(&r->seed);
            }
        }
        sl_kv_append args = {
            .struct_size = SL_SIZE(sl_kv_append), .rows = &rows, .k = {.data = x[0]}, .v = {.data = x[1]}, .layer = l};
        assert_int_equal(store.append(r->self, &args), SL_OK);
    }
    for (int i = 0; i < n_seqs; i++)
        for (int k = 0; k < LISTS; k++)
            r->seqs[ids[i]].lists[k].n += begin[i + 1] - begin[i];
    for (int l = 0; l < LAYERS; l++) {
        const sl_view *seen;
        assert_int_equal(store.view(r->self, NULL, l, &rows, NULL, &seen), SL_OK);
        for (int i = 0; i < n_seqs; i++) {
            int flushed = r->seqs[ids[i]].flushed;
            r->seqs[ids[i]].flushed = stage[i] != SL_STAGE_PREFILL;
            check_seq(r, seen, i, l, &r->seqs[ids[i]], begin[i + 1] - begin[i]);
            r->seqs[ids[i]].flushed = flushed;
        }
    }
    int32_t n_path = 0;
    for (int i = 0; i < n_seqs; i++) {
        plain_seq *s = &r->seqs[ids[i]];
        int32_t n = begin[i + 1] - begin[i], holes = stage[i] == SL_STAGE_VERIFY && draw(r, 2);
        for (int32_t k = 0; k < n; k++)
            if (!holes || draw(r, 3) > 0)
                path[n_path++] = k;
        path_begin[i + 1] = n_path;
        for (int k = 0; k < LISTS; k++) {
            plain_list *l = &s->lists[k];
            l->n -= n;
            for (int32_t j = path_begin[i]; j < n_path; j++) {
                l->rows[l->n + j - path_begin[i]] = l->rows[l->n + path[j]];
                l->rows[l->n + j - path_begin[i]].token = (int32_t)s->n_tokens + j - path_begin[i];
            }
            l->n += n_path - path_begin[i];
        }
        s->n_tokens += n_path - path_begin[i];
    }
    sl_commit done = {.struct_size = SL_SIZE(sl_commit), .batch = &b, .path_begin = path_begin, .path = path};
    assert_int_equal(store.commit(r->self, NULL, &done, NULL), SL_OK);
    assert_int_equal(r->host.n_allocations, before); /* nothing was taken in the step */
    for (int i = 0; i < n_seqs; i++) {
        sl_event e = {.struct_size = SL_SIZE(sl_event), .seq = ids[i], .other = -1, .n = r->seqs[ids[i]].n_tokens};
        e.kind = stage[i] == SL_STAGE_VERIFY ? SL_EVENT_COMMIT : draw(r, 2) ? SL_EVENT_PREFILL_END : SL_EVENT_CHUNK_END;
        r->seqs[ids[i]].flushed = e.kind != SL_EVENT_CHUNK_END;
        if (r->seqs[ids[i]].flushed)
            plain_flush(r, &r->seqs[ids[i]]);
        assert_int_equal(plugin.event(r->self, &e, NULL), SL_OK);
        assert_int_equal(r->host.n_allocations, before); /* what grow took is enough for that too */
    }
}

/* Drops rows of one layer or of all: equally many in each head, or as it comes. */
static void act_edit(rig *r, int scarce) {
    int32_t id = pick(r, 1);
    if (id < 0)
        return;
    plain_seq *s = &r->seqs[id];
    double share = 0.3 + 0.75 * test_uniform(&r->seed);
    for (int l = (int)draw(r, LAYERS), end = draw(r, 2) ? l + 1 : LAYERS; l < end; l++) {
        static int32_t keep[3 * MAX_CONTEXT];
        int64_t begin[4] = {0};
        int first = l == 0 ? 0 : l == 1 ? 2 : 3, drops = 0;
        for (int32_t h = 0; h < shapes[l][0]; h++) {
            int64_t at = begin[h];
            for (int64_t i = 0; i < s->lists[first + h].n; i++)
                if (test_uniform(&r->seed) < share)
                    keep[at++] = (int32_t)i;
            begin[h + 1] = at;
            drops |= at - begin[h] < s->lists[first + h].n;
        }
        sl_kv_edit e = {.struct_size = SL_SIZE(sl_kv_edit), .keep_begin = begin, .keep = keep, .layer = l, .seq = id};
        make_scarce(r, scarce);
        sl_status status = store.edit(r->self, &e);
        make_scarce(r, 0);
        assert_true(status == SL_OK || (scarce && status == SL_E_NO_MEMORY));
        if (status < 0 || !drops)
            continue;
        for (int32_t h = 0; h < shapes[l][0]; h++) {
            plain_list *p = &s->lists[first + h];
            for (int64_t i = begin[h]; i < begin[h + 1]; i++)
                p->rows[i - begin[h]] = p->rows[keep[i]];
            p->n = begin[h + 1] - begin[h];
            plain_regroup(r, p, shapes[l][1]);
        }
        s->n_edited = s->n_tokens;
    }
}

/* Rows out and into a new sequence: in f32 they are the same rows, plain at first, and coding gives the same codes. */
static void act_copy(rig *r, int scarce) {
    int32_t from = pick(r, 1), to = pick(r, 0);
    if (from < 0 || to < 0)
        return;
    int64_t n = r->seqs[from].n_tokens;
    static float buffer[2 * MAX_CONTEXT * 3 * WIDEST];
    assert_int_equal(store.open(r->self, to, -1, 0, NULL), SL_OK);
    sl_status status = SL_OK;
    for (int l = 0; l < LAYERS && status == SL_OK; l++) {
        sl_kv_copy copy = {.struct_size = SL_SIZE(sl_kv_copy),
                           .buffer = buffer,
                           .end = n,
                           .bytes = sizeof buffer,
                           .layer = l,
                           .seq = from,
                           .direction = SL_COPY_EXPORT,
                           .dtype = SL_F32};
        status = store.copy_rows(r->self, &copy, NULL);
        if (r->seqs[from].n_edited > 0)
            assert_int_equal(status, SL_E_RANGE);
        copy.seq = to;
        copy.direction = SL_COPY_IMPORT;
        make_scarce(r, scarce);
        if (status == SL_OK)
            status = store.copy_rows(r->self, &copy, NULL);
        make_scarce(r, 0);
        assert_true(status == SL_OK || r->seqs[from].n_edited > 0 || (scarce && status == SL_E_NO_MEMORY));
    }
    if (status < 0) {
        store.close(r->self, to);
        return;
    }
    r->seqs[to] = r->seqs[from];
    r->seqs[to].flushed = 0;
    for (int k = 0; k < LISTS; k++)
        for (int64_t i = 0; i < n; i++)
            r->seqs[to].lists[k].rows[i].group = r->seqs[to].lists[k].rows[i].v_coded = 0;
}

static void run_random(const char *const *sets, int rounds, int has_cuts) {
    static rig r;
    open_rig(&r, sets);
    r.has_cuts = has_cuts;
    for (int i = 0; i < rounds; i++) {
        int64_t what = draw(&r, 100);
        int scarce = draw(&r, 10) == 0;
        if (what < 6)
            act_open(&r);
        else if (what < 9)
            act_close(&r);
        else if (what < 13)
            act_cut(&r);
        else if (what < 20)
            act_edit(&r, scarce);
        else if (what < 22)
            act_copy(&r, scarce);
        else
            act_step(&r, scarce);
        check_books(&r);
        int32_t id = (int32_t)draw(&r, MAX_SEQS);
        if (r.seqs[id].is_open)
            check_sequence(&r, id);
    }
    for (int32_t id = 0; id < MAX_SEQS; id++) {
        store.close(r.self, id);
        r.seqs[id].is_open = 0;
    }
    check_books(&r);
    close_rig(&r);
}

/* ---- the tests -----------------------------------------------------------------------------------------------------
 */

static int rounds(void) { return test_length() == 0 ? 400 : 6000; }

static void random_2_bits(void **state) {
    (void)state;
    run_random((const char *const[]){"residual=32", NULL}, rounds(), 1);
}
static void random_4_and_2_bits(void **state) {
    (void)state;
    run_random((const char *const[]){"bits=4", "bits_v=2", "residual=64", NULL}, rounds(), 0);
}
static void random_8_bits(void **state) {
    (void)state;
    run_random((const char *const[]){"bits=8", "residual=96", NULL}, rounds(), 1);
}
static void random_plain_keys(void **state) {
    (void)state;
    run_random((const char *const[]){"bits_k=16", "bits_v=4", "residual=32", NULL}, rounds(), 0);
}
static void random_plain_values(void **state) {
    (void)state;
    run_random((const char *const[]){"bits_k=4", "bits_v=16", "residual=32", NULL}, rounds(), 1);
}

static void append_rows(rig *r, int32_t id, int64_t past, int32_t n, uint32_t stage) {
    const int32_t begin[] = {0, n};
    int32_t row_seq[MAX_CONTEXT] = {0}, path[MAX_CONTEXT], next = -1;
    static float x[MAX_CONTEXT * 3 * WIDEST];
    for (int32_t i = 0; i < n; i++)
        path[i] = i;
    for (int32_t i = 0; i < n * 3 * WIDEST; i++)
        x[i] = (float)test_uniform(&r->seed);
    sl_batch b = {.struct_size = SL_SIZE(sl_batch),
                  .seq = &id,
                  .row_begin = begin,
                  .n_past = &past,
                  .row_seq = row_seq,
                  .stage = &stage,
                  .n_seqs = 1,
                  .n_rows = n};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &b, .n = n};
    assert_int_equal(store.reserve(r->self, &b, NULL), SL_OK);
    for (int l = 0; l < LAYERS; l++) {
        sl_kv_append args = {
            .struct_size = SL_SIZE(sl_kv_append), .rows = &rows, .k = {.data = x}, .v = {.data = x}, .layer = l};
        assert_int_equal(store.append(r->self, &args), SL_OK);
    }
    sl_commit done = {SL_SIZE(sl_commit), &b, begin, path, &next};
    assert_int_equal(store.commit(r->self, NULL, &done, NULL), SL_OK);
    sl_event e = {.struct_size = SL_SIZE(sl_event), .seq = id, .other = -1, .n = past + n};
    e.kind = stage == SL_STAGE_PREFILL ? SL_EVENT_PREFILL_END : SL_EVENT_COMMIT;
    assert_int_equal(plugin.event(r->self, &e, NULL), SL_OK);
}

/* Bytes are those of the sheet's section 7 where rows fill blocks, those of the quote everywhere, and the host gave out
 * no more; what lies on the way there stays under the quoted peak. */
static void bytes_are_those_of_the_sheet(void **state) {
    (void)state;
    static rig r;
    static const char *const sets[][4] = {
        {"residual=64", NULL}, {"bits=4", "residual=32", NULL}, {"bits=8", "bits_k=4", "residual=128", NULL}};
    for (int c = 0; c < 3; c++) {
        open_rig(&r, sets[c]);
        for (int64_t n = 1; n < MAX_CONTEXT; n += n % 32 == 0 ? 11 : n % 32 < 21 ? 32 - n % 32 : 1) {
            sl_kv_quote q = {.struct_size = SL_SIZE(sl_kv_quote), .n_seqs = 1, .n_tokens = n};
            int64_t n_tokens, bytes = 0, tables = 0;
            assert_int_equal(store.quote(r.self, &q), SL_OK);
            assert_int_equal(store.open(r.self, 0, -1, 0, NULL), SL_OK);
            assert_int_equal(store.grow(r.self, 0, n, NULL), SL_OK);
            for (int32_t k = 0; k < r.self->n_lists; k++)
                tables += r.self->seqs[0].lists[k].cap_blocks * (int64_t)sizeof(kivi_block);
            tables += r.self->n_lists * (int64_t)sizeof(kivi_list);
            assert_true(r.host.bytes_live - tables <= q.bytes_peak);
            int64_t prompt = n / 2 + 1;
            append_rows(&r, 0, 0, (int32_t)prompt, SL_STAGE_PREFILL);
            for (int64_t i = prompt; i < n; i++)
                append_rows(&r, 0, i, 1, SL_STAGE_DECODE);
            assert_int_equal(store.length(r.self, 0, &n_tokens, &bytes), SL_OK);
            assert_int_equal(bytes, q.bytes);
            kivi_trim(r.self);
            assert_int_equal(r.host.bytes_live - tables, q.bytes);
            if (n % r.R == 0) {
                int64_t bits = 0; /* K: b + 32 / G of floor(n / R) R; V: of n - R, the rest in f32 here */
                for (int l = 0; l < LAYERS; l++)
                    bits += shapes[l][0] * (shapes[l][1] * n * (r.bits[0] + 1) +
                                            shapes[l][2] * ((n - r.R) * (r.bits[1] + 1) + r.R * 32));
                assert_int_equal(bytes * 8, bits);
            }
            store.close(r.self, 0);
        }
        close_rig(&r);
    }
}

/* truncate = exact refuses what would leave more coded than there would be. */
static void exact_cuts(void **state) {
    (void)state;
    static rig r;
    open_rig(&r, (const char *const[]){"residual=64", "truncate=exact", NULL});
    sl_kv_layout how = {.struct_size = SL_SIZE(sl_kv_layout)};
    assert_int_equal(store.layout(r.self, 0, &how), SL_OK);
    assert_int_equal(how.kinds, SL_SEGMENT_ROWS | SL_SEGMENT_QROWS);
    assert_false(how.flags & SL_KV_TRUNCATES);
    int64_t minimum;
    assert_int_equal(store.open(r.self, 0, -1, 0, NULL), SL_OK);
    assert_int_equal(store.grow(r.self, 0, 200, NULL), SL_OK);
    append_rows(&r, 0, 0, 60, SL_STAGE_PREFILL);
    assert_int_equal(store.truncate(r.self, 0, 20, &minimum), SL_OK); /* nothing is coded yet */
    append_rows(&r, 0, 20, 80, SL_STAGE_PREFILL);
    assert_int_equal(store.truncate(r.self, 0, 99, &minimum), SL_E_RANGE);
    assert_int_equal(minimum, 100);
    assert_int_equal(store.open(r.self, 1, 0, 99, NULL), SL_E_RANGE);
    assert_int_equal(store.open(r.self, 1, 0, 100, NULL), SL_OK);
    assert_int_equal(store.truncate(r.self, 0, 0, &minimum), SL_OK);
    store.close(r.self, 0);
    store.close(r.self, 1);
    close_rig(&r);
}

static void refused(const char *word, const char *const *sets, const sl_limits *limits, int32_t d_v) {
    test_host host;
    test_host_init(&host);
    sl_layer_info layer = {.struct_size = SL_SIZE(sl_layer_info), .n_kv_heads = 1, .head_dim = 64, .v_head_dim = d_v};
    const sl_layer_info *layers[] = {&layer};
    sl_model_info model = {.struct_size = SL_SIZE(sl_model_info), .layers = layers, .n_layers = 1};
    sl_params *values = test_params(&plugin, sets);
    sl_create_args args = {
        .struct_size = SL_SIZE(sl_create_args), .host = &host.host, .model = &model, .params = values};
    sl_instance *self = NULL;
    SL_ERROR(err);
    sl_status status = plugin.create(&args, &self, &err);
    if (status >= 0)
        status = plugin.activate(self, limits, &err);
    assert_true(word != NULL ? status < 0 : status == SL_OK);
    if (word != NULL && strstr(err.text, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
    if (self != NULL)
        plugin.deactivate(self);
    plugin.destroy(self);
    test_params_free(values);
    assert_int_equal(host.n_live, 0);
}

static void refusals(void **state) {
    (void)state;
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = 512,
                        .max_rows = 64,
                        .max_seqs = 1,
                        .max_tree = 8,
                        .n_workers = 1,
                        .compute = SL_F32,
                        .deterministic = 1};
#define SET(...) (const char *const[]){__VA_ARGS__, NULL}
    refused("no multiple", SET("residual=100"), &limits, 64);
    refused("no multiple", SET("residual=64", "group_size=128"), &limits, 64);
    refused("do not divide", SET("group_size=128"), &limits, 64);
    refused("do not divide", SET("bits_v=4"), &limits, 40);
    refused("engine.deterministic", SET("residual=128"), &limits, 64);
    refused(NULL, SET("residual=512"), &limits, 64);
    refused(NULL, SET("bits=16"), &limits, 64);
    refused(NULL, SET("bits_v=16", "bits_k=16", "chunked=yes"), &limits, 40);
    limits.max_tree = 1;
    refused("prefill_chunk", SET("chunked=yes"), &limits, 64);
    refused(NULL, SET("chunked=no"), &limits, 64);
    limits.deterministic = 0;
    refused(NULL, SET("chunked=yes"), &limits, 64);
    static rig r;
    open_rig(&r, SET("residual=32"));
    int32_t keep[] = {1, 0}, into[4] = {0};
    int64_t begin[] = {0, 2, 2};
    assert_int_equal(store.open(r.self, 0, -1, 0, NULL), SL_OK);
    assert_int_equal(store.open(r.self, 0, -1, 0, NULL), SL_E_STATE);
    assert_int_equal(store.open(r.self, MAX_SEQS, -1, 0, NULL), SL_E_RANGE);
    assert_int_equal(store.grow(r.self, 0, 40, NULL), SL_OK);
    append_rows(&r, 0, 0, 40, SL_STAGE_PREFILL);
    sl_kv_edit e = {.struct_size = SL_SIZE(sl_kv_edit), .keep_begin = begin, .keep = keep};
    assert_int_equal(store.edit(r.self, &e), SL_E_INVALID);
    e.merge_into = into;
    assert_int_equal(store.edit(r.self, &e), SL_E_UNIMPLEMENTED);
    e.layer = LAYERS;
    assert_int_equal(store.edit(r.self, &e), SL_E_RANGE);
    e.seq = 1, e.layer = 0, e.merge_into = NULL;
    assert_int_equal(store.edit(r.self, &e), SL_E_STATE);
    assert_int_equal(store.grow(r.self, 0, 4 * MAX_CONTEXT, NULL), SL_E_RANGE);
    store.close(r.self, 0);
    close_rig(&r);
#undef SET
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_2_bits),       cmocka_unit_test(random_4_and_2_bits),
        cmocka_unit_test(random_8_bits),       cmocka_unit_test(random_plain_keys),
        cmocka_unit_test(random_plain_values), cmocka_unit_test(bytes_are_those_of_the_sheet),
        cmocka_unit_test(exact_cuts),          cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("kivi_plugin", tests, NULL, NULL);
}
