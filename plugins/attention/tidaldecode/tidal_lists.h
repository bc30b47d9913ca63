/* tidal_lists.h - the lists that live from a selecting layer to the next one, inside one step.
 *
 * A unit is a row, or (verify_select = shared) a sequence; its key says which. Units get slots in the order in which
 * they come, each slot has n_groups lists, and all lists stand one behind the other. Nothing survives a step or another
 * owner: then the lists begin anew, without anything being cleared. */
#ifndef TIDALDECODE_LISTS_H
#define TIDALDECODE_LISTS_H

#include <stdint.h>

typedef struct tidal_lists {
    /* Set by the owner of the memory. */
    int32_t *token;      /* [max_slots * n_groups * longest] */
    int64_t *begin;      /* [max_slots * n_groups + 1] */
    uint8_t *everything; /* [max_slots] 1: the unit attends to all it sees, its lists are not written */
    int32_t *slot;       /* [n_keys] */
    uint64_t *stamp;     /* [n_keys] the generation in which the key got its slot */
    int64_t max_slots;
    /* The lists of now. */
    uint64_t generation, step;
    int32_t owner; /* the selecting layer that made them */
    int32_t n_groups;
    int64_t n_slots;
} tidal_lists;

/* Lists of another step or owner begin anew; so do those in which key already has a slot. */
void tidal_lists_begin(tidal_lists *lists, uint64_t step, int32_t owner, int32_t n_groups, int64_t key);

/* The next slot, for key; -1: there is none left. Its lists end where they begin until the caller says otherwise: he
 * sets begin[slot * n_groups + 1 ..] before the next slot is taken. */
int64_t tidal_lists_add(tidal_lists *lists, int64_t key, int everything);

/* Slot of the first of n keys from `key` on if all of them have slots one behind the other, made in this step by this
 * owner; -1: they have not. */
int64_t tidal_lists_find(const tidal_lists *lists, uint64_t step, int32_t owner, int64_t key, int64_t n);

#endif
