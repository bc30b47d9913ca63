/* Normalizers: rewriting of the text before it is cut. Unicode normal forms come from utf8proc. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <string.h>
#include <utf8proc.h>

struct sli_normal_step {
    sl_status (*run)(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped, sl_error *err);
    int options;         /* of utf8proc */
    int left, right;     /* Strip */
    sli_text content;    /* Prepend, Replace */
    sli_pattern pattern; /* Replace */
};

static sl_status run_unicode(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped,
                             sl_error *err) {
    (void)stripped;
    utf8proc_option_t options = (utf8proc_option_t)step->options;
    if (in->len > SIZE_MAX / 64)
        return SL_E_NO_MEMORY;
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)in->data;
    size_t room = in->len + 64; /* code points; enough unless the text expands */
    utf8proc_int32_t *points = NULL;
    utf8proc_ssize_t n = 0;
    for (int attempt = 0; attempt < 2; attempt++) {
        sli_free(points);
        if ((points = sli_calloc(SLI_TAG_MISC, room + 1, sizeof *points)) == NULL)
            return SL_E_NO_MEMORY;
        n = utf8proc_decompose(bytes, (utf8proc_ssize_t)in->len, points, (utf8proc_ssize_t)room, options);
        if (n < 0 || (size_t)n <= room)
            break;
        room = (size_t)n;
    }
    if (n >= 0)
        n = utf8proc_reencode(points, n, options); /* composes, and writes UTF-8 over the code points */
    sl_status status = n < 0 ? sl_fail(err, SL_E_INTERNAL, "Unicode normalisation: %s", utf8proc_errmsg(n))
                             : sli_text_add(out, (const char *)points, (size_t)n);
    sli_free(points);
    return status;
}

static sl_status run_lowercase(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped,
                               sl_error *err) {
    (void)step, (void)stripped, (void)err;
    for (size_t i = 0; i < in->len;) {
        uint32_t c;
        i += sli_utf8_next(in->data + i, in->len - i, &c);
        if (c == 0x130) { /* the one letter whose lower case is two code points */
            SL_TRY(sli_text_add(out, "i\xcc\x87", 3));
            continue;
        }
        SL_TRY(sli_text_add_char(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c)));
    }
    return SL_OK;
}

static sl_status run_strip(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped,
                           sl_error *err) {
    (void)err;
    size_t start = 0, end = 0, used;
    int seen = 0;
    for (size_t i = 0; i < in->len; i += used) {
        uint32_t c;
        used = sli_utf8_next(in->data + i, in->len - i, &c);
        if (sli_is_space(c))
            continue;
        if (!seen)
            start = i;
        seen = 1;
        end = i + used;
    }
    if (!seen)
        start = in->len, end = in->len; /* nothing but spaces: either side takes all */
    if (!step->left)
        start = 0;
    if (!step->right)
        end = in->len;
    if (!seen && step->right)
        end = start;
    *stripped |= start > 0;
    return sli_text_add(out, in->data + start, end - start);
}

static sl_status run_prepend(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped,
                             sl_error *err) {
    (void)stripped, (void)err;
    if (in->len > 0)
        SL_TRY(sli_text_add(out, step->content.data, step->content.len));
    return sli_text_add(out, in->data, in->len);
}

static sl_status run_replace(const sli_normal_step *step, const sli_text *in, sli_text *out, int *stripped,
                             sl_error *err) {
    sli_spans spans = {0};
    sl_status status = sli_pattern_cut(&step->pattern, in->data, in->len, &spans, err);
    if (status == SL_OK && spans.n > 0 && spans.data[0].match) {
        /* The replacement counts as standing where the last replaced character stood. */
        uint32_t c;
        size_t taken = spans.data[0].end, one = taken == 0 ? 0 : sli_utf8_next(in->data, taken, &c);
        *stripped |= step->content.len > 0 ? taken > one : taken > 0;
    }
    for (size_t i = 0; status == SL_OK && i < spans.n; i++) {
        const sli_span *s = &spans.data[i];
        status = s->match ? sli_text_add(out, step->content.data, step->content.len)
                          : sli_text_add(out, in->data + s->start, s->end - s->start);
    }
    sli_spans_free(&spans);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static sl_status new_step(sli_normalizer *z, sli_normal_step **out) {
    if (!sli_grow(&z->steps, z->n, &z->cap, sizeof *z->steps))
        return SL_E_NO_MEMORY;
    *out = &z->steps[z->n++];
    **out = (sli_normal_step){0};
    return SL_OK;
}

static sl_status read_unicode(void *target, int options) {
    sli_normal_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_unicode;
    step->options = options | UTF8PROC_STABLE;
    return SL_OK;
}

#define READ_FORM(name, options)                                                                                       \
    static sl_status name(void *target, const json_t *o, const char *where, sl_error *err) {                           \
        (void)o, (void)where, (void)err;                                                                               \
        return read_unicode(target, options);                                                                          \
    }
READ_FORM(read_nfc, UTF8PROC_COMPOSE)
READ_FORM(read_nfd, UTF8PROC_DECOMPOSE)
READ_FORM(read_nfkc, UTF8PROC_COMPOSE | UTF8PROC_COMPAT)
READ_FORM(read_nfkd, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT)

static sl_status read_lowercase(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)o, (void)where, (void)err;
    sli_normal_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_lowercase;
    return SL_OK;
}

static sl_status read_strip(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_normal_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_strip;
    step->left = step->right = 1;
    SL_TRY(sli_tokenizer_json_bool(o, "strip_left", where, &step->left, err));
    return sli_tokenizer_json_bool(o, "strip_right", where, &step->right, err);
}

static sl_status read_content(sli_normal_step *step, const json_t *o, const char *key, const char *where,
                              sl_error *err) {
    const char *text;
    size_t len;
    sl_status status = sli_tokenizer_json_string(o, key, where, &text, &len, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, key, err);
    return status < 0 ? status : sli_text_add(&step->content, text, len);
}

static sl_status read_prepend(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_normal_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_prepend;
    return read_content(step, o, "prepend", where, err);
}

static sl_status read_replace(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_normal_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_replace;
    SL_TRY(sli_tokenizer_json_pattern(o, where, &step->pattern, err));
    return read_content(step, o, "content", where, err);
}

static const sli_component known[] = {
    {"NFC", read_nfc},
    {"NFD", read_nfd},
    {"NFKC", read_nfkc},
    {"NFKD", read_nfkd},
    {"Lowercase", read_lowercase},
    {"Strip", read_strip},
    {"Prepend", read_prepend},
    {"Replace", read_replace},
};

sl_status sli_normalizer_read(sli_normalizer *z, const json_t *value, sl_error *err) {
    return sli_tokenizer_json_components(value, "normalizers", known, sizeof known / sizeof *known, z, "normalizer", err);
}

sl_status sli_normalizer_run(const sli_normalizer *z, sli_text *text, int *stripped, sl_error *err) {
    *stripped = 0;
    for (size_t i = 0; i < z->n; i++) {
        sli_text out = {0};
        sl_status status = z->steps[i].run(&z->steps[i], text, &out, stripped, err);
        if (status < 0) {
            sli_text_free(&out);
            return status;
        }
        sli_text_free(text);
        *text = out;
    }
    return SL_OK;
}

void sli_normalizer_free(sli_normalizer *z) {
    for (size_t i = 0; i < z->n; i++) {
        sli_text_free(&z->steps[i].content);
        sli_pattern_free(&z->steps[i].pattern);
    }
    sli_free(z->steps);
    *z = (sli_normalizer){0};
}
