/* See cli.h. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only what is safe between fork and exec. */
static void become(const char *program, char *const *argv, const char *folder, const char *in, const char *out,
                   const char *err) {
    int fds[3] = {open(in, O_RDONLY), open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666),
                  open(err, O_WRONLY | O_CREAT | O_TRUNC, 0666)};
    if (fds[0] < 0 || fds[1] < 0 || fds[2] < 0 || chdir(folder) != 0)
        _exit(126);
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0)
            _exit(126);
    execv(program, argv);
    _exit(127);
}

cli_result cli_run(const char *const *args, const char *input) {
    const char *program = e2e_built("sluice"), *argv[64] = {program};
    for (int i = 0; args[i] != NULL && i < 62; i++)
        argv[i + 1] = args[i];
    const char *folder = e2e_temp(""), *in = e2e_temp("stdin"), *out = e2e_temp("stdout"), *err = e2e_temp("stderr");
    e2e_put_text(folder, "stdin", input != NULL ? input : "");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        become(program, (char *const *)(uintptr_t)argv, folder, in, out, err);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail_msg("%s: %s", program, strerror(errno));
    cli_result r = {.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
    r.out = e2e_read(out, &r.n_out);
    r.err = e2e_read(err, NULL);
    return r;
}

void cli_free(cli_result *r) {
    free(r->out);
    free(r->err);
}

static void join_args(const char *const *args, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "sluice");
    for (; *args != NULL && n < cap; args++)
        n += (size_t)snprintf(out + n, cap - n, " %s", *args);
}

cli_result cli_good(const char *const *args, const char *input) {
    char line[1024];
    join_args(args, line, sizeof line);
    cli_result r = cli_run(args, input);
    if (r.status != 0)
        fail_msg("%s: exit status %d: %s", line, r.status, r.err);
    return r;
}

json_t *cli_report(const char *const *args) {
    cli_result r = cli_good(args, NULL);
    json_t *json = json_loads(r.out, 0, NULL);
    if (json == NULL)
        fail_msg("no JSON: %s", r.out);
    cli_free(&r);
    return json;
}

void cli_refused(const char *const *args, const char *const *words) {
    char line[1024];
    join_args(args, line, sizeof line);
    cli_result r = cli_run(args, NULL);
    if (r.status < 1 || r.status > 123)
        fail_msg("%s: exit status %d, expected 1 to 123; it said: %s", line, r.status, r.err);
    if (r.n_out != 0)
        fail_msg("%s: failed, but wrote to stdout: %s", line, r.out);
    size_t n = strlen(r.err);
    int good = strncmp(r.err, "sluice: ", 8) == 0 && r.err[n - 1] == '\n';
    for (const char *p = r.err; (p = strchr(p, '\n')) != NULL && p[1] != '\0'; p++)
        good &= strncmp(p + 1, "  ", 2) == 0;
    if (!good)
        fail_msg("%s: expected one error \"sluice: ...\" on stderr, found: %s", line, r.err);
    for (; *words != NULL; words++)
        if (strstr(r.err, *words) == NULL)
            fail_msg("%s: the error does not say \"%s\": %s", line, *words, r.err);
    cli_free(&r);
}
