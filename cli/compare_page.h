/* compare_page.h - the parts of report.html. Each writes its place of cli/page/report_page.html from the report's JSON;
 * all text of users is escaped. */
#ifndef SLUICE_CLI_COMPARE_PAGE_H
#define SLUICE_CLI_COMPARE_PAGE_H

#include "compare.h"

void page_title(FILE *f, json_t *report);
void page_lede(FILE *f, json_t *report);
void page_run(FILE *f, json_t *report);
void page_highlights(FILE *f, json_t *report);
void page_figures(FILE *f, json_t *report);
void page_hint(FILE *f, json_t *report);
void page_table(FILE *f, json_t *report);
void page_failures(FILE *f, json_t *report);
void page_details(FILE *f, json_t *report);
void page_methods(FILE *f, json_t *report);
void page_footer(FILE *f, json_t *report);

/* Text with < > & " ' escaped. */
void page_text(FILE *f, const char *s);
/* Members, "" and NaN where they are absent. */
const char *page_string(json_t *object, const char *name);
double page_number(json_t *object, const char *name);
json_t *page_cell(json_t *row, const char *key);
json_t *page_column(json_t *report, const char *key);

#endif
