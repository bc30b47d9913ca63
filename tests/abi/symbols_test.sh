#!/bin/sh
# Every package exports exactly one symbol, needs no library beyond the C and C++ run-time (and those that a table here
# grants it), and can never be unloaded.
# Usage: symbols_test.sh PLUGIN_DIR
. "$(dirname "$0")/../support/tap.sh"

one_symbol() {
    LC_ALL=C nm -D --defined-only "$1" | sed 's/.* //; s/@.*//' | grep -vxF SLUICE_PACKAGE_0 >"$tap_tmp/symbols"
    echo "exports: $(paste -sd' ' "$tap_tmp/symbols")"
    [ "$(cat "$tap_tmp/symbols")" = sl_package_0 ]
}
# Libraries that single packages may need besides: name of the package, pattern of the library, pattern of its symbols.
# Symbols of such a library may lack a version.
granted() { # PACKAGE COLUMN
    awk -v so="$(basename "$1")" -v column="$2" '$1 == so { print $column; found = 1 } END { if (!found) print "^$" }' <<'TABLE'
kvcache_shadowkv.so ^lib(lapack|blas)\.so\.[0-9]+$ ^[sd][a-z]+_$
TABLE
}
few_libraries() {
    LC_ALL=C readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' >"$tap_tmp/needed"
    echo "needs: $(paste -sd' ' "$tap_tmp/needed")"
    ! grep -vE '^(lib(c|m|gcc_s|stdc\+\+)\.so\.[0-9]+|ld-linux.*\.so\.[0-9]+)$' "$tap_tmp/needed" |
        grep -vE "$(granted "$1" 2)"
}
stays_loaded() { LC_ALL=C readelf -dW "$1" | grep -E '\(FLAGS_1\).*NODELETE'; }
no_search_path() { ! LC_ALL=C readelf -dW "$1" | grep -E '\((RPATH|RUNPATH)\)'; }
# Symbols of the run-time libraries carry a version (malloc@GLIBC_2.2.5); weak ones may stay undefined.
nothing_open() {
    ! LC_ALL=C nm -D --undefined-only "$1" | sed -n 's/^ *U //p' | grep -vE '@(GLIBC|GCC|GLIBCXX|CXXABI)_' |
        grep -vE "$(granted "$1" 3)"
}
named_by_place() { # build/plugins/<family>/<id>/<family>_<id>.so
    id=$(basename "$(dirname "$1")")
    family=$(basename "$(dirname "$(dirname "$1")")")
    echo "expected the name ${family}_$id.so"
    [ "$(basename "$1")" = "${family}_$id.so" ]
}

find "$1" -name '*.so' ! -path '*.p/*' | LC_ALL=C sort >"$tap_tmp/packages"
[ -s "$tap_tmp/packages" ] || skip "packages" "no package is built below plugins/"
while read -r so; do
    name=$(basename "$so")
    expect "$name exports one symbol" one_symbol "$so"
    expect "$name needs only the run-time" few_libraries "$so"
    expect "$name has no undefined symbol" nothing_open "$so"
    expect "$name is NODELETE" stays_loaded "$so"
    expect "$name has no RPATH" no_search_path "$so"
    expect "$name lies in its place" named_by_place "$so"
done <"$tap_tmp/packages"
done_testing
