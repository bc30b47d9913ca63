/* See sums.h. */
#include "sums.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/ledger.h"
#include "sl_error.h"

/* What one policy wants of one layer. */
typedef struct want {
    int64_t last_rows; /* 0: nothing */
    int64_t offset;    /* floats from the beginning of a sequence's block to its sums [heads, stride] */
    uint32_t stages;
    int of_chunk; /* last_rows of each chunk, not of the prompt */
} want;

/* What is known of one sequence, for one policy. */
typedef struct known {
    int64_t counted; /* tokens up to which rows were counted */
    int lost;        /* sums over all rows contain some that were cut off, or lack some that were loaded */
} known;

struct sli_sums {
    const sl_model_info *info;
    int32_t n_policies, max_seqs;
    int64_t stride;
    want *wants;    /* [n_policies, n_layers] */
    int32_t *heads; /* [n_layers] K, or H where a policy wants query heads apart; 0: nobody wants sums */
    float **block;  /* [max_seqs] NULL: not open */
    int64_t block_floats;
    known *known;    /* [max_seqs, n_policies] */
    int64_t *n_rows; /* [K] of one layer */
    float *rows;     /* [SLI_SUM_ROWS, heads, stride] */
    float *tree;     /* [n_layers, tree_rows, heads, stride] rows of this step's trees; NULL: none are wanted */
    int64_t tree_rows, tree_row_floats;
    uint64_t tree_step; /* the step whose trees they are */
};

static const want *want_of(const sli_sums *s, int32_t policy, int32_t layer) {
    return &s->wants[policy * s->info->n_layers + layer];
}
static known *known_of(const sli_sums *s, int32_t seq, int32_t policy) {
    return &s->known[seq * s->n_policies + policy];
}
static int is_open(const sli_sums *s, int32_t seq) {
    return s != NULL && seq >= 0 && seq < s->max_seqs && s->block[seq] != NULL;
}
static int64_t sums_floats(const sli_sums *s, int32_t layer) { return s->heads[layer] * s->stride; }

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

void sli_sums_destroy(sli_sums *s) {
    if (s == NULL)
        return;
    for (int32_t i = 0; s->block != NULL && i < s->max_seqs; i++)
        sli_free(s->block[i]);
    void *owned[] = {s->wants, s->heads, s->block, s->known, s->n_rows, s->rows, s->tree};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        sli_free(owned[i]);
    sli_free(s);
}

/* Asks the policies; *stages: in which anybody wants sums. */
static sl_status ask_policies(const sli_network *net, sli_sums *s, uint32_t *stages, sl_error *err) {
    for (int32_t p = 0; p < s->n_policies; p++)
        for (int32_t l = 0; l < s->info->n_layers; l++) {
            sl_kv_wants wants = {.struct_size = SL_SIZE(sl_kv_wants)};
            SL_TRY(net->policies[p].api->wants(net->policies[p].self, l, &wants));
            if (wants.want & ~(uint32_t)SL_WANT_COLSUM)
                return sl_fail(err, SL_E_UNIMPLEMENTED,
                               "[kvcache.policy] layer %d: the policy wants more than column sums", l);
            if (!(wants.want & SL_WANT_COLSUM) || wants.last_rows == 0 || wants.stages == 0)
                continue;
            s->wants[p * s->info->n_layers + l] =
                (want){wants.last_rows, 0, wants.stages, (wants.flags & SL_KV_WANTS_CHUNKS) != 0};
            int32_t heads = wants.query_heads ? s->info->layers[l]->n_heads : s->info->layers[l]->n_kv_heads;
            s->heads[l] = heads > s->heads[l] ? heads : s->heads[l];
            *stages |= wants.stages;
        }
    return SL_OK;
}

