/* What the files of this room that make models share. */
#ifndef SLUICE_CORE_MODEL_IMPL_H
#define SLUICE_CORE_MODEL_IMPL_H

#include "model/model.h"
#include "model/safetensors.h"

struct sli_model {
    sli_model_desc desc;
    sli_safetensors *files; /* NULL: random weights */
    /* [(1 + n_layers) * SLI_ROLE_COUNT]; the model's own first, then layer by layer */
    const sli_named_tensor **weights;
    int64_t params, bytes, unused;
    /* Likewise, of tensors that no file holds: linears that are there in another form; all random weights. Names are
     * owned, data too where the weights are random. */
    sli_named_tensor *made;
    int64_t n_absent;
    uint64_t seed;  /* of random weights */
    char *reserved; /* [reserved_bytes] addresses of random weights that are not made; NULL: none */
    int64_t reserved_bytes;
};

enum { SLI_WEIGHT_NAME_BYTES = 128 };

/* Where a weight stands in the lists. */
size_t sli_weight_slot(const sli_model *model, int32_t layer, sli_weight_role role);
/* "model.layers.*.x" with the layer's number in place of the star. */
void sli_weight_name(char buf[SLI_WEIGHT_NAME_BYTES], const char *pattern, int32_t layer);
/* The weight of a row of arch.h; shape [2], returns the number of dimensions. */
uint32_t sli_weight_shape(const sli_model *model, int32_t layer, const sli_weight_row *row, int64_t *shape);
/* 1: the model has the weight of this row in that layer (-1: outside of layers). */
int sli_weight_wanted(const sli_model *model, int32_t layer, const sli_weight_row *row);

#endif
