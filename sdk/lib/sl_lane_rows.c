/* See sl_lane_rows.h. */
#include "sl_lane_rows.h"

#include "sl_error.h"

sl_status sl_lane_append(const sl_host *host, const sl_ops *ops, const sl_model_info *model, const sl_kv_append *args,
                         const sl_view_device *into) {
    int32_t rope = model->layers[args->layer]->rope;
    sl_op_append op = {.struct_size = SL_SIZE(sl_op_append),
                       .lane = args->lane,
                       .rows = args->rows,
                       .rope = rope >= 0 ? model->ropes[rope] : NULL,
                       .q = &args->q,
                       .k = &args->k,
                       .v = &args->v,
                       .q_norm = args->q_norm,
                       .k_norm = args->k_norm,
                       .maps = args->maps,
                       .into = into,
                       .norm_eps = args->norm_eps,
                       .n_maps = args->n_maps,
                       .overwrite = args->overwrite};
    return ops->append(host, &op);
}

sl_status sl_lane_list(sl_view_device *listed, const sl_view_device *whole, const sl_rowset *tokens) {
    if (!SL_HAS(tokens, sl_rowset, device_stride) || tokens->device_token == NULL || tokens->own_rows ||
        tokens->run > 1 || (tokens->n_groups != 1 && tokens->n_groups != whole->n_heads))
        return SL_E_UNIMPLEMENTED;
    *listed = *whole;
    listed->list = tokens->device_token;
    listed->list_n = tokens->device_n;
    listed->list_stride = tokens->device_stride;
    listed->n_groups = tokens->n_groups;
    listed->per_row = tokens->per_row;
    return SL_OK;
}

sl_status sl_lane_close_ranks(sl_lane_words *w, const sl_ops *ops, const sl_view_device *const *layers,
                              int32_t n_layers, int32_t *moves, int64_t max_moves, const sl_commit *c, sl_error *err) {
    int staged = n_layers > 0 && layers[0]->n_rows != NULL; /* then slots are not token indices */
    int64_t n = 0;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++)
            n += c->path[k] != k - c->path_begin[i];
    if (n == 0)
        return SL_OK;
    if (n > max_moves)
        return sl_fail(err, SL_E_RANGE, "%lld rows move, at most %lld can", (long long)n, (long long)max_moves);
    int32_t *words;
    SL_TRY(sl_lane_words_take(w, 1 + 3 * n, &words, err));
    int32_t *seq = words + 1, *from = seq + n, *to = from + n;
    words[0] = (int32_t)n;
    for (int32_t i = 0; i < c->batch->n_seqs; i++)
        for (int32_t k = c->path_begin[i]; k < c->path_begin[i + 1]; k++) {
            int32_t at = k - c->path_begin[i], past = staged ? 0 : (int32_t)c->batch->n_past[i];
            if (c->path[k] == at)
                continue;
            *seq++ = c->batch->seq[i];
            *from++ = past + c->path[k];
            *to++ = past + at;
        }
    sl_op_move op = {.struct_size = SL_SIZE(sl_op_move),
                     .lane = w->lane,
                     .layers = layers,
                     .n_moves = moves,
                     .seq = moves + 1,
                     .from = moves + 1 + n,
                     .to = moves + 1 + 2 * n,
                     .n_layers = n_layers,
                     .max_moves = (int32_t)n,
                     .staged = (uint32_t)staged};
    sl_status s = w->exec->copy(w->lane, moves, words, (1 + 3 * n) * (int64_t)sizeof *words);
    if (s >= 0)
        s = ops->move(w->host, &op);
    return s < 0 ? sl_fail(err, s, "accepted rows could not be moved") : SL_OK;
}
