/* kivi.h - what the parts of the store share: blocks of rows, the list of a head, sequences, the instance.
 *
 * Each KV head of each layer of a sequence is a list of *blocks* of up to G rows (G = group_size). The keys of a block
 * are either plain or coded, all of them; coded keys share one scale a channel, so a block of coded keys is one group
 * of the paper. Values are coded row by row, oldest first: the first nv rows of a block are. In a list
 *
 *     coded keys  [0, n_coded)       blocks [0, tail); full when they are made, rows may be dropped from them later
 *     plain keys  [n_coded, n)       the tail, blocks [tail, n_blocks); all full but the last
 *     coded values [0, n_coded_v)    n_coded_v <= n - R, unless a cut came in between
 *
 * With nothing dropped or cut: n_coded = floor(n / R) R and n_coded_v = max(0, n - R), after every event.
 *
 * kivi.c has the settings and the step, kivi_seqs.c sequences and their place, kivi_list.c what happens to one list,
 * kivi_edit.c policies' drops, kivi_view.c how others see it. On a GPU all of that is kivi_device.h. */
#ifndef KIVI_KIVI_H
#define KIVI_KIVI_H

#include "sluice/cost.h"
#include "sluice/kv.h"
#include "sluice/ops.h"

#include "sl_blocks.h"
#include "sl_error.h"

enum { KIVI_MAX_GROUP = 128, KIVI_PLAIN = 16 };        /* bits = 16: that side stays plain */
enum { KEYS, VALUES };                                 /* the two sides of a row */
enum { KIVI_K, KIVI_KQ, KIVI_V, KIVI_VQ, KIVI_POOLS }; /* plain keys, coded keys ... */

/* Sizes of one head's rows and blocks; the pools of all layers with these sizes. */
typedef struct kivi_shape {
    int64_t d[2];                       /* keys, values: elements of a row */
    int64_t plain_row[2], coded_row[2]; /* bytes */
    int64_t scales[2], minima[2];       /* offsets in a block of codes */
    int64_t scale_row;                  /* bytes of the scales of one row of values */
    sl_blocks pools[KIVI_POOLS];
} kivi_shape;

typedef struct kivi_block {
    int32_t k;  /* of pool K, or KQ when coded */
    int32_t v;  /* plain values; -1: none are left */
    int32_t vq; /* coded values; -1: none yet */
    uint8_t n;  /* committed rows */
    uint8_t nv; /* of which the first nv have coded values */
    uint8_t coded;
    uint8_t reserved;
} kivi_block;

typedef struct kivi_list {
    kivi_block *blocks; /* [cap_blocks] */
    int64_t *token;     /* [cap_tokens] of slots 0 .. n - 1, ascending; NULL: nothing was dropped, slot = token index */
    int64_t n_blocks, cap_blocks, cap_tokens;
    int64_t tail; /* first block of plain keys */
    int64_t n, n_coded, n_coded_v;
} kivi_list;

typedef struct kivi_sequence {
    kivi_list *lists; /* [n_lists]; NULL: not open */
    int64_t n_tokens; /* committed */
    int64_t n_wanted; /* tokens that grow promised place for */
    int64_t n_edited; /* tokens when rows were dropped last; 0: never */
    int decoding;     /* new rows come a few at a time: plain place is needed for the tail only */
    int edited;       /* since the last call of grow */
} kivi_sequence;

/* Where a layer's heads stand. */
typedef struct kivi_layer {
    int32_t n_heads, first_list;
    kivi_shape *shape;
} kivi_layer;

typedef struct kivi_device kivi_device; /* kivi_device.h */

struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    const sl_ops *ops;
    const sl_threads *threads;
    const sl_model_info *model;
    sl_limits limits;
    sl_dtype dtype; /* of plain rows */
    int dtype_auto, chunked, exact_cuts;
    int bits[2]; /* keys, values */
    int64_t G, R;
    int64_t max_blocks, max_coded_parts; /* of one list; blocks of coded keys that are not full */
    int32_t n_layers, n_lists, n_shapes, max_heads;
    kivi_layer *layers; /* [n_layers] */
    kivi_shape *shapes; /* [n_shapes] */
    kivi_shape **shape_of_list;
    kivi_sequence *seqs;        /* [max_seqs] */
    float *rows;                /* [2 G, widest row] rows on their way to codes */
    struct kivi_tables *tables; /* of the last view */
    int64_t prompt_rows;        /* on a device: plain rows for prompts */
    int on_device;              /* scope.device is one */
    kivi_device *device;        /* while active; NULL: on the CPU */
};

