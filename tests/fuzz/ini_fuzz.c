/* libFuzzer target: any bytes as an INI. The first line, when it starts with "--set ", is an override. Loads the whole
 * configuration and, when that works, shows it and loads what was shown. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SL_ERROR(err);
    const char *text = (const char *)data;
    char set[200];
    const char *sets[] = {set};
    int n_sets = 0;
    const char *end = size > 6 && memcmp(text, "--set ", 6) == 0 ? memchr(text, '\n', size) : NULL;
    if (end != NULL && (size_t)(end - text) - 6 < sizeof set) {
        size_t n = (size_t)(end - text) - 6;
        memcpy(set, text + 6, n);
        set[n] = 0;
        n_sets = 1;
        size -= n + 7;
        text = end + 1;
    }
    sli_config *config = NULL, *again = NULL;
    if (sli_config_load_text(text, size, "fuzz.ini", "", sets, n_sets, &config, &err) < 0) {
        if (err.text[0] == 0)
            abort(); /* every failure says why */
        return 0;
    }
    char *shown = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&shown, &n);
    if (out != NULL && sli_config_show(config, out, NULL, NULL, &err) == SL_OK) {
        fclose(out);
        if (sli_config_load_text(shown, n, "shown.ini", "", NULL, 0, &again, &err) < 0 ||
            again->n_choices != config->n_choices) {
            fprintf(stderr, "%s\n%s\n", err.text, shown);
            abort();
        }
    } else if (out != NULL) {
        fclose(out);
    }
    free(shown);
    sli_config_free(config);
    sli_config_free(again);
    return 0;
}
