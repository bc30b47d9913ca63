/* INI files and overrides, parsed by inih into sections, keys and where each was written.
 *
 * The language
 *   [section]               once a file; runs of blanks in the name count as one; the name may contain brackets
 *   key = value             inside a section, once; blanks around key and value are dropped
 *   ; comment  # comment    at the start of a line
 *   key = value ; comment   a blank and a semicolon start a comment anywhere, there are no quotes: a value cannot hold
 *                           " ;" nor begin with ";" (keys that take free text have escapes for it)
 * UTF-8, an optional BOM, LF or CRLF. No continuation lines, no control characters. A file is at most 1 MiB.
 */
#ifndef SLUICE_CORE_INI_H
#define SLUICE_CORE_INI_H

#include <stddef.h>

#include "config/config_arena.h"

/* Layers of a configuration, later ones win. */
typedef enum { SLI_FROM_DEFAULTS, SLI_FROM_FILE, SLI_FROM_SET } sli_layer;

typedef struct sli_key {
    const char *name, *value;
    const char *where; /* "run.ini:12", "--set", "defaults.ini:3" */
    const char *dir;   /* folder that relative paths start from; "" is the working directory */
    sli_layer layer;
} sli_key;

typedef struct sli_section {
    const char *name;
    const char *where; /* of its heading */
    sli_layer layer;
    sli_key *keys;
    int n_keys, cap;
} sli_section;

/* Zeroed = empty and valid. Everything lives in the pool. */
typedef struct sli_ini {
    sli_arena pool;
    sli_section **sections;
    int n_sections, cap;
} sli_ini;

/* Adds the sections of a text of n bytes (need not end in NUL). label stands in messages, dir is for relative paths;
 * both are copied. Errors: SL_E_DATA "label:line: what was expected", SL_E_NO_MEMORY; sli_ini_free is due even then. */
sl_status sli_ini_parse(sli_ini *ini, const char *text, size_t n, const char *label, const char *dir, sli_layer layer,
                        sl_error *err);
/* Reads a file; label is the path, dir its folder. Also SL_E_NOT_FOUND, SL_E_IO. */
sl_status sli_ini_read(sli_ini *ini, const char *path, sl_error *err);
/* "section.key=value": the section reaches up to the last dot before the first "=". A repeated one replaces. */
sl_status sli_ini_set(sli_ini *ini, const char *assignment, sl_error *err);
void sli_ini_free(sli_ini *ini);

sli_section *sli_ini_find(const sli_ini *ini, const char *name); /* NULL: none */
const sli_key *sli_section_get(const sli_section *section, const char *key);
/* Makes an empty section of that name (not looked up) / sets a key, replacing an earlier one. NULL or error: no memory.
 */
sli_section *sli_ini_add(sli_ini *ini, const char *name, const char *where, sli_layer layer);
sl_status sli_section_put(sli_arena *pool, sli_section *section, const sli_key *key, sl_error *err);

/* Folder of a path: "" for a bare name, "/" for "/x". Joined path: path itself when absolute or dir is "". */
char *sli_path_folder(sli_arena *pool, const char *path);
char *sli_arena_path_join(sli_arena *pool, const char *dir, const char *path);

#endif
