/* sluice quantize - packs weights with calibration data, as the [quant] sections of the INI say. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "options.h"

static void show_layers(void *user, const char *what, int64_t done, int64_t total) {
    (void)user;
    if (strcmp(what, "quantizing") != 0)
        return;
    fprintf(stderr, "\rquantizing: %lld of %lld layers, head included\033[K%s", (long long)done, (long long)total,
            done >= total ? "\n" : "");
    fflush(stderr);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int quantize(const common *c, const sluice_quantize_options *how) {
    sluice_quantize_report r;
    sluice_error err = {0};
    sluice_options options = options_engine(c);
    options.progress = isatty(STDERR_FILENO) ? show_layers : NULL;
    if (sluice_quantize(&options, how, &r, &err) < 0)
        return fail(&err);
    json_t *report = json_pack("{s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:f}", "output", how->output, "files",
                               (json_int_t)r.n_files, "groups", (json_int_t)r.n_groups, "weights",
                               (json_int_t)r.weights, "bits_per_weight", r.bits_per_weight, "file_bytes",
                               (json_int_t)r.file_bytes, "peak_bytes", (json_int_t)r.peak_bytes, "seconds", r.seconds);
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(report);
    return 0;
}

int cmd_quantize(int argc, char **argv) {
    common c = {0};
    const char *path = NULL, *output = NULL;
    int64_t samples = 128, length = 2048, seed = 0;
    const option own[] = {
        {"-o, --output", "PATH", "FILE.safetensors, or a folder that gets a file for each [quant] section", OPT_TEXT,
         NULL, &output},
        {"--text", "FILE", "plain text that samples are cut from", OPT_TEXT, NULL, &path},
        {"--samples", "N", "number of samples (default 128)", OPT_INT, NULL, &samples},
        {"--length", "L", "tokens of a sample, beginning of text included (default 2048)", OPT_INT, NULL, &length},
        {"--seed", "S", "which places of the text (default 0)", OPT_INT, NULL, &seed},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, "sluice quantize --config FILE --text FILE -o PATH [options]", own, &c, NULL, 0);
    if (n < 0 || c.help || path == NULL || output == NULL) {
        if (n >= 0 && !c.help)
            fprintf(stderr, "sluice: quantize needs --text FILE and -o PATH\n");
        options_free(&c);
        return c.help ? 0 : CLI_USAGE;
    }
    size_t bytes = 0;
    char *text = read_text(path, &bytes);
    int status = 1;
    if (text != NULL) {
        sluice_quantize_options how = {text, bytes, base_name(path), output, samples, length, (uint64_t)seed};
        status = quantize(&c, &how);
    }
    free(text);
    options_free(&c);
    return status;
}
