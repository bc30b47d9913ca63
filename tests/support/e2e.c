/* See e2e.h. */
#include "e2e.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- paths ------------------------------------------------------------------------------------------------------- */

static const char *join(const char *base, const char *relative) {
    static char slots[16][PATH_MAX];
    static unsigned next;
    char *out = slots[next++ % 16], whole[PATH_MAX];
    if (relative[0] == '/' || base == NULL)
        snprintf(whole, sizeof whole, "%s", relative);
    else if (snprintf(whole, sizeof whole, "%s/%s", base, relative) >= PATH_MAX)
        fail_msg("path too long: %s/%s", base, relative);
    memcpy(out, whole, sizeof whole);
    return out;
}

static const char *from_environment(const char *name) {
    const char *dir = getenv(name);
    if (dir == NULL || *dir == '\0')
        fail_msg("%s is not set: run this through meson test", name);
    return dir;
}

const char *e2e_path(const char *relative) { return join(from_environment("SLUICE_SOURCE"), relative); }
const char *e2e_built(const char *relative) { return join(from_environment("SLUICE_BUILD"), relative); }

static char temp_root[PATH_MAX];
static pid_t temp_owner;

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void remove_temp(void) {
    if (temp_owner == getpid())
        nftw(temp_root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *e2e_temp(const char *name) {
    if (temp_owner == 0) {
        const char *base = getenv("TMPDIR");
        snprintf(temp_root, sizeof temp_root, "%s/sluice-e2e-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp");
        if (mkdtemp(temp_root) == NULL)
            fail_msg("%s: %s", temp_root, strerror(errno));
        temp_owner = getpid();
        atexit(remove_temp);
    }
    return join(temp_root, name);
}

const char *e2e_linked_model(const char *model) {
    static int count;
    char name[32];
    snprintf(name, sizeof name, "model%d", count++);
    char dir[PATH_MAX], from[PATH_MAX];
    memcpy(dir, e2e_temp(name), sizeof dir);
    memcpy(from, e2e_path(model), sizeof from);
    DIR *entries = opendir(from);
    if (mkdir(dir, 0777) != 0 || entries == NULL)
        fail_msg("%s: %s", from, strerror(errno));
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        if (e->d_name[0] != '.' && symlink(join(from, e->d_name), join(dir, e->d_name)) != 0)
            fail_msg("%s: %s", e->d_name, strerror(errno));
    closedir(entries);
    return e2e_temp(name);
}

void e2e_put(const char *dir, const char *name, const void *bytes, size_t n) {
    const char *path = join(dir, name);
    remove(path);
    FILE *f = fopen(path, "wb");
    int bad = f == NULL || fwrite(bytes, 1, n, f) != n;
    if (f != NULL)
        bad |= fclose(f) != 0;
    if (bad)
        fail_msg("%s: %s", path, strerror(errno));
}

void e2e_put_text(const char *dir, const char *name, const char *text) { e2e_put(dir, name, text, strlen(text)); }

void e2e_drop(const char *dir, const char *name) {
    if (remove(join(dir, name)) != 0)
        fail_msg("%s/%s: %s", dir, name, strerror(errno));
}

char *e2e_read(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("%s: %s", path, strerror(errno));
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)size, f), size);
    fclose(f);
    bytes[size] = '\0';
    if (n != NULL)
        *n = (size_t)size;
    return bytes;
}

/* ---- engines ----------------------------------------------------------------------------------------------------- */

static int open_engine(const char *model, const char *const *sets, sluice_engine **out, sluice_error *err) {
    char path[PATH_MAX + 16];
    const char *all[64] = {path, "engine.threads=1"};
    int n = 2;
    snprintf(path, sizeof path, "model.path=%s", e2e_path(model));
    for (; sets[n - 2] != NULL && n < 64; n++)
        all[n] = sets[n - 2];
    sluice_options options = {.sets = all, .n_sets = n};
    *out = NULL;
    return sluice_open(&options, out, err);
}

sluice_engine *e2e_open(const char *model, const char *const *sets) {
    sluice_engine *engine;
    sluice_error err = {0};
    if (open_engine(model, sets, &engine, &err) < 0)
        fail_msg("%s: %s", model, err.text);
    assert_non_null(engine);
    return engine;
}

void e2e_open_refused(const char *model, const char *const *sets, sluice_error *err) {
    sluice_engine *engine;
    memset(err, 0, sizeof *err);
    int status = open_engine(model, sets, &engine, err);
    if (status >= 0) {
        sluice_close(engine);
        fail_msg("%s was opened, but should have been refused", model);
    }
    assert_null(engine);
    assert_int_equal(status, err->code);
    assert_true(err->text[0] != '\0');
}

