/* Runs the cases of attend_case_cuda_test.h and compares with sums in double. */
#ifndef SLUICE_KERNELS_ATTEND_RUN_CUDA_TEST_H
#define SLUICE_KERNELS_ATTEND_RUN_CUDA_TEST_H

#include "attend_case_cuda_test.h"

/* The step of a case in device memory, with poison behind what is used. */
static inline sl_step_device case_step(slt_host *h, const attend_case *c, int32_t n_rows, int32_t longest,
                                       int32_t most) {
    const int32_t max_seqs = c->n_seqs + c->more_seqs, max_rows = n_rows + c->more_rows;
    int32_t *a = malloc(sizeof(int32_t) * (size_t)(8 * (max_seqs + max_rows + 2)));
    memset(a, 0x80, sizeof(int32_t) * (size_t)(8 * (max_seqs + max_rows + 2)));
    int32_t *seq = a, *begin = seq + max_seqs, *past = begin + max_seqs + 1, *tree = past + max_seqs,
            *row_seq = tree + max_seqs, *index = row_seq + max_rows;
    uint32_t *bits = calloc((size_t)max_rows * 4, sizeof *bits);
    begin[0] = 0;
    uint32_t stages = SL_STAGE_DECODE;
    for (int32_t i = 0; i < max_rows; i++)
        row_seq[i] = -1;
    for (int32_t b = 0; b < c->n_seqs; b++) {
        const case_seq *s = &c->seq[b];
        seq[b] = 2 * b + 1;
        past[b] = s->past;
        tree[b] = s->tree;
        begin[b + 1] = begin[b] + s->rows;
        stages |= s->tree ? SL_STAGE_VERIFY : 0u;
        for (int32_t i = 0; i < s->rows; i++) {
            row_seq[begin[b] + i] = b;
            index[begin[b] + i] = s->past + case_depth(s, i);
            for (int32_t j = 0; j < s->rows; j++)
                if (s->tree && case_sees(s, i, j))
                    bits[(begin[b] + i) * 4 + j / 32] |= 1u << (j % 32);
        }
    }
    sl_step_device d = {.struct_size = SL_SIZE(sl_step_device),
                        .n_rows = slt_upload(h, &n_rows, 4),
                        .n_seqs = slt_upload(h, &c->n_seqs, 4),
                        .seq = slt_upload(h, seq, 4 * max_seqs),
                        .row_begin = slt_upload(h, begin, 4 * (max_seqs + 1)),
                        .n_past = slt_upload(h, past, 4 * max_seqs),
                        .is_tree = slt_upload(h, tree, 4 * max_seqs),
                        .row_seq = slt_upload(h, row_seq, 4 * max_rows),
                        .token_index = slt_upload(h, index, 4 * max_rows),
                        .ancestors = slt_upload(h, bits, 16 * max_rows),
                        .max_context = longest + c->more_context,
                        .max_rows = max_rows,
                        .max_seqs = max_seqs,
                        .max_seq_rows = most + c->more_seq_rows,
                        .stages = stages};
    free(a), free(bits);
    return d;
}

/* Does the row see the slot, and is it among the chosen? */
static inline int case_visible(const attend_case *c, int32_t b, int32_t row, int32_t i, int32_t head, int32_t slot) {
    const case_seq *s = &c->seq[b];
    const int32_t index = s->past + case_depth(s, i);
    const int32_t token = slot < s->past ? slot : s->past + case_depth(s, slot - s->past);
    int32_t end = index;
    if (c->window_chunk > 0 && !s->tree) {
        end = (int32_t)case_max(s->past, index - index % c->window_chunk);
        end = end == 0 && c->window_first ? index : end;
    }
    if (c->window > 0 && (!c->apart || head % 2) && token <= end - c->window && token >= c->sinks)
        return 0;
    if (slot >= s->past)
        return case_sees(s, i, slot - s->past);
    return case_chosen(c, c->list == LIST_ROW ? row : b, c->list == LIST_LAYER ? 0 : head, slot);
}

