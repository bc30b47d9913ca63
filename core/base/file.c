/* See file.h. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sl_status fail_errno(sl_error *err, const char *path, const char *what) {
    int e = errno;
    return sl_fail(err,
                   e == ENOENT   ? SL_E_NOT_FOUND
                   : e == ENOMEM ? SL_E_NO_MEMORY
                                 : SL_E_IO,
                   "%s: cannot %s: %s", path, what, strerror(e));
}

/* Opens a regular file for reading. O_NONBLOCK: a FIFO without a writer must not hang before it is refused. */
static sl_status open_regular(const char *path, int *fd, size_t *size, sl_error *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return fail_errno(err, path, "open");
    struct stat st;
    sl_status s = SL_OK;
    if (fstat(*fd, &st) != 0)
        s = fail_errno(err, path, "stat");
    else if (!S_ISREG(st.st_mode))
        s = sl_fail(err, SL_E_IO, "%s: not a regular file%s", path, S_ISDIR(st.st_mode) ? " but a directory" : "");
    if (s < 0)
        close(*fd);
    else
        *size = (size_t)st.st_size;
    return s;
}

static sl_status read_all(int fd, const char *path, char *to, size_t want, size_t *got, sl_error *err) {
    for (*got = 0; *got < want;) {
        ssize_t n = read(fd, to + *got, want - *got);
        if (n == 0)
            break; /* shortened since: what is there counts */
        if (n < 0 && errno != EINTR)
            return fail_errno(err, path, "read");
        if (n > 0)
            *got += (size_t)n;
    }
    return SL_OK;
}

sl_status sli_file_read(const char *path, size_t max_bytes, char **data, size_t *size, sl_error *err) {
    int fd;
    size_t want = 0;
    SL_TRY(open_regular(path, &fd, &want, err));
    char *to = NULL;
    sl_status s;
    if (want > max_bytes)
        s = sl_fail(err, SL_E_RANGE, "%s: %zu bytes, expected at most %zu", path, want, max_bytes);
    else if ((to = sli_alloc(SLI_TAG_MISC, want + 1)) == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %zu bytes", path, want);
    else
        s = read_all(fd, path, to, want, size, err);
    close(fd);
    if (s < 0)
        sli_free(to);
    else
        *data = to;
    return s;
}

sl_status sli_file_map(const char *path, sli_map *out, sl_error *err) {
    *out = (sli_map){NULL, 0};
    int fd;
    size_t size = 0;
    SL_TRY(open_regular(path, &fd, &size, err));
    sl_status s = SL_OK;
    if (size > 0) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            s = fail_errno(err, path, "map");
        else
            *out = (sli_map){p, size};
    }
    close(fd);
    return s;
}

void sli_file_unmap(sli_map *map) {
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (sli_map){NULL, 0};
}

char *sli_path_join(const char *dir, const char *name) {
    size_t d = strlen(dir), n = strlen(name);
    char *path = sli_alloc(SLI_TAG_MISC, d + n + 2);
    if (path == NULL)
        return NULL;
    memcpy(path, dir, d);
    if (d > 0 && dir[d - 1] != '/')
        path[d++] = '/';
    memcpy(path + d, name, n + 1);
    return path;
}

int sli_file_exists(const char *path) { return access(path, F_OK) == 0; }

int sli_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}
