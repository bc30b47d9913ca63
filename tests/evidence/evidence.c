/* Reads the rows of docs/results/cuda/ and says what is wrong with them, or prints what the documentation shows of
 * them. evidence check FILE...    prints "file: row N: fault" for each; exit status 1 if there was one evidence commits
 * FILE...  prints "commit file" for each commit that is named evidence table FILE...    prints the tables of
 * docs/results.md A file is an array of rows. A row has command, commit, date, device, metric, value, unit, floor,
 * peer; floor is what the hardware or the measured ceiling allows, and the unit says which side of it is possible. */
#include <ctype.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { LESS_IS_BETTER, MORE_IS_BETTER };

static const struct {
    const char *name;
    int direction, may_be_unbounded; /* 1: floor may be null, for figures that nothing but another measurement bounds */
} units[] = {
    {"ns", LESS_IS_BETTER, 0},
    {"us", LESS_IS_BETTER, 0},
    {"ms", LESS_IS_BETTER, 0},
    {"s", LESS_IS_BETTER, 0},
    {"bytes", LESS_IS_BETTER, 0},
    {"MB", LESS_IS_BETTER, 0},
    {"GB", LESS_IS_BETTER, 0},
    {"% overhead", LESS_IS_BETTER, 1},
    {"of peer's time", LESS_IS_BETTER, 1},
    {"of dense time", LESS_IS_BETTER, 1},
    {"of a decode step", LESS_IS_BETTER, 1},
    {"tok/s", MORE_IS_BETTER, 0},
    {"GB/s", MORE_IS_BETTER, 0},
    {"TB/s", MORE_IS_BETTER, 0},
    {"GFLOP/s", MORE_IS_BETTER, 0},
    {"TFLOP/s", MORE_IS_BETTER, 0},
    {"% of floor", MORE_IS_BETTER, 1},
    {"x", MORE_IS_BETTER, 1},
};
enum { N_UNITS = sizeof units / sizeof *units };

static const char *const needed[] = {"command", "commit", "date", "device", "metric", "value", "unit", "floor", "peer"};
static const char *const known[] = {"command", "commit", "date", "device", "metric", "value",
                                    "unit",    "floor",  "peer", "must",   "aim",    "note"};

static int unit_of(const json_t *row) {
    const char *name = json_string_value(json_object_get(row, "unit"));
    for (int i = 0; name != NULL && i < N_UNITS; i++)
        if (strcmp(units[i].name, name) == 0)
            return i;
    return -1;
}

static int is_date(const char *s) {
    static const char form[] = "dddd-dd-dd";
    for (size_t i = 0; i < sizeof form - 1; i++)
        if (form[i] == 'd' ? !isdigit((unsigned char)s[i]) : s[i] != form[i])
            return 0;
    return s[sizeof form - 1] == '\0';
}

static int is_commit(const char *s) {
    size_t n = strspn(s, "0123456789abcdef");
    return s[n] == '\0' && n >= 7 && n <= 40;
}

static int fault(const char *file, size_t row, const char *what, const char *value) {
    printf("%s: row %zu: %s%s%s\n", file, row, what, value != NULL ? ": " : "", value != NULL ? value : "");
    return 1;
}

static int check_texts(const char *file, size_t n, const json_t *row) {
    static const char *const texts[] = {"command", "commit", "date", "device", "metric", "unit"};
    int bad = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *s = json_string_value(json_object_get(row, texts[i]));
        if (json_object_get(row, texts[i]) != NULL && (s == NULL || *s == '\0'))
            bad |= fault(file, n, "is no text", texts[i]);
    }
    const char *date = json_string_value(json_object_get(row, "date")),
               *commit = json_string_value(json_object_get(row, "commit"));
    if (date != NULL && !is_date(date))
        bad |= fault(file, n, "date is not YYYY-MM-DD", date);
    if (commit != NULL && !is_commit(commit))
        bad |= fault(file, n, "commit is not 7 to 40 hexadecimal digits", commit);
    const json_t *peer = json_object_get(row, "peer");
    if (peer != NULL && !json_is_string(peer) && !json_is_null(peer))
        bad |= fault(file, n, "peer is neither a text nor null", NULL);
    return bad;
}

