/* techniques.h - what can be chosen for each slot of an engine, with settings under which it shows on short texts. */
#ifndef SLUICE_TEST_TECHNIQUES_H
#define SLUICE_TEST_TECHNIQUES_H

enum { MAX_SETTINGS = 8 };

typedef enum { ATTENTION, STORE, POLICY, DRAFTER, QUANTISER, PROMPT, N_SLOTS } slot;
extern const char *const slot_names[N_SLOTS];

typedef struct technique {
    const char *name;
    const char *sets[MAX_SETTINGS];  /* overrides, NULL-terminated; none: the slot's default */
    const char *cover[MAX_SETTINGS]; /* overrides under which it covers everything and must equal the slot's default;
                                        {0}: nothing does */
} technique;

/* The first of each slot is its default. Fails the running test when an artifact cannot be made. */
const technique *techniques_of(slot s, int *n);
const technique *technique_named(slot s, const char *name);

#endif
