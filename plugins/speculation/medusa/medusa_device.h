/* medusa_device.h - the heads on a device: weights in its memory as bf16, products and the choice of the best ids
 * queued behind the step; only ids come back. */
#ifndef MEDUSA_DEVICE_H
#define MEDUSA_DEVICE_H

#include "medusa_heads.h"
#include "sl_host_util.h"

typedef struct medusa_device {
    const sl_exec *exec;
    const sl_lane *lane;
    int32_t topk, n_own, rows; /* rows multiplied at once */
    int64_t ids_of_a_row;
    void *w1, *w2;     /* bf16 [heads, blocks, hidden, hidden], [heads with W2, vocab, hidden] */
    float *b1;         /* [heads, blocks, hidden] */
    float *t;          /* [rows, hidden] */
    void *y;           /* bf16 [rows, heads, hidden] */
    float *logits;     /* [rows, heads, vocab] */
    int32_t *ids;      /* [max_rows, heads, topk] */
    int32_t *host_ids; /* likewise, pinned */
} medusa_device;

/* Sends the weights and takes buffers for max_rows rows between two fetches. medusa_device_close in any case. [setup]
 */
sl_status medusa_device_open(medusa_device *d, const medusa_heads *h, int32_t topk, int64_t max_rows, sl_error *err);
void medusa_device_close(medusa_device *d, const medusa_heads *h); /* all-zero is legal */

/* Queues the heads for x, bf16 [n, hidden] in device memory, n <= d->rows: their ids become those of rows at, at + 1
 * ... [step & active] */
sl_status medusa_device_run(medusa_device *d, const medusa_heads *h, void *x, int32_t n, int32_t at);
/* Queues the way of the ids of rows [0, n) to the host. */
sl_status medusa_device_fetch(medusa_device *d, int32_t n);

#endif