/* Compares with the sums in double. */
static inline void case_check(const attend_case *c, const case_result *r, const float *const *k, const float *const *v,
                              const char *what) {
    const double tolerance = c->o_bf16 ? 1.2e-2 : 8e-3;
    double worst = 0, worst_lse = 0, worst_score = 0, worst_sum = 0;
    double *sums = calloc((size_t)(r->n_rows * r->heads * r->stride + 1), sizeof *sums),
           *score = malloc(sizeof *score * (size_t)r->stride), *want = malloc(sizeof *want * (size_t)c->dim);
    float *q = malloc(sizeof *q * (size_t)c->dim);
    const int32_t kept = c->colsum_apart ? r->heads : c->kv_heads;
    double v_max = 1e-30;
    for (int32_t b = 0, row = 0; b < c->n_seqs; b++)
        for (int32_t i = 0; i < c->seq[b].rows; i++, row++)
            for (int32_t head = 0; head < r->heads; head++) {
                const case_seq *s = &c->seq[b];
                const int32_t kv = head / c->group, slots = s->past + s->rows;
                const float scale = c->own_scale ? c->scale * (0.5f + 0.25f * (float)(row % 4)) : c->scale;
                double top = -INFINITY, sum = 0;
                int64_t n = 0;
                case_values(c, s, 0, s->past + i + c->q_ahead, head, q);
                memset(want, 0, sizeof *want * (size_t)c->dim);
                for (int32_t slot = 0; slot < slots; slot++) {
                    score[slot] = -INFINITY;
                    if (!case_visible(c, b, row, i, kv, slot))
                        continue;
                    double dot = 0;
                    for (int32_t d = 0; d < c->dim; d++)
                        dot += (double)q[d] * (double)k[b][((int64_t)slot * c->kv_heads + kv) * c->dim + d];
                    dot *= scale;
                    score[slot] = c->softcap > 0 ? c->softcap * tanh(dot / c->softcap) : dot;
                    top = fmax(top, score[slot]);
                    if (r->scores != NULL)
                        worst_score = fmax(
                            worst_score,
                            fabs(score[slot] - (double)r->scores[((int64_t)row * r->heads + head) * r->stride + n]) /
                                (1 + fabs(score[slot])));
                    n++;
                }
                for (int32_t slot = 0; slot < slots; slot++)
                    sum += score[slot] > -INFINITY ? exp(score[slot] - top) : 0;
                for (int32_t slot = 0; slot < slots; slot++) {
                    const double p = score[slot] > -INFINITY ? exp(score[slot] - top) / sum : 0;
                    const int64_t unit = (c->colsum_per_row ? row : b) * (int64_t)kept + (c->colsum_apart ? head : kv);
                    sums[unit * r->stride + slot] += (double)case_weight(c, row) * p;
                    for (int32_t d = 0; d < c->dim && p > 0; d++) {
                        const double x = (double)v[b][((int64_t)slot * c->kv_heads + kv) * c->dim + d];
                        v_max = fmax(v_max, fabs(x));
                        want[d] += p * x;
                    }
                }
                for (int32_t d = 0; d < c->dim; d++) {
                    const double e =
                        fabs(want[d] - (double)r->o[((int64_t)row * r->heads + head) * c->dim + d]) / v_max;
                    worst = e > worst || isnan(e) ? e : worst;
                    if (!(e <= tolerance))
                        fail_msg("%s: row %d head %d channel %d: %g, expected %g (largest value %g)", what, row, head,
                                 d, (double)r->o[((int64_t)row * r->heads + head) * c->dim + d], want[d], v_max);
                }
                const double lse = top + log(sum),
                             e = fabs(lse - (double)r->lse[row * r->heads + head]) / (1 + fabs(lse));
                worst_lse = e > worst_lse || isnan(e) ? e : worst_lse;
                if (!(e <= 1e-4))
                    fail_msg("%s: row %d head %d: lse %g, expected %g", what, row, head,
                             (double)r->lse[row * r->heads + head], lse);
            }
    if (!(worst_score <= 1e-4))
        fail_msg("%s: a score differs by %g", what, worst_score);
    for (int32_t b = 0, row = 0; r->colsum != NULL && b < c->n_seqs; row += c->seq[b++].rows)
        for (int32_t i = 0; i < (c->colsum_per_row ? c->seq[b].rows : 1); i++)
            for (int32_t head = 0; head < kept; head++)
                for (int64_t slot = 0; slot < r->stride; slot++) {
                    const int64_t at = ((c->colsum_per_row ? row + i : b) * (int64_t)kept + head) * r->stride + slot;
                    const double e = fabs(sums[at] - (double)r->colsum[at]) / (1 + sums[at]);
                    worst_sum = fmax(worst_sum, e);
                    if (!(e <= 1e-3))
                        fail_msg("%s: sequence %d head %d slot %d: mass %g, expected %g", what, b, head, (int)slot,
                                 (double)r->colsum[at], sums[at]);
                }
    print_message("%-44s o %.1e lse %.1e scores %.1e mass %.1e\n", what, worst, worst_lse, worst_score, worst_sum);
    free(sums), free(score), free(want), free(q);
}

