/* compare.h - what the files of `sluice compare` share: configurations, tasks, results, the report. */
#ifndef SLUICE_CLI_COMPARE_H
#define SLUICE_CLI_COMPARE_H

#include <jansson.h>
#include <stdio.h>

#include "options.h"

enum { COMPARE_MAX_CONFIGS = 64, COMPARE_MAX_TASKS = 8, COMPARE_MAX_WORDS = 192, COMPARE_REASON = 512 };

/* ---- configurations ---------------------------------------------------------------------------------------------- */

typedef struct compare_config {
    const char *path;
    char *name;       /* the file's, without folder and ending; numbered where two are the same */
    char *title;      /* its first comment line, or "" */
    char *text;       /* the INI */
    json_t *settings; /* {"section.key": "value"} of the whole that it resolves to; NULL where it was refused */
    json_t *files;    /* digests of the files and models that settings name */
    char refused[COMPARE_REASON];
} compare_config;

/* Reads the INI and asks children whether it fits and what it resolves to. -1 after printing an error: no such file. */
int compare_config_open(compare_config *c, const char *path, const common *shared, double timeout);
void compare_config_free(compare_config *c);
/* A setting, or "". */
const char *compare_setting(const compare_config *c, const char *key);
/* Which part of the engine it changes in comparison with the base: "base", "attention", "cache", "drafting", "weights",
 * "combination", or "settings" where plugins are the same. */
const char *compare_family(const compare_config *c, const compare_config *base);
/* The plugins that were chosen: {"attention": id, ...}. */
json_t *compare_plugins(const compare_config *c);

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

/* A figure of a task. Paths are dotted members of its result; a number is an index, "name=text" the first element of an
 * array whose member `name` is that text; behind | another path, for results without the first. Paths may be NULL. */
typedef struct compare_column {
    const char *key, *label, *unit;
    const char *path;
    int better;                                 /* 1: more, -1: less, 0: neither */
    double scale;                               /* of the value as it is shown */
    const char *detail;                         /* path of a text that says what exactly was measured */
    const char *n, *n_unit;                     /* path of the number of measurements, and what they are */
    const char *ratio, *ratio_low, *ratio_high; /* to the base, with the ends of its interval */
    const char *difference, *half_width;        /* or the difference to it */
    const char *what;                           /* one sentence for the report */
} compare_column;

enum {
    TASK_TEXT = 1,     /* takes --text */
    TASK_PROMPTS = 2,  /* takes --prompts */
    TASK_AGAINST = 4,  /* takes --against, the base's result */
    TASK_BASE = 8,     /* the base writes a file (--save), the others read it (--base) */
    TASK_DRAFTER = 16, /* means something with a drafter only */
    TASK_PAIRS = 32    /* speed: rounds, each beside one of the base */
};

typedef struct compare_task {
    const char *name, *title;
    const char *words[6];  /* the subcommand and what it always gets */
    const char *arguments; /* what it runs with unless --NAME says otherwise */
    int flags;
    const compare_column *columns; /* ended by key = NULL */
    const char *what;
} compare_task;

extern const compare_task compare_tasks[];
extern const int compare_n_tasks;

/* A member of a result by its path; NULL when absent or null. */
json_t *compare_member(json_t *result, const char *path);

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* One comparison. */
typedef struct comparison {
    const common *shared;
    compare_config config[COMPARE_MAX_CONFIGS];
    int n_configs;
    const compare_task *task[COMPARE_MAX_TASKS];
    const char *arguments[COMPARE_MAX_TASKS]; /* by task */
    int n_tasks;
    const char *dir, *text, *prompts;
    json_t *input;   /* digests of text and prompts */
    json_t *machine; /* what it runs on */
    int64_t pairs;
    double timeout;
    int retry;                                              /* run what failed again */
    json_t *result[COMPARE_MAX_CONFIGS][COMPARE_MAX_TASKS]; /* {"compare": {...}, ...}; NULL: not run */
    int64_t n_done, n_all, n_ran;                           /* units of work; those that were run now */
    double begin;
} comparison;

/* Runs everything that has no result yet. Failures of configurations are results. -1 after printing an error: results
 * cannot be written. */
int compare_run(comparison *c);
/* The rounds of speed in one result. rounds: [n] {"own": [...], "base": [...] or null}, arrays as `bench -o json`
 * prints them. */
json_t *compare_bench(json_t *rounds);
/* One unit of work is over (label says which; NULL: it was there already). */
void compare_progress(comparison *c, const char *label, const char *outcome, double seconds);
void compare_progress_begin(const comparison *c, const char *label);
void compare_progress_end(void);

/* ---- stored results ---------------------------------------------------------------------------------------------- */

/* FNV-1a of bytes, beginning with h (0: a new one). */
uint64_t compare_digest(const void *bytes, size_t n, uint64_t h);
/* Of a file (or of the model in a folder) by size and contents; of large files by samples of it. NULL: neither. */
json_t *compare_file_digest(const char *path);
/* DIR/results/NAME.DIGEST, the digest being that of `key`; free it. */
char *compare_path(const comparison *c, const char *name, const json_t *key, const char *ending);
/* The stored result of this key, or NULL. */
json_t *compare_load(const char *path, const json_t *key);
/* Writes atomically: all of it or nothing. -1 after printing an error. */
int compare_save(const char *path, const json_t *result);
int compare_write(const char *path, int (*write)(FILE *f, void *user), void *user);
/* What this machine is: cpu, cores, memory, system. */
json_t *compare_machine(void);

/* ---- report ------------------------------------------------------------------------------------------------------ */

/* Everything in one object, which the pages are made of. command: the words of this run. */
json_t *compare_report(const comparison *c, int argc, char **argv);
/* A number in at least three digits, without an exponent. */
void compare_number(char *out, size_t cap, double v);
/* What a cell says beside its value: "1.52x (1.48 to 1.55)", "-0.75 +- 0.03", or nothing. */
void compare_beside(char *out, size_t cap, json_t *cell);
/* "median of 7 runs", "40 questions", or nothing. */
void compare_count(char *out, size_t cap, json_t *cell);
/* Where v lies between the worst and the best of a column: has this row its best value? */
int compare_is_best(json_t *report, json_t *column, json_t *row);
int compare_markdown(FILE *f, void *report);
int compare_html(FILE *f, void *report);

#endif
