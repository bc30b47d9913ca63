/* Decoding: the spelling of each token runs through a chain of steps and comes out as text.
 *
 * There is one implementation, the streaming one; decoding a list pushes all of it and flushes. Each step keeps what it
 * cannot answer for yet: bytes of a split code point, a run of byte tokens (the whole run is replaced when it is not
 * valid, so nothing of it is known before it ends), characters at the end that may have to be stripped. */
#include "tokenizer_parts.h"

#include "base/ledger.h"

#include <string.h>

typedef struct step_state {
    sli_text held;
    sli_text piece;  /* what a step makes of one piece; kept so that nothing is allocated from token to token */
    sli_spans spans; /* likewise */
    size_t seen;    /* pieces that arrived */
    size_t dropped; /* characters stripped at the beginning */
    int begun;      /* something that is not stripped came */
} step_state;

struct sli_token_stream {
    const sli_tokenizer *tok;
    unsigned flags;
    sli_text out;
    step_state *states; /* one a step */
};

struct sli_decode_step {
    sl_status (*push)(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err);
    sl_status (*flush)(sli_token_stream *s, size_t k, sl_error *err); /* NULL: holds nothing back */
    int whole;           /* what comes out (or, of Strip, what comes in) is one string in fragments, no longer pieces */
    sli_pattern pattern; /* Replace */
    sli_text content;    /* Replace */
    char mark[8];        /* Strip, Metaspace */
    size_t mark_len, start, stop;
    int keep_first; /* Metaspace: the mark of the first piece is a space, too */
};

static sl_status emit(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    const sli_decoder *d = &s->tok->decoder;
    return k < d->n ? d->steps[k].push(s, k, text, len, err) : sli_text_add(&s->out, text, len);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

static sl_status push_fuse(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    return emit(s, k + 1, text, len, err);
}

static sl_status push_join(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    if (s->states[k].seen++ > 0)
        SL_TRY(emit(s, k + 1, " ", 1, err));
    return emit(s, k + 1, text, len, err);
}

static sl_status push_replace(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    const sli_decode_step *step = &s->tok->decoder.steps[k];
    sli_spans *spans = &s->states[k].spans;
    sli_text *piece = &s->states[k].piece;
    spans->n = piece->len = 0;
    SL_TRY(sli_pattern_cut(&step->pattern, text, len, spans, err));
    for (size_t i = 0; i < spans->n; i++) {
        const sli_span *p = &spans->data[i];
        SL_TRY(p->match ? sli_text_add(piece, step->content.data, step->content.len)
                        : sli_text_add(piece, text + p->start, p->end - p->start));
    }
    return emit(s, k + 1, piece->data, piece->len, err);
}

static int hex(char c) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = c == 0 ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits) % 16;
}

