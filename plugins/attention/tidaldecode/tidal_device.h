/* tidal_device.h - TidalDecode on a device: lists are made, kept and read in its memory. See tidal_device.c. */
#ifndef TIDAL_DEVICE_H
#define TIDAL_DEVICE_H

#include "tidaldecode.h"

/* Is the method, with these parameters, one that runs there? Called at the end of create. */
sl_status tidal_device_check(const struct sl_instance *self, const sl_create_args *args, sl_error *err);
sl_status tidal_device_activate(struct sl_instance *self, const sl_limits *limits, sl_error *err);
void tidal_device_deactivate(struct sl_instance *self);

extern const sl_attention tidal_device_attention;

#endif
