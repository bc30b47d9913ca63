/* Attention of few rows on a device: against sums in double, and against itself bit by bit. */
#include "attend_run_cuda_test.h"

#include "sl_error.h"

static void check(slt_host *h, attend_case *c, const char *format, ...) SL_PRINTF(3, 4);
static void check(slt_host *h, attend_case *c, const char *format, ...) {
    char what[160];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    case_result r = case_run(h, c, what);
    case_result_free(&r);
}

static attend_case shape(int32_t dim, int32_t kv_heads, int32_t group, uint64_t seed) {
    return (attend_case){.dim = dim,
                         .kv_heads = kv_heads,
                         .group = group,
                         .page_rows = 64,
                         .dtype = SL_BF16,
                         .quant_group = 32,
                         .scale = seed % 2 ? 1.0f : 1.0f / sqrtf((float)dim),
                         .seed = seed};
}

static void add(attend_case *c, int32_t past, int32_t rows, int32_t tree) {
    case_seq *s = &c->seq[c->n_seqs];
    *s = (case_seq){.past = past, .rows = rows, .name = 10 + c->n_seqs++, .tree = tree};
    s->parent[0] = -1;
    for (int32_t i = 1; i < rows; i++) /* bushy near the root, some long paths */
        s->parent[i] = case_mix(c->seed + 9, (uint64_t)i) % 3 == 0
                           ? i - 1
                           : (int32_t)(case_mix(c->seed, (uint64_t)i) % (uint64_t)i);
}

/* Lengths around everything that has an edge. */
static void ragged(attend_case *c, int32_t rows) {
    const int32_t page = c->page_rows, past[] = {0, 1, page - 1, page, 1500 - page};
    for (int32_t i = 0; i < 5; i++)
        add(c, past[i], 1 + (rows - 1) * (i + 1) / 5, 0);
}

static void test_decode(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t dims[] = {64, 96, 128, 256}, groups[] = {1, 4, 7, 8};
    for (int i = 0; i < 16; i++) {
        attend_case c = shape(dims[i / 4], 2, groups[i % 4], 100 + (uint64_t)i);
        c.page_rows = 16 << (i % 3);
        c.o_bf16 = i % 2;
        c.more_context = i % 4 == 3 ? 5000 : 0;
        c.more_rows = 3;
        ragged(&c, 1);
        check(h, &c, "decode, D %d, %d heads a group, page %d", c.dim, c.group, c.page_rows);
        c.fast = 1;
        check(h, &c, "the same, fast");
    }
    /* other sizes of heads are filled up with zeros, and nothing is read or written beyond a row */
    static const int32_t small[] = {8, 16, 24, 32, 40, 48, 80, 112, 136, 192, 248};
    for (int i = 0; i < 11; i++) {
        attend_case c = shape(small[i], 2, groups[i % 4], 150 + (uint64_t)i);
        c.page_rows = 1 << (i % 6);
        c.o_bf16 = i % 2;
        c.quant_group = 8;
        c.want = i % 2 ? SL_WANT_SCORES | SL_WANT_COLSUM : 0;
        c.k_bits = i % 5 == 4 ? 8 : 0;
        c.v_bits = i % 5 == 4 ? 4 : 0;
        add(&c, 1, 1, 0);
        add(&c, 130, i % 3 ? 5 : 40, i % 2);
        add(&c, 1200, 1, 0);
        check(h, &c, "a head of %d, page %d", c.dim, c.page_rows);
        c.fast = 1;
        check(h, &c, "the same, fast");
    }
}

static void test_rows(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 8; i++) {
        attend_case c =
            shape(i % 4 == 3 ? 256 : 64 + 32 * (i % 4 == 2 ? 2 : i % 2), 2, i < 4 ? 4 : 7, 200 + (uint64_t)i);
        c.window = i % 3 == 1 ? 100 : i % 3 == 2 ? 5 : 0;
        c.softcap = i % 2 ? 20.0f : 0.0f;
        c.own_scale = i % 4 == 2;
        c.fast = i % 2;
        c.more_seqs = i;
        ragged(&c, i == 7 ? 70 : 9);
        check(h, &c, "rows, D %d, group %d, window %d, softcap %g", c.dim, c.group, c.window, (double)c.softcap);
        c.no_workspace = 1;
        check(h, &c, "the same, without splits");
    }
}

