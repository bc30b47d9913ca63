/* What a row costs that chooses chunks: landmarks read, values fetched, keys rebuilt. Every selected chunk counts as
 * one that was not selected before; in truth many were (counter chunks_missed). */
#include <math.h>

#include "sluice/cost.h"

#include "shadow.h"
#include "sl_cost.h"
#include "sl_tensor.h"

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = io->model->layers[io->layer];
    double K = l->n_kv_heads, H = l->n_heads, D = l->head_dim, Dv = l->v_head_dim, c = (double)self->chunk;
    double element = sl_dtype_bits(self->dtype_auto ? io->compute : self->dtype) / 8.0;
    double factor = self->factor_auto ? element : sl_dtype_bits(self->factor_dtype) / 8.0;
    double chunks = (double)shadow_factorable(self, (int64_t)io->n_prompt), outliers = (double)shadow_outliers(self);
    double rank = sl_cost_min((double)self->rank, sl_cost_min(chunks * c, K * D));
    (void)err;
    io->row_bytes = K * (D + Dv) * element;
    io->write_bytes = K * (2 * D + Dv) * element; /* keys before RoPE as well */
    if (chunks == 0)
        return SL_OK;
    if (io->stage ==
        SL_STAGE_PREFILL) { /* exact until the prompt's end; then factors, landmarks, values to their tier */
        io->memory = (io->kept + io->n_new) * io->write_bytes;
        if (io->last_chunk > 0)
            sl_cost_add(io->sink, SL_COST_AT_SETTLE, "shadowkv.factor", 8 * chunks * c * K * D * (rank + 16),
                        SL_COST_KV_WRITE, chunks * c * (K * D * element + rank * factor + 2 * K * Dv * element), 1);
        return SL_OK;
    }
    double kept = chunks - outliers, chosen = sl_cost_min((double)self->budget / c, kept), n = io->n_new;
    double rows = self->verify_select == 0 ? n : 1; /* each row chooses, or all of a tree together */
    double exact = io->n_past - chunks * c, selected = chosen * c;
    io->attended = outliers * c + selected + exact;
    io->read = (outliers * c + exact) + selected * rows;
    sl_cost_add(io->sink, SL_COST_AT_SELECT, "shadowkv.landmarks", 2 * D * H * kept * n, SL_COST_OTHER,
                K * D * element * kept, 2);
    sl_cost_add(io->sink, SL_COST_AT_ATTEND, "shadowkv.rebuild", 2 * selected * rank * D * K * rows, SL_COST_OTHER,
                rows * K * selected * (rank * factor + D * element) + rank * K * D * factor, 1);
    double fetched = rows * K * selected * Dv * element;
    if (self->host_values)
        sl_cost_add(io->sink, SL_COST_AT_ATTEND, "shadowkv.fetch", 0,
                    io->device == SL_DEVICE_CUDA ? SL_COST_LINK : SL_COST_OTHER, fetched, 1);
    double tier = chunks * c * K * Dv * element;
    io->memory = exact * io->row_bytes + chunks * c * rank * factor + rank * K * D * factor + kept * K * D * element +
                 (outliers * c + selected) * io->row_bytes + (self->host_values ? 0 : tier);
    io->memory_host = self->host_values ? tier : 0;
    return SL_OK;
}

const sl_cost shadow_cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};
