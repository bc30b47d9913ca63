/* A model: its description and its weights, from a Hugging Face checkpoint directory (config.json, optionally
 * generation_config.json, model.safetensors or shards with an index), or of a known shape with random weights. */
#ifndef SLUICE_CORE_MODEL_H
#define SLUICE_CORE_MODEL_H

#include "model/arch.h"
#include "model/model_desc.h"
#include "sl_error.h"

typedef struct sli_model sli_model;

/* Opens a checkpoint. Every weight that the architecture needs is there, of the right shape, and f32, f16 or bf16, or
 * this fails with the tensor's name, what was expected and what was found. Weights stay mapped; nothing is converted.
 * A linear may be there in another form, as tensors of other names beside that of its weight: its weight then has a shape
 * and no data, and whoever multiplies it finds the parts with sli_model_find.
 * *out is NULL on failure. SL_E_NOT_FOUND, SL_E_IO, SL_E_DATA, SL_E_UNIMPLEMENTED, SL_E_NO_MEMORY.   [setup] */
sl_status sli_model_open(const char *dir, sli_model **out, sl_error *err);

/* A model of a known shape (shapes.h) with seeded random weights, for speed work. */
typedef struct sli_model_shape {
    const char *name; /* "llama-3.1-8b" */
    sl_dtype dtype;   /* of its matrices: SL_BF16, SL_F16 or SL_F32; vectors are f32 */
    uint64_t seed;
    int in_host_memory; /* 0: matrices are not made. Their data is an address that stands for them and cannot be read;
                           whoever holds them elsewhere asks sli_model_random for the values. Vectors are made always */
    struct sli_pool *pool; /* fills them; NULL: this thread alone */
} sli_model_shape;

/* SL_E_NOT_FOUND (with near matches), SL_E_NO_MEMORY.   [setup] */
sl_status sli_model_open_shape(const sli_model_shape *shape, sli_model **out, sl_error *err);

/* 1: the weight (or a copy of its tensor) is random and was not made. Its element i, in row-major order, is
 * slk_random_value(*seed, i) * *amplitude, in f32, rounded to its dtype.   [any] */
int sli_model_random(const sli_model *model, const sl_tensor *weight, uint64_t *seed, float *amplitude);
/* n such elements from number `begin` on, as dtype.   [any] */
void sli_random_values(void *out, sl_dtype dtype, int64_t begin, int64_t n, uint64_t seed, float amplitude);
/* 1: weights are parts of mapped files, whose pages come back when they are given up. */
int sli_model_is_mapped(const sli_model *model);

void sli_model_close(sli_model *model); /* NULL is legal; all that was borrowed from it ends */

const sli_model_desc *sli_model_describe(const sli_model *model);

/* The weight of a role; layer -1 for SLI_ROLE_EMBED, SLI_ROLE_HEAD and SLI_ROLE_FINAL_NORM, else 0 .. n_layers-1.
 * Contiguous, read-only, shapes as in arch.h. NULL when the model has no such weight (a bias, a norm of q). A tied head
 * is the embedding's tensor.   [any] */
const sl_tensor *sli_model_weight(const sli_model *model, int32_t layer, sli_weight_role role);

/* Its name in the checkpoint, as "model.layers.3.mlp.down_proj.weight"; NULL as above. */
const char *sli_model_weight_name(const sli_model *model, int32_t layer, sli_weight_role role);

/* Any tensor of the checkpoint by name; NULL: not there. */
const sl_tensor *sli_model_find(const sli_model *model, const char *name);

int64_t sli_model_params(const sli_model *model);         /* elements of all weights, a tied head counted once */
int64_t sli_model_bytes(const sli_model *model);          /* their bytes in the checkpoint */
int64_t sli_model_unused_tensors(const sli_model *model); /* in the checkpoint, but nothing asks for them */

/* One weight that holds NaN or Inf. index is that of the first such element in row-major order. */
typedef struct sli_bad_weight {
    const char *name;
    const sl_tensor *tensor;
    int64_t index;
    int64_t count; /* how many such elements it holds */
} sli_bad_weight;

/* Reads all weights and calls found(user, ...) for each that holds NaN or Inf, layer by layer; found may be NULL.
 * SL_OK when there is none, else SL_E_DATA with the first one's name and index.   [setup] */
sl_status sli_model_verify(const sli_model *model, void (*found)(void *user, const sli_bad_weight *bad), void *user,
                           sl_error *err);

#endif
