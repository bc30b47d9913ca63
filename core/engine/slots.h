/* slots.h - the acts of a step by name: what costs are told by (costs.h) and what times are told by (profile.h). */
#ifndef SLUICE_CORE_SLOTS_H
#define SLUICE_CORE_SLOTS_H

typedef enum sli_slot_id {
    SLI_SLOT_EMBED,
    SLI_SLOT_NORM,
    SLI_SLOT_MAP,
    SLI_SLOT_QKV,
    SLI_SLOT_ROPE,
    SLI_SLOT_APPEND,
    SLI_SLOT_NOTE,
    SLI_SLOT_SELECT,
    SLI_SLOT_ATTEND,
    SLI_SLOT_SETTLE,
    SLI_SLOT_O,
    SLI_SLOT_GATE_UP,
    SLI_SLOT_ACT,
    SLI_SLOT_DOWN,
    SLI_SLOT_HEAD,
    SLI_SLOT_DECIDE,
    SLI_SLOT_POLICY,
    SLI_SLOT_DRAFT,
    SLI_SLOT_PROMPT,
    SLI_SLOT_OTHER, /* measured: what none of the others was */
    SLI_SLOTS
} sli_slot_id;

const char *sli_slot_name(sli_slot_id slot); /* "attn.qkv" */

#endif
