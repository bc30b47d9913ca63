/* See test_host.h. */
#include "test_host.h"

enum { HEADER_BYTES = 64 };

static test_host *of(const sl_host *host) { return host->impl; }

static void *mem_alloc(const sl_host *host, uint32_t device, int64_t bytes, int64_t align, uint32_t tag) {
    test_host *t = of(host);
    (void)tag;
    if ((device == SL_DEVICE_CUDA && !t->has_device) || bytes < 0 || align > (device == SL_DEVICE_CUDA ? 256 : HEADER_BYTES) || (t->budget >= 0 && t->bytes_live + bytes > t->budget))
        return NULL;
    char *block = aligned_alloc(HEADER_BYTES, HEADER_BYTES + ((size_t)bytes + HEADER_BYTES - 1) / HEADER_BYTES * HEADER_BYTES);
    if (block == NULL)
        return NULL;
    memcpy(block, &bytes, sizeof bytes);
    memset(block + HEADER_BYTES, 0, (size_t)bytes);
    t->n_allocations++;
    t->n_live++;
    t->bytes_live += bytes;
    return block + HEADER_BYTES;
}

static void mem_release(const sl_host *host, uint32_t device, void *p) {
    test_host *t = of(host);
    (void)device;
    if (p == NULL)
        return;
    int64_t bytes;
    memcpy(&bytes, (char *)p - HEADER_BYTES, sizeof bytes);
    t->n_live--;
    t->bytes_live -= bytes;
    free((char *)p - HEADER_BYTES);
}

static int32_t n_workers(const sl_host *host) {
    (void)host;
    return 1;
}

static void parallel_for(const sl_host *host, int64_t n, int64_t grain, sl_range_fn fn, void *user) {
    (void)host, (void)grain;
    if (n > 0)
        fn(user, 0, n, 0);
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static sl_status convert(void *dst, sl_dtype to, const void *src, sl_dtype from, int64_t n) {
    if ((to != SL_F32 && to != SL_BF16) || (from != SL_F32 && from != SL_BF16))
        return SL_E_UNIMPLEMENTED;
    for (int64_t i = 0; i < n; i++) {
        float x = from == SL_F32 ? ((const float *)src)[i] : from_bf16(((const uint16_t *)src)[i]);
        if (to == SL_F32)
            ((float *)dst)[i] = x;
        else
            ((uint16_t *)dst)[i] = to_bf16(x);
    }
    return SL_OK;
}

static const void *query(const sl_host *host, const char *id) {
    test_host *t = of(host);
    const void *own = t->more != NULL ? t->more(t, id) : NULL;
    const struct {
        const char *id;
        const void *table;
    } tables[] = {{SL_MEM_ID, &t->mem}, {SL_THREADS_ID, &t->threads}, {SL_OPS_ID, &t->ops}};
    for (size_t i = 0; own == NULL && i < sizeof tables / sizeof *tables; i++)
        if (strcmp(id, tables[i].id) == 0)
            own = tables[i].table;
    return own;
}

static void print_log(const sl_host *host, uint32_t level, const char *text) {
    (void)host, (void)level;
    print_message("# %s\n", text);
}

void test_host_init(test_host *t) {
    memset(t, 0, sizeof *t);
    t->budget = -1;
    t->mem = (sl_mem){.struct_size = SL_SIZE(sl_mem), .alloc = mem_alloc, .release = mem_release};
    t->threads = (sl_threads){.struct_size = SL_SIZE(sl_threads), .n_workers = n_workers, .parallel_for = parallel_for};
    t->ops = (sl_ops){.struct_size = SL_SIZE(sl_ops), .convert = convert};
    t->host = (sl_host){.struct_size = SL_SIZE(sl_host), .name = "test", .version = "0", .abi_major = SL_ABI_MAJOR,
                        .abi_minor = SL_ABI_MINOR, .impl = t, .query = query, .log = print_log};
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

static const char *text_for(const sl_param_def *def, const char *const *sets) {
    size_t n = strlen(def->name);
    const char *text = def->fallback;
    for (; sets != NULL && *sets != NULL; sets++)
        if (strncmp(*sets, def->name, n) == 0 && (*sets)[n] == '=')
            text = *sets + n + 1;
    return text;
}

static sl_param_value value_of(const sl_param_def *def, const char *const *sets) {
    const char *text = text_for(def, sets);
    sl_param_value v = {.struct_size = SL_SIZE(sl_param_value), .name = def->name, .text = text, .is_set = text != NULL};
    if (def->type == SL_PARAM_ENUM)
        v.integer = -1;
    if (text == NULL)
        return v;
    if (def->type == SL_PARAM_BOOL)
        v.integer = strcmp(text, "yes") == 0;
    else if (def->type == SL_PARAM_ENUM)
        for (int i = 0; def->choices[i] != NULL; i++)
            v.integer = strcmp(text, def->choices[i]) == 0 ? i : v.integer;
    else if (def->type == SL_PARAM_INT || def->type == SL_PARAM_FLOAT) {
        v.real = strtod(text, NULL);
        v.integer = (int64_t)v.real;
        if (def->min <= def->max && (v.real < def->min || v.real > def->max))
            fail_msg("%s = %s is out of range", def->name, text);
    }
    if (def->type == SL_PARAM_ENUM && v.integer < 0)
        fail_msg("%s = %s is not among the choices", def->name, text);
    return v;
}

sl_params *test_params(const sl_plugin *plugin, const char *const *sets) {
    int64_t n = 0;
    while (plugin->params[n] != NULL)
        n++;
    sl_params *params = calloc(1, sizeof *params);
    sl_param_value *values = calloc((size_t)n + 1, sizeof *values);
    const sl_param_value **pointers = calloc((size_t)n + 1, sizeof *pointers);
    assert_true(params != NULL && values != NULL && pointers != NULL);
    for (int64_t i = 0; i < n; i++) {
        values[i] = value_of(plugin->params[i], sets);
        pointers[i] = &values[i];
    }
    pointers[n] = values; /* so that it can be freed */
    *params = (sl_params){.struct_size = SL_SIZE(sl_params), .values = pointers, .n = n};
    return params;
}

void test_params_free(sl_params *params) {
    free((void *)(uintptr_t)params->values[params->n]);
    free((void *)(uintptr_t)params->values);
    free(params);
}
