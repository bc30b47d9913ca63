/* sluice roofline - what a combination costs by operation: predicted, and measured beside it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "options.h"
#include "roofline.h"

typedef struct memory {
    char *data;
    size_t n;
} memory;

static void keep(void *user, const char *text, size_t length) {
    memory *m = user;
    char *wider = realloc(m->data, m->n + length + 1);
    if (wider == NULL)
        return;
    m->data = wider;
    memcpy(m->data + m->n, text, length);
    m->n += length;
    m->data[m->n] = '\0';
}

/* The machine: named, or this one's CPU, measured. */
static int find_hardware(const common *c, const char *name, int calibrate, sluice_hardware *out) {
    sluice_error err = {0};
    sluice_options options = options_engine(c);
    if (name != NULL && !calibrate)
        return sluice_hardware_find(name, out, &err) < 0 ? fail(&err) : 0;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "measuring this machine's CPU ...\n");
    if (sluice_hardware_measure(&options, out, &err) < 0)
        return fail(&err);
    if (calibrate && name != NULL && sluice_hardware_write(out, name, &err) < 0)
        return fail(&err);
    return 0;
}

static int print(const json_t *report, const char *form) {
    if (strcmp(form, "json") == 0) {
        json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        putchar('\n');
    } else if (strcmp(form, "csv") == 0)
        roofline_print_csv(report);
    else
        roofline_print(report);
    return ferror(stdout) ? 1 : 0;
}

static int run(const common *c, sluice_roofline_request *r, const char *form, int repeats) {
    sluice_error err = {0};
    sluice_options options = options_engine(c);
    memory text = {0};
    int status = sluice_roofline_json(&options, r, keep, &text, &err) < 0 ? fail(&err) : 0;
    json_t *report = status == 0 && text.data != NULL ? json_loads(text.data, 0, NULL) : NULL;
    if (status == 0 && report == NULL)
        status = (fprintf(stderr, "sluice: no memory for a report\n"), 1);
    if (status == 0 && repeats > 0 && roofline_measure(c, r, repeats, report) < 0)
        status = 1;
    if (status == 0)
        status = print(report, form);
    json_decref(report);
    free(text.data);
    return status;
}

int cmd_roofline(int argc, char **argv) {
    common c = {0};
    const char *hw = NULL, *form = "md";
    int64_t prompt = 512, gen = 128, batch = 1, repeats = 3;
    double accept = 0.6;
    int calibrate = 0, measure = 0, status;
    const option own[] = {
        {"-p, --prompt", "N", "tokens of each prompt (default 512)", OPT_INT, NULL, &prompt},
        {"-n, --gen", "N", "tokens generated for each (default 128)", OPT_INT, NULL, &gen},
        {"-b, --batch", "B", "sequences that run together (default 1)", OPT_INT, NULL, &batch},
        {"--accept", "X",
         "assumed chance that the next token is among the children of an accepted draft node (default 0.6)", OPT_REAL,
         NULL, &accept},
        {"--hw", "NAME", "machine: of the built-in table (h200, h100 ...), FILE.ini or FILE.ini:NAME; none: measured",
         OPT_TEXT, NULL, &hw},
        {"--calibrate", NULL, "measure this machine's CPU, and write it to the file of --hw", OPT_FLAG, NULL,
         &calibrate},
        {"--measure", NULL, "run the request as well: times by operation beside the predicted ones", OPT_FLAG, NULL,
         &measure},
        {"-r, --repeat", "N", "runs of --measure, of which the fastest counts (default 3)", OPT_INT, NULL, &repeats},
        {"-o, --output", "FORM", "md, json or csv (default md)", OPT_TEXT, NULL, &form},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n =
        options_parse(argc, argv, "sluice roofline -m MODEL|--shape NAME [--config FILE] [options]", own, &c, NULL, 0);
    if (n < 0 || c.help) {
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    if (strcmp(form, "md") != 0 && strcmp(form, "json") != 0 && strcmp(form, "csv") != 0) {
        fprintf(stderr, "sluice: -o is one of md, json, csv, found \"%s\"\n", form);
        status = CLI_USAGE;
    } else if (repeats < 1) {
        fprintf(stderr, "sluice: --repeat is at least 1\n");
        status = CLI_USAGE;
    } else {
        sluice_hardware hardware;
        sluice_roofline_request request = {&hardware, prompt, gen, batch, accept};
        status = find_hardware(&c, hw, calibrate, &hardware);
        if (status == 0)
            status = run(&c, &request, form, measure ? (int)repeats : 0);
    }
    options_free(&c);
    return status;
}
