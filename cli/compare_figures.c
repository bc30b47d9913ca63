/* The pictures of report.html: quality against speed and memory, speed over context, acceptance by depth. Each is drawn
 * twice, for wide and for narrow screens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare_labels.h"
#include "compare_page.h"
#include "compare_plot.h"

typedef struct point {
    const char *name, *family;
    double x, x_low, x_high, y, y_low, y_high;
} point;

/* A column's value on an axis: its ratio to the base where that is what was measured in pairs. */
static double on_axis(json_t *cell, int ratio, double *low, double *high) {
    double v = page_number(cell, ratio ? "ratio" : "value"), r = page_number(cell, "ratio"),
           half = page_number(cell, "half_width");
    double scale = ratio ? 1 : page_number(cell, "value") / r;
    *low = isfinite(half) ? v - half : page_number(cell, "ratio_low") * scale;
    *high = isfinite(half) ? v + half : page_number(cell, "ratio_high") * scale;
    return v;
}

static int points_of(json_t *report, const char *x, int x_ratio, const char *y, point *out) {
    json_t *row;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        point p = {.name = page_string(row, "name"), .family = page_string(row, "family")};
        p.x = on_axis(page_cell(row, x), x_ratio, &p.x_low, &p.x_high);
        if (i == 0 && x_ratio && isfinite(page_number(page_cell(row, x), "value")))
            p.x = p.x_low = p.x_high = 1; /* the base beside itself */
        p.y = on_axis(page_cell(row, y), 0, &p.y_low, &p.y_high);
        if (i == 0 && strcmp(y, "kld") == 0)
            p.y = p.y_low = p.y_high = 0; /* no distance from itself */
        if (isfinite(p.x) && isfinite(p.y) && n < COMPARE_MAX_CONFIGS)
            out[n++] = p;
    }
    return n;
}

static void point_begin(FILE *f, const char *name, const char *family) {
    fprintf(f, "<g class=\"one f-%s\"><title>", family);
    page_text(f, name);
}

static void whisker(const plot *p, double x0, double y0, double x1, double y1) {
    if (isfinite(x0 + y0 + x1 + y1) && (fabs(x1 - x0) > 2 || fabs(y1 - y0) > 2))
        fprintf(p->f, "<line class=\"whisker\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", x0, y0, x1, y1);
}

static double within(double v, double lo, double hi) { return fmin(fmax(v, lo), hi); }

static void lead(const plot *p, const label *l) {
    if (l->far)
        fprintf(p->f, "<line class=\"lead\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", l->x, l->y,
                within(l->x, l->box.x0, l->box.x1), within(l->y, l->box.y0, l->box.y1));
}

/* Names of a narrow picture end early. */
static void shorten(const char *name, int narrow, char *out, size_t cap) {
    snprintf(out, cap, narrow && strlen(name) > 18 ? "%.16s…" : "%.40s", name);
}

/* Where better lies, above the frame. better: 1: more, -1: less. */
static void compass(const plot *p, int x_better, int y_better) {
    const char *text =
        x_better > 0 ? (y_better > 0 ? "better ↗" : "better ↘") : (y_better > 0 ? "better ↖" : "better ↙");
    plot_text(p, p->width - p->right, p->top - p->font * 0.75, "better", "end", text);
}

