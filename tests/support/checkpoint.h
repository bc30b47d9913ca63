/* Temporary directories and small safetensors files made in memory, for tests that damage them. */
#ifndef SLUICE_TEST_CHECKPOINT_H
#define SLUICE_TEST_CHECKPOINT_H

#include "sl_test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct temp_dir {
    char path[256];
} temp_dir;

static inline void temp_dir_make(temp_dir *d) {
    const char *base = getenv("TMPDIR");
    snprintf(d->path, sizeof d->path, "%s/sluice-test-XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(d->path));
}

/* Removes the directory with the files in it (it has no directories of its own). */
static inline void temp_dir_remove(temp_dir *d) {
    DIR *dir = opendir(d->path);
    assert_non_null(dir);
    char path[640];
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", d->path, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            assert_int_equal(unlink(path), 0);
    }
    closedir(dir);
    assert_int_equal(rmdir(d->path), 0);
}

/* The path of a file in it; valid until the next call. */
static inline const char *temp_path(const temp_dir *d, const char *name) {
    static char path[640];
    snprintf(path, sizeof path, "%s/%s", d->path, name);
    return path;
}

static inline void temp_write(const temp_dir *d, const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(temp_path(d, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- safetensors ----------------------------------------------------------------------------------------------- */

typedef struct st_file {
    char *header;        /* JSON so far, without the closing brace */
    unsigned char *data; /* [data_bytes] */
    size_t header_bytes, data_bytes;
    unsigned char *bytes; /* [n] the whole file, after st_finish */
    size_t n;
} st_file;

static inline void st_header(st_file *f, const char *text) {
    size_t add = strlen(text);
    f->header = realloc(f->header, f->header_bytes + add + 1);
    assert_non_null(f->header);
    memcpy(f->header + f->header_bytes, text, add + 1);
    f->header_bytes += add;
}

/* Appends a tensor; shape and strings go into the header as they are. */
static inline void st_add(st_file *f, const char *name, const char *dtype, const char *shape, const void *data,
                          size_t n) {
    char text[512];
    snprintf(text, sizeof text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
             f->header_bytes == 0 ? "{" : ",", name, dtype, shape, f->data_bytes, f->data_bytes + n);
    st_header(f, text);
    f->data = realloc(f->data, f->data_bytes + n + 1);
    assert_non_null(f->data);
    memcpy(f->data + f->data_bytes, data, n);
    f->data_bytes += n;
}

/* Puts a file together from a header and data; `pad` spaces behind the header. */
static inline void st_join(st_file *f, const char *header, size_t header_bytes, size_t pad) {
    free(f->bytes);
    f->n = 8 + header_bytes + pad + f->data_bytes;
    f->bytes = malloc(f->n);
    assert_non_null(f->bytes);
    for (int i = 0; i < 8; i++)
        f->bytes[i] = (unsigned char)((header_bytes + pad) >> (8 * i));
    memcpy(f->bytes + 8, header, header_bytes);
    memset(f->bytes + 8 + header_bytes, ' ', pad);
    if (f->data_bytes > 0)
        memcpy(f->bytes + 8 + header_bytes + pad, f->data, f->data_bytes);
}

/* Closes the header, padded so that data starts `skew` bytes after a multiple of 64. */
static inline void st_finish(st_file *f, size_t skew) {
    st_header(f, f->header_bytes == 0 ? "{}" : "}");
    st_join(f, f->header, f->header_bytes, (64 + skew - (8 + f->header_bytes) % 64) % 64);
}

static inline void st_free(st_file *f) {
    free(f->header);
    free(f->data);
    free(f->bytes);
    memset(f, 0, sizeof *f);
}

#endif
