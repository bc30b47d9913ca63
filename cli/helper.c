/* See helper.h. */
#include "helper.h"

#include <errno.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int helper_find(const char *name, char path[PATH_MAX]) {
    static const char *const beside[] = {"", "sdk/kernels/", "sdk/testhost/", "../libexec/sluice/"};
    char self[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? (self[n] = '\0', strrchr(self, '/')) : NULL;
    for (size_t i = 0; slash != NULL && i < sizeof beside / sizeof *beside; i++) {
        *slash = '\0';
        if (snprintf(path, PATH_MAX, "%s/%s%s", self, beside[i], name) < PATH_MAX && access(path, X_OK) == 0)
            return 0;
    }
    snprintf(path, PATH_MAX, "%s/%s", SLUICE_LIBEXEC, name);
    return access(path, X_OK) == 0 ? 0 : -1;
}

/* Its standard output is our `to`; *child, or an errno. */
static int start(const char *path, const char *const *args, const int to[2], pid_t *child) {
    posix_spawn_file_actions_t actions;
    int status = posix_spawn_file_actions_init(&actions);
    if (status != 0)
        return status;
    if ((status = posix_spawn_file_actions_adddup2(&actions, to[1], STDOUT_FILENO)) == 0 &&
        (status = posix_spawn_file_actions_addclose(&actions, to[0])) == 0 &&
        (status = posix_spawn_file_actions_addclose(&actions, to[1])) == 0)
        status = posix_spawn(child, path, &actions, NULL, (char *const *)(uintptr_t)args, environ);
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

/* Hands lines over until the end, also those behind one that is no JSON, so that the program is not stopped by a full
 * pipe. 0, or -1. */
static int read_lines(FILE *f, void (*line)(void *user, json_t *object), void *user) {
    char *text = NULL;
    size_t cap = 0;
    int status = 0;
    while (getline(&text, &cap, f) >= 0) {
        json_t *object = status == 0 ? json_loads(text, 0, NULL) : NULL;
        if (object != NULL)
            line(user, object);
        else
            status = -1;
    }
    free(text);
    return status;
}

int helper_run(const char *path, const char *const *args, void (*line)(void *user, json_t *object), void *user) {
    int to[2], status = 0;
    pid_t child;
    if (pipe(to) != 0) {
        fprintf(stderr, "sluice: %s: %s\n", path, strerror(errno));
        return -1;
    }
    const int why = start(path, args, to, &child);
    if (why != 0) {
        close(to[0]), close(to[1]);
        fprintf(stderr, "sluice: %s: %s\n", path, strerror(why));
        return -1;
    }
    close(to[1]);
    FILE *f = fdopen(to[0], "r");
    const int good = f != NULL ? read_lines(f, line, user) : -1;
    if (f != NULL)
        fclose(f);
    else
        close(to[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status))
        return 128 + WTERMSIG(status);
    if (good < 0) {
        fprintf(stderr, "sluice: %s: expected an object of JSON in each line\n", path);
        return -1;
    }
    return WEXITSTATUS(status);
}