static inline int64_t kivi_parts(int64_t rows, int64_t G) { return (rows + G - 1) / G; }
static inline char *kivi_at(const kivi_shape *sh, int kind, int32_t id) { return sh->pools[kind].base[id]; }

extern const sl_cost kivi_cost; /* kivi_cost.c */

/* ---- kivi_list.c ---------------------------------------------------------------------------------------------------
 */

void kivi_list_free(sl_instance *self, kivi_shape *sh, kivi_list *l);
/* Room for `blocks` blocks and, where tokens are kept, `rows` rows in the arrays. [setup] */
sl_status kivi_list_room(sl_instance *self, kivi_list *l, int64_t blocks, int64_t rows);
/* Shares the blocks of another list; room for them is there. */
void kivi_list_share(kivi_shape *sh, kivi_list *l, const kivi_list *from);
/* Keeps the first n rows. */
void kivi_list_cut(const sl_instance *self, kivi_shape *sh, kivi_list *l, int64_t n);
/* Blocks of coded keys, in front of the last one, that are not full. */
int64_t kivi_list_coded_parts(const sl_instance *self, const kivi_list *l);
/* Gives the list place of its own for n more rows. SL_E_NO_MEMORY; what was taken stays with it. */
sl_status kivi_list_cover(const sl_instance *self, kivi_shape *sh, kivi_list *l, int64_t n);
/* Gives back blocks without committed rows. */
void kivi_list_uncover(const sl_instance *self, kivi_shape *sh, kivi_list *l);
/* Writes staged row i: k [D], v [Dv]. */
void kivi_list_put(const sl_instance *self, kivi_shape *sh, const kivi_list *l, int64_t i, const float *k,
                   const float *v);
/* Staged rows path[0 .. n_path) stay, as tokens from `token` on. */
void kivi_list_commit(const sl_instance *self, kivi_shape *sh, kivi_list *l, const int32_t *path, int64_t n_path,
                      int64_t token);
/* Codes all that should be coded. Returns whether blocks of keys were. */
int kivi_list_flush(sl_instance *self, kivi_shape *sh, kivi_list *l);
/* Blocks of each pool that the list may still ask for, before it holds `future` more rows. Adds to need[KIVI_POOLS]. */
void kivi_list_need(const sl_instance *self, const kivi_shape *sh, const kivi_list *l, int64_t future, int decoding,
                    int64_t *need);
/* Row r of a block as floats, `side` 0: key, 1: value. */
void kivi_block_read(const sl_instance *self, const kivi_shape *sh, const kivi_block *b, int side, int64_t r,
                     float *out);
void kivi_block_drop(kivi_shape *sh, kivi_block *b);

/* ---- kivi_seqs.c ---------------------------------------------------------------------------------------------------
 */

/* Functions of sl_kv_store. */
sl_status kivi_open(sl_instance *self, int32_t seq, int32_t parent, int64_t upto, sl_error *err);
void kivi_close(sl_instance *self, int32_t seq);
sl_status kivi_grow(sl_instance *self, int32_t seq, int64_t n_tokens, sl_error *err);
sl_status kivi_truncate(sl_instance *self, int32_t seq, int64_t n, int64_t *minimum);
sl_status kivi_length(sl_instance *self, int32_t seq, int64_t *n_tokens, int64_t *bytes);
sl_status kivi_rows(sl_instance *self, int32_t layer, int32_t seq, int64_t *n_rows);
sl_status kivi_quote(sl_instance *self, sl_kv_quote *io);
/* Gives free blocks that nobody was promised back to the host. */
void kivi_trim(sl_instance *self);

/* ---- kivi_edit.c, kivi_view.c --------------------------------------------------------------------------------------
 */

/* Makes room in the tables of views for all sequences. [setup] */
sl_status kivi_tables_grow(sl_instance *self);
void kivi_tables_free(sl_instance *self);
/* Functions of sl_kv_store. */
sl_status kivi_edit(sl_instance *self, const sl_kv_edit *edit);
sl_status kivi_view(sl_instance *self, const sl_lane *lane, int32_t layer, const sl_rows *rows, const sl_rowset *tokens,
                    const sl_view **out);
sl_status kivi_copy_rows(sl_instance *self, const sl_kv_copy *copy, sl_error *err);

#endif
