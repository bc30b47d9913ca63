/* libFuzzer entry for the tokenizer. The first byte picks what the rest is:
 *   '{'        a tokenizer.json (with this byte), with which a short text is then encoded and decoded
 *   even       text for one of the built-in tokenizers, encoded and decoded both ways
 *   odd        ids for it, two bytes each
 * Streaming must say what decoding says; everything else is left to the sanitizers. */
#include "base/ledger.h"
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One byte-level tokenizer, and one with byte fallback, marks for spaces and every kind of added token. */
static const char *const builtin[] = {
    "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120a\":4,\"\\u00c3\":5,\"\\u00a9\":6,"
    "\"\\u00c3\\u00a9\":7},"
    "\"merges\":[\"a b\",[\"\\u0120\",\"a\"],\"\\u00c3 \\u00a9\"],\"ignore_merges\":true},"
    "\"normalizer\":{\"type\":\"NFC\"},\"added_tokens\":[{\"id\":8,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"(?i:'s|'t|'re)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}]},\"decoder\":{\"type\":\"ByteLevel\"}}",
    "{\"model\":{\"unk_token\":\"?\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"?\":0,\"<0x41>\":1,\"<0xC3>"
    "\":2,"
    "\"<0xA9>\":3,\"\\u2581\":4,\"a\":5,\"\\u2581a\":6,\"aa\":7,\"<0xE4>\":8,\"<0xBD>\":9,\"<0xA0>\":10},"
    "\"merges\":[\"\\u2581 a\",\"a a\"]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},"
    "{\"type\":\"Lowercase\"},{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{"
    "\"Regex\":"
    "\"\\\\s\"},\"content\":\"\\u2581\"}]},\"added_tokens\":[{\"id\":11,\"content\":\"<l>\",\"lstrip\":true},"
    "{\"id\":12,\"content\":\"<r>\",\"rstrip\":true,\"special\":true},{\"id\":13,\"content\":\"w\",\"single_word\":"
    "true,"
    "\"normalized\":false}],\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
    "\"String\":"
    "\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":1}]}}",
};

static const sli_tokenizer *fixed(int k) {
    static sli_tokenizer *open[2];
    SL_ERROR(err);
    if (open[k] == NULL &&
        sli_tokenizer_open_memory("fixed", builtin[k], strlen(builtin[k]), NULL, 0, &open[k], &err) != SL_OK)
        abort();
    return open[k];
}

static void check_stream(const sli_tokenizer *tok, const int32_t *ids, size_t n, const char *expected, size_t len) {
    sli_token_stream *s;
    if (sli_token_stream_open(tok, 0, &s, NULL) != SL_OK)
        abort();
    size_t at = 0;
    for (size_t i = 0; i <= n; i++) {
        const char *text;
        size_t part;
        sl_status status = i < n ? sli_token_stream_push(s, ids[i], &text, &part, NULL)
                                 : sli_token_stream_flush(s, &text, &part, NULL);
        if (status != SL_OK || part > len - at || memcmp(expected + at, text, part) != 0)
            abort();
        at += part;
    }
    if (at != len)
        abort();
    sli_token_stream_close(s);
}

static void decode(const sli_tokenizer *tok, const int32_t *ids, size_t n) {
    char *text;
    size_t len;
    if (sli_tokenizer_decode(tok, ids, n, 0, &text, &len, NULL) != SL_OK)
        return; /* a regular expression of the file's decoder may give up */
    check_stream(tok, ids, n, text, len);
    sli_free(text);
}

static void encode(const sli_tokenizer *tok, const char *text, size_t n, unsigned flags) {
    sli_ids ids = {0};
    SL_ERROR(err);
    if (sli_tokenizer_encode(tok, text, n, flags, &ids, &err) == SL_OK)
        decode(tok, ids.data, ids.n);
    sli_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    if (data[0] == '{') {
        static const char text[] = " Aa <s>\xc3\xa9"
                                   "e\xcc\x81 123\n\xff\xf0\x9f\x98\x80 it's";
        SL_ERROR(err);
        sli_tokenizer *tok;
        if (sli_tokenizer_open_memory("fuzz", (const char *)data, size, (const char *)data, size, &tok, &err) != SL_OK)
            return 0;
        encode(tok, text, sizeof text - 1, SLI_ADD_SPECIAL | SLI_PARSE_SPECIAL);
        encode(tok, text, sizeof text - 1, 0);
        sli_tokenizer_close(tok);
        return 0;
    }
    const sli_tokenizer *tok = fixed(data[0] >> 1 & 1);
    if (data[0] % 2 == 0) {
        encode(tok, (const char *)data + 1, size - 1, SLI_PARSE_SPECIAL);
        encode(tok, (const char *)data + 1, size - 1, SLI_ADD_SPECIAL);
        return 0;
    }
    size_t n = (size - 1) / 2;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL)
        return 0;
    for (size_t i = 0; i < n; i++)
        ids[i] = (data[1 + 2 * i + 1] > 250 ? -1 : 1) * (data[1 + 2 * i] % 20);
    decode(tok, ids, n);
    free(ids);
    return 0;
}
