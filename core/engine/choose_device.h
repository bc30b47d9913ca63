/* choose_device.h - on which device an engine runs, by configuration, machine and plugins. */
#ifndef SLUICE_CORE_CHOOSE_DEVICE_H
#define SLUICE_CORE_CHOOSE_DEVICE_H

#include "config/config.h"
#include "device/device.h"

typedef struct sli_device_choice {
    sli_device *device; /* NULL: the CPU */
    char reason[512];   /* why it is the CPU; "" when that was asked for, or it is not */
} sli_device_choice;

/* engine.device = auto: the GPU if the configuration can run there, a module opens and finds one; else the CPU, with
 * the reason. cuda: an error with the reason instead. only_cpu: what is going to happen runs on the CPU only
 * ("calibration"); NULL: nothing of that kind. On success the device, if any, is the caller's to close. [setup] */
sl_status sli_choose_device(const sli_config *config, const char *only_cpu, sli_device_choice *out, sl_error *err);

/* Does a chosen plugin of the target need or want that capability? Opens the packages. */
int sli_chosen_asks_for(const sli_config *config, const char *capability);

#endif