static int scatter(FILE *f, const point *all, int n, plot_axis x, plot_axis y, int x_better, int y_better, int narrow,
                   const char *description) {
    plot p = {.f = f, .right = 8, .x = x, .y = y};
    label l[COMPARE_MAX_CONFIGS] = {{0}};
    char names[COMPARE_MAX_CONFIGS][64];
    plot_begin(&p, narrow, description, 0);
    label_box frame = {p.left + 2, p.top + 2, p.width - p.right - 2, p.height - p.bottom - 2};
    compass(&p, x_better, y_better);
    for (int i = 0; i < n; i++) {
        shorten(all[i].name, narrow, names[i], sizeof names[i]);
        l[i] = (label){.x = plot_x(&p, all[i].x), .y = plot_y(&p, all[i].y), .text = names[i]};
        if (strcmp(all[i].family, "base") == 0)
            fprintf(f, "<path class=\"reference\" d=\"M%.1f %.1fV%.1fM%.1f %.1fH%.1f\"/>\n", l[i].x, p.top,
                    p.height - p.bottom, p.left, l[i].y, p.width - p.right);
    }
    int left_out = labels_place(l, n, p.font, frame, NULL, 0);
    for (int i = 0; i < n; i++) {
        point_begin(f, all[i].name, all[i].family);
        char a[32], b[32];
        compare_number(a, sizeof a, all[i].x);
        compare_number(b, sizeof b, all[i].y);
        fprintf(f, ": %s; %s</title>", a, b);
        whisker(&p, within(plot_x(&p, all[i].x_low), p.left, p.width - p.right), l[i].y,
                within(plot_x(&p, all[i].x_high), p.left, p.width - p.right), l[i].y);
        whisker(&p, l[i].x, within(plot_y(&p, all[i].y_low), p.top, p.height - p.bottom), l[i].x,
                within(plot_y(&p, all[i].y_high), p.top, p.height - p.bottom));
        lead(&p, &l[i]);
        plot_mark(f, all[i].family, l[i].x, l[i].y, 4.6);
        if (l[i].placed)
            plot_text(&p, (l[i].box.x0 + l[i].box.x1) / 2, l[i].box.y1 - p.font * 0.33, "name", "middle", names[i]);
        fputs("</g>\n", f);
    }
    plot_end(&p);
    return left_out;
}

static void caption(FILE *f, const char *title, int n, int all, int left_out, int noughts) {
    fprintf(f, "<figcaption><h3>%s</h3><p>", title);
    if (n < all)
        fprintf(f, "%d of %d configurations have both figures. ", n, all);
    fputs("Dashed: the base. Lines at a mark: 95 % intervals.", f);
    if (noughts)
        fputs(" At the lower edge: none at all.", f);
    if (left_out > 0)
        fprintf(f, " %d name%s found no room; point at a mark to read it.", left_out, left_out == 1 ? "" : "s");
    fputs("</p></figcaption>\n", f);
}

/* Distances span decades: a logarithmic axis, on which nought stands at the lower edge. 1: there was one. */
static int raise_noughts(point *all, int n) {
    double least = INFINITY;
    int any = 0;
    for (int i = 0; i < n; i++)
        least = all[i].y > 0 ? fmin(least, all[i].y) : least;
    for (int i = 0; i < n && isfinite(least); i++)
        if (all[i].y <= 0) {
            all[i].y = all[i].y_low = all[i].y_high = least / 3;
            any = 1;
        }
    return any;
}

/* y against x; nothing where fewer than two configurations have both. */
static void scatter_figure(FILE *f, json_t *report, const char *x_key, int x_ratio, const char *x_label,
                           const char *y_key, const char *title) {
    json_t *x_column = page_column(report, x_key), *y_column = page_column(report, y_key);
    point all[COMPARE_MAX_CONFIGS];
    int n = x_column != NULL && y_column != NULL ? points_of(report, x_key, x_ratio, y_key, all) : 0;
    if (n < 2)
        return;
    int noughts = strcmp(y_key, "kld") == 0 && raise_noughts(all, n);
    plot_axis x, y;
    char y_label[96], description[256];
    snprintf(y_label, sizeof y_label, "%.40s, %.40s", page_string(y_column, "label"), page_string(y_column, "unit"));
    snprintf(description, sizeof description, "%s: %d configurations. The table below holds the figures.", title, n);
    plot_axis_begin(&x, x_label, page_string(x_column, "detail"));
    plot_axis_begin(&y, y_label, page_string(y_column, "detail"));
    for (int i = 0; i < n; i++)
        plot_axis_add(&x, all[i].x), plot_axis_add(&y, all[i].y);
    plot_axis_finish(&x, 0);
    plot_axis_finish(&y, 0);
    if (strchr(page_string(y_column, "unit"), '%') != NULL)
        plot_axis_percent(&y);
    int x_better = (int)json_integer_value(json_object_get(x_column, "better"));
    int y_better = (int)json_integer_value(json_object_get(y_column, "better"));
    fputs("<figure>", f);
    char *drawn[2] = {NULL, NULL};
    size_t length[2];
    int left_out = 0;
    for (int narrow = 0; narrow < 2; narrow++) {
        FILE *m = open_memstream(&drawn[narrow], &length[narrow]);
        if (m == NULL)
            continue;
        int missing = scatter(m, all, n, x, y, x_better, y_better, narrow, description);
        left_out = missing > left_out ? missing : left_out;
        fclose(m);
    }
    caption(f, title, n, (int)json_array_size(json_object_get(report, "rows")), left_out, noughts);
    for (int narrow = 0; narrow < 2; narrow++) {
        fputs(drawn[narrow] != NULL ? drawn[narrow] : "", f);
        free(drawn[narrow]);
    }
    fputs("</figure>\n", f);
}

