/* The report of `sluice roofline` for people and for spreadsheets; see roofline.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "roofline.h"

static const char *const phases[] = {"prefill", "decode"};

static double number(const json_t *of, const char *key) {
    const json_t *x = json_object_get(of, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static const char *text(const json_t *of, const char *key) {
    const char *s = json_string_value(json_object_get(of, key));
    return s != NULL ? s : "";
}

/* "1.23 GB" */
static const char *scaled(double x, const char *unit, char *out, size_t n) {
    static const char *const steps[] = {"", "K", "M", "G", "T", "P"};
    int i = 0;
    if (!isfinite(x))
        snprintf(out, n, "unknown");
    else {
        while (fabs(x) >= 999.5 && i < 5)
            x /= 1000, i++;
        snprintf(out, n, "%.3g %s%s", x, steps[i], unit);
    }
    return out;
}

static const char *micros(double seconds, char *out, size_t n) {
    if (isfinite(seconds))
        snprintf(out, n, "%.2f", 1e6 * seconds);
    else
        snprintf(out, n, "unknown");
    return out;
}

/* digits: significant ones; < 0: behind the point */
static void cell(double x, int digits) {
    if (isfinite(x) && digits < 0)
        printf("%.*f", -digits, x);
    else if (isfinite(x))
        printf("%.*g", digits, x);
    else
        printf(" - ");
}

static void print_rows(const json_t *phase, double steps) {
    size_t i;
    const json_t *row, *measured = json_object_get(phase, "measured");
    char a[32], b[32], c[32];
    printf("| operation | FLOPs | bytes | FLOP/byte | bound | predicted us |%s\n",
           measured != NULL ? " measured us | ratio |" : "");
    printf("|:---|---:|---:|---:|:---|---:|%s\n", measured != NULL ? "---:|---:|" : "");
    json_array_foreach(json_object_get(phase, "rows"), i, row) {
        const char *plugin = text(row, "plugin");
        printf("| %s%s%s%s | %s | %s | ", text(row, "name"), plugin[0] != '\0' ? " (" : "", plugin,
               plugin[0] != '\0' ? ")" : "", scaled(number(row, "flops") / steps, "", a, sizeof a),
               scaled(number(row, "bytes") / steps, "B", b, sizeof b));
        cell(number(row, "intensity"), 3);
        printf(" | %s | %s |", json_object_get(row, "unknown") != NULL ? "unknown" : text(row, "bound"),
               micros(number(row, "seconds") / steps, c, sizeof c));
        if (measured != NULL) {
            const json_t *act = json_object_get(measured, text(row, "act"));
            int is_first = json_is_true(json_object_get(row, "first_of_act"));
            if (!is_first) { /* one time for all rows of an act */
                printf(" | |\n");
                continue;
            }
            double ratio = number(act, "ratio");
            putchar(' ');
            cell(1e6 * number(act, "seconds_of_a_step"), -2);
            printf(" | ");
            cell(ratio, -2);
            printf("%s |", fabs(ratio - 1) > 0.25 ? " !" : "");
        }
        putchar('\n');
    }
    if (measured == NULL)
        return;
    const char *act;
    const json_t *of;
    json_object_foreach((json_t *)(uintptr_t)measured, act, of) if (json_is_true(json_object_get(of, "not_predicted")))
        printf("| %s | | | | not predicted | | %.2f | |\n", act, 1e6 * number(of, "seconds_of_a_step"));
}

static void print_phase(const json_t *report, const char *name) {
    const json_t *phase = json_object_get(report, name), *measured = json_object_get(phase, "measured_total");
    double steps = number(phase, "steps");
    char a[32], b[32];
    if (!(steps > 0))
        return;
    printf("\n## %s\n\n", name);
    printf("Mean of %.6g steps", steps);
    if (strcmp(name, "decode") == 0 && number(phase, "rows_verified") > 1)
        printf(", each of %.4g rows a sequence that bring %.3g tokens (assumed: --accept %g)",
               number(phase, "rows_verified"), number(phase, "tokens_of_a_step"),
               number(json_object_get(report, "request"), "accept"));
    printf(".\n\n");
    print_rows(phase, steps);
    printf("\nA step: %s, %s; predicted %s us, with perfect overlap %s us",
           scaled(number(phase, "flops") / steps, "FLOP", a, sizeof a),
           scaled(number(phase, "bytes") / steps, "B", b, sizeof b),
           micros(number(phase, "seconds") / steps, (char[32]){0}, 32),
           micros(number(phase, "overlapped_seconds") / steps, (char[32]){0}, 32));
    if (measured != NULL)
        printf("; measured %s us", micros(number(measured, "seconds_of_a_step"), (char[32]){0}, 32));
    printf(".\n");
}

static void print_line(const char *what, double here, double dense, double measured, const char *unit, double factor) {
    printf("| %s | ", what);
    cell(factor * here, 4);
    printf(" %s | ", unit);
    cell(factor * dense, 4);
    printf(" %s |", unit);
    if (isfinite(measured))
        printf(" %.4g %s |", factor * measured, unit);
    putchar('\n');
}