static void test_trees(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 6; i++) {
        attend_case c = shape(i == 5 ? 256 : 128, 2, i % 2 ? 1 : 4, 300 + (uint64_t)i);
        c.window = i == 2 ? 3 : i == 3 ? 70 : 0;
        c.list = i == 4 ? LIST_HEAD : LIST_NONE;
        c.fast = i % 2;
        c.want = SL_WANT_SCORES;
        add(&c, 0, 64, 1);
        add(&c, 300, 64, 1);
        add(&c, 62, 9, 1);
        add(&c, 1500, 100, 1);
        add(&c, 257, 5, 0);
        check(h, &c, "trees, D %d, group %d, window %d, list %d", c.dim, c.group, c.window, c.list);
        c.want = 0;
        c.fast = 1;
        check(h, &c, "the same, fast");
        if (i != 1 && i != 4) /* what follows is about the same paths whatever the shape; sums in double take long */
            continue;
        c.no_workspace = 1;
        check(h, &c, "the same, without splits");
        c.fast = 0;
        check(h, &c, "the same, as paths");
    }
}

/* Rows and heads in one matrix: blocks of rows, clusters that have all keys or a part, shares that get none. */
static void test_packed(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t dims[] = {128, 96, 128, 72, 128, 112}, groups[] = {4, 7, 8, 4, 1, 12},
                         rows[] = {64, 31, 9, 128, 100, 40}, past[] = {2600, 1000, 4200, 62, 127, 0};
    for (int i = 0; i < 12; i++) {
        attend_case c = shape(dims[i % 6], i % 4 == 3 ? 1 : 2, groups[i % 6], 900 + (uint64_t)i);
        c.fast = 1;
        c.page_rows = 16 << i % 3;
        c.o_bf16 = i % 2;
        c.softcap = i % 4 == 1 ? 20.0f : 0.0f;
        c.own_scale = i % 3 == 2;
        c.list = i % 5 == 4 ? LIST_HEAD : LIST_NONE;
        c.more_context = i % 4 == 2 ? 9000 : 0;
        c.more_rows = 3;
        add(&c, past[i % 6], rows[i % 6], i % 12 != 7 && i % 12 != 2);
        if (i >= 6) {
            c.want = SL_WANT_COLSUM;
            c.more_seqs = i;
            add(&c, past[(i + 1) % 6] / 2, 1 + i, i % 2);
            add(&c, 140, 1, 0);
        }
        check(h, &c, "packed, D %d, group %d, %d rows behind %d", c.dim, c.group, rows[i % 6], past[i % 6]);
    }
}

/* Sinks beside windows, windows of chunks, and heads in places of their own: what streams and what does not. */
static void test_sinks(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t sinks[] = {0, 1, 64, 70, 200, 5, 130, 64}, windows[] = {100, 17, 257, 1, 65, 300, 64, 128};
    for (int i = 0; i < 16; i++) {
        attend_case c = shape(i % 4 == 3 ? 64 : 128, i % 3 == 0 ? 4 : 2, i % 5 == 4 ? 7 : 4, 800 + (uint64_t)i);
        c.page_rows = 16 << (i % 3);
        c.sinks = sinks[i % 8];
        c.window = windows[(i + i / 8) % 8];
        c.window_chunk = i % 4 == 1 ? INT32_MAX : i % 4 == 2 ? 48 : 0;
        c.window_first = i % 8 == 2;
        c.apart = i % 2;
        c.more_context = i % 4 == 0 ? 9000 : 0;
        ragged(&c, i % 3 == 0 ? 1 : i % 3 == 1 ? 9 : 70);
        add(&c, 1900, 1 + i % 3 * 20, 1);
        check(h, &c, "sinks %d, window %d, chunk %d, heads apart %d", c.sinks, c.window, c.window_chunk, c.apart);
        c.fast = 1;
        check(h, &c, "the same, fast");
        c.fast = 0, c.no_workspace = 1;
        check(h, &c, "the same, without splits");
    }
}

static void test_lists(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 9; i++) {
        attend_case c = shape(i % 2 ? 64 : 128, 2, i % 4 == 3 ? 7 : 4, 400 + (uint64_t)i);
        c.list = 1 + i % 3;
        c.window = i >= 6 ? 200 : 0;
        c.fast = i % 2;
        c.want = SL_WANT_SCORES | SL_WANT_COLSUM;
        ragged(&c, i < 3 ? 1 : 6);
        check(h, &c, "list %d, D %d, window %d", c.list, c.dim, c.window);
    }
}