/* "<0x41>" is the byte 0x41 ("<0x+1>", too: the reference reads the number so). */
static int byte_of(const char *text, size_t len) {
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = text[3] == '+' ? 0 : hex(text[3]), low = hex(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static sl_status flush_bytes(sli_token_stream *s, size_t k, sl_error *err) {
    sli_text *held = &s->states[k].held;
    sl_status status = SL_OK;
    if (held->len > 0 && sli_utf8_valid(held->data, held->len))
        status = emit(s, k + 1, held->data, held->len, err);
    else
        for (size_t i = 0; status == SL_OK && i < held->len; i++)
            status = emit(s, k + 1, SLI_REPLACEMENT, 3, err);
    held->len = 0;
    return status;
}

static sl_status push_bytes(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    int byte = byte_of(text, len);
    if (byte >= 0) {
        char b = (char)byte;
        return sli_text_add(&s->states[k].held, &b, 1);
    }
    SL_TRY(flush_bytes(s, k, err));
    return emit(s, k + 1, text, len, err);
}

/* The bytes of a piece spelled in the byte alphabet; a piece with any other character stands for itself. */
static sl_status unspell(const char *text, size_t len, sli_text *out) {
    size_t before = out->len;
    for (size_t i = 0; i < len;) {
        uint32_t c;
        i += sli_utf8_next(text + i, len - i, &c);
        int byte = sli_char_byte(c);
        if (byte < 0) {
            out->len = before;
            return sli_text_add(out, text, len);
        }
        char b = (char)byte;
        SL_TRY(sli_text_add(out, &b, 1));
    }
    return SL_OK;
}

/* Passes on what is complete; everything when `last`. */
static sl_status drain(sli_token_stream *s, size_t k, int last, sl_error *err) {
    sli_text *held = &s->states[k].held;
    size_t done = 0, clean = 0;
    sl_status status = SL_OK;
    while (done < held->len && status == SL_OK) {
        uint32_t c;
        size_t used;
        int read = sli_utf8_read(held->data + done, held->len - done, &c, &used);
        if (read < 0 && !last)
            break;
        if (read != 1) {
            status = emit(s, k + 1, held->data + clean, done - clean, err);
            if (status == SL_OK)
                status = emit(s, k + 1, SLI_REPLACEMENT, 3, err);
            clean = done + used;
        }
        done += used;
    }
    if (status == SL_OK && done > clean)
        status = emit(s, k + 1, held->data + clean, done - clean, err);
    memmove(held->data, held->data + done, held->len - done);
    held->len -= done;
    return status;
}

static sl_status push_byte_level(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    SL_TRY(unspell(text, len, &s->states[k].held));
    return s->states[k].held.len > 0 ? drain(s, k, 0, err) : SL_OK;
}

static sl_status flush_byte_level(sli_token_stream *s, size_t k, sl_error *err) {
    return s->states[k].held.len > 0 ? drain(s, k, 1, err) : SL_OK;
}

static int starts_with(const char *text, size_t len, const char *mark, size_t mark_len) {
    return len >= mark_len && memcmp(text, mark, mark_len) == 0;
}

static sl_status push_metaspace(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    const sli_decode_step *step = &s->tok->decoder.steps[k];
    int drop = s->states[k].seen++ == 0 && !step->keep_first;
    sli_text *piece = &s->states[k].piece;
    piece->len = 0;
    for (size_t i = 0, used; i < len; i += used) {
        uint32_t c;
        used = sli_utf8_next(text + i, len - i, &c);
        if (!starts_with(text + i, len - i, step->mark, step->mark_len))
            SL_TRY(sli_text_add(piece, text + i, used));
        else if (!drop)
            SL_TRY(sli_text_add(piece, " ", 1));
    }
    return emit(s, k + 1, piece->data, piece->len, err);
}

/* Strip, on each piece by itself. */
static sl_status push_strip_piece(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    const sli_decode_step *step = &s->tok->decoder.steps[k];
    for (size_t i = 0; i < step->start && starts_with(text, len, step->mark, step->mark_len); i++)
        text += step->mark_len, len -= step->mark_len;
    for (size_t i = 0; i < step->stop && len >= step->mark_len &&
                       memcmp(text + len - step->mark_len, step->mark, step->mark_len) == 0;
         i++)
        len -= step->mark_len;
    return emit(s, k + 1, text, len, err);
}

/* Strip, on one string that arrives in fragments of whole characters. */
static sl_status push_strip_whole(sli_token_stream *s, size_t k, const char *text, size_t len, sl_error *err) {
    const sli_decode_step *step = &s->tok->decoder.steps[k];
    step_state *state = &s->states[k];
    while (!state->begun && len > 0) {
        if (state->dropped == step->start || !starts_with(text, len, step->mark, step->mark_len)) {
            state->begun = 1;
            break;
        }
        text += step->mark_len, len -= step->mark_len;
        state->dropped++;
    }
    if (step->stop == 0)
        return len > 0 ? emit(s, k + 1, text, len, err) : SL_OK;
    SL_TRY(sli_text_add(&state->held, text, len));
    size_t tail = 0; /* marks at the end, at most `stop`, wait */
    for (size_t n = 0; n < step->stop && state->held.len - tail >= step->mark_len; n++, tail += step->mark_len)
        if (memcmp(state->held.data + state->held.len - tail - step->mark_len, step->mark, step->mark_len) != 0)
            break;
    size_t ready = state->held.len - tail;
    sl_status status = ready > 0 ? emit(s, k + 1, state->held.data, ready, err) : SL_OK;
    if (tail > 0)
        memmove(state->held.data, state->held.data + ready, tail);
    state->held.len = tail;
    return status;
}

static sl_status flush_strip_whole(sli_token_stream *s, size_t k, sl_error *err) {
    (void)err;
    s->states[k].held.len = 0; /* what still waits is what is to be stripped */
    return SL_OK;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static sl_status new_step(sli_decoder *d, sli_decode_step step, sli_decode_step **out) {
    if (!sli_grow(&d->steps, d->n, &d->cap, sizeof *d->steps))
        return SL_E_NO_MEMORY;
    *out = &d->steps[d->n++];
    **out = step;
    return SL_OK;
}

static int is_whole(const sli_decoder *d) { return d->n > 0 && d->steps[d->n - 1].whole; }

/* Steps that look at single tokens cannot follow one that joins them. */
static sl_status need_pieces(const sli_decoder *d, const char *where, sl_error *err) {
    return is_whole(d)
               ? sl_fail(err, SL_E_UNIMPLEMENTED, "%s: this step after Fuse or ByteLevel is not supported", where)
               : SL_OK;
}

static sl_status read_fuse(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)o, (void)where, (void)err;
    sli_decode_step *step;
    return new_step(target, (sli_decode_step){.push = push_fuse, .whole = 1}, &step);
}

static sl_status read_byte_level(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)o;
    sli_decode_step *step;
    SL_TRY(need_pieces(target, where, err));
    return new_step(target, (sli_decode_step){.push = push_byte_level, .flush = flush_byte_level, .whole = 1}, &step);
}

static sl_status read_byte_fallback(void *target, const json_t *o, const char *where, sl_error *err) {
    (void)o;
    sli_decode_step *step;
    SL_TRY(need_pieces(target, where, err));
    return new_step(target, (sli_decode_step){.push = push_bytes, .flush = flush_bytes}, &step);
}

static sl_status read_replace(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_decode_step *step;
    SL_TRY(need_pieces(target, where, err));
    SL_TRY(new_step(target, (sli_decode_step){.push = push_replace}, &step));
    SL_TRY(sli_tokenizer_json_pattern(o, where, &step->pattern, err));
    const char *text;
    size_t len;
    sl_status status = sli_tokenizer_json_string(o, "content", where, &text, &len, err);
    if (status == SL_SKIPPED)
        return sli_tokenizer_json_missing(where, "content", err);
    return status < 0 ? status : sli_text_add(&step->content, text, len);
}

static sl_status read_strip(void *target, const json_t *o, const char *where, sl_error *err) {
    int whole = is_whole(target);
    sli_decode_step *step;
    SL_TRY(new_step(target,
                    (sli_decode_step){.push = whole ? push_strip_whole : push_strip_piece,
                                      .flush = whole ? flush_strip_whole : NULL,
                                      .whole = whole},
                    &step));
    SL_TRY(sli_tokenizer_json_char(o, "content", where, step->mark, &step->mark_len, err));
    int64_t start = 0, stop = 0;
    SL_TRY(sli_tokenizer_json_integer(o, "start", where, 0, INT32_MAX, &start, err));
    SL_TRY(sli_tokenizer_json_integer(o, "stop", where, 0, INT32_MAX, &stop, err));
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return SL_OK;
}

static sl_status read_metaspace(void *target, const json_t *o, const char *where, sl_error *err) {
    sli_decode_step *step;
    SL_TRY(need_pieces(target, where, err));
    SL_TRY(new_step(target, (sli_decode_step){.push = push_metaspace}, &step));
    SL_TRY(sli_tokenizer_json_char(o, "replacement", where, step->mark, &step->mark_len, err));
    const char *scheme = "always";
    size_t len;
    int prefix = 1;
    SL_TRY(sli_tokenizer_json_string(o, "prepend_scheme", where, &scheme, &len, err));
    SL_TRY(sli_tokenizer_json_bool(o, "add_prefix_space", where, &prefix, err));
    step->keep_first = !prefix || strcmp(scheme, "never") == 0;
    return SL_OK;
}

static const sli_component known[] = {
    {"ByteLevel", read_byte_level}, {"ByteFallback", read_byte_fallback},
    {"Replace", read_replace},      {"Fuse", read_fuse},
    {"Strip", read_strip},          {"Metaspace", read_metaspace},
};

sl_status sli_decoder_read(sli_decoder *d, const json_t *value, sl_error *err) {
    sli_decode_step *step;
    if (value == NULL || json_is_null(value)) /* without a decoder the tokens are put side by side */
        return new_step(d, (sli_decode_step){.push = push_join}, &step);
    return sli_tokenizer_json_components(value, "decoders", known, sizeof known / sizeof *known, d, "decoder", err);
}

void sli_decoder_free(sli_decoder *d) {
    for (size_t i = 0; i < d->n; i++) {
        sli_pattern_free(&d->steps[i].pattern);
        sli_text_free(&d->steps[i].content);
    }
    sli_free(d->steps);
    *d = (sli_decoder){0};
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

/* Room for any usual token, so that pushing one allocates nothing; what is longer grows the buffer. */
enum { ROOM_BYTES = 2048, ROOM_SPANS = 64 };

static int reserve_text(sli_text *t) {
    t->data = sli_alloc(SLI_TAG_MISC, ROOM_BYTES);
    t->cap = t->data != NULL ? ROOM_BYTES : 0;
    return t->data != NULL;
}

static int reserve_state(step_state *state) {
    state->spans.data = sli_calloc(SLI_TAG_MISC, ROOM_SPANS, sizeof *state->spans.data);
    state->spans.cap = state->spans.data != NULL ? ROOM_SPANS : 0;
    return state->spans.data != NULL && reserve_text(&state->held) && reserve_text(&state->piece);
}

sl_status sli_token_stream_open(const sli_tokenizer *tok, unsigned flags, sli_token_stream **out, sl_error *err) {
    sli_token_stream *s = sli_alloc(SLI_TAG_MISC, sizeof *s);
    step_state *states = sli_calloc(SLI_TAG_MISC, tok->decoder.n, sizeof *states);
    if (s == NULL || states == NULL) {
        sli_free(s);
        sli_free(states);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a token stream");
    }
    *s = (sli_token_stream){.tok = tok, .flags = flags, .states = states};
    int ok = reserve_text(&s->out);
    for (size_t k = 0; ok && k < tok->decoder.n; k++)
        ok = reserve_state(&states[k]);
    if (!ok) {
        sli_token_stream_close(s);
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a token stream");
    }
    *out = s;
    return SL_OK;
}

void sli_token_stream_close(sli_token_stream *s) {
    if (s == NULL)
        return;
    for (size_t k = 0; k < s->tok->decoder.n; k++) {
        sli_text_free(&s->states[k].held);
        sli_text_free(&s->states[k].piece);
        sli_spans_free(&s->states[k].spans);
    }
    sli_free(s->states);
    sli_text_free(&s->out);
    sli_free(s);
}

static sl_status push_id(sli_token_stream *s, int32_t id, sl_error *err) {
    const sli_vocab *v = &s->tok->bpe.vocab;
    if (id < 0 || id >= v->size || !v->pieces[id].present)
        return SL_OK;
    const sli_piece *p = &v->pieces[id];
    if (p->special && s->flags & SLI_SKIP_SPECIAL)
        return SL_OK;
    if (p->added >= 0) {
        const sli_added_token *t = &s->tok->added.tokens[p->added];
        return emit(s, 0, t->text, t->len, err);
    }
    return emit(s, 0, v->text.data + p->at, p->len, err);
}

/* In the order of the steps, since a step's last words may become the held bytes of the next. */
static sl_status flush_steps(sli_token_stream *s, sl_error *err) {
    const sli_decoder *d = &s->tok->decoder;
    for (size_t k = 0; k < d->n; k++) {
        if (d->steps[k].flush != NULL)
            SL_TRY(d->steps[k].flush(s, k, err));
        step_state *state = &s->states[k];
        state->held.len = 0;
        state->seen = state->dropped = 0;
        state->begun = 0;
    }
    return SL_OK;
}

static sl_status say(sl_status status, sl_error *err) {
    return status == SL_E_NO_MEMORY ? sl_fail(err, status, "no memory to decode tokens") : status;
}

sl_status sli_token_stream_push(sli_token_stream *s, int32_t id, const char **text, size_t *len, sl_error *err) {
    s->out.len = 0;
    SL_TRY(say(push_id(s, id, err), err));
    *text = s->out.data == NULL ? "" : s->out.data;
    *len = s->out.len;
    return SL_OK;
}

sl_status sli_token_stream_flush(sli_token_stream *s, const char **text, size_t *len, sl_error *err) {
    s->out.len = 0;
    SL_TRY(say(flush_steps(s, err), err));
    *text = s->out.data == NULL ? "" : s->out.data;
    *len = s->out.len;
    return SL_OK;
}

sl_status sli_tokenizer_decode(const sli_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, char **text,
                               size_t *len, sl_error *err) {
    sli_token_stream *s;
    SL_TRY(sli_token_stream_open(tok, flags, &s, err));
    sl_status status = SL_OK;
    for (size_t i = 0; i < n && status == SL_OK; i++)
        status = push_id(s, ids[i], err);
    if (status == SL_OK)
        status = flush_steps(s, err);
    if (status == SL_OK)
        status = sli_text_add(&s->out, "", 1);
    if (status == SL_OK) {
        *text = s->out.data;
        *len = s->out.len - 1;
        s->out = (sli_text){0};
    }
    sli_token_stream_close(s);
    return say(status, err);
}
