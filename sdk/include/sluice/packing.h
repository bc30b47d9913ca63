/* packing.h - quantisers that look at data: what the host tells them about the inputs of linears, and what they give
 * it for the file of packed weights that a later run starts from.
 *
 * Packing with data happens in a run of its own (`sluice quantize`), never while serving. The host runs sample texts
 * through the model layer by layer; the inputs of a layer come from layers that are quantised already. For each group
 * of linears: wants -> (the samples run) -> quantize -> tensors, claim, pack_size, pack_into, bind; from there on the
 * group's blob is what is multiplied.
 */
#ifndef SLUICE_PACKING_H
#define SLUICE_PACKING_H

#include "host.h"
#include "quant.h"

SL_BEGIN

enum {
    SL_CALIBRATION_SUMS = 1u << 0,
    SL_CALIBRATION_HESSIAN = 1u << 1,
    SL_CALIBRATION_ROWS = 1u << 2
};

/* What one group needs to know. */
typedef struct sl_calibration_wants {
    uint64_t struct_size;
    int64_t max_rows;  /* ROWS: at most so many, evenly spaced over all rows; >= 1 */
    uint32_t kinds;    /* set of SL_CALIBRATION_*; 0: no data, quantize is called all the same */
    uint32_t in_order; /* 1: the input is taken when the groups before this one in its layer are quantised ("true
                          sequential"); 0: as the layer gives it before any of its own groups is. Groups of 0 are gathered
                          together, so that their statistics exist at once */
} sl_calibration_wants;
SL_ABI_STRUCT(sl_calibration_wants, in_order);

/* The inputs x [n_rows, in] of a group over all samples, as the group is given them: after rotations and scalings that act
 * on them (sl_map), in the basis in which linears[i]->weight is written. Fields of kinds that were not wanted are NULL.
 * [borrowed during quantize] */
typedef struct sl_calibration {
    uint64_t struct_size;
    int64_t n_rows, n_samples;
    const double *sum;     /* SUMS: [in] of x */
    const double *sum_abs; /* SUMS: [in] of |x| */
    const double *sum_sq;  /* SUMS: [in] of x^2 */
    const float *max_abs;  /* SUMS: [in] of |x| */
    double *hessian;       /* HESSIAN: [in, in] sum over rows of x x^T, both halves; for large models the largest thing in
                              memory, hence the plugin may overwrite it */
    const float *rows;     /* ROWS: [n_kept, in] */
    int64_t n_kept;
} sl_calibration;
SL_ABI_STRUCT(sl_calibration, n_kept);

/* A tensor for the artifact. Names are unique in the file; by custom they begin with the name of the linear without its
 * ".weight". */
typedef struct sl_pack_tensor {
    uint64_t struct_size;
    const char *name;
    sl_tensor tensor; /* contiguous, host memory */
} sl_pack_tensor;
SL_ABI_STRUCT(sl_pack_tensor, tensor);

/* "sl.quant.packer/1" - answered by instances that quantise with data. One that answers it need not be ready to claim
 * before quantize was called. */
#define SL_QUANT_PACKER_ID "sl.quant.packer/1"
typedef struct sl_quant_packer {
    uint64_t struct_size;
    /* SL_SKIPPED: the group stays as it is; it is claimed and packed without data. [setup] */
    sl_status (*wants)(sl_instance *self, const sl_linear_group *group, sl_calibration_wants *out, sl_error *err);
    /* Quantises the group; the result lives in the instance until the next quantize or deactivate. [setup] */
    sl_status (*quantize)(sl_instance *self, const sl_linear_group *group, const sl_calibration *data, sl_error *err);
    /* The tensors of that result: [n], live like it. [setup] */
    sl_status (*tensors)(sl_instance *self, const sl_linear_group *group, const sl_pack_tensor *const **out, int32_t *n,
                         sl_error *err);
    /* What must be equal when the artifact is loaded again: "bits=4 group=128 ..."; [session] [setup & active] */
    const char *(*parameters)(sl_instance *self);
} sl_quant_packer;
SL_ABI_STRUCT(sl_quant_packer, parameters);

/* "sl.calibration/1" - the host's query answers it in a run that packs; NULL: this run serves, and an artifact is needed.
 * The host writes one safetensors file for each instance, with this metadata: sluice.plugin (id), sluice.version (of the
 * plugin), sluice.model (fingerprint, 16 hexadecimal digits), sluice.parameters, sluice.calibration (text, samples,
 * length, seed). */
#define SL_CALIBRATION_ID "sl.calibration/1"
typedef struct sl_calibration_run {
    uint64_t struct_size;
    const char *text;      /* name of the text */
    int64_t n_samples;
    int64_t sample_length; /* tokens, beginning of text included */
    uint64_t seed;
} sl_calibration_run;
SL_ABI_STRUCT(sl_calibration_run, seed);

SL_END
#endif
