/* Reading tokenizer.json and what stands beside it; see tokenizer.h. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Ids may have holes, but a file cannot make us reserve more than a little over what it holds. */
enum { HOLES_ALLOWED = 1 << 20 };

/* ---- vocabulary and merges -------------------------------------------------------------------------------------- */

static sl_status check_id(const json_t *value, const char *where, size_t entries, int32_t *out, sl_error *err) {
    long long limit = (long long)entries * 4 + HOLES_ALLOWED;
    if (limit > INT32_MAX - 1)
        limit = INT32_MAX - 1;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > limit)
        return sl_fail(err, SL_E_DATA, "%s: expected an id from 0 to %lld", where, limit);
    *out = (int32_t)json_integer_value(value);
    return SL_OK;
}

/* The largest id of model and added tokens, so that tables have their final size from the start. */
static sl_status measure(json_t *vocab, const json_t *added, int32_t *size, size_t *entries, sl_error *err) {
    *entries = json_object_size(vocab) + json_array_size(added);
    *size = 0;
    const char *key;
    json_t *value;
    int32_t id = 0;
    json_object_foreach(vocab, key, value) {
        char where[SLI_WHERE_BYTES];
        snprintf(where, sizeof where, "model.vocab['%.100s']", key);
        SL_TRY(check_id(value, where, *entries, &id, err));
        *size = id >= *size ? id + 1 : *size;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        char where[SLI_WHERE_BYTES];
        snprintf(where, sizeof where, "added_tokens[%zu].id", i);
        SL_TRY(check_id(json_object_get(json_array_get(added, i), "id"), where, *entries, &id, err));
        *size = id >= *size ? id + 1 : *size;
    }
    return *size > 0 ? SL_OK : sl_fail(err, SL_E_DATA, "model.vocab is empty");
}

static sl_status read_vocab(sli_vocab *v, json_t *vocab, const json_t *added, sl_error *err) {
    size_t entries;
    int32_t size;
    SL_TRY(measure(vocab, added, &size, &entries, err));
    SL_TRY(sli_vocab_init(v, size, entries));
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        sl_status status = sli_vocab_add(v, key, strlen(key), id, err);
        if (status < 0)
            return status == SL_E_NO_MEMORY ? status : sl_fail_within(err, status, "model.vocab");
        v->pieces[id].in_model = 1;
    }
    return SL_OK;
}

typedef struct words {
    const char *text[2];
    size_t len[2];
} words;

/* "a b" or ["a", "b"]. */
static int merge_words(const json_t *value, words *w) {
    if (json_is_string(value)) {
        const char *s = json_string_value(value);
        size_t n = json_string_length(value);
        const char *space = memchr(s, ' ', n);
        if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)) != NULL)
            return 0;
        *w = (words){{s, space + 1}, {(size_t)(space - s), n - (size_t)(space + 1 - s)}};
        return 1;
    }
    if (!json_is_array(value) || json_array_size(value) != 2)
        return 0;
    for (size_t k = 0; k < 2; k++) {
        const json_t *part = json_array_get(value, k);
        if (!json_is_string(part))
            return 0;
        w->text[k] = json_string_value(part);
        w->len[k] = json_string_length(part);
    }
    return 1;
}

static sl_status merge_token(const sli_vocab *v, size_t i, const char *text, size_t len, int32_t *id, sl_error *err) {
    *id = sli_vocab_find(v, text, len);
    return *id >= 0 && v->pieces[*id].in_model
               ? SL_OK
               : sl_fail(err, SL_E_DATA, "model.merges[%zu]: '%.*s' is not in the vocabulary", i,
                         (int)(len < 100 ? len : 100), text);
}

