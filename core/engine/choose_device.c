/* See choose_device.h. What cannot run is found out before a device is touched: a context costs time and memory. */
#include "choose_device.h"

#include <stdio.h>
#include <string.h>

#include "config/schema.h"
#include "plugin/loader.h"
#include "sl_params.h"

static const sl_params *section(const sli_config *config, sli_core_id id) { return config->core[id]; }

/* Roles of which the engine puts none to work on a device. */
static const struct {
    const char *role, *what;
} host_roles[] = {
    {"kvcache.prompt", "prompt transformers run on the CPU only"},
    {"quant.rewrite", "models in another basis run on the CPU only"},
};

static sl_status check_choice(const sli_config *config, const sli_choice *choice, sl_error *err) {
    const char *name = choice->section->name;
    for (size_t i = 0; i < sizeof host_roles / sizeof *host_roles; i++)
        if (strcmp(choice->scope.role, host_roles[i].role) == 0)
            return sl_fail(err, SL_E_UNIMPLEMENTED, "[%s] %s: %s", name, choice->id, host_roles[i].what);
    sli_search search = {.dirs = config->plugin_dirs, .n_dirs = config->n_plugin_dirs};
    sli_plugin found;
    SL_TRY(sli_plugin_open(&search, choice->scope.role, choice->plugin, &found, err));
    if (!(found.plugin->devices & SL_ON_CUDA))
        return sl_fail(err, SL_E_UNIMPLEMENTED, "[%s] %s runs on the CPU only", name, choice->id);
    return SL_OK;
}

/* Could this configuration run on a GPU, if there were one? */
static sl_status check_config(const sli_config *config, const char *only_cpu, sl_error *err) {
    if (only_cpu != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "%s runs on the CPU only", only_cpu);
    if (section(config, SLI_CORE_DRAFT_MODEL) != NULL)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "[draft.model]: a second model runs on the CPU only");
    if (sli_param_int(section(config, SLI_CORE_ENGINE), "compute") == SLI_COMPUTE_F32)
        return sl_fail(err, SL_E_UNIMPLEMENTED,
                       "engine.compute = f32: products of a GPU have bf16 inputs; say bf16 or auto");
    for (int i = 0; i < config->n_choices; i++)
        SL_TRY(check_choice(config, config->choices[i], err));
    return SL_OK;
}

static sl_status open_device(const sli_config *config, sli_device **out, sl_error *err) {
    const sl_params *p = section(config, SLI_CORE_ENGINE);
    sli_cuda_options options = {.ordinal = (int32_t)sli_param_int(p, "gpu"),
                                .debug = sli_param_int(p, "debug") == SLI_DEBUG_DEVICE,
                                .memory_cap = sli_param_int(p, "gpu_memory") << 20};
    return sli_device_open(&options, out, err);
}

sl_status sli_choose_device(const sli_config *config, const char *only_cpu, sli_device_choice *out, sl_error *err) {
    int64_t wanted = sli_param_int(section(config, SLI_CORE_ENGINE), "device");
    SL_ERROR(why);
    *out = (sli_device_choice){.device = NULL};
    if (wanted == SLI_ENGINE_CPU)
        return SL_OK;
    sl_status s = check_config(config, only_cpu, &why);
    if (s >= 0)
        s = open_device(config, &out->device, &why);
    if (s >= 0)
        return SL_OK;
    if (wanted == SLI_ENGINE_CUDA)
        return sl_fail(err, s, "engine.device = cuda: %s", why.text);
    snprintf(out->reason, sizeof out->reason, "%s", why.text);
    return SL_OK;
}

static int names(const char *const *list, const char *what) {
    for (; list != NULL && *list != NULL; list++)
        if (strcmp(*list, what) == 0)
            return 1;
    return 0;
}

int sli_chosen_asks_for(const sli_config *config, const char *capability) {
    sli_search search = {.dirs = config->plugin_dirs, .n_dirs = config->n_plugin_dirs};
    for (int i = 0; i < config->n_choices; i++) {
        sli_plugin found;
        if (config->choices[i]->scope.prefix[0] == '\0' &&
            sli_plugin_open(&search, config->choices[i]->scope.role, config->choices[i]->plugin, &found, NULL) >= 0 &&
            (names(found.plugin->needs, capability) || names(found.plugin->wants, capability)))
            return 1;
    }
    return 0;
}
