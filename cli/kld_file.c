/* See kld_file.h. */
#include "kld_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "kld_stats.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files of logits are written as they lie in memory"
#endif

static const char magic[2][9] = {"_logits_", "_slf32__"}, info_magic[9] = "_slinfo_";
enum { LEVELS = 65535, MAX_INFO = 1 << 20 };

#define FAIL(err, ...) (snprintf((err)->text, sizeof(err)->text, __VA_ARGS__), SLUICE_E_DATA)

static int64_t row_bytes(const kld_shape *s) {
    return s->exact ? 4 * (int64_t)s->vocab : 2 * (2 * (((int64_t)s->vocab + 1) / 2) + 4);
}

static int prepare(kld_file *k, const char *path, sluice_error *err) {
    k->row_bytes = row_bytes(&k->shape);
    k->row = calloc(1, (size_t)k->row_bytes);
    k->path = strdup(path);
    return k->row != NULL && k->path != NULL ? SLUICE_OK : eval_no_memory(err);
}

static int put(kld_file *k, const void *bytes, size_t n, sluice_error *err) {
    if (fwrite(bytes, 1, n, k->f) == n)
        return SLUICE_OK;
    return FAIL(err, "%s: %s", k->path, strerror(errno));
}

int kld_file_create(const char *path, const kld_shape *shape, const int32_t *tokens, kld_file *out, sluice_error *err) {
    *out = (kld_file){.shape = *shape};
    int status = prepare(out, path, err);
    if (status < 0)
        return status;
    if (asprintf(&out->part, "%s.part", path) < 0) {
        out->part = NULL;
        return eval_no_memory(err);
    }
    if ((out->f = fopen(out->part, "wb")) == NULL)
        return FAIL(err, "%s: %s", out->part, strerror(errno));
    const int32_t head[] = {shape->context, shape->vocab, shape->chunks, shape->rows};
    status = put(out, magic[shape->exact], 8, err);
    if (status >= 0)
        status = put(out, head, sizeof *head * (shape->exact ? 4 : 3), err);
    if (status >= 0)
        status = put(out, tokens, sizeof *tokens * (size_t)shape->chunks * (size_t)shape->context, err);
    return status;
}

/* The arithmetic is in floats, as the format's readers have it. */
static void encode(const kld_shape *s, const float *logits, void *row) {
    float most = logits[0], least = logits[0], two[2] = {0};
    for (int32_t i = 1; i < s->vocab; i++) {
        most = logits[i] > most ? logits[i] : most;
        least = logits[i] < least ? logits[i] : least;
    }
    least = least > most - 16 ? least : most - 16;
    double sum = 0;
    for (int32_t i = 0; i < s->vocab; i++)
        sum += exp((double)logits[i] - most);
    two[0] = (most - least) / LEVELS;
    two[1] = (float)((double)least - most - log(sum));
    memcpy(row, two, sizeof two);
    uint16_t *code = (uint16_t *)row + 4;
    for (int32_t i = 0; i < s->vocab; i++)
        code[i] = two[0] > 0 && logits[i] > least ? (uint16_t)lrintf((logits[i] - least) / two[0]) : 0;
}

static void decode(const kld_shape *s, const void *row, double *logprob) {
    if (s->exact) {
        kld_log_softmax(row, s->vocab, logprob);
        return;
    }
    float two[2];
    memcpy(two, row, sizeof two);
    const uint16_t *code = (const uint16_t *)row + 4;
    for (int32_t i = 0; i < s->vocab; i++)
        logprob[i] = (double)two[0] * code[i] + two[1];
}

int kld_file_put(kld_file *k, const float *logits, sluice_error *err) {
    if (k->shape.exact)
        memcpy(k->row, logits, (size_t)k->row_bytes);
    else
        encode(&k->shape, logits, k->row);
    return put(k, k->row, (size_t)k->row_bytes, err);
}

void kld_file_last(const kld_file *k, double *logprob) { decode(&k->shape, k->row, logprob); }

