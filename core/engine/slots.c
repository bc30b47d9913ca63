/* See slots.h. */
#include "slots.h"

static const char *const names[SLI_SLOTS] = {
    [SLI_SLOT_EMBED] = "embed",   [SLI_SLOT_NORM] = "norm",     [SLI_SLOT_MAP] = "map",
    [SLI_SLOT_QKV] = "attn.qkv",  [SLI_SLOT_ROPE] = "rope",     [SLI_SLOT_APPEND] = "append",
    [SLI_SLOT_NOTE] = "note",     [SLI_SLOT_SELECT] = "select", [SLI_SLOT_ATTEND] = "attend",
    [SLI_SLOT_SETTLE] = "settle", [SLI_SLOT_O] = "attn.o",      [SLI_SLOT_GATE_UP] = "ffn.gate_up",
    [SLI_SLOT_ACT] = "ffn.act",   [SLI_SLOT_DOWN] = "ffn.down", [SLI_SLOT_HEAD] = "head",
    [SLI_SLOT_DECIDE] = "decide", [SLI_SLOT_POLICY] = "policy", [SLI_SLOT_DRAFT] = "draft",
    [SLI_SLOT_PROMPT] = "prompt", [SLI_SLOT_OTHER] = "other",
};

const char *sli_slot_name(sli_slot_id slot) { return names[slot]; }