/* ---- curves ------------------------------------------------------------------------------------------------------ */

enum { MAX_POINTS = 64 };

typedef struct curve {
    const char *name, *family;
    double x[MAX_POINTS], y[MAX_POINTS];
    int n;
    double at; /* where its name stands */
} curve;

/* Names at the right ends, pushed apart; order: by the last point. */
static void spread(const plot *p, curve **order, int n) {
    double step = p->font * 1.18, lowest = p->height - p->bottom;
    for (int i = 0; i < n; i++) {
        order[i]->at = plot_y(p, order[i]->y[order[i]->n - 1]);
        for (int k = i; k > 0 && order[k - 1]->at > order[k]->at; k--) {
            curve *swap = order[k];
            order[k] = order[k - 1];
            order[k - 1] = swap;
        }
    }
    for (int i = 1; i < n; i++)
        order[i]->at = fmax(order[i]->at, order[i - 1]->at + step);
    for (int i = n - 1; i >= 0; i--)
        order[i]->at = fmin(order[i]->at, i == n - 1 ? lowest : order[i + 1]->at - step);
}

static void curves(FILE *f, curve *all, int n, plot_axis x, plot_axis y, int narrow, int integers,
                   const char *description) {
    plot p = {.f = f, .right = narrow ? 112 : 150, .x = x, .y = y};
    curve *order[COMPARE_MAX_CONFIGS];
    plot_begin(&p, narrow, description, integers);
    for (int i = 0; i < n; i++)
        order[i] = &all[i];
    spread(&p, order, n);
    for (int i = 0; i < n; i++) {
        const curve *c = order[i];
        char name[64];
        point_begin(f, c->name, c->family);
        fputs("</title><polyline class=\"curve\" points=\"", f);
        for (int k = 0; k < c->n; k++)
            fprintf(f, "%.1f,%.1f ", plot_x(&p, c->x[k]), plot_y(&p, c->y[k]));
        fputs("\"/>", f);
        for (int k = 0; k < c->n; k++)
            plot_mark(f, c->family, plot_x(&p, c->x[k]), plot_y(&p, c->y[k]), 3.2);
        double end = plot_x(&p, c->x[c->n - 1]), side = p.width - p.right;
        fprintf(f, "<line class=\"lead\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", end,
                plot_y(&p, c->y[c->n - 1]), side + 8, c->at);
        snprintf(name, sizeof name, narrow && strlen(c->name) > 16 ? "%.14s…" : "%.24s", c->name);
        plot_text(&p, side + 11, c->at + p.font * 0.35, "name", "start", name);
        fputs("</g>\n", f);
    }
    plot_end(&p);
}

static void curve_figure(FILE *f, curve *all, int n, const char *x_label, const char *y_label, int integers,
                         const char *title, const char *note) {
    plot_axis x, y;
    char description[256];
    if (n < 1)
        return;
    snprintf(description, sizeof description, "%s: %d curves.", title, n);
    plot_axis_begin(&x, x_label, "");
    plot_axis_begin(&y, y_label, "");
    for (int i = 0; i < n; i++)
        for (int k = 0; k < all[i].n; k++)
            plot_axis_add(&x, all[i].x[k]), plot_axis_add(&y, all[i].y[k]);
    plot_axis_finish(&x, 0);
    x.logarithmic = 0;
    plot_axis_finish(&y, 1);
    fprintf(f, "<figure><figcaption><h3>%s</h3><p>%s</p></figcaption>\n", title, note);
    for (int narrow = 0; narrow < 2; narrow++)
        curves(f, all, n, x, y, narrow, integers, description);
    fputs("</figure>\n", f);
}

