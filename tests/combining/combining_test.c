/* Every pair of techniques on `models/tiny`: it runs and its contracts hold, or it is refused at the start with a
 * reason. docs/combining.md says which; the test compares its tables with what happened, and rewrites them when called
 * as SLUICE_WRITE=1 meson test --suite combining. Arguments: two slots, for their table; "alone", for every technique
 * beside the defaults, which is the first row or column of many tables; or none, for the table of declarations. */
#include <jansson.h>
#include <stdio.h>

#include "contracts.h"
#include "e2e.h"
#include "techniques.h"

static slot row_slot, column_slot;

/* ---- a pair ------------------------------------------------------------------------------------------------------ */

/* Do both set the same key? Then they are two choices for one place. */
static int clash(const technique *a, const technique *b) {
    for (int i = 0; i < MAX_SETTINGS && a->sets[i] != NULL; i++)
        for (int j = 0; j < MAX_SETTINGS && b->sets[j] != NULL; j++) {
            size_t n = strcspn(a->sets[i], "=") + 1;
            if (strncmp(a->sets[i], b->sets[j], n) == 0)
                return 1;
        }
    return 0;
}

static const char *const nothing[] = {NULL};

/* What a technique says beside the defaults; run when first asked for. */
static const outcome *alone(const technique *t) {
    enum { MOST = 32 };
    static struct {
        const technique *of;
        outcome said;
    } known[MOST];
    int i = 0;
    while (i < MOST && known[i].of != NULL && known[i].of != t)
        i++;
    assert_true(i < MOST);
    if (known[i].of == NULL) {
        contracts_run(t->name, t->sets, nothing, &known[i].said);
        known[i].of = t;
        if (known[i].said.refused) /* beside a default everything runs: the settings are wrong */
            fail_msg("%s: %s", t->name, known[i].said.reason);
    }
    return &known[i].said;
}

/* What covers everything changes nothing: a pair with it equals the other technique alone. */
static void check_cover(const char *what, const technique *covering, const technique *other) {
    outcome pair;
    char text[512];
    if (covering->cover[0] == NULL)
        return;
    snprintf(text, sizeof text, "%s, %s covering everything", what, covering->name);
    contracts_run(text, covering->cover, other->sets, &pair);
    if (!pair.refused)
        contracts_equal(text, alone(other), &pair);
}

/* ---- the document ------------------------------------------------------------------------------------------------ */

enum { MAX_TABLE = 1 << 18, MAX_NOTES = 64 };

typedef struct document {
    char table[MAX_TABLE];
    size_t n;
    char notes[MAX_NOTES][512];
    int n_notes;
} document;

#define SAY(d, ...) ((d)->n += (size_t)snprintf((d)->table + (d)->n, sizeof(d)->table - (d)->n, __VA_ARGS__))

static int note(document *d, const char *reason) {
    for (int i = 0; i < d->n_notes; i++)
        if (strcmp(d->notes[i], reason) == 0)
            return i + 1;
    assert_true(d->n_notes < MAX_NOTES);
    snprintf(d->notes[d->n_notes], sizeof d->notes[0], "%s", reason);
    return ++d->n_notes;
}

static void compare_or_write(const document *d, const char *heading) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", e2e_path("docs/combining.md"));
    char *all = e2e_read(path, NULL), *section = strstr(all, heading);
    if (section == NULL)
        fail_msg("docs/combining.md has no section \"%s\"", heading);
    char *body = section + strlen(heading), *end = strstr(body, "\n## ");
    end = end != NULL ? end + 1 : body + strlen(body);
    if (getenv("SLUICE_WRITE") != NULL) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f, "%.*s\n%s%s%s", (int)(body - all), all, d->table, *end != '\0' ? "\n" : "", end);
        assert_int_equal(fclose(f), 0);
    } else {
        static char got[MAX_TABLE];
        body += *body == '\n';
        snprintf(got, sizeof got, "%.*s", (int)(end - body), body);
        size_t n = strlen(got);
        while (n > 1 && got[n - 1] == '\n' && got[n - 2] == '\n')
            got[--n] = '\0';
        if (strcmp(got, d->table) != 0)
            fail_msg("docs/combining.md, section \"%s\": the table is\n%s\nbut what happened is\n%s", heading, got,
                     d->table);
    }
    free(all);
}

/* ---- all pairs of two slots -------------------------------------------------------------------------------------- */

