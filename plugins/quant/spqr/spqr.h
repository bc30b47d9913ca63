/* Inside of the spqr plugin: settings, a quantised matrix, and what files and memory make of it. */
#ifndef SLUICE_SPQR_H
#define SLUICE_SPQR_H

#include "sluice/packing.h"
#include "sluice/quant.h"

#include "sl_decoded.h"
#include "sl_hessian.h"
#include "sl_obs.h"
#include "sl_packed_file.h"

enum { SPQR_CSR = 0, SPQR_PTCSR = 1, SPQR_AUTO = 2 };

typedef struct spqr_settings {
    int bits;                  /* 2 .. 4 */
    int scale_bits, zero_bits; /* of the second level: 1 .. 4; both 16: there is none */
    int64_t group, tile;       /* inputs of a group; rows of a second-level group */
    int act_order, simplified, true_sequential, writes_official, sparse_layout, replaces;
    double threshold, percdamp;
    int64_t block;
} spqr_settings;

/* ---- spqr_params.c */

extern const sl_param_def *const spqr_params[];
void spqr_read_settings(spqr_settings *s, const sl_params *p);
/* The format for reports, and what a file must have been made with. */
void spqr_write_texts(const spqr_settings *s, char *format, size_t format_size, char *text, size_t text_size);
sl_status spqr_check_settings(const spqr_settings *s, sl_error *err); /* do they go together? */

/* A quantised matrix, `spqr_pack` 1, row-major. Rows r, groups g of columns (in the packed order), tiles of rows:
 *     codes  u8  [n, groups, group bits / 8]   a bit stream
 *     stat   u8  [n, groups]                   code of the scale in bits 0-3, of the zero in bits 4-7
 *            f16 [n, groups, 2]                without a second level: scale, zero
 *     second f16 [tiles, groups, 4]            scale of scales, zero of scales, scale of zeros, zero of zeros
 *     rowptr u32 [n + 1], col u16 or u32 [nnz], val f16 [nnz]   outliers: what is added to the base, columns ascending
 *     order  u32 [k]                           place i holds input order[i]; NULL: i
 * base = s (q - z), s = ss (cs - sz), z = zs (cz - zz), in f32. */
typedef struct spqr_matrix {
    int64_t n, k, group, tile, groups, tiles, nnz;
    int bits, scale_bits, zero_bits;
    const uint8_t *codes, *stat;
    const uint16_t *second; /* NULL without a second level */
    const uint32_t *rowptr;
    const void *col;
    const uint16_t *val;
    const uint32_t *order;
    void *owned; /* one block that holds all of them; NULL: they are borrowed */
} spqr_matrix;

/* ---- spqr_pack.c: layout and decoding */

/* Sizes that follow from n, k, group, tile. */
void spqr_shape(spqr_matrix *m, int64_t n, int64_t k, const spqr_settings *s);
/* Bytes of the parts, in this order. */
enum { SPQR_CODES, SPQR_STAT, SPQR_SECOND, SPQR_ROWPTR, SPQR_COL, SPQR_VAL, SPQR_ORDER, SPQR_PARTS };
void spqr_part_bytes(const spqr_matrix *m, int64_t bytes[SPQR_PARTS]);
/* Points the parts (all but the order, unless there is room: has_order) into a block; returns its bytes. */
int64_t spqr_place(spqr_matrix *m, void *block, int has_order);
static inline int64_t spqr_column(const spqr_matrix *m, int64_t i) {
    return m->k > 65536 ? ((const uint32_t *)m->col)[i] : ((const uint16_t *)m->col)[i];
}
static inline void spqr_set_column(spqr_matrix *m, int64_t i, int64_t col) {
    if (m->k > 65536)
        ((uint32_t *)(uintptr_t)m->col)[i] = (uint32_t)col;
    else
        ((uint16_t *)(uintptr_t)m->col)[i] = (uint16_t)col;
}
/* Scale and zero of a group of a row, as they are stored. */
void spqr_statistics(const spqr_matrix *m, int64_t row, int64_t g, float *scale, float *zero);
/* A row of the base alone, and with its outliers (as sl_decoded.row). */
void spqr_decode_base(const spqr_matrix *m, int64_t row, float *w);
void spqr_decode_row(const void *matrix, int64_t row, float *w);
/* Do rowptr, col and order say something possible? */
sl_status spqr_check(const spqr_matrix *m, const char *name, sl_error *err);
void spqr_free(const sl_pack_env *env, spqr_matrix *m);

/* ---- spqr_quant.c: the algorithm */

/* Quantises the matrices of a group; out [group->n] is to be freed whatever comes back. *loss: error weighted with the
 * Hessian. Overwrites data->hessian. */
sl_status spqr_quantize(const sl_pack_env *env, const spqr_settings *s, const sl_linear_group *group,
                        const sl_calibration *data, spqr_matrix *out, double *loss, sl_error *err);

/* ---- spqr_file.c: our tensors; spqr_official.c: those of github Vahe1994/SpQR */

enum { SPQR_TENSORS = 8 };
typedef struct spqr_tensors {
    sl_pack_tensor tensor[SPQR_TENSORS];
    char name[SPQR_TENSORS][SL_PACKED_NAME_BYTES];
    void *owned; /* data that is not the matrix' own */
    int n;
    uint64_t source;
} spqr_tensors;

/* Parts are borrowed from the file, or, of an official one, made. Whether it was made from these weights is not looked at. */
sl_status spqr_read(const sl_pack_env *env, const spqr_settings *s, const sl_packed_file *file, const sl_linear *linear,
                    spqr_matrix *out, sl_error *err);
sl_status spqr_write(const sl_linear *linear, const spqr_matrix *m, spqr_tensors *out, sl_error *err);
/* Adds one tensor; shape [ndim]. */
void spqr_add_tensor(spqr_tensors *t, const char *linear, const char *suffix, const void *data, sl_dtype dtype,
                     uint32_t ndim, int64_t d0, int64_t d1, int64_t d2);

/* Can the official layout hold it? */
sl_status spqr_official_fits(const spqr_settings *s, const sl_linear *linear, sl_error *err);
sl_status spqr_official_read(const sl_pack_env *env, const spqr_settings *s, const sl_packed_file *file,
                             const sl_linear *linear, spqr_matrix *out, sl_error *err);
sl_status spqr_official_write(const sl_pack_env *env, const spqr_settings *s, const sl_linear *linear,
                              const spqr_matrix *m, spqr_tensors *out, sl_error *err);

#endif
