/* See ini.h.
 *
 * inih does the parsing but sees one prepared line at a time, because the library as it is packaged
 *   - tells its handler no line numbers,
 *   - cuts lines at 199 bytes and section names at 49 without a word,
 *   - appends indented lines to the value before them.
 * So the reader counts lines, checks bytes, keeps section names itself, drops indentation, and hands out the value of a
 * line that does not fit inih's buffer beside it.
 */
#include "config/ini.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "base/ledger.h"

enum { FILE_BYTES = 1 << 20, NAME_BYTES = 64, SECTION_BYTES = 256, MANY = 1000 };

static sl_status no_memory(sl_error *err) { return sl_fail(err, SL_E_NO_MEMORY, "no memory for the configuration"); }

/* ---- sections and keys ----------------------------------------------------------------------------------------- */

sli_section *sli_ini_find(const sli_ini *ini, const char *name) {
    for (int i = 0; i < ini->n_sections; i++)
        if (strcmp(ini->sections[i]->name, name) == 0)
            return ini->sections[i];
    return NULL;
}

static sli_key *find_key(const sli_section *section, const char *name) {
    for (int i = 0; section != NULL && i < section->n_keys; i++)
        if (strcmp(section->keys[i].name, name) == 0)
            return &section->keys[i];
    return NULL;
}

const sli_key *sli_section_get(const sli_section *section, const char *key) { return find_key(section, key); }

sli_section *sli_ini_add(sli_ini *ini, const char *name, const char *where, sli_layer layer) {
    sli_section *s = sli_arena_alloc(&ini->pool, sizeof *s);
    void *more = sli_arena_grow(&ini->pool, ini->sections, ini->n_sections, &ini->cap, sizeof *ini->sections);
    if (s == NULL || more == NULL)
        return NULL;
    s->name = sli_arena_text(&ini->pool, name, strlen(name));
    s->where = sli_arena_text(&ini->pool, where, strlen(where));
    if (s->name == NULL || s->where == NULL)
        return NULL;
    s->layer = layer;
    ini->sections = more;
    return ini->sections[ini->n_sections++] = s;
}

sl_status sli_section_put(sli_arena *pool, sli_section *section, const sli_key *key, sl_error *err) {
    sli_key *old = find_key(section, key->name);
    if (old != NULL) {
        *old = *key;
        return SL_OK;
    }
    sli_key *more = sli_arena_grow(pool, section->keys, section->n_keys, &section->cap, sizeof *more);
    if (more == NULL)
        return no_memory(err);
    section->keys = more;
    section->keys[section->n_keys++] = *key;
    return SL_OK;
}

void sli_ini_free(sli_ini *ini) {
    sli_arena_free(&ini->pool);
    *ini = (sli_ini){0};
}

/* ---- paths ----------------------------------------------------------------------------------------------------- */

char *sli_path_folder(sli_arena *pool, const char *path) {
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    return sli_arena_text(pool, path, n);
}

char *sli_arena_path_join(sli_arena *pool, const char *dir, const char *path) {
    if (path[0] == '/' || dir[0] == 0)
        return sli_arena_text(pool, path, strlen(path));
    return sli_arena_printf(pool, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", path);
}

/* ---- lines ----------------------------------------------------------------------------------------------------- */

typedef struct span {
    const char *at;
    size_t n;
} span;

static int is_blank(char c) { return c == ' ' || c == '\t'; }

static span trim(span s) {
    while (s.n > 0 && is_blank(s.at[0]))
        s.at++, s.n--;
    while (s.n > 0 && is_blank(s.at[s.n - 1]))
        s.n--;
    return s;
}

/* Index of the semicolon that starts an inline comment, or the length. */
static size_t inline_comment(span s) {
    for (size_t i = 1; i < s.n; i++)
        if (s.at[i] == ';' && is_blank(s.at[i - 1]))
            return i;
    return s.n;
}

/* What no line may hold: NUL and control characters except tab. Returns the byte or -1. */
static int bad_byte(span s) {
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.at[i];
        if ((c < 32 && c != '\t') || c == 127)
            return c;
    }
    return -1;
}

/* Copies a name, making runs of blanks one space. NULL when it is empty or longer than cap - 1. */
static char *tidy_name(char *out, size_t cap, span s) {
    size_t n = 0;
    s = trim(s);
    for (size_t i = 0; i < s.n; i++) {
        int blank = is_blank(s.at[i]);
        if (blank && is_blank(s.at[i - 1]))
            continue;
        if (n + 1 >= cap)
            return NULL;
        out[n++] = blank ? ' ' : s.at[i];
    }
    out[n] = 0;
    return n > 0 ? out : NULL;
}

static int is_key_name(span s) {
    if (s.n == 0 || s.n > NAME_BYTES)
        return 0;
    for (size_t i = 0; i < s.n; i++)
        if (is_blank(s.at[i]) || strchr("[]=:;#\"'", s.at[i]) != NULL)
            return 0;
    return 1;
}

/* ---- the reader ------------------------------------------------------------------------------------------------ */