static sl_status read_merges(sli_bpe *bpe, const json_t *merges, sl_error *err) {
    size_t n = json_array_size(merges);
    if (n >= UINT32_MAX)
        return sl_fail(err, SL_E_DATA, "model.merges has too many entries");
    SL_TRY(sli_merges_init(&bpe->merges, n));
    sli_text whole = {0};
    sl_status status = SL_OK;
    uint32_t rank = 0;
    for (size_t i = 0; i < n && status == SL_OK; i++) {
        const json_t *value = json_array_get(merges, i);
        if (json_is_string(value) && strncmp(json_string_value(value), "#version", 8) == 0)
            continue;
        words w;
        if (!merge_words(value, &w)) {
            status = sl_fail(err, SL_E_DATA, "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]", i);
            break;
        }
        int32_t left = -1, right = -1, id = -1;
        whole.len = 0;
        if ((status = sli_text_add(&whole, w.text[0], w.len[0])) == SL_OK &&
            (status = sli_text_add(&whole, w.text[1], w.len[1])) == SL_OK &&
            (status = merge_token(&bpe->vocab, i, w.text[0], w.len[0], &left, err)) == SL_OK &&
            (status = merge_token(&bpe->vocab, i, w.text[1], w.len[1], &right, err)) == SL_OK &&
            (status = merge_token(&bpe->vocab, i, whole.data, whole.len, &id, err)) == SL_OK)
            sli_merges_put(&bpe->merges, left, right, rank++, id);
    }
    sli_text_free(&whole);
    return status;
}

/* Options of the model that would change ids and that no supported pipeline has. */
static sl_status refuse_unknown(const json_t *model, sl_error *err) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *text = "";
        size_t len = 0;
        SL_TRY(sli_tokenizer_json_string(model, affixes[i], "model", &text, &len, err));
        if (len > 0)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "model.%s '%.60s' is not supported", affixes[i], text);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "model.dropout is not supported");
    return SL_OK;
}

static sl_status read_model(sli_bpe *bpe, const json_t *model, const json_t *added, sl_error *err) {
    if (!json_is_object(model))
        return sl_fail(err, SL_E_DATA, "'model' is missing or not an object");
    const char *type = "BPE", *unk = NULL;
    size_t len;
    SL_TRY(sli_tokenizer_json_string(model, "type", "model", &type, &len, err));
    if (strcmp(type, "BPE") != 0)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "model.type '%.60s' is not supported, only BPE", type);
    SL_TRY(refuse_unknown(model, err));
    SL_TRY(sli_tokenizer_json_bool(model, "fuse_unk", "model", &bpe->fuse_unk, err));
    SL_TRY(sli_tokenizer_json_bool(model, "byte_fallback", "model", &bpe->byte_fallback, err));
    SL_TRY(sli_tokenizer_json_bool(model, "ignore_merges", "model", &bpe->ignore_merges, err));
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_object(vocab))
        return sl_fail(err, SL_E_DATA, "model.vocab: expected an object");
    if (!json_is_array(merges))
        return sl_fail(err, SL_E_DATA, "model.merges: expected an array");
    if (added != NULL && !json_is_null(added) && !json_is_array(added))
        return sl_fail(err, SL_E_DATA, "added_tokens: expected an array");
    SL_TRY(read_vocab(&bpe->vocab, vocab, added, err));
    SL_TRY(read_merges(bpe, merges, err));
    bpe->unk = -1;
    sl_status status = sli_tokenizer_json_string(model, "unk_token", "model", &unk, &len, err);
    SL_TRY(status);
    if (status == SL_OK &&
        ((bpe->unk = sli_vocab_find(&bpe->vocab, unk, len)) < 0 || !bpe->vocab.pieces[bpe->unk].in_model))
        return sl_fail(err, SL_E_DATA, "model.unk_token '%.60s' is not in the vocabulary", unk);
    sli_bpe_index_chars(bpe);
    return SL_OK;
}

/* ---- added tokens ----------------------------------------------------------------------------------------------- */

static sl_status read_flags(const json_t *o, const char *where, sli_added_token *t, sl_error *err) {
    int single_word = 0, lstrip = 0, rstrip = 0, special = 0, normalized = 0;
    SL_TRY(sli_tokenizer_json_bool(o, "single_word", where, &single_word, err));
    SL_TRY(sli_tokenizer_json_bool(o, "lstrip", where, &lstrip, err));
    SL_TRY(sli_tokenizer_json_bool(o, "rstrip", where, &rstrip, err));
    SL_TRY(sli_tokenizer_json_bool(o, "special", where, &special, err));
    normalized = !special;
    SL_TRY(sli_tokenizer_json_bool(o, "normalized", where, &normalized, err));
    t->single_word = (uint8_t)single_word, t->lstrip = (uint8_t)lstrip, t->rstrip = (uint8_t)rstrip;
    t->special = (uint8_t)special, t->normalized = (uint8_t)normalized;
    return SL_OK;
}

