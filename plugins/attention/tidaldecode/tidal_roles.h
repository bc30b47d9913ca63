/* tidal_roles.h - what each layer does at decode: attend densely, select, or attend to what a layer below selected. */
#ifndef TIDALDECODE_ROLES_H
#define TIDALDECODE_ROLES_H

#include "sluice/host.h"

#include "tidal_select.h"

enum { TIDAL_DENSE = 0, TIDAL_SELECT = 1, TIDAL_SPARSE = 2 };

typedef struct tidal_role {
    int32_t owner; /* the selecting layer whose list it makes or uses; -1: dense */
    uint32_t kind; /* TIDAL_DENSE ... */
} tidal_role;

/* Roles of all layers. start: sparse_layer_start. text: the parameter reselect_layers: "auto", "none" or ids.
 * calibrated: what stands in for "auto" (the same form), or NULL: layer L * 13 / 32, moved up to the first layer that
 * can select. roles: room for n_layers. Layers with a window of their own, or without attention, stay dense.
 * SL_E_RANGE, SL_E_INVALID: an id is outside of its range (which the text names), not a number, not ascending, or a
 * layer cannot use the list of the one below (other heads). */
sl_status tidal_roles_make(const sl_model_info *model, int64_t start, const char *text, const char *calibrated,
                           int select_heads, tidal_role *roles, sl_error *err);

#endif
