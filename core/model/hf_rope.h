/* The RoPE keys of config.json: rope_theta, rope_scaling (up to transformers 4) and rope_parameters (from 5 on). */
#ifndef SLUICE_CORE_HF_ROPE_H
#define SLUICE_CORE_HF_ROPE_H

#include "base/json.h"
#include "model/model_desc.h"

/* Fills *out but for inv_freq, out->dim being set. max_positions is the declared context. */
sl_status sli_hf_rope_read(const sli_json *config, int32_t max_positions, sli_rope *out, sl_error *err);

#endif
