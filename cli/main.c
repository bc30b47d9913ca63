/* sluice - the command line: picks a subcommand. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "libsluice.h"
#include "options.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"run", cmd_run, "continue a prompt; text goes to stdout"},
    {"bench", cmd_bench, "measure speed and memory of a combination, or the kernels alone"},
    {"eval", cmd_eval, "measure quality: perplexity, divergence, choice, retrieval, drafting"},
    {"compare", cmd_compare, "measure configurations side by side, and write a report"},
    {"roofline", cmd_roofline, "predict time, bytes and FLOPs by operation, beside measured times"},
    {"calibrate", cmd_calibrate, "let a plugin measure what a parameter of it should be"},
    {"quantize", cmd_quantize, "pack weights with calibration data, into a file for [quant] artifact"},
    {"plugins", cmd_plugins, "list the plugins that can be found, or describe one"},
    {"config", cmd_config, "show the resolved configuration, or check a combination"},
};

static void usage(FILE *to) {
    fprintf(to, "usage: sluice COMMAND [options]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\n`sluice COMMAND --help` lists a command's options; `sluice --version` prints the version.\n");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("sluice %s\n", sluice_version());
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "sluice: unknown command \"%s\"\n", argv[1]);
    usage(stderr);
    return CLI_USAGE;
}
