/* See gen_qa.h. */
#include "gen_qa.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GOLD = 8 };

struct gen_paragraphs {
    json_t *rows;            /* array of the lines */
    const char **paragraphs; /* of all lines; live in rows */
    int64_t n_paragraphs;
};

/* The i-th paragraph of a line, NULL behind the last. */
static const char *paragraph(const json_t *row, int i) {
    const json_t *texts = json_object_get(row, "texts");
    return json_is_array(texts) ? json_string_value(json_array_get(texts, (size_t)i))
           : i == 0             ? json_string_value(json_object_get(row, "text"))
                                : NULL;
}

static int n_paragraphs(const json_t *row) {
    int n = 0;
    while (n < GOLD && paragraph(row, n) != NULL)
        n++;
    return n;
}

static int asks(const json_t *row, int n) {
    return json_is_string(json_object_get(row, "question")) &&
           json_string_length(json_array_get(json_object_get(row, "answers"), 0)) > 0 &&
           (n > 1 ? n_paragraphs(row) >= n : n_paragraphs(row) == 1);
}

gen_paragraphs *gen_paragraphs_read(const char *path, sluice_error *err) {
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        snprintf(err->text, sizeof err->text, "%s: %s", path, strerror(errno));
        return NULL;
    }
    gen_paragraphs *p = calloc(1, sizeof *p);
    char *line = NULL;
    size_t cap = 0;
    int bad = p == NULL || (p->rows = json_array()) == NULL;
    if (bad)
        snprintf(err->text, sizeof err->text, "out of memory");
    for (int number = 1; !bad && getline(&line, &cap, f) > 0; number++) {
        json_error_t why;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        json_t *row = json_loads(line, 0, &why);
        bad = n_paragraphs(row) == 0;
        if (bad)
            snprintf(err->text, sizeof err->text, "%s: line %d: expected an object with \"text\" or \"texts\"%s%s",
                     path, number, row == NULL ? ": " : "", row == NULL ? why.text : "");
        else
            p->n_paragraphs += n_paragraphs(row);
        json_array_append_new(p->rows, row);
    }
    free(line);
    fclose(f);
    if (!bad && (p->paragraphs = calloc((size_t)p->n_paragraphs + 1, sizeof *p->paragraphs)) == NULL) {
        snprintf(err->text, sizeof err->text, "out of memory");
        bad = 1;
    }
    int64_t at = 0;
    for (size_t i = 0; !bad && i < json_array_size(p->rows); i++)
        for (int k = 0; k < n_paragraphs(json_array_get(p->rows, i)); k++)
            p->paragraphs[at++] = paragraph(json_array_get(p->rows, i), k);
    if (bad) {
        gen_paragraphs_free(p);
        return NULL;
    }
    return p;
}

void gen_paragraphs_free(gen_paragraphs *p) {
    if (p == NULL)
        return;
    json_decref(p->rows);
    free(p->paragraphs);
    free(p);
}

int gen_paragraphs_ask(const gen_paragraphs *p, int n) {
    for (size_t i = 0; i < json_array_size(p->rows); i++)
        if (asks(json_array_get(p->rows, i), n))
            return 1;
    return 0;
}

/* The k-th line (around) with a question of that kind. */
static const json_t *question_row(const gen_paragraphs *p, uint64_t k, int about) {
    uint64_t n = 0;
    for (size_t i = 0; i < json_array_size(p->rows); i++)
        n += (uint64_t)asks(json_array_get(p->rows, i), about);
    for (size_t i = 0, at = 0; i < json_array_size(p->rows); i++)
        if (asks(json_array_get(p->rows, i), about) && at++ == k % n)
            return json_array_get(p->rows, i);
    return NULL;
}

/* size: documents. Those that answer the question stand at the context's depth, one behind another in even steps. */
void qa_build(const gen_task *task, const gen_source *s, gen_random *r, int64_t size, gen_context *c) {
    const gen_paragraphs *p = s->paragraphs;
    const json_t *row = question_row(p, s->seed + (uint64_t)s->number, *(const int *)task->how);
    int n_gold = n_paragraphs(row), gold = 0;
    int64_t n = size < p->n_paragraphs ? size : p->n_paragraphs;
    int32_t *order = malloc(sizeof *order * (size_t)(p->n_paragraphs + 1));
    if (order == NULL) {
        c->failed = 1;
        return;
    }
    n = n < n_gold ? n_gold : n;
    for (int64_t i = 0; i < p->n_paragraphs; i++)
        order[i] = (int32_t)i;
    gen_shuffle(r, order, p->n_paragraphs);
    gen_text(c, "The following documents answer a question.\n\n");
    double depth = gen_depth_of(s);
    for (int64_t i = 0, next = 0; i < n; i++) {
        const char *text = NULL;
        double place = (depth + gold) / n_gold * (double)n;
        if (gold < n_gold && ((double)i >= place - 1 || n - i == n_gold - gold))
            text = paragraph(row, gold++);
        while (text == NULL && next < p->n_paragraphs) { /* another one */
            const char *other = p->paragraphs[order[next++]];
            int is_gold = 0;
            for (int k = 0; k < n_gold; k++)
                is_gold |= strcmp(other, paragraph(row, k)) == 0;
            text = is_gold ? NULL : other;
        }
        if (text != NULL)
            gen_text(c, "Document %lld:\n%s\n\n", (long long)i + 1, text);
    }
    free(order);
    gen_end(c, ".");
    gen_ask(c, n_gold == 1 ? depth : -1, "",
            "\n\nQuestion: %s\nAnswer: ", json_string_value(json_object_get(row, "question")));
    const json_t *answers = json_object_get(row, "answers");
    for (size_t i = 0; i < json_array_size(answers) && i < GEN_MAX_REFS; i++) {
        const char *answer = json_string_value(json_array_get(answers, i));
        if (answer != NULL && answer[0] != '\0')
            gen_ref(c, answer);
    }
    gen_answer(c, "%s", json_string_value(json_array_get(answers, 0)));
}
