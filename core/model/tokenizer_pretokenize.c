/* Pre-tokenizers: cutting text into words. Each is a list of three kinds of step: cut at a pattern, put the bytes into
 * the byte alphabet, put a mark in place of spaces. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <string.h>

/* What becomes of the matches of a pattern. */
typedef enum { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behaviour;
static const char *const behaviours[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
enum { BEHAVIOURS = sizeof behaviours / sizeof *behaviours };

typedef enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } prepend;

struct sli_cut_step {
    sl_status (*run)(const sli_cut_step *step, const sli_text *in, const sli_parts *parts, sli_text *out,
                     sli_parts *out_parts, sl_error *err);
    sli_pattern pattern; /* CUT */
    behaviour behaviour;
    int invert;
    prepend prepend; /* of `mark`, to parts that do not begin with it */
    char mark[8];
    size_t mark_len;
    int spaces; /* spaces become the mark */
};

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Joins neighbouring spans as the behaviour says; `span.match` then means "leave out". Returns how many are left. */
static size_t join_spans(sli_span *s, size_t n, behaviour b) {
    size_t out = 0;
    int previous = 0;
    if (b == REMOVED)
        return n;
    if (b == MERGED_WITH_NEXT) { /* from the end: a match joins what stands behind it */
        size_t low = n;
        for (size_t i = n; i-- > 0;) {
            sli_span now = s[i];
            if (now.match && !previous && low < n)
                s[low].start = now.start;
            else
                s[--low] = (sli_span){now.start, now.end, 0};
            previous = now.match;
        }
        memmove(s, s + low, (n - low) * sizeof *s);
        return n - low;
    }
    for (size_t i = 0; i < n; i++) {
        sli_span now = s[i];
        int joins = (b == CONTIGUOUS && now.match == previous) || (b == MERGED_WITH_PREVIOUS && now.match && !previous);
        if (joins && out > 0)
            s[out - 1].end = now.end;
        else
            s[out++] = (sli_span){now.start, now.end, 0};
        previous = now.match;
    }
    return out;
}

static sl_status cut_part(const sli_cut_step *step, const char *text, const sli_part *part, sli_spans *spans,
                          sli_parts *out, sl_error *err) {
    SL_TRY(sli_pattern_cut(&step->pattern, text + part->at, part->len, spans, err));
    if (step->invert)
        for (size_t i = 0; i < spans->n; i++)
            spans->data[i].match = !spans->data[i].match;
    size_t n = join_spans(spans->data, spans->n, step->behaviour);
    for (size_t i = 0; i < n; i++) {
        const sli_span *s = &spans->data[i];
        if (!s->match)
            SL_TRY(sli_parts_add(out, part->at + s->start, s->end - s->start, -1, part->first && s->start == 0));
    }
    return SL_OK;
}

static sl_status run_cut(const sli_cut_step *step, const sli_text *in, const sli_parts *parts, sli_text *out,
                         sli_parts *out_parts, sl_error *err) {
    sli_spans spans = {0};
    sl_status status = sli_text_add(out, in->data, in->len);
    for (size_t i = 0; status == SL_OK && i < parts->n; i++) {
        const sli_part *p = &parts->data[i];
        status = p->id >= 0 ? sli_parts_add(out_parts, p->at, p->len, p->id, p->first)
                            : cut_part(step, in->data, p, &spans, out_parts, err);
    }
    sli_spans_free(&spans);
    return status;
}

static sl_status mark_part(const sli_cut_step *step, const char *s, size_t n, int first, sli_text *out) {
    const char *start = step->spaces && s[0] == ' ' ? step->mark : s; /* what it will begin with */
    size_t start_len = start == s ? n : step->mark_len;
    int has = start_len >= step->mark_len && memcmp(start, step->mark, step->mark_len) == 0;
    if (!has && (step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && first)))
        SL_TRY(sli_text_add(out, step->mark, step->mark_len));
    if (!step->spaces)
        return sli_text_add(out, s, n);
    for (const char *end = s + n; s < end;) {
        const char *space = memchr(s, ' ', (size_t)(end - s));
        SL_TRY(sli_text_add(out, s, (size_t)((space == NULL ? end : space) - s)));
        if (space == NULL)
            break;
        SL_TRY(sli_text_add(out, step->mark, step->mark_len));
        s = space + 1;
    }
    return SL_OK;
}

