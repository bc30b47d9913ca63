/* The roles that a plugin can have, and what each of them must answer: one row a role. */
#ifndef SLUICE_CORE_ROLES_H
#define SLUICE_CORE_ROLES_H

#include "sluice/plugin.h"

typedef struct sli_role_slot {
    const char *name;
    size_t offset; /* of a function pointer in the interface table */
} sli_role_slot;

typedef struct sli_role {
    const char *name;           /* "kvcache.store" */
    const char *family;         /* "kvcache": the prefix of file names */
    const char *interface;      /* "sl.kv.store/1": what query() must answer */
    uint64_t min_size;          /* bytes that the table must have: the end of its last mandatory slot */
    const sli_role_slot *slots; /* mandatory; the last row has no name */
    int exclusive;              /* 1: at most one plugin in this role for a layer and stage */
} sli_role;

extern const sli_role sli_roles[];       /* the last row has no name */
extern const char *const sli_families[]; /* "attention", "kvcache", "speculation", "quant", NULL */

const sli_role *sli_role_find(const char *name); /* NULL: unknown */
int sli_plugin_has_role(const sl_plugin *plugin, const char *role);
/* Does any role of the plugin belong to that family? */
int sli_plugin_in_family(const sl_plugin *plugin, const char *family);

/* Checks an interface table: it is there, large enough, and no mandatory slot is NULL. The error names what is missing.
 * who  the plugin's id, for the message */
sl_status sli_role_check(const sli_role *role, const char *who, const void *table, sl_error *err);

#endif
