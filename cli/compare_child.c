/* See compare_child.h. */
#include "compare_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "options.h"

enum { MAX_ARGUMENTS = 256, KEPT_OF_STDERR = 8192 };

/* Between fork and exec: only what is safe there. */
static void become(char *const *argv, const int *out, const int *err, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int nothing = open("/dev/null", O_RDONLY);
    if (getppid() != parent || nothing < 0 || dup2(nothing, 0) < 0 || dup2(out[1], 1) < 0 || dup2(err[1], 2) < 0)
        _exit(126);
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* Appends what can be read; of stderr only the end is kept. 0 at the end of the stream, -1: out of memory. */
static int take(int fd, char **text, size_t *n, size_t most) {
    char piece[65536];
    ssize_t got = read(fd, piece, sizeof piece);
    if (got <= 0)
        return got < 0 && errno == EINTR ? 1 : 0;
    char *wider = realloc(*text, *n + (size_t)got + 1);
    if (wider == NULL)
        return -1;
    *text = wider;
    memcpy(wider + *n, piece, (size_t)got);
    *n += (size_t)got;
    if (*n > 2 * most) {
        memmove(wider, wider + *n - most, most);
        *n = most;
    }
    wider[*n] = '\0';
    return 1;
}

/* Reads both streams to their ends, or until the time is over. */
static int listen_to(int out, int err, double end, child_result *r) {
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        double left = end > 0 ? end - now() : 3600;
        if (left <= 0) {
            r->timed_out = 1;
            return 0;
        }
        int n = poll(fds, 2, (int)(1e3 * (left < 3600 ? left : 3600)) + 1);
        if (n < 0 && errno != EINTR)
            return -1;
        for (int i = 0; n > 0 && i < 2; i++) {
            if (fds[i].fd < 0 || fds[i].revents == 0)
                continue;
            int more = take(fds[i].fd, i == 0 ? &r->out : &r->err, i == 0 ? &r->n_out : &r->n_err,
                            i == 0 ? (size_t)1 << 40 : KEPT_OF_STDERR);
            if (more < 0)
                return -1;
            if (more == 0)
                fds[i].fd = -1;
        }
    }
    return 0;
}

/* The last line of stderr that begins with "sluice: ", without that. */
static const char *last_error(char *err) {
    char *found = NULL;
    for (char *p = err; p != NULL && *p != '\0'; p = strchr(p, '\n'), p = p != NULL ? p + 1 : NULL)
        if (strncmp(p, "sluice: ", 8) == 0)
            found = p + 8;
    if (found != NULL)
        found[strcspn(found, "\n")] = '\0';
    return found;
}

/* Without the folder of this installation, which says nothing elsewhere. */
static void shorten(char *text) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return;
    self[n] = '\0';
    *(strrchr(self, '/') + 1) = '\0';
    size_t length = strlen(self);
    for (char *p; length > 1 && (p = strstr(text, self)) != NULL;)
        memmove(p, p + length, strlen(p + length) + 1);
}

static int explain(child_result *r, double timeout, char *reason, size_t cap) {
    if (r->status == 0 && !r->timed_out)
        return 0;
    const char *said = last_error(r->err);
    if (r->timed_out)
        snprintf(reason, cap, "stopped after %g s", timeout);
    else if (r->status > 128)
        snprintf(reason, cap, "ended by signal %d (%s)%s%s", r->status - 128, strsignal(r->status - 128),
                 said != NULL ? ": " : "", said != NULL ? said : "");
    else if (said != NULL)
        snprintf(reason, cap, "%s", said);
    else
        snprintf(reason, cap, "exit status %d", r->status);
    shorten(reason);
    return -1;
}

int child_run(const char *const *argv, double timeout, child_result *r, char *reason, size_t cap) {
    const char *all[MAX_ARGUMENTS + 2] = {"sluice"};
    int n = 1, out[2] = {-1, -1}, err[2] = {-1, -1};
    *r = (child_result){.out = calloc(1, 1), .err = calloc(1, 1), .status = -1};
    for (; argv[n - 1] != NULL && n <= MAX_ARGUMENTS; n++)
        all[n] = argv[n - 1];
    int good = r->out != NULL && r->err != NULL && argv[n - 1] == NULL && pipe2(out, O_CLOEXEC) == 0 &&
               pipe2(err, O_CLOEXEC) == 0;
    double begin = now();
    pid_t parent = getpid(), child = -1;
    fflush(NULL);
    if (good && (child = fork()) == 0)
        become((char *const *)all, out, err, parent);
    if (out[1] >= 0)
        close(out[1]);
    if (err[1] >= 0)
        close(err[1]);
    if (child > 0) {
        int heard = listen_to(out[0], err[0], timeout > 0 ? begin + timeout : 0, r), status = 0;
        if (heard < 0 || r->timed_out)
            kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        r->status = heard < 0 ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (out[0] >= 0)
        close(out[0]);
    if (err[0] >= 0)
        close(err[0]);
    r->seconds = now() - begin;
    if (r->status == -1) {
        snprintf(reason, cap, "the child process could not be run: %s", strerror(errno));
        return -1;
    }
    return explain(r, timeout, reason, cap);
}

void child_free(child_result *r) {
    free(r->out);
    free(r->err);
    *r = (child_result){0};
}
