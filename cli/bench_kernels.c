/* sluice bench kernels - the shared kernels beside what the machine can do. The kernels are not part of this program,
 * nor of the library: programs that lie beside it time them, one for the CPU and one for a GPU, and print a record a
 * line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_list.h"
#include "commands.h"
#include "helper.h"
#include "options.h"
#include "records.h"

enum { NO_DEVICE = 77, NOTHING_MATCHES = 3, MAX_THREADS = 256, MAX_COUNTS = 16, MAX_ARGS = 16 };

static const char *const keys[] = {"kernel",    "shape",  "isa",      "device", "threads", "median_us",
                                   "spread_us", "min_us", "samples",  "bytes",  "flops",   "gb_s",
                                   "gflop_s",   "from",   "floor_us", "share",  NULL};

/* ---- the table
 * ------------------------------------------------------------------------------------------------------- */

static const char *text_of(json_t *r, const char *key) {
    const char *text = json_string_value(json_object_get(r, key));
    return text != NULL ? text : "";
}
static int has(json_t *r, const char *key) { return json_is_number(json_object_get(r, key)); }
static double real(json_t *r, const char *key) { return json_number_value(json_object_get(r, key)); }

static void kernel_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%s", text_of(r, "kernel")); }
static void shape_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%s", text_of(r, "shape")); }
static void isa_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%s", text_of(r, "isa")); }
static void device_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%s", text_of(r, "device")); }
static void from_cell(json_t *r, char *out, size_t cap) { snprintf(out, cap, "%s", text_of(r, "from")); }
static void threads_cell(json_t *r, char *out, size_t cap) {
    if (has(r, "threads"))
        snprintf(out, cap, "%.0f", real(r, "threads"));
}
static void time_cell(json_t *r, char *out, size_t cap) {
    if (has(r, "median_us"))
        snprintf(out, cap, "%.2f ± %.2f", real(r, "median_us"), real(r, "spread_us") / 2);
}
static void bytes_cell(json_t *r, char *out, size_t cap) {
    if (has(r, "gb_s"))
        snprintf(out, cap, "%.1f", real(r, "gb_s"));
}
static void flops_cell(json_t *r, char *out, size_t cap) {
    if (has(r, "gflop_s"))
        snprintf(out, cap, "%.1f", real(r, "gflop_s"));
}
static void share_cell(json_t *r, char *out, size_t cap) {
    if (has(r, "share"))
        snprintf(out, cap, "%.0f %%", 100 * real(r, "share"));
}

static const record_column columns[] = {
    {"kernel", kernel_cell, 0},
    {"shape", shape_cell, 0},
    {"isa", isa_cell, 0},
    {"device", device_cell, 0},
    {"threads", threads_cell, 0},
    {"us", time_cell, 0},
    {"GB/s", bytes_cell, 0},
    {"from", from_cell, 0},
    {"GFLOP/s", flops_cell, 0},
    {"of the floor", share_cell, 0},
    {NULL, NULL, 0},
};

/* ---- running
 * --------------------------------------------------------------------------------------------------------- */

typedef struct kernels {
    records out;
    char text[512]; /* what the program said: an error, or why there is no device */
} kernels;

/* A record, {"error": text}, or {"no_device": text}. */
static void take_line(void *user, json_t *object) {
    kernels *k = user;
    const char *error = json_string_value(json_object_get(object, "error")),
               *reason = json_string_value(json_object_get(object, "no_device"));
    if (error != NULL || reason != NULL) {
        snprintf(k->text, sizeof k->text, "%s", error != NULL ? error : reason);
        json_decref(object);
        return;
    }
    records_add(&k->out, object);
}

/* Runs one of the programs. 0, NO_DEVICE, NOTHING_MATCHES, or 1 after one error. */
static int run_program(kernels *k, const char *name, const char *const *args) {
    char path[PATH_MAX];
    k->text[0] = '\0';
    if (helper_find(name, path) < 0) {
        snprintf(k->text, sizeof k->text, "this installation has no %s", name);
        return NO_DEVICE;
    }
    const int status = helper_run(path, args, take_line, k);
    if (status == 0 || status == NO_DEVICE || status == NOTHING_MATCHES)
        return status;
    if (status > 0 && k->text[0] == '\0')
        snprintf(k->text, sizeof k->text, "it failed with exit status %d", status);
    if (status > 0)
        fprintf(stderr, "sluice: %s: %s\n", name, k->text);
    return 1;
}

/* ---- the command
 * ----------------------------------------------------------------------------------------------------- */

typedef struct wishes {
    const char *pattern, *isa, *device, *format;
    int64_t ms, pool;
    text_list threads;
} wishes;