/* Puts an added token into the vocabulary, where it may already stand with the same id. */
static sl_status enter(sli_vocab *v, const char *text, size_t len, const char *where, const sli_added_token *t,
                       int32_t index, sl_error *err) {
    int32_t have = sli_vocab_find(v, text, len);
    if (have >= 0 && v->pieces[have].added >= 0)
        return sl_fail(err, SL_E_DATA, "%s: '%.60s' stands twice in added_tokens", where, text);
    if (have >= 0 && have != t->id)
        return sl_fail(err, SL_E_DATA, "%s: '%.60s' has id %d here and %d in model.vocab", where, text, t->id, have);
    if (have < 0) {
        sl_status status = sli_vocab_add(v, text, len, t->id, err);
        if (status < 0)
            return status == SL_E_NO_MEMORY ? status : sl_fail_within(err, status, "%s", where);
    }
    v->pieces[t->id].added = index;
    v->pieces[t->id].special = t->special;
    return SL_OK;
}

static sl_status read_added_token(sli_tokenizer *tok, const json_t *o, size_t i, sl_error *err) {
    char where[SLI_WHERE_BYTES];
    snprintf(where, sizeof where, "added_tokens[%zu]", i);
    const char *text = NULL;
    size_t len = 0;
    sl_status status = sli_tokenizer_json_string(o, "content", where, &text, &len, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, "content", err);
    SL_TRY(status);
    if (len == 0)
        return sl_fail(err, SL_E_DATA, "%s.content is empty", where);
    sli_added_token *t = &tok->added.tokens[tok->added.n];
    t->id = (int32_t)json_integer_value(json_object_get(o, "id")); /* checked by measure() */
    SL_TRY(read_flags(o, where, t, err));
    SL_TRY(enter(&tok->bpe.vocab, text, len, where, t, (int32_t)tok->added.n, err));
    sli_text spelled = {0};
    int stripped;
    status = sli_text_add(&spelled, text, len);
    if (status == SL_OK && t->normalized)
        status = sli_normalizer_run(&tok->normalizer, &spelled, &stripped, err);
    if (status < 0) {
        sli_text_free(&spelled);
        return status;
    }
    t->text = spelled.data;
    t->len = spelled.len;
    tok->added.n++;
    return SL_OK;
}

static sl_status read_added(sli_tokenizer *tok, const json_t *added, sl_error *err) {
    size_t n = json_array_size(added);
    if ((tok->added.tokens = sli_calloc(SLI_TAG_MISC, n, sizeof *tok->added.tokens)) == NULL)
        return SL_E_NO_MEMORY;
    for (size_t i = 0; i < n; i++)
        SL_TRY(read_added_token(tok, json_array_get(added, i), i, err));
    return sli_added_sort(&tok->added);
}

/* ---- post-processor --------------------------------------------------------------------------------------------- */

/* The ids of one special token of the template, appended to `out`. */
static sl_status template_ids(const sli_tokenizer *tok, const json_t *special, const json_t *piece, const char *where,
                              sli_ids *out, sl_error *err) {
    const char *name = NULL;
    size_t len;
    sl_status status = sli_tokenizer_json_string(piece, "id", where, &name, &len, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, "id", err);
    SL_TRY(status);
    const json_t *ids = json_object_get(json_object_get(special, name), "ids");
    if (!json_is_array(ids))
        return sl_fail(err, SL_E_DATA, "%s: '%.60s' has no ids in special_tokens", where, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= tok->bpe.vocab.size)
            return sl_fail(err, SL_E_DATA, "%s: special token '%.60s' has an id that is not in the vocabulary", where,
                           name);
        SL_TRY(sli_ids_add(out, (int32_t)json_integer_value(id)));
    }
    return SL_OK;
}

