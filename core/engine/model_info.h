/* model_info.h - a loaded model as plugins see it: sl_model_info with its layers and RoPE tables. */
#ifndef SLUICE_CORE_MODEL_INFO_H
#define SLUICE_CORE_MODEL_INFO_H

#include "sluice/host.h"

#include "model/model.h"

typedef struct sli_model_info sli_model_info;

/* name: borrowed. n_positions: rows of the RoPE tables. vocab_fingerprint: of the tokenizer; 0 without one. Created. */
sl_status sli_model_info_create(const sli_model *model, const char *name, int64_t n_positions,
                                uint64_t vocab_fingerprint, sli_model_info **out, sl_error *err);
void sli_model_info_destroy(sli_model_info *info); /* NULL is legal */
const sl_model_info *sli_model_info_view(const sli_model_info *info);
/* A rotary table is in device memory too. view: of this file. [setup] */
void sli_model_info_rope_device(const sl_model_info *view, int32_t rope, const float *cosines, const float *sines);

#endif
