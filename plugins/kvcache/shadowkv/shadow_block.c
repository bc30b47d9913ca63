/* The end of a prompt: exact rows become a block (the paper's sections 4.1 and 4.2). */
#include "shadow.h"

#include <math.h>
#include <string.h>

#include "sl_host_util.h"

int64_t shadow_outliers(const sl_instance *self) {
    return self->outlier_chunks >= 0 ? self->outlier_chunks : 24 * (self->budget / 1024); /* the official fast class */
}

int64_t shadow_factorable(const sl_instance *self, int64_t n_exact) {
    if (n_exact <= self->min_prompt)
        return 0;
    int64_t n = n_exact / self->chunk - self->local_chunks;
    return n > shadow_outliers(self) ? n : 0;
}

static int64_t rank_of(const sl_instance *self, const shadow_place *p, int64_t n_chunks) {
    int64_t rank = self->rank, rows = n_chunks * self->chunk, width = (int64_t)p->K * p->D;
    rank = rank < rows ? rank : rows;
    return rank < width ? rank : width;
}

/* Where the arrays of a layer begin, in bytes; returns the sum. */
enum { AT_U, AT_SV, AT_LANDMARK, AT_KEPT, AT_OUTLIER, AT_OUTLIER_K, AT_OUTLIER_V, N_ARRAYS };

static int64_t lay_out(const sl_instance *self, const shadow_place *p, int64_t n_chunks, int64_t *at) {
    int64_t rank = rank_of(self, p, n_chunks), E = shadow_outliers(self), kept = n_chunks - E, bytes = 0;
    const int64_t size[N_ARRAYS] = {
        [AT_U] = n_chunks * self->chunk * rank * self->factor_element,
        [AT_SV] = p->K * p->D * rank * self->factor_element,
        [AT_LANDMARK] = p->K * kept * p->D * self->element,
        [AT_KEPT] = p->K * kept * (int64_t)sizeof(int32_t),
        [AT_OUTLIER] = p->K * E * (int64_t)sizeof(int32_t),
        [AT_OUTLIER_K] = p->K * E * p->k_chunk,
        [AT_OUTLIER_V] = p->K * E * p->v_chunk,
    };
    for (int i = 0; i < N_ARRAYS; i++) {
        if (at != NULL)
            at[i] = bytes;
        bytes += shadow_round(size[i]);
    }
    return bytes;
}

int64_t shadow_layer_bytes(const sl_instance *self, const shadow_place *p, int64_t n_chunks) {
    return lay_out(self, p, n_chunks, NULL);
}

void shadow_block_drop(sl_instance *self, shadow_block *block) {
    if (block == NULL || --block->refs > 0)
        return;
    for (int32_t l = 0; block->layers != NULL && l < self->model->n_layers; l++) {
        shadow_give(self, block->layers[l].device);
        shadow_run_close(&self->tier, &block->layers[l].values);
    }
    shadow_give(self, block->layers);
    shadow_give(self, block->position);
    shadow_give(self, block);
}

