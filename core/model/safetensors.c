/* See safetensors.h: a checkpoint is a list of shards and one list of tensors over all of them. */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/printable.h"
#include "model/safetensors_shard.h"

enum { MAX_INDEX_BYTES = 100 * 1000 * 1000 };

struct sli_safetensors {
    shard *shards; /* [n_shards] */
    size_t n_shards;
    const sli_named_tensor *tensors; /* [n_tensors] sorted by name */
    size_t n_tensors;
    sli_named_tensor *joined; /* what `tensors` points to when it is not the list of the only shard; owned */
};

/* Room for n shards. */
static sl_status make(size_t n, sli_safetensors **out, sl_error *err) {
    sli_safetensors *st = sli_alloc(SLI_TAG_MISC, sizeof *st);
    if (st != NULL)
        st->shards = sli_calloc(SLI_TAG_MISC, n, sizeof *st->shards);
    if (st == NULL || st->shards == NULL) {
        sli_free(st);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a checkpoint of %zu files", n);
    }
    st->n_shards = n;
    *out = st;
    return SL_OK;
}

void sli_safetensors_close(sli_safetensors *st) {
    if (st == NULL)
        return;
    for (size_t i = 0; i < st->n_shards; i++)
        sli_shard_close(&st->shards[i]);
    sli_free(st->joined);
    sli_free(st->shards);
    sli_free(st);
}

/* Hands the finished checkpoint out, or frees it. */
static sl_status finish(sli_safetensors *st, sl_status s, sli_safetensors **out) {
    if (s < 0) {
        sli_safetensors_close(st);
        return s;
    }
    if (st->joined == NULL) {
        st->tensors = st->shards[0].tensors;
        st->n_tensors = st->shards[0].n;
    }
    *out = st;
    return SL_OK;
}

sl_status sli_safetensors_open(const char *path, sli_safetensors **out, sl_error *err) {
    *out = NULL;
    sli_safetensors *st = NULL;
    SL_TRY(make(1, &st, err));
    return finish(st, sli_shard_open(&st->shards[0], path, err), out);
}

sl_status sli_safetensors_parse(const char *name, const void *bytes, size_t size, sli_safetensors **out,
                                sl_error *err) {
    *out = NULL;
    sli_safetensors *st = NULL;
    SL_TRY(make(1, &st, err));
    return finish(st, sli_shard_borrow(&st->shards[0], name, bytes, size, err), out);
}

/* ---- the index of a sharded checkpoint ------------------------------------------------------------------------- */

typedef struct place {
    const char *file, *name; /* borrowed from the index */
} place;

static int by_file(const void *a, const void *b) { return strcmp(((const place *)a)->file, ((const place *)b)->file); }

