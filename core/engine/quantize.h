/* quantize.h - the run that packs weights with data: samples go through the model layer by layer, quantisers see the
 * inputs of their linears, and what they make of them goes into files. */
#ifndef SLUICE_CORE_QUANTIZE_H
#define SLUICE_CORE_QUANTIZE_H

#include "engine/engine.h"

/* Such a run, as far as it exists when its engine is opened. */
typedef struct sli_quantize {
    sl_calibration_run service; /* "sl.calibration/1" */
    const sluice_quantize_options *options;
    sli_quantizer *plain;  /* [n_quantizers] stand-ins of those that want data */
    sli_network_plan real; /* the plan of the configuration */
    const sli_network *net;
    sluice_engine *engine;
    int32_t *tokens;      /* [n_samples, sample_length] */
    float *hidden;        /* [n_samples * sample_length, hidden] residual that enters the layer */
    uint32_t *ffn_layers; /* [n_layers] 1 or 0 */
    int64_t bytes_written, weights;
    double weight_bits;
    int32_t n_files, n_groups;
} sli_quantize;

/* Lets quantisers that want data be represented by plain products, until they have it. plan is that of net. [setup] */
sl_status sli_quantize_plan(sli_quantize *q, sli_network *net, sli_network_plan *plan, sl_error *err);

/* ---- samples (quantize_samples.c) */

/* Draws the samples out of the text. */
sl_status sli_quantize_draw(sli_quantize *q, sl_error *err);
/* Runs all samples through one layer (through the head: layer = n_layers). with_ffn = 0: its attention alone. keep:
 * what leaves the layer is what enters the next one. The network's listener sees the inputs of linears. */
sl_status sli_quantize_run_layer(sli_quantize *q, int32_t layer, int with_ffn, int keep, sl_error *err);

#endif
