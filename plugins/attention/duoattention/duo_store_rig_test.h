/* duo_store_rig_test.h - what tests of duoattention's two caches share: the plugin, a model of mixed layers, the
 * pattern file that says which heads stream, an instance that serves attention and store. */
#ifndef DUO_STORE_RIG_H
#define DUO_STORE_RIG_H

#include "duo_attend.c"
#include "duo_cost.c"
#include "duo_device.c"
#include "duo_device_pages.c"
#include "duo_device_store.c"
#include "duo_pattern.c"
#include "duo_ring.c"
#include "duo_store.c"
#include "duo_view.c"
#include "duoattention.c"

#include <unistd.h>

#include "store_rig.h"

enum { LAYERS = 4, MAX_SEQS = 5, MAX_ROWS = 60, MAX_TREE = 6, SLACK = 4 };

/* KV heads, key size, value size; and which heads stream ('s'). */
static const int32_t shapes[LAYERS][3] = {{5, 4, 4}, {2, 8, 3}, {3, 2, 8}, {1, 4, 4}};
static const char *const classes[LAYERS] = {"sffsf", "ss", "fff", "s"};

/* sets: sink_size, recent_size, page and others, behind those that are the same. The model is there. */
static void make_duo(store_rig *r, uint32_t device, const char *const *sets, int64_t max_context, uint32_t compute) {
    char name[64], file[96];
    snprintf(name, sizeof name, "/tmp/duo_store_%ld.tsv", (long)getpid());
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < shapes[l][0]; h++)
            fprintf(f, "%d%c", classes[l][h] == 'f', h + 1 < shapes[l][0] ? '\t' : '\n');
    assert_int_equal(fclose(f), 0);
    snprintf(file, sizeof file, "pattern_file=%s", name);
    const char *all[12] = {file, "threshold=0.5", "slack=4"};
    for (int i = 3; *sets != NULL; i++)
        all[i] = *sets++;
    sl_scope of_store = store_scope(r, device), scope = of_store;
    scope.role = scope.section = "attention";
    scope.also = &of_store;
    sl_limits limits = {.struct_size = SL_SIZE(sl_limits),
                        .max_context = max_context,
                        .max_rows = MAX_ROWS,
                        .max_seqs = MAX_SEQS,
                        .max_tree = MAX_TREE,
                        .n_workers = 1,
                        .compute = compute};
    SL_ERROR(err);
    if (store_make(r, &plugin, all, &scope, &limits, &err) < 0)
        fail_msg("%s", err_text_);
    unlink(name);
}

#endif