static shadow_block *block_open(sl_instance *self, int64_t begin, int64_t n_chunks) {
    shadow_block *b = shadow_take(self, sizeof *b, SL_MEM_PLUGIN);
    if (b == NULL)
        return NULL;
    b->refs = 1;
    b->begin = begin;
    b->n_chunks = (int32_t)n_chunks;
    b->n_outliers = (int32_t)shadow_outliers(self);
    b->n_kept = b->n_chunks - b->n_outliers;
    b->position = shadow_take(self, n_chunks * self->chunk * (int64_t)sizeof(float), SL_MEM_KV);
    b->bytes = n_chunks * self->chunk * (int64_t)sizeof(float);
    b->layers = shadow_take(self, self->model->n_layers * (int64_t)sizeof *b->layers, SL_MEM_PLUGIN);
    int ok = b->position != NULL && b->layers != NULL;
    for (int32_t l = 0; ok && l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        shadow_layer *y = &b->layers[l];
        int64_t at[N_ARRAYS];
        if (!p->is_used)
            continue;
        y->rank = (int32_t)rank_of(self, p, n_chunks);
        y->device_bytes = lay_out(self, p, n_chunks, at);
        y->device = shadow_take(self, y->device_bytes, SL_MEM_KV);
        ok = y->device != NULL && shadow_run_open(&self->tier, &y->values, p->K * n_chunks, p->v_chunk) >= 0;
        if (!ok)
            break;
        y->u = y->device + at[AT_U];
        y->sv = y->device + at[AT_SV];
        y->landmark = y->device + at[AT_LANDMARK];
        y->kept = (int32_t *)(void *)(y->device + at[AT_KEPT]);
        y->outlier = (int32_t *)(void *)(y->device + at[AT_OUTLIER]);
        y->outlier_k = y->device + at[AT_OUTLIER_K];
        y->outlier_v = y->device + at[AT_OUTLIER_V];
        b->bytes += y->device_bytes;
        *(self->tier.is_host ? &b->host_bytes : &b->bytes) += y->values.n * y->values.record_bytes;
    }
    if (!ok) {
        shadow_block_drop(self, b);
        return NULL;
    }
    return b;
}

/* ---- factors -------------------------------------------------------------------------------------------------------
 */

/* A of the block's rows, raw keys of all heads side by side, into U [rows, r] and SV [K, D, r]. */
static sl_status factor_layer(sl_instance *self, const shadow_seq *s, const shadow_block *b, int32_t l, float *a,
                              float *u, float *vt, sl_error *err) {
    const shadow_place *p = &self->places[l];
    const shadow_layer *y = &b->layers[l];
    int64_t rows = b->n_chunks * self->chunk, width = (int64_t)p->K * p->D, r = y->rank;
    for (int32_t i = 0; i < b->n_chunks; i++)
        SL_TRY(self->ops->convert(a + i * self->chunk * width, SL_F32, shadow_page_data(s->pages[i]) + p->raw,
                                  self->dtype, self->chunk * width));
    SL_TRY(shadow_factorise(&self->factor, a, rows, width, r, u, vt, err));
    SL_TRY(self->ops->convert(y->u, self->factor_dtype, u, SL_F32, rows * r));
    float *column = a; /* free now: [width, r] */
    for (int64_t w = 0; w < width; w++)
        for (int64_t k = 0; k < r; k++)
            column[w * r + k] = vt[k * width + w];
    return self->ops->convert(y->sv, self->factor_dtype, column, SL_F32, width * r);
}

/* ---- landmarks and outliers ----------------------------------------------------------------------------------------
 */

typedef struct landmark_job {
    const sl_instance *self;
    const shadow_seq *s;
    const shadow_block *b;
    int32_t layer;
    float *mean;     /* [K, n_chunks, D] */
    float *likeness; /* [K, n_chunks] smallest cosine of a chunk's keys with their mean */
    float *keys;     /* [n_workers, c, D] */
} landmark_job;

static void landmark_range(void *user, int64_t begin, int64_t end, int32_t worker) {
    const landmark_job *j = user;
    const shadow_place *p = &j->self->places[j->layer];
    int64_t c = j->self->chunk, D = p->D, n = j->b->n_chunks;
    float *keys = j->keys + worker * c * j->self->max_D;
    for (int64_t at = begin; at < end; at++) {
        int64_t h = at / n, i = at % n;
        const char *k = shadow_page_data(j->s->pages[i]) + p->k + h * p->k_chunk;
        float *mean = j->mean + at * D;
        j->self->ops->convert(keys, SL_F32, k, j->self->dtype, c * D);
        for (int64_t d = 0; d < D; d++) {
            double sum = 0;
            for (int64_t t = 0; t < c; t++)
                sum += keys[t * D + d];
            mean[d] = (float)(sum / (double)c);
        }
        double least = INFINITY;
        for (int64_t t = 0; t < c; t++) {
            double kk = 0, mm = 0, km = 0;
            for (int64_t d = 0; d < D; d++) {
                kk += (double)keys[t * D + d] * keys[t * D + d];
                mm += (double)mean[d] * mean[d];
                km += (double)keys[t * D + d] * mean[d];
            }
            double cosine = kk > 0 && mm > 0 ? km / sqrt(kk * mm) : 0;
            least = cosine < least ? cosine : least;
        }
        j->likeness[at] = (float)least;
    }
}

