/* options.h - command line options as a table: one row an option, shared by parsing and by --help. */
#ifndef SLUICE_CLI_OPTIONS_H
#define SLUICE_CLI_OPTIONS_H

#include "libsluice.h"

enum { CLI_MAX_SETS = 64, CLI_MAX_TEXTS = 32, CLI_USAGE = 2 };

/* Where an option's value goes. */
typedef enum {
    OPT_SET,    /* override `key` of the configuration */
    OPT_TEXT,   /* const char ** */
    OPT_TEXTS,  /* text_list *: may be given several times */
    OPT_INT,    /* int64_t * */
    OPT_REAL,   /* double * */
    OPT_FLAG,   /* int *, no argument */
    OPT_CONFIG, /* the INI file */
    OPT_ANY_SET /* section.key=value */
} option_kind;

/* Values of an option that may be repeated. */
typedef struct text_list {
    const char *text[CLI_MAX_TEXTS];
    int n;
} text_list;

typedef struct option {
    const char *names;    /* "-n, --n-predict" */
    const char *argument; /* "N"; NULL: none */
    const char *help;
    option_kind kind;
    const char *key; /* OPT_SET: "sampling.max_tokens" */
    void *target;
} option;

/* What every subcommand understands: --config, --set, model, engine and help. */
typedef struct common {
    const char *config;
    const char *sets[CLI_MAX_SETS];
    char *owned[CLI_MAX_SETS];
    int n_sets;
    int help;
    int own_only; /* 1: this command has no configuration, and none of these options but help */
} common;

/* Parses argv[1 ..]; own: rows ended by names = NULL, which stand in front of shared ones of the same name. Words that are no options are stored in words (at most
 * max_words). Returns the number of words, or -1 after printing one error. --help prints and sets c->help. */
int options_parse(int argc, char **argv, const char *usage, const option *own, common *c, const char **words,
                  int max_words);
void options_free(common *c);

/* The engine's view of them, with a progress bar on a terminal. */
sluice_options options_engine(const common *c);

/* "sluice: <text>" on stderr; returns the exit status of a failure. */
int fail(const sluice_error *err);

/* Reads a whole file, or stdin for "-"; NULL after printing one error. */
char *read_text(const char *path, size_t *length);

/* Writes pieces of text to a FILE *. */
void write_file(void *user, const char *text, size_t length);

double now(void);

#endif