/* Uploads the lists of a case. */
static inline void case_lists(slt_host *h, const attend_case *c, sl_view_device *view, int32_t n_rows,
                              int32_t max_units, int32_t longest) {
    view->n_groups = c->list == LIST_LAYER ? 1 : c->kv_heads;
    view->per_row = c->list == LIST_ROW;
    view->list_stride = longest + 8;
    const int64_t lists = (int64_t)max_units * view->n_groups;
    int32_t *list = malloc(sizeof *list * (size_t)(lists * view->list_stride)), *n = malloc(sizeof *n * (size_t)lists);
    memset(list, 0x7f, sizeof *list * (size_t)(lists * view->list_stride)); /* far outside of any table */
    memset(n, 0x7f, sizeof *n * (size_t)lists);
    for (int32_t b = 0, row = 0; b < c->n_seqs; row += c->seq[b++].rows)
        for (int32_t i = 0; i < (c->list == LIST_ROW ? c->seq[b].rows : 1); i++)
            for (int32_t g = 0; g < view->n_groups; g++) {
                const int32_t unit = c->list == LIST_ROW ? row + i : b;
                const int64_t at = (int64_t)unit * view->n_groups + g;
                n[at] = 0;
                for (int32_t slot = 0; slot < c->seq[b].past; slot++)
                    if (case_chosen(c, unit, g, slot))
                        list[at * view->list_stride + n[at]++] = slot;
            }
    (void)n_rows;
    view->list = slt_upload(h, list, 4 * lists * view->list_stride);
    view->list_n = slt_upload(h, n, 4 * lists);
    free(list), free(n);
}

/* Heads in places of their own: strides that are none, and for windowed heads a second table that has no pages where no
 * row looks. */
static inline void case_heads(slt_host *h, const attend_case *c, sl_view_device *view, int32_t *pages, int64_t n,
                              int32_t spare) {
    int64_t heads[64][SL_HEAD_FIELDS];
    memcpy(pages + n, pages, sizeof *pages * (size_t)n);
    for (int32_t b = 0; b < c->n_seqs; b++)
        for (int32_t slot = 0, row = 0, seen = 0; slot < c->seq[b].past + c->seq[b].rows; slot++) {
            for (int32_t i = 0; i < c->seq[b].rows; i++)
                seen |= case_visible(c, b, row + i, i, 1, slot);
            if ((slot + 1) % c->page_rows != 0)
                continue;
            if (!seen)
                pages[n + (2 * b + 1) * view->pages_stride + slot / c->page_rows] = spare;
            seen = 0;
        }
    for (int32_t i = 0; i < c->kv_heads; i++) {
        heads[i][SL_HEAD_K] = i * view->k_head_stride;
        heads[i][SL_HEAD_V] = i * view->v_head_stride;
        heads[i][SL_HEAD_PAGES] = i % 2 * n;
        heads[i][SL_HEAD_WINDOWED] = i % 2;
    }
    view->heads = slt_upload(h, heads, (int64_t)sizeof heads[0] * c->kv_heads);
    view->k_head_stride = view->v_head_stride = (int64_t)1 << 40;
    view->pages_head_stride = (int64_t)1 << 40;
}

/* Slots in front of this one are codes: of keys, of values. */
static inline int32_t case_coded(const attend_case *c, const case_seq *s, int which) {
    return !c->mixed ? 1 << 30 : which == 0 ? s->past - s->past / 4 : s->past / 3;
}

