/* svg_plot.h - curves as a picture that any browser shows. */
#ifndef SLUICE_CLI_SVG_PLOT_H
#define SLUICE_CLI_SVG_PLOT_H

#include <stdio.h>

#include "libsluice.h"

/* Writes one chart: axes from the data's own range, a legend, a dot at every point. Points whose y is NaN are left out.
 * 0, or -1 when nothing could be drawn (no points). */
int svg_plot(FILE *f, const char *title, const char *x_label, const char *y_label, const sluice_curve *curves, int n);

#endif
