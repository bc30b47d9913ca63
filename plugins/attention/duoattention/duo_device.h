/* duo_device.h - the cache and the attention on a device lane.
 *
 * The slot of a token is its index, in all heads. Two tables find rows: that of the retrieval heads holds every page of
 * a sequence; that of the streaming heads holds the pages of the sinks and those that reach into the window, its slack
 * and the step's rows, and pages that fall behind go back to a pool that all sequences share. So the ring is one of
 * pages, kernels read it as a plain paged cache with a window and sinks, a row's keys keep their ranks whatever the
 * stage, and accepted drafts equal decoding bit by bit.
 *
 * A layer has one pool of keys and one of values, head by head: a head has a run of pages of its own, as many as its
 * class has (sl_view_device.heads), so that one launch serves both classes. */
#ifndef DUO_DEVICE_H
#define DUO_DEVICE_H

#include "duoattention.h"

/* What a device cannot do, before anything is taken. [setup] */
sl_status duo_device_accepts(const sl_instance *self, const sl_scope *scope, sl_error *err);
/* Tables and books; pools come with the first sequence, when the weights are there. self->device is made. */
sl_status duo_device_activate(sl_instance *self, sl_error *err);
void duo_device_deactivate(sl_instance *self);

extern const sl_kv_store duo_device_store;
sl_status duo_device_attend(sl_instance *self, const sl_attend *args);

#endif
