/* See output.h. */
#include "output.h"

#include <string.h>

#include "base/ledger.h"

sl_status sli_output_reserve(sli_output *t, size_t cap) {
    if (cap <= t->cap)
        return SL_OK;
    char *wider = sli_realloc(SLI_TAG_MISC, t->data, cap);
    if (wider == NULL)
        return SL_E_NO_MEMORY;
    t->data = wider;
    t->cap = cap;
    return SL_OK;
}

void sli_output_clear(sli_output *t) { t->n = 0; }

void sli_output_free(sli_output *t) {
    sli_free(t->data);
    *t = (sli_output){0};
}

static sl_status add(sli_output *t, const char *text, size_t length) {
    if (t->n + length > t->cap)
        SL_TRY(sli_output_reserve(t, 2 * (t->n + length)));
    if (length > 0)
        memcpy(t->data + t->n, text, length);
    t->n += length;
    return SL_OK;
}

int sli_output_push(sli_output *t, sli_stop *stop, const char *piece, size_t length) {
    if (stop == NULL)
        return add(t, piece, length) < 0 ? -1 : 0;
    size_t most = t->n + length + sli_stop_max_held(stop);
    if (most > t->cap && sli_output_reserve(t, 2 * most) < 0)
        return -1;
    t->n += sli_stop_push(stop, piece, length, t->data + t->n);
    return sli_stop_hit(stop) >= 0;
}

int sli_output_end(sli_output *t, sli_stop *stop) {
    if (stop == NULL)
        return 0;
    size_t most = t->n + sli_stop_max_held(stop);
    if (most > t->cap && sli_output_reserve(t, 2 * most) < 0)
        return -1;
    t->n += sli_stop_flush(stop, t->data + t->n);
    return 0;
}