static void test_pairs(void **state) {
    (void)state;
    static document d;
    int n_rows, n_columns;
    const technique *rows = techniques_of(row_slot, &n_rows), *columns = techniques_of(column_slot, &n_columns);
    const char *every = getenv("SLUICE_PAIRS"); /* sanitized builds: one of so many */
    int stride = every != NULL ? atoi(every) : 1, n_seen = 0, n_run = 0;
    SAY(&d, "| |");
    for (int c = 0; c < n_columns; c++)
        SAY(&d, " `%s` |", columns[c].name);
    SAY(&d, "\n|---|");
    for (int c = 0; c < n_columns; c++)
        SAY(&d, "---|");
    for (int r = 0; r < n_rows; r++) {
        SAY(&d, "\n| `%s` |", rows[r].name);
        for (int c = 0; c < n_columns; c++) {
            char what[256];
            outcome pair;
            if (clash(&rows[r], &columns[c])) {
                SAY(&d, " - |");
                continue;
            }
            if (r == 0 || c == 0) { /* beside a default: techniques_run_alone */
                SAY(&d, " runs |");
                continue;
            }
            if (n_seen++ % stride != 0)
                continue;
            n_run++;
            snprintf(what, sizeof what, "%s %s with %s %s", slot_names[row_slot], rows[r].name, slot_names[column_slot],
                     columns[c].name);
            contracts_run(what, rows[r].sets, columns[c].sets, &pair);
            if (pair.refused) {
                SAY(&d, " no (%d) |", note(&d, pair.reason));
                continue;
            }
            check_cover(what, &rows[r], &columns[c]);
            check_cover(what, &columns[c], &rows[r]);
            SAY(&d, " runs |");
        }
    }
    SAY(&d, "\n");
    for (int i = 0; i < d.n_notes; i++)
        SAY(&d, "%s%d. %s\n", i == 0 ? "\n" : "", i + 1, d.notes[i]);
    assert_true(d.n < MAX_TABLE - 1);
    if (stride > 1) {
        print_message("%d of %d pairs: the document is left to builds that run all\n", n_run, n_seen);
        return;
    }
    char heading[64];
    snprintf(heading, sizeof heading, "## %s and %s\n", slot_names[row_slot], slot_names[column_slot]);
    compare_or_write(&d, heading);
}

/* ---- beside the defaults ----------------------------------------------------------------------------------------- */

static void techniques_run_alone(void **state) {
    (void)state;
    int n;
    const technique *defaults = techniques_of(ATTENTION, &n);
    for (int i = 0; i < N_SLOTS; i++) {
        const technique *t = techniques_of((slot)i, &n);
        for (int k = 0; k < n; k++) {
            alone(&t[k]);
            check_cover(t[k].name, &t[k], defaults);
        }
    }
}

/* ---- what the plugins declare ------------------------------------------------------------------------------------ */

static void collect(void *user, const char *text, size_t length) {
    document *d = user;
    assert_true(d->n + length < MAX_TABLE);
    memcpy(d->table + d->n, text, length);
    d->n += length;
}

static void say_ids(document *d, json_t *list) {
    size_t i;
    json_t *id;
    json_array_foreach(list, i, id) SAY(d, "%s`%s`", i == 0 ? " " : ", ", json_string_value(id));
    SAY(d, " |");
}

static void test_declarations(void **state) {
    (void)state;
    static document json, d;
    sluice_options options = {0};
    sluice_error err = {0};
    if (sluice_plugins_json(&options, NULL, collect, &json, &err) < 0)
        fail_msg("%s", err.text);
    json_t *all = json_loadb(json.table, json.n, 0, NULL), *one;
    assert_true(json_array_size(all) > 0);
    static const char *const columns[] = {"roles", "needs", "wants", "provides"};
    SAY(&d, "| plugin | roles | needs | uses where offered | provides |\n|---|---|---|---|---|\n");
    size_t i;
    json_array_foreach(all, i, one) {
        SAY(&d, "| `%s` |", json_string_value(json_object_get(one, "id")));
        for (int c = 0; c < 4; c++)
            say_ids(&d, json_object_get(one, columns[c]));
        SAY(&d, "\n");
    }
    json_decref(all);
    compare_or_write(&d, "## What the plugins declare\n");
}

static slot slot_named(const char *name) {
    for (int i = 0; i < N_SLOTS; i++)
        if (strcmp(slot_names[i], name) == 0)
            return (slot)i;
    fprintf(stderr, "no slot is named %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    if (argc == 3) {
        row_slot = slot_named(argv[1]);
        column_slot = slot_named(argv[2]);
    }
    const struct CMUnitTest pairs[] = {cmocka_unit_test(test_pairs)}, one[] = {cmocka_unit_test(techniques_run_alone)},
                            declarations[] = {cmocka_unit_test(test_declarations)};
    return argc == 3   ? cmocka_run_group_tests_name("combining", pairs, NULL, NULL)
           : argc == 2 ? cmocka_run_group_tests_name("alone", one, NULL, NULL)
                       : cmocka_run_group_tests_name("declarations", declarations, NULL, NULL);
}
