/* sluice run - continue a prompt. Text goes to stdout as it is made, everything else to stderr. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "options.h"

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static int on_chunk(void *user, const sluice_chunk *chunk) {
    const int *ids = user;
    if (chunk->n_tokens == 0 && chunk->finish == SLUICE_RUNNING) {
        if (isatty(STDERR_FILENO) && chunk->prompt_total > 64)
            fprintf(stderr, "\rprompt: %lld of %lld tokens\033[K%s", (long long)chunk->prompt_done,
                    (long long)chunk->prompt_total, chunk->prompt_done >= chunk->prompt_total ? "\r\033[K" : "");
        return interrupted;
    }
    if (*ids)
        for (int32_t i = 0; i < chunk->n_tokens; i++)
            printf(" %d", chunk->tokens[i]);
    else
        fwrite(chunk->text, 1, chunk->length, stdout);
    fflush(stdout);
    return interrupted;
}

static void summary(const sluice_engine *engine) {
    sluice_stats s;
    sluice_get_stats(engine, &s);
    int64_t given = s.prompt_tokens + s.replaced_tokens - s.kept_tokens;
    fprintf(stderr, "prompt: %lld tokens, %.1f tokens/s; decode: %lld tokens, %.1f tokens/s, %lld steps",
            (long long)given, s.prompt_seconds > 0 ? (double)given / s.prompt_seconds : 0.0, (long long)s.tokens,
            s.decode_seconds > 0 ? (double)s.emitted / s.decode_seconds : 0.0, (long long)s.steps);
    if (s.drafted > 0)
        fprintf(stderr, "; drafts: %lld of %lld accepted, %.2f tokens a step%s", (long long)s.accepted,
                (long long)s.drafted, s.steps > 0 ? (double)s.emitted / (double)s.steps : 0.0,
                s.lossless ? "" : " (lossy)");
    if (s.replaced_tokens > 0) {
        sluice_info info;
        sluice_get_info(engine, &info);
        fprintf(stderr, "; %lld of them kept, found by %.0f %% of a prompt's layers in %.2f s",
                (long long)s.kept_tokens,
                100.0 * (double)s.prompt_work_layers / (double)s.replaced_tokens / info.layers, s.prompt_work_seconds);
    }
    fprintf(stderr, "; memory: weights %.1f MB, kv %.1f MB, peak %.1f MB", (double)s.bytes_weights / 1e6,
            (double)s.bytes_kv / 1e6, (double)s.bytes_peak / 1e6);
    if (s.gpu_bytes_peak > 0)
        fprintf(stderr, "; of the GPU: weights %.1f MB, kv %.1f MB, peak %.1f MB", (double)s.gpu_bytes_weights / 1e6,
                (double)s.gpu_bytes_kv / 1e6, (double)s.gpu_bytes_peak / 1e6);
    fputc('\n', stderr);
}

static int write_stats(const sluice_engine *engine, const char *path) {
    sluice_error err;
    FILE *f = fopen(path, "wb");
    if (f == NULL) {
        perror(path);
        return 1;
    }
    int status = sluice_stats_json(engine, write_file, f, &err) < 0 ? fail(&err) : 0;
    if (fclose(f) != 0 && status == 0) {
        perror(path);
        status = 1;
    }
    return status;
}

/* What the model was given in place of the prompt, as text. */
static int show_kept(sluice_engine *engine, const sluice_session *session, sluice_error *err) {
    const int32_t *tokens;
    const int64_t *index;
    int64_t n_prompt;
    sluice_session_computed(session, &tokens, &index, &n_prompt);
    int64_t n = sluice_detokenize(engine, tokens, n_prompt, NULL, 0, err);
    char *text = n >= 0 ? malloc((size_t)n + 1) : NULL;
    if (text != NULL) {
        sluice_detokenize(engine, tokens, n_prompt, text, n, err);
        fprintf(stderr, "kept: %.*s\n", (int)n, text);
    }
    free(text);
    return n < 0 ? (int)n : SLUICE_OK;
}

/* Numbers separated by spaces or commas. Returns how many; writes at most cap of them. < 0: error. */
static int64_t read_ids(const char *text, int32_t *out, int64_t cap, sluice_error *err) {
    int64_t n = 0;
    for (const char *p = text + strspn(text, " ,\t\r\n"); *p != '\0'; p += strspn(p, " ,\t\r\n")) {
        char *end;
        long long id = strtoll(p, &end, 10);
        if (end == p || id < 0 || id > INT32_MAX) {
            snprintf(err->text, sizeof err->text, "--ids: expected token ids separated by spaces, found \"%.20s\"", p);
            return SLUICE_E_INVALID;
        }
        if (n < cap)
            out[n] = (int32_t)id;
        n++;
        p = end;
    }
    return n;
}

