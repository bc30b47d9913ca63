/* hello_sluice - the smallest program on libsluice: opens an INI, continues a prompt, prints text as it comes.
 *
 *     hello_sluice CONFIG.ini "Once upon a time" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libsluice.h>

static int print(void *user, const sluice_chunk *chunk) {
    (void)user;
    fwrite(chunk->text, 1, chunk->length, stdout);
    fflush(stdout);
    return 0;
}

static int run(sluice_engine *engine, const char *prompt, sluice_error *err) {
    int64_t n = sluice_tokenize(engine, prompt, strlen(prompt), SLUICE_ADD_SPECIAL, NULL, 0, err);
    if (n < 0)
        return (int)n;
    int32_t *tokens = malloc(sizeof *tokens * (size_t)(n + 1));
    sluice_session *session = NULL;
    sluice_sampling sampling;
    sluice_default_sampling(engine, &sampling);
    int status = tokens == NULL
                     ? SLUICE_E_NO_MEMORY
                     : (int)sluice_tokenize(engine, prompt, strlen(prompt), SLUICE_ADD_SPECIAL, tokens, n, err);
    if (status >= 0)
        status = sluice_session_open(engine, &session, err);
    if (status >= 0)
        status = sluice_session_append(session, tokens, n, err);
    if (status >= 0)
        status = sluice_generate(engine, &session, 1, &sampling, 1, print, NULL, err);
    putchar('\n');
    sluice_session_close(session);
    free(tokens);
    return status;
}

int main(int argc, char **argv) {
    sluice_error err = {0};
    sluice_engine *engine = NULL;
    if (argc != 3) {
        fprintf(stderr, "usage: hello_sluice CONFIG.ini PROMPT\n");
        return 2;
    }
    sluice_options options = {.config = argv[1]};
    int status = sluice_open(&options, &engine, &err);
    if (status >= 0)
        status = run(engine, argv[2], &err);
    if (status < 0)
        fprintf(stderr, "hello_sluice: %s\n", err.text);
    sluice_close(engine);
    return status < 0;
}
