/* output.h - the text that one step adds to a request: pieces of tokens, held back while they may become a stop string.
 */
#ifndef SLUICE_CORE_OUTPUT_H
#define SLUICE_CORE_OUTPUT_H

#include <stddef.h>

#include "engine/stop.h"
#include "sl_error.h"

typedef struct sli_output {
    char *data; /* [cap], n of them used */
    size_t n, cap;
} sli_output;

/* Makes room for cap bytes, so that a step need not. */
sl_status sli_output_reserve(sli_output *t, size_t cap);
void sli_output_clear(sli_output *t);
void sli_output_free(sli_output *t);

/* Adds what can be told of `piece`; stop may be NULL. 1: a stop string was completed (what stands in front of it was
 * added), 0: not, < 0: no memory. */
int sli_output_push(sli_output *t, sli_stop *stop, const char *piece, size_t length);
/* The text ends: what was held back is told. < 0: no memory. */
int sli_output_end(sli_output *t, sli_stop *stop);

#endif
