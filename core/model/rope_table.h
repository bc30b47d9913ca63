/* Rotary position embedding: frequencies with their scaling, and tables of cos and sin.
 *
 * Frequencies are f_i = theta^(-2i/dim), i = 0..dim/2-1, changed by the scaling (linear, llama3, yarn), in the order
 * and the fp32 roundings of transformers' modeling_rope_utils.py: at position 100000 one last bit of a frequency turns
 * the angle by several thousandths, so "nearly the same formula" would be a different model. */
#ifndef SLUICE_CORE_ROPE_TABLE_H
#define SLUICE_CORE_ROPE_TABLE_H

#include "model/model_desc.h"

/* Writes r->inv_freq [dim/2] (given by the caller) from the other fields. */
void sli_rope_frequencies(sli_rope *r);

/* cos, sin  f32 [n, dim/2] for positions begin .. begin+n-1 (begin >= 0) of table `table` (0 <= table < desc->n_rope),
 * dim = desc->rope[table].dim; both are multiplied by the attention factor. Pair i of a head turns by row[i].
 * The angle is position * f_i rounded to fp32, as in the reference; cos and sin of it are taken in double.   [any] */
void sli_rope_fill(const sli_model_desc *desc, int32_t table, int64_t begin, int64_t n, float *cos_out, float *sin_out);

#endif