/* weight_map as a list sorted by file. */
static sl_status read_places(const sli_json *index, place **out, size_t *n, sl_error *err) {
    sli_json map;
    SL_TRY(sli_json_object(index, "weight_map", SLI_JSON_REQUIRED, &map, err));
    *n = json_object_size(map.value);
    if (*n == 0)
        return sl_fail(err, SL_E_DATA, "%s: \"weight_map\" names no tensor", index->file);
    place *list = sli_calloc(SLI_TAG_MISC, *n, sizeof *list);
    if (list == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %zu names", index->file, *n);
    const char *name;
    json_t *value;
    size_t i = 0;
    json_object_foreach(map.value, name, value) {
        const char *file = json_string_value(value);
        /* A checkpoint may not reach outside its own directory. */
        if (file == NULL || file[0] == '\0' || file[0] == '.' || strchr(file, '/') != NULL) {
            sli_free(list);
            return sli_json_fail(&map, name, value, err, "the name of a file beside the index");
        }
        list[i++] = (place){file, name};
    }
    qsort(list, *n, sizeof *list, by_file);
    *out = list;
    return SL_OK;
}

/* Opens the shard of list[0] and takes the n tensors that the index places in it. */
static sl_status take_shard(shard *s, const char *dir, const char *index, const place *list, size_t n,
                            sli_named_tensor *to, sl_error *err) {
    char shown[SLI_PRINTABLE_BYTES];
    char *path = sli_path_join(dir, list[0].file);
    if (path == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory", index);
    sl_status status = sli_shard_open(s, path, err);
    if (status == SL_E_NOT_FOUND)
        sl_fail_within(err, status, "%s: a shard is missing", index);
    for (size_t i = 0; status >= 0 && i < n; i++) {
        const sli_named_tensor *t = sli_tensors_find(s->tensors, s->n, list[i].name);
        if (t != NULL)
            to[i] = *t;
        else
            status = sl_fail(err, SL_E_DATA, "%s: tensor \"%s\" is not there, but %s places it there", path,
                             sli_printable(shown, list[i].name), index);
    }
    sli_free(path);
    return status;
}

static sl_status open_places(const char *dir, const char *index, const place *list, size_t n, sli_safetensors **out,
                             sl_error *err) {
    size_t n_files = 0;
    for (size_t i = 0; i < n; i++)
        n_files += i == 0 || by_file(&list[i - 1], &list[i]) != 0;
    sli_safetensors *st = NULL;
    SL_TRY(make(n_files, &st, err));
    st->joined = sli_calloc(SLI_TAG_MISC, n, sizeof *st->joined);
    sl_status s = st->joined != NULL ? SL_OK : sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %zu tensors", index, n);
    for (size_t first = 0, file = 0, end; s >= 0 && first < n; first = end, file++) {
        for (end = first + 1; end < n && by_file(&list[first], &list[end]) == 0;)
            end++;
        s = take_shard(&st->shards[file], dir, index, list + first, end - first, st->joined + first, err);
    }
    if (s >= 0)
        sli_tensors_sort(st->joined, n);
    st->tensors = st->joined;
    st->n_tensors = n;
    return finish(st, s, out);
}

static sl_status open_index(const char *dir, const char *path, sli_safetensors **out, sl_error *err) {
    sli_json index;
    SL_TRY(sli_json_load(path, MAX_INDEX_BYTES, JSON_REJECT_DUPLICATES, &index, err));
    place *list = NULL;
    size_t n;
    sl_status s = read_places(&index, &list, &n, err);
    if (s >= 0)
        s = open_places(dir, path, list, n, out, err);
    sli_free(list);
    sli_json_free(&index);
    return s;
}

sl_status sli_safetensors_open_dir(const char *dir, sli_safetensors **out, sl_error *err) {
    *out = NULL;
    char *single = sli_path_join(dir, "model.safetensors");
    char *index = sli_path_join(dir, "model.safetensors.index.json");
    sl_status s;
    if (single == NULL || index == NULL)
        s = sl_fail(err, SL_E_NO_MEMORY, "%s: no memory", dir);
    else if (sli_file_exists(single))
        s = sli_safetensors_open(single, out, err);
    else if (sli_file_exists(index))
        s = open_index(dir, index, out, err);
    else
        s = sl_fail(err, SL_E_NOT_FOUND,
                    "%s: neither model.safetensors nor model.safetensors.index.json is there (other formats must be "
                    "converted to safetensors first)",
                    dir);
    sli_free(single);
    sli_free(index);
    return s;
}

size_t sli_safetensors_count(const sli_safetensors *st) { return st->n_tensors; }
const sli_named_tensor *sli_safetensors_at(const sli_safetensors *st, size_t i) { return &st->tensors[i]; }

const sli_named_tensor *sli_safetensors_find(const sli_safetensors *st, const char *name) {
    return sli_tensors_find(st->tensors, st->n_tensors, name);
}

const char *sli_safetensors_metadata(const sli_safetensors *st, const char *key) {
    return st->n_shards > 0 ? json_string_value(json_object_get(st->shards[0].metadata, key)) : NULL;
}