/* What the command takes, or -1 after one error. */
static int check(const wishes *w, records *out, bench_list *threads) {
    static const char *const isas[] = {"all", "ref", "avx2", "avx512"}, *const devices[] = {"all", "cpu", "cuda"};
    int isa = 0, device = 0;
    for (int i = 0; i < 4; i++)
        isa |= strcmp(w->isa, isas[i]) == 0;
    for (int i = 0; i < 3; i++)
        device |= strcmp(w->device, devices[i]) == 0;
    if (bench_list_of("-t", &w->threads, NULL, bench_list_parse, threads) < 0)
        return -1;
    for (int i = 0; i < threads->n; i++)
        if (threads->v[i] < 1 || threads->v[i] > MAX_THREADS || threads->n > MAX_COUNTS) {
            fprintf(stderr, "sluice: -t takes up to %d numbers from 1 to %d\n", MAX_COUNTS, MAX_THREADS);
            return -1;
        }
    if (!isa || !device) {
        fprintf(stderr, "sluice: --isa takes one of all, ref, avx2, avx512, --device one of all, cpu, cuda\n");
        return -1;
    }
    if (w->ms < 1 || w->ms > 60000 || w->pool < 0 || (w->pool > 0 && w->pool < 64) || w->pool > 1 << 20) {
        fprintf(stderr, "sluice: --ms takes 1 to 60000, --pool 64 or more\n");
        return -1;
    }
    if (records_format_of(w->format, &out->format) < 0) {
        fprintf(stderr, "sluice: -o takes one of " RECORDS_FORMATS ", found \"%s\"\n", w->format);
        return -1;
    }
    return 0;
}

static int run_cpu(kernels *k, const wishes *w, const bench_list *threads) {
    char ms[32], pool[32], counts[MAX_COUNTS * 8] = "";
    const char *args[MAX_ARGS] = {"kernels_bench", "--ms", ms};
    int n = 3;
    snprintf(ms, sizeof ms, "%lld", (long long)w->ms);
    snprintf(pool, sizeof pool, "%lld", (long long)w->pool);
    for (int i = 0; i < threads->n; i++)
        snprintf(counts + strlen(counts), sizeof counts - strlen(counts), "%s%lld", i > 0 ? "," : "",
                 (long long)threads->v[i]);
    if (w->pool > 0)
        args[n++] = "--pool", args[n++] = pool;
    if (threads->n > 0)
        args[n++] = "--threads", args[n++] = counts;
    if (strcmp(w->isa, "all") != 0)
        args[n++] = "--isa", args[n++] = w->isa;
    args[n++] = w->pattern;
    const int status = run_program(k, args[0], args);
    if (status != NO_DEVICE)
        return status;
    fprintf(stderr, "sluice: %s\n", k->text);
    return 1;
}

static int run_gpu(kernels *k, const wishes *w) {
    const char *const args[] = {"kernels_cuda_bench", w->pattern, NULL};
    const int status = run_program(k, args[0], args);
    if (status == NO_DEVICE && strcmp(w->device, "cuda") == 0) {
        fprintf(stderr, "sluice: no GPU: %s\n", k->text);
        return 1;
    }
    return status; /* where both are wanted, none is no error: rows tell whose they are */
}

int bench_kernels(int argc, char **argv) {
    common c = {.own_only = 1};
    wishes w = {"", "all", "all", "md", 50, 0, {{NULL}, 0}};
    const option own[] = {
        {"-t, --threads", "LIST", "numbers of threads (default 1 and one a core)", OPT_TEXTS, NULL, &w.threads},
        {"--isa", "NAME", "one instruction set: ref, avx2 or avx512 (default all)", OPT_TEXT, NULL, &w.isa},
        {"--device", "NAME", "all, cpu or cuda (default all that are there)", OPT_TEXT, NULL, &w.device},
        {"--ms", "N", "milliseconds that a kernel of the CPU is timed for (default 50)", OPT_INT, NULL, &w.ms},
        {"--pool", "MIB", "memory that operands rotate through (default 256, or 8 times the last cache)", OPT_INT, NULL,
         &w.pool},
        {"-o, --output", "FORMAT", "one of " RECORDS_FORMATS " (default md)", OPT_TEXT, NULL, &w.format},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    kernels k = {.out = {.keys = keys, .columns = columns}};
    bench_list threads = {.n = 0};
    const int n = options_parse(argc, argv,
                                "sluice bench kernels [PATTERN] [options]\n\n"
                                "PATTERN: kernels whose name or shape contains it, such as gemm_q4, attend, T=64.",
                                own, &c, &w.pattern, 1);
    if (n < 0 || c.help || check(&w, &k.out, &threads) < 0)
        return c.help ? 0 : CLI_USAGE;
    int cpu = NOTHING_MATCHES, gpu = NOTHING_MATCHES;
    if (strcmp(w.device, "cuda") != 0)
        cpu = run_cpu(&k, &w, &threads);
    if (cpu != 1 && strcmp(w.device, "cpu") != 0)
        gpu = run_gpu(&k, &w);
    records_end(&k.out);
    if (cpu == 1 || gpu == 1)
        return 1;
    if (cpu != 0 && gpu != 0) {
        fprintf(stderr, "sluice: no kernel's name or shape contains \"%s\"\n", w.pattern);
        return 1;
    }
    return 0;
}
