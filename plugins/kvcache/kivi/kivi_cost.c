/* What rows in codes cost: fewer bytes a row, and the work of coding and decoding. */
#include <math.h>

#include "sluice/cost.h"

#include "kivi.h"
#include "sl_cost.h"
#include "sl_tensor.h"

static sl_status cost_layer(sl_instance *self, sl_cost_layer *io, sl_error *err) {
    const sl_layer_info *l = io->model->layers[io->layer];
    double K = l->n_kv_heads, D = l->head_dim, Dv = l->v_head_dim, G = (double)self->G, R = (double)self->R;
    double width = sl_dtype_bits(self->dtype_auto ? io->compute : self->dtype) / 8.0;
    int codes_k = self->bits[KEYS] < KIVI_PLAIN, codes_v = self->bits[VALUES] < KIVI_PLAIN;
    /* scales and minima in f16: of keys one of each a channel and group of rows, of values one a row and group of
     * channels */
    double key = D * self->bits[KEYS] / 8 + 4 * D / G, value = Dv * self->bits[VALUES] / 8 + 4 * Dv / G;
    (void)err;
    io->row_bytes = io->write_bytes = K * (D + Dv) * width;
    if (!codes_k && !codes_v)
        return SL_OK;
    double rows = io->stage == SL_STAGE_PREFILL && !self->chunked ? 0 : io->kept; /* a prompt attends to plain rows */
    double coded_k = codes_k ? floor(rows / R) * R : 0, coded_v = codes_v ? sl_cost_max(0, rows - R) : 0;
    if (rows > 0) {
        io->row_bytes =
            K * (coded_k * key + (rows - coded_k) * D * width + coded_v * value + (rows - coded_v) * Dv * width) / rows;
        sl_cost_add(io->sink, SL_COST_AT_ATTEND, "kivi.decode", 2 * K * (coded_k * D + coded_v * Dv), SL_COST_OTHER, 0,
                    0);
    }
    /* each row is coded once: those of a prompt at its end, the others as they fall out of the newest R */
    double coded = io->stage != SL_STAGE_PREFILL ? (io->kept >= R ? io->n_new : 0)
                   : io->last_chunk > 0          ? floor(io->n_prompt / R) * R
                                                 : 0;
    if (coded > 0)
        sl_cost_add(io->sink, SL_COST_AT_SETTLE, "kivi.code", 6 * K * (D * codes_k + Dv * codes_v) * coded,
                    SL_COST_KV_WRITE, K * coded * (codes_k * (D * width + key) + codes_v * (Dv * width + value)),
                    io->stage == SL_STAGE_PREFILL ? 1 : io->n_new / R);
    return SL_OK;
}

const sl_cost kivi_cost = {.struct_size = SL_SIZE(sl_cost), .layer = cost_layer};