static sl_status take_buffers(sli_sums *s, const sl_limits *limits, uint32_t stages, sl_error *err) {
    int64_t most = 0, most_kv = 0;
    for (int32_t l = 0; l < s->info->n_layers; l++) {
        most = sums_floats(s, l) > most ? sums_floats(s, l) : most;
        most_kv = s->info->layers[l]->n_kv_heads > most_kv ? s->info->layers[l]->n_kv_heads : most_kv;
        for (int32_t p = 0; p < s->n_policies; p++)
            if (want_of(s, p, l)->last_rows != 0) {
                s->wants[p * s->info->n_layers + l].offset = s->block_floats;
                s->block_floats += sums_floats(s, l);
            }
    }
    s->tree_rows = (stages & SL_STAGE_VERIFY) && limits->max_tree > 1 ? s->max_seqs * limits->max_tree : 0;
    s->tree_row_floats = most;
    s->n_rows = sli_calloc(SLI_TAG_SCRATCH, (size_t)most_kv, sizeof *s->n_rows);
    s->rows = sli_calloc(SLI_TAG_SCRATCH, (size_t)(SLI_SUM_ROWS * most), sizeof *s->rows);
    s->tree = s->tree_rows > 0
                  ? sli_calloc(SLI_TAG_SCRATCH, (size_t)(s->info->n_layers * s->tree_rows * most), sizeof *s->tree)
                  : NULL;
    if (s->n_rows == NULL || s->rows == NULL || (s->tree_rows > 0 && s->tree == NULL))
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the column sums of %" PRId64 " rows",
                       s->tree_rows + SLI_SUM_ROWS);
    return SL_OK;
}

