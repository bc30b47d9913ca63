/* The table of report.html. */
#include <math.h>
#include <string.h>

#include "compare_page.h"

/* What most cells of a column say about their number of measurements; it stands in the header once. */
static void count_of(json_t *report, json_t *column, char *out, size_t cap) {
    size_t i;
    json_t *row;
    out[0] = '\0';
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        json_t *cell = page_cell(row, page_string(column, "key"));
        if (cell != NULL) {
            compare_count(out, cap, cell);
            return;
        }
    }
}

static void head(FILE *f, json_t *report, json_t *columns) {
    size_t i;
    json_t *column;
    fputs("<thead><tr><th scope=\"col\" data-first=\"ascending\"><button type=\"button\"><span "
          "class=\"by\">Configuration</span>"
          "<small>the first is the base</small></button></th>",
          f);
    json_array_foreach(columns, i, column) {
        char count[64];
        count_of(report, column, count, sizeof count);
        fprintf(f, "<th scope=\"col\" data-key=\"%s\" data-first=\"%s\" title=\"", page_string(column, "key"),
                json_integer_value(json_object_get(column, "better")) < 0 ? "ascending" : "descending");
        page_text(f, page_string(column, "what"));
        fputs("\"><button type=\"button\"><span class=\"by\">", f);
        page_text(f, page_string(column, "label"));
        fputs("</span><small>", f);
        page_text(f, page_string(column, "unit"));
        if (page_string(column, "detail")[0] != '\0') {
            fputs("<br>", f);
            page_text(f, page_string(column, "detail"));
        }
        fprintf(f, "%s%s</small></button></th>", count[0] != '\0' ? "<br>" : "", count);
    }
    fputs("</tr></thead>\n", f);
}

static double largest(json_t *report, const char *key) {
    double most = 0;
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        double v = page_number(page_cell(row, key), "value");
        most = v > most ? v : most;
    }
    return most;
}

static void cell(FILE *f, json_t *report, json_t *column, json_t *row) {
    const char *key = page_string(column, "key");
    json_t *c = page_cell(row, key);
    char value[64], beside[128], count[64], usual[64];
    if (c == NULL) {
        fputs("<td class=\"none\"><span aria-label=\"not measured\">–</span></td>", f);
        return;
    }
    double v = page_number(c, "value"), most = largest(report, key);
    compare_number(value, sizeof value, v);
    compare_beside(beside, sizeof beside, c);
    compare_count(count, sizeof count, c);
    count_of(report, column, usual, sizeof usual);
    fprintf(f, "<td data-value=\"%.9g\" data-label=\"", v);
    page_text(f, page_string(column, "label"));
    fputs("\" data-unit=\"", f);
    page_text(f, page_string(column, "unit"));
    fprintf(f, "%s%s", count[0] != '\0' ? ", " : "", count);
    fputs("\" title=\"measured: ", f);
    fprintf(f, "%s ", value);
    page_text(f, page_string(column, "unit"));
    fprintf(f, "%s%s%s%s\"><span class=\"v\">", beside[0] != '\0' ? "; beside the base " : "", beside,
            count[0] != '\0' ? "; " : "", count);
    fprintf(f, compare_is_best(report, column, row) ? "<b>%s</b></span>" : "%s</span>", value);
    fprintf(f, "<span class=\"level\" style=\"--part:%.3f\"></span>", most > 0 && v > 0 ? v / most : 0);
    char *interval = strchr(beside, '(');
    if (interval != NULL && interval > beside) { /* on a line of its own */
        interval[-1] = '\0';
        fprintf(f, "<small>%s</small><small>%s</small>", beside, interval);
    } else if (beside[0] != '\0')
        fprintf(f, "<small>%s</small>", beside);
    if (strcmp(count, usual) != 0)
        fprintf(f, "<small>%s</small>", count);
    fputs("</td>", f);
}

static void name(FILE *f, json_t *row, size_t i) {
    const char *family = page_string(row, "family");
    fputs("<th scope=\"row\" data-value=\"", f);
    page_text(f, page_string(row, "name"));
    fprintf(f, "\"><a href=\"#configuration-%zu\">", i);
    page_text(f, page_string(row, "name"));
    fprintf(f, "</a><small class=\"family\">%s</small>", family);
    if (!json_is_null(json_object_get(row, "failed"))) {
        fputs("<small class=\"reason\">", f);
        page_text(f, page_string(row, "failed"));
        fputs("</small>", f);
    }
    fputs("</th>", f);
}

void page_table(FILE *f, json_t *report) {
    json_t *columns = json_object_get(report, "columns"), *row, *column;
    size_t i, k;
    fputs("<table class=\"all\"><caption>Every figure was measured in this run. Beside it: the ratio to ", f);
    page_text(f, page_string(report, "base"));
    fputs(" with its 95 % interval, or the difference to it. Bold: the best of a column. Bars: share of a column’s "
          "largest."
          "</caption>\n",
          f);
    head(f, report, columns);
    fputs("<tbody>\n", f);
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        fprintf(f, "<tr class=\"f-%s%s\">", page_string(row, "family"), i == 0 ? " base" : "");
        name(f, row, i);
        json_array_foreach(columns, k, column) cell(f, report, column, row);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table>\n", f);
}
