#!/bin/sh
# Prints the name of the golden file that belongs to the ABI version in sl.h: layout-<major>.<minor>.txt
sed -n 's/^#define SL_ABI_M[AI][JN]OR \([0-9]*\)u.*/\1/p' "$(dirname "$0")/../../sdk/include/sluice/sl.h" |
    paste -sd. | sed 's/.*/layout-&.txt/'
