/* The cache on a device against plain arrays: random prompts, trees, cuts and forks on a lane that does its work late;
 * rows are read as kernels read them, by tables and head places in device memory. */
#include "duo_store_rig_test.h"
#include "test_lane.h"

enum { MAX_CONTEXT = 120, SINK = 5, RECENT = 11 };

typedef struct plain_seq {
    int is_open;
    int64_t n, low; /* low: first token behind the sinks that must still be there */
    int32_t row[MAX_CONTEXT + MAX_ROWS];
} plain_seq;

typedef struct rig {
    store_rig base;
    test_lane lane;
    plain_seq plain[MAX_SEQS];
} rig;

static void open_rig(rig *r, const char *page) {
    const char *const sets[] = {"sink_size=5", "recent_size=11", page, NULL};
    memset(r, 0, sizeof *r);
    store_model(&r->base, shapes, LAYERS, 2, 23);
    test_lane_init(&r->lane, &r->base.host);
    make_duo(&r->base, SL_DEVICE_CUDA, sets, MAX_CONTEXT, SL_BF16);
}

static void close_rig(rig *r) {
    test_lane_finish(&r->lane);
    for (int32_t i = 0; i < MAX_SEQS; i++)
        duo_device_store.close(r->base.self, i);
    for (int c = 0; c < CLASSES; c++) /* whatever was shared, cut and dropped: every page came back once */
        assert_int_equal(r->base.self->device->pool[c].n_free, r->base.self->device->pool[c].n_ids);
    store_close(&r->base);
}

static int64_t draw(rig *r, int64_t n) { return store_draw(&r->base, n); }

/* ---- what is there ----------------------------------------------------------------------------------------------- */

static void check_row(rig *r, int32_t seq, int layer, int32_t h, int64_t slot) {
    const sl_view_device *v = &r->base.self->device->views[layer];
    const int64_t *place = v->heads + h * SL_HEAD_FIELDS;
    int64_t page = v->pages[seq * v->pages_stride + place[SL_HEAD_PAGES] + slot / v->page_rows];
    for (int which = 0; which < 2; which++) {
        const char *p = which == 0 ? (char *)v->k_pool + place[SL_HEAD_K] + page * v->k_page_stride +
                                         slot % v->page_rows * v->k_row_stride
                                   : (char *)v->v_pool + place[SL_HEAD_V] + page * v->v_page_stride +
                                         slot % v->page_rows * v->v_row_stride;
        for (int32_t d = 0; d < shapes[layer][1 + which]; d++) {
            uint16_t got,
                want =
                    store_bf16(store_element(r->plain[seq].row[slot], layer, which, h * shapes[layer][1 + which] + d));
            memcpy(&got, p + 2 * d, sizeof got);
            if (got != want)
                fail_msg("layer %d, head %d, %s of slot %d of sequence %d: %04x, expected %04x", layer, h,
                         which == 0 ? "key" : "value", (int)slot, seq, got, want);
        }
    }
}

/* Everything that a row behind n tokens sees. */
static void check_sequence(rig *r, int32_t seq) {
    const plain_seq *p = &r->plain[seq];
    int64_t low = p->n - RECENT, n_tokens, bytes, n_rows[8];
    for (int l = 0; l < LAYERS; l++) {
        assert_int_equal(duo_device_store.rows(r->base.self, l, seq, n_rows), SL_OK);
        for (int32_t h = 0; h < shapes[l][0]; h++) {
            int streams = classes[l][h] == 's';
            const int64_t *place = r->base.self->device->views[l].heads + h * SL_HEAD_FIELDS;
            assert_int_equal(place[SL_HEAD_WINDOWED], streams || l == 2);
            assert_int_equal(n_rows[h], streams && p->n > SINK + RECENT ? SINK + RECENT : p->n);
            for (int64_t slot = 0; slot < p->n; slot++)
                if (!streams || slot < SINK || slot >= low)
                    check_row(r, seq, l, h, slot);
        }
    }
    assert_int_equal(duo_device_store.length(r->base.self, seq, &n_tokens, &bytes), SL_OK);
    assert_int_equal(n_tokens, p->n);
    assert_true(duo_held_count(r->base.self, &r->base.self->device->seqs[seq].of[STREAMING]) <=
                r->base.self->device->quota);
}

/* ---- random life ------------------------------------------------------------------------------------------------- */

