/* plugin.h - packages, plugins, parameters, and the root interface that all families share.
 *
 * A package is one .so. It exports exactly one symbol, sl_package_<major>, a pure function that returns static data: it
 * allocates nothing, opens nothing, starts nothing, and may be called from any process any number of times.
 * A plugin is one entry of a package; an instance is what a plugin creates for one model. Families are interfaces that
 * an instance answers to query(): one instance may answer several.
 */
#ifndef SLUICE_PLUGIN_H
#define SLUICE_PLUGIN_H

#include "sl.h"

SL_BEGIN

typedef struct sl_host sl_host;             /* host.h */
typedef struct sl_model_info sl_model_info; /* host.h */
typedef struct sl_instance sl_instance;     /* opaque; the plugin's own */

#define SL_PACKAGE_MAGIC 0x6b706c73u /* "slpk", little endian */

/* Pointer width, endianness and the array sizes that reached the ABI; host and package must agree exactly. */
#define SL_ABI_TAG ((uint32_t)(sizeof(void *) << 24) | (0x01u << 16) | (SL_MAX_DIMS << 8) | SL_MAX_TREE_NODES)

/* ---- parameters ------------------------------------------------------------------------------------------------ */

enum {
    SL_PARAM_INT = 1,
    SL_PARAM_FLOAT = 2,
    SL_PARAM_BOOL = 3,   /* yes | no */
    SL_PARAM_ENUM = 4,   /* one of `choices` */
    SL_PARAM_STRING = 5,
    SL_PARAM_PATH = 6,   /* a file that must exist; relative to the INI file that names it */
    SL_PARAM_INT_LIST = 7, /* comma separated */
    SL_PARAM_FLOAT_LIST = 8
};

enum {
    SL_PARAM_REQUIRED = 1u << 0, /* no default: the INI must give it */
    SL_PARAM_EXPERT = 1u << 1    /* listed last, for people who read the paper */
};

/* One key of the INI section in which the plugin is named. [static] */
typedef struct sl_param_def {
    uint64_t struct_size;
    const char *name;           /* lower case, underscores */
    const char *doc;            /* one sentence, with its unit */
    const char *fallback;       /* the default, as it would be written in the INI; NULL: unset or required */
    const char *const *choices; /* SL_PARAM_ENUM: NULL-terminated; else NULL */
    double min, max;            /* inclusive range of numbers and of list elements; min > max: unbounded */
    uint32_t type;              /* SL_PARAM_* */
    uint32_t flags;             /* SL_PARAM_REQUIRED ... */
} sl_param_def;
SL_ABI_STRUCT(sl_param_def, flags);

/* A parsed, range-checked value. Which field counts follows from the definition's type. [borrowed during create] */
typedef struct sl_param_value {
    uint64_t struct_size;
    const char *name;
    const char *text;    /* as written; the resolved path for SL_PARAM_PATH; NULL when unset */
    const double *list;  /* n elements for the list types (integers up to 2^53 are exact) */
    int64_t n;
    int64_t integer;     /* INT, BOOL (0 or 1), ENUM (index into choices; -1 when unset) */
    double real;         /* FLOAT, and INT as a double */
    uint32_t is_set;     /* 1: there is a value, given or default */
    uint32_t is_given;   /* 1: the user wrote it */
} sl_param_value;
SL_ABI_STRUCT(sl_param_value, is_given);

/* All parameters of one instance, in the order of the plugin's definitions. */
typedef struct sl_params {
    uint64_t struct_size;
    const sl_param_value *const *values;
    int64_t n;
} sl_params;
SL_ABI_STRUCT(sl_params, n);

/* ---- scope, creation ------------------------------------------------------------------------------------------- */

enum { SL_STAGE_PREFILL = 1u << 0, SL_STAGE_DECODE = 1u << 1, SL_STAGE_VERIFY = 1u << 2, SL_STAGE_ALL = 7u };

/* Where an instance acts, resolved by the core from the INI. It sees calls for its scope only - and note_rows for its
 * layers in every stage, since a selector that works at decode must see the prompt go by. */
