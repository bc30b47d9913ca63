/* See svg_plot.h. */
#include "svg_plot.h"

#include <math.h>

enum { WIDTH = 760, HEIGHT = 440, LEFT = 70, RIGHT = 200, TOP = 40, BOTTOM = 55, TICKS = 5 };

static const char *const colours[] = {"#555555", "#1f77b4", "#d62728", "#2ca02c",
                                      "#9467bd", "#ff7f0e", "#17becf", "#8c564b"};

typedef struct range {
    double lo, hi;
} range;

typedef struct frame {
    range x, y;
} frame;

static void widen(range *r, double v) {
    r->lo = v < r->lo ? v : r->lo;
    r->hi = v > r->hi ? v : r->hi;
}

static double px(const frame *f, double x) {
    return LEFT + (x - f->x.lo) / (f->x.hi - f->x.lo) * (WIDTH - LEFT - RIGHT);
}
static double py(const frame *f, double y) {
    return HEIGHT - BOTTOM - (y - f->y.lo) / (f->y.hi - f->y.lo) * (HEIGHT - TOP - BOTTOM);
}

static void text(FILE *f, double x, double y, const char *how, const char *s) {
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, how);
    for (; s != NULL && *s != '\0'; s++) {
        const char *escape = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : NULL;
        if (escape != NULL)
            fputs(escape, f);
        else
            fputc(*s, f);
    }
    fputs("</text>\n", f);
}

static void axes(FILE *f, const frame *a, const char *x_label, const char *y_label) {
    fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#333\"/>\n", LEFT, TOP,
            WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    for (int i = 0; i <= TICKS; i++) {
        char label[32];
        double y = a->y.lo + (a->y.hi - a->y.lo) * i / TICKS;
        snprintf(label, sizeof label, "%.3g", y);
        text(f, LEFT - 8, py(a, y) + 4, "text-anchor=\"end\"", label);
        fprintf(f, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", LEFT, WIDTH - RIGHT,
                py(a, y), py(a, y));
    }
    double step = ceil((a->x.hi - a->x.lo) / 12);
    for (double x = a->x.lo; x <= a->x.hi; x += step > 0 ? step : 1) {
        char label[32];
        snprintf(label, sizeof label, "%g", x);
        text(f, px(a, x), HEIGHT - BOTTOM + 18, "text-anchor=\"middle\"", label);
    }
    text(f, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12, "text-anchor=\"middle\"", x_label);
    char how[96];
    snprintf(how, sizeof how, "text-anchor=\"middle\" transform=\"rotate(-90 18 %d)\"", (TOP + HEIGHT - BOTTOM) / 2);
    text(f, 18, (TOP + HEIGHT - BOTTOM) / 2.0, how, y_label);
}

int svg_plot(FILE *f, const char *title, const char *x_label, const char *y_label, const sluice_curve *curves, int n) {
    frame a = {{INFINITY, -INFINITY}, {INFINITY, -INFINITY}};
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < curves[i].n; k++)
            if (isfinite(curves[i].x[k]) && isfinite(curves[i].y[k])) {
                widen(&a.x, curves[i].x[k]);
                widen(&a.y, curves[i].y[k]);
            }
    if (!(a.x.lo <= a.x.hi))
        return -1;
    if (a.y.lo > 0 && a.y.hi <= 1) /* shares: the whole scale tells more than a part of it */
        a.y = (range){0, 1};
    a.x.hi += a.x.hi == a.x.lo;
    a.y.hi += a.y.hi == a.y.lo;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            WIDTH, HEIGHT);
    text(f, LEFT, 24, "font-size=\"15\"", title);
    axes(f, &a, x_label, y_label);
    for (int i = 0; i < n; i++) {
        const char *colour = colours[i % (int)(sizeof colours / sizeof *colours)];
        fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
        for (int64_t k = 0; k < curves[i].n; k++)
            if (isfinite(curves[i].x[k]) && isfinite(curves[i].y[k]))
                fprintf(f, "%.1f,%.1f ", px(&a, curves[i].x[k]), py(&a, curves[i].y[k]));
        fputs("\"/>\n", f);
        for (int64_t k = 0; k < curves[i].n; k++)
            if (isfinite(curves[i].x[k]) && isfinite(curves[i].y[k]))
                fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", px(&a, curves[i].x[k]),
                        py(&a, curves[i].y[k]), colour);
        fprintf(f, "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"2\"/>\n",
                WIDTH - RIGHT + 12, WIDTH - RIGHT + 32, TOP + 12 + 20 * i, TOP + 12 + 20 * i, colour);
        text(f, WIDTH - RIGHT + 38, TOP + 16 + 20 * i, "", curves[i].name);
    }
    fputs("</svg>\n", f);
    return ferror(f) ? -1 : 0;
}
