/* Which chunks matter (the paper's section 4.3): landmarks are scored like keys, per query head; a KV head takes the
 * chunks with the largest softmax share that any of its query heads gives them. */
#include "shadow.h"

#include <math.h>
#include <string.h>

#include "sl_tensor.h"

/* ---- the best of a list
 * ---------------------------------------------------------------------------------------------- */

/* The k-th largest (k from 1) of x[0 .. n), which is reordered: Hoare's selection. */
static float kth_largest(float *x, int64_t n, int64_t k) {
    int64_t lo = 0, hi = n - 1, at = k - 1;
    while (lo < hi) {
        float pivot = x[lo + (hi - lo) / 2];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float swap = x[i];
                x[i++] = x[j];
                x[j--] = swap;
            }
        }
        if (at <= j)
            hi = j;
        else if (at >= i)
            lo = i;
        else
            break;
    }
    return x[at];
}

void shadow_top(const float *score, int64_t n, int64_t k, float *work, uint8_t *mark) {
    for (int64_t i = 0; i < n; i++)
        mark[i] = k >= n;
    if (k <= 0 || k >= n)
        return;
    for (int64_t i = 0; i < n; i++)
        work[i] = score[i] >= -INFINITY ? score[i] : -INFINITY; /* what is no number comes last */
    float least = kth_largest(work, n, k);
    int64_t left = k;
    for (int64_t i = 0; i < n; i++)
        left -= mark[i] = score[i] > least;
    for (int64_t i = 0; i < n && left > 0; i++)
        if (!mark[i] && (score[i] == least || (isnan(score[i]) && least == -INFINITY)))
            left -= mark[i] = 1;
}

/* ---- scores
 * ---------------------------------------------------------------------------------------------------------- */

int64_t shadow_kept(const shadow_seq *s) {
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_blocks; i++)
        n += s->blocks[i]->n_kept;
    return n;
}

int64_t shadow_select_scratch(const sl_instance *self) {
    return self->max_pages * (int64_t)(4 * sizeof(float) + 1) + self->max_D * (int64_t)sizeof(float) + 128;
}

/* Scores of one query head with the landmarks behind `skip`, softmaxed and added to sum. */
static void add_shares(const sl_instance *self, const shadow_seq *s, int32_t layer, int32_t head, const float *q,
                       int64_t skip, float *score, float *row, float *sum, int64_t n) {
    const shadow_place *p = &self->places[layer];
    int64_t at = 0;
    float most = -INFINITY;
    for (int32_t i = 0; i < s->n_blocks; i++) {
        const shadow_block *b = s->blocks[i];
        const char *landmark = b->layers[layer].landmark + (int64_t)head * b->n_kept * p->D * self->element;
        for (int64_t k = 0; k < b->n_kept; k++, at++) {
            if (at < skip)
                continue;
            const float *m = (const float *)(const void *)(landmark + k * p->D * self->element);
            if (self->dtype != SL_F32) {
                self->ops->convert(row, SL_F32, landmark + k * p->D * self->element, self->dtype, p->D);
                m = row;
            }
            float dot = 0;
            for (int64_t d = 0; d < p->D; d++)
                dot += q[d] * m[d];
            score[at] = dot * (float)p->scale;
            most = score[at] > most ? score[at] : most;
        }
    }
    double total = 0;
    for (at = skip; at < n; at++)
        total += score[at] = expf(score[at] - most);
    for (at = skip; at < n; at++)
        sum[at] += score[at] / (float)total;
}

/* Landmarks whose chunks lie wholly in front of token `from`: they come first. */
static int64_t skipped(const sl_instance *self, const shadow_seq *s, int32_t layer, int32_t head, int64_t from) {
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_blocks; i++) {
        const shadow_block *b = s->blocks[i];
        const int32_t *kept = b->layers[layer].kept + (int64_t)head * b->n_kept;
        int32_t k = 0;
        while (k < b->n_kept && b->begin + (kept[k] + 1) * self->chunk <= from)
            k++;
        n += k;
        if (k < b->n_kept)
            break;
    }
    return n;
}

int64_t shadow_choose(const sl_instance *self, const shadow_seq *s, int32_t layer, int32_t head, const float *q,
                      int64_t n_rows, int64_t from, uint8_t *mark, void *work) {
    const shadow_place *p = &self->places[layer];
    int64_t n = shadow_kept(s), G = p->H / p->K, skip = skipped(self, s, layer, head, from);
    int64_t k = self->budget / self->chunk < n - skip ? self->budget / self->chunk : n - skip;
    memset(mark, 0, (size_t)n);
    if (k == n - skip) {
        memset(mark + skip, 1, (size_t)k);
        return k;
    }
    float *best = work, *sum = best + self->max_pages, *score = sum + self->max_pages, *row = score + self->max_pages;
    for (int64_t i = 0; i < n; i++)
        best[i] = -INFINITY;
    for (int64_t g = 0; g < G; g++) {
        memset(sum, 0, sizeof *sum * (size_t)n);
        for (int64_t r = 0; r < n_rows; r++)
            add_shares(self, s, layer, head, q + (r * p->H + head * G + g) * p->D, skip, score, row, sum, n);
        for (int64_t i = skip; i < n; i++)
            best[i] = sum[i] > best[i] ? sum[i] : best[i];
    }
    shadow_top(best + skip, n - skip, k, sum, mark + skip);
    return k;
}

