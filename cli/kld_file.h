/* kld_file.h - the logits of a dense run in a file, for `sluice eval kld`. Integers and floats are little-endian.
 *
 *   8 bytes            "_logits_": log probabilities as 16-bit codes, the format of llama.cpp's --kl-divergence-base;
 *                      "_slf32__": logits as they are
 *   i32                tokens of a chunk, vocabulary, chunks; "_slf32__": also rows of a chunk
 *   i32 [chunks, context]  tokens of the text, before the first of each chunk was replaced
 *   rows               chunk by chunk, for its last tokens; "_logits_" has context - 1 - context / 2 of them
 *     "_logits_"       f32 scale, f32 smallest log probability, u16 codes [vocabulary], a u16 of padding if that is
 * odd: log p = scale * code + smallest; logits are cut off 16 below the largest
 *     "_slf32__"       f32 [vocabulary]
 *   JSON, u32 length of it, 8 bytes "_slinfo_": who wrote it; absent in llama.cpp's files, which end behind the rows */
#ifndef SLUICE_CLI_KLD_FILE_H
#define SLUICE_CLI_KLD_FILE_H

#include <jansson.h>
#include <stdio.h>

#include "libsluice.h"

typedef struct kld_shape {
    int exact;
    int32_t context, vocab, chunks, rows;
} kld_shape;

typedef struct kld_file {
    FILE *f;
    char *path, *part; /* part: what is written, until it is whole */
    kld_shape shape;
    int32_t *tokens; /* [chunks, context], of a file that is read */
    json_t *info;    /* NULL: none */
    int64_t first_row, row_bytes;
    void *row;
} kld_file;

/* Rows are written in order, each with its chunk's others; tokens [chunks, context]. */
int kld_file_create(const char *path, const kld_shape *shape, const int32_t *tokens, kld_file *out, sluice_error *err);
int kld_file_put(kld_file *k, const float *logits, sluice_error *err);
/* Log probabilities [vocab] as a reader would get them of the row that was put last. */
void kld_file_last(const kld_file *k, double *logprob);
/* Writes info and gives the file its name. */
int kld_file_finish(kld_file *k, const json_t *info, sluice_error *err);

/* Refuses what is no such file, or is not whole. */
int kld_file_open(const char *path, kld_file *out, sluice_error *err);
/* Log probabilities [vocab] of one row. */
int kld_file_get(kld_file *k, int64_t chunk, int64_t row, double *logprob, sluice_error *err);

/* Removes what was begun and not finished. NULL members are legal. */
void kld_file_close(kld_file *k);

#endif
