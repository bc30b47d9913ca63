/* See tidal_roles.h. */
#include "tidal_roles.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

static int can_select(const sl_layer_info *l) { return l->n_heads > 0 && l->window == 0; }

/* Marks the layers named in text as selecting. */
static sl_status read_ids(const sl_model_info *model, int64_t start, const char *text, tidal_role *roles,
                          sl_error *err) {
    int64_t last = start;
    for (const char *p = text;;) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        while (*end == ' ' || *end == '\t')
            end++;
        if (end == p || errno != 0 || (*end != ',' && *end != '\0'))
            return sl_fail(err, SL_E_INVALID, "reselect_layers = %s: expected auto, none, or layer ids with commas",
                           text);
        if (id <= start || id >= model->n_layers)
            return sl_fail(err, SL_E_RANGE,
                           "reselect_layers: layer %ld is outside of %lld .. %d (sparse_layer_start = %lld, %d layers)",
                           id, (long long)start + 1, model->n_layers - 1, (long long)start, model->n_layers);
        if (id <= last && last != start)
            return sl_fail(err, SL_E_INVALID, "reselect_layers = %s: ids must ascend", text);
        last = id;
        roles[id].kind = TIDAL_SELECT;
        if (*end == '\0')
            return SL_OK;
        p = end + 1;
    }
}

static void choose_by_rule(const sl_model_info *model, int64_t start, tidal_role *roles) {
    int64_t id = (int64_t)model->n_layers * 13 / 32;
    id = id > start ? id : start + 1;
    while (id < model->n_layers && !can_select(model->layers[id]))
        id++;
    if (id < model->n_layers)
        roles[id].kind = TIDAL_SELECT;
}

/* Can a list of layer a be used in layer b? */
static int same_heads(const sl_layer_info *a, const sl_layer_info *b, int select_heads) {
    return select_heads == TIDAL_LAYER ||
           (a->n_kv_heads == b->n_kv_heads && (select_heads == TIDAL_KV_GROUP || a->n_heads == b->n_heads));
}

sl_status tidal_roles_make(const sl_model_info *model, int64_t start, const char *text, const char *calibrated,
                           int select_heads, tidal_role *roles, sl_error *err) {
    int32_t n = model->n_layers;
    if (n < 3 || start < 1 || start > n - 2)
        return sl_fail(err, SL_E_RANGE, "sparse_layer_start = %lld is outside of 1 .. %d (a model of %d layers)",
                       (long long)start, n - 2, n);
    for (int32_t l = 0; l < n; l++)
        roles[l] = (tidal_role){-1, TIDAL_DENSE};
    roles[start].kind = TIDAL_SELECT;
    if (strcmp(text, "auto") == 0 && calibrated != NULL)
        text = calibrated;
    if (strcmp(text, "auto") == 0)
        choose_by_rule(model, start, roles);
    else if (strcmp(text, "none") != 0)
        SL_TRY(read_ids(model, start, text, roles, err));
    for (int32_t l = (int32_t)start, owner = l; l < n; l++) {
        const sl_layer_info *info = model->layers[l];
        if (roles[l].kind == TIDAL_SELECT && !can_select(info))
            return sl_fail(err, SL_E_INVALID, "layer %d cannot select: it %s", l,
                           info->n_heads == 0 ? "has no attention" : "sees a window only");
        if (!can_select(info))
            continue;
        owner = roles[l].kind == TIDAL_SELECT ? l : owner;
        if (!same_heads(model->layers[owner], info, select_heads))
            return sl_fail(
                err, SL_E_INVALID,
                "layer %d cannot use the lists of layer %d: %d:%d heads, not %d:%d (select_heads = layer could)", l,
                owner, info->n_heads, info->n_kv_heads, model->layers[owner]->n_heads,
                model->layers[owner]->n_kv_heads);
        roles[l] = (tidal_role){owner, owner == l ? TIDAL_SELECT : TIDAL_SPARSE};
    }
    return SL_OK;
}