int kld_file_finish(kld_file *k, const json_t *info, sluice_error *err) {
    char *text = json_dumps(info, JSON_COMPACT | JSON_REAL_PRECISION(12));
    if (text == NULL)
        return eval_no_memory(err);
    uint32_t n = (uint32_t)strlen(text);
    int status = put(k, text, n, err);
    if (status >= 0)
        status = put(k, &n, sizeof n, err);
    if (status >= 0)
        status = put(k, info_magic, 8, err);
    free(text);
    int bad = fclose(k->f);
    k->f = NULL;
    if (status >= 0 && (bad != 0 || rename(k->part, k->path) != 0))
        status = FAIL(err, "%s: %s", k->path, strerror(errno));
    if (status >= 0) {
        free(k->part);
        k->part = NULL;
    }
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int get(kld_file *k, int64_t at, void *out, size_t n) {
    return fseeko(k->f, (off_t)at, SEEK_SET) == 0 && fread(out, 1, n, k->f) == n;
}

/* The JSON between `from` and the end, when there is one; otherwise the file must end there. */
static int read_info(kld_file *k, int64_t from, sluice_error *err) {
    char name[8];
    uint32_t n = 0;
    int64_t size = fseeko(k->f, 0, SEEK_END) == 0 ? (int64_t)ftello(k->f) : -1;
    if (size == from && !k->shape.exact)
        return SLUICE_OK;
    int whole = size >= from + 12 && get(k, size - 8, name, 8) && memcmp(name, info_magic, 8) == 0 &&
                get(k, size - 12, &n, 4) && n <= MAX_INFO && from + n + 12 == size;
    char *text = whole ? malloc((size_t)n + 1) : NULL;
    if (text != NULL && get(k, from, text, n))
        k->info = json_loadb(text, n, 0, NULL);
    free(text);
    if (k->info == NULL)
        return FAIL(err,
                    "%s: expected %" PRId64 " bytes of logits of %d chunks and what belongs to them, found %" PRId64
                    ": it is not whole",
                    k->path, from, k->shape.chunks, size);
    return SLUICE_OK;
}

int kld_file_open(const char *path, kld_file *out, sluice_error *err) {
    *out = (kld_file){0};
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return FAIL(err, "%s: %s", path, strerror(errno));
    out->f = f;
    char name[8] = {0};
    int32_t head[4] = {0};
    kld_shape *s = &out->shape;
    int known = fread(name, 1, 8, f) == 8;
    s->exact = known && memcmp(name, magic[1], 8) == 0;
    if (!known || (!s->exact && memcmp(name, magic[0], 8) != 0))
        return FAIL(err, "%s: no file of logits: it must begin with %s or %s", path, magic[0], magic[1]);
    size_t words = s->exact ? 4 : 3;
    known = fread(head, 4, words, f) == words;
    s->context = head[0], s->vocab = head[1], s->chunks = head[2];
    s->rows = s->exact ? head[3] : head[0] - 1 - head[0] / 2;
    if (!known || s->context < 4 || s->vocab < 1 || s->chunks < 1 || s->rows < 1 || s->rows >= s->context ||
        s->vocab > 1 << 28 || s->context > 1 << 28)
        return FAIL(err, "%s: its header says %d chunks of %d tokens, a vocabulary of %d: that cannot be", path,
                    s->chunks, s->context, s->vocab);
    int status = prepare(out, path, err);
    if (status < 0)
        return status;
    int64_t n = (int64_t)s->chunks * s->context;
    out->first_row = 8 + 4 * (int64_t)words + 4 * n;
    if ((status = read_info(out, out->first_row + out->row_bytes * s->rows * s->chunks, err)) < 0)
        return status;
    out->tokens = malloc(sizeof *out->tokens * (size_t)n); /* the file is that large */
    if (out->tokens == NULL)
        return eval_no_memory(err);
    if (!get(out, 8 + 4 * (int64_t)words, out->tokens, sizeof *out->tokens * (size_t)n))
        return FAIL(err, "%s: its tokens cannot be read", path);
    for (int64_t i = 0; i < n; i++)
        if (out->tokens[i] < 0 || out->tokens[i] >= s->vocab)
            return FAIL(err, "%s: token %" PRId64 " is %d, in a vocabulary of %d", path, i, out->tokens[i], s->vocab);
    return SLUICE_OK;
}

int kld_file_get(kld_file *k, int64_t chunk, int64_t row, double *logprob, sluice_error *err) {
    int64_t at = k->first_row + k->row_bytes * (chunk * k->shape.rows + row);
    if ((ftello(k->f) != at && fseeko(k->f, (off_t)at, SEEK_SET) != 0) ||
        fread(k->row, 1, (size_t)k->row_bytes, k->f) != (size_t)k->row_bytes)
        return FAIL(err, "%s: row %" PRId64 " of chunk %" PRId64 " cannot be read", k->path, row, chunk);
    decode(&k->shape, k->row, logprob);
    return SLUICE_OK;
}

void kld_file_close(kld_file *k) {
    if (k->f != NULL)
        fclose(k->f);
    if (k->part != NULL)
        remove(k->part);
    free(k->path);
    free(k->part);
    free(k->tokens);
    free(k->row);
    json_decref(k->info);
    *k = (kld_file){0};
}
