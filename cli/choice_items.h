/* choice_items.h - multiple-choice questions out of JSON lines, and the prompts they become; docs/eval.md has the
 * format. */
#ifndef SLUICE_CLI_CHOICE_ITEMS_H
#define SLUICE_CLI_CHOICE_ITEMS_H

#include <jansson.h>

#include "libsluice.h"

enum { CHOICE_MAX = 26 }; /* A to Z */

typedef struct choice_item {
    const char *text;               /* the question, or the prompt as it stands */
    int is_prompt;                  /* it stands for the prompt as a whole */
    const char *choice[CHOICE_MAX]; /* [n] */
    int n, answer;
    int category;
} choice_item;

typedef struct choice_items {
    choice_item *item;     /* [n] in the file's order */
    const char **category; /* [n_categories] in the order in which they come up; "all" where none is named */
    int n, n_categories;
    json_t *json; /* holds the texts */
} choice_items;

/* sha256: of the file. */
int choice_items_read(const char *path, choice_items *out, char sha256[65], sluice_error *err);
void choice_items_free(choice_items *items);

/* What the model is shown of a question, up to where the answer follows (behind a space). labels: the choices are
 * listed by letter. NULL: no memory; free it. */
char *choice_prompt(const choice_item *item, int labels);
/* What follows it, space included: the letter, or the choice itself. */
char *choice_answer(const choice_item *item, int choice, int labels);

#endif