typedef struct sl_scope {
    uint64_t struct_size;
    const uint32_t *layer_stages; /* [n_layers]: set of SL_STAGE_* in which the instance serves that layer */
    int32_t n_layers;
    uint32_t device;              /* SL_DEVICE_CPU or SL_DEVICE_CUDA */
    const char *role;             /* the family and role it is created for: "attention", "kvcache.store" ... */
    const char *section;          /* INI section, for messages */
    const struct sl_scope *also;  /* scope of the next role that this object answers too (a method named in two
                                     sections); NULL: none ("sl.scope.also/1") */
} sl_scope;
SL_ABI_STRUCT(sl_scope, also);

typedef struct sl_create_args {
    uint64_t struct_size;
    const sl_host *host;        /* valid until destroy returned */
    const sl_model_info *model; /* likewise */
    const sl_params *params;    /* borrowed */
    const sl_scope *scope;      /* borrowed */
} sl_create_args;
SL_ABI_STRUCT(sl_create_args, scope);

/* Upper bounds that hold from activate to deactivate. */
typedef struct sl_limits {
    uint64_t struct_size;
    int64_t max_context;  /* tokens of one sequence */
    int64_t max_rows;     /* new rows of one step */
    int64_t max_seqs;     /* sequences alive at once */
    int64_t max_tree;     /* nodes of one draft tree, root included; 1: no speculation */
    int64_t n_workers;    /* CPU workers */
    uint32_t compute;     /* SL_F32 or SL_BF16: precision of matrix products */
    uint32_t deterministic; /* 1: results must not depend on batch, chunking, worker count or speculation */
    int64_t kv_bytes;     /* of SL_MEM_KV that all stores together get (sl.mem/1 gives no more); 0: no limit */
} sl_limits;
SL_ABI_STRUCT(sl_limits, kv_bytes);

/* ---- events ---------------------------------------------------------------------------------------------------- */

enum {
    SL_EVENT_CHUNK_END = 1,      /* a prompt chunk was committed */
    SL_EVENT_PREFILL_END = 2,    /* the last chunk of the prompt was committed */
    SL_EVENT_FORK = 3,           /* seq was made from other, which keeps its first n tokens in common with it */
    SL_EVENT_TRUNCATE = 4,       /* seq was cut to n tokens */
    SL_EVENT_PREEMPT = 5,        /* seq lost its cache and will be recomputed */
    SL_EVENT_FINISH = 6,         /* seq ends; drop its state */
    SL_EVENT_LAYERS_SKIPPED = 7, /* retired: sl_batch.attn_layers and ffn_layers say it, sub-layer by sub-layer, before
                                    the step runs */
    SL_EVENT_BEGIN = 8,          /* seq begins, empty */
    SL_EVENT_COMMIT = 9          /* rows of a decode or verify step were committed; seq now has n tokens
                                    ("sl.event.commit/1") */
};

typedef struct sl_event {
    uint64_t struct_size;
    uint32_t kind;  /* SL_EVENT_* ; unknown kinds are ignored */
    int32_t seq;    /* sequence id, 0 .. max_seqs - 1; reused after FINISH */
    int32_t other;  /* FORK: the parent; else -1 */
    int32_t first;  /* retired with LAYERS_SKIPPED: 0 */
    int64_t n;
} sl_event;
SL_ABI_STRUCT(sl_event, n);

/* ---- root interface -------------------------------------------------------------------------------------------- */

enum { SL_STATE_SIZE = 0, SL_STATE_SAVE = 1, SL_STATE_LOAD = 2 };

/* State of one sequence (seq >= 0) or of the whole instance (seq = -1), as a versioned blob of the plugin's own. */
typedef struct sl_state_io {
    uint64_t struct_size;
    void *data;      /* SAVE: capacity bytes to fill; LOAD: bytes to read */
    int64_t bytes;   /* in: capacity or size; out (SIZE, SAVE): bytes needed or written */
    int32_t seq;
    uint32_t op;     /* SL_STATE_* */
} sl_state_io;
SL_ABI_STRUCT(sl_state_io, op);

