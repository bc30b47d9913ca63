/* Rows of costs in one line, for plugins that answer "sl.cost/1" (sluice/cost.h). */
#ifndef SLUICE_LIB_COST_H
#define SLUICE_LIB_COST_H

#include <stdlib.h>
#include <string.h>

#include "sluice/cost.h"
#include "sluice/quant.h"

/* An operation that moves bytes of one kind. name lives as long as the instance; compute 0: of the engine's products.
 */
static inline void sl_cost_add(const sl_cost_sink *sink, uint32_t at, const char *name, double flops, uint32_t kind,
                               double bytes, double launches) {
    sl_cost_op op = {.struct_size = SL_SIZE(sl_cost_op), .name = name, .flops = flops, .launches = launches, .at = at};
    op.bytes[kind] = bytes;
    sink->add(sink->user, &op);
}

/* Of a chain or tree of that depth: tokens that a step brings when the next one stands among an accepted node's
 * children with the chance `accept`; the bonus token included. */
static inline double sl_cost_tokens(double accept, double depth) {
    double tokens = 1, chance = 1;
    for (double i = 0; i < depth; i++)
        tokens += chance *= accept;
    return tokens;
}

/* Sizes of packed groups that take a look into a file: remembered, since a report asks for each in every step. */
typedef struct sl_cost_sizes {
    double *bytes; /* [n_layers, 8, 8] by layer, first and last linear; 0: not asked yet */
} sl_cost_sizes;

static inline double *sl_cost_size_of(sl_cost_sizes *s, const sl_model_info *model, const sl_linear_group *g) {
    static const char *const linears[] = {"q", "k", "v", "o", "gate", "up", "down"};
    int end[2] = {7, 7};
    if (s->bytes == NULL && (s->bytes = calloc((size_t)model->n_layers * 64, sizeof *s->bytes)) == NULL)
        return NULL;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 2; k++)
            if (strcmp(g->linears[k == 0 ? 0 : g->n - 1]->role, linears[i]) == 0)
                end[k] = i;
    return &s->bytes[(int64_t)g->layer * 64 + end[0] * 8 + end[1]];
}

static inline double sl_cost_min(double a, double b) { return a < b ? a : b; }
static inline double sl_cost_max(double a, double b) { return a > b ? a : b; }

/* Packed weights: bytes read, and two operations to make a number of each. */
static inline void sl_cost_packed(sl_cost_linear *io, double bytes) {
    double weights = io->n_rows > 0 ? io->flops / (2 * io->n_rows) : 0;
    io->weight_bytes = bytes;
    io->flops += 2 * weights;
}

/* The mean over new rows of how many of `kept` rows a query sees that sees the first `sinks` and the newest `window`
 * rows, itself included; *inner: pairs of n new rows in such a window. */
static inline double sl_cost_window(double kept, double n, double sinks, double window, double *inner) {
    double seen = 0, pairs = 0;
    for (double i = 0; i < n; i++) { /* row i sees i + 1 new rows, itself included, as far as the window reaches */
        double own = sl_cost_min(i + 1, window), first = sl_cost_min(sinks, kept);
        pairs += own;
        seen += sl_cost_min(kept, first + sl_cost_max(0, window - (i + 1)));
    }
    *inner = pairs;
    return n > 0 ? seen / n : 0;
}

#endif