/* Splits the chunks of each head into outliers, whose exact rows are copied, and kept ones, whose landmark is. */
static sl_status split_chunks(sl_instance *self, const landmark_job *j, uint8_t *mark, float *work) {
    const shadow_place *p = &self->places[j->layer];
    const shadow_layer *y = &j->b->layers[j->layer];
    int64_t n = j->b->n_chunks, E = j->b->n_outliers, kept = j->b->n_kept;
    for (int64_t h = 0; h < p->K; h++) {
        for (int64_t i = 0; i < n; i++)
            work[i] = -j->likeness[h * n + i];
        shadow_top(work, n, E, work + n, mark);
        int64_t e = h * E, m = h * kept;
        for (int64_t i = 0; i < n; i++) {
            const char *page = shadow_page_data(j->s->pages[i]);
            if (mark[i]) {
                y->outlier[e] = (int32_t)i;
                memcpy(y->outlier_k + e * p->k_chunk, page + p->k + h * p->k_chunk, (size_t)p->k_chunk);
                memcpy(y->outlier_v + e * p->v_chunk, page + p->v + h * p->v_chunk, (size_t)p->v_chunk);
                e++;
                continue;
            }
            y->kept[m] = (int32_t)i;
            SL_TRY(self->ops->convert(y->landmark + m * p->D * self->element, self->dtype, j->mean + (h * n + i) * p->D,
                                      SL_F32, p->D));
            m++;
        }
        for (int64_t i = 0; i < n; i++)
            SL_TRY(shadow_run_put(&self->tier, &y->values, h * n + i,
                                  shadow_page_data(j->s->pages[i]) + p->v + h * p->v_chunk));
    }
    return SL_OK;
}

/* ---- all of it -----------------------------------------------------------------------------------------------------
 */

