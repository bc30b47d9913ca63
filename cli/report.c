/* See report.h. */
#include "report.h"

void report_take(void *user, const char *text, size_t length) {
    json_t **out = user;
    json_t *more = json_loadb(text, length, JSON_DISABLE_EOF_CHECK, NULL);
    if (*out == NULL)
        *out = more;
    else
        json_decref(more); /* the line feed behind the object */
}

void report_device_memory(const sluice_engine *engine, json_t *report) {
    sluice_stats s;
    sluice_info info;
    sluice_get_stats(engine, &s);
    sluice_get_info(engine, &info);
    json_object_set_new(report, "device", json_string(info.device));
    if (info.device_name[0] != '\0')
        json_object_set_new(report, "gpu",
                            json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", info.device_name, "weights",
                                      (json_int_t)s.gpu_bytes_weights, "kv", (json_int_t)s.gpu_bytes_kv, "peak",
                                      (json_int_t)s.gpu_bytes_peak, "pinned", (json_int_t)s.bytes_pinned));
}

void report_prompts(const sluice_engine *engine, json_t *report) {
    sluice_stats s;
    sluice_info info;
    sluice_get_stats(engine, &s);
    sluice_get_info(engine, &info);
    if (s.replaced_tokens == 0)
        return;
    json_object_set_new(report, "prompts",
                        json_pack("{s:I, s:I, s:f, s:f}", "replaced_tokens", (json_int_t)s.replaced_tokens,
                                  "kept_tokens", (json_int_t)s.kept_tokens, "layers_run",
                                  (double)s.prompt_work_layers / (double)s.replaced_tokens / info.layers,
                                  "work_seconds", s.prompt_work_seconds));
}
