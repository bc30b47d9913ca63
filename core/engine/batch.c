/* See batch.h. */
#include "batch.h"

#include <assert.h>
#include <stddef.h>

#include "base/ledger.h"

sl_status sli_batch_create(sli_batch *b, int64_t max_seqs, int64_t max_rows) {
    *b = (sli_batch){.max_seqs = (int32_t)max_seqs, .max_rows = (int32_t)max_rows};
    int64_t bytes = max_rows * (2 * 8 + 4 * 4) + (max_seqs + 1) * (2 * 8 + 4 * 4);
    char *p = b->memory = sli_alloc(SLI_TAG_SCRATCH, (size_t)bytes);
    if (p == NULL)
        return SL_E_NO_MEMORY;
    /* eight-byte elements first */
    b->n_past = (void *)p, p += 8 * (max_seqs + 1);
    b->tree = (void *)p, p += 8 * (max_seqs + 1);
    b->token_index = (void *)p, p += 8 * max_rows;
    b->seq = (void *)p, p += 4 * (max_seqs + 1);
    b->row_begin = (void *)p, p += 4 * (max_seqs + 1);
    b->stage = (void *)p, p += 4 * (max_seqs + 1);
    b->row_seq = (void *)p, p += 4 * max_rows;
    b->token = (void *)p, p += 4 * max_rows;
    b->row_type = (void *)p, p += 4 * max_rows;
    b->position = (void *)p;
    b->view = (sl_batch){.struct_size = SL_SIZE(sl_batch),
                         .seq = b->seq,
                         .row_begin = b->row_begin,
                         .n_past = b->n_past,
                         .stage = b->stage,
                         .tree = b->tree,
                         .row_seq = b->row_seq,
                         .token = b->token,
                         .token_index = b->token_index,
                         .position = b->position,
                         .row_type = b->row_type,
                         .n_axes = 1};
    return SL_OK;
}

void sli_batch_destroy(sli_batch *b) {
    sli_free(b->memory);
    b->memory = NULL;
}

void sli_batch_clear(sli_batch *b, int32_t model, uint64_t step) {
    b->view.n_seqs = b->view.n_rows = 0;
    b->view.model = model;
    b->view.step = step;
    b->view.attn_layers = b->view.ffn_layers = NULL;
    b->row_begin[0] = 0;
}

void sli_tree_depths(const sl_tree *tree, int32_t *depth) {
    depth[0] = 0;
    for (int32_t i = 1; i < tree->n_nodes; i++)
        depth[i] = depth[tree->parent[i]] + 1;
}

int32_t sli_batch_add(sli_batch *b, int32_t seq, int64_t n_past, uint32_t stage, const int32_t *token, int32_t n,
                      const sl_tree *tree, const float *position) {
    sl_batch *v = &b->view;
    int32_t place = v->n_seqs++, first = v->n_rows;
    assert(place < b->max_seqs && first + n <= b->max_rows);
    v->n_rows += n;
    b->seq[place] = seq;
    b->n_past[place] = n_past;
    b->stage[place] = stage;
    b->tree[place] = tree;
    b->row_begin[place + 1] = first + n;
    int32_t depth[SL_MAX_TREE_NODES];
    if (tree != NULL)
        sli_tree_depths(tree, depth);
    for (int32_t i = 0; i < n; i++) {
        int64_t index = n_past + (tree != NULL ? depth[i] : i);
        b->row_seq[first + i] = place;
        b->token[first + i] = token != NULL ? token[i] : -1;
        b->token_index[first + i] = index;
        b->position[first + i] = position != NULL ? position[i] : (float)index;
        b->row_type[first + i] = tree != NULL && i > 0 ? SL_ROW_DRAFT : SL_ROW_TOKEN;
    }
    return place;
}
