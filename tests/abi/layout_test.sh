#!/bin/sh
# The layout of the ABI equals the golden file of its version, and the dump notices what it is there to notice.
. "$(dirname "$0")/../support/tap.sh"
here=$(cd "$(dirname "$0")" && pwd)
include=$here/../../sdk/include
golden=$here/$("$here/golden.sh")

same() {
    "$here/layout.sh" >"$tap_tmp/now" && diff -u "$golden" "$tap_tmp/now" && return
    echo "meant? then run tests/abi/update.sh and say so in docs/abi-changes.md"
    return 1
}
expect "layout equals $(basename "$golden")" same

# Mutations of a copy: SED edits sl.h, the dump must fail with TEXT.
refuses() { # name sed text
    rm -rf "$tap_tmp/include" && cp -r "$include" "$tap_tmp/include"
    sed "$2" "$include/sluice/sl.h" >"$tap_tmp/include/sluice/sl.h"
    expect_failure "$1" "$3" "$here/layout.sh" "$tap_tmp/include"
}
refuses "a struct without its mark" '/^SL_ABI_STRUCT(sl_error/d' 'sl_error: no SL_ABI_STRUCT'
refuses "a struct without struct_size" '/^typedef struct sl_error/{n;d;}' 'sl_error: does not begin with'
refuses "a field behind the marked one" 's/^    char \*text;.*/&\n    void *more;/' 'sl_error'
refuses "tail padding" 's/^    char \*text;.*/&\n    uint32_t more;/; s/(sl_error, text)/(sl_error, more)/' 'sl_error: tail padding'
refuses "a type without fixed size" 's/^    uint32_t cap;/    unsigned cap;/' 'type without a fixed size: unsigned cap'
refuses "a nested struct" 's/^    uint32_t cap;/    struct { uint32_t a; } cap;/' 'sl_error: nested struct'

differs() { # name sed
    rm -rf "$tap_tmp/include" && cp -r "$include" "$tap_tmp/include"
    sed "$2" "$include/sluice/sl.h" >"$tap_tmp/include/sluice/sl.h"
    "$here/layout.sh" "$tap_tmp/include" >"$tap_tmp/mutated" 2>"$tap_tmp/output" || {
        not_ok "$1" "$tap_tmp/output"
        return
    }
    "$here/layout.sh" >"$tap_tmp/now"
    if cmp -s "$tap_tmp/now" "$tap_tmp/mutated"; then not_ok "$1"; else ok "$1"; fi
}
differs "an array that grew shows" 's/^\(#define SL_MAX_DIMS\) .*/\1 6/'
differs "a constant that moved shows" 's/X(SL_E_IO, -8,/X(SL_E_IO, -18,/'
differs "a field of another type shows" 's/^    uint32_t cap;/    int32_t cap;/'
done_testing
