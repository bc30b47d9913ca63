/* See tidal_lists.h. */
#include "tidal_lists.h"

static int is_of(const tidal_lists *l, uint64_t step, int32_t owner) {
    return l->generation > 0 && l->step == step && l->owner == owner;
}

void tidal_lists_begin(tidal_lists *l, uint64_t step, int32_t owner, int32_t n_groups, int64_t key) {
    if (is_of(l, step, owner) && l->stamp[key] != l->generation)
        return;
    l->generation++;
    l->step = step;
    l->owner = owner;
    l->n_groups = n_groups;
    l->n_slots = 0;
    l->begin[0] = 0;
}

int64_t tidal_lists_add(tidal_lists *l, int64_t key, int everything) {
    if (l->n_slots == l->max_slots)
        return -1;
    int64_t slot = l->n_slots++;
    l->stamp[key] = l->generation;
    l->slot[key] = (int32_t)slot;
    l->everything[slot] = (uint8_t)everything;
    for (int32_t g = 1; g <= l->n_groups; g++)
        l->begin[slot * l->n_groups + g] = l->begin[slot * l->n_groups];
    return slot;
}

int64_t tidal_lists_find(const tidal_lists *l, uint64_t step, int32_t owner, int64_t key, int64_t n) {
    if (!is_of(l, step, owner))
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (l->stamp[key + i] != l->generation || l->slot[key + i] != l->slot[key] + i)
            return -1;
    return l->slot[key];
}
