/* See compare_plot.h. */
#include "compare_plot.h"

#include <math.h>
#include <string.h>

#include "compare_page.h"

enum { MAX_TICKS = 12 };

void plot_axis_begin(plot_axis *a, const char *label, const char *detail) {
    *a = (plot_axis){.lo = INFINITY, .hi = -INFINITY, .label = label, .detail = detail};
}

void plot_axis_add(plot_axis *a, double v) {
    if (!isfinite(v))
        return;
    a->lo = fmin(a->lo, v);
    a->hi = fmax(a->hi, v);
}

void plot_axis_finish(plot_axis *a, int from_zero) {
    a->logarithmic = !from_zero && a->lo > 0 && a->hi > 8 * a->lo;
    if (a->logarithmic) {
        double room = pow(a->hi / a->lo, 0.07);
        a->lo /= room;
        a->hi *= room;
        return;
    }
    double size = fmax(fabs(a->lo), fabs(a->hi)), room = 0.08 * fmax(a->hi - a->lo, 0.02 * size + 1e-9);
    int positive = a->lo >= 0;
    a->hi += room;
    a->lo = from_zero || (positive && a->lo < room) ? fmin(0, a->lo) : a->lo - room;
}

void plot_axis_percent(plot_axis *a) {
    double middle = (a->lo + a->hi) / 2, half = fmax(5, (a->hi - a->lo) / 2);
    a->logarithmic = 0;
    a->hi = fmin(middle + half, 101); /* room for a mark */
    a->lo = fmax(fmin(middle - half, a->hi - 10), -1);
}

static double along(const plot_axis *a, double v) {
    return a->logarithmic ? log(v / a->lo) / log(a->hi / a->lo) : (v - a->lo) / (a->hi - a->lo);
}
double plot_x(const plot *p, double v) { return p->left + along(&p->x, v) * (p->width - p->left - p->right); }
double plot_y(const plot *p, double v) {
    return p->height - p->bottom - along(&p->y, v) * (p->height - p->top - p->bottom);
}

/* Round numbers inside of an axis, about `most` of them. */
static int ticks_of(const plot_axis *a, int most, int integers, double *out) {
    static const double steps[] = {1, 2, 2.5, 5};
    int n = 0;
    if (a->logarithmic) {
        double octaves = log10(a->hi / a->lo);
        for (double ten = pow(10, floor(log10(a->lo))); ten <= a->hi && n < MAX_TICKS; ten *= 10)
            for (int k = 0; k < 4; k++) {
                double v = ten * steps[k];
                if (k != 2 && (octaves < 2.2 || k == 0) && v >= a->lo && v <= a->hi && n < MAX_TICKS)
                    out[n++] = v;
            }
        return n;
    }
    double span = a->hi - a->lo, ten = pow(10, floor(log10(span / most))), step = ten * 10;
    for (int k = 3; k >= 0; k--)
        if (span / (ten * steps[k]) <= most && !(integers && ten * steps[k] != floor(ten * steps[k])))
            step = ten * steps[k];
    if (integers && step < 1)
        step = 1;
    for (double v = ceil(a->lo / step - 1e-9) * step; v <= a->hi + 1e-9 * span && n < MAX_TICKS; v += step)
        out[n++] = fabs(v) < 1e-9 * span ? 0 : v;
    return n;
}

/* A tick, in as few digits as it needs. */
static void tick_text(double v, char *out, size_t cap) {
    if (v >= 10000)
        snprintf(out, cap, "%.4g k", v / 1000);
    else if (v > 0 && v < 1e-3)
        snprintf(out, cap, "%.*f", (int)ceil(-log10(v) - 1e-9), v);
    else
        snprintf(out, cap, "%.6g", v);
}

void plot_text(const plot *p, double x, double y, const char *kind, const char *anchor, const char *text) {
    fprintf(p->f, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", kind, x, y, anchor);
    page_text(p->f, text);
    fputs("</text>", p->f);
}

static void axes(plot *p, int integers) {
    double ticks[MAX_TICKS], bottom = p->height - p->bottom, right = p->width - p->right;
    char text[64];
    int n = ticks_of(&p->y, 6, 0, ticks);
    for (int i = 0; i < n; i++) {
        double y = plot_y(p, ticks[i]);
        tick_text(ticks[i], text, sizeof text);
        fprintf(p->f, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", p->left, right, y, y);
        plot_text(p, p->left - 6, y + p->font * 0.35, "tick", "end", text);
    }
    n = ticks_of(&p->x, p->width > 450 ? 8 : 5, integers, ticks);
    for (int i = 0; i < n; i++) {
        double x = plot_x(p, ticks[i]);
        tick_text(ticks[i], text, sizeof text);
        fprintf(p->f, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x, p->top, bottom);
        plot_text(p, x, bottom + p->font * 1.4, "tick", "middle", text);
    }
    fprintf(p->f, "<rect class=\"frame\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", p->left, p->top,
            right - p->left, bottom - p->top);
    snprintf(text, sizeof text, "%s%s%.40s", p->x.label, p->x.detail[0] != '\0' ? ", " : "", p->x.detail);
    plot_text(p, right, p->height - 5, "label", "end", text);
    snprintf(text, sizeof text, "%s%s%.40s", p->y.label, p->y.detail[0] != '\0' ? ", " : "", p->y.detail);
    plot_text(p, 0, p->top - p->font * 0.75, "label", "start", text);
    fputc('\n', p->f);
}

void plot_begin(plot *p, int narrow, const char *description, int integers) {
    p->width = narrow ? 340 : 560;
    p->height = narrow ? 360 : 420;
    p->font = narrow ? 11 : 12;
    p->left = narrow ? 40 : 48;
    p->top = p->font * 2;
    p->bottom = p->font * 3.4;
    fprintf(p->f, "<svg class=\"plot %s\" viewBox=\"0 0 %.0f %.0f\" font-size=\"%.0f\" role=\"img\" aria-label=\"",
            narrow ? "narrow" : "wide", p->width, p->height, p->font);
    page_text(p->f, description);
    fputs("\">\n", p->f);
    axes(p, integers);
}

void plot_end(plot *p) { fputs("</svg>\n", p->f); }

void plot_mark(FILE *f, const char *family, double x, double y, double r) {
    if (strcmp(family, "cache") == 0)
        fprintf(f, "<rect class=\"mark\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", x - 0.88 * r,
                y - 0.88 * r, 1.76 * r, 1.76 * r);
    else if (strcmp(family, "drafting") == 0)
        fprintf(f, "<path class=\"mark\" d=\"M%.1f %.1fl%.1f %.1fh%.1fz\"/>", x, y - 1.2 * r, 1.15 * r, 2.05 * r,
                -2.3 * r);
    else if (strcmp(family, "weights") == 0)
        fprintf(f, "<path class=\"mark\" d=\"M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz\"/>", x, y - 1.3 * r, 1.3 * r,
                1.3 * r, -1.3 * r, 1.3 * r, -1.3 * r, -1.3 * r);
    else if (strcmp(family, "combination") == 0)
        fprintf(f, "<path class=\"mark\" d=\"M%.1f %.1fh%.1fv%.1fh%.1fv%.1fh%.1fv%.1fh%.1fv%.1fh%.1fv%.1fh%.1fz\"/>",
                x - 0.5 * r, y - 1.3 * r, r, 0.8 * r, 0.8 * r, r, -0.8 * r, 0.8 * r, -r, -0.8 * r, -0.8 * r, -r,
                0.8 * r);
    else
        fprintf(f, "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", x, y,
                strcmp(family, "base") == 0 ? 1.3 * r : r);
}
