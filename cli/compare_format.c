/* Numbers of the report as text. */
#include <math.h>
#include <string.h>

#include "compare.h"

void compare_number(char *out, size_t cap, double v) {
    double size = fabs(v);
    int digits = size >= 100 || size == 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    while (digits >= 3 && digits < 7 && size * pow(10, digits) < 100)
        digits++;
    snprintf(out, cap, "%s%.*f", v < 0 ? "−" : "", digits, size);
}

static double number(json_t *cell, const char *name) {
    json_t *v = json_object_get(cell, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

void compare_beside(char *out, size_t cap, json_t *cell) {
    double ratio = number(cell, "ratio"), low = number(cell, "ratio_low"), high = number(cell, "ratio_high");
    double difference = number(cell, "difference"), half = number(cell, "half_width");
    char a[32];
    out[0] = '\0';
    if (isfinite(ratio) && isfinite(low) && isfinite(high))
        snprintf(out, cap, "%.*f× (%.*f–%.*f)", ratio < 0.0995 ? 3 : 2, ratio, ratio < 0.0995 ? 3 : 2, low,
                 ratio < 0.0995 ? 3 : 2, high);
    else if (isfinite(ratio))
        snprintf(out, cap, "%.*f×", ratio < 0.0995 ? 3 : 2, ratio);
    else if (isfinite(difference)) {
        compare_number(a, sizeof a, difference);
        snprintf(out, cap, "%s%s", difference > 0 ? "+" : "", a);
    }
    if (isfinite(half)) {
        compare_number(a, sizeof a, half);
        snprintf(out + strlen(out), cap - strlen(out), "%s± %s", out[0] != '\0' ? " " : "", a);
    }
}

void compare_count(char *out, size_t cap, json_t *cell) {
    const char *unit = json_string_value(json_object_get(cell, "n_unit"));
    long long n = (long long)number(cell, "n");
    out[0] = '\0';
    if (unit != NULL)
        snprintf(out, cap, "%s%lld %.*s", strcmp(unit, "runs") == 0 && n > 1 ? "median of " : "", n,
                 (int)strlen(unit) - (n == 1), unit);
}

/* Better than the best of all others, or as good as it. */
int compare_is_best(json_t *report, json_t *column, json_t *row) {
    const char *key = json_string_value(json_object_get(column, "key"));
    int better = (int)json_integer_value(json_object_get(column, "better"));
    double own = number(json_object_get(json_object_get(row, "cells"), key), "value"), worst = own;
    size_t i;
    json_t *other;
    if (!isfinite(own) || better == 0)
        return 0;
    json_array_foreach(json_object_get(report, "rows"), i, other) {
        double v = number(json_object_get(json_object_get(other, "cells"), key), "value");
        if (isfinite(v) && better * v > better * own)
            return 0;
        if (isfinite(v) && better * v < better * worst)
            worst = v;
    }
    return worst != own;
}
