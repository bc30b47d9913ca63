/* sluice config show | check */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "options.h"

int cmd_config(int argc, char **argv) {
    common c = {0};
    const char *words[1];
    int n = options_parse(argc, argv,
                          "sluice config show|check [options]\n\n"
                          "show: print every setting, defaults included, with where it came from\n"
                          "check: say whether model and plugins fit, and why not",
                          NULL, &c, words, 1);
    int status = 0;
    sluice_error err;
    sluice_options options = options_engine(&c);
    if (n < 0)
        status = CLI_USAGE;
    else if (c.help)
        status = 0;
    else if (n == 1 && strcmp(words[0], "show") == 0)
        status = sluice_config_show(&options, write_file, stdout, &err) < 0 ? fail(&err) : 0;
    else if (n == 1 && strcmp(words[0], "check") == 0) {
        status = sluice_config_check(&options, &err) < 0 ? fail(&err) : 0;
        if (status == 0)
            puts("the combination fits");
    } else {
        fprintf(stderr, "sluice: config needs one of: show, check\n");
        status = CLI_USAGE;
    }
    options_free(&c);
    return status;
}