/* ---- the row set
 * ------------------------------------------------------------------------------------------------------ */

typedef struct select_job {
    sl_instance *self;
    const sl_select *args;
    const shadow_seq *s;
    int32_t at;
    int64_t n_rows, n_past;
    int shared;
} select_job;

static int64_t from_of(const select_job *j, int64_t i) {
    const sl_batch *b = j->args->rows->batch;
    int32_t row = j->args->rows->index != NULL ? j->args->rows->index[i] : (int32_t)i;
    int64_t window = j->args->mask != NULL ? j->args->mask->window : 0, t = b->token_index[row];
    return window > 0 && t >= window ? t - window + 1 : 0;
}

/* Lists of items [begin, end): row (or all rows) and KV head. */
static void select_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const select_job *j = user;
    sl_instance *self = j->self;
    const shadow_seq *s = j->s;
    int32_t layer = j->args->layer;
    const shadow_place *p = &self->places[layer];
    float *work = self->scratch->worker(self->host, worker);
    uint8_t *mark = (uint8_t *)(work + 4 * self->max_pages) + self->max_D * sizeof(float);
    for (int64_t item = begin; item < end; item++) {
        int64_t unit = item / p->K;
        int32_t head = (int32_t)(item % p->K);
        const float *q = (const float *)j->args->q.data + (j->shared ? 0 : unit) * p->H * p->D;
        shadow_choose(self, s, layer, head, q, j->shared ? j->n_rows : 1, from_of(j, j->shared ? 0 : unit), mark, work);
        int64_t list = (j->shared ? j->at : unit) * p->K + head, kept = 0;
        int32_t *out = self->wide.run + self->run_begin[list];
        for (int32_t i = 0; i < s->n_blocks; i++) {
            const shadow_block *b = s->blocks[i];
            const shadow_layer *y = &b->layers[layer];
            const int32_t *outlier = y->outlier + (int64_t)head * b->n_outliers, *stop = outlier + b->n_outliers;
            for (int32_t k = 0; k < b->n_kept; k++, kept++) {
                int32_t chunk = y->kept[(int64_t)head * b->n_kept + k];
                for (; outlier < stop && *outlier < chunk; outlier++)
                    *out++ = (int32_t)(b->begin + *outlier * self->chunk);
                if (mark[kept])
                    *out++ = (int32_t)(b->begin + chunk * self->chunk);
            }
            for (; outlier < stop; outlier++)
                *out++ = (int32_t)(b->begin + *outlier * self->chunk);
        }
        for (int64_t t = s->n_factored; t < j->n_past; t += self->chunk)
            *out++ = (int32_t)t;
    }
}

/* Where each list begins: its length is known before it is made. */
static sl_status begin_lists(select_job *j, int64_t n_units) {
    sl_instance *self = j->self;
    const shadow_seq *s = j->s;
    const shadow_place *p = &self->places[j->args->layer];
    int64_t n = 0, kept = shadow_kept(s), always = shadow_chunks(self, j->n_past - s->n_factored);
    for (int32_t i = 0; i < s->n_blocks; i++)
        always += s->blocks[i]->n_outliers;
    for (int64_t u = 0; u < n_units; u++)
        for (int32_t h = 0; h < p->K; h++) {
            self->run_begin[u * p->K + h] = n;
            if (j->shared && u != j->at)
                continue;
            int64_t free = kept - skipped(self, s, j->args->layer, h, from_of(j, j->shared ? 0 : u));
            n += always + (self->budget / self->chunk < free ? self->budget / self->chunk : free);
        }
    self->run_begin[n_units * p->K] = n;
    return n <= self->wide.n_runs ? SL_OK : SL_E_RANGE;
}

sl_status shadow_select(sl_instance *self, const sl_select *args, const sl_rowset **out) {
    const sl_batch *b = args->rows->batch;
    int32_t at = shadow_place_of(args->rows);
    if (at < 0)
        return SL_E_UNIMPLEMENTED; /* row_block: rows come sequence by sequence */
    const shadow_seq *s = &self->seqs[b->seq[at]];
    const shadow_place *p = &self->places[args->layer];
    if (s->n_blocks == 0 || (b->stage[at] == SL_STAGE_PREFILL && self->prompt_select == SHADOW_PROMPT_ALL))
        return SL_SKIPPED;
    int shared = b->stage[at] == SL_STAGE_VERIFY && self->verify_select == SHADOW_SELECT_SHARED && args->rows->n > 1;
    int64_t units = shared ? b->n_seqs : args->rows->n;
    if (args->rows->n > self->row_block)
        return SL_E_RANGE;
    select_job j = {self, args, s, at, args->rows->n, b->n_past[at], shared};
    SL_TRY(begin_lists(&j, units));
    self->threads->parallel_for(self->host, (shared ? 1 : args->rows->n) * p->K, 1, select_range, &j);
    self->selected = (sl_rowset){.struct_size = SL_SIZE(sl_rowset),
                                 .list_begin = self->run_begin,
                                 .token = self->wide.run,
                                 .n_units = (int32_t)units,
                                 .n_groups = p->K,
                                 .per_row = !shared,
                                 .run = (int32_t)self->chunk};
    *out = &self->selected;
    return SL_OK;
}
