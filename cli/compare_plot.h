/* compare_plot.h - axes and marks of the report's pictures, inline SVG that the page's style colours. */
#ifndef SLUICE_CLI_COMPARE_PLOT_H
#define SLUICE_CLI_COMPARE_PLOT_H

#include <stdio.h>

typedef struct plot_axis {
    double lo, hi; /* lo > hi: nothing was put in yet */
    int logarithmic;
    const char *label, *detail; /* detail: what exactly was measured, "" or more */
} plot_axis;

typedef struct plot {
    FILE *f;
    double width, height, left, right, top, bottom, font;
    plot_axis x, y;
} plot;

/* What a column's label says on an axis begins empty; values widen it. */
void plot_axis_begin(plot_axis *a, const char *label, const char *detail);
void plot_axis_add(plot_axis *a, double v);
/* Room at the ends; logarithmic when they are far apart. */
void plot_axis_finish(plot_axis *a, int from_zero);

/* Of values in percent: not beyond 0 and 100, and at least ten points of them. */
void plot_axis_percent(plot_axis *a);

/* Opens the picture with frame, grid and labels. integers: ticks of x at whole numbers. description: what it says to
 * those who cannot see it. */
void plot_begin(plot *p, int narrow, const char *description, int integers);
void plot_end(plot *p);
double plot_x(const plot *p, double v);
double plot_y(const plot *p, double v);
/* The family's shape around a point. */
void plot_mark(FILE *f, const char *family, double x, double y, double r);
void plot_text(const plot *p, double x, double y, const char *kind, const char *anchor, const char *text);

#endif
