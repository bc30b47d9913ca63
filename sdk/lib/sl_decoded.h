/* Products with matrices whose rows are decoded on the way, in plain C, for packed formats that no shared kernel knows;
 * and inputs in another order (act_order), made once for all linears of a group. */
#ifndef SLUICE_LIB_DECODED_H
#define SLUICE_LIB_DECODED_H

#include "sluice/quant.h"

/* Services and buffers of one instance. */
typedef struct sl_decoder {
    const sl_host *host;
    const sl_threads *threads;
    const sl_scratch *scratch;
    const sl_mem *mem;
    float *ordered; /* [max_rows, width] inputs in another order; made when the first such group is bound */
    int64_t max_rows, width;
    const uint32_t *order; /* whose inputs `ordered` holds in this step */
    const void *source;    /* and of which rows they are */
    int64_t n_rows;
} sl_decoder;

/* Looks services up; SL_E_NOT_FOUND names what is missing. [setup, in create] */
sl_status sl_decoder_init(sl_decoder *d, const sl_host *host, const char *plugin, sl_error *err);
/* Announces scratch for rows of the widest input of the model. [setup, in activate] */
sl_status sl_decoder_activate(sl_decoder *d, const sl_model_info *model, const sl_limits *limits);
/* Room for inputs of that width in another order. SL_E_NO_MEMORY. [setup, in bind] */
sl_status sl_decoder_widen(sl_decoder *d, int64_t width);
void sl_decoder_deactivate(sl_decoder *d);

/* x' [T, in] with x'[t, i] = x[t, order[i]]. Made anew unless it is what was made last for these rows; `fresh`: the
 * rows may have new values (prepare), the last ones are not used again. order NULL: x itself. [step] */
sl_tensor sl_decoder_order(sl_decoder *d, const sl_tensor *x, const uint32_t *order, int fresh);

/* A matrix [n, k] of decodable rows. */
typedef struct sl_decoded {
    int64_t n, k;
    void (*row)(const void *user, int64_t row, float *w); /* writes k weights; [worker] */
    const void *user;
} sl_decoded;

/* y = epilogue(x W^T), as sl_quant.matmul says. Sums are f32 in a fixed order that does not depend on the number of
 * rows or on workers. SL_E_INVALID: shapes that do not fit. [step] */
sl_status sl_decoded_matmul(const sl_decoder *d, const sl_decoded *m, const sl_quant_matmul *args, const sl_tensor *x);

#endif
