/* duo_pattern.h - gates from a file, and which heads stream.
 *
 * The file is the official full_attention_heads.tsv: a line a layer, a number a KV head, separated by tabs; gate 1: a
 * retrieval head, 0: a streaming head. A config.json beside it may hold the window it was trained or meant for. */
#ifndef DUO_PATTERN_H
#define DUO_PATTERN_H

#include "sluice/host.h"

/* Reads gates [n_heads[0] + n_heads[1] + ...], clipped to [0, 1]. The shape must be the model's. Errors name file and
 * line. */
sl_status duo_pattern_read(const char *path, const int32_t *n_heads, int32_t n_layers, double *gate, sl_error *err);

/* "sink_size" and "recent_size" of the config.json in the pattern's folder; what it does not say stays -1.
 * SL_E_DATA: a value that is no whole number >= 0. */
sl_status duo_pattern_window(const char *pattern_path, int64_t *sink, int64_t *recent, sl_error *err);

/* Marks streaming heads: the ceil(sparsity (n - 1)) lowest gates, all n of them from sparsity 1 on; ties: the lower
 * layer, then the lower head. Those are the gates below the sparsity-quantile (linear interpolation) of the reference.
 * SL_E_NO_MEMORY. */
sl_status duo_pattern_by_sparsity(const double *gate, int32_t n, double sparsity, uint8_t *streams);
/* Marks heads with gates below the threshold. */
void duo_pattern_by_threshold(const double *gate, int32_t n, double threshold, uint8_t *streams);

#endif
