/* See device.h. */
#include "device/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ledger.h"
#include "plugin/discover.h"

static const char module_name[] = "sluice-cuda.so";

/* Opened once and kept: lanes point into it, and operations on formats find it without a device. */
static _Atomic(const sli_cuda_api *) module_;

const sli_cuda_api *sli_device_module(void) { return atomic_load(&module_); }

/* ---- finding the module ------------------------------------------------------------------------------------------ */

/* Beside the plugins, in the folder above them (<libdir>/sluice), and where a build tree has it. */
static int find_in(const char *dir, char out[PATH_MAX]) {
    static const char *const below[] = {"", "../", "../core/device/cuda/"};
    for (size_t i = 0; i < sizeof below / sizeof *below; i++)
        if (snprintf(out, PATH_MAX, "%s/%s%s", dir, below[i], module_name) < PATH_MAX && access(out, F_OK) == 0)
            return 1;
    return 0;
}

static sl_status find_module(char out[PATH_MAX], sl_error *err) {
    sli_dirs dirs;
    const char *named = sli_is_privileged(NULL) ? NULL : secure_getenv("SLUICE_CUDA_MODULE");
    if (named != NULL && named[0] != '\0') {
        snprintf(out, PATH_MAX, "%s", named);
        return access(out, F_OK) == 0
                   ? SL_OK
                   : sl_fail(err, SL_E_NOT_FOUND, "SLUICE_CUDA_MODULE names %s, which is not there", named);
    }
    SL_TRY(sli_dirs_make(NULL, &dirs, err));
    int found = 0;
    for (int i = 0; i < dirs.n && !found; i++)
        found = find_in(dirs.dir[i], out);
    sli_dirs_free(&dirs);
    return found ? SL_OK
                 : sl_fail(err, SL_E_NOT_FOUND, "this installation has no %s (built without CUDA, or not installed)",
                           module_name);
}

static sl_status open_module(const sli_cuda_api **out, sl_error *err) {
    char path[PATH_MAX];
    if ((*out = sli_device_module()) != NULL)
        return SL_OK;
    SL_TRY(find_module(path, err));
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    void *symbol = library != NULL ? dlsym(library, SLI_CUDA_SYMBOL) : NULL;
    if (symbol == NULL) {
        const char *why = library == NULL ? dlerror() : "it does not export " SLI_CUDA_SYMBOL;
        return sl_fail(err, SL_E_IO, "%s: cannot be opened: %s", path, why != NULL ? why : "unknown reason");
    }
    sli_cuda_module_fn entry;
    memcpy(&entry, &symbol, sizeof entry); /* object and function pointers: POSIX says they are of one size */
    const sli_cuda_api *api = entry();
    if (api == NULL || api->struct_size != sizeof *api || api->exec == NULL || api->ops == NULL)
        return sl_fail(err, SL_E_VERSION, "%s: of another version: its table has %llu bytes, expected %zu", path,
                       api != NULL ? (unsigned long long)api->struct_size : 0ull, sizeof *api);
    sli_plugins_debug("opened %s", path);
    atomic_store(&module_, api);
    *out = api;
    return SL_OK;
}

/* ---- one device -------------------------------------------------------------------------------------------------- */

static void tell_ledger(void *user, uint32_t device, uint32_t tag, int64_t bytes) {
    static const sli_tag tags[] = {[SL_MEM_PLUGIN] = SLI_TAG_PLUGIN,
                                   [SL_MEM_KV] = SLI_TAG_KV,
                                   [SL_MEM_WEIGHTS] = SLI_TAG_WEIGHTS,
                                   [SL_MEM_SCRATCH] = SLI_TAG_SCRATCH,
                                   [SL_MEM_KV_HOST] = SLI_TAG_KV_HOST};
    (void)user;
    sli_ledger_note_device(device == SL_DEVICE_HOST_PINNED ? SLI_LEDGER_PINNED : SLI_LEDGER_DEVICE,
                           tag < sizeof tags / sizeof *tags ? tags[tag] : SLI_TAG_MISC, bytes);
}

static void no_log(void *user, uint32_t level, const char *text) { (void)user, (void)level, (void)text; }

sl_status sli_device_open(const sli_cuda_options *options, sli_device **out, sl_error *err) {
    const sli_cuda_api *api;
    SL_TRY(open_module(&api, err));
    sli_device *d = sli_alloc(SLI_TAG_MISC, sizeof *d);
    if (d == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory for a device");
    sli_cuda_options own = *options;
    own.ledger = own.ledger != NULL ? own.ledger : tell_ledger;
    own.log = own.log != NULL ? own.log : no_log;
    d->api = api;
    sl_status s = api->open(&own, &d->cuda, err);
    if (s >= 0) {
        d->lane = api->lane(d->cuda, 0);
        d->copy_lane = api->lane(d->cuda, 1);
        d->info.struct_size = SL_SIZE(sl_device_info);
        s = d->lane != NULL && d->copy_lane != NULL ? api->exec->device_info(d->lane, &d->info)
                                                    : sl_fail(err, SL_E_DEVICE, "the device has no lanes");
    }
    if (s < 0) {
        sli_device_close(d);
        return s;
    }
    *out = d;
    return SL_OK;
}

void sli_device_close(sli_device *d) {
    if (d != NULL && d->cuda != NULL)
        d->api->close(d->cuda);
    sli_free(d);
}