/* One plugin of a package. [static] Functions marked optional may be NULL. */
typedef struct sl_plugin {
    uint64_t struct_size;
    const char *id;                      /* lower case, as in the INI: "tidaldecode" */
    const char *const *roles;            /* NULL-terminated: "attention", "kvcache.store", "kvcache.policy",
                                            "kvcache.codec", "kvcache.prompt", "speculation", "quant".
                                            The file is named <family of the first role>_<id>.so */
    const char *version;                 /* of the plugin: "1.2.0" */
    const char *summary;                 /* one sentence */
    const char *paper;                   /* title and arXiv number, or NULL */
    const char *vendor, *license;
    const sl_param_def *const *params;   /* NULL-terminated */
    const char *const *needs;            /* capability ids that must be there, checked before create */
    const char *const *wants;            /* used when there */
    const char *const *provides;         /* offered to others */
    uint64_t must_understand;            /* bits for tails that may not be ignored; none are defined yet */
    uint32_t devices;                    /* SL_ON_* */
    uint32_t reserved0;

    /* Does the plugin take this model, in this scope? Reads no weights, keeps nothing. Optional: yes.
     * Returns SL_OK, or an error whose text says what does not fit.   [any] */
    sl_status (*accepts)(const sl_model_info *model, const sl_params *params, const sl_scope *scope, sl_error *err);
    /* Makes an instance. Opens artifacts and checks them; allocates little. On failure frees everything itself.
     * [setup] */
    sl_status (*create)(const sl_create_args *args, sl_instance **out, sl_error *err);
    /* NULL is legal. [setup & !active] */
    void (*destroy)(sl_instance *self);
    /* Allocates, packs, tunes: everything that a step must not do. A failed call leaves it inactive.
     * [setup & !active] */
    sl_status (*activate)(sl_instance *self, const sl_limits *limits, sl_error *err);
    /* Gives back what activate took. [setup & active] */
    void (*deactivate)(sl_instance *self);
    /* Interface table by id ("sl.attention/1") or NULL; the table lives as long as the instance. [any] */
    const void *(*query)(sl_instance *self, const char *id);
    /* Notice of what happened to sequences. Optional. [setup & active] */
    sl_status (*event)(sl_instance *self, const sl_event *event, sl_error *err);
    /* Size, save and load of state. NULL: it has none that matters. An instance whose state cannot be moved returns
     * SL_E_UNIMPLEMENTED: the core then computes the sequence again instead of moving it. [setup & active] */
    sl_status (*state)(sl_instance *self, sl_state_io *io, sl_error *err);
} sl_plugin;
SL_ABI_STRUCT(sl_plugin, state);

typedef struct sl_package {
    uint64_t struct_size;
    uint32_t magic;     /* SL_PACKAGE_MAGIC */
    uint32_t abi_major; /* of the headers it was built with */
    uint32_t abi_minor;
    uint32_t abi_tag;   /* SL_ABI_TAG */
    const sl_plugin *const *plugins; /* array of pointers: elements may grow */
    uint32_t n_plugins;
    uint32_t reserved0;
} sl_package;
SL_ABI_STRUCT(sl_package, reserved0);

typedef const sl_package *(*sl_package_fn)(void);
#define SL_PACKAGE_SYMBOL "sl_package_0"

#if defined(__GNUC__)
#define SL_EXPORT __attribute__((visibility("default")))
#else
#define SL_EXPORT
#endif

#ifdef SL_STATIC_NAME /* several packages linked into one test program */
#define SL_PACKAGE_CAT_(a, b) a##b
#define SL_PACKAGE_CAT(a, b) SL_PACKAGE_CAT_(a, b)
#define SL_PACKAGE_ENTRY SL_PACKAGE_CAT(sl_package_0_, SL_STATIC_NAME)
#else
#define SL_PACKAGE_ENTRY sl_package_0
#endif

/* SL_PACKAGE(&plugin_a, &plugin_b): writes the entry function, magic and sizes. */
#define SL_PACKAGE(...)                                                                                                \
    SL_EXPORT const sl_package *SL_PACKAGE_ENTRY(void);                                                                \
    const sl_package *SL_PACKAGE_ENTRY(void) {                                                                         \
        static const sl_plugin *const plugins[] = {__VA_ARGS__};                                                       \
        static const sl_package package = {sl_package_size_, SL_PACKAGE_MAGIC, SL_ABI_MAJOR, SL_ABI_MINOR, SL_ABI_TAG, \
                                           plugins, sizeof plugins / sizeof *plugins, 0};                              \
        return &package;                                                                                               \
    }

SL_END
#endif
