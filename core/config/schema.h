/* The sections that belong to the core itself, as parameter tables like those of plugins. */
#ifndef SLUICE_CORE_SCHEMA_H
#define SLUICE_CORE_SCHEMA_H

#include "sluice/plugin.h"

typedef enum {
    SLI_CORE_MODEL,
    SLI_CORE_ENGINE,
    SLI_CORE_SAMPLING,
    SLI_CORE_PLUGINS,
    SLI_CORE_DRAFT_MODEL,
    SLI_CORE_COUNT
} sli_core_id;

typedef struct sli_core_section {
    const char *name; /* as in the INI: "engine" */
    const char *doc;
    const sl_param_def *const *params; /* NULL-terminated */
} sli_core_section;

extern const sli_core_section sli_core_sections[SLI_CORE_COUNT];
int sli_is_core_section(const char *name);

/* Values of the enums, in the order of their choices. */
enum { SLI_ENGINE_AUTO, SLI_ENGINE_CPU, SLI_ENGINE_CUDA };                                    /* engine.device */
enum { SLI_ISA_CHOICE_AUTO, SLI_ISA_CHOICE_REF, SLI_ISA_CHOICE_AVX2, SLI_ISA_CHOICE_AVX512 }; /* engine.isa */
enum { SLI_COMPUTE_AUTO, SLI_COMPUTE_F32, SLI_COMPUTE_BF16 };                                 /* engine.compute */
enum { SLI_DEBUG_NO, SLI_DEBUG_DEVICE };                                                      /* engine.debug */
enum { SLI_DRAW_CDF, SLI_DRAW_RACE };                                                         /* sampling.draw */

#endif
