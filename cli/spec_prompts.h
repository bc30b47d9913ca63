/* spec_prompts.h - prompts with categories, from a file. A line is a prompt, or a JSON object: "prompt" (or "text", or
 * the list "turns", of which the first counts) and "category". Empty lines are skipped. */
#ifndef SLUICE_CLI_SPEC_PROMPTS_H
#define SLUICE_CLI_SPEC_PROMPTS_H

#include <jansson.h>

#include "libsluice.h"

typedef struct spec_prompt {
    const char *text;
    int category;
} spec_prompt;

typedef struct spec_prompts {
    spec_prompt *prompt;   /* [n] by category, in the file's order */
    const char **category; /* [n_categories] in the order in which they come up; "all" where none is named */
    int n, n_categories;
    json_t *json; /* holds the texts */
} spec_prompts;

/* At most `limit` prompts of each category; 0: all. */
int spec_prompts_read(const char *path, int64_t limit, spec_prompts *out, sluice_error *err);
void spec_prompts_free(spec_prompts *p);

#endif