static void test_codes(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t bits[] = {8, 4, 2, 1, 0};
    for (int i = 0; i < 10; i++) {
        attend_case c = shape(i % 3 == 2 ? 64 : 128, 2, 4, 500 + (uint64_t)i);
        c.k_bits = bits[i % 5];
        c.v_bits = bits[(i + i / 5) % 5];
        c.k_axis = i % 2 ? SL_QUANT_PER_CHANNEL : SL_QUANT_PER_ROW;
        c.v_axis = i % 4 == 3 ? SL_QUANT_PER_CHANNEL : SL_QUANT_PER_ROW;
        c.zeros = i % 3 != 0;
        c.scale = 0.1f;
        c.want = i % 2 ? SL_WANT_COLSUM : 0;
        ragged(&c, i % 2 ? 9 : 1);
        check(h, &c, "codes, keys of %d bits axis %d, values of %d axis %d", c.k_bits, c.k_axis, c.v_bits, c.v_axis);
    }
    for (int i = 0; i < 4; i++) {
        attend_case c = shape(i % 2 ? 96 : 256, 2, 4, 550 + (uint64_t)i);
        c.dtype = i < 2 ? SL_F16 : SL_F32;
        ragged(&c, 3);
        c.o_bf16 = 1; /* rows of f32 lose bits on their way: tolerance of bf16 */
        check(h, &c, "rows of dtype %d, D %d", (int)c.dtype, c.dim);
    }
}

/* The oldest rows coded, keys further than values, the others plain. */
static void test_mixed(void **state) {
    slt_host *h = slt_get(state);
    static const int32_t bits[][2] = {{4, 4}, {2, 2}, {8, 2}, {4, 8}};
    for (int i = 0; i < 8; i++) {
        attend_case c = shape(i % 4 == 3 ? 256 : i % 4 == 1 ? 64 : 128, 2, i % 3 == 2 ? 7 : 4, 650 + (uint64_t)i);
        c.k_bits = bits[i % 4][0], c.v_bits = bits[i % 4][1];
        c.k_axis = SL_QUANT_PER_CHANNEL, c.v_axis = SL_QUANT_PER_ROW;
        c.mixed = c.zeros = c.zero_is_min = 1;
        c.page_rows = i % 2 ? 32 : 64;
        c.scale = 0.1f;
        c.fast = i >= 4;
        c.dtype = i == 5 ? SL_F16 : SL_BF16;
        c.window = i == 6 ? 300 : 0;
        c.list = i == 7 ? LIST_HEAD : LIST_NONE;
        c.want = i % 2 ? SL_WANT_COLSUM | SL_WANT_SCORES : 0;
        ragged(&c, i % 2 ? 9 : 1);
        c.seq[4].tree = i == 3;
        check(h, &c, "codes of %d and %d bits, then plain rows", c.k_bits, c.v_bits);
    }
}

static void test_sums(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 8; i++) {
        attend_case c = shape(i % 4 == 1 ? 96 : i % 4 == 3 ? 256 : 128, 2, 4, 600 + (uint64_t)i);
        c.want = SL_WANT_COLSUM | (i % 2 ? SL_WANT_SCORES : 0);
        c.colsum_apart = i % 4 >= 2;
        c.colsum_per_row = i >= 4;
        c.window = i % 3 == 2 ? 64 : 0;
        c.softcap = i == 5 ? 10.0f : 0.0f;
        ragged(&c, 7);
        c.seq[4].tree = i % 2;
        check(h, &c, "sums, heads apart %d, rows apart %d", c.colsum_apart, c.colsum_per_row);
        if (c.want & SL_WANT_SCORES)
            continue;
        c.weighted = c.sums_alone = 1;
        check(h, &c, "sums of weighted rows, heads apart %d", c.colsum_apart);
    }
    attend_case c = shape(128, 2, 4, 650); /* rows that are passed over by the warp */
    c.want = SL_WANT_COLSUM;
    c.weighted = 1;
    add(&c, 300, 100, 0);
    add(&c, 20, 33, 0);
    check(h, &c, "sums of a prompt");
}

