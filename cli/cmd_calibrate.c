/* sluice calibrate PLUGIN - lets a plugin measure, on texts, what one of its parameters should be; tries the best
 * values on a retrieval task; writes the file that the plugin reads. Knows no plugin: what is measured comes as data.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "gen.h"
#include "options.h"
#include "svg_plot.h"

enum { MAX_TEXTS = 32, MAX_CHECKS = 16 };

typedef struct job {
    common c;
    const char *plugin, *out, *plot;
    const char *texts[MAX_TEXTS];
    int n_texts;
    int64_t length, prompts, tokens, checks, answers, needles, seed;
} job;

typedef struct checked {
    const char *value;
    double score;
    int64_t right, total;
} checked;

static int quiet(void *user, const sluice_chunk *chunk) {
    (void)user, (void)chunk;
    return 0;
}

static int out_of_memory(sluice_error *err) {
    snprintf(err->text, sizeof err->text, "out of memory");
    return SLUICE_E_NO_MEMORY;
}

static sluice_sampling greedy_of(sluice_engine *e, int64_t n) {
    sluice_sampling s;
    sluice_default_sampling(e, &s);
    s.temperature = 0;
    s.ignore_eos = 1;
    s.n_stop = 0;
    s.max_tokens = (int32_t)n;
    return s;
}

/* ---- measuring ------------------------------------------------------------------------------------------------- */

/* Computes a prompt, and decodes behind it if the plugin wants to see that. */
static int run_prompt(sluice_engine *e, const int32_t *tokens, int64_t n, int64_t decode, sluice_error *err) {
    sluice_session *s = NULL;
    sluice_info info;
    sluice_get_info(e, &info);
    sluice_sampling greedy = greedy_of(e, decode);
    float *logits = decode == 0 ? malloc(sizeof *logits * (size_t)info.vocab) : NULL;
    int status = decode == 0 && logits == NULL ? out_of_memory(err) : sluice_session_open(e, &s, err);
    if (status >= 0)
        status = sluice_session_append(s, tokens, n, err);
    if (status >= 0)
        status =
            decode == 0 ? sluice_logits(s, 1, logits, err) : sluice_generate(e, &s, 1, &greedy, 1, quiet, NULL, err);
    sluice_session_close(s);
    free(logits);
    return status;
}

/* A context of needles in running text. */
static int make_needles(sluice_engine *e, const job *j, const char *text, size_t bytes, int64_t length, int64_t number,
                        gen_context *out, sluice_error *err) {
    gen_source source = {.text = text,
                         .bytes = bytes,
                         .turns = (int)j->needles,
                         .seed = (uint64_t)j->seed,
                         .number = number,
                         .length = length};
    return gen_make(e, &gen_formats[0], &source, out, err);
}

/* Every second prompt is running text, the others end in a question whose answer stands somewhere in them. */
static int run_prompts(sluice_engine *e, const job *j, const char *text, size_t bytes, int64_t decode, int64_t first,
                       int64_t n, sluice_error *err) {
    int64_t n_tokens = sluice_tokenize(e, text, bytes, 0, NULL, 0, err);
    if (n_tokens < 0)
        return (int)n_tokens;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)(n_tokens + 1));
    if (tokens == NULL)
        return out_of_memory(err);
    sluice_tokenize(e, text, bytes, 0, tokens, n_tokens, err);
    int64_t length = j->length - decode < n_tokens ? j->length - decode : n_tokens;
    int status = SLUICE_OK;
    for (int64_t i = 0; status >= 0 && i < n; i++) {
        if ((first + i) % 2 == 0) {
            int64_t begin = n > 1 ? (n_tokens - length) * i / (n - 1) : 0;
            status = run_prompt(e, tokens + begin, length, decode, err);
            continue;
        }
        gen_context ctx;
        status = make_needles(e, j, text, bytes, j->length - decode, 1000 + first + i, &ctx, err);
        if (status < 0)
            break;
        status = run_prompt(e, ctx.tokens, ctx.questions[0].begin, decode, err);
        gen_context_free(&ctx);
    }
    free(tokens);
    return status;
}

static int measure(job *j, char *const *text, const size_t *bytes, sluice_calibration **out, sluice_error *err) {
    sluice_engine *e = NULL;
    sluice_options options = options_engine(&j->c);
    options.only_cpu = "calibration";
    sluice_info info;
    int sees = 0, status = sluice_open(&options, &e, err);
    if (status >= 0)
        status = sluice_calibrate_begin(e, j->plugin, &sees, err);
    if (status >= 0) {
        sluice_get_info(e, &info);
        j->length = j->length > 0 ? j->length : info.max_context;
        if (j->length > info.max_context || j->length < 2 * j->tokens + 16) {
            snprintf(err->text, sizeof err->text, "--length must be in [%lld, %d]", 2 * (long long)j->tokens + 16,
                     info.max_context);
            status = SLUICE_E_RANGE;
        }
    }
    int64_t done = 0, decode = sees & SLUICE_SEES_DECODING ? j->tokens : 0;
    for (int i = 0; status >= 0 && i < j->n_texts; i++) {
        int64_t n = j->prompts * (i + 1) / j->n_texts - done;
        status = run_prompts(e, j, text[i], bytes[i], decode, done, n, err);
        done += n;
    }
    if (status >= 0)
        status = sluice_calibrate_finish(e, j->plugin, out, err);
    sluice_close(e);
    return status;
}

