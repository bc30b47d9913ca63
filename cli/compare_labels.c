/* See compare_labels.h. */
#include "compare_labels.h"

#include <math.h>

enum { ANGLES = 24, MAX_TAKEN = 512 };

static int overlap(label_box a, label_box b) { return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1; }

/* Does the line from (x, y) to (u, v) run through the box? */
static int crosses(label_box b, double x, double y, double u, double v) {
    for (int i = 1; i < 24; i++) {
        double px = x + (u - x) * i / 24, py = y + (v - y) * i / 24;
        if (px > b.x0 && px < b.x1 && py > b.y0 && py < b.y1)
            return 1;
    }
    return 0;
}

static int is_free(label_box box, label_box frame, const label_box *taken, int n, const label *l, int n_labels,
                   const label *own, int strict) {
    if (box.x0 < frame.x0 || box.x1 > frame.x1 || box.y0 < frame.y0 || box.y1 > frame.y1)
        return 0;
    for (int i = 0; i < n; i++)
        if (overlap(box, taken[i]))
            return 0;
    if (!strict)
        return 1;
    double to_x = fmax(box.x0, fmin(own->x, box.x1)), to_y = fmax(box.y0, fmin(own->y, box.y1));
    for (int i = 0; i < n_labels; i++) {
        if (!l[i].placed)
            continue;
        /* nor may its line cross another label, or another label's line cross it */
        double other_x = fmax(l[i].box.x0, fmin(l[i].x, l[i].box.x1)),
               other_y = fmax(l[i].box.y0, fmin(l[i].y, l[i].box.y1));
        if (crosses(l[i].box, own->x, own->y, to_x, to_y) || crosses(box, l[i].x, l[i].y, other_x, other_y))
            return 0;
    }
    return 1;
}

/* Farther and farther away, in all directions, beginning at the right. strict: no line may cross a name. */
static void place_one(label *own, double width, double height, label_box frame, const label_box *taken, int n,
                      const label *l, int n_labels, int strict) {
    for (double r = 9; r < 190 && !own->placed; r += r < 30 ? 5 : 10)
        for (int k = 0; k < ANGLES && !own->placed; k++) {
            double turn = 2 * 3.14159265358979 * ((k + 1) / 2) / ANGLES * (k % 2 ? 1 : -1), dx = cos(turn),
                   dy = sin(turn);
            double cx = own->x + dx * (r + width / 2), cy = own->y + dy * (r + height / 2);
            label_box box = {cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2};
            if (!is_free(box, frame, taken, n, l, n_labels, own, strict))
                continue;
            own->box = box;
            own->placed = 1;
            own->far = r > 12;
        }
}

int labels_place(label *l, int n, double font, label_box frame, const label_box *obstacle, int n_obstacles) {
    label_box taken[MAX_TAKEN];
    int n_taken = 0, left_out = 0;
    for (int i = 0; i < n_obstacles && n_taken < MAX_TAKEN; i++)
        taken[n_taken++] = obstacle[i];
    for (int i = 0; i < n && n_taken < MAX_TAKEN; i++)
        taken[n_taken++] = (label_box){l[i].x - 6, l[i].y - 6, l[i].x + 6, l[i].y + 6};
    for (int i = 0; i < n; i++) {
        for (int strict = 1; strict >= 0 && !l[i].placed; strict--)
            place_one(&l[i], label_width(l[i].text, font), font * 1.25, frame, taken, n_taken, l, n, strict);
        if (l[i].placed && n_taken < MAX_TAKEN)
            taken[n_taken++] = l[i].box;
        left_out += !l[i].placed;
    }
    return left_out;
}

double label_width(const char *text, double font) {
    double em = 0;
    for (; *text != '\0'; text++)
        if ((*text & 0xc0) != 0x80) /* a continued byte of UTF-8 has no width of its own */
            em += *text == 'i' || *text == 'l' || *text == 'j' || *text == '.' || *text == ' ' ? 0.42
                  : *text == 'm' || *text == 'w' || (*text >= 'A' && *text <= 'Z')             ? 1.02
                                                                                               : 0.7;
    return em * font + 2;
}
