/* compare_labels.h - names beside points of a picture, so that none covers another, a point, or the way to one. */
#ifndef SLUICE_CLI_COMPARE_LABELS_H
#define SLUICE_CLI_COMPARE_LABELS_H

typedef struct label_box {
    double x0, y0, x1, y1;
} label_box;

typedef struct label {
    double x, y; /* the point */
    const char *text;
    label_box box;   /* set when placed */
    int placed, far; /* far: a line should lead to it */
} label;

/* Places labels [n] inside the frame, earlier ones first; font in the units of the picture. Returns how many found no
 * room. */
int labels_place(label *l, int n, double font, label_box frame, const label_box *obstacle, int n_obstacles);
/* About how wide a text is; never too small for common fonts. */
double label_width(const char *text, double font);

#endif
