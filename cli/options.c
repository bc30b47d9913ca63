/* See options.h. */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const option shared[] = {
    {"--config", "FILE", "read settings from an INI file", OPT_CONFIG, NULL, NULL},
    {"--set", "section.key=value", "override one setting; may be repeated", OPT_ANY_SET, NULL, NULL},
    {"-m, --model", "DIR", "model directory (model.path)", OPT_SET, "model.path", NULL},
    {"--shape", "NAME", "random weights of a known model's shape instead (model.shape)", OPT_SET, "model.shape", NULL},
    {"-c, --ctx-size", "N", "largest context in tokens (engine.max_context)", OPT_SET, "engine.max_context", NULL},
    {"-t, --threads", "N", "CPU workers; 0: one a core (engine.threads)", OPT_SET, "engine.threads", NULL},
    {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
};

static int named(const option *o, const char *word, size_t length) {
    for (const char *p = o->names; *p != '\0';) {
        size_t n = strcspn(p, ",");
        if (n == length && strncmp(p, word, n) == 0)
            return 1;
        p += n;
        p += strspn(p, ", ");
    }
    return 0;
}

static const option *find(const option *table, const char *word, size_t length) {
    for (; table != NULL && table->names != NULL; table++)
        if (named(table, word, length))
            return table;
    return NULL;
}

/* hidden: rows whose options are there already; NULL: none. */
static void print_table(const option *table, const option *hidden) {
    for (; table->names != NULL; table++) {
        char left[64];
        if (find(hidden, table->names, strcspn(table->names, ",")) != NULL)
            continue;
        snprintf(left, sizeof left, "%s%s%s", table->names, table->argument != NULL ? " " : "",
                 table->argument != NULL ? table->argument : "");
        printf("  %-28s %s\n", left, table->help);
    }
}

static int add_set(common *c, char *text) {
    if (text == NULL || c->n_sets == CLI_MAX_SETS) {
        free(text);
        fprintf(stderr, "sluice: too many overrides\n");
        return -1;
    }
    c->owned[c->n_sets] = text;
    c->sets[c->n_sets++] = text;
    return 0;
}

static int add_text(text_list *list, const char *name, const char *value) {
    if (list->n == CLI_MAX_TEXTS) {
        fprintf(stderr, "sluice: %s: given more than %d times\n", name, CLI_MAX_TEXTS);
        return -1;
    }
    list->text[list->n++] = value;
    return 0;
}

static int store(const option *o, const char *name, const char *value, common *c) {
    char *end = NULL, *text = NULL;
    switch (o->kind) {
    case OPT_CONFIG: c->config = value; return 0;
    case OPT_ANY_SET: return add_set(c, strdup(value));
    case OPT_SET: return add_set(c, asprintf(&text, "%s=%s", o->key, value) < 0 ? NULL : text);
    case OPT_TEXT: *(const char **)o->target = value; return 0;
    case OPT_TEXTS: return add_text(o->target, name, value);
    case OPT_FLAG: *(int *)o->target = 1; return 0;
    case OPT_INT:
        errno = 0;
        *(int64_t *)o->target = strtoll(value, &end, 10);
        break;
    case OPT_REAL:
        errno = 0;
        *(double *)o->target = strtod(value, &end);
        break;
    }
    if (errno == 0 && end != value && *end == '\0')
        return 0;
    fprintf(stderr, "sluice: %s: expected a number, found \"%s\"\n", name, value);
    return -1;
}

int options_parse(int argc, char **argv, const char *usage, const option *own, common *c, const char **words,
                  int max_words) {
    int n_words = 0, only_words = 0;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (only_words || word[0] != '-' || word[1] == '\0') {
            if (n_words == max_words) {
                fprintf(stderr, "sluice: unexpected word \"%s\"\n", word);
                return -1;
            }
            words[n_words++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_words = 1;
            continue;
        }
        if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            printf("usage: %s\n\n", usage);
            if (own != NULL)
                print_table(own, NULL);
            if (!c->own_only)
                print_table(shared, own);
            printf("  %-28s %s\n", "-h, --help", "print this");
            c->help = 1;
            return 0;
        }
        const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
        size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
        const option *o = find(own, word, length);
        if (o == NULL && !c->own_only)
            o = find(shared, word, length);
        if (o == NULL) {
            fprintf(stderr, "sluice: unknown option %.*s (see --help)\n", (int)length, word);
            return -1;
        }
        const char *value = equals != NULL ? equals + 1 : NULL;
        if (o->kind != OPT_FLAG && value == NULL && ++i < argc)
            value = argv[i];
        if ((o->kind != OPT_FLAG) != (value != NULL)) {
            fprintf(stderr, "sluice: %.*s %s\n", (int)length, word, value != NULL ? "takes no value" : "needs a value");
            return -1;
        }
        if (store(o, word, value, c) < 0)
            return -1;
    }
    return n_words;
}

void options_free(common *c) {
    for (int i = 0; i < c->n_sets; i++)
        free(c->owned[i]);
    c->n_sets = 0;
}

static void show_progress(void *user, const char *what, int64_t done, int64_t total) {
    (void)user;
    static double begin, last;
    double t = now();
    if (done == 0 || begin == 0)
        begin = t, last = 0;
    if (done < total && t - last < 0.1)
        return;
    last = t;
    double seconds = t - begin;
    fprintf(stderr, "\r%s: %3.0f %%  %.2f GB  %.2f GB/s\033[K%s", what,
            total > 0 ? 100.0 * (double)done / (double)total : 100.0, (double)done / 1e9,
            seconds > 0 ? (double)done / 1e9 / seconds : 0.0, done >= total ? "\n" : "");
    fflush(stderr);
}

sluice_options options_engine(const common *c) {
    return (sluice_options){.config = c->config,
                            .sets = c->sets,
                            .n_sets = c->n_sets,
                            .progress = isatty(STDERR_FILENO) ? show_progress : NULL};
}

int fail(const sluice_error *err) {
    fprintf(stderr, "sluice: %s\n", err->text);
    return 1;
}

char *read_text(const char *path, size_t *length) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (f == NULL) {
        fprintf(stderr, "sluice: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    size_t cap = 1 << 16, n = 0;
    char *text = malloc(cap);
    while (text != NULL) {
        n += fread(text + n, 1, cap - n - 1, f);
        if (n < cap - 1)
            break;
        char *wider = realloc(text, cap *= 2);
        if (wider == NULL)
            free(text);
        text = wider;
    }
    int bad = ferror(f);
    if (f != stdin)
        fclose(f);
    if (text == NULL || bad) {
        fprintf(stderr, "sluice: %s: %s\n", path, text == NULL ? "out of memory" : strerror(errno));
        free(text);
        return NULL;
    }
    text[n] = '\0';
    *length = n;
    return text;
}

void write_file(void *user, const char *text, size_t length) { fwrite(text, 1, length, user); }

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
