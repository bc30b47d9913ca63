/* See duo_pattern.h. */
#include "duo_pattern.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sl_error.h"

/* ---- gates ------------------------------------------------------------------------------------------------------- */

static int is_blank(const char *line) {
    line += strspn(line, " \t\r\n");
    return *line == '\0' || *line == '#';
}

/* n numbers of one line. */
static sl_status read_line(const char *path, int number, const char *line, int32_t layer, int32_t n, double *gate,
                           sl_error *err) {
    for (int32_t h = 0; h < n; h++) {
        char *end;
        double x = strtod(line, &end);
        if (end == line && line[strspn(line, " \t\r\n")] == '\0')
            return sl_fail(err, SL_E_DATA, "%s:%d: layer %d has %d gates, the model has %d KV heads", path, number,
                           layer, h, n);
        if (end == line || isnan(x) || (*end != '\0' && strchr(" \t\r\n", *end) == NULL))
            return sl_fail(err, SL_E_DATA, "%s:%d: \"%.20s\" is no number; expected gates separated by tabs", path,
                           number, line + strspn(line, " \t"));
        gate[h] = x < 0 ? 0 : x > 1 ? 1 : x;
        line = end;
    }
    if (line[strspn(line, " \t\r\n")] != '\0')
        return sl_fail(err, SL_E_DATA, "%s:%d: layer %d has more gates than the model's %d KV heads", path, number,
                       layer, n);
    return SL_OK;
}

sl_status duo_pattern_read(const char *path, const int32_t *n_heads, int32_t n_layers, double *gate, sl_error *err) {
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return sl_fail(err, SL_E_IO, "%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    int32_t layer = 0, at = 0;
    sl_status s = SL_OK;
    for (int number = 1; s >= 0 && getline(&line, &cap, f) >= 0; number++) {
        if (is_blank(line))
            continue;
        if (layer == n_layers)
            s = sl_fail(err, SL_E_DATA, "%s:%d: gates of more than the model's %d layers", path, number, n_layers);
        else if ((s = read_line(path, number, line, layer, n_heads[layer], gate + at, err)) >= 0)
            at += n_heads[layer++];
    }
    if (s >= 0 && ferror(f))
        s = sl_fail(err, SL_E_IO, "%s: cannot be read", path);
    if (s >= 0 && layer < n_layers)
        s = sl_fail(err, SL_E_DATA, "%s: gates of %d layers, the model has %d", path, layer, n_layers);
    free(line);
    fclose(f);
    return s;
}

/* ---- config.json --------------------------------------------------------------------------------------------------
 */

/* The whole number behind "key": in a flat object; -1: it is not there; -2: it is something else. */
static int64_t number_of(const char *json, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *p = strstr(json, quoted);
    if (p == NULL)
        return -1;
    p += strlen(quoted);
    p += strspn(p, " \t\r\n");
    if (*p++ != ':')
        return -2;
    p += strspn(p, " \t\r\n");
    char *end;
    errno = 0;
    long long x = strtoll(p, &end, 10);
    end += strspn(end, " \t\r\n");
    return end == p || !isdigit((unsigned char)*p) || errno != 0 || (*end != ',' && *end != '}') ? -2 : x;
}

sl_status duo_pattern_window(const char *pattern_path, int64_t *sink, int64_t *recent, sl_error *err) {
    const char *slash = strrchr(pattern_path, '/');
    char path[4096], text[65536];
    *sink = *recent = -1;
    int n = snprintf(path, sizeof path, "%.*sconfig.json", slash != NULL ? (int)(slash + 1 - pattern_path) : 0,
                     pattern_path);
    FILE *f = n < (int)sizeof path ? fopen(path, "r") : NULL;
    if (f == NULL)
        return SL_OK;
    size_t length = fread(text, 1, sizeof text - 1, f);
    text[length] = '\0';
    fclose(f);
    *sink = number_of(text, "sink_size");
    *recent = number_of(text, "recent_size");
    if (*sink < -1 || *recent < -1)
        return sl_fail(err, SL_E_DATA, "%s: %s is no whole number", path, *sink < -1 ? "sink_size" : "recent_size");
    return SL_OK;
}

/* ---- which heads stream ---------------------------------------------------------------------------------------------
 */

typedef struct ranked {
    double gate;
    int32_t head;
} ranked;

static int by_gate(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->gate != y->gate ? (x->gate < y->gate ? -1 : 1) : (x->head > y->head) - (x->head < y->head);
}

sl_status duo_pattern_by_sparsity(const double *gate, int32_t n, double sparsity, uint8_t *streams) {
    ranked *order = calloc((size_t)n + 1, sizeof *order);
    if (order == NULL)
        return SL_E_NO_MEMORY;
    for (int32_t i = 0; i < n; i++)
        order[i] = (ranked){gate[i], i};
    qsort(order, (size_t)n, sizeof *order, by_gate);
    /* 1e-9: 0.7 * 10 is 7 */
    int32_t n_streaming = sparsity >= 1 ? n : sparsity <= 0 ? 0 : (int32_t)ceil(sparsity * (n - 1) - 1e-9);
    for (int32_t i = 0; i < n; i++)
        streams[order[i].head] = i < n_streaming;
    free(order);
    return SL_OK;
}

void duo_pattern_by_threshold(const double *gate, int32_t n, double threshold, uint8_t *streams) {
    for (int32_t i = 0; i < n; i++)
        streams[i] = gate[i] < threshold;
}
