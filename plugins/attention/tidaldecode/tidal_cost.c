/* What each role of a layer costs at decode: dense, dense with scores to choose by, or a list. */
#include "sluice/cost.h"

#include "sl_cost.h"
#include "sl_error.h"
#include "tidaldecode.h"

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const tidal_role *role = &self->roles[io->layer];
    double budget = (double)self->rule.budget, H = (double)tidal_heads_of(self, io->layer).H, keys = io->kept + 1;
    if (io->stage == SL_STAGE_PREFILL || role->kind == TIDAL_DENSE || keys <= (double)self->rule.min_context)
        return SL_OK;
    if (self->correction_period > 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "rows that correction_period computes again in the background have no formula");
    double shared = self->verify_select == TIDAL_VERIFY_SHARED, rows = shared ? 1 : io->n_new;
    if (role->kind == TIDAL_SELECT) {
        /* scores are written, then read by who chooses */
        sl_cost_add(io->sink, SL_COST_AT_ATTEND, "tidaldecode.topk", 2 * H * keys * io->n_new, SL_COST_OTHER,
                    8 * H * keys * io->n_new, 1);
        return SL_OK;
    }
    double lists = self->rule.heads == TIDAL_QUERY ? H / (double)tidal_heads_of(self, io->layer).K : 1;
    io->attended = budget - 1; /* the row itself is one of the list */
    io->read = io->attended * lists * rows;
    return SL_OK;
}

const sl_cost tidal_cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};