static sl_status run_mark(const sli_cut_step *step, const sli_text *in, const sli_parts *parts, sli_text *out,
                          sli_parts *out_parts, sl_error *err) {
    (void)err;
    for (size_t i = 0; i < parts->n; i++) {
        const sli_part *p = &parts->data[i];
        size_t at = out->len;
        SL_TRY(p->id >= 0 ? sli_text_add(out, in->data + p->at, p->len)
                          : mark_part(step, in->data + p->at, p->len, p->first, out));
        SL_TRY(sli_parts_add(out_parts, at, out->len - at, p->id, p->first));
    }
    return SL_OK;
}

static sl_status run_bytes(const sli_cut_step *step, const sli_text *in, const sli_parts *parts, sli_text *out,
                           sli_parts *out_parts, sl_error *err) {
    (void)step, (void)err;
    for (size_t i = 0; i < parts->n; i++) {
        const sli_part *p = &parts->data[i];
        size_t at = out->len;
        for (size_t k = 0; k < p->len && p->id < 0; k++)
            SL_TRY(sli_text_add_char(out, sli_byte_char((unsigned char)in->data[p->at + k])));
        SL_TRY(sli_parts_add(out_parts, at, out->len - at, p->id, p->first));
    }
    return SL_OK;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static sl_status new_step(sli_pretokenizer *p, sli_cut_step **out) {
    if (!sli_grow(&p->steps, p->n, &p->cap, sizeof *p->steps))
        return SL_E_NO_MEMORY;
    *out = &p->steps[p->n++];
    **out = (sli_cut_step){.run = run_cut};
    return SL_OK;
}

static sl_status read_behaviour(const json_t *o, const char *where, behaviour *out, sl_error *err) {
    const char *text = NULL;
    size_t len;
    sl_status status = sli_tokenizer_json_string(o, "behavior", where, &text, &len, err);
    if (status != SL_OK)
        return status;
    for (int i = 0; i < BEHAVIOURS; i++)
        if (strcmp(text, behaviours[i]) == 0) {
            *out = (behaviour)i;
            return SL_OK;
        }
    return sl_fail(err, SL_E_UNIMPLEMENTED, "%s.behavior: '%.60s' is not supported", where, text);
}

static sl_status read_split(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_cut_step *step;
    SL_TRY(new_step(target, &step));
    SL_TRY(sli_tokenizer_json_bool(o, "invert", where, &step->invert, err));
    sl_status status = read_behaviour(o, where, &step->behaviour, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, "behavior", err);
    return status < 0 ? status : sli_tokenizer_json_pattern(o, where, &step->pattern, err);
}

static const char gpt2_words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static sl_status read_byte_level(void *target, const json_t *o, const char *where, sl_error *err) {
    int prefix = 1, use_regex = 1;
    SL_TRY(sli_tokenizer_json_bool(o, "add_prefix_space", where, &prefix, err));
    SL_TRY(sli_tokenizer_json_bool(o, "use_regex", where, &use_regex, err));
    sli_cut_step *step;
    if (prefix) {
        SL_TRY(new_step(target, &step));
        step->run = run_mark;
        step->prepend = PREPEND_ALWAYS;
        step->mark[0] = ' ';
        step->mark_len = 1;
    }
    if (use_regex) {
        SL_TRY(new_step(target, &step));
        SL_TRY(sli_pattern_regex(gpt2_words, sizeof gpt2_words - 1, &step->pattern, err));
    }
    SL_TRY(new_step(target, &step));
    step->run = run_bytes;
    return SL_OK;
}

static sl_status read_scheme(const json_t *o, const char *where, prepend *out, sl_error *err) {
    static const char *const schemes[] = {"never", "first", "always"};
    const char *text = "always";
    size_t len;
    int prefix = 1;
    SL_TRY(sli_tokenizer_json_string(o, "prepend_scheme", where, &text, &len, err));
    SL_TRY(sli_tokenizer_json_bool(o, "add_prefix_space", where, &prefix, err)); /* of files from before there were schemes */
    if (!prefix)
        text = "never";
    for (int i = 0; i < 3; i++)
        if (strcmp(text, schemes[i]) == 0) {
            *out = (prepend)i;
            return SL_OK;
        }
    return sl_fail(err, SL_E_DATA, "%s.prepend_scheme: expected first, always or never, found '%.60s'", where, text);
}

static sl_status read_metaspace(void *target, const json_t *o, const char *where, sl_error *err) {
    int split = 1;
    SL_TRY(sli_tokenizer_json_bool(o, "split", where, &split, err));
    sli_cut_step *step;
    SL_TRY(new_step(target, &step));
    step->run = run_mark;
    step->spaces = 1;
    SL_TRY(sli_tokenizer_json_char(o, "replacement", where, step->mark, &step->mark_len, err));
    SL_TRY(read_scheme(o, where, &step->prepend, err));
    if (!split)
        return SL_OK;
    char mark[8];
    size_t mark_len = step->mark_len;
    memcpy(mark, step->mark, sizeof mark);
    SL_TRY(new_step(target, &step));
    step->behaviour = MERGED_WITH_NEXT;
    return sli_pattern_literal(mark, mark_len, &step->pattern, err);
}

static sl_status read_class(void *target, int (*is_member)(uint32_t), behaviour b) {
    sli_cut_step *step;
    SL_TRY(new_step(target, &step));
    step->pattern.is_member = is_member;
    step->behaviour = b;
    return SL_OK;
}

static sl_status read_digits(void *target, const json_t *o, const char *where, sl_error *err) {
    int individual = 0;
    SL_TRY(sli_tokenizer_json_bool(o, "individual_digits", where, &individual, err));
    return read_class(target, sli_is_numeric, individual ? ISOLATED : CONTIGUOUS);
}

static sl_status read_punctuation(void *target, const json_t *o, const char *where, sl_error *err) {
    behaviour b = ISOLATED;
    SL_TRY(read_behaviour(o, where, &b, err));
    return read_class(target, sli_is_punct, b);
}

static sl_status read_whitespace_split(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)o, (void)where, (void)err;
    return read_class(target, sli_is_space, REMOVED);
}

