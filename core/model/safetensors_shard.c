/* See safetensors_shard.h: u64 little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data. */
#include "safetensors_shard.h"

#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/json.h"
#include "base/printable.h"

enum {
    LENGTH_BYTES = 8,
    MAX_HEADER_BYTES = 100 * 1000 * 1000, /* the reference reader's limit */
    MAX_ALIGN = 4096                      /* of a page; more cannot be promised about a mapping */
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const sli_named_tensor *)a)->name, ((const sli_named_tensor *)b)->name);
}

static int by_place(const void *pa, const void *pb) {
    const sli_named_tensor *a = pa, *b = pb;
    uintptr_t x = (uintptr_t)a->tensor.data, y = (uintptr_t)b->tensor.data;
    if (x != y)
        return x < y ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes; /* empty ones first */
}

void sli_tensors_sort(sli_named_tensor *tensors, size_t n) {
    if (n > 1)
        qsort(tensors, n, sizeof *tensors, by_name);
}

const sli_named_tensor *sli_tensors_find(const sli_named_tensor *sorted, size_t n, const char *name) {
    sli_named_tensor key = {.name = name};
    return n == 0 ? NULL : bsearch(&key, sorted, n, sizeof *sorted, by_name);
}

/* The message's head, "FILE: tensor "NAME": ", goes in front of what is already in err. */
static sl_status fail_tensor(const shard *s, const char *name, sl_status code, sl_error *err) {
    char shown[SLI_PRINTABLE_BYTES];
    sl_fail_within(err, code, "%s: tensor \"%s\"", s->file, sli_printable(shown, name));
    return code;
}

/* Shape and strides from JSON; *count becomes the number of elements. */
static sl_status read_shape(const json_t *shape, sl_tensor *t, int64_t *count, sl_error *err) {
    if (!json_is_array(shape))
        return sl_fail(err, SL_E_DATA, "\"shape\" is not an array");
    size_t n = json_array_size(shape);
    if (n > SL_MAX_DIMS)
        return sl_fail(err, SL_E_DATA, "%zu dimensions, expected at most %d", n, SL_MAX_DIMS);
    t->ndim = (uint32_t)n;
    *count = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return sl_fail(err, SL_E_DATA, "dimension %zu of \"shape\" is not an integer >= 0", i);
        t->shape[i] = json_integer_value(dim);
        if (__builtin_mul_overflow(*count, t->shape[i], count))
            return sl_fail(err, SL_E_DATA, "\"shape\" has more elements than can be counted");
    }
    int64_t stride = 1;
    for (size_t i = n; i-- > 0;) {
        t->stride[i] = stride;
        if (__builtin_mul_overflow(stride, t->shape[i], &stride))
            return sl_fail(err, SL_E_DATA, "\"shape\" has more elements than can be counted");
    }
    return SL_OK;
}

/* begin and end in bytes from the start of the data, 0 <= begin <= end <= limit. */
static sl_status read_offsets(const json_t *pair, int64_t limit, int64_t *begin, int64_t *end, sl_error *err) {
    const json_t *b = json_array_get(pair, 0), *e = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 ||
        json_integer_value(e) < json_integer_value(b))
        return sl_fail(err, SL_E_DATA, "\"data_offsets\" is not a pair of integers 0 <= begin <= end");
    *begin = json_integer_value(b);
    *end = json_integer_value(e);
    if (*end > limit)
        return sl_fail(err, SL_E_DATA,
                       "bytes %lld to %lld of the data, but the file has only %lld: truncated or damaged",
                       (long long)*begin, (long long)*end, (long long)limit);
    return SL_OK;
}

