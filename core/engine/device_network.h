/* device_network.h - a network whose weights and activations live on a device, and its steps there.
 *
 * Life-cycle: create before the network's linears are bound, the functions of "weights" while they are, ready at the
 * end of it. Residual rows x and logits are f32, inputs of linears and q, k, v, o bf16. Everything is made at load, so
 * that steps of decoding can be captured as graphs and launched again: see device_run.c.
 */
#ifndef SLUICE_CORE_DEVICE_NETWORK_H
#define SLUICE_CORE_DEVICE_NETWORK_H

#include "device_step.h"
#include "device_sums.h"
#include "network.h"

/* Which steps one graph serves. */
typedef struct sli_graph_key {
    sli_step_bounds bounds;
    uint32_t answer;   /* sli_answer */
    uint32_t identity; /* 1: the rows of logits are the first rows of the step */
    uint32_t variant;  /* of the attention plugins' plans */
    uint32_t fed;      /* 1: tokens are the answers of the step in front */
    uint32_t edited;   /* 1: policies have dropped rows: views are others since then */
    uint32_t reserved0;
} sli_graph_key;

enum { SLI_MAX_GRAPHS = 48 };

/* What of each row of logits comes to the host: all of it, its best ids, or the token that was drawn (or the best one,
 * where a row's temperature is 0). */
typedef enum sli_answer { SLI_ANSWER_LOGITS = 0, SLI_ANSWER_BEST = 1, SLI_ANSWER_TOKEN = 2 } sli_answer;

typedef struct sli_graph {
    sli_graph_key key;
    sli_cuda_graph *graph; /* NULL: the place is free */
    uint64_t used;
} sli_graph;

/* Weights on their way to the device: two pinned slots, each with a lane of its own. */
typedef struct sli_device_ring {
    char *slot[2];
    int in_flight[2], turn;
} sli_device_ring;

typedef struct sli_device_network {
    const sli_device *device;
    const sl_exec *exec;
    const sl_ops *ops;
    const sl_lane *lane;
    sli_device_step step;
    void **owned; /* device memory, given back at the end */
    int32_t n_owned, cap_owned;
    sli_device_ring ring;

    /* Activations, [max_rows, ...]; qkv, o, gate_up and h are as wide as the widest layer needs. */
    float *x;
    void *xn, *qkv, *o, *gate_up, *h;
    /* Rows of logits, [max_logits, ...] */
    float *head_x, *logits;
    int32_t *best; /* [max_logits, n_best] ids, best first, and their logits behind them */
    int32_t n_best, with_best_logits;
    /* The same on the host, pinned. */
    float *host_logits;
    int32_t *host_best;
    int32_t *host_token;     /* [SLI_STEP_MIRRORS, max_logits] by turn: one token a row */
    int32_t *host_rows;      /* [2, max_logits] rows on their way to step.logit_row, in turns */
    int64_t rows_free_at[2]; /* step.waits from which on a turn's place may be written */
    int rows_turn;
    void *host_x;  /* bf16 [max_logits, hidden] rows of the host on their way to the head; NULL: nobody brings any */
    int32_t *rows; /* [max_logits] rows of logits, as the engine wants them */
    sli_cuda_draw *draw; /* [max_logits] how their tokens are drawn */

    sli_device_sums sums; /* column sums for policies */
    int edited;           /* 1: a store has dropped rows */

    sli_graph graphs[SLI_MAX_GRAPHS];
    uint64_t launches; /* of graphs, for the least recently used */
    int eager;         /* 1: no graphs any more */
    char why_eager[256];
    int64_t n_captured, n_nodes; /* of all graphs that were made */
    int64_t n_others, n_edges, n_dependent;
} sli_device_network;

/* max_logits: rows whose logits one step may want. [setup] */
sl_status sli_device_network_create(sli_network *net, const sli_device *device, int64_t max_logits, sl_error *err);
void sli_device_network_destroy(sli_network *net); /* NULL device is legal */
/* Is everything that serves a layer served on the device? Called when the layer is bound. */
sl_status sli_device_layer_check(const sli_network *net, int32_t layer, sl_error *err);
/* All weights are bound: waits for them, takes the activations. */
sl_status sli_device_network_ready(sli_network *net, sl_error *err);

/* ---- weights (device_weights.c) ---- */