/* Rows [from, to) of `b` are those of `a` from row `at` on. */
static void same(const case_result *a, int32_t at, const case_result *b, int32_t from, int32_t to, const char *what) {
    for (int32_t i = from; i < to; i++)
        for (int32_t j = 0; j < a->heads * a->dim; j++) {
            const float *x = &a->o[(int64_t)(at + i - from) * a->heads * a->dim + j],
                        *y = &b->o[(int64_t)i * a->heads * a->dim + j];
            if (memcmp(x, y, sizeof *x) != 0)
                fail_msg("%s: row %d, element %d: %.9g and %.9g", what, i, j, (double)*x, (double)*y);
            if (j < a->heads && memcmp(&a->lse[(at + i - from) * a->heads + j], &b->lse[i * a->heads + j], 4) != 0)
                fail_msg("%s: row %d, head %d: lse", what, i, j);
        }
}

/* Heads of lengths of their own: each is what it would be if all were as long as it. */
static void test_heads(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 6; i++) {
        attend_case c = shape(i == 2 ? 64 : 128, 3, i % 2 ? 4 : 1, 800 + (uint64_t)i);
        const int32_t less[3] = {i == 5 ? 0 : 250, 7, 113};
        c.page_rows = 16 << i % 3;
        c.by_head = 1;
        c.want = i == 4 ? 0 : SL_WANT_COLSUM;
        c.weighted = i % 2;
        memcpy(c.less, less, sizeof less);
        add(&c, 250, i < 3 ? 1 : 40, 0);
        add(&c, 2300, i < 3 ? 1 : 23, i == 4);
        case_result all = case_run(h, &c, NULL);
        for (int32_t head = 0; head < 3; head++) {
            attend_case one = c;
            one.by_head = 0;
            one.q_ahead = less[head];
            for (int32_t b = 0; b < 2; b++)
                one.seq[b].past -= less[head];
            case_result alone = case_run(h, &one, "heads as long as one of them");
            for (int32_t row = 0; row < all.n_rows; row++)
                for (int32_t q = head * c.group; q < (head + 1) * c.group; q++) {
                    const int64_t at = (int64_t)row * all.heads + q;
                    if (memcmp(all.o + at * c.dim, alone.o + at * c.dim, sizeof(float) * (size_t)c.dim) != 0 ||
                        all.lse[at] != alone.lse[at])
                        fail_msg("case %d: row %d, head %d differs from the one alone", i, row, q);
                }
            for (int32_t b = 0; b < 2 && all.colsum != NULL; b++)
                for (int32_t slot = 0; slot < one.seq[b].past + one.seq[b].rows; slot++) {
                    const float x = all.colsum[(b * 3 + head) * all.stride + slot],
                                y = alone.colsum[(b * 3 + head) * alone.stride + slot];
                    if (x != y)
                        fail_msg("case %d: sequence %d, head %d, slot %d: mass %g and %g", i, b, head, slot, (double)x,
                                 (double)y);
                }
            case_result_free(&alone);
        }
        case_result_free(&all);
    }
}

