/* rewrite.h - a network computed in another basis: tensors pass a plugin of the role quant.rewrite on their way to
 * whoever packs them, its maps act on activations, and what other plugins see of activations is plain again.
 *
 * Without such a plugin every function here does nothing.
 */
#ifndef SLUICE_CORE_REWRITE_H
#define SLUICE_CORE_REWRITE_H

#include "engine/network.h"

/* Asks for basis and maps. Everything fits the model, or this fails. [setup] */
sl_status sli_rewrite_begin(sli_network *net, sl_error *err);
void sli_rewrite_end(sli_network *net);

/* Rewrites a matrix of the checkpoint. *w: in the checkpoint's, out the new one in f32, in memory of its own that the
 * caller frees (*owned), and *kept the dtype for whoever multiplies it in place. Unchanged: *owned = NULL. [setup] */
sl_status sli_rewrite_matrix(sli_network *net, int32_t layer, sli_weight_role role, sl_tensor *w, void **owned,
                             sl_dtype *kept, sl_error *err);
/* Rewrites a vector in place: f32 [n]. [setup] */
sl_status sli_rewrite_vector(sli_network *net, int32_t layer, sli_weight_role role, float *values, int64_t n,
                             sl_error *err);

/* Applies the layer's maps of a point to rows [n, heads, width]. [step] */
sl_status sli_rewrite_apply(const sli_network *net, int32_t layer, uint32_t at, float *rows, int64_t n, int64_t heads,
                            int64_t width);
/* Residual rows [n, hidden] from the plain basis to that of the layers, or back. [step] */
sl_status sli_rewrite_residual(const sli_network *net, int backwards, float *rows, int64_t n);
/* Rows of a tap made plain, in place: what the model as it was would have had there. [step] */
sl_status sli_rewrite_plain(const sli_network *net, uint32_t point, int32_t layer, float *rows, int64_t n,
                            int64_t heads, int64_t width);

/* The other way, for rows that a plugin hands to the head: *rows [n, hidden] as SL_TAP_FINAL_NORM gives them become the
 * head's own input, in net->head_in (n at most max_rows). [step] */
sl_status sli_rewrite_head_in(sli_network *net, const float **rows, int64_t n);

/* Does a layer rotate keys after RoPE? Stores that keep keys before RoPE cannot follow. */
int sli_rewrite_turns_keys(const sli_network *net, int32_t layer);

#endif
