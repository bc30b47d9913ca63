/* profile.h - where the time of steps goes, by act (slots.h). Off: one comparison an act.
 *
 * Time is told in laps: what passed since the last lap belongs to the act that just ended. On a GPU a lap is an event
 * in the lane behind the act's kernels, and steps run launch by launch. Work that plugins ask for (drafts, prompts) is
 * one lap, whatever it runs. */
#ifndef SLUICE_CORE_PROFILE_H
#define SLUICE_CORE_PROFILE_H

#include "device/device.h"
#include "engine/network.h"
#include "engine/slots.h"

typedef struct sli_profile sli_profile;

/* device NULL: the CPU. */
sl_status sli_profile_create(const sli_device *device, sli_profile **out, sl_error *err);
void sli_profile_destroy(sli_profile *p); /* NULL is legal */

/* A step begins, of prompts (phase 0) or one that decodes (1): what passed before belongs to nobody. */
void sli_profile_step(sli_profile *p, int phase);
/* The same without counting a step. */
void sli_profile_start(sli_profile *p, int phase);
void sli_profile_lap(sli_profile *p, sli_slot_id slot);
/* Between these, laps are not told; the end is a lap. */
void sli_profile_mute(sli_profile *p);
void sli_profile_unmute(sli_profile *p, sli_slot_id slot);

typedef struct sli_profile_times {
    double seconds[SLI_SLOTS][2];
    int64_t calls[SLI_SLOTS][2];
    int64_t steps[2];
} sli_profile_times;

/* Waits for what is queued. */
const sli_profile_times *sli_profile_read(sli_profile *p);

static inline void sli_lap(const sli_network *net, sli_slot_id slot) {
    if (net->profile != NULL)
        sli_profile_lap(net->profile, slot);
}

#endif