typedef struct source {
    sli_ini *ini;
    span rest; /* text not yet read */
    const char *label, *dir;
    sli_layer layer;
    int line;         /* number of the line read last, from 1 */
    sli_section *now; /* section of that line */
    span beside;      /* its value when inih's buffer is too small for it, else at = NULL */
    sl_status status;
    sl_error *err;
} source;

/* Gives up: nothing more is read. The first failure stays. */
#define GIVE_UP(src, ...) ((src)->status = sl_fail((src)->err, __VA_ARGS__))
#define AT_LINE "%s:%d: "

static void begin_section(source *src, span heading) {
    char name[SECTION_BYTES + 1];
    if (heading.at[heading.n - 1] != ']') {
        GIVE_UP(src, SL_E_DATA, AT_LINE "a section heading ends with \"]\"", src->label, src->line);
        return;
    }
    if (tidy_name(name, sizeof name, (span){heading.at + 1, heading.n - 2}) == NULL) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "a section needs a name of 1 to %d bytes", src->label, src->line,
                SECTION_BYTES);
        return;
    }
    const sli_section *twin = sli_ini_find(src->ini, name);
    char *where = sli_arena_printf(&src->ini->pool, "%s:%d", src->label, src->line);
    if (twin != NULL)
        GIVE_UP(src, SL_E_DATA, AT_LINE "section [%s] was already opened (%s)", src->label, src->line, name,
                twin->where);
    else if (src->ini->n_sections >= MANY)
        GIVE_UP(src, SL_E_DATA, AT_LINE "more than %d sections", src->label, src->line, MANY);
    else if (where == NULL || (src->now = sli_ini_add(src->ini, name, where, src->layer)) == NULL)
        src->status = no_memory(src->err);
}

/* Checks one line; returns what inih shall see of it, n = 0: nothing. */
static span prepare(source *src, span line, size_t room) {
    const span nothing = {NULL, 0};
    if (line.n > 0 && line.at[line.n - 1] == '\r')
        line.n--;
    int bad = bad_byte(line);
    if (bad >= 0) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "control character 0x%02x; an INI is UTF-8 text", src->label, src->line,
                (unsigned)bad);
        return nothing;
    }
    line = trim(line);
    if (line.n == 0 || line.at[0] == ';' || line.at[0] == '#')
        return nothing;
    line.n = inline_comment(line);
    line = trim(line);
    if (line.at[0] == '[') {
        begin_section(src, line);
        return (span){"[s]", 3}; /* the name is kept here, inih would cut it */
    }
    const char *equals = memchr(line.at, '=', line.n);
    int shown = line.n > 60 ? 60 : (int)line.n;
    if (equals == NULL) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "expected \"key = value\" or \"[section]\", found \"%.*s\"", src->label,
                src->line, shown, line.at);
        return nothing;
    }
    span name = trim((span){line.at, (size_t)(equals - line.at)});
    if (!is_key_name(name)) {
        GIVE_UP(src, SL_E_DATA,
                AT_LINE
                "expected a key of 1 to %d bytes without blanks, brackets, quotes or \":\" before the \"=\", found "
                "\"%.*s\"",
                src->label, src->line, NAME_BYTES, shown, line.at);
        return nothing;
    }
    if (src->now == NULL) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "key \"%.*s\" stands before the first [section]", src->label, src->line,
                (int)name.n, name.at);
        return nothing;
    }
    if (line.n > room) {
        src->beside = trim((span){equals + 1, line.n - (size_t)(equals + 1 - line.at)});
        line.n = (size_t)(equals + 1 - line.at);
        if (line.n > room) {
            /* only blanks between key and "=" get us here */
            GIVE_UP(src, SL_E_DATA, AT_LINE "too many blanks before the \"=\"", src->label, src->line);
            return nothing;
        }
    }
    return line;
}

/* ini_reader: like fgets, the next line that inih should see. */
static char *next_line(char *out, int size, void *user) {
    source *src = user;
    assert(size > NAME_BYTES + 4);
    while (src->status >= 0 && src->rest.n > 0) {
        const char *end = memchr(src->rest.at, '\n', src->rest.n);
        span line = {src->rest.at, end == NULL ? src->rest.n : (size_t)(end - src->rest.at)};
        size_t step = line.n + (end != NULL);
        src->rest.at += step, src->rest.n -= step;
        src->line++;
        src->beside = (span){NULL, 0};
        line = prepare(src, line, (size_t)size - 3);
        if (line.n > 0 && src->status >= 0) {
            memcpy(out, line.at, line.n);
            out[line.n] = '\n';
            out[line.n + 1] = 0;
            return out;
        }
    }
    return NULL;
}