static sl_status read_entry(const shard *s, const unsigned char *data, const json_t *entry, sli_named_tensor *out,
                            sl_error *err) {
    sl_tensor *t = &out->tensor;
    *t = (sl_tensor){.struct_size = SL_SIZE(sl_tensor), .device = SL_DEVICE_CPU, .flags = SL_TENSOR_READ_ONLY};
    if (!json_is_object(entry))
        return sl_fail(err, SL_E_DATA, "not an object");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (dtype == NULL)
        return sl_fail(err, SL_E_DATA, "\"dtype\" is not a string");
    t->dtype = sli_dtype_find(dtype);
    int32_t bits = sli_dtype_bits(t->dtype);
    char shown[SLI_PRINTABLE_BYTES];
    if (bits < 8) /* the ABI's sub-byte dtypes are not safetensors' */
        return sl_fail(err, SL_E_DATA, "unknown dtype \"%s\"", sli_printable(shown, dtype));
    int64_t count = 0, bytes = 0, begin = 0, end = 0;
    SL_TRY(read_shape(json_object_get(entry, "shape"), t, &count, err));
    if (__builtin_mul_overflow(count, bits / 8, &bytes))
        return sl_fail(err, SL_E_DATA, "\"shape\" has more bytes than can be counted");
    int64_t limit = (int64_t)(s->size - (size_t)(data - s->bytes));
    SL_TRY(read_offsets(json_object_get(entry, "data_offsets"), limit, &begin, &end, err));
    if (end - begin != bytes)
        return sl_fail(err, SL_E_DATA, "shape and dtype %s need %lld bytes, \"data_offsets\" give %lld", dtype,
                       (long long)bytes, (long long)(end - begin));
    out->file = s->file;
    out->bytes = bytes;
    t->data = (void *)(uintptr_t)(data + begin);
    uint64_t place = (uint64_t)(uintptr_t)t->data;
    t->align = (place & -place) > MAX_ALIGN ? MAX_ALIGN : (place & -place);
    return SL_OK;
}

/* Tensors cover the data from its first to its last byte, each byte once. */
static sl_status check_cover(const shard *s, const unsigned char *data, sl_error *err) {
    int64_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        const sli_named_tensor *t = &s->tensors[i];
        int64_t begin = (const unsigned char *)t->tensor.data - data;
        if (begin != at) {
            sl_fail(err, SL_E_DATA, "starts at byte %lld of the data, expected %lld: %s", (long long)begin,
                    (long long)at, begin < at ? "it overlaps another tensor" : "there is a gap before it");
            return fail_tensor(s, t->name, SL_E_DATA, err);
        }
        at = begin + t->bytes;
    }
    int64_t whole = (int64_t)(s->size - (size_t)(data - s->bytes));
    if (at != whole)
        return sl_fail(err, SL_E_DATA, "%s: %lld bytes of data, but the tensors end at %lld: damaged", s->file,
                       (long long)whole, (long long)at);
    return SL_OK;
}

/* Kernels load whole elements: a tensor that does not lie on a multiple of its element's size moves to our own memory.
 */
static sl_status realign(shard *s, sl_error *err) {
    size_t need = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (size_t i = 0; i < s->n; i++) {
            sli_named_tensor *t = &s->tensors[i];
            uint64_t element = (uint64_t)sli_dtype_bits(t->tensor.dtype) / 8;
            if (t->bytes == 0 || t->tensor.align >= element)
                continue;
            if (pass == 1) {
                void *to = (unsigned char *)s->aligned + at;
                memcpy(to, t->tensor.data, (size_t)t->bytes);
                t->tensor.data = to;
                t->tensor.align = 64;
            }
            at += ((size_t)t->bytes + 63) / 64 * 64; /* the sum is below the file's size + 64 bytes a tensor */
        }
        need = at;
        if (need == 0)
            return SL_OK;
        if (pass == 0 && (s->aligned = sli_alloc(SLI_TAG_WEIGHTS, need)) == NULL)
            return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for %zu bytes of aligned weights", s->file, need);
    }
    return SL_OK;
}

