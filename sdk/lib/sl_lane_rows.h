/* What stores on a device do alike with rows: appending them by the host's kernel, showing listed ones, and closing the
 * ranks of accepted ones. */
#ifndef SLUICE_LIB_LANE_ROWS_H
#define SLUICE_LIB_LANE_ROWS_H

#include "sl_lane_words.h"

/* Appends the rows of a step to a layer, whose view is into, by sl_ops.append: norms, RoPE of the layer, maps, k and v
 * into their slots. What the lane could not queue is the result. [step] */
sl_status sl_lane_append(const sl_host *host, const sl_ops *ops, const sl_model_info *model, const sl_kv_append *args,
                         const sl_view_device *into);

/* *listed becomes `whole` through a row set in device memory, in stores where slot = token index, so that lists need no
 * translation. SL_E_UNIMPLEMENTED: lists of runs, of staged rows, of the host, or of groups that are neither one nor
 * one a KV head. [step] */
sl_status sl_lane_list(sl_view_device *listed, const sl_view_device *whole, const sl_rowset *tokens);

/* Rows of accepted paths move down to the front of the staged ones, in stores where slot = token index, or whose views
 * count rows by head (n_rows). moves: device [1 + 3 max_moves]. [step] */
sl_status sl_lane_close_ranks(sl_lane_words *w, const sl_ops *ops, const sl_view_device *const *layers,
                              int32_t n_layers, int32_t *moves, int64_t max_moves, const sl_commit *c, sl_error *err);

#endif