/* The prompt's tokens in a fresh session. */
static int feed(sluice_engine *engine, const char *text, size_t length, int flags, int ids, sluice_session **session,
                sluice_error *err) {
    int64_t n = ids ? read_ids(text, NULL, 0, err) : sluice_tokenize(engine, text, length, flags, NULL, 0, err);
    if (n < 0)
        return (int)n;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)(n > 0 ? n : 1));
    if (tokens == NULL) {
        snprintf(err->text, sizeof err->text, "out of memory");
        return SLUICE_E_NO_MEMORY;
    }
    int status =
        (int)(ids ? read_ids(text, tokens, n, err) : sluice_tokenize(engine, text, length, flags, tokens, n, err));
    if (status >= 0 && n == 0) {
        snprintf(err->text, sizeof err->text, "the prompt is empty%s",
                 ids ? "" : ", and the model has no token to begin a text with");
        status = SLUICE_E_INVALID;
    }
    if (status >= 0)
        status = sluice_session_open(engine, session, err);
    if (status >= 0)
        status = sluice_session_append(*session, tokens, n, err);
    free(tokens);
    return status < 0 ? status : SLUICE_OK;
}

int cmd_run(int argc, char **argv) {
    common c = {0};
    const char *prompt = NULL, *file = NULL, *stats = NULL;
    int verify = 0, plain = 0, echo = 0, quiet = 0, kept = 0, ids = 0;
    const option own[] = {
        {"-p, --prompt", "TEXT", "the prompt", OPT_TEXT, NULL, &prompt},
        {"-f, --file", "FILE", "read the prompt from a file; without -p and -f it is read from stdin", OPT_TEXT, NULL,
         &file},
        {"-n, --n-predict", "N", "most tokens to generate (sampling.max_tokens)", OPT_SET, "sampling.max_tokens", NULL},
        {"--temp", "T", "temperature; 0: greedy (sampling.temperature)", OPT_SET, "sampling.temperature", NULL},
        {"--top-k", "N", "sampling.top_k", OPT_SET, "sampling.top_k", NULL},
        {"--top-p", "P", "sampling.top_p", OPT_SET, "sampling.top_p", NULL},
        {"--min-p", "P", "sampling.min_p", OPT_SET, "sampling.min_p", NULL},
        {"-s, --seed", "N", "sampling.seed; -1: a random one, which is told", OPT_SET, "sampling.seed", NULL},
        {"--stats", "FILE", "write statistics as JSON", OPT_TEXT, NULL, &stats},
        {"--verify", NULL, "look for NaN and Inf in the weights first", OPT_FLAG, NULL, &verify},
        {"--no-special", NULL, "add no beginning-of-text token and read none in the prompt", OPT_FLAG, NULL, &plain},
        {"--ids", NULL, "the prompt is token ids, and so is what is printed", OPT_FLAG, NULL, &ids},
        {"--echo", NULL, "print the prompt too", OPT_FLAG, NULL, &echo},
        {"--show-kept", NULL, "print the prompt that a prompt transformer left of it to stderr", OPT_FLAG, NULL, &kept},
        {"-q, --quiet", NULL, "no summary", OPT_FLAG, NULL, &quiet},
        {NULL, NULL, NULL, OPT_FLAG, NULL, NULL},
    };
    int status = options_parse(argc, argv, "sluice run [-p TEXT | -f FILE] [options]", own, &c, NULL, 0);
    if (status < 0 || c.help) {
        options_free(&c);
        return status < 0 ? CLI_USAGE : 0;
    }
    char *text = NULL;
    size_t length = 0;
    if (prompt != NULL)
        length = strlen(prompt);
    else if ((text = read_text(file != NULL ? file : "-", &length)) == NULL) {
        options_free(&c);
        return 1;
    }
    sluice_engine *engine = NULL;
    sluice_session *session = NULL;
    sluice_error err = {0};
    sluice_options options = options_engine(&c);
    status = sluice_open(&options, &engine, &err);
    if (status >= 0 && verify)
        status = sluice_verify_weights(engine, &err);
    if (status >= 0)
        status = feed(engine, prompt != NULL ? prompt : text, length,
                      plain ? 0 : SLUICE_ADD_SPECIAL | SLUICE_PARSE_SPECIAL, ids, &session, &err);
    if (status >= 0) {
        sluice_sampling sampling;
        sluice_default_sampling(engine, &sampling);
        if (sampling.temperature > 0 && !quiet)
            fprintf(stderr, "seed: %llu\n", (unsigned long long)sampling.seed);
        if (echo)
            fwrite(prompt != NULL ? prompt : text, 1, length, stdout);
        signal(SIGINT, on_interrupt);
        status = sluice_generate(engine, &session, 1, &sampling, 1, on_chunk, &ids, &err);
    }
    if (status >= 0) {
        putchar('\n');
        fflush(stdout);
        if (!quiet)
            summary(engine);
    }
    if (status >= 0 && kept)
        status = show_kept(engine, session, &err);
    status = status < 0 ? fail(&err) : 0;
    if (status == 0 && stats != NULL)
        status = write_stats(engine, stats);
    sluice_close(engine);
    free(text);
    options_free(&c);
    return status;
}
