/* Values of [sampling] that are lists in one text: stop strings and logit biases. */
#ifndef SLUICE_CORE_LISTS_H
#define SLUICE_CORE_LISTS_H

#include <stdint.h>

#include "config/config_arena.h"

typedef struct sli_bias {
    int32_t token; /* 0 or more; whether the vocabulary has it is not known here */
    float bias;    /* added to the logit, -100 to 100 */
} sli_bias;

/* "15:-100,42:2.5"; NULL or blank: none. Results live in the pool; messages say which element is wrong. */
sl_status sli_parse_biases(sli_arena *pool, const char *text, const sli_bias **out, int *n, sl_error *err);
/* "\n\n|User:|\x20;" : strings separated by "|", with the escapes \n \t \r \\ \| and \xHH (not \x00); NULL or empty:
 * none. */
sl_status sli_parse_stops(sli_arena *pool, const char *text, const char *const **out, int *n, sl_error *err);

#endif
