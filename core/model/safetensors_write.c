/* See safetensors_write.h. Format: https://github.com/huggingface/safetensors, README, "Format": u64 length of the
 * header, JSON, the tensors' bytes without gaps. Tensors of wide elements come first, so that all are aligned to their
 * element. */
#include "safetensors_write.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ledger.h"
#include "sl_tensor.h"

typedef struct entry {
    char *name;
    int64_t shape[SL_MAX_DIMS];
    int64_t from, bytes; /* place in the temporary file */
    sl_dtype dtype;
    uint32_t ndim;
} entry;

struct sli_st_writer {
    char *path, *data_path, *new_path;
    FILE *data;
    int64_t n_bytes;
    entry *list;
    size_t n, cap;
    json_t *texts;
};

static sl_status failed(const char *path, sl_error *err) {
    return sl_fail(err, SL_E_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static char *with_suffix(const char *path, const char *suffix) {
    size_t n = strlen(path) + strlen(suffix) + 1;
    char *p = sli_alloc(SLI_TAG_MISC, n);
    if (p != NULL)
        snprintf(p, n, "%s%s", path, suffix);
    return p;
}

sl_status sli_st_writer_open(const char *path, sli_st_writer **out, sl_error *err) {
    *out = NULL;
    sli_st_writer *w = sli_alloc(SLI_TAG_MISC, sizeof *w);
    if (w == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to write it", path);
    w->path = sli_strdup(SLI_TAG_MISC, path);
    w->data_path = with_suffix(path, ".data.tmp");
    w->new_path = with_suffix(path, ".tmp");
    w->texts = json_object();
    sl_status s = SL_OK;
    if (w->path == NULL || w->data_path == NULL || w->new_path == NULL || w->texts == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory to write it", path);
    else if ((w->data = fopen(w->data_path, "w+b")) == NULL)
        s = failed(w->data_path, err);
    if (s < 0) {
        sli_st_writer_close(w);
        return s;
    }
    *out = w;
    return SL_OK;
}

void sli_st_writer_close(sli_st_writer *w) {
    if (w == NULL)
        return;
    if (w->data != NULL) {
        fclose(w->data);
        unlink(w->data_path);
    }
    for (size_t i = 0; i < w->n; i++)
        sli_free(w->list[i].name);
    json_decref(w->texts);
    sli_free(w->list);
    sli_free(w->path);
    sli_free(w->data_path);
    sli_free(w->new_path);
    sli_free(w);
}

sl_status sli_st_writer_text(sli_st_writer *w, const char *key, const char *value, sl_error *err) {
    if (json_object_set_new(w->texts, key, json_string(value)) != 0)
        return sl_fail(err, SL_E_INVALID, "%s: metadata \"%s\" is not UTF-8, or there is no memory", w->path, key);
    return SL_OK;
}

/* Dtypes of whole bytes have names in the format. */
static int is_storable(sl_dtype d) { return sl_dtype_bits(d) >= 8; }

sl_status sli_st_writer_add(sli_st_writer *w, const char *name, const sl_tensor *t, sl_error *err) {
    int64_t bytes;
    if (!is_storable(t->dtype) || !sl_tensor_is_contiguous(t) || sl_tensor_bytes(t, &bytes) < 0)
        return sl_fail(err, SL_E_INVALID, "%s: tensor \"%s\" is not contiguous or of a dtype that cannot be stored",
                       w->path, name);
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->list[i].name, name) == 0)
            return sl_fail(err, SL_E_INVALID, "%s: tensor \"%s\" was given twice", w->path, name);
    if (w->n == w->cap) {
        size_t cap = w->cap > 0 ? 2 * w->cap : 64;
        entry *wider = sli_realloc(SLI_TAG_MISC, w->list, cap * sizeof *wider);
        if (wider == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %zu names", w->path, cap);
        w->list = wider;
        w->cap = cap;
    }
    if (bytes > 0 && fwrite(t->data, 1, (size_t)bytes, w->data) != (size_t)bytes)
        return failed(w->data_path, err);
    entry *e = &w->list[w->n];
    *e = (entry){
        .name = sli_strdup(SLI_TAG_MISC, name), .from = w->n_bytes, .bytes = bytes, .dtype = t->dtype, .ndim = t->ndim};
    if (e->name == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for a name", w->path);
    memcpy(e->shape, t->shape, sizeof e->shape);
    w->n++;
    w->n_bytes += bytes;
    return SL_OK;
}

static int by_width(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int wx = sl_dtype_bits(x->dtype), wy = sl_dtype_bits(y->dtype);
    return wx != wy ? wy - wx : strcmp(x->name, y->name);
}

/* The header as text, padded with spaces to a multiple of 8; malloc'd. */
static char *make_header(const sli_st_writer *w, size_t *n) {
    json_t *root = json_object();
    int64_t at = 0;
    if (json_object_size(w->texts) > 0)
        json_object_set(root, "__metadata__", w->texts);
    for (size_t i = 0; i < w->n; i++) {
        const entry *e = &w->list[i];
        json_t *shape = json_array();
        for (uint32_t d = 0; d < e->ndim; d++)
            json_array_append_new(shape, json_integer(e->shape[d]));
        json_object_set_new(root, e->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", sl_dtype_name(e->dtype), "shape", shape,
                                      "data_offsets", (json_int_t)at, (json_int_t)(at + e->bytes)));
        at += e->bytes;
    }
    char *text = json_dumps(root, JSON_COMPACT), *padded = NULL;
    if (text != NULL && json_object_size(root) == w->n + (json_object_size(w->texts) > 0)) {
        size_t length = strlen(text);
        *n = (length + 7) / 8 * 8;
        if ((padded = malloc(*n + 1)) != NULL) {
            memset(padded, ' ', *n);
            memcpy(padded, text, length);
        }
    }
    free(text);
    json_decref(root);
    return padded;
}

static int copy(FILE *from, int64_t at, int64_t bytes, FILE *to) {
    char part[1 << 14];
    if (fseeko(from, at, SEEK_SET) != 0)
        return 0;
    while (bytes > 0) {
        size_t n = bytes < (int64_t)sizeof part ? (size_t)bytes : sizeof part;
        if (fread(part, 1, n, from) != n || fwrite(part, 1, n, to) != n)
            return 0;
        bytes -= (int64_t)n;
    }
    return 1;
}

sl_status sli_st_writer_finish(sli_st_writer *w, int64_t *bytes, sl_error *err) {
    size_t n = 0;
    qsort(w->list, w->n, sizeof *w->list, by_width);
    char *header = make_header(w, &n);
    if (header == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for its header", w->path);
    FILE *f = fopen(w->new_path, "wb");
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)n >> 8 * i);
    int good = f != NULL && fwrite(length, 1, 8, f) == 8 && fwrite(header, 1, n, f) == n;
    for (size_t i = 0; good && i < w->n; i++)
        good = copy(w->data, w->list[i].from, w->list[i].bytes, f);
    good = good && fflush(f) == 0 && fsync(fileno(f)) == 0;
    sl_status s = good ? SL_OK : failed(w->new_path, err);
    if (f != NULL && fclose(f) != 0 && good)
        s = failed(w->new_path, err);
    if (s >= 0 && rename(w->new_path, w->path) != 0)
        s = failed(w->path, err);
    if (s < 0 && f != NULL)
        unlink(w->new_path);
    free(header);
    if (s >= 0 && bytes != NULL)
        *bytes = 8 + (int64_t)n + w->n_bytes;
    return s;
}
