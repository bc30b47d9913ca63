/* text.h - the text that one step adds to a request: pieces of tokens, held back while they may become a stop string. */
#ifndef SLUICE_CORE_TEXT_H
#define SLUICE_CORE_TEXT_H

#include <stddef.h>

#include "engine/stop.h"
#include "sl_error.h"

typedef struct sli_text {
    char *data; /* [cap], n of them used */
    size_t n, cap;
} sli_text;

/* Makes room for cap bytes, so that a step need not. */
sl_status sli_text_reserve(sli_text *t, size_t cap);
void sli_text_clear(sli_text *t);
void sli_text_free(sli_text *t);

/* Adds what can be told of `piece`; stop may be NULL. 1: a stop string was completed (what stands in front of it was
 * added), 0: not, < 0: no memory. */
int sli_text_push(sli_text *t, sli_stop *stop, const char *piece, size_t length);
/* The text ends: what was held back is told. < 0: no memory. */
int sli_text_end(sli_text *t, sli_stop *stop);

#endif
