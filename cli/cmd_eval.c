/* sluice eval <task> - quality of what the INI configures. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "eval.h"
#include "options.h"

static const struct task {
    const char *name, *needs;
    int (*run)(int argc, char **argv);
} tasks[] = {
    {"ppl", "--text FILE", eval_ppl},
    {"kld", "--save FILE | --base FILE", eval_kld},
    {"choice", "--questions FILE", eval_choice},
    {"retrieval", "--text FILE", eval_retrieval},
    {"ruler", "", eval_ruler},
    {"scbench", "", eval_scbench},
    {"spec", "--prompts FILE", eval_spec},
};
enum { N_TASKS = sizeof tasks / sizeof *tasks };

int eval_print(json_t *object) {
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(object);
    return 0;
}

int eval_no_memory(sluice_error *err) {
    snprintf(err->text, sizeof err->text, "out of memory");
    return SLUICE_E_NO_MEMORY;
}

int cmd_eval(int argc, char **argv) {
    for (int i = 0; i < N_TASKS; i++)
        if (argc >= 2 && strcmp(argv[1], tasks[i].name) == 0)
            return tasks[i].run(argc - 1, argv + 1);
    int help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    FILE *out = help ? stdout : stderr;
    for (int i = 0; i < N_TASKS; i++)
        fprintf(out, "%s sluice eval %s%s%s [options]\n", i == 0 ? "usage:" : "      ", tasks[i].name,
                tasks[i].needs[0] != '\0' ? " " : "", tasks[i].needs);
    fprintf(out, "\n`sluice eval TASK --help` lists the options of a task.\n");
    return help ? 0 : CLI_USAGE;
}