/* ini_handler: 1 goes on. */
static int take_key(void *user, const char *section, const char *name, const char *value) {
    (void)section;
    source *src = user;
    if (src->status < 0)
        return 0;
    span v = src->beside.at != NULL ? src->beside : (span){value, value == NULL ? 0 : strlen(value)};
    const sli_key *twin = sli_section_get(src->now, name);
    if (twin != NULL) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "key \"%s\" was already set in [%s] (%s)", src->label, src->line, name,
                src->now->name, twin->where);
        return 0;
    }
    if (v.n > 0 && v.at[0] == ';') {
        GIVE_UP(src, SL_E_DATA, AT_LINE "the value of \"%s\" begins with \";\", which starts a comment", src->label,
                src->line, name);
        return 0;
    }
    if (src->now->n_keys >= MANY) {
        GIVE_UP(src, SL_E_DATA, AT_LINE "more than %d keys in [%s]", src->label, src->line, MANY, src->now->name);
        return 0;
    }
    sli_arena *pool = &src->ini->pool;
    sli_key key = {sli_arena_text(pool, name, strlen(name)), sli_arena_text(pool, v.at, v.n),
                   sli_arena_printf(pool, "%s:%d", src->label, src->line), src->dir, src->layer};
    if (key.name == NULL || key.value == NULL || key.where == NULL)
        src->status = no_memory(src->err);
    else
        src->status = sli_section_put(pool, src->now, &key, src->err);
    return src->status >= 0;
}

sl_status sli_ini_parse(sli_ini *ini, const char *text, size_t n, const char *label, const char *dir, sli_layer layer,
                        sl_error *err) {
    if (n > FILE_BYTES)
        return sl_fail(err, SL_E_DATA, "%s: larger than %d bytes", label, FILE_BYTES);
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3, n -= 3;
    source src = {ini,       {text, n}, label, sli_arena_text(&ini->pool, dir, strlen(dir)), layer, 0, NULL,
                  {NULL, 0}, SL_OK,     err};
    if (src.dir == NULL)
        return no_memory(err);
    int rc = ini_parse_stream(next_line, &src, take_key, &src);
    if (rc != 0 && src.status >= 0) /* prepared lines leave inih nothing to refuse but memory */
        return rc < 0 ? no_memory(err) : sl_fail(err, SL_E_DATA, "%s: not an INI file", label);
    return src.status;
}

/* ---- files and overrides --------------------------------------------------------------------------------------- */

sl_status sli_ini_read(sli_ini *ini, const char *path, sl_error *err) {
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return sl_fail(err, errno == ENOENT ? SL_E_NOT_FOUND : SL_E_IO, "cannot open the configuration \"%s\": %s",
                       path, strerror(errno));
    sl_status s = SL_OK;
    char *text = sli_alloc(SLI_TAG_MISC, FILE_BYTES + 1); /* one more shows that there is more */
    char *dir = sli_path_folder(&ini->pool, path);
    if (text == NULL || dir == NULL) {
        s = no_memory(err);
        goto out;
    }
    size_t n = fread(text, 1, FILE_BYTES + 1, f);
    if (ferror(f))
        s = sl_fail(err, SL_E_IO, "cannot read the configuration \"%s\": %s", path, strerror(errno));
    else
        s = sli_ini_parse(ini, text, n, path, dir, SLI_FROM_FILE, err);
out:
    sli_free(text);
    fclose(f);
    return s;
}

sl_status sli_ini_set(sli_ini *ini, const char *assignment, sl_error *err) {
    char name[SECTION_BYTES + 1];
    if (bad_byte((span){assignment, strlen(assignment)}) >= 0)
        return sl_fail(err, SL_E_INVALID, "--set: a control character in the argument");
    const char *equals = strchr(assignment, '=');
    const char *dot = equals == NULL ? NULL : memrchr(assignment, '.', (size_t)(equals - assignment));
    if (dot == NULL)
        return sl_fail(err, SL_E_INVALID, "--set \"%.80s\": expected section.key=value", assignment);
    span key_name = trim((span){dot + 1, (size_t)(equals - dot - 1)});
    span value = trim((span){equals + 1, strlen(equals + 1)});
    if (tidy_name(name, sizeof name, (span){assignment, (size_t)(dot - assignment)}) == NULL || !is_key_name(key_name))
        return sl_fail(err, SL_E_INVALID, "--set \"%.80s\": expected section.key=value", assignment);
    /* the rules of a file, so that what was set can be written down */
    if (inline_comment(value) < value.n || (value.n > 0 && value.at[0] == ';') || value.n > FILE_BYTES)
        return sl_fail(err, SL_E_INVALID, "--set %s.%.*s: a value cannot begin with \";\" nor hold a blank and \";\"",
                       name, (int)key_name.n, key_name.at);
    sli_section *section = sli_ini_find(ini, name);
    if (section == NULL && (section = sli_ini_add(ini, name, "--set", SLI_FROM_SET)) == NULL)
        return no_memory(err);
    sli_key key = {sli_arena_text(&ini->pool, key_name.at, key_name.n), sli_arena_text(&ini->pool, value.at, value.n),
                   "--set", "", SLI_FROM_SET};
    if (key.name == NULL || key.value == NULL)
        return no_memory(err);
    return sli_section_put(&ini->pool, section, &key, err);
}
