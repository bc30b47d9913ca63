/* What streaming heads save: rows that they neither keep nor see. */
#include "sluice/cost.h"

#include "duoattention.h"
#include "sl_cost.h"
#include "sl_tensor.h"

static double mixed(double share, double full, double streaming) { return (1 - share) * full + share * streaming; }

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const duo_layer *l = &self->layers[io->layer];
    double share = (double)l->n_streaming / l->n_heads, sink = (double)self->sink, recent = (double)self->recent,
           n = io->n_new;
    int is_store = io->role[0] == 'k';
    (void)err;
    if (is_store) {
        sl_dtype dtype = self->dtype_auto ? io->compute : self->dtype;
        double all = io->n_past + n, ring = sink + recent + (double)self->slack;
        io->row_bytes = io->write_bytes = l->n_heads * (l->d_k + l->d_v) * (sl_dtype_bits(dtype) / 8.0);
        io->kept = mixed(share, io->n_past, sl_cost_min(io->n_past, sink + recent));
        io->memory = mixed(share, all, sl_cost_min(all, ring)) * io->row_bytes;
        return SL_OK;
    }
    double full = self->has_store && self->served[io->layer] ? io->n_past : io->kept, inner = io->inner, seen;
    if (share == 0)
        return SL_OK;
    int dense = io->stage == SL_STAGE_PREFILL && self->window == DUO_WINDOW_CHUNK &&
                (full > 0 || self->first_chunk == DUO_FIRST_DENSE);
    if (io->stage == SL_STAGE_PREFILL && !dense)
        seen = sl_cost_window(full, n, sink, recent + 1, &inner);
    else /* a chunk, or a tree of which one path counts */
        seen = sl_cost_min(full, sink + recent);
    io->attended = mixed(share, full, seen);
    io->inner = mixed(share, io->inner, inner);
    return SL_OK;
}

const sl_cost duo_cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};
