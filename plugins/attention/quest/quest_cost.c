/* What selecting pages costs: bounds are read, lists are attended to. */
#include <math.h>

#include "sluice/cost.h"

#include "quest.h"
#include "sl_cost.h"

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = self->model->layers[io->layer];
    double H = l->n_heads, K = l->n_kv_heads, D = l->head_dim, P = (double)self->page, most = (double)self->most_pages;
    double element = io->row_bytes / (K * (D + l->v_head_dim));
    double bound = 2 * D * (self->meta_type == QUEST_F16 ? 2 : self->meta_type == QUEST_F32 ? 4 : element);
    double pages = floor(io->kept / P) + 1, lists = self->heads == QUEST_QUERY ? H / K : 1;
    (void)err;
    if (!self->sparse[io->layer] || pages <= most) /* bounds are kept all the same, and not looked at */
        return SL_OK;
    io->memory = (io->memory >= 0 ? io->memory : (io->kept + io->n_new) * io->row_bytes) + pages * K * bound;
    if (io->stage == SL_STAGE_PREFILL) {
        if (io->last_chunk > 0)
            sl_cost_add(io->sink, SL_COST_AT_SELECT, "quest.bounds", 2 * K * D * io->n_prompt, SL_COST_OTHER,
                        K * (io->n_prompt * D * element + pages * bound), 1);
        return SL_OK;
    }
    double shared = self->verify == QUEST_VERIFY_SHARED, rows = shared ? 1 : io->n_new;
    /* the last page has what is left over */
    io->attended = (most - 1) * P + fmod(io->kept, P);
    io->read = io->attended * lists * rows;
    sl_cost_add(io->sink, SL_COST_AT_SELECT, "quest.score", (4 * D + 1) * H * pages * io->n_new, SL_COST_OTHER,
                K * (pages * bound + io->n_new * (D * element + bound / P)) + 4 * H * pages * io->n_new, 2);
    return SL_OK;
}

const sl_cost quest_cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};
