/* When an eviction policy acts: at the end of each prompt or of each of its chunks, and every N tokens decoded since its
 * last cut. */
#ifndef SLUICE_LIB_SCHEDULE_H
#define SLUICE_LIB_SCHEDULE_H

#include "sluice/plugin.h"

typedef struct sl_schedule {
    int64_t interval; /* tokens; 0: at the end of a prompt only */
    int chunks;       /* 1: at the end of every chunk of a prompt, too */
    int64_t *last;    /* [max_seqs] length at the last cut */
    int64_t max_seqs;
} sl_schedule;

/* Cutting in the middle of decoding drops rows after each step, and a step that verifies drafts holds several tokens:
 * tokens then depend on speculation, which engine.deterministic forbids. Refuses that; needs interval alone. */
sl_status sl_schedule_check(const sl_schedule *s, const sl_limits *limits, const char *plugin, sl_error *err);
int sl_schedule_init(sl_schedule *s, int64_t max_seqs); /* 0: no memory */
void sl_schedule_free(sl_schedule *s);

/* What sl_kv_policy.schedule answers; what sl_plugin.event notes. */
int32_t sl_schedule_is_due(sl_schedule *s, const sl_event *event);
void sl_schedule_note(sl_schedule *s, const sl_event *event);

#endif