/* Runs the case; checks it against the sums in double when `what` names it. */
static inline case_result case_run(slt_host *h, const attend_case *c, const char *what) {
    int32_t n_rows = 0, longest = 0, most = 0;
    int64_t slots = 0, n_pages = 0;
    for (int32_t b = 0; b < c->n_seqs; b++) {
        const int32_t n = c->seq[b].past + c->seq[b].rows;
        n_rows += c->seq[b].rows;
        longest = n > longest ? n : longest;
        most = c->seq[b].rows > most ? c->seq[b].rows : most;
        slots += n;
        n_pages += (n + c->page_rows - 1) / c->page_rows;
    }
    const int32_t heads = c->kv_heads * c->group, table = (longest + c->page_rows - 1) / c->page_rows + 1;
    const int32_t spare = (int32_t)n_pages; /* a page of poison */
    case_side k, v, plain[2];
    for (int w = 0; w < 2; w++)
        case_side_make(c, &plain[w], 0, 0, n_pages + 2, 1);
    case_side_make(c, &k, c->k_bits, c->k_axis, n_pages + 2, slots);
    case_side_make(c, &v, c->v_bits, c->v_axis, n_pages + 2, slots);
    int32_t *order = malloc(sizeof *order * (size_t)n_pages),
            *pages = malloc(sizeof *pages * (size_t)(4 * CASE_SEQS * table)),
            *plain_pages = malloc(sizeof *pages * (size_t)(2 * CASE_SEQS * table)), coded[4 * CASE_SEQS];
    memset(coded, 0x7f, sizeof coded);
    for (int32_t i = 0; i < n_pages; i++)
        order[i] = i;
    for (int32_t i = (int32_t)n_pages - 1; i > 0; i--) {
        const int32_t j = (int32_t)(case_mix(c->seed + 5, (uint64_t)i) % (uint64_t)(i + 1)), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (int32_t i = 0; i < 2 * CASE_SEQS * table; i++)
        pages[i] = plain_pages[i] = spare;
    const float *k_values[CASE_SEQS], *v_values[CASE_SEQS];
    float *x = malloc(sizeof *x * (size_t)c->dim);
    int64_t slot_at = 0, page_at = 0;
    for (int32_t b = 0; b < c->n_seqs; b++) {
        const case_seq *s = &c->seq[b];
        k_values[b] = k.value + slot_at * c->kv_heads * c->dim;
        v_values[b] = v.value + slot_at * c->kv_heads * c->dim;
        for (int32_t slot = 0; slot < s->past + s->rows; slot++, slot_at++) {
            int32_t *page = &pages[(2 * b + 1) * table + slot / c->page_rows];
            int32_t *plain_page = plain_pages + (page - pages);
            if (slot % c->page_rows == 0)
                *page = order[page_at++], *plain_page = (int32_t)n_pages - 1 - *page;
            for (int32_t head = 0; head < c->kv_heads; head++)
                for (int w = 0; w < 2; w++) {
                    const int is_coded = slot < case_coded(c, s, w);
                    case_side *side = w == 0 ? &k : &v;
                    coded[2 * (2 * b + 1) + w] = case_coded(c, s, w);
                    case_values(c, s, 1 + w, slot, head, x);
                    case_put(c, is_coded ? side : &plain[w], is_coded ? *page : *plain_page, slot % c->page_rows, head,
                             x, side->value + (slot_at * c->kv_heads + head) * c->dim);
                }
        }
    }
    sl_step_device step = case_step(h, c, n_rows, longest, most);
    sl_batch batch = {
        .struct_size = SL_SIZE(sl_batch), .n_seqs = step.max_seqs, .n_rows = step.max_rows, .device = &step};
    sl_rows rows = {.struct_size = SL_SIZE(sl_rows), .batch = &batch, .device_n = step.n_rows, .n = step.max_rows};
    sl_view_device view = {.struct_size = SL_SIZE(sl_view_device),
                           .k_pool = slt_upload(h, k.pool, k.page_bytes * (n_pages + 2)),
                           .v_pool = slt_upload(h, v.pool, v.page_bytes * (n_pages + 2)),
                           .pages_stride = table,
                           .k_page_stride = k.page_bytes,
                           .k_row_stride = k.row_bytes,
                           .k_head_stride = k.head_bytes,
                           .v_page_stride = v.page_bytes,
                           .v_row_stride = v.row_bytes,
                           .v_head_stride = v.head_bytes,
                           .page_rows = c->page_rows,
                           .n_heads = c->kv_heads,
                           .k_dim = c->dim,
                           .v_dim = c->dim,
                           .k_dtype = c->k_bits > 0 ? SL_U8 : c->dtype,
                           .v_dtype = c->v_bits > 0 ? SL_U8 : c->dtype,
                           .scale_page_stride_k = k.scale_page,
                           .scale_page_stride_v = v.scale_page,
                           .scale_stride_k = k.scale_stride,
                           .scale_stride_v = v.scale_stride,
                           .k_bits = c->k_bits,
                           .v_bits = c->v_bits,
                           .k_group = c->quant_group,
                           .v_group = c->quant_group,
                           .k_axis = (uint32_t)c->k_axis,
                           .v_axis = (uint32_t)c->v_axis};
    if (c->k_bits > 0) {
        view.k_scale = slt_upload(h, k.scale, k.scale_page * (n_pages + 2));
        view.k_zero = c->zeros ? slt_upload(h, k.zero, k.scale_page * (n_pages + 2)) : NULL;
    }
    if (c->v_bits > 0) {
        view.v_scale = slt_upload(h, v.scale, v.scale_page * (n_pages + 2));
        view.v_zero = c->zeros ? slt_upload(h, v.zero, v.scale_page * (n_pages + 2)) : NULL;
    }
    view.zero_is_min = (uint32_t)c->zero_is_min;
    const sl_view_device rest = {.struct_size = SL_SIZE(sl_view_device),
                                 .k_pool = slt_upload(h, plain[0].pool, plain[0].page_bytes * (n_pages + 2)),
                                 .v_pool = slt_upload(h, plain[1].pool, plain[1].page_bytes * (n_pages + 2)),
                                 .pages = slt_upload(h, plain_pages, 4 * 2 * CASE_SEQS * table),
                                 .pages_stride = table,
                                 .k_page_stride = plain[0].page_bytes,
                                 .k_row_stride = plain[0].row_bytes,
                                 .k_head_stride = plain[0].head_bytes,
                                 .v_page_stride = plain[1].page_bytes,
                                 .v_row_stride = plain[1].row_bytes,
                                 .v_head_stride = plain[1].head_bytes,
                                 .page_rows = c->page_rows,
                                 .n_heads = c->kv_heads,
                                 .k_dim = c->dim,
                                 .v_dim = c->dim,
                                 .k_dtype = c->dtype,
                                 .v_dtype = c->dtype};
    if (c->mixed) {
        view.plain = &rest;
        view.n_coded = slt_upload(h, coded, sizeof coded);
    }
    if (c->apart)
        case_heads(h, c, &view, pages, 2 * CASE_SEQS * table, spare);
    view.pages = slt_upload(h, pages, (c->apart ? 4 : 2) * 4 * CASE_SEQS * (int64_t)table);
    if (c->list != LIST_NONE)
        case_lists(h, c, &view, n_rows, c->list == LIST_ROW ? step.max_rows : step.max_seqs, longest);

    if (c->by_head) {
        int32_t counts[2 * CASE_SEQS * 8];
        memset(counts, 0x7f, sizeof counts);
        for (int32_t b = 0; b < c->n_seqs; b++)
            for (int32_t head = 0; head < c->kv_heads; head++)
                counts[(2 * b + 1) * c->kv_heads + head] = c->seq[b].past - c->less[head];
        view.n_rows = slt_upload(h, counts, (int64_t)sizeof counts);
        view.n_rows_stride = c->kv_heads;
        view.n_rows_head_stride = 1;
    }

    /* queries, in rows with a gap; results */
    const int64_t q_row = (int64_t)heads * c->dim + 64, o_count = (int64_t)step.max_rows * heads * c->dim;
    uint16_t *q = malloc((size_t)(q_row * step.max_rows) * sizeof *q);
    memset(q, 0xff, (size_t)(q_row * step.max_rows) * sizeof *q);
    float *row_scale = malloc(sizeof *row_scale * (size_t)step.max_rows);
    float *weight = malloc(sizeof *weight * (size_t)step.max_rows);
    for (int32_t i = 0; i < step.max_rows; i++)
        weight[i] = case_weight(c, i);
    for (int32_t i = 0; i < step.max_rows; i++)
        row_scale[i] = 0.5f + 0.25f * (float)(i % 4);
    for (int32_t b = 0, row = 0; b < c->n_seqs; b++)
        for (int32_t i = 0; i < c->seq[b].rows; i++, row++)
            for (int32_t head = 0; head < heads; head++) {
                case_values(c, &c->seq[b], 0, c->seq[b].past + i + c->q_ahead, head, x);
                for (int32_t d = 0; d < c->dim; d++)
                    q[row * q_row + head * c->dim + d] = slt_bf16(x[d]);
            }
    case_result r = {.n_rows = n_rows, .heads = heads, .dim = c->dim, .stride = longest + 3};
    const int64_t score_count = (int64_t)step.max_rows * heads * r.stride;
    const sl_mask mask = {.struct_size = SL_SIZE(sl_mask),
                          .window = c->window,
                          .base = SL_MASK_CAUSAL,
                          .sinks = c->sinks,
                          .window_chunk = c->window_chunk,
                          .window_first = (uint32_t)c->window_first};
    const sl_view seen = {.struct_size = SL_SIZE(sl_view), .device = &view};
    sl_attend a = {.struct_size = SL_SIZE(sl_attend),
                   .lane = h->lane,
                   .rows = &rows,
                   .mask = &mask,
                   .view = &seen,
                   .q = {.struct_size = SL_SIZE(sl_tensor),
                         .data = slt_upload(h, q, q_row * step.max_rows * 2),
                         .shape = {step.max_rows, heads, c->dim},
                         .stride = {q_row, c->dim, 1},
                         .dtype = SL_BF16,
                         .ndim = 3},
                   .o = {.struct_size = SL_SIZE(sl_tensor),
                         .data = slt_device(h, o_count * (c->o_bf16 ? 2 : 4)),
                         .shape = {step.max_rows, heads, c->dim},
                         .stride = {(int64_t)heads * c->dim, c->dim, 1},
                         .dtype = c->o_bf16 ? SL_BF16 : SL_F32,
                         .ndim = 3},
                   .lse = slt_device(h, 4 * (int64_t)step.max_rows * heads),
                   .score_stride = r.stride,
                   .scale = (double)c->scale,
                   .softcap = (double)c->softcap,
                   .row_scale = c->own_scale ? slt_upload(h, row_scale, 4 * step.max_rows) : NULL,
                   .colsum_heads = c->colsum_apart ? heads : 0,
                   .colsum_per_row = (uint32_t)c->colsum_per_row,
                   .colsum_weight = c->weighted ? slt_upload(h, weight, 4 * step.max_rows) : NULL,
                   .want = SL_WANT_LSE | (c->sums_alone ? c->want & ~(uint32_t)SL_WANT_COLSUM : c->want)};
    if (c->want & SL_WANT_SCORES)
        a.scores = slt_device(h, 4 * score_count);
    if (c->want & SL_WANT_COLSUM)
        a.colsum = slt_device(h, 4 * score_count);
    const int64_t workspace =
        c->no_workspace ? 256 : slk_cuda_attend_few_workspace(step.max_rows, step.max_context + 64, heads, c->dim);
    h->k.deterministic = !c->fast;
    const sl_status status = slk_cuda_attend_few(&h->k, h->lane, &a, slt_device(h, workspace), workspace);
    if (status != SL_OK)
        fail_msg("%s: status %d", what != NULL ? what : "a case", status);
    if (c->sums_alone)
        assert_int_equal(slk_cuda_attend_colsum(&h->k, h->lane, &a), SL_OK);
    r.o = malloc(sizeof(float) * (size_t)o_count);
    r.lse = malloc(sizeof(float) * (size_t)(step.max_rows * heads));
    uint16_t *half = malloc((size_t)o_count * sizeof *half);
    slt_download(h, c->o_bf16 ? (void *)half : (void *)r.o, a.o.data, o_count * (c->o_bf16 ? 2 : 4));
    slt_download(h, r.lse, a.lse, 4 * (int64_t)step.max_rows * heads);
    for (int64_t i = 0; i < o_count && c->o_bf16; i++)
        r.o[i] = slt_float(half[i]);
    free(half);
    for (int64_t i = (int64_t)n_rows * heads * c->dim; i < o_count; i++)
        if (!isnan(r.o[i]))
            fail_msg("a row of padding was written");
    if (a.scores != NULL)
        slt_download(h, r.scores = malloc(sizeof(float) * (size_t)score_count), a.scores, 4 * score_count);
    if (a.colsum != NULL)
        slt_download(h, r.colsum = malloc(sizeof(float) * (size_t)score_count), a.colsum, 4 * score_count);
    if (what != NULL)
        case_check(c, &r, k_values, v_values, what);
    case_side_free(&k), case_side_free(&v), case_side_free(&plain[0]), case_side_free(&plain[1]);
    free(order), free(pages), free(plain_pages), free(x), free(q), free(row_scale), free(weight);
    return r;
}

#endif
