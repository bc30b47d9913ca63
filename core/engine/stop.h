/* stop.h - stop strings over text that arrives in pieces.
 *
 * Text that may still turn out to be the beginning of a stop string is held back; everything else is passed on at once.
 * The first byte that completes a stop string ends the text (of several completed by the same byte the longest counts),
 * and neither the string nor what follows is passed on. The result does not depend on where the pieces were cut.
 * Matching is by bytes, with the automaton of Knuth, Morris and Pratt for each string.
 */
#ifndef SLUICE_CORE_STOP_H
#define SLUICE_CORE_STOP_H

#include <stddef.h>
#include <stdint.h>

#include "sluice/sl.h"

typedef struct sli_stop sli_stop;

/* strings: [n] NUL-terminated, copied. SL_E_INVALID: an empty one. SL_E_NO_MEMORY. */
sl_status sli_stop_create(const char *const *strings, int32_t n, sli_stop **out, sl_error *err);
void sli_stop_destroy(sli_stop *s);

/* Forgets the text, for the next request with the same strings. */
void sli_stop_reset(sli_stop *s);

/* Bytes that are held back at most. */
size_t sli_stop_max_held(const sli_stop *s);

/* Takes n bytes and writes what may be passed on to out, which has room for n + sli_stop_max_held bytes. Returns how
 * many were written. No allocation; after a hit nothing is taken or written. */
size_t sli_stop_push(sli_stop *s, const char *bytes, size_t n, char *out);

/* At the end of the text without a hit: writes what was held back (room for sli_stop_max_held bytes). */
size_t sli_stop_flush(sli_stop *s, char *out);

/* Index of the string that ended the text, -1: none so far. */
int32_t sli_stop_hit(const sli_stop *s);

#endif
