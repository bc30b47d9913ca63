/* See spec_prompts.h. */
#include "spec_prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "options.h"

#define FAIL(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_DATA)

static json_t *text_of(json_t *object) {
    json_t *turns = json_object_get(object, "turns"), *text = json_object_get(object, "prompt");
    if (text == NULL)
        text = json_object_get(object, "text");
    return text != NULL ? text : json_array_get(turns, 0);
}

/* One line as [text, category] at the end of `lines`. */
static int read_line(const char *path, int64_t number, const char *line, size_t length, json_t *lines,
                     sluice_error *err) {
    while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == ' '))
        length--;
    if (length == 0)
        return SLUICE_OK;
    json_t *pair = json_array(), *object = NULL;
    if (line[0] != '{') {
        json_t *text = json_stringn(line, length);
        if (text == NULL) {
            json_decref(pair);
            return FAIL(err, "%s:%lld: no UTF-8", path, (long long)number);
        }
        json_array_append_new(pair, text);
        json_array_append_new(pair, json_string("all"));
    } else {
        json_error_t why;
        object = json_loadb(line, length, 0, &why);
        json_t *text = text_of(object), *category = json_object_get(object, "category");
        if (!json_is_string(text) || (category != NULL && !json_is_string(category))) {
            json_decref(pair);
            json_decref(object);
            if (object == NULL)
                return FAIL(err, "%s:%lld: %s", path, (long long)number, why.text);
            return FAIL(err, "%s:%lld: expected \"prompt\" (or \"text\", or \"turns\") and \"category\"", path,
                        (long long)number);
        }
        json_array_append(pair, text);
        if (category != NULL)
            json_array_append(pair, category);
        else
            json_array_append_new(pair, json_string("all"));
        json_decref(object);
    }
    json_array_append_new(lines, pair);
    return SLUICE_OK;
}

static int find_category(spec_prompts *p, const char *name) {
    int i = 0;
    while (i < p->n_categories && strcmp(p->category[i], name) != 0)
        i++;
    if (i == p->n_categories)
        p->category[p->n_categories++] = name;
    return i;
}

int spec_prompts_read(const char *path, int64_t limit, spec_prompts *out, sluice_error *err) {
    size_t length = 0;
    char *text = read_text(path, &length);
    *out = (spec_prompts){.json = json_array()};
    if (text == NULL)
        return FAIL(err, "%s: no prompts", path);
    int status = SLUICE_OK;
    int64_t number = 1;
    for (char *line = text; status >= 0 && line < text + length; number++) {
        size_t n = strcspn(line, "\n");
        status = read_line(path, number, line, n, out->json, err);
        line += n + 1;
    }
    free(text);
    size_t n = json_array_size(out->json);
    if (status >= 0 && n == 0)
        status = FAIL(err, "%s: no prompts", path);
    if (status >= 0) {
        out->prompt = calloc(n, sizeof *out->prompt);
        out->category = calloc(n, sizeof *out->category);
        if (out->prompt == NULL || out->category == NULL)
            status = eval_no_memory(err);
    }
    for (size_t i = 0; status >= 0 && i < n; i++)
        find_category(out, json_string_value(json_array_get(json_array_get(out->json, i), 1)));
    for (int c = 0; status >= 0 && c < out->n_categories; c++) {
        int64_t taken = 0;
        for (size_t i = 0; i < n && (limit <= 0 || taken < limit); i++) {
            json_t *pair = json_array_get(out->json, i);
            if (strcmp(json_string_value(json_array_get(pair, 1)), out->category[c]) != 0)
                continue;
            out->prompt[out->n++] = (spec_prompt){json_string_value(json_array_get(pair, 0)), c};
            taken++;
        }
    }
    return status;
}

void spec_prompts_free(spec_prompts *p) {
    free(p->prompt);
    free(p->category);
    json_decref(p->json);
}