/* In deterministic mode a row is the same bits whatever stands beside it. */
static void test_bits(void **state) {
    slt_host *h = slt_get(state);
    for (int i = 0; i < 7; i++) {
        attend_case c = shape(i == 1   ? 64
                              : i == 3 ? 256
                              : i == 5 ? 96
                                       : 128,
                              2, i == 2 || i == 6 ? 7 : 4, 700 + (uint64_t)i);
        c.softcap = i == 5 ? 20.0f : 0.0f;
        c.window = i == 2 || i == 4 ? 300 : 0;
        c.sinks = i == 4 ? 70 : 0;
        c.apart = i == 4;
        c.k_bits = i == 1 ? 4 : 0;
        c.even_scales = 1;
        add(&c, 700, 5, 0);
        add(&c, 4090, 70, 0);
        add(&c, i < 5 ? 255 : 1090 - i, i < 5 ? 33 : 64, 1);
        case_result all = case_run(h, &c, "all together");
        /* without splits, and with other bounds */
        attend_case d = c;
        d.no_workspace = 1;
        d.more_seq_rows = 100, d.more_seqs = 9, d.more_context = 60000, d.more_rows = 50;
        case_result other = case_run(h, &d, NULL);
        same(&all, 0, &other, 0, all.n_rows, "bounds and splits");
        case_result_free(&other);
        d.no_workspace = 0;
        other = case_run(h, &d, NULL);
        same(&all, 0, &other, 0, all.n_rows, "bounds");
        case_result_free(&other);
        for (int32_t b = 0, row = 0; b < 3; row += c.seq[b++].rows) {
            attend_case one = c;
            one.n_seqs = 1;
            one.seq[0] = c.seq[b];
            case_result alone = case_run(h, &one, NULL);
            same(&all, row, &alone, 0, alone.n_rows, "alone");
            case_result_free(&alone);
            /* each row as the decode step that it stands for */
            for (int32_t k = 0; k < c.seq[b].rows; k += b == 1 ? 13 : 1) {
                const case_seq *s = &c.seq[b];
                const int32_t depth = case_depth(s, k);
                int32_t *key = malloc(sizeof *key * (size_t)(s->past + depth + 1));
                for (int32_t slot = 0; slot < s->past; slot++)
                    key[slot] = slot;
                for (int32_t node = k, at = depth; at >= 0; at--, node = s->tree ? s->parent[node] : node - 1)
                    key[s->past + at] = s->past + node;
                one.seq[0] = (case_seq){.past = s->past + depth, .rows = 1, .name = s->name, .key = key};
                one.more_context = k % 2 ? 8000 : 0;
                case_result step = case_run(h, &one, NULL);
                same(&all, row + k, &step, 0, 1,
                     s->tree ? "a row of a tree and its decode step" : "a row and its decode step");
                case_result_free(&step);
                free(key);
            }
        }
        case_result_free(&all);
    }
}

static void test_refusals(void **state) {
    slt_host *h = slt_get(state);
    sl_attend a = {.struct_size = SL_SIZE(sl_attend)};
    sl_step_device step = {
        .struct_size = SL_SIZE(sl_step_device), .max_seqs = 1, .max_rows = 1, .max_seq_rows = 1, .max_context = 64};
    sl_batch batch = {.struct_size = SL_SIZE(sl_batch), .device = &step};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &batch};
    sl_view_device view = {.struct_size = SL_SIZE(sl_view_device),
                           .page_rows = 64,
                           .n_heads = 2,
                           .k_dim = 84,
                           .v_dim = 84,
                           .k_dtype = SL_BF16,
                           .v_dtype = SL_BF16};
    sl_view seen = {.struct_size = SL_SIZE(sl_view), .device = &view};
    a.rows = &rows, a.view = &seen;
    a.q = a.o = (sl_tensor){.shape = {1, 8, 84}, .stride = {672, 84, 1}, .dtype = SL_BF16, .ndim = 3};
    assert_int_equal(slk_cuda_attend_few(&h->k, h->lane, &a, NULL, 0), SL_E_UNIMPLEMENTED); /* a head of 84 */
    view.k_dim = view.v_dim = 264;
    a.q.shape[2] = a.o.shape[2] = a.q.stride[1] = a.o.stride[1] = 264;
    assert_int_equal(slk_cuda_attend_few(&h->k, h->lane, &a, NULL, 0), SL_E_UNIMPLEMENTED); /* a head of 264 */
    view.k_dim = 128, view.v_dim = 64;
    a.q.shape[2] = a.o.shape[2] = 128;
    assert_int_equal(slk_cuda_attend_few(&h->k, h->lane, &a, NULL, 0), SL_E_UNIMPLEMENTED); /* values of another size */
    view.v_dim = 128;
    a.q.stride[0] = 641;
    assert_int_equal(slk_cuda_attend_few(&h->k, h->lane, &a, NULL, 0), SL_E_INVALID); /* rows that are not aligned */
    a.q.stride[0] = 1024;
    view.page_rows = 48;
    assert_int_equal(slk_cuda_attend_few(&h->k, h->lane, &a, NULL, 0), SL_E_INVALID); /* no power of two */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode), cmocka_unit_test(test_rows),  cmocka_unit_test(test_trees),
        cmocka_unit_test(test_packed), cmocka_unit_test(test_lists), cmocka_unit_test(test_sinks),
        cmocka_unit_test(test_codes),  cmocka_unit_test(test_mixed), cmocka_unit_test(test_sums),
        cmocka_unit_test(test_heads),  cmocka_unit_test(test_bits),  cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("attend_few_cuda", tests, slt_setup, slt_teardown);
}