/* ---- checking -------------------------------------------------------------------------------------------------- */

/* Answers of needles, generated: tokens that are right, with one value of the parameter. */
static int check(const job *j, const sluice_calibration_info *info, const char *text, size_t bytes, checked *v,
                 sluice_error *err) {
    char set[512];
    common c = j->c;
    if (c.n_sets == CLI_MAX_SETS) {
        snprintf(err->text, sizeof err->text, "too many --set");
        return SLUICE_E_RANGE;
    }
    snprintf(set, sizeof set, "%s.%s=%s", info->section, info->key, v->value);
    c.sets[c.n_sets++] = set;
    sluice_options options = options_engine(&c);
    sluice_engine *e = NULL;
    int status = sluice_open(&options, &e, err);
    for (int64_t context = 0; status >= 0 && v->total < j->answers; context++) {
        gen_context ctx;
        status = make_needles(e, j, text, bytes, j->length, context, &ctx, err);
        if (status < 0)
            break;
        sluice_session *s = NULL;
        status = sluice_session_open(e, &s, err);
        if (status >= 0)
            status = sluice_session_append(s, ctx.tokens, ctx.n_shared, err);
        for (int i = 0; status >= 0 && i < ctx.n_questions; i++) {
            const gen_question *a = &ctx.questions[i];
            sluice_session *fork = NULL;
            sluice_sampling greedy = greedy_of(e, a->n);
            if (i == 0) { /* computes what the questions share */
                sluice_sampling one = greedy_of(e, 1);
                status = sluice_generate(e, &s, 1, &one, 1, quiet, NULL, err);
                if (status >= 0)
                    status = sluice_session_truncate(s, ctx.n_shared, err);
            }
            if (status >= 0)
                status = sluice_session_fork(s, -1, &fork, err);
            if (status >= 0)
                status = sluice_session_append(fork, ctx.tokens + a->question, a->begin - a->question, err);
            if (status >= 0)
                status = sluice_generate(e, &fork, 1, &greedy, 1, quiet, NULL, err);
            for (int64_t k = 0; status >= 0 && k < a->n; k++)
                v->right +=
                    sluice_session_tokens(fork)[sluice_session_length(fork) - a->n + k] == ctx.tokens[a->begin + k];
            v->total += status >= 0 ? a->n : 0;
            sluice_session_close(fork);
        }
        sluice_session_close(s);
        gen_context_free(&ctx);
    }
    sluice_close(e);
    return status;
}

/* ---- the result ------------------------------------------------------------------------------------------------ */

static int write_plot(const job *j, const sluice_calibration_info *info, sluice_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", j->plot != NULL ? j->plot : j->out, j->plot != NULL ? "" : ".svg");
    FILE *f = info->n_curves > 0 ? fopen(path, "w") : NULL;
    if (info->n_curves == 0)
        return SLUICE_OK;
    char title[256];
    snprintf(title, sizeof title, "%s: %s", info->plugin, info->key != NULL ? info->key : "calibration");
    int good = f != NULL && svg_plot(f, title, info->x_label, info->y_label, info->curves, info->n_curves) == 0;
    int why = errno;
    if (f != NULL && fclose(f) != 0)
        good = 0;
    if (!good)
        snprintf(err->text, sizeof err->text, "%.900s: %s", path, strerror(why));
    else
        fprintf(stderr, "wrote %s\n", path);
    return good ? SLUICE_OK : -8;
}

static void print_ini(const job *j, const sluice_calibration_info *info, const checked *list, int n,
                      const checked *best) {
    printf("; sluice calibrate %s: %lld rows measured on %lld prompts of %lld tokens\n", info->plugin,
           (long long)info->n_samples, (long long)j->prompts, (long long)j->length);
    for (int i = 0; info->key != NULL && i < info->n_choices; i++) {
        printf("; %s = %-6s %s %.4f", info->key, info->choices[i].value, info->score_name, info->choices[i].score);
        for (int k = 0; k < n; k++)
            if (list[k].total > 0 && strcmp(list[k].value, info->choices[i].value) == 0)
                printf(", %lld of %lld answer tokens right", (long long)list[k].right, (long long)list[k].total);
        printf("\n");
    }
    printf("[%s]\nplugin = %s\n", info->section, info->plugin);
    if (best != NULL)
        printf("%s = %s\n", info->key, best->value);
    printf("; or, from the file: calibration = %s\n", j->out);
}

