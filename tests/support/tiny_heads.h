/* tiny_heads.h - Medusa heads for models/tiny in every layout, as values of speculation.heads. */
#ifndef SLUICE_TEST_TINY_HEADS_H
#define SLUICE_TEST_TINY_HEADS_H

#include "e2e.h"

#include "medusa_file.h"

enum { TINY_HIDDEN = 256, TINY_VOCAB = 4096 };

typedef char medusa_setting[PATH_MAX + 32];

/* Three heads each. near: they say what the model's head says of the row, so that drafts hold now and then. */
typedef struct medusa_heads {
    medusa_setting shared, near; /* the model's head */
    medusa_setting own;          /* an output matrix a head; bf16 */
    medusa_setting whole;        /* two blocks, tensors named as in a whole model; bf16 */
} medusa_heads;

static inline void medusa_heads_file(medusa_setting set, const char *name, const medusa_file *m) {
    medusa_file_write(e2e_temp(name), m);
    snprintf(set, sizeof(medusa_setting), "speculation.heads=%s", e2e_temp(name));
}

/* accuracy: what shared and near say of themselves, or NULL. */
static inline void medusa_heads_write(medusa_heads *h, const char *accuracy) {
    medusa_file m = {.heads = 3,
                     .blocks = 1,
                     .hidden = TINY_HIDDEN,
                     .vocab = TINY_VOCAB,
                     .prefix = "",
                     .seed = 7,
                     .scale = 1,
                     .accuracy = accuracy};
    medusa_heads_file(h->shared, "shared.safetensors", &m);
    m.scale = 0;
    medusa_heads_file(h->near, "near.safetensors", &m);
    m.scale = 1;
    m.accuracy = NULL;
    m.own = m.bf16 = 1;
    medusa_heads_file(h->own, "own.safetensors", &m);
    m.own = 0;
    m.blocks = 2;
    m.prefix = "medusa_head.";
    medusa_heads_file(h->whole, "whole.safetensors", &m);
}

#endif