/* Decode speed at each depth. */
static int speed_of(json_t *row, curve *c) {
    json_t *tests = compare_member(row, "tasks.bench.result.tests"), *t;
    size_t i;
    c->n = 0;
    json_array_foreach(tests, i, t) {
        if (page_number(t, "n_gen") > 0 && c->n < MAX_POINTS) {
            c->x[c->n] = page_number(t, "n_depth");
            c->y[c->n++] = page_number(t, "ts");
        }
    }
    return c->n > 1 && c->x[0] != c->x[c->n - 1];
}

static int acceptance_of(json_t *row, curve *c) {
    json_t *shares = compare_member(row, "tasks.spec.result.runs.0.results.category=all.acceptance_by_depth"), *share;
    size_t i;
    c->n = 0;
    json_array_foreach(shares, i, share) {
        if (json_is_number(share) && c->n < 12) {
            c->x[c->n] = (double)i + 1;
            c->y[c->n++] = 100 * json_number_value(share);
        }
    }
    return c->n > 0;
}

static int curves_of(json_t *report, int (*of)(json_t *row, curve *c), curve *all) {
    json_t *row;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(report, "rows"), i, row) {
        if (n < COMPARE_MAX_CONFIGS && of(row, &all[n])) {
            all[n].name = page_string(row, "name");
            all[n++].family = page_string(row, "family");
        }
    }
    return n;
}

static void legend(FILE *f, json_t *report) {
    static const char *const families[][2] = {
        {"base", "base"},       {"attention", "attention"},     {"cache", "KV cache"},        {"drafting", "drafting"},
        {"weights", "weights"}, {"combination", "combination"}, {"settings", "settings only"}};
    fputs("<ul class=\"legend\">", f);
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        json_t *row;
        size_t i;
        int any = 0;
        json_array_foreach(json_object_get(report, "rows"), i, row) any |=
            strcmp(page_string(row, "family"), families[k][0]) == 0;
        if (!any)
            continue;
        fprintf(f, "<li class=\"f-%s\"><svg width=\"12\" height=\"12\" aria-hidden=\"true\">", families[k][0]);
        plot_mark(f, families[k][0], 6, 6, 4.6);
        fprintf(f, "</svg>%s</li>", families[k][1]);
    }
    fputs("</ul>\n", f);
}

void page_figures(FILE *f, json_t *report) {
    static curve all[COMPARE_MAX_CONFIGS];
    static const char *const qualities[][3] = {
        {"retrieval", "Retrieval against speed", "Retrieval against memory"},
        {"ppl", "Perplexity against speed", "Perplexity against memory"},
        {"kld", "Distance from the base against speed", "Distance from the base against memory"}};
    const char *speed = page_column(report, "deep") != NULL ? "deep" : "decode";
    if (json_array_size(json_object_get(report, "columns")) == 0)
        return;
    fputs("<section aria-labelledby=\"pictures\"><h2 id=\"pictures\">Quality, speed, memory</h2>\n", f);
    legend(f, report);
    fputs("<div class=\"figures\">\n", f);
    for (size_t i = 0; i < sizeof qualities / sizeof *qualities; i++) {
        if (strcmp(qualities[i][0], "ppl") == 0 && page_column(report, "kld") != NULL)
            continue; /* the finer measure of the same thing */
        scatter_figure(f, report, speed, 1, "Decoding, times the base", qualities[i][0], qualities[i][1]);
        scatter_figure(f, report, "kv", 0, "KV cache, MB", qualities[i][0], qualities[i][2]);
    }
    curve_figure(f, all, curves_of(report, speed_of, all), "tokens of context", "Decoding, tokens/s", 0,
                 "Speed over context", "Medians of the runs, at each depth that was measured.");
    curve_figure(f, all, curves_of(report, acceptance_of, all), "depth in the draft", "Accepted, % of drafts that deep",
                 1, "Acceptance by depth",
                 "Of the steps whose draft reached a depth, the share whose accepted text did; greedy, all prompts.");
    fputs("</div></section>\n", f);
}
