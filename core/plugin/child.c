/* Describing a package in a child process; see describe.h. The child writes one JSON object to a pipe: {"plugins":
 * [...]} or {"error": "...", "code": n}. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/ledger.h"
#include "describe.h"
#include "loader.h"

enum { MAX_ANSWER = 16 << 20 };

/* ---- the child --------------------------------------------------------------------------------------------------- */

/* Crashes must end the child by their signal, quietly: no handler of a sanitizer or a debugger, no core file. */
static void prepare_child(int timeout_ms) {
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGPIPE, SIGALRM, SIGTERM, SIGINT};
    sigset_t none;
    sigemptyset(&none);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        signal(fatal[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    alarm((unsigned)(timeout_ms / 1000 + 2)); /* should the parent die first */
    int nowhere = open("/dev/null", O_RDWR);
    if (nowhere >= 0) {
        dup2(nowhere, 0);
        dup2(nowhere, 1);
        if (secure_getenv("SLUICE_DEBUG") == NULL)
            dup2(nowhere, 2);
    }
}

static int write_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return 0;
        p += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
    }
    return 1;
}

static _Noreturn void child(const char *path, int timeout_ms, int fd) {
    prepare_child(timeout_ms);
    SL_ERROR(err);
    const sli_package *package = NULL;
    sl_status s = sli_package_open(path, 0, &package, &err);
    json_t *answer = s < 0 ? json_pack("{s:s, s:i}", "error", err_text_, "code", (int)s)
                           : json_pack("{s:o}", "plugins", sli_package_json(package->package, path));
    char *text = answer != NULL ? json_dumps(answer, JSON_COMPACT) : NULL;
    _exit(text != NULL && write_all(fd, text, strlen(text)) ? 0 : 120);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

typedef struct answer {
    char *text;
    size_t n, cap;
} answer;

/* Reads to the end of the pipe. SL_PENDING: not within the time; SL_E_DATA: far too much. */
static sl_status read_all(int fd, int64_t deadline, answer *a) {
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (ready == 0)
            return SL_PENDING;
        if (ready < 0 && errno == EINTR)
            continue;
        if (a->n == a->cap) {
            size_t cap = a->cap > 0 ? 2 * a->cap : 16384;
            char *wider = cap <= MAX_ANSWER ? sli_realloc(SLI_TAG_MISC, a->text, cap) : NULL;
            if (wider == NULL)
                return cap <= MAX_ANSWER ? SL_E_NO_MEMORY : SL_E_DATA;
            a->text = wider;
            a->cap = cap;
        }
        ssize_t n = read(fd, a->text + a->n, a->cap - a->n);
        if (n == 0)
            return SL_OK;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return SL_E_IO;
        a->n += n > 0 ? (size_t)n : 0;
    }
}

/* Ends the child if need be and tells how it ended. */
static int reap(pid_t pid, int kill_it) {
    int status = 0;
    if (kill_it)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

static sl_status understand(const char *path, const answer *a, json_t **out, sl_error *err) {
    json_t *root = json_loadb(a->text, a->n, 0, NULL);
    json_t *plugins = json_object_get(root, "plugins"), *why = json_object_get(root, "error");
    sl_status s = SL_OK;
    if (json_is_array(plugins))
        *out = json_incref(plugins);
    else if (json_is_string(why))
        s = sl_fail(err, (sl_status)json_integer_value(json_object_get(root, "code")), "%s", json_string_value(why));
    else
        s = sl_fail(err, SL_E_DATA, "%s: package wrote something else than its description while being scanned", path);
    json_decref(root);
    return s;
}

static sl_status judge(const char *path, sl_status got, int timeout_ms, int status, const answer *a, json_t **out,
                       sl_error *err) {
    if (got == SL_PENDING)
        return sl_fail(err, SL_E_DATA, "%s: package did not answer within %.1f s while being scanned", path,
                       timeout_ms / 1000.0);
    if (got < 0)
        return sl_fail(err, got, "%s: its description could not be read: %s", path, sl_status_text(got));
    if (WIFSIGNALED(status))
        return sl_fail(err, SL_E_DATA, "%s: package crashed with signal %d (%s) while being scanned", path,
                       WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) != 0)
        return sl_fail(err, SL_E_DATA, "%s: package ended the process (exit status %d) while being scanned", path,
                       WEXITSTATUS(status));
    return understand(path, a, out, err);
}

sl_status sli_plugins_describe_child(const char *path, int timeout_ms, json_t **out, sl_error *err) {
    timeout_ms = timeout_ms > 0 ? timeout_ms : SLI_DESCRIBE_MS;
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) != 0)
        return sl_fail(err, SL_E_IO, "%s: cannot scan: %s", path, strerror(errno));
    pid_t pid = fork();
    if (pid < 0) {
        int why = errno;
        close(fd[0]), close(fd[1]);
        return sl_fail(err, SL_E_IO, "%s: cannot start a process to scan it: %s", path, strerror(why));
    }
    if (pid == 0) {
        close(fd[0]);
        child(path, timeout_ms, fd[1]);
    }
    close(fd[1]);
    answer a = {0};
    sl_status got = read_all(fd[0], now_ms() + timeout_ms, &a);
    close(fd[0]);
    int status = reap(pid, got != SL_OK);
    sl_status s = judge(path, got, timeout_ms, status, &a, out, err);
    sli_free(a.text);
    return s;
}

/* ---- who provides what ------------------------------------------------------------------------------------------- */

typedef struct wanted {
    sli_provider_search *answer;
    const char *capability;
    int found;
} wanted;

static int look_at(void *user, const char *path, const char *family, const char *id, int shadowed) {
    wanted *w = user;
    json_t *plugins = NULL;
    (void)family, (void)id;
    if (shadowed || sli_plugins_describe_child(path, 0, &plugins, NULL) < 0)
        return 0;
    for (size_t i = 0; i < json_array_size(plugins) && !w->found; i++) {
        json_t *plugin = json_array_get(plugins, i), *provides = json_object_get(plugin, "provides");
        for (size_t k = 0; k < json_array_size(provides) && !w->found; k++)
            w->found = strcmp(json_string_value(json_array_get(provides, k)), w->capability) == 0;
        if (w->found)
            snprintf(w->answer->name, sizeof w->answer->name, "%s (%s)",
                     json_string_value(json_object_get(plugin, "id")), path);
    }
    json_decref(plugins);
    return w->found;
}

const char *sli_provider_scan(void *user, const char *capability) {
    wanted w = {user, capability, 0};
    sl_status s = sli_plugins_scan(w.answer->search, look_at, &w, NULL);
    return s == SL_OK && w.found ? w.answer->name : NULL;
}