int e2e_has_isa(const char *isa) {
    if (strcmp(isa, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
    return 1;
}

sluice_session *e2e_session(sluice_engine *engine, const int32_t *tokens, int64_t n) {
    sluice_session *s = NULL;
    sluice_error err = {0};
    if (sluice_session_open(engine, &s, &err) < 0 || sluice_session_append(s, tokens, n, &err) < 0)
        fail_msg("session of %lld tokens: %s", (long long)n, err.text);
    return s;
}

static int64_t vocab_of(const sluice_engine *engine) {
    sluice_info info;
    sluice_get_info(engine, &info);
    return info.vocab;
}

static float *logits_of_session(sluice_session *s, int64_t n, int64_t vocab) {
    float *logits = calloc((size_t)(n * vocab), sizeof *logits);
    sluice_error err = {0};
    assert_non_null(logits);
    if (sluice_logits(s, n, logits, &err) < 0)
        fail_msg("logits of %lld tokens: %s", (long long)n, err.text);
    return logits;
}

float *e2e_logits_of(sluice_engine *engine, const int32_t *tokens, int64_t n) {
    sluice_session *s = e2e_session(engine, tokens, n);
    float *logits = logits_of_session(s, n, vocab_of(engine));
    sluice_session_close(s);
    return logits;
}

float *e2e_logits(sluice_engine *engine, sluice_session *session, int64_t n) {
    return logits_of_session(session, n, vocab_of(engine));
}

/* ---- golden data ------------------------------------------------------------------------------------------------- */

json_t *e2e_json(const char *path) {
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (json == NULL)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}

double e2e_number(json_t *json, const char *dotted) {
    char path[256];
    snprintf(path, sizeof path, "%s", dotted);
    for (char *save, *word = strtok_r(path, ".", &save); word != NULL; word = strtok_r(NULL, ".", &save))
        json = json_object_get(json, word);
    if (!json_is_number(json))
        fail_msg("no number %s", dotted);
    return json_number_value(json);
}

static void append_text(void *user, const char *text, size_t length) {
    char **all = user;
    size_t n = *all != NULL ? strlen(*all) : 0;
    *all = realloc(*all, n + length + 1);
    assert_non_null(*all);
    memcpy(*all + n, text, length);
    (*all)[n + length] = '\0';
}

double e2e_metric(sluice_engine *engine, const char *dotted) {
    char *text = NULL, path[256];
    assert_int_equal(sluice_stats_json(engine, append_text, &text, NULL), SLUICE_OK);
    json_t *json = json_loads(text, 0, NULL);
    snprintf(path, sizeof path, "metrics.%s", dotted);
    double value = e2e_number(json, path);
    json_decref(json);
    free(text);
    return value;
}

static int32_t *read_ids(json_t *list, int64_t *n) {
    *n = (int64_t)json_array_size(list);
    int32_t *ids = calloc((size_t)*n + 1, sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

void e2e_prompts_read(const char *relative, e2e_prompts *out) {
    out->json = e2e_json(e2e_path(relative));
    json_t *list = json_object_get(out->json, "prompts");
    out->n = (int)json_array_size(list);
    assert_true(out->n > 0);
    out->prompt = calloc((size_t)out->n, sizeof *out->prompt);
    assert_non_null(out->prompt);
    for (int i = 0; i < out->n; i++) {
        json_t *json = json_array_get(list, (size_t)i);
        e2e_prompt *p = &out->prompt[i];
        p->name = json_string_value(json_object_get(json, "name"));
        p->text = json_string_value(json_object_get(json, "text"));
        p->greedy_text = json_string_value(json_object_get(json, "greedy_text"));
        p->ids = read_ids(json_object_get(json, "prompt_ids"), &p->n_ids);
        p->greedy = read_ids(json_object_get(json, "greedy_ids"), &p->n_greedy);
        assert_true(p->n_ids > 0 && p->n_greedy > 0);
    }
}

void e2e_prompts_free(e2e_prompts *p) {
    for (int i = 0; i < p->n; i++) {
        free(p->prompt[i].ids);
        free(p->prompt[i].greedy);
    }
    free(p->prompt);
    json_decref(p->json);
}

/* ---- generating -------------------------------------------------------------------------------------------------- */

sluice_sampling e2e_greedy(int32_t n) {
    return (sluice_sampling){.top_p = 1, .repeat_penalty = 1, .max_tokens = n, .ignore_eos = 1};
}

typedef struct collector {
    e2e_output *outputs;
    int n;
} collector;

/* cmocka's asserts must not leave a callback: what is wrong is counted and looked at afterwards. */
static int collect(void *user, const sluice_chunk *chunk) {
    collector *c = user;
    if (chunk->index < 0 || chunk->index >= c->n)
        return 1;
    e2e_output *o = &c->outputs[chunk->index];
    if (o->finish != SLUICE_RUNNING || chunk->n_tokens < 0)
        o->n_wrong++; /* nothing comes behind the end */
    if (chunk->n_tokens > 0) {
        int32_t *tokens = realloc(o->tokens, sizeof *tokens * (size_t)(o->n + chunk->n_tokens));
        if (tokens == NULL)
            return 1;
        memcpy(tokens + o->n, chunk->tokens, sizeof *tokens * (size_t)chunk->n_tokens);
        o->tokens = tokens;
        o->n += chunk->n_tokens;
        o->n_calls++;
    }
    char *text = realloc(o->text, o->length + chunk->length + 1);
    if (text == NULL)
        return 1;
    if (chunk->length > 0)
        memcpy(text + o->length, chunk->text, chunk->length);
    o->text = text;
    o->length += chunk->length;
    o->text[o->length] = '\0';
    o->finish = chunk->finish;
    return 0;
}

void e2e_generate(sluice_engine *engine, sluice_session *const *sessions, int n, const sluice_sampling *sampling, int shared,
                  e2e_output *outputs) {
    sluice_error err = {0};
    memset(outputs, 0, sizeof *outputs * (size_t)n);
    int64_t before[64];
    assert_true(n <= 64);
    for (int i = 0; i < n; i++)
        before[i] = sluice_session_length(sessions[i]);
    collector c = {outputs, n};
    if (sluice_generate(engine, sessions, n, sampling, shared, collect, &c, &err) < 0)
        fail_msg("generate: %s", err.text);
    for (int i = 0; i < n; i++) {
        assert_int_equal(outputs[i].n_wrong, 0);
        assert_int_not_equal(outputs[i].finish, SLUICE_RUNNING);
        e2e_check_tokens("tokens of the session and of the callback", sluice_session_tokens(sessions[i]) + before[i],
                         sluice_session_length(sessions[i]) - before[i], outputs[i].tokens, outputs[i].n);
    }
}

void e2e_outputs_free(e2e_output *outputs, int n) {
    for (int i = 0; i < n; i++) {
        free(outputs[i].tokens);
        free(outputs[i].text);
    }
}

void e2e_continue(sluice_engine *engine, const e2e_prompt *prompts, int n, int together, const sluice_sampling *sampling,
                  e2e_output *outputs) {
    for (int i = 0; i < n; i += together) {
        sluice_session *sessions[64];
        int m = n - i < together ? n - i : together;
        assert_true(m <= 64);
        for (int j = 0; j < m; j++)
            sessions[j] = e2e_session(engine, prompts[i + j].ids, prompts[i + j].n_ids);
        e2e_generate(engine, sessions, m, sampling, 1, outputs + i);
        for (int j = 0; j < m; j++)
            sluice_session_close(sessions[j]);
    }
}

void e2e_check_tokens(const char *what, const int32_t *expected, int64_t n_expected, const int32_t *got, int64_t n_got) {
    for (int64_t i = 0; i < n_expected && i < n_got; i++)
        if (expected[i] != got[i])
            fail_msg("%s: token %lld is %d, expected %d", what, (long long)i, got[i], expected[i]);
    if (n_expected != n_got)
        fail_msg("%s: %lld tokens, expected %lld", what, (long long)n_got, (long long)n_expected);
}

void e2e_check_greedy(const char *what, sluice_engine *engine, const e2e_prompt *prompts, int n, int together) {
    e2e_output outputs[64];
    assert_true(n <= 64);
    sluice_sampling greedy = e2e_greedy((int32_t)prompts[0].n_greedy);
    e2e_continue(engine, prompts, n, together, &greedy, outputs);
    for (int i = 0; i < n; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s, prompt %s, %d together", what, prompts[i].name != NULL ? prompts[i].name : prompts[i].text,
                 together);
        e2e_check_tokens(name, prompts[i].greedy, prompts[i].n_greedy, outputs[i].tokens, outputs[i].n);
        assert_int_equal(outputs[i].finish, SLUICE_FINISH_LENGTH);
    }
    e2e_outputs_free(outputs, n);
}
