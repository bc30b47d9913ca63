/* See profile.h. */
#include "profile.h"

#include <string.h>

#include "api.h"
#include "base/ledger.h"
#include "engine.h"
#include "sl_error.h"

enum { EVENTS = 4096 }; /* laps in flight on a device; more are waited for */

struct sli_profile {
    const sli_device *device; /* NULL: the CPU */
    sli_profile_times times;
    double last; /* of the CPU */
    int phase, muted;
    /* Of a device: laps that were queued. The first one belongs to nobody. */
    sl_event_impl *event[EVENTS];
    struct {
        int slot, phase; /* slot SLI_SLOTS: a beginning */
    } lap[EVENTS];
    int n;
};

sl_status sli_profile_create(const sli_device *device, sli_profile **out, sl_error *err) {
    sli_profile *p = sli_alloc(SLI_TAG_MISC, sizeof *p);
    if (p == NULL)
        return sl_fail(err, SL_E_NO_MEMORY, "no memory to take times");
    p->device = device;
    for (int i = 0; device != NULL && i < EVENTS; i++)
        if (device->api->exec->event_create(NULL, device->lane, &p->event[i]) < 0) {
            sli_profile_destroy(p);
            return sl_fail(err, SL_E_NO_MEMORY, "no events to take times on the device");
        }
    *out = p;
    return SL_OK;
}

void sli_profile_destroy(sli_profile *p) {
    for (int i = 0; p != NULL && i < EVENTS; i++)
        if (p->event[i] != NULL)
            p->device->api->exec->event_destroy(NULL, p->event[i]);
    sli_free(p);
}

/* Times of all queued laps; the last event stays as the beginning of the next lap. */
static void gather(sli_profile *p) {
    const sli_cuda_api *api = p->device->api;
    if (p->n == 0 || api->exec->sync(p->device->lane, NULL) < 0)
        return;
    for (int i = 1; i < p->n; i++) {
        float ms = 0;
        if (p->lap[i].slot == SLI_SLOTS || api->elapsed(p->device->cuda, p->event[i - 1], p->event[i], &ms) < 0)
            continue;
        p->times.seconds[p->lap[i].slot][p->lap[i].phase] += 1e-3 * ms;
        p->times.calls[p->lap[i].slot][p->lap[i].phase]++;
    }
    sl_event_impl *last = p->event[p->n - 1];
    p->event[p->n - 1] = p->event[0];
    p->event[0] = last;
    p->lap[0].slot = SLI_SLOTS;
    p->n = 1;
}

static void mark(sli_profile *p, int slot) {
    if (p->n == EVENTS)
        gather(p);
    if (p->n == EVENTS || p->device->api->exec->record(p->device->lane, p->event[p->n]) < 0)
        return;
    p->lap[p->n].slot = slot;
    p->lap[p->n].phase = p->phase;
    p->n++;
}

void sli_profile_start(sli_profile *p, int phase) {
    if (p->muted)
        return;
    p->phase = phase;
    if (p->device != NULL)
        mark(p, SLI_SLOTS);
    else
        p->last = sli_now();
}

void sli_profile_step(sli_profile *p, int phase) {
    sli_profile_start(p, phase);
    p->times.steps[phase]++;
}

void sli_profile_lap(sli_profile *p, sli_slot_id slot) {
    if (p->muted)
        return;
    if (p->device != NULL) {
        mark(p, (int)slot);
        return;
    }
    double t = sli_now();
    p->times.seconds[slot][p->phase] += t - p->last;
    p->times.calls[slot][p->phase]++;
    p->last = t;
}

void sli_profile_mute(sli_profile *p) { p->muted++; }

void sli_profile_unmute(sli_profile *p, sli_slot_id slot) {
    if (--p->muted == 0)
        sli_profile_lap(p, slot);
}

const sli_profile_times *sli_profile_read(sli_profile *p) {
    if (p->device != NULL)
        gather(p);
    return &p->times;
}

/* ---- libsluice ----------------------------------------------------------------------------------------------------
 */

int sluice_profile(sluice_engine *e, int on, sluice_error *error) {
    SLI_API(err, error);
    sli_profile *p = NULL;
    sl_status s = on ? sli_profile_create(e->chosen.device, &p, &err) : SL_OK;
    if (s < 0)
        return sli_api_fail(&err, s, error);
    sli_profile_destroy(e->target.profile);
    e->target.profile = p;
    return SLUICE_OK;
}

int sluice_profile_read(const sluice_engine *e, sluice_op_time *out, int cap, int64_t *steps) {
    static const sli_profile_times nothing = {0};
    const sli_profile_times *t = e->target.profile != NULL ? sli_profile_read(e->target.profile) : &nothing;
    for (int i = 0; i < SLI_SLOTS && i < cap; i++)
        out[i] = (sluice_op_time){.name = sli_slot_name((sli_slot_id)i),
                                  .seconds = {t->seconds[i][0], t->seconds[i][1]},
                                  .calls = {t->calls[i][0], t->calls[i][1]}};
    for (int i = 0; steps != NULL && i < 2; i++)
        steps[i] = t->steps[i];
    return SLI_SLOTS;
}