/* Zeroed device memory that lives as long as the network; NULL: there is none. */
void *sli_device_take(sli_device_network *d, int64_t bytes, uint32_t tag);
/* The vector moves to the device; its host memory is given back. */
sl_status sli_device_vector(sli_network *net, sl_tensor *t, sl_error *err);
sl_status sli_device_embed(sli_network *net, sl_error *err);
sl_status sli_device_ropes(sli_network *net, sl_error *err);
/* Packs, sends and binds a group of linears. */
sl_status sli_device_pack(sli_network *net, sli_group *g, sl_error *err);
sl_status sli_device_send(sli_device_network *d, void *dst, const void *src, int64_t bytes);
sl_status sli_device_send_end(sli_device_network *d, sl_error *err); /* gives the ring back */

/* ---- the pass (forward_device.c) ---- */

/* Queues embedding and layers. */
sl_status sli_device_queue_layers(sli_network *net, const sli_pass *pass, sl_error *err);
/* Queues logits of n rows: those of step.logit_row, or with identity rows 0 .. n - 1. */
sl_status sli_device_queue_logits(sli_network *net, int32_t n, int identity, sl_error *err);
/* Queues rows of step.logit_row, behind the final norm, to bf16 [n, hidden] in device memory. */
sl_status sli_device_queue_normed(sli_network *net, int32_t n, void *out, sl_error *err);
/* Appends what the buffer of q, k and v holds, without projections in front and attention behind. */
sl_status sli_device_append_rows(sli_network *net, const sl_batch *batch, int32_t layer);
/* One attention instance for all rows of a step of these stages, in every layer? */
int sli_device_one_part(const sli_network *net, uint32_t stages);

/* ---- steps (device_run.c) ---- */

/* sli_network_forward and sli_network_head on a device: without graphs, for any pass. */
sl_status sli_device_forward(sli_network *net, const sli_pass *pass, sl_error *err);
sl_status sli_device_head(sli_network *net, const int32_t *rows, int32_t n, float *logits, sl_error *err);
/* Room for the n_best best ids of each row of logits, and for their logits. [setup] */
sl_status sli_device_best_reserve(sli_network *net, int32_t n_best, int with_logits, sl_error *err);
/* Logits of the n_best best ids, [max_logits, n_best] behind the ids. */
/* Inputs of a linear in device memory: products there read eight at a time, weights and inputs have zeros behind them.
 */
static inline int64_t sli_device_width(int64_t in) { return (in + 7) / 8 * 8; }

static inline const float *sli_device_best_logits(const sli_device_network *d) {
    return (const float *)(const void *)(d->host_best + (int64_t)d->step.max_logits * d->n_best);
}
/* Best ids of any rows of the last pass, and their logits: [n, n_best]. */
sl_status sli_device_best(sli_network *net, const int32_t *rows, int32_t n, int32_t *id, float *logit, sl_error *err);
/* The head for rows behind the final norm: those of the host, waited for; or bf16 in device memory, queued only. */
sl_status sli_device_head_reserve(sli_network *net, sl_error *err); /* [setup] */
sl_status sli_device_project(sli_network *net, const float *x, int64_t n, float *logits, sl_error *err);
sl_status sli_device_queue_project(sli_network *net, const sl_tensor *x, const sl_tensor *logits, sl_error *err);
/* Queues rows of the last pass, behind the final norm, to bf16 [n, hidden] in device memory. */
sl_status sli_device_queue_hidden(sli_network *net, const int32_t *rows, int32_t n, void *out, sl_error *err);

/* A step on its way. */
typedef struct sli_flight {
    const int32_t *answers; /* best ids [n, n_best] or tokens [n], once it has landed; NULL: logits, in host_logits */
    int32_t n;              /* rows of logits; 0: nobody waits for it */
    int turn;               /* of device.step */
    int from_graph;
    int fits; /* 1: its answers are one token a row, which a next step can be fed with */
} sli_flight;

/* Queues a step of the engine with the logits of device.rows[0 .. n). fed: the tokens of its rows are the answers of
 * the step that was launched last, and not those of the batch. */
sl_status sli_device_launch(sli_network *net, const sli_pass *pass, int32_t n, sli_answer answer, int fed,
                            sli_flight *out, sl_error *err);
/* Waits for it. */
sl_status sli_device_land(sli_network *net, const sli_flight *flight, sl_error *err);

/* Seeded rows in the buffer of q, k and v; and a step that appends them, for fill.c. */
sl_status sli_device_random_rows(sli_network *net, uint64_t seed, float amplitude, sl_error *err);
sl_status sli_device_fill(sli_network *net, const sl_batch *batch, sl_error *err);

#endif
