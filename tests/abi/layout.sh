#!/bin/sh
# Prints the layout of the ABI: every struct, field, function pointer, constant and identifier of the public headers, as
# the compiler sees it. Usage: layout.sh [INCLUDE_DIR]; CC is the compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
include=$(cd "${1:-$here/../../sdk/include}" && pwd)
cc=${CC:-cc}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# sl.h first: the others build on it.
cd "$include"
for header in sluice/sl.h $(find sluice -name '*.h' ! -path sluice/sl.h | LC_ALL=C sort); do
    printf '#include "%s"\n' "$header"
done >"$tmp/dump.c"
# Unquoted: CC may carry options.
$cc -std=c11 -I"$include" -E -dM "$tmp/dump.c" | LC_ALL=C sort |
    sed -n 's/^#define \(SL_[A-Za-z0-9_]*\) \(["(0-9].*\)$/\1 \2/p' >"$tmp/macros"
$cc -std=c11 -I"$include" -E -P "$tmp/dump.c" >"$tmp/all.i"
# The program as an argument: mawk 1.3.4-20240123 (Ubuntu 24.04) misreads program files of more than 4096 bytes.
awk -v macros="$tmp/macros" "$(cat "$here/layout.awk")" "$tmp/all.i" >"$tmp/main.c"
cat "$tmp/main.c" >>"$tmp/dump.c"
$cc -std=c11 -Wall -I"$include" -o "$tmp/dump" "$tmp/dump.c"
"$tmp/dump"
