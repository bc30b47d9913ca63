/* See prefill_cache.h. Names are hashes and prove nothing: FILE.id says what FILE.state holds. */
#include "prefill_cache.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gen.h"

enum { DIR_BYTES = 512, PATH_BYTES = DIR_BYTES + 80 };

static void take(void *user, const char *text, size_t n) {
    prefill_cache *c = user;
    if (c->length + n + 1 > c->cap) {
        size_t cap = 2 * (c->length + n) + 256;
        char *wider = realloc(c->identity, cap);
        c->failed |= wider == NULL;
        if (wider == NULL)
            return;
        c->identity = wider;
        c->cap = cap;
    }
    memcpy(c->identity + c->length, text, n);
    c->length += n;
    c->identity[c->length] = '\0';
}

int prefill_cache_open(prefill_cache *c, const sluice_engine *engine, const char *dir, sluice_error *err) {
    *c = (prefill_cache){.dir = strdup(dir)};
    sluice_error why = {0};
    if (c->dir == NULL)
        return gen_no_memory(err);
    if (strlen(dir) >= DIR_BYTES) {
        snprintf(err->text, sizeof err->text, "--prefill-cache: a name of at least %d bytes", DIR_BYTES);
        return SLUICE_E_INVALID;
    }
    if (mkdir(dir, 0777) < 0 && errno != EEXIST) {
        snprintf(err->text, sizeof err->text, "%s: %s", dir, strerror(errno));
        return SLUICE_E_NOT_FOUND;
    }
    if (sluice_prefill_identity(engine, take, c, &why) < 0)
        snprintf(c->why, sizeof c->why, "%s", why.text);
    else if (c->failed || c->identity == NULL)
        return gen_no_memory(err);
    return SLUICE_OK;
}

void prefill_cache_close(prefill_cache *c) {
    free(c->dir);
    free(c->identity);
    *c = (prefill_cache){0};
}

static uint64_t hash(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* "DIR/<hash>", whose files are .state and .id; NULL without memory. */
static char *name_of(const prefill_cache *c, const int32_t *tokens, int64_t n, int more) {
    char *name = NULL;
    uint64_t a = hash(0xcbf29ce484222325u + (uint64_t)(more != 0), c->identity, c->length);
    uint64_t b = hash(a ^ 0x9e3779b97f4a7c15u, tokens, sizeof *tokens * (size_t)n);
    return asprintf(&name, "%s/%016" PRIx64 "%016" PRIx64, c->dir, a, b) < 0 ? NULL : name;
}

/* Is the file exactly the identity and the kind of end? */
static int same_identity(const prefill_cache *c, const char *path, int more) {
    FILE *f = fopen(path, "rb");
    char *text = f != NULL ? malloc(c->length + 2) : NULL;
    size_t n = text != NULL ? fread(text, 1, c->length + 2, f) : 0;
    int same = n == c->length + 1 && memcmp(text, c->identity, c->length) == 0 && text[n - 1] == (more ? '+' : '.');
    free(text);
    if (f != NULL)
        fclose(f);
    return same;
}

/* 1: the session is what computing the tokens would have made of it. 0: it is empty. */
static int load(const prefill_cache *c, const char *name, sluice_session *s, const int32_t *tokens, int64_t n,
                int more) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s.id", name);
    if (!same_identity(c, path, more))
        return 0;
    snprintf(path, sizeof path, "%s.state", name);
    if (sluice_session_load(s, path, NULL) < 0)
        return 0;
    if (sluice_session_length(s) == n && memcmp(sluice_session_tokens(s), tokens, sizeof *tokens * (size_t)n) == 0)
        return 1;
    sluice_session_truncate(s, 0, NULL);
    return 0;
}

/* Under a name of this process first: who reads meets whole files. What cannot be written is not kept. */
static int save(const prefill_cache *c, const char *name, sluice_session *s, int more, sluice_error *err) {
    char temporary[PATH_BYTES], path[PATH_BYTES];
    snprintf(temporary, sizeof temporary, "%s.%ld", name, (long)getpid());
    int status = sluice_session_save(s, temporary, err);
    if (status < 0)
        return status;
    snprintf(path, sizeof path, "%s.state", name);
    int bad = rename(temporary, path) < 0;
    FILE *f = bad ? NULL : fopen(temporary, "wb");
    bad |= f == NULL || fwrite(c->identity, 1, c->length, f) != c->length || fputc(more ? '+' : '.', f) == EOF;
    bad |= f != NULL && fclose(f) != 0;
    snprintf(path, sizeof path, "%s.id", name);
    bad = bad || rename(temporary, path) < 0;
    if (bad) {
        snprintf(err->text, sizeof err->text, "%s: %s", path, strerror(errno));
        remove(temporary);
        return SLUICE_E_DATA;
    }
    return SLUICE_OK;
}

int prefill_cached(prefill_cache *cache, sluice_session *s, const int32_t *tokens, int64_t n, int more, int *loaded,
                   sluice_error *err) {
    int keeps = cache != NULL && cache->identity != NULL && n > 0;
    char *name = keeps ? name_of(cache, tokens, n, more) : NULL;
    *loaded = 0;
    if (keeps && name == NULL)
        return gen_no_memory(err);
    if (keeps && load(cache, name, s, tokens, n, more)) {
        cache->hits++;
        *loaded = 1;
        free(name);
        return SLUICE_OK;
    }
    int status = sluice_session_append(s, tokens, n, err);
    if (status >= 0 && n > 0)
        status = sluice_prefill(s, more, err);
    if (status >= 0 && keeps) {
        cache->misses++;
        status = save(cache, name, s, more, err);
    }
    free(name);
    return status;
}