static int calibrate(job *j, char *const *text, const size_t *bytes, sluice_error *err) {
    sluice_calibration *found = NULL;
    sluice_calibration_info info = {0};
    checked list[MAX_CHECKS] = {{0}}, *best = NULL;
    int n = 0, status = measure(j, text, bytes, &found, err);
    if (status >= 0) {
        sluice_calibration_get(found, &info);
        n = info.key == NULL ? 0 : info.n_choices < j->checks ? info.n_choices : (int)j->checks;
    }
    for (int i = 0; status >= 0 && i < n; i++) {
        list[i] = (checked){info.choices[i].value, info.choices[i].score, 0, 0};
        status = check(j, &info, text[0], bytes[0], &list[i], err);
        if (status >= 0) {
            fprintf(stderr, "%s = %s: %lld of %lld answer tokens right\n", info.key, list[i].value,
                    (long long)list[i].right, (long long)list[i].total);
            if (best == NULL || list[i].right * best->total > best->right * list[i].total) /* equal: the better score */
                best = &list[i];
        }
    }
    checked first = {0};
    if (status >= 0 && best == NULL && info.n_choices > 0) {
        first = (checked){info.choices[0].value, info.choices[0].score, 0, 0};
        best = &first;
    }
    if (status >= 0)
        status = sluice_calibration_write(found, best != NULL ? best->value : NULL, j->out, err);
    if (status >= 0)
        status = write_plot(j, &info, err);
    if (status >= 0)
        print_ini(j, &info, list, n, best);
    sluice_calibration_free(found);
    return status;
}

int cmd_calibrate(int argc, char **argv) {
    job j = {.prompts = 16, .tokens = 16, .checks = 3, .answers = 100, .needles = 20, .seed = 1};
    const char *words[MAX_TEXTS + 1];
    const option own[] = {
        {"--text", "FILE", "plain text to measure on; further words on the line are more of them", OPT_TEXT, NULL,
         &j.texts[0]},
        {"-o, --output", "FILE", "the file that the plugin reads (safetensors)", OPT_TEXT, NULL, &j.out},
        {"--plot", "FILE", "curves as SVG (default: the output's name and .svg)", OPT_TEXT, NULL, &j.plot},
        {"--length", "N", "tokens of a prompt (default: the context)", OPT_INT, NULL, &j.length},
        {"--prompts", "N", "prompts; half of them running text, half with a question (default 16)", OPT_INT, NULL,
         &j.prompts},
        {"--tokens", "N", "tokens decoded behind each, where the plugin looks at decoding (default 16)", OPT_INT, NULL,
         &j.tokens},
        {"--check", "N", "best values to try on the retrieval task; 0: the score decides alone (default 3)", OPT_INT,
         NULL, &j.checks},
        {"--answers", "N", "answer tokens of each try at least (default 100)", OPT_INT, NULL, &j.answers},
        {"--needles", "N", "needles in each context (default 20)", OPT_INT, NULL, &j.needles},
        {"--seed", "N", "which needles (default 1)", OPT_INT, NULL, &j.seed},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int n = options_parse(argc, argv, "sluice calibrate PLUGIN --config FILE --text FILE ... -o FILE [options]", own,
                          &j.c, words, MAX_TEXTS);
    int good = n >= 1 && j.texts[0] != NULL && j.out != NULL && j.prompts >= 1 && j.tokens >= 1 && j.checks >= 0 &&
               j.checks <= MAX_CHECKS && j.needles >= 1 && j.needles <= GEN_MAX_QUESTIONS;
    if (n < 0 || j.c.help || !good) {
        if (n >= 0 && !j.c.help)
            fprintf(stderr,
                    "sluice: calibrate needs a plugin's name, --text FILE and -o FILE; --prompts and --tokens from 1, "
                    "--check "
                    "0 to %d, --needles 1 to %d\n",
                    MAX_CHECKS, GEN_MAX_QUESTIONS);
        options_free(&j.c);
        return j.c.help ? 0 : CLI_USAGE;
    }
    j.plugin = words[0];
    j.n_texts = n;
    for (int i = 1; i < n; i++)
        j.texts[i] = words[i];
    char *text[MAX_TEXTS] = {NULL};
    size_t bytes[MAX_TEXTS];
    sluice_error err = {0};
    int status = 0;
    for (int i = 0; i < n && status == 0; i++)
        status = (text[i] = read_text(j.texts[i], &bytes[i])) != NULL ? 0 : 1;
    if (status == 0)
        status = calibrate(&j, text, bytes, &err) < 0 ? fail(&err) : 0;
    for (int i = 0; i < n; i++)
        free(text[i]);
    options_free(&j.c);
    return status;
}
