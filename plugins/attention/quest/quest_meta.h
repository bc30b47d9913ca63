/* quest_meta.h - what is kept beside the cache: for each layer, KV head and page of P tokens the largest and the
 * smallest value of every channel of its keys.
 *
 * Only committed rows are summarised, from the keys as the store holds them, so rejected drafts never get in. Bounds
 * live in blocks of a few pages of all layers, which forks share; a block is written only where one sequence holds it.
 * Rounding to the kept type is outward, and does not depend on the order in which keys came: bounds made of a prompt at
 * once, token by token, or anew after a cut are the same bits. */
#ifndef QUEST_META_H
#define QUEST_META_H

#include "sluice/kv.h"
#include "sluice/ops.h"

enum { QUEST_BLOCK_PAGES = 16 };

typedef struct quest_block {
    struct quest_block *next; /* in the list of spare ones */
    int32_t refs;
} quest_block; /* bounds begin 64 bytes behind it */

typedef struct quest_seq {
    quest_block **blocks; /* [max_blocks] */
    int64_t n_blocks;
    int64_t *n; /* [n_layers] leading tokens whose keys are in the bounds */
    int is_open;
} quest_seq;

typedef struct quest_meta {
    /* Set before quest_meta_create. */
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_model_info *model;
    const uint8_t *kept;   /* [n_layers] 1: the layer has bounds */
    const sl_dtype *dtype; /* [n_layers] of its bounds; those of kept layers are set before the first sequence grows */
    int64_t page;          /* P */
    int64_t max_tokens, max_seqs;
    /* Own. */
    int64_t *offset; /* [n_layers] bytes from the beginning of a block's bounds; made when first needed */
    int64_t block_bytes;
    int64_t max_blocks;
    quest_seq *seqs; /* [max_seqs] */
    quest_block *spare;
    int64_t n_spare;
} quest_meta;

sl_status quest_meta_create(quest_meta *m); /* SL_E_NO_MEMORY: to be destroyed all the same */
void quest_meta_destroy(quest_meta *m);

/* The functions of sl_attention_kv. */
sl_status quest_meta_open(quest_meta *m, int32_t seq, int32_t parent, int64_t upto);
void quest_meta_close(quest_meta *m, int32_t seq);
sl_status quest_meta_grow(quest_meta *m, int32_t seq, int64_t n_tokens);
/* Bounds of the page in which the cut falls are made anew from the cache; also for rows that are overwritten in one
 * layer (layer >= 0). */
void quest_meta_cut(quest_meta *m, int32_t seq, int32_t layer, int64_t n);

/* Tokens of a sequence that stand in the bounds of a layer, and how many of `n` could: there are blocks of its own. */
static inline int64_t quest_meta_done(const quest_meta *m, int32_t seq, int32_t layer) { return m->seqs[seq].n[layer]; }
int64_t quest_meta_room(const quest_meta *m, int32_t seq, int32_t layer, int64_t n);

/* Takes key [D] of token t into the bounds of one head. Tokens come in order, from quest_meta_done on; several heads at
 * once are fine. buffer: [2 D]. When all heads are through, the caller sets seqs[seq].n[layer]. [worker] */
void quest_meta_add(const quest_meta *m, int32_t seq, int32_t layer, int32_t head, int64_t t, const float *key,
                    float *buffer);

/* Bounds of a page as f32: largest [D], then smallest [D]. [worker] */
void quest_meta_read(const quest_meta *m, int32_t seq, int32_t layer, int32_t head, int64_t page, float *out);

/* Rounds bounds - largest [d], then smallest [d] - outward to values that the type has. [any] */
void quest_round_out(const sl_ops *ops, sl_dtype dtype, float *bounds, int64_t d);

#endif
