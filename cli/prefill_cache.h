/* prefill_cache.h - what computing a context left, on disk: later runs load it, those of other configurations too if
 * their prompt pass is the same (sluice_prefill_identity). An entry is used only if that text and all tokens are equal,
 * byte for byte. Entries are files of a folder; delete them as you like. */
#ifndef SLUICE_CLI_PREFILL_CACHE_H
#define SLUICE_CLI_PREFILL_CACHE_H

#include "libsluice.h"

typedef struct prefill_cache {
    char *dir;
    char *identity; /* NULL: this configuration's prompts cannot be shared */
    size_t length, cap;
    int failed;     /* memory ran out */
    char why[1024]; /* ... because */
    int64_t hits, misses;
} prefill_cache;

/* Makes the folder if there is none. */
int prefill_cache_open(prefill_cache *c, const sluice_engine *engine, const char *dir, sluice_error *err);
void prefill_cache_close(prefill_cache *c);

/* Computes n tokens as the prompt of the empty session, or loads what that leaves. more: as for sluice_prefill.
 * *loaded: 1 if nothing was computed. cache NULL: computes. */
int prefill_cached(prefill_cache *cache, sluice_session *s, const int32_t *tokens, int64_t n, int more, int *loaded,
                   sluice_error *err);

#endif