static sl_status take_metadata(shard *s, json_t *meta, sl_error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(meta))
        return sl_fail(err, SL_E_DATA, "%s: \"__metadata__\" is not an object", s->file);
    json_object_foreach(meta, key, value) if (!json_is_string(value)) {
        char shown[SLI_PRINTABLE_BYTES];
        return sl_fail(err, SL_E_DATA, "%s: \"__metadata__\": \"%s\" is not a string", s->file,
                       sli_printable(shown, key));
    }
    s->metadata = json_incref(meta);
    return SL_OK;
}

static sl_status cut(shard *s, json_t *header, size_t header_bytes, sl_error *err) {
    const unsigned char *data = s->bytes + LENGTH_BYTES + header_bytes;
    s->tensors = sli_calloc(SLI_TAG_MISC, json_object_size(header), sizeof *s->tensors);
    s->names = sli_alloc(SLI_TAG_MISC, header_bytes); /* names and their NULs are shorter than the JSON around them */
    if (s->tensors == NULL || s->names == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory for the tensor list", s->file);
    char *name_at = s->names;
    const char *key;
    json_t *entry;
    json_object_foreach(header, key, entry) {
        if (strcmp(key, "__metadata__") == 0) {
            SL_TRY(take_metadata(s, entry, err));
            continue;
        }
        sli_named_tensor *t = &s->tensors[s->n];
        sl_status status = read_entry(s, data, entry, t, err);
        if (status < 0)
            return fail_tensor(s, key, status, err);
        size_t length = strlen(key) + 1;
        t->name = memcpy(name_at, key, length);
        name_at += length;
        s->n++;
    }
    if (s->n > 1)
        qsort(s->tensors, s->n, sizeof *s->tensors, by_place);
    SL_TRY(check_cover(s, data, err));
    sli_tensors_sort(s->tensors, s->n);
    return realign(s, err);
}

static sl_status read_header(shard *s, sl_error *err) {
    if (s->size < LENGTH_BYTES)
        return sl_fail(err, SL_E_DATA, "%s: %zu bytes, too short for a safetensors file: truncated or damaged", s->file,
                       s->size);
    uint64_t n = 0;
    for (int i = LENGTH_BYTES; i-- > 0;)
        n = n << 8 | s->bytes[i];
    if (n > MAX_HEADER_BYTES)
        return sl_fail(err, SL_E_DATA,
                       "%s: header of %llu bytes, expected at most %d: not a safetensors file, or damaged", s->file,
                       (unsigned long long)n, MAX_HEADER_BYTES);
    if (n > s->size - LENGTH_BYTES)
        return sl_fail(err, SL_E_DATA, "%s: header of %llu bytes in a file of %zu: truncated or damaged", s->file,
                       (unsigned long long)n, s->size);
    sli_json header;
    sl_status status = sli_json_parse("header", (const char *)s->bytes + LENGTH_BYTES, (size_t)n,
                                      JSON_REJECT_DUPLICATES, &header, err);
    if (status < 0) {
        sl_fail_within(err, status, "%s", s->file);
        return status;
    }
    status = cut(s, header.value, (size_t)n, err);
    sli_json_free(&header);
    return status;
}

sl_status sli_shard_borrow(shard *s, const char *name, const void *bytes, size_t size, sl_error *err) {
    s->file = sli_strdup(SLI_TAG_MISC, name);
    if (s->file == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "%s: no memory", name);
    s->bytes = bytes;
    s->size = size;
    return read_header(s, err);
}

sl_status sli_shard_open(shard *s, const char *path, sl_error *err) {
    SL_TRY(sli_file_map(path, &s->map, err));
    sli_ledger_note(SLI_TAG_WEIGHTS, (int64_t)s->map.size);
    return sli_shard_borrow(s, path, s->map.data, s->map.size, err);
}

void sli_shard_close(shard *s) {
    sli_free(s->aligned);
    json_decref(s->metadata);
    sli_free(s->tensors);
    sli_free(s->names);
    sli_free(s->file);
    sli_ledger_note(SLI_TAG_WEIGHTS, -(int64_t)s->map.size);
    sli_file_unmap(&s->map);
    *s = (shard){0};
}
