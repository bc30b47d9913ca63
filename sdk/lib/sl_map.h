/* Maps applied to rows: the transforms of sluice/work.h in plain C.
 *
 * Sums run in the order of the input's index, element by element, so that results depend neither on the number of rows
 * nor on the instruction set.
 */
#ifndef SLUICE_LIB_MAP_H
#define SLUICE_LIB_MAP_H

#include <stdint.h>

#include "sluice/work.h"

/* Can this map be applied to rows of that width? Sizes, orders and kinds are checked: 0 or a static text that says what
 * is wrong.   [any] */
const char *sl_map_fault(const sl_map *map, int64_t width);

/* x [rows, width] in place; backwards: the inverse (of ROUND: nothing). The map fits (sl_map_fault).   [worker] */
void sl_map_rows(const sl_map *map, int backwards, float *x, int64_t rows, int64_t width);

/* One row of f64, HADAMARD alone: for folding it into weights.   [any] */
void sl_map_hadamard_f64(const sl_map *map, int backwards, double *x, int64_t width);

#endif