static sl_status read_template(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_tokenizer *tok = target;
    const json_t *single = json_object_get(o, "single"), *special = json_object_get(o, "special_tokens");
    if (!json_is_array(single))
        return sl_fail(err, SL_E_DATA, "%s.single: expected an array", where);
    int texts = 0;
    sli_ids before = {0};
    sl_status status = SL_OK;
    for (size_t i = 0; i < json_array_size(single) && status == SL_OK; i++) {
        const json_t *piece = json_array_get(single, i), *token = json_object_get(piece, "SpecialToken");
        char inner[SLI_WHERE_BYTES];
        snprintf(inner, sizeof inner, "%s.single[%zu]", where, i);
        if (token != NULL)
            status = template_ids(tok, special, token, inner, texts ? &tok->after : &before, err);
        else if (json_object_get(piece, "Sequence") != NULL)
            texts++;
        else
            status = sl_fail(err, SL_E_DATA, "%s: expected SpecialToken or Sequence", inner);
    }
    if (status == SL_OK && texts != 1)
        status = sl_fail(err, SL_E_UNIMPLEMENTED, "%s.single: the text stands in it %d times, supported is once", where,
                         texts);
    for (size_t i = 0; i < tok->before.n && status == SL_OK; i++) /* an earlier processor's stand further in */
        status = sli_ids_add(&before, tok->before.data[i]);
    sli_ids old = tok->before;
    tok->before = before;
    sli_ids_free(&old);
    return status;
}

static sl_status read_nothing(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)target, (void)o, (void)where, (void)err; /* ByteLevel here trims offsets, which we have not */
    return SL_OK;
}

static const sli_component processors[] = {{"TemplateProcessing", read_template}, {"ByteLevel", read_nothing}};

/* ---- the files -------------------------------------------------------------------------------------------------- */

static sl_status parse(const char *text, size_t len, json_t **out, sl_error *err) {
    json_error_t e;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (*out != NULL)
        return SL_OK;
    if (json_error_code(&e) == json_error_out_of_memory)
        return SL_E_NO_MEMORY;
    return sl_fail(err, SL_E_DATA, "line %d, column %d: %s", e.line, e.column, e.text);
}

static sl_status read_tokenizer(sli_tokenizer *tok, const json_t *root, sl_error *err) {
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(root))
        return sl_fail(err, SL_E_DATA, "expected a JSON object");
    SL_TRY(read_model(&tok->bpe, json_object_get(root, "model"), added, err));
    SL_TRY(sli_normalizer_read(&tok->normalizer, json_object_get(root, "normalizer"), err));
    SL_TRY(read_added(tok, added, err));
    SL_TRY(sli_pretokenizer_read(&tok->pretokenizer, json_object_get(root, "pre_tokenizer"), err));
    SL_TRY(sli_tokenizer_json_components(json_object_get(root, "post_processor"), "processors", processors,
                               sizeof processors / sizeof *processors, tok, "post_processor", err));
    return sli_decoder_read(&tok->decoder, json_object_get(root, "decoder"), err);
}

/* A special token of tokenizer_config.json: "text" or {"content": "text"}. */
static sl_status config_token(const sli_tokenizer *tok, const json_t *config, const char *key, int32_t *id,
                              sl_error *err) {
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (value == NULL || json_is_null(value))
        return SL_OK;
    if (!json_is_string(value))
        return sl_fail(err, SL_E_DATA, "%s: expected a string or an object with 'content'", key);
    *id = sli_tokenizer_find(tok, json_string_value(value), json_string_length(value));
    return SL_OK;
}

/* A template by itself, or a list of named ones, of which "default" counts. */
static const char *config_template(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return json_string_value(value);
}

static sl_status read_config(sli_tokenizer *tok, const json_t *config, sl_error *err) {
    if (!json_is_object(config))
        return sl_fail(err, SL_E_DATA, "expected a JSON object");
    SL_TRY(config_token(tok, config, "bos_token", &tok->bos, err));
    SL_TRY(config_token(tok, config, "eos_token", &tok->eos, err));
    const char *template = config_template(config);
    if (template != NULL && (tok->chat_template = sli_strdup(SLI_TAG_MISC, template)) == NULL)
        return SL_E_NO_MEMORY;
    return SL_OK;
}

static sl_status open_parts(sli_tokenizer *tok, const char *json, size_t len, const char *config, size_t config_len,
                            sl_error *err) {
    json_t *root;
    SL_TRY(parse(json, len, &root, err));
    sl_status status = read_tokenizer(tok, root, err);
    json_decref(root);
    if (status < 0 || config == NULL)
        return status;
    status = parse(config, config_len, &root, err);
    if (status == SL_OK) {
        status = read_config(tok, root, err);
        json_decref(root);
    }
    return status < 0 && status != SL_E_NO_MEMORY ? sl_fail_within(err, status, "tokenizer_config.json") : status;
}

