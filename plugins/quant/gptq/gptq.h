/* Inside of the gptq plugin: settings, a quantised matrix, and what the files do to it. */
#ifndef SLUICE_GPTQ_H
#define SLUICE_GPTQ_H

#include "sluice/packing.h"
#include "sluice/ops.h"
#include "sluice/quant.h"

#include "sl_decoded.h"
#include "sl_hessian.h"
#include "sl_packed_file.h"

typedef struct gptq_settings {
    int bits;           /* 2, 3, 4, 8 */
    int64_t group_size; /* -1: the whole row */
    int sym, desc_act, static_groups, true_sequential, mse, v2;
    double damp_percent, mse_norm, mse_shrink;
    int64_t block_size, mse_grid;
} gptq_settings;

/* ---- gptq_params.c */

extern const sl_param_def *const gptq_params[];
void gptq_read_settings(gptq_settings *s, const sl_params *p);
/* The format for reports, and what a file must have been made with. */
void gptq_write_texts(const gptq_settings *s, char *format, size_t format_size, char *text, size_t text_size);

/* A quantised matrix: w[row, order[i]] = scale[row, i / group] (code[row, i] - zero[row, i / group]). */
typedef struct gptq_linear {
    int64_t n, k, group, n_groups;
    int bits, asym;  /* asym 0: all zeros are 2^(bits - 1) */
    uint8_t *code;   /* [n, k]; NULL in a description */
    uint16_t *scale; /* [n, n_groups] f16 bits; likewise */
    uint8_t *zero;   /* [n, n_groups]; likewise */
    uint32_t *order; /* [k]: place i holds input order[i]; NULL: i */
} gptq_linear;

void gptq_linear_free(const sl_pack_env *env, gptq_linear *l);

/* ---- gptq_quant.c: the algorithm */

/* Quantises the matrices of a group; out [group->n] is to be freed whatever comes back. *loss: error weighted with the
 * Hessian, summed over the matrices. Overwrites data->hessian. SL_E_DATA, SL_E_RANGE, SL_E_NO_MEMORY. */
sl_status gptq_quantize(const sl_pack_env *env, const gptq_settings *s, const sl_linear_group *group,
                        const sl_calibration *data, gptq_linear *out, double *loss, sl_error *err);

/* Range of a group of n weights -> scale (an f16 value) and zero. 0: the scale is not a number of f16. */
int gptq_fit(const gptq_settings *s, const double *w, int64_t n, double *scale, double *zero);

/* ---- gptq_file.c: the layout of AutoGPTQ checkpoints */

/* Description (everything but codes, scales and zeros) or, with_codes, the whole matrix. */
sl_status gptq_read(const sl_pack_env *env, const gptq_settings *s, const sl_packed_file *file, const sl_linear *linear,
                    int with_codes, gptq_linear *out, sl_error *err);

enum { GPTQ_TENSORS = 5 };
/* The tensors of one matrix, data taken from the environment's memory. */
sl_status gptq_write(const sl_pack_env *env, const gptq_settings *s, const sl_linear *linear, const gptq_linear *l,
                     sl_pack_tensor out[GPTQ_TENSORS], char names[GPTQ_TENSORS][SL_PACKED_NAME_BYTES], sl_error *err);

/* ---- gptq_blob.c: how a matrix lies in memory */

/* Begins the bytes of each matrix in a blob. */
typedef struct gptq_header {
    int64_t n, k, group, order_at, data_at; /* from the blob's begin; order_at 0: none */
    uint32_t bits, asym, is_decoded, reserved0;
    int64_t reserved1;
} gptq_header;

/* Bytes of the matrix' data; fills the header but for the places. */
int64_t gptq_data_bytes(const sl_pack_env *env, const gptq_linear *l, gptq_header *h);
sl_status gptq_data_write(const sl_pack_env *env, const gptq_header *h, const gptq_linear *l, void *data,
                          sl_error *err);
sl_q_format gptq_q_format(const gptq_header *h);
/* Row of a matrix that no shared kernel knows, as sl_decoded.row. */
typedef struct gptq_rows {
    const gptq_header *h;
    const uint8_t *data;
} gptq_rows;
void gptq_decode_row(const void *rows, int64_t row, float *w);

#endif
