/* Rows of costs and their time: the larger of arithmetic and traffic, and a launch; see costs.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "costs.h"

static int class_of(sli_slot_id slot) {
    switch (slot) {
    case SLI_SLOT_QKV:
    case SLI_SLOT_O:
    case SLI_SLOT_GATE_UP:
    case SLI_SLOT_DOWN:
    case SLI_SLOT_HEAD: return SLUICE_CLASS_LINEAR;
    case SLI_SLOT_ATTEND: return SLUICE_CLASS_ATTEND;
    default: return SLUICE_CLASS_REST;
    }
}

static int peak_of(sl_dtype compute) {
    switch (compute) {
    case SL_BF16: return SLUICE_PEAK_BF16;
    case SL_F16: return SLUICE_PEAK_F16;
    case SL_F8_E4M3:
    case SL_F8_E5M2: return SLUICE_PEAK_F8;
    case SL_I8:
    case SL_I4: return SLUICE_PEAK_I8;
    default: return SLUICE_PEAK_F32;
    }
}

static sli_cost_row *row_of(sli_costs *out, sli_slot_id slot, const char *name, const char *by) {
    for (int i = 0; i < out->n_rows; i++)
        if (out->row[i].slot == slot && strcmp(out->row[i].name, name) == 0 && strcmp(out->row[i].by, by) == 0)
            return &out->row[i];
    if (out->n_rows == SLI_COST_ROWS) /* the last one takes them all */
        return &out->row[SLI_COST_ROWS - 1];
    sli_cost_row *r = &out->row[out->n_rows++];
    *r = (sli_cost_row){.slot = slot};
    snprintf(r->name, sizeof r->name, "%s", name);
    snprintf(r->by, sizeof r->by, "%s", by);
    return r;
}

void sli_cost_row_add(const sli_costing *c, sli_costs *out, sli_slot_id slot, const char *name, const char *by,
                      double flops, const double *bytes, double launches, sl_dtype compute, const char *unknown) {
    const sluice_hardware *hw = c->hardware;
    sli_cost_row *r = row_of(out, slot, name, by);
    int class = class_of(slot);
    double peak = hw->peak[peak_of(compute)] > 0 ? hw->peak[peak_of(compute)] : hw->peak[SLUICE_PEAK_F32], near = 0;
    for (int k = 0; k < SL_COST_KINDS; k++) {
        r->bytes[k] += out->scale * bytes[k];
        near += k == SL_COST_LINK ? 0 : bytes[k];
    }
    double t[SLI_BOUNDS] = {[SLI_BOUND_MEMORY] = near / (hw->bandwidth * hw->memory_share[class]),
                            [SLI_BOUND_COMPUTE] = flops / (peak * hw->compute_share[class]),
                            [SLI_BOUND_LINK] = bytes[SL_COST_LINK] > 0 ? bytes[SL_COST_LINK] / hw->link : 0};
    sli_bound bound = t[SLI_BOUND_COMPUTE] > t[SLI_BOUND_MEMORY] ? SLI_BOUND_COMPUTE : SLI_BOUND_MEMORY;
    if (t[SLI_BOUND_LINK] > t[bound])
        bound = SLI_BOUND_LINK;
    double launch = launches * hw->launch, all = t[bound] + launch;
    r->flops += out->scale * flops;
    r->launches += out->scale * launches;
    r->seconds += out->scale * all;
    r->bound[launch > t[bound] ? SLI_BOUND_LAUNCH : bound] += out->scale * all;
    r->memory_seconds += out->scale * t[SLI_BOUND_MEMORY];
    r->compute_seconds += out->scale * t[SLI_BOUND_COMPUTE];
    r->compute = compute;
    if (unknown != NULL && r->unknown[0] == '\0')
        snprintf(r->unknown, sizeof r->unknown, "%s", unknown);
}

void sli_cost_change_add(sli_costs *out, const char *by, const char *section, const char *term, double before,
                         double after) {
    sli_cost_change *c = NULL;
    for (int i = 0; i < out->n_changes && c == NULL; i++)
        if (strcmp(out->change[i].section, section) == 0 && strcmp(out->change[i].term, term) == 0)
            c = &out->change[i];
    if (c == NULL) {
        if (out->n_changes == SLI_COST_CHANGES)
            return;
        c = &out->change[out->n_changes++];
        *c = (sli_cost_change){.term = term};
        snprintf(c->by, sizeof c->by, "%s", by);
        snprintf(c->section, sizeof c->section, "%s", section);
    }
    c->before += out->scale * before;
    c->after += out->scale * after;
    c->count += out->scale;
}