sl_status sli_sums_create(sli_network *net, int32_t max_seqs, sl_error *err) {
    if (net->n_policies == 0)
        return SL_OK;
    sli_sums *s = sli_alloc(SLI_TAG_SCRATCH, sizeof *s);
    if (s == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for column sums");
    *s = (sli_sums){.info = net->info,
                    .n_policies = net->n_policies,
                    .max_seqs = max_seqs,
                    .stride = net->limits.max_context + SL_MAX_TREE_NODES};
    int64_t L = net->info->n_layers;
    uint32_t stages = 0;
    s->wants = sli_calloc(SLI_TAG_SCRATCH, (size_t)(s->n_policies * L), sizeof *s->wants);
    s->heads = sli_calloc(SLI_TAG_SCRATCH, (size_t)L, sizeof *s->heads);
    s->block = sli_calloc(SLI_TAG_SCRATCH, (size_t)max_seqs, sizeof *s->block);
    s->known = sli_calloc(SLI_TAG_SCRATCH, (size_t)(max_seqs * s->n_policies), sizeof *s->known);
    sl_status status = s->wants && s->heads && s->block && s->known
                           ? SL_OK
                           : sl_fail(err, SL_E_NO_MEMORY, "no memory for column sums");
    if (status >= 0)
        status = ask_policies(net, s, &stages, err);
    if (status >= 0 && stages != 0)
        status = take_buffers(s, &net->limits, stages, err);
    if (status < 0 || stages == 0) {
        sli_sums_destroy(s);
        return status;
    }
    for (int32_t l = 0; l < L; l++)
        net->layers[l].sum_heads = s->heads[l];
    net->sums = s;
    return SL_OK;
}

/* ---- sequences
 * -------------------------------------------------------------------------------------------------------- */

static void clear(const sli_sums *s, int32_t seq, int32_t policy, int64_t counted) {
    for (int32_t l = 0; l < s->info->n_layers; l++)
        if (want_of(s, policy, l)->last_rows != 0)
            memset(s->block[seq] + want_of(s, policy, l)->offset, 0, sizeof(float) * (size_t)sums_floats(s, l));
    *known_of(s, seq, policy) = (known){.counted = counted};
}

static int is_window(const sli_sums *s, int32_t policy) {
    for (int32_t l = 0; l < s->info->n_layers; l++)
        if (want_of(s, policy, l)->last_rows > 0)
            return 1;
    return 0;
}

/* Rows that a layer holds of a sequence, by KV head, into s->n_rows. */
static sl_status rows_of(sli_network *net, int32_t layer, int32_t seq) {
    return sli_network_rows(net, layer, seq, net->sums->n_rows);
}

void sli_sums_cut(sli_network *net, int32_t seq, int64_t n) {
    sli_sums *s = net->sums;
    if (!is_open(s, seq))
        return;
    for (int32_t p = 0; p < s->n_policies; p++) {
        known *k = known_of(s, seq, p);
        if (n == 0 || (n < k->counted && is_window(s, p)))
            clear(s, seq, p, n);
        else if (n < k->counted)
            *k = (known){n, 1};
    }
    for (int32_t l = 0; l < s->info->n_layers; l++) {
        int32_t K = s->info->layers[l]->n_kv_heads, G = s->heads[l] > 0 ? s->heads[l] / K : 0;
        if (G == 0 || rows_of(net, l, seq) < 0)
            continue;
        for (int32_t p = 0; p < s->n_policies; p++)
            for (int32_t h = 0; want_of(s, p, l)->last_rows != 0 && h < K * G; h++)
                memset(s->block[seq] + want_of(s, p, l)->offset + h * s->stride + s->n_rows[h / G], 0,
                       sizeof(float) * (size_t)(s->stride - s->n_rows[h / G]));
    }
}

sl_status sli_sums_open(sli_network *net, int32_t seq, int32_t parent, int64_t n, sl_error *err) {
    sli_sums *s = net->sums;
    if (s == NULL || seq >= s->max_seqs)
        return SL_OK;
    s->block[seq] = sli_calloc(SLI_TAG_SCRATCH, (size_t)s->block_floats, sizeof **s->block);
    if (s->block[seq] == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for the column sums of a session");
    memset(known_of(s, seq, 0), 0, sizeof *s->known * (size_t)s->n_policies);
    if (!is_open(s, parent))
        return SL_OK;
    memcpy(s->block[seq], s->block[parent], sizeof(float) * (size_t)s->block_floats);
    memcpy(known_of(s, seq, 0), known_of(s, parent, 0), sizeof *s->known * (size_t)s->n_policies);
    sli_sums_cut(net, seq, n);
    return SL_OK;
}

void sli_sums_close(sli_network *net, int32_t seq) {
    if (!is_open(net->sums, seq))
        return;
    sli_free(net->sums->block[seq]);
    net->sums->block[seq] = NULL;
}

void sli_sums_imported(sli_network *net, int32_t seq) {
    for (int32_t p = 0; is_open(net->sums, seq) && p < net->sums->n_policies; p++)
        known_of(net->sums, seq, p)->lost = !is_window(net->sums, p);
}

void sli_sums_edit(sli_network *net, const sl_kv_edit *e, const int64_t *n_rows) {
    sli_sums *s = net->sums;
    if (!is_open(s, e->seq) || s->heads[e->layer] == 0)
        return;
    int32_t K = s->info->layers[e->layer]->n_kv_heads, G = s->heads[e->layer] / K;
    for (int32_t p = 0; p < s->n_policies; p++)
        for (int32_t h = 0; want_of(s, p, e->layer)->last_rows != 0 && h < K * G; h++) {
            float *sums = s->block[e->seq] + want_of(s, p, e->layer)->offset + h * s->stride;
            const int32_t *keep = e->keep + e->keep_begin[h / G];
            int64_t n = e->keep_begin[h / G + 1] - e->keep_begin[h / G];
            for (int64_t i = 0; i < n; i++)
                sums[i] = sums[keep[i]];
            memset(sums + n, 0, sizeof(float) * (size_t)(n_rows[h / G] - n));
        }
}

const float *sli_sums_of(const sli_network *net, int32_t policy, int32_t layer, int32_t seq, int32_t *heads,
                         int64_t *stride) {
    const sli_sums *s = net->sums;
    *heads = 0, *stride = 0;
    if (!is_open(s, seq) || want_of(s, policy, layer)->last_rows == 0 || known_of(s, seq, policy)->lost)
        return NULL;
    *heads = s->heads[layer];
    *stride = s->stride;
    return s->block[seq] + want_of(s, policy, layer)->offset;
}

void sli_sums_chosen(sli_network *net, int32_t policy, int32_t seq) {
    if (is_open(net->sums, seq) && is_window(net->sums, policy))
        clear(net->sums, seq, policy, known_of(net->sums, seq, policy)->counted);
}

/* ---- the step
 * ----------------------------------------------------------------------------------------------------------- */

static int wants_row(const sli_sums *s, const sli_pass *pass, int32_t policy, int32_t layer, int32_t row) {
    const sl_batch *b = pass->batch;
    const want *w = want_of(s, policy, layer);
    int32_t at = b->row_seq[row];
    if (w->last_rows == 0 || !(w->stages & b->stage[at]))
        return 0;
    int64_t end = w->of_chunk && b->stage[at] == SL_STAGE_PREFILL ? b->token_index[b->row_begin[at + 1] - 1] + 1
                                                                  : pass->n_prompt[at];
    return w->last_rows < 0 || b->token_index[row] >= end - w->last_rows;
}

int sli_sums_want(const sli_network *net, const sli_pass *pass, int32_t layer, int32_t row) {
    const sli_sums *s = net->sums;
    if (pass->n_prompt == NULL || s == NULL || s->heads[layer] == 0 || pass->batch->row_seq[row] < 0 ||
        !is_open(s, pass->batch->seq[pass->batch->row_seq[row]]))
        return 0;
    for (int32_t p = 0; p < s->n_policies; p++)
        if (wants_row(s, pass, p, layer, row))
            return 1;
    return 0;
}

/* Where rows of the step's trees wait. Trees are the last rows of a batch. */
static float *tree_row(const sli_sums *s, const sl_batch *b, int32_t layer, int32_t row) {
    int32_t first = 0;
    while (b->stage[first] != SL_STAGE_VERIFY)
        first++;
    int64_t i = row - b->row_begin[first];
    assert(i >= 0 && i < s->tree_rows);
    return s->tree + (layer * s->tree_rows + i) * s->tree_row_floats;
}

static int is_tree(const sl_batch *b, int32_t row) { return b->stage[b->row_seq[row]] == SL_STAGE_VERIFY; }

void sli_sums_ask(sli_network *net, sl_attend *args) {
    sli_sums *s = net->sums;
    args->want |= SL_WANT_COLSUM;
    args->colsum_heads = s->heads[args->layer];
    args->colsum_per_row = 1;
    args->score_stride = s->stride;
    args->colsum = s->rows;
}

/* Adds the probabilities [heads, stride] of one row. n_committed [K]; path: staged rows that became slots behind them;
 * NULL: the first n_staged, as they are. */
static void add_row(const sli_sums *s, float *sums, const float *row, int32_t layer, const int64_t *n_committed,
                    const int32_t *path, int64_t n_staged) {
    int32_t G = s->heads[layer] / s->info->layers[layer]->n_kv_heads;
    for (int32_t h = 0; h < s->heads[layer]; h++, sums += s->stride, row += s->stride) {
        int64_t n = n_committed[h / G];
        for (int64_t i = 0; i < n; i++)
            sums[i] += row[i];
        for (int64_t i = 0; i < n_staged; i++)
            sums[n + i] += row[n + (path != NULL ? path[i] : i)];
    }
}

void sli_sums_take(sli_network *net, const sli_pass *pass, int32_t row, const sl_attend *args) {
    sli_sums *s = net->sums;
    const sl_batch *b = pass->batch;
    int64_t floats = sums_floats(s, args->layer);
    int32_t at = b->row_seq[row], seq = b->seq[at];
    if (is_tree(b, row)) {
        s->tree_step = b->step;
        for (int32_t i = 0; i < args->rows->n; i++)
            memcpy(tree_row(s, b, args->layer, row + i), args->colsum + i * floats, sizeof(float) * (size_t)floats);
        return;
    }
    const sl_seq_view *view = args->view->seqs[at];
    memset(s->n_rows, 0, sizeof *s->n_rows * (size_t)s->info->layers[args->layer]->n_kv_heads);
    for (int32_t k = 0; k < view->n_segments; k++) /* slots count through the segments of a head */
        for (int32_t h = 0; h < view->segments[k]->n_heads; h++)
            s->n_rows[view->segments[k]->head_begin + h] += view->segments[k]->n_committed;
    for (int32_t i = 0; i < args->rows->n; i++) /* the row itself and those before it */
        for (int32_t p = 0; p < s->n_policies; p++) {
            if (!wants_row(s, pass, p, args->layer, row + i))
                continue;
            add_row(s, s->block[seq] + want_of(s, p, args->layer)->offset, args->colsum + i * floats, args->layer,
                    s->n_rows, NULL, row + i - b->row_begin[at] + 1);
            known *k = known_of(s, seq, p);
            int64_t counted = b->token_index[row + i] + 1;
            k->counted = counted > k->counted ? counted : k->counted;
        }
}

sl_status sli_sums_check_device(const sli_network *net, sl_error *err) {
    const sli_sums *s = net->sums;
    const want *first = NULL;
    if (s->tree != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "[kvcache.policy]: column sums over rows of draft trees are not served on the device yet: set "
                       "engine.device = cpu");
    for (int32_t i = 0; i < s->n_policies * s->info->n_layers; i++) {
        const want *w = &s->wants[i];
        if (w->last_rows == 0)
            continue;
        first = first != NULL ? first : w;
        if (w->last_rows != first->last_rows || w->stages != first->stages || w->of_chunk != first->of_chunk)
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "[kvcache.policy]: column sums over different rows (the last %" PRId64
                           " and the last %" PRId64
                           " of the prompt) are not served on the device yet: set engine.device = cpu",
                           first->last_rows, w->last_rows);
    }
    return SL_OK;
}

void sli_sums_add(sli_network *net, const sli_pass *pass, int32_t at, int32_t layer, const float *colsum,
                  int64_t stride) {
    sli_sums *s = net->sums;
    const sl_batch *b = pass->batch;
    int32_t seq = b->seq[at], n_new = b->row_begin[at + 1] - b->row_begin[at], last = b->row_begin[at + 1] - 1;
    int32_t G = s->heads[layer] / s->info->layers[layer]->n_kv_heads;
    if (n_new == 0 || !is_open(s, seq) || rows_of(net, layer, seq) < 0)
        return;
    for (int32_t p = 0; p < s->n_policies; p++) {
        if (!wants_row(s, pass, p, layer, last)) /* wanted rows are the last ones of a sequence */
            continue;
        float *sums = s->block[seq] + want_of(s, p, layer)->offset;
        for (int32_t h = 0; h < s->heads[layer]; h++)
            for (int64_t i = 0; i < s->n_rows[h / G] + n_new; i++)
                sums[h * s->stride + i] += colsum[h * stride + i];
        known *k = known_of(s, seq, p);
        int64_t counted = b->token_index[last] + 1;
        k->counted = counted > k->counted ? counted : k->counted;
    }
}

sl_status sli_sums_commit(sli_network *net, const sl_commit *c) {
    sli_sums *s = net->sums;
    const sl_batch *b = c->batch;
    if (s == NULL || s->tree == NULL || s->tree_step != b->step)
        return SL_OK;
    for (int32_t at = 0; at < b->n_seqs; at++) {
        int32_t seq = b->seq[at], n_path = c->path_begin[at + 1] - c->path_begin[at];
        const int32_t *path = c->path + c->path_begin[at];
        if (b->stage[at] != SL_STAGE_VERIFY || !is_open(s, seq))
            continue;
        for (int32_t l = 0; l < s->info->n_layers; l++) {
            if (s->heads[l] == 0)
                continue;
            SL_TRY(rows_of(net, l, seq));
            for (int32_t p = 0; p < s->n_policies; p++)
                for (int32_t i = 0; (want_of(s, p, l)->stages & SL_STAGE_VERIFY) && i < n_path; i++)
                    add_row(s, s->block[seq] + want_of(s, p, l)->offset, tree_row(s, b, l, b->row_begin[at] + path[i]),
                            l, s->n_rows, path, i + 1);
        }
        for (int32_t p = 0; p < s->n_policies; p++)
            known_of(s, seq, p)->counted = b->n_past[at] + n_path;
    }
    return SL_OK;
}