static sl_status fill(sl_instance *self, const shadow_seq *s, shadow_block *b, sl_error *err) {
    int64_t rows = b->n_chunks * self->chunk, n = b->n_chunks, most = 0, rank = 0,
            W = (int64_t)self->max_K * self->max_D;
    for (int32_t l = 0; l < self->model->n_layers; l++)
        rank = b->layers[l].rank > rank ? b->layers[l].rank : rank;
    /* a (also [width, rank] afterwards) | u | vt, and in the same place mean | likeness | keys | work | mark */
    int64_t a = (rows > rank ? rows : rank) * W, factors = a + rows * rank + rank * W;
    int64_t means = self->max_K * n * (self->max_D + 1), keys = self->limits.n_workers * self->chunk * self->max_D;
    most = factors > means + keys + 2 * n ? factors : means + keys + 2 * n;
    float *temp = shadow_take(self, most * (int64_t)sizeof *temp + n, SL_MEM_SCRATCH);
    if (temp == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory to factor %lld rows", (long long)rows);
    sl_status status = SL_OK;
    for (int32_t l = 0; status >= 0 && l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        if (!p->is_used)
            continue;
        status = factor_layer(self, s, b, l, temp, temp + a, temp + a + rows * rank, err);
        if (status < 0)
            break;
        landmark_job j = {.self = self, .s = s, .b = b, .layer = l, .mean = temp};
        j.likeness = j.mean + p->K * n * p->D;
        j.keys = j.likeness + p->K * n;
        self->threads->parallel_for(self->host, p->K * n, 16, landmark_range, &j);
        status = split_chunks(self, &j, (uint8_t *)(temp + most), j.keys + keys);
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(b->position + i * self->chunk, shadow_page_data(s->pages[i]), sizeof(float) * (size_t)self->chunk);
    shadow_give(self, temp);
    return status < 0 ? status : shadow_tier_wait(&self->tier, NULL);
}

/* Step 6 of the prefill: the region begins with the exact keys of the chunks that the last prompt row would select. */
static sl_status warm_region(sl_instance *self, shadow_seq *s, int64_t first_page) {
    int64_t n_kept = shadow_kept(s), q_at = 0;
    uint8_t *mark = shadow_take(self, shadow_round(n_kept) + shadow_select_scratch(self), SL_MEM_SCRATCH);
    if (mark == NULL)
        return SL_E_NO_MEMORY;
    void *work = mark + shadow_round(n_kept);
    for (int32_t l = 0; l < self->model->n_layers; l++) {
        const shadow_place *p = &self->places[l];
        if (!p->is_used)
            continue;
        for (int32_t h = 0; h < p->K; h++) {
            shadow_choose(self, s, l, h, s->last_q + q_at, 1, 0, mark, work);
            shadow_region *g = &s->regions[l];
            int32_t slot = h * s->n_slots, end = slot + s->n_slots;
            int64_t at = 0;
            for (int32_t i = 0; i < s->n_blocks; i++) {
                const shadow_block *b = s->blocks[i];
                const shadow_layer *y = &b->layers[l];
                for (int32_t k = 0; k < b->n_kept; k++, at++) {
                    int32_t within = y->kept[h * b->n_kept + k];
                    int64_t chunk = b->begin / self->chunk + within, page = chunk - first_page;
                    if (!mark[at] || page < 0 || slot == end) /* of older blocks the exact keys are gone */
                        continue;
                    g->chunk[slot] = (int32_t)chunk;
                    memcpy(g->k + slot * p->k_chunk, shadow_page_data(s->pages[page]) + p->k + h * p->k_chunk,
                           (size_t)p->k_chunk);
                    if (g->v != NULL)
                        shadow_run_fetch(&self->tier, &y->values, (int64_t)h * b->n_chunks + within,
                                         g->v + slot * p->v_chunk);
                    slot++;
                }
            }
        }
        q_at += (int64_t)p->H * p->D;
    }
    shadow_give(self, mark);
    return shadow_tier_wait(&self->tier, NULL);
}

sl_status shadow_compress(sl_instance *self, shadow_seq *s, sl_error *err) {
    int64_t n_exact = s->n_tokens - s->n_factored, n = shadow_factorable(self, n_exact);
    if (n == 0 || s->n_blocks == SHADOW_MAX_BLOCKS || (s->n_blocks > 0 && !self->refactor))
        return SL_SKIPPED;
    shadow_block *b = block_open(self, s->n_factored, n);
    if (b == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "shadowkv: no memory for the factors of %lld tokens",
                       (long long)(n * self->chunk));
    sl_status status = fill(self, s, b, err);
    if (status < 0) {
        shadow_block_drop(self, b);
        return status;
    }
    shadow_seq before = *s;
    s->blocks[s->n_blocks++] = b;
    s->n_factored += n * self->chunk;
    s->region_memory = NULL; /* the old one stays until the new one is there */
    status = shadow_region_open(self, s);
    if (status >= 0) /* decoding without drafts asks for one row at a time */
        status = shadow_wide_cover(self, s, before.n_factored + s->n_pages * self->chunk,
                                   self->limits.max_tree > 1 ? self->row_block : 1);
    if (status >= 0 && self->warm && s->last_q != NULL)
        status = warm_region(self, s, before.n_factored / self->chunk);
    if (status < 0) {
        shadow_region_close(self, s);
        s->n_blocks = before.n_blocks;
        s->n_factored = before.n_factored;
        s->n_slots = before.n_slots;
        s->region_memory = before.region_memory;
        s->region_bytes = before.region_bytes;
        s->regions = before.regions;
        shadow_block_drop(self, b);
        return sl_fail(err, status, "shadowkv: no memory for %d chunks of working buffer", before.n_slots);
    }
    shadow_region_close(self, &before);
    for (int64_t i = 0; i < n; i++)
        shadow_pool_drop(&self->pool, s->pages[i]);
    s->n_pages -= n;
    memmove(s->pages, s->pages + n, sizeof *s->pages * (size_t)s->n_pages);
    return SL_OK;
}
