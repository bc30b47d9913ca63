/* gen_qa.h - questions about paragraphs that the user gives. */
#ifndef SLUICE_CLI_GEN_QA_H
#define SLUICE_CLI_GEN_QA_H

#include "gen.h"

/* Lines of JSON: {"text": ..., "question": ..., "answers": [...]}; a question about several paragraphs has "texts":
 * [...] instead. A line without a question is a paragraph that others are hidden among. */
typedef struct gen_paragraphs gen_paragraphs;

/* NULL after writing an error. */
gen_paragraphs *gen_paragraphs_read(const char *path, sluice_error *err);
void gen_paragraphs_free(gen_paragraphs *p); /* NULL is legal */
/* 1 if there are questions about at least so many paragraphs. */
int gen_paragraphs_ask(const gen_paragraphs *p, int n);

/* how: const int: 1: questions about one paragraph; 2: about several. */
void qa_build(const gen_task *task, const gen_source *source, gen_random *r, int64_t size, gen_context *out);

#endif