static void print_terms(const json_t *report) {
    int any = 0;
    for (int p = 0; p < 2; p++) {
        size_t i;
        const json_t *term;
        json_array_foreach(json_object_get(json_object_get(report, phases[p]), "terms"), i, term) {
            if (any++ == 0)
                printf("\n## Whose doing\n\nMeans over layers and steps.\n\n| phase | section | plugin | term | dense "
                       "| here |\n"
                       "|:---|:---|:---|:---|---:|---:|\n");
            printf("| %s | %s | %s | %s | %.6g | %.6g |\n", phases[p], text(term, "section"), text(term, "plugin"),
                   text(term, "term"), number(term, "baseline"), number(term, "here"));
        }
    }
}

static void print_unknown(const json_t *report) {
    for (int p = 0; p < 2; p++) {
        size_t i;
        const json_t *row;
        json_array_foreach(json_object_get(json_object_get(report, phases[p]), "rows"), i,
                           row) if (json_object_get(row, "unknown") != NULL)
            printf("\nUnknown: %s in %s: %s.\n", text(row, "name"), phases[p], text(row, "unknown"));
    }
}

void roofline_print(const json_t *report) {
    const json_t *r = json_object_get(report, "request"), *hw = json_object_get(report, "hardware"),
                 *dense = json_object_get(report, "baseline"), *measured = json_object_get(report, "measured");
    char a[32], b[32];
    printf("# %s on %s\n\n%.0f tokens of prompt, %.0f generated, %.0f at once. %s: %s/s, %s/s f32, %s/s bf16 (%s).\n",
           text(report, "model"), text(hw, "name"), number(r, "prompt"), number(r, "generated"), number(r, "batch"),
           text(hw, "name"), scaled(number(hw, "bandwidth"), "B", a, sizeof a),
           scaled(number(hw, "f32"), "FLOP", b, sizeof b), scaled(number(hw, "bf16"), "FLOP", (char[32]){0}, 32),
           text(hw, "source"));
    for (int p = 0; p < 2; p++)
        print_phase(report, phases[p]);
    const json_t *m = json_object_get(report, "memory"), *dm = json_object_get(dense, "memory");
    printf("\n## Sum\n\n| | predicted | dense |%s\n|:---|---:|---:|%s\n", measured != NULL ? " measured |" : "",
           measured != NULL ? "---:|" : "");
    print_line("time to first token", number(report, "ttft_seconds"), number(dense, "ttft_seconds"),
               number(measured, "ttft_seconds"), "ms", 1e3);
    print_line("time of a token", number(report, "tpot_seconds"), number(dense, "tpot_seconds"),
               number(measured, "tpot_seconds"), "ms", 1e3);
    print_line("tokens a second", number(report, "tokens_per_second"), number(dense, "tokens_per_second"),
               number(measured, "tokens_per_second"), "", 1);
    print_line("weights", number(m, "weights"), number(dm, "weights"), NAN, "MB", 1e-6);
    if (number(m, "draft_weights") > 0)
        print_line("weights of the draft model", number(m, "draft_weights"), number(dm, "draft_weights"), NAN, "MB",
                   1e-6);
    print_line("KV cache", number(m, "kv"), number(dm, "kv"), NAN, "MB", 1e-6);
    if (number(m, "kv_host") > 0)
        print_line("KV cache, second tier", number(m, "kv_host"), number(dm, "kv_host"), NAN, "MB", 1e-6);
    const json_t *speedup = json_object_get(report, "speedup");
    printf("\nSpeed-up versus dense, predicted: first token ");
    cell(number(speedup, "ttft"), -2);
    printf(", generated tokens ");
    cell(number(speedup, "tpot"), -2);
    printf(".\n");
    print_terms(report);
    print_unknown(report);
    if (measured != NULL)
        printf("\n`!`: more than 25 %% from what was predicted: the model of the operation is wrong, or its kernel is "
               "slow.\n");
}

void roofline_print_csv(const json_t *report) {
    printf("phase,act,operation,plugin,flops,bytes,weights,activations,kv_read,kv_write,other,link,bound,predicted_us,"
           "act_measured_us\n");
    for (int p = 0; p < 2; p++) {
        const json_t *phase = json_object_get(report, phases[p]), *row;
        double steps = number(phase, "steps");
        size_t i;
        json_array_foreach(json_object_get(phase, "rows"), i, row) {
            const json_t *k = json_object_get(row, "by_kind");
            const json_t *act = json_object_get(json_object_get(phase, "measured"), text(row, "act"));
            static const char *const kinds[] = {"weights", "activations", "kv_read", "kv_write", "other", "link"};
            printf("%s,%s,%s,%s,%.6g,%.6g", phases[p], text(row, "act"), text(row, "name"), text(row, "plugin"),
                   number(row, "flops") / steps, number(row, "bytes") / steps);
            for (int j = 0; j < 6; j++)
                printf(",%.6g", number(k, kinds[j]) / steps);
            printf(",%s,", json_object_get(row, "unknown") != NULL ? "unknown" : text(row, "bound"));
            if (isfinite(number(row, "seconds")))
                printf("%.6g", 1e6 * number(row, "seconds") / steps);
            putchar(',');
            if (isfinite(number(act, "seconds_of_a_step")))
                printf("%.6g", 1e6 * number(act, "seconds_of_a_step"));
            putchar('\n');
        }
    }
}
