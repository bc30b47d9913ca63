/* device_sums.h - column sums on a device: what attention there leaves for the policies of sums.h.
 *
 * Of a step with rows that policies want, every layer's attention sums their probabilities by slot into one buffer,
 * from where they go to pinned memory and are added to the sums on the host when the step has ended, or earlier where
 * the pinned memory is full. Such steps are no graphs: their exact bounds are how much there is to fetch. The sums of
 * one step's rows are added on the device, those of steps on the host: how a prompt was cut shows in their last bits.
 */
#ifndef SLUICE_CORE_DEVICE_SUMS_H
#define SLUICE_CORE_DEVICE_SUMS_H

#include "device_step.h"
#include "network.h"

typedef struct sli_device_sums {
    float *colsum;             /* device [max_seqs, heads, stride] of one layer */
    float *weight;             /* device [max_rows] 1: the row is wanted, 0: it is not */
    float *host_weight, *host; /* pinned; host: [room] */
    int64_t room, used;
    int32_t *waiting; /* [n_layers] layers whose sums are on their way, one behind the other in `host` */
    int32_t n_waiting;
    /* the step in hand */
    const sli_pass *pass;
    int64_t stride;
    int32_t first, n_seqs; /* places that have wanted rows lie among [first, first + n_seqs) */
    int counting;          /* 1: rows of it are wanted */
} sli_device_sums;

struct sli_device_network;

/* Behind sli_sums_create. [setup] */
sl_status sli_device_sums_create(sli_network *net, sl_error *err);
void sli_device_sums_destroy(struct sli_device_network *d); /* all-zero is legal */

/* A step begins; sets counting. pass lives until end. */
sl_status sli_device_sums_begin(sli_network *net, const sli_pass *pass, const sli_step_bounds *bounds, sl_error *err);
/* Makes the attention of a layer that somebody wants sums of deliver them, if the step counts. */
void sli_device_sums_ask(const sli_network *net, sl_attend *args);
/* Behind that attention. */
sl_status sli_device_sums_fetch(sli_network *net, int32_t layer);
/* All is queued: waits for sums on their way, if there are any, and adds them. */
sl_status sli_device_sums_end(sli_network *net, sl_error *err);

#endif