sl_status sli_tokenizer_open_memory(const char *name, const char *json, size_t len, const char *config,
                                    size_t config_len, sli_tokenizer **out, sl_error *err) {
    sli_tokenizer *tok = sli_alloc(SLI_TAG_MISC, sizeof *tok);
    sl_status status = SL_E_NO_MEMORY;
    if (tok != NULL) {
        tok->bos = tok->eos = -1;
        if ((tok->name = sli_strdup(SLI_TAG_MISC, name)) != NULL)
            status = open_parts(tok, json, len, config, config_len, err);
    }
    if (status < 0) {
        sli_tokenizer_close(tok);
        return status == SL_E_NO_MEMORY ? sl_fail(err, status, "%s: no memory for the tokenizer", name)
                                        : sl_fail_within(err, status, "%s", name);
    }
    *out = tok;
    return SL_OK;
}

static sl_status read_file(const char *path, sli_text *out, sl_error *err) {
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return sl_fail(err, errno == ENOENT ? SL_E_NOT_FOUND : SL_E_IO, "%s: %s", path, strerror(errno));
    char block[16384];
    sl_status status = SL_OK;
    for (size_t n; status == SL_OK && (n = fread(block, 1, sizeof block, f)) > 0;)
        status = sli_text_add(out, block, n);
    if (status == SL_OK && ferror(f))
        status = sl_fail(err, SL_E_IO, "%s: %s", path, strerror(errno));
    fclose(f);
    return status;
}

/* A file that may be absent; *found says whether it was there. */
static sl_status read_optional(const char *directory, const char *file, sli_text *out, int *found, sl_error *err) {
    sli_text path = {0};
    sl_status status = sli_text_add(&path, directory, strlen(directory));
    if (status == SL_OK)
        status = sli_text_add(&path, file, strlen(file) + 1);
    if (status == SL_OK)
        status = read_file(path.data, out, err);
    sli_text_free(&path);
    *found = status == SL_OK;
    return status == SL_E_NOT_FOUND ? SL_OK : status;
}

typedef struct files {
    sli_text directory, path, json, config, template;
} files;

/* directory (with its slash) and path of the tokenizer.json. */
static sl_status locate(const char *path, files *f) {
    struct stat st;
    size_t n = strlen(path);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        SL_TRY(sli_text_add(&f->directory, path, n));
        if (path[n - 1] != '/') /* not empty: it is a directory */
            SL_TRY(sli_text_add(&f->directory, "/", 1));
        SL_TRY(sli_text_add(&f->path, f->directory.data, f->directory.len));
        SL_TRY(sli_text_add(&f->path, "tokenizer.json", sizeof "tokenizer.json"));
    } else {
        const char *slash = strrchr(path, '/');
        SL_TRY(sli_text_add(&f->directory, path, slash == NULL ? 0 : (size_t)(slash + 1 - path)));
        SL_TRY(sli_text_add(&f->path, path, n + 1));
    }
    return sli_text_add(&f->directory, "", 1);
}

static sl_status open_files(const char *path, files *f, sli_tokenizer **out, sl_error *err) {
    int has_config, has_template;
    sli_tokenizer *tok;
    SL_TRY(locate(path, f));
    SL_TRY(read_file(f->path.data, &f->json, err));
    SL_TRY(read_optional(f->directory.data, "tokenizer_config.json", &f->config, &has_config, err));
    SL_TRY(read_optional(f->directory.data, "chat_template.jinja", &f->template, &has_template, err));
    SL_TRY(sli_text_add(&f->template, "", 1));
    SL_TRY(sli_tokenizer_open_memory(f->path.data, f->json.data, f->json.len, has_config ? f->config.data : NULL,
                                     f->config.len, &tok, err));
    if (has_template) { /* newer checkpoints keep it in a file of its own, which then counts */
        sli_free(tok->chat_template);
        tok->chat_template = f->template.data;
        f->template = (sli_text){0};
    }
    *out = tok;
    return SL_OK;
}

sl_status sli_tokenizer_open(const char *path, sli_tokenizer **out, sl_error *err) {
    files f = {0};
    sl_status status = open_files(path, &f, out, err);
    sli_text_free(&f.directory);
    sli_text_free(&f.path);
    sli_text_free(&f.json);
    sli_text_free(&f.config);
    sli_text_free(&f.template);
    return status == SL_E_NO_MEMORY ? sl_fail(err, status, "%s: no memory for the tokenizer", path) : status;
}
