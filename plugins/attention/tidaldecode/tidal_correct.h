/* tidal_correct.h - cache correction: keys and values of tokens that were decoded sparsely are computed again, densely.
 *
 * Knows, for each sequence, from which token on rows may differ from those of a dense pass (everything behind the first
 * sparsely decoded token), and those tokens' ids. Every `period` decode steps of a sequence it asks the host to
 * overwrite them, chunk by chunk, in the background; what is decoded meanwhile waits for the next time. */
#ifndef TIDALDECODE_CORRECT_H
#define TIDALDECODE_CORRECT_H

#include "sluice/kv.h"

enum { TIDAL_ITEMS = 16 }; /* chunks asked for at once */

typedef struct tidal_history {
    int32_t *token; /* [cap] by token index; valid from `first` on */
    int64_t cap, n; /* n: committed tokens */
    int64_t first;  /* rows from here on are polluted; -1: none */
    int64_t goal;   /* a correction is on its way up to here; -1: none */
    int64_t steps;  /* decode steps since the last correction began */
    uint64_t life;  /* tells sequences with one id apart */
    int is_open;
    int is_blind; /* a token without an id came, or the host cannot do it: never corrected */
} tidal_history;

typedef struct tidal_item {
    sl_work work;
    uint64_t life;
    int64_t end; /* of the rows that are left of it when the sequence was cut */
} tidal_item;

typedef struct tidal_corrector {
    /* Set before tidal_correct_create. */
    const sl_host *host;
    const sl_mem *mem;
    int64_t period, chunk, max_seqs;
    int64_t min_context; /* rows that see no more keys were dense */
    /* Own. */
    tidal_history *seqs; /* [max_seqs] */
    uint64_t lives;
    tidal_item items[TIDAL_ITEMS];
    const sl_work *works[TIDAL_ITEMS];
    int n_items;
    int32_t *token; /* [TIDAL_ITEMS, chunk] what the items say */
} tidal_corrector;

sl_status tidal_correct_create(tidal_corrector *c); /* SL_E_NO_MEMORY: to be destroyed all the same */
void tidal_correct_destroy(tidal_corrector *c);

/* The functions of sl_attention_kv. */
sl_status tidal_correct_open(tidal_corrector *c, int32_t seq, int32_t parent, int64_t upto);
void tidal_correct_close(tidal_corrector *c, int32_t seq);
sl_status tidal_correct_grow(tidal_corrector *c, int32_t seq, int64_t n_tokens);
void tidal_correct_cut(tidal_corrector *c, int32_t seq, int64_t n);

/* What was committed: takes note of ids and of rows that were decoded sparsely. [step] */
void tidal_correct_note(tidal_corrector *c, const sl_commit *commit);

/* As sl_work_source.work. *n_done: rows that were corrected since the last call. */
void tidal_correct_work(tidal_corrector *c, const sl_work_result *const *results, int32_t n_results,
                        const sl_work *const **works, int32_t *n_works, int64_t *n_done);

#endif
