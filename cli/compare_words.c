/* The parts of report.html that are text. */
#include <math.h>
#include <string.h>

#include "compare_page.h"

void page_title(FILE *f, json_t *report) {
    fprintf(f, "sluice compare: %zu configurations of ", json_array_size(json_object_get(report, "rows")));
    page_text(f, page_string(report, "model_filename"));
}

void page_lede(FILE *f, json_t *report) {
    size_t n = json_array_size(json_object_get(report, "rows"));
    fprintf(
        f,
        "Speed, memory and quality of <b>%zu configuration%s</b> of one model, measured side by side by one command. "
        "Ratios and differences are to <b>",
        n, n == 1 ? "" : "s");
    page_text(f, page_string(report, "base"));
    fputs("</b>; nothing on this page is an estimate.", f);
}

static void fact(FILE *f, const char *what, const char *value) {
    if (value[0] == '\0')
        return;
    fprintf(f, "<div><dt>%s</dt><dd>", what);
    page_text(f, value);
    fputs("</dd></div>\n", f);
}

void page_run(FILE *f, json_t *report) {
    json_t *machine = json_object_get(report, "machine");
    char text[256];
    double parameters = page_number(report, "model_n_params"), seconds = page_number(report, "seconds");
    if (isfinite(parameters))
        snprintf(text, sizeof text, "%s, %.1f M parameters", page_string(report, "model_filename"), parameters / 1e6);
    else
        snprintf(text, sizeof text, "%s", page_string(report, "model_filename"));
    fact(f, "Model", text);
    fact(f, "Device", page_string(report, "device_name"));
    snprintf(text, sizeof text, "%s, %d cores", page_string(machine, "cpu"), (int)page_number(machine, "cores"));
    fact(f, "Machine", text);
    double threads = page_number(report, "n_threads");
    if (isfinite(threads)) {
        snprintf(text, sizeof text, "%d, %s", (int)threads, page_string(report, "isa"));
        fact(f, "Threads, instructions", text);
    }
    snprintf(text, sizeof text, "%s (%s)", page_string(report, "version"), page_string(report, "commit"));
    fact(f, "sluice", text);
    snprintf(text, sizeof text, "%s, %.0f %s of measuring", page_string(report, "date"),
             seconds < 600 ? seconds : seconds / 60, seconds < 600 ? "s" : "min");
    fact(f, "Measured", text);
}

void page_hint(FILE *f, json_t *report) {
    (void)report;
    fputs("Choose a heading to sort by it; again to turn the order round.", f);
}

/* ---- what stands out --------------------------------------------------------------------------------------------- */

static int is_base(json_t *report, json_t *row) { return json_array_get(json_object_get(report, "rows"), 0) == row; }

/* Perplexity and retrieval within 1 % of the base's, as far as they were measured. */
static int without_loss(json_t *row) {
    double ratio = page_number(page_cell(row, "ppl"), "ratio");
    double lost = page_number(page_cell(row, "retrieval"), "difference");
    return (isfinite(ratio) || isfinite(lost)) && !(ratio > 1.01) && !(lost < -1);
}

/* The best row by a column's ratio (or its value), not the base; NULL: none is better than the base. */
static json_t *best_row(json_t *report, const char *key, const char *by, int better, int lossless) {
    json_t *best = NULL, *row;
    double record = strcmp(by, "ratio") == 0 ? 1 : better > 0 ? 0 : INFINITY;
    size_t i;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        double v = page_number(page_cell(row, key), by);
        if (!is_base(report, row) && isfinite(v) && better * v > better * record && (!lossless || without_loss(row))) {
            record = v;
            best = row;
        }
    }
    return best;
}

/* What the quality of a configuration is, beside the base's. */
static void price(FILE *f, json_t *row) {
    json_t *ppl = page_cell(row, "ppl"), *retrieval = page_cell(row, "retrieval"), *kld = page_cell(row, "kld");
    double ratio = page_number(ppl, "ratio"), right = page_number(retrieval, "value");
    char number[64];
    int n = 0;
    fputs("<p class=\"price\">", f);
    if (isfinite(ratio))
        fprintf(f, "%sperplexity %.3f×", n++ > 0 ? ", " : "", ratio);
    if (isfinite(page_number(kld, "value"))) {
        compare_number(number, sizeof number, page_number(kld, "value"));
        fprintf(f, "%sKL divergence %s", n++ > 0 ? ", " : "", number);
    }
    if (isfinite(right)) {
        compare_number(number, sizeof number, right);
        fprintf(f, "%s%s %% of answers right", n++ > 0 ? ", " : "", number);
    }
    fputs(n > 0 ? "</p>" : "quality was not measured</p>", f);
}

