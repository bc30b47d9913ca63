/* device_ahead.h - the next step of decoding is on its way before the host knows the tokens of this one: the device
 * feeds it, and the host looks at what was decided meanwhile. What a stop condition makes superfluous is dropped. */
#ifndef SLUICE_CORE_DEVICE_AHEAD_H
#define SLUICE_CORE_DEVICE_AHEAD_H

#include "device_network.h"
#include "engine.h"

typedef struct sli_ahead {
    sli_flight flight;
    uint64_t step;
    int32_t n; /* sequences of it; 0: nothing is on its way */
    struct {
        int32_t seq;
        int64_t n_past;
        const sli_request *request;
    } of[]; /* [max_seqs] */
} sli_ahead;

/* Makes room where this engine can go ahead: nothing but decoding happens between its steps. NULL is no failure. */
sl_status sli_ahead_create(sluice_engine *e, sl_error *err);

/* Is the step that was laid out the one on its way? It is taken then: its sequences are ready, flight is its. Else it
 * is dropped. */
int sli_ahead_take(sluice_engine *e, sli_flight *flight);
void sli_ahead_drop(sluice_engine *e);

/* Behind the launch of the step of e->batch: commits it and launches the next one, if that is only decoding, too;
 * e->committed says so. draw: how the tokens of the next one are drawn; NULL: they are the best ones. */
sl_status sli_ahead_go(sluice_engine *e, const sli_flight *flight,
                       sli_cuda_draw (*draw)(const sluice_session *s, int64_t position), sl_error *err);

#endif
