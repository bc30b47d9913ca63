/* Machines as INI sections: the built-in table, files of users, and what was measured. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "config/ini.h"
#include "sl_error.h"

static const char table_text[] =
#include "hw_ini.inc"
    ;

/* One key: where its number goes, and how many of the field's unit it counts. */
static const struct {
    const char *name;
    size_t offset;
    double unit, fallback, least;
    int is_required;
} keys[] = {
#define AT(field) offsetof(sluice_hardware, field)
    {"bandwidth_gbs", AT(bandwidth), 1e9, 0, 1e-3, 1},
    {"link_gbs", AT(link), 1e9, 0, 0, 0},
    {"launch_us", AT(launch), 1e-6, 0, 0, 0},
    {"cache_mb", AT(cache), 1e6, 0, 0, 0},
    {"f32_tflops", AT(peak[SLUICE_PEAK_F32]), 1e12, 0, 1e-6, 1},
    {"bf16_tflops", AT(peak[SLUICE_PEAK_BF16]), 1e12, 0, 0, 0},
    {"f16_tflops", AT(peak[SLUICE_PEAK_F16]), 1e12, 0, 0, 0},
    {"f8_tflops", AT(peak[SLUICE_PEAK_F8]), 1e12, 0, 0, 0},
    {"i8_tflops", AT(peak[SLUICE_PEAK_I8]), 1e12, 0, 0, 0},
    {"memory_share_linear", AT(memory_share[SLUICE_CLASS_LINEAR]), 1, 1, 1e-3, 0},
    {"memory_share_attend", AT(memory_share[SLUICE_CLASS_ATTEND]), 1, 1, 1e-3, 0},
    {"memory_share_rest", AT(memory_share[SLUICE_CLASS_REST]), 1, 1, 1e-3, 0},
    {"compute_share_linear", AT(compute_share[SLUICE_CLASS_LINEAR]), 1, 1, 1e-3, 0},
    {"compute_share_attend", AT(compute_share[SLUICE_CLASS_ATTEND]), 1, 1, 1e-3, 0},
    {"compute_share_rest", AT(compute_share[SLUICE_CLASS_REST]), 1, 1, 1e-3, 0},
#undef AT
};
enum { N_KEYS = sizeof keys / sizeof *keys };

static double *field_of(sluice_hardware *hw, int i) { return (double *)(void *)((char *)hw + keys[i].offset); }

static int known(const char *name) {
    for (int i = 0; i < N_KEYS; i++)
        if (strcmp(keys[i].name, name) == 0)
            return 1;
    return strcmp(name, "device") == 0 || strcmp(name, "source") == 0;
}

static sl_status read_section(const sli_section *s, sluice_hardware *hw, sl_error *err) {
    *hw = (sluice_hardware){0};
    snprintf(hw->name, sizeof hw->name, "%s", s->name);
    for (int i = 0; i < s->n_keys; i++)
        if (!known(s->keys[i].name))
            return sl_fail(err, SL_E_DATA, "%s: [%s] has no key %s", s->keys[i].where, s->name, s->keys[i].name);
    const sli_key *device = sli_section_get(s, "device"), *source = sli_section_get(s, "source");
    if (device == NULL || (strcmp(device->value, "cpu") != 0 && strcmp(device->value, "cuda") != 0))
        return sl_fail(err, SL_E_DATA, "%s: [%s] needs device = cpu or device = cuda", s->where, s->name);
    snprintf(hw->device, sizeof hw->device, "%s", device->value);
    snprintf(hw->source, sizeof hw->source, "%s", source != NULL ? source->value : "");
    for (int i = 0; i < N_KEYS; i++) {
        const sli_key *key = sli_section_get(s, keys[i].name);
        double value = keys[i].fallback;
        char *end = NULL;
        if (key == NULL && keys[i].is_required)
            return sl_fail(err, SL_E_DATA, "%s: [%s] needs %s", s->where, s->name, keys[i].name);
        if (key != NULL) {
            value = strtod(key->value, &end);
            if (end == key->value || *end != '\0' || !isfinite(value) || value < keys[i].least ||
                (keys[i].fallback == 1 && value > 1))
                return sl_fail(err, SL_E_DATA, "%s: %s: expected a number of %g at least%s, found \"%s\"", key->where,
                               keys[i].name, keys[i].least, keys[i].fallback == 1 ? " and 1 at most" : "", key->value);
        }
        *field_of(hw, i) = value * keys[i].unit;
    }
    return SL_OK;
}

static void names_of(const sli_ini *ini, char *out, size_t n) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < ini->n_sections && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, "%s%s", i > 0 ? ", " : "", ini->sections[i]->name);
}

static sl_status find(const char *name, sli_ini *ini, sluice_hardware *out, sl_error *err) {
    const char *ending = strstr(name, ".ini"), *section = name;
    char path[4096], names[512];
    SL_TRY(
        sli_ini_parse(ini, table_text, ending != NULL ? 0 : sizeof table_text - 1, "hw.ini", "", SLI_FROM_FILE, err));
    if (ending != NULL) {
        size_t n = (size_t)(ending - name) + 4;
        if ((name[n] != '\0' && name[n] != ':') || n >= sizeof path)
            return sl_fail(err, SL_E_INVALID, "a machine is NAME, FILE.ini or FILE.ini:NAME, found \"%s\"", name);
        snprintf(path, sizeof path, "%.*s", (int)n, name);
        SL_TRY(sli_ini_read(ini, path, err));
        section = name[n] == ':' ? name + n + 1 : ini->n_sections == 1 ? ini->sections[0]->name : "";
    }
    const sli_section *s = sli_ini_find(ini, section);
    names_of(ini, names, sizeof names);
    if (s == NULL)
        return sl_fail(err, SL_E_NOT_FOUND, "%s: no machine \"%s\"; there are: %s", ending != NULL ? path : "hw.ini",
                       section, names);
    return read_section(s, out, err);
}

int sluice_hardware_find(const char *name, sluice_hardware *out, sluice_error *error) {
    SLI_API(err, error);
    sli_ini ini = {0};
    sl_status s = find(name, &ini, out, &err);
    sli_ini_free(&ini);
    return s < 0 ? sli_api_fail(&err, s, error) : SLUICE_OK;
}

int sluice_hardware_write(const sluice_hardware *hw, const char *path, sluice_error *error) {
    SLI_API(err, error);
    sluice_hardware copy = *hw;
    FILE *f = fopen(path, "w");
    if (f == NULL)
        return sli_api_fail(&err, sl_fail(&err, SL_E_IO, "%s: %s", path, strerror(errno)), error);
    fprintf(f, "[%s]\ndevice = %s\nsource = %s\n", hw->name, hw->device, hw->source);
    for (int i = 0; i < N_KEYS; i++)
        fprintf(f, "%s = %.6g\n", keys[i].name, *field_of(&copy, i) / keys[i].unit);
    int bad = ferror(f);
    bad |= fclose(f) != 0;
    return bad ? sli_api_fail(&err, sl_fail(&err, SL_E_IO, "%s: %s", path, strerror(errno)), error) : SLUICE_OK;
}