static void a_step(rig *r) {
    SL_ERROR(err);
    store_step now;
    store_step_init(&now);
    for (int32_t i = 0; i < MAX_SEQS; i++) {
        plain_seq *p = &r->plain[i];
        int64_t left = MAX_CONTEXT - p->n, n = draw(r, 3) == 0 ? 1 + draw(r, 40) : 1 + draw(r, MAX_TREE);
        n = n < left ? n : left;
        if (!p->is_open || n < 1 || n > MAX_ROWS - now.batch.n_rows || draw(r, 3) == 0)
            continue;
        if (duo_device_store.grow(r->base.self, i, p->n + n, &err) < 0)
            fail_msg("%s", err_text_);
        store_step_add(&r->base, &now, i, p->n, n, n > MAX_TREE ? SL_STAGE_PREFILL : SL_STAGE_VERIFY);
    }
    if (now.batch.n_seqs == 0)
        return;
    int64_t before = r->base.host.n_allocations;
    if (duo_device_store.reserve(r->base.self, &now.batch, &err) < 0)
        fail_msg("%s", err_text_);
    for (int l = 0; l < LAYERS; l++) {
        sl_kv_append args = store_step_append(&now, &r->lane.lane, l, shapes[l], store_element);
        assert_int_equal(duo_device_store.append(r->base.self, &args), SL_OK);
    }
    if (draw(r, 10) == 0) /* the step fails: nothing was kept */
        return;
    for (int32_t at = 0; at < now.batch.n_seqs; at++) {
        plain_seq *p = &r->plain[now.seq[at]];
        now.path_begin[at + 1] = now.path_begin[at];
        for (int32_t i = 0; i < store_step_rows(&now, at); i++)
            if (i == 0 || now.stage[at] == SL_STAGE_PREFILL || draw(r, 2) == 0) {
                store_step_keep(&now, at, i);
                p->row[p->n++] = now.number[now.begin[at] + i];
            }
        int64_t low = p->n - RECENT - SLACK;
        p->low = low > p->low ? low : p->low;
    }
    if (duo_device_store.commit(r->base.self, &r->lane.lane, &now.commit, &err) < 0)
        fail_msg("%s", err_text_);
    assert_int_equal(r->base.host.n_allocations, before);
}

/* Lengths that must be possible: those whose window begins where rows were not let go of. */
static int must_do(const plain_seq *p, int64_t n) { return n <= SINK || n - RECENT >= p->low || p->low <= SINK; }

static void a_cut(rig *r, int32_t seq) {
    plain_seq *p = &r->plain[seq];
    int64_t n = draw(r, 4) == 0 ? draw(r, p->n + 1) : p->n - draw(r, p->n < 12 ? p->n + 1 : 12), minimum = -1;
    sl_status status = duo_device_store.truncate(r->base.self, seq, n, &minimum);
    assert_true(status == SL_OK || (status == SL_E_RANGE && !must_do(p, n) && minimum > n && minimum <= p->n));
    if (status < 0)
        return;
    p->n = n;
    p->low = n <= SINK ? 0 : p->low;
}

static void a_fork(rig *r, int32_t child, int32_t parent) {
    const plain_seq *p = &r->plain[parent];
    int64_t upto = draw(r, 4) == 0 ? draw(r, p->n + 1) : p->n - draw(r, p->n < 12 ? p->n + 1 : 12);
    SL_ERROR(err);
    sl_status status = duo_device_store.open(r->base.self, child, parent, upto, &err);
    assert_true(status == SL_OK || (status == SL_E_RANGE && !must_do(p, upto)));
    if (status < 0)
        return;
    r->plain[child] = *p;
    r->plain[child].n = upto;
    int64_t low = upto - RECENT - SLACK;
    r->plain[child].low = upto <= SINK ? 0 : low > p->low ? low : p->low;
}

static void random_life(void **state) {
    (void)state;
    static const char *const pages[] = {"page=1", "page=4", "page=16"};
    for (int i = 0; i < 6; i++) {
        rig r;
        open_rig(&r, pages[i % 3]);
        r.base.seed += (uint64_t)i;
        for (int round = 0; round < 2500; round++) {
            int32_t seq = (int32_t)draw(&r, MAX_SEQS), other = (int32_t)draw(&r, MAX_SEQS);
            plain_seq *p = &r.plain[seq];
            if (!p->is_open && r.plain[other].is_open)
                a_fork(&r, seq, other);
            else if (!p->is_open) {
                assert_int_equal(duo_device_store.open(r.base.self, seq, -1, 0, NULL), SL_OK);
                *p = (plain_seq){.is_open = 1};
            } else if (draw(&r, 4) == 0)
                a_cut(&r, seq);
            else if (draw(&r, 12) == 0) {
                duo_device_store.close(r.base.self, seq);
                p->is_open = 0;
            } else
                a_step(&r);
            if (i >= 3 && draw(&r, 6) > 0) /* late: the lane looks at nothing before more was queued */
                continue;
            /* tables follow with the next step of a sequence: a step of no rows for all */
            store_step idle;
            store_step_init(&idle);
            for (int32_t k = 0; k < MAX_SEQS; k++)
                if (r.plain[k].is_open)
                    store_step_add(&r.base, &idle, k, r.plain[k].n, 0, SL_STAGE_DECODE);
            assert_int_equal(duo_device_store.reserve(r.base.self, &idle.batch, NULL), SL_OK);
            test_lane_run(&r.lane);
            for (int32_t k = 0; k < MAX_SEQS; k++)
                if (r.plain[k].is_open)
                    check_sequence(&r, k);
        }
        close_rig(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
