/* See sl_schedule.h. */
#include "sl_schedule.h"

#include <stdlib.h>

#include "sl_error.h"

sl_status sl_schedule_check(const sl_schedule *s, const sl_limits *limits, const char *plugin, sl_error *err) {
    if (s->interval == 0 || limits->max_tree <= 1 || !limits->deterministic)
        return SL_OK;
    return sl_fail(err, SL_E_UNIMPLEMENTED, "%s: decode_interval = %lld drops rows between steps, so tokens would depend on speculation: set "
                                            "decode_interval = 0, or engine.deterministic = no", plugin, (long long)s->interval);
}

int sl_schedule_init(sl_schedule *s, int64_t max_seqs) {
    s->max_seqs = max_seqs;
    s->last = calloc((size_t)max_seqs, sizeof *s->last);
    return s->last != NULL;
}

void sl_schedule_free(sl_schedule *s) {
    free(s->last);
    s->last = NULL;
}

int32_t sl_schedule_is_due(sl_schedule *s, const sl_event *event) {
    if (event->seq < 0 || event->seq >= s->max_seqs)
        return 0;
    int due = event->kind == SL_EVENT_PREFILL_END || (event->kind == SL_EVENT_CHUNK_END && s->chunks) ||
              (event->kind == SL_EVENT_COMMIT && s->interval > 0 && event->n - s->last[event->seq] >= s->interval);
    if (due)
        s->last[event->seq] = event->n;
    return due;
}

void sl_schedule_note(sl_schedule *s, const sl_event *event) {
    if (event->seq < 0 || event->seq >= s->max_seqs)
        return;
    int64_t *last = &s->last[event->seq];
    if (event->kind == SL_EVENT_BEGIN)
        *last = 0;
    else if (event->kind == SL_EVENT_FORK && event->other >= 0 && event->other < s->max_seqs)
        *last = s->last[event->other] < event->n ? s->last[event->other] : event->n;
    else if (event->kind == SL_EVENT_TRUNCATE && *last > event->n)
        *last = event->n;
}
