/* What the plugin answers beside attention itself: it follows the cache, asks for work, and can be calibrated. */
#include "tidaldecode.h"

#include <inttypes.h>

#include "sl_error.h"

/* ---- cache correction ------------------------------------------------------------------------------------------ */

sl_status tidal_commit(sl_instance *self, const sl_commit *commit) {
    if (self->correction_period > 0 && !self->calibrator.on)
        tidal_correct_note(&self->corrector, commit);
    return SL_OK;
}

sl_status tidal_work(sl_instance *self, const sl_work_result *const *results, int32_t n_results,
                     const sl_work *const **works, int32_t *n_works) {
    int64_t n_done = 0;
    *n_works = 0;
    if (self->correction_period > 0)
        tidal_correct_work(&self->corrector, results, n_results, works, n_works, &n_done);
    if (n_done > 0)
        tidal_count(self, "rows_corrected", n_done);
    return SL_OK;
}

static sl_status told_layout(sl_instance *self, int32_t layer, const sl_kv_layout *layout, sl_error *err) {
    (void)layer;
    if (self->correction_period > 0 && !(layout->flags & SL_KV_OVERWRITES))
        return sl_fail(err, SL_E_INVALID, "tidaldecode: correction_period: the store cannot overwrite rows");
    return SL_OK;
}

static sl_status seq_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err) {
    sl_status s = self->correction_period > 0 ? tidal_correct_open(&self->corrector, seq, parent, upto) : SL_OK;
    return s < 0 ? sl_fail(err, s, "tidaldecode: no history for sequence %d", seq) : SL_OK;
}

static void seq_close(sl_instance *self, int32_t seq) {
    if (self->correction_period > 0)
        tidal_correct_close(&self->corrector, seq);
}

static sl_status seq_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err) {
    sl_status s = self->correction_period > 0 ? tidal_correct_grow(&self->corrector, seq, n_tokens) : SL_OK;
    return s < 0 ? sl_fail(err, s, "tidaldecode: no memory for the ids of %" PRId64 " tokens", n_tokens) : SL_OK;
}

static void seq_truncate(sl_instance *self, int32_t seq, int64_t n) {
    if (self->correction_period > 0)
        tidal_correct_cut(&self->corrector, seq, n);
}

const sl_attention_kv tidal_kv = {.struct_size = SL_SIZE(sl_attention_kv),
                                  .layout = told_layout,
                                  .open = seq_open,
                                  .close = seq_close,
                                  .grow = seq_grow,
                                  .truncate = seq_truncate};

/* ---- calibration ----------------------------------------------------------------------------------------------- */

static sl_status calibrate_begin(sl_instance *self, uint32_t *stages, sl_error *err) {
    *stages = SL_STAGE_DECODE;
    tidal_calibrate_free(&self->calibrator);
    self->calibrator = (tidal_calibrator){.model = self->model,
                                          .start = self->start,
                                          .max_groups = self->max_groups,
                                          .max_keys = self->max_keys,
                                          .budget = self->rule.budget,
                                          .select_heads = self->rule.heads};
    sl_status s = tidal_calibrate_begin(&self->calibrator);
    return s < 0 ? sl_fail(err, s, "tidaldecode: no memory to measure with") : SL_OK;
}

static sl_status calibrate_finish(sl_instance *self, const sl_calibrate_report **out, sl_error *err) {
    return tidal_calibrate_finish(&self->calibrator, out, err);
}

const sl_calibrate tidal_calibrate = {SL_SIZE(sl_calibrate), calibrate_begin, calibrate_finish};