/* Words, and runs of what is neither word nor space: first without the spaces, then where the class changes. */
static sl_status read_whitespace(void *target, const json_t *o, const char *where, sl_error *err) {
    SL_TRY(read_whitespace_split(target, o, where, err));
    return read_class(target, sli_is_word, CONTIGUOUS);
}

static const sli_component known[] = {
    {"ByteLevel", read_byte_level},    {"Split", read_split},
    {"Metaspace", read_metaspace},     {"Digits", read_digits},
    {"Punctuation", read_punctuation}, {"WhitespaceSplit", read_whitespace_split},
    {"Whitespace", read_whitespace},
};

sl_status sli_pretokenizer_read(sli_pretokenizer *p, const json_t *value, sl_error *err) {
    return sli_tokenizer_json_components(value, "pretokenizers", known, sizeof known / sizeof *known, p, "pre_tokenizer", err);
}

sl_status sli_pretokenizer_run(const sli_pretokenizer *p, sli_text *text, sli_parts *parts, sl_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        sli_text out = {0};
        sli_parts out_parts = {0};
        sl_status status = p->steps[i].run(&p->steps[i], text, parts, &out, &out_parts, err);
        if (status < 0) {
            sli_text_free(&out);
            sli_free(out_parts.data);
            return status;
        }
        sli_text_free(text);
        sli_free(parts->data);
        *text = out;
        *parts = out_parts;
    }
    return SL_OK;
}

void sli_pretokenizer_free(sli_pretokenizer *p) {
    for (size_t i = 0; i < p->n; i++)
        sli_pattern_free(&p->steps[i].pattern);
    sli_free(p->steps);
    *p = (sli_pretokenizer){0};
}