static int check_numbers(const char *file, size_t n, const json_t *row) {
    const json_t *value = json_object_get(row, "value"), *floor = json_object_get(row, "floor");
    const char *unit = json_string_value(json_object_get(row, "unit"));
    int bad = 0, u = unit_of(row);
    if (value != NULL && !(json_is_number(value) && json_number_value(value) > 0))
        bad |= fault(file, n, "value is not a number above 0", NULL);
    if (unit != NULL && u < 0)
        return fault(file, n, "unit is not known, so nobody knows which side of the floor is possible", unit);
    if (u < 0 || value == NULL || floor == NULL || bad)
        return bad;
    if (json_is_null(floor))
        return units[u].may_be_unbounded ? bad : fault(file, n, "figures of this unit need a floor", unit);
    if (!(json_is_number(floor) && json_number_value(floor) > 0))
        return fault(file, n, "floor is not a number above 0", NULL);
    double v = json_number_value(value), f = json_number_value(floor);
    if (units[u].direction == LESS_IS_BETTER ? v < f : v > f) {
        char text[96];
        snprintf(text, sizeof text, "%g against %g %s", v, f, unit);
        return fault(file, n, "the value is better than its floor", text);
    }
    return bad;
}

static int check_row(const char *file, size_t n, const json_t *row) {
    int bad = 0;
    if (!json_is_object(row))
        return fault(file, n, "is no object", NULL);
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (json_object_get(row, needed[i]) == NULL)
            bad |= fault(file, n, "lacks a field", needed[i]);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)row, key, value) {
        int found = 0;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found |= strcmp(known[i], key) == 0;
        if (!found)
            bad |= fault(file, n, "has a field that is not known", key);
    }
    return bad | check_texts(file, n, row) | check_numbers(file, n, row);
}

/* ---- what the documentation shows ----------------------------------------------------------------------------------
 */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void print_number(double v) {
    if (v >= 1000)
        printf("%.0f", v);
    else
        printf("%.3g", v);
}

/* A cell: bars would end it. */
static void print_cell(const char *s) {
    for (; s != NULL && *s != '\0'; s++)
        printf(*s == '|' ? "\\|" : "%c", *s);
}

static void print_row(const json_t *row) {
    double v = json_number_value(json_object_get(row, "value"));
    const json_t *floor = json_object_get(row, "floor");
    const char *unit = json_string_value(json_object_get(row, "unit"));
    int u = unit_of(row);
    printf("| ");
    print_cell(json_string_value(json_object_get(row, "metric")));
    printf(" | ");
    print_number(v);
    printf(" %s | ", unit);
    if (json_is_number(floor)) {
        double f = json_number_value(floor);
        print_number(f);
        printf(" | %.0f %%", 100 * (u >= 0 && units[u].direction == LESS_IS_BETTER ? f / v : v / f));
    } else
        printf("| ");
    printf(" | ");
    print_cell(json_string_value(json_object_get(row, "peer")));
    printf(" | ");
    print_cell(json_string_value(json_object_get(row, "device")));
    printf(" | %s, %.7s |\n", json_string_value(json_object_get(row, "date")),
           json_string_value(json_object_get(row, "commit")));
}

static void print_table(const char *file, const json_t *rows) {
    printf("\n`results/cuda/%s` (with the command of each row):\n\n", base_name(file));
    printf("| what | measured | floor or ceiling | share of it | peers on such a machine | device | date, commit |\n");
    printf("|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < json_array_size(rows); i++)
        print_row(json_array_get(rows, i));
}

static int each_file(const char *mode, const char *file) {
    json_error_t why;
    json_t *rows = json_load_file(file, JSON_REJECT_DUPLICATES, &why);
    if (rows == NULL || !json_is_array(rows)) {
        printf("%s: line %d: %s\n", file, rows == NULL ? why.line : 1, rows == NULL ? why.text : "is no array of rows");
        json_decref(rows);
        return 1;
    }
    int bad = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *commit = json_string_value(json_object_get(row, "commit"));
        if (strcmp(mode, "check") == 0)
            bad |= check_row(file, i + 1, row);
        else if (strcmp(mode, "commits") == 0 && commit != NULL)
            printf("%s %s\n", commit, file);
    }
    if (strcmp(mode, "check") == 0 && json_array_size(rows) == 0)
        bad = fault(file, 1, "is missing: the file has no rows", NULL);
    if (strcmp(mode, "table") == 0)
        print_table(file, rows);
    json_decref(rows);
    return bad;
}

int main(int argc, char **argv) {
    int bad = 0;
    if (argc < 2 ||
        (strcmp(argv[1], "check") != 0 && strcmp(argv[1], "commits") != 0 && strcmp(argv[1], "table") != 0)) {
        fprintf(stderr, "usage: evidence check | commits | table FILE...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        bad |= each_file(argv[1], argv[i]);
    if (argc == 2 && strcmp(argv[1], "table") == 0)
        printf("\nNothing was measured yet.\n");
    return bad;
}
