/* A package of one attention plugin that is right in everything but what a BAD_* switch says. The loader's tests are
 * made of it: each switch is a .so of its own. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sl_host_util.h"
#include "sl_params.h"
#include "sluice/attention.h"

#ifndef ID
#define ID "good"
#endif

/* What the tests look at: `order` collects one letter a call. */
struct sl_instance {
    const sl_host *host;
    const sl_mem *mem;
    void *kept, *active;
    int64_t mode;
};

enum { MODE_PLAIN, MODE_LEAK, MODE_OVERRUN, MODE_FAIL_CREATE, MODE_FAIL_ACTIVATE, MODE_KEEP };

static sl_status caps(sl_instance *self, int32_t layer, sl_attn_caps *out) {
    (void)self, (void)layer;
    out->flags = SL_ATTN_EXACT;
    return SL_OK;
}

static const sl_attention attention = {
    .struct_size = SL_SIZE(sl_attention),
#ifndef BAD_INTERFACE
    .caps = caps,
#endif
};

#ifndef BAD_SLOT
static sl_status create(const sl_create_args *args, sl_instance **out, sl_error *err) {
    const sl_mem *mem = sl_host_service(args->host, SL_MEM_ID, SL_FIELD_END(sl_mem, release));
    int64_t mode = args->params != NULL && args->params->n > 0 ? sl_param_int(args->params, "mode") : MODE_PLAIN;
    if (mode == MODE_FAIL_CREATE)
        return sl_fail(err, SL_E_DATA, "the artifact is for another model");
    sl_instance *self = mem->alloc(args->host, SL_DEVICE_CPU, sizeof *self, 64, SL_MEM_PLUGIN);
    if (self == NULL)
        return SL_E_NO_MEMORY;
    self->host = args->host;
    self->mem = mem;
    self->mode = mode;
    sl_logf(args->host, SL_LOG_INFO, "created for %s, mode %d", args->scope->role, (int)mode);
    *out = self;
    return SL_OK;
}
#endif

static void destroy(sl_instance *self) {
    if (self == NULL)
        return;
    if (self->mode != MODE_LEAK)
        self->mem->release(self->host, SL_DEVICE_CPU, self->kept);
    self->mem->release(self->host, SL_DEVICE_CPU, self);
}

static sl_status activate(sl_instance *self, const sl_limits *limits, sl_error *err) {
    const sl_scratch *scratch = sl_host_service(self->host, SL_SCRATCH_ID, SL_FIELD_END(sl_scratch, worker));
    if (self->mode == MODE_FAIL_ACTIVATE)
        return SL_E_NO_MEMORY; /* without a text: the host has to find one */
    if (scratch->reserve(self->host, SL_DEVICE_CPU, limits->max_rows * 4, 128) < 0)
        return sl_fail(err, SL_E_NO_MEMORY, "no scratch");
    unsigned char *p = self->mem->alloc(self->host, SL_DEVICE_CPU, 100, 256, SL_MEM_KV);
    if (p == NULL)
        return SL_E_NO_MEMORY;
    memset(p, 1, self->mode == MODE_OVERRUN ? 101 : 100);
    self->active = p;
    if (self->kept == NULL)
        self->kept = self->mem->alloc(self->host, SL_DEVICE_CPU, self->mode == MODE_LEAK ? 77 : 0, 64, SL_MEM_PLUGIN);
    return SL_OK;
}

static void deactivate(sl_instance *self) {
    if (self->mode != MODE_KEEP)
        self->mem->release(self->host, SL_DEVICE_CPU, self->active);
}

static const void *query(sl_instance *self, const char *id) {
    (void)self;
    return strcmp(id, SL_ATTENTION_ID) == 0 ? &attention : NULL;
}

static const char *const modes[] = {"plain", "leak", "overrun", "fail_create", "fail_activate", "keep", NULL};
static const sl_param_def mode = {SL_SIZE(sl_param_def), "mode", "what goes wrong", "plain", modes, 0, -1,
                                  SL_PARAM_ENUM,         0};
static const sl_param_def budget = {SL_SIZE(sl_param_def), "budget",       "tokens kept", "64", NULL, 1, 4096,
                                    SL_PARAM_INT,          SL_PARAM_EXPERT};
static const sl_param_def *const params[] = {&mode, &budget, NULL};
#ifdef BAD_ROLE
static const char *const roles[] = {"atention", NULL};
#else
static const char *const roles[] = {"attention", NULL};
#endif
static const char *const needs[] = {"sl.mem/1", NULL};
static const char *const provides[] = {"org.example.sample/1", NULL};

static const sl_plugin plugin = {
#ifdef BAD_PLUGIN_SIZE
    .struct_size = SL_FIELD_END(sl_plugin, create),
#else
    .struct_size = SL_SIZE(sl_plugin),
#endif
#ifndef BAD_NULL_ID
    .id = ID,
#endif
    .roles = roles,
    .version = "1.2.3",
#ifndef BAD_SUMMARY
    .summary = "does what \"attention\" does, for tests",
#endif
    .license = "Apache-2.0",
    .params = params,
    .needs = needs,
    .provides = provides,
#ifdef BAD_MUST_UNDERSTAND
    .must_understand = 4,
#endif
    .devices = SL_ON_CPU,
#ifndef BAD_SLOT
    .create = create,
#endif
    .destroy = destroy,
    .activate = activate,
    .deactivate = deactivate,
    .query = query,
};

#if defined(BAD_SYMBOL)
int sl_package_without_number(void);
int sl_package_without_number(void) { return plugin.devices != 0; }
#elif defined(BAD_MAJOR_SYMBOL)
SL_EXPORT const void *sl_package_7(void);
const void *sl_package_7(void) { return &plugin; }
#elif defined(BAD_CRASH) || defined(BAD_HANG) || defined(BAD_EXIT) || defined(BAD_NULL)
SL_EXPORT const sl_package *sl_package_0(void);
const sl_package *sl_package_0(void) {
#if defined(BAD_CRASH)
    raise(SIGSEGV);
#elif defined(BAD_HANG)
    for (;;)
        pause();
#elif defined(BAD_EXIT)
    _exit(3);
#endif
    return plugin.devices != 0 ? NULL : (const sl_package *)&plugin;
}
#else
#ifdef BAD_MAGIC
#define MAGIC 0x12345678u
#else
#define MAGIC SL_PACKAGE_MAGIC
#endif
#ifdef BAD_MAJOR
#define MAJOR 9u
#else
#define MAJOR SL_ABI_MAJOR
#endif
#ifdef BAD_MINOR
#define MINOR (SL_ABI_MINOR + 1)
#else
#define MINOR SL_ABI_MINOR
#endif
#ifdef BAD_TAG
#define TAG (SL_ABI_TAG ^ 0x10u)
#else
#define TAG SL_ABI_TAG
#endif
#ifdef BAD_SIZE
#define SIZE SL_FIELD_END(sl_package, abi_tag)
#else
#define SIZE SL_SIZE(sl_package)
#endif
static const sl_plugin *const plugins[] = {&plugin, &plugin};
#if defined(BAD_NO_PLUGINS)
#define COUNT 0
#elif defined(BAD_TWICE)
#define COUNT 2
#else
#define COUNT 1
#endif
SL_EXPORT const sl_package *sl_package_0(void);
const sl_package *sl_package_0(void) {
    static const sl_package package = {SIZE, MAGIC, MAJOR, MINOR, TAG, plugins, COUNT, 0};
    return &package;
}
#endif
