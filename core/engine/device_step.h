/* device_step.h - the step in device memory: one block at a fixed address, filled on the host and sent by one copy a
 * step. Where its arrays begin depends on the step's bounds alone: a step of few rows is a short copy, and a graph
 * finds them where they were when it was captured.
 *
 * Two pinned mirrors take turns, so that the next step can be laid out while the last one is on its way; a mirror that
 * is still in flight is waited for. */
#ifndef SLUICE_CORE_DEVICE_STEP_H
#define SLUICE_CORE_DEVICE_STEP_H

#include "sluice/step.h"

#include "device/device.h"

/* Upper bounds of a step: exact ones, or those of the graph that it replays. */
typedef struct sli_step_bounds {
    int64_t context; /* longest sequence, staged rows included */
    int32_t rows, seqs, seq_rows;
    uint32_t stages;
    int32_t logits; /* rows whose logits are wanted */
    uint32_t draws; /* 1: how each of their tokens is drawn is sent, too */
} sli_step_bounds;

enum { SLI_STEP_MIRRORS = 2 };

typedef struct sli_device_step {
    const sli_device *device;
    sl_step_device view; /* addresses and bounds are those of the step in hand */
    const int32_t
        *logit_row; /* device [bounds.logits] rows whose logits are wanted; [max_logits] when bounds.logits is 0 */
    const sli_cuda_draw *draw; /* device [bounds.logits] */
    int32_t max_rows, max_seqs, max_logits;
    char *block;
    char *mirror[SLI_STEP_MIRRORS];
    struct {
        sl_event_impl *begin, *end; /* around the step's work on the lane */
        int in_flight, ended;
    } turn[SLI_STEP_MIRRORS];
    int now; /* the mirror of the step in hand */
    struct sli_step_offsets {
        int64_t seq, row_begin, n_past, is_tree, logit_row, row_seq, token, token_index, position, draw, ancestors, end;
    } at;
    int64_t rows_asked;  /* offset of rows that are asked for after the step */
    double busy_seconds; /* of steps whose end was waited for */
    int64_t waits;       /* how often the lane was waited for */
} sli_device_step;

sl_status sli_device_step_create(sli_device_step *s, const sli_device *device, const sl_limits *limits,
                                 int64_t max_logits, sl_error *err);
void sli_device_step_destroy(sli_device_step *s); /* all-zero is legal */

void sli_step_bounds_of(const sl_batch *batch, sli_step_bounds *out);
/* Up to the bounds of one of a few graphs. */
void sli_step_bounds_widen(sli_step_bounds *b, const sli_device_step *s, const sl_limits *limits);

/* Sends the step; work behind it on the lane sees it. logit_row: [n_logits], at most bounds->logits; draw: likewise,
 * with bounds->draws. */
sl_status sli_device_step_send(sli_device_step *s, const sl_batch *batch, const sli_step_bounds *bounds,
                               const int32_t *logit_row, const sli_cuda_draw *draw, int32_t n_logits, sl_error *err);
/* The step's work is queued: its end can be timed. */
sl_status sli_device_step_end(sli_device_step *s, sl_error *err);
/* Waits for the step of a turn, and not for what is queued behind it. */
sl_status sli_device_step_land(sli_device_step *s, int turn, sl_error *err);
/* Waits for everything on the lane. */
sl_status sli_device_step_wait(sli_device_step *s, sl_error *err);

#endif