static void card(FILE *f, json_t *report, const char *what, const char *key, const char *by, int better, int lossless) {
    json_t *column = page_column(report, key);
    json_t *row = column != NULL ? best_row(report, key, by, better, lossless) : NULL;
    char number[64], beside[128], count[64];
    if (row == NULL)
        return;
    json_t *cell = page_cell(row, key);
    int ratio = strcmp(by, "ratio") == 0;
    compare_number(number, sizeof number, page_number(cell, by));
    compare_beside(beside, sizeof beside, cell);
    compare_count(count, sizeof count, cell);
    fprintf(f, "<div class=\"card f-%s\"><p class=\"what\">%s</p><p class=\"big\">%s%s", page_string(row, "family"),
            what, number, ratio ? "×" : "");
    const char *interval = ratio ? strchr(beside, '(') : NULL;
    if (interval != NULL)
        fprintf(f, " <small>%s</small>", interval);
    fputs("</p><p class=\"who\">", f);
    page_text(f, page_string(row, "name"));
    fputs("</p><p class=\"what\">", f);
    page_text(f,
              page_string(column, "detail")[0] != '\0' ? page_string(column, "detail") : page_string(column, "unit"));
    fprintf(f, "%s%s</p>", count[0] != '\0' ? ", " : "", count);
    price(f, row);
    fputs("</div>\n", f);
}

void page_highlights(FILE *f, json_t *report) {
    const char *speed = page_column(report, "deep") != NULL ? "deep" : "decode";
    if (json_array_size(json_object_get(report, "columns")) == 0 ||
        json_array_size(json_object_get(report, "rows")) < 2)
        return;
    fputs("<section aria-labelledby=\"best\"><h2 id=\"best\">What stands out</h2><div class=\"cards\">\n", f);
    card(f, report, "Fastest decoding", speed, "ratio", 1, 0);
    card(f, report, "Fastest within 1 % of the base’s quality", speed, "ratio", 1, 1);
    card(f, report, "Smallest KV cache", "kv", "ratio", -1, 0);
    card(f, report, "Smallest weights", "weights", "ratio", -1, 0);
    card(f, report, "Most tokens a step from drafts", "tokens_step", "value", 1, 0);
    fputs("</div></section>\n", f);
}

/* ---- below the table --------------------------------------------------------------------------------------------- */

void page_failures(FILE *f, json_t *report) {
    size_t i;
    json_t *row;
    int n = 0;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        if (json_is_null(json_object_get(row, "failed")))
            continue;
        if (n++ == 0)
            fputs("<section aria-labelledby=\"failures\"><h2 id=\"failures\">What did not run</h2>"
                  "<p class=\"hint\">A combination that does not fit is refused at the start, with its reason.</p>"
                  "<ul class=\"wrong\">\n",
                  f);
        fputs("<li><b>", f);
        page_text(f, page_string(row, "name"));
        fputs("</b>: ", f);
        page_text(f, page_string(row, "failed"));
        fputs("</li>\n", f);
    }
    if (n > 0)
        fputs("</ul></section>\n", f);
}

static void words(FILE *f, json_t *list) {
    size_t i;
    json_t *word;
    json_array_foreach(list, i, word) {
        const char *w = json_string_value(word), *quote = strpbrk(w, " ;|&") != NULL ? "\"" : "";
        fprintf(f, "%s%s", i > 0 ? " " : "", quote);
        page_text(f, w);
        fputs(quote, f);
    }
}

void page_details(FILE *f, json_t *report) {
    size_t i;
    json_t *row, *task;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        const char *name;
        fprintf(f, "<details id=\"configuration-%zu\" class=\"f-%s\"><summary><b>", i, page_string(row, "family"));
        page_text(f, page_string(row, "name"));
        fputs("</b> <span>", f);
        page_text(f, page_string(row, "title"));
        fputs("</span></summary><div><pre>", f);
        page_text(f, page_string(row, "ini"));
        fputs("</pre>", f);
        json_object_foreach(json_object_get(row, "tasks"), name, task) {
            if (json_array_size(json_object_get(task, "command")) == 0)
                continue;
            fprintf(f, "<h3>%s, %.1f s</h3><pre>", name, page_number(task, "seconds"));
            words(f, json_object_get(task, "command"));
            fputs("</pre>", f);
        }
        fputs("</div></details>\n", f);
    }
}

void page_methods(FILE *f, json_t *report) {
    size_t i;
    json_t *task;
    fputs("<dl class=\"methods\">\n", f);
    json_array_foreach(json_object_get(report, "tasks"), i, task) {
        fputs("<dt>", f);
        page_text(f, page_string(task, "title"));
        fputs("</dt><dd>", f);
        page_text(f, page_string(task, "what"));
        fputs(". <code>", f);
        page_text(f, page_string(task, "arguments"));
        fputs("</code></dd>\n", f);
    }
    fputs("<dt>Intervals</dt><dd>95 %: of a median of paired ratios by its order statistics (six pairs or more), of "
          "means "
          "by Student’s t over windows or contexts. An interval tells what chance alone may do, not what another text, "
          "model or machine "
          "would.</dd>\n<dt>The command</dt><dd><pre>",
          f);
    words(f, json_object_get(report, "command"));
    fputs("</pre></dd></dl>\n", f);
}

void page_footer(FILE *f, json_t *report) {
    fputs("Made by <code>sluice compare</code> ", f);
    page_text(f, page_string(report, "version"));
    fputs(", commit ", f);
    page_text(f, page_string(report, "commit"));
    fputs(". Raw figures: report.json beside this page.", f);
}
