/* See choice_items.h. */
#include "choice_items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "options.h"
#include "sha256.h"

#define FAIL(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_DATA)

/* Index of the right choice, or -1: a number from 0, or a letter. */
static int answer_of(const json_t *answer, int n) {
    json_int_t i = -1;
    const char *letter = json_string_value(answer);
    if (json_is_integer(answer))
        i = json_integer_value(answer);
    else if (letter != NULL && letter[0] != '\0' && letter[1] == '\0')
        i = letter[0] >= 'a' ? letter[0] - 'a' : letter[0] - 'A';
    return i >= 0 && i < n ? (int)i : -1;
}

static const char *read_item(const json_t *o, choice_item *out, const char **category) {
    const json_t *prompt = json_object_get(o, "prompt"), *question = json_object_get(o, "question"), *named;
    const json_t *choices = json_object_get(o, "choices");
    size_t n = json_array_size(choices);
    if ((prompt == NULL) == (question == NULL) || !json_is_string(prompt != NULL ? prompt : question))
        return "expected \"question\" or \"prompt\", a text";
    if (n < 2 || n > CHOICE_MAX)
        return "expected \"choices\", a list of 2 to 26 texts";
    *out = (choice_item){
        .text = json_string_value(prompt != NULL ? prompt : question), .is_prompt = prompt != NULL, .n = (int)n};
    for (size_t i = 0; i < n; i++) {
        out->choice[i] = json_string_value(json_array_get(choices, i));
        if (out->choice[i] == NULL || out->choice[i][0] == '\0')
            return "expected \"choices\", a list of 2 to 26 texts";
    }
    out->answer = answer_of(json_object_get(o, "answer"), out->n);
    if (out->answer < 0)
        return "expected \"answer\", the index of the right choice (from 0) or its letter";
    named = json_object_get(o, "category") != NULL ? json_object_get(o, "category") : json_object_get(o, "subject");
    *category = named != NULL ? json_string_value(named) : "all";
    return *category == NULL ? "\"category\" must be a text" : NULL;
}

static int category_of(choice_items *items, const char *name) {
    int i = 0;
    while (i < items->n_categories && strcmp(items->category[i], name) != 0)
        i++;
    if (i == items->n_categories)
        items->category[items->n_categories++] = name;
    return i;
}

int choice_items_read(const char *path, choice_items *out, char sha256[65], sluice_error *err) {
    size_t length = 0;
    char *text = read_text(path, &length);
    *out = (choice_items){.json = json_array()};
    if (text == NULL)
        return FAIL(err, "%s: no questions", path);
    sha256_hex(text, length, sha256);
    size_t most = 1;
    for (size_t i = 0; i < length; i++)
        most += text[i] == '\n';
    out->item = calloc(most, sizeof *out->item);
    out->category = calloc(most, sizeof *out->category);
    int status = out->item != NULL && out->category != NULL ? SLUICE_OK : eval_no_memory(err);
    long long number = 1;
    for (char *line = text; status >= 0 && line < text + length; number++) {
        size_t n = strcspn(line, "\n");
        if (strspn(line, " \t\r") < n) {
            json_error_t why;
            json_t *object = json_loadb(line, n, 0, &why);
            const char *category = NULL, *wrong = object == NULL ? why.text : NULL;
            if (object != NULL)
                wrong = read_item(object, &out->item[out->n], &category);
            if (wrong != NULL)
                status = FAIL(err, "%s:%lld: %s", path, number, wrong);
            else
                out->item[out->n++].category = category_of(out, category);
            if (object != NULL)
                json_array_append_new(out->json, object);
        }
        line += n + 1;
    }
    free(text);
    return status >= 0 && out->n == 0 ? FAIL(err, "%s: no questions", path) : status;
}

void choice_items_free(choice_items *items) {
    free(items->item);
    free(items->category);
    json_decref(items->json);
}

char *choice_prompt(const choice_item *item, int labels) {
    if (item->is_prompt)
        return strdup(item->text);
    size_t cap = strlen(item->text) + 64;
    for (int i = 0; i < item->n; i++)
        cap += strlen(item->choice[i]) + 8;
    char *out = malloc(cap);
    if (out == NULL)
        return NULL;
    size_t n = (size_t)snprintf(out, cap, "Question: %s\n", item->text);
    for (int i = 0; labels && i < item->n; i++)
        n += (size_t)snprintf(out + n, cap - n, "%c. %s\n", 'A' + i, item->choice[i]);
    snprintf(out + n, cap - n, "Answer:");
    return out;
}

char *choice_answer(const choice_item *item, int choice, int labels) {
    char *out = NULL;
    int n = labels ? asprintf(&out, " %c", 'A' + choice) : asprintf(&out, " %s", item->choice[choice]);
    return n < 0 ? NULL : out;
}
