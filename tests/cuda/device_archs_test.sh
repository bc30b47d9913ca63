#!/bin/sh
# Every device image holds code for all the architectures that were asked for, and for no other.
# device_archs_test.sh FOLDER ARCHS IMAGE... -- IMAGE...: names of images with code for ARCHS (comma-separated), and of
# those that are for compute capability 9.0 alone. Reads the containers itself: a machine that builds need not have
# cuobjdump. "--list FILE" says what is in one image.
. "$(dirname "$0")/../support/tap.sh"

# A little-endian number of a file: FILE OFFSET BYTES
number() { od -An -v -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# Architectures in a fatbin, sorted. It is a chain of blocks: magic, version, size of the header (2 bytes at 6), size of
# what follows (8 at 8); in a block entries: kind (2: 1 is PTX), size of the header (4 at 4), size of the data (8 at 8),
# architecture (4 at 28), flags (8 at 40; bit 20: code for that architecture alone, "a").
archs_of() {
    at=0 size=$(wc -c <"$1")
    while [ "$at" -lt "$size" ]; do
        [ "$(number "$1" "$at" 4)" = 3126193488 ] || { echo "no-fatbin-at-$at" && return; }
        end=$((at + $(number "$1" $((at + 6)) 2) + $(number "$1" $((at + 8)) 8)))
        at=$((at + $(number "$1" $((at + 6)) 2)))
        while [ "$at" -lt "$end" ]; do
            kind=$([ "$(number "$1" "$at" 2)" = 1 ] && echo compute || echo sm)
            own=$([ $(($(number "$1" $((at + 40)) 8) >> 20 & 1)) = 1 ] && echo a || echo)
            echo "${kind}_$(number "$1" $((at + 28)) 4)$own"
            at=$((at + $(number "$1" $((at + 4)) 4) + $(number "$1" $((at + 8)) 8)))
        done
    done | LC_ALL=C sort | paste -sd, -
}

if [ "$1" = --list ]; then
    archs_of "$2"
    exit
fi
folder=$1 wanted=$(printf '%s' "$2" | tr , '\n' | LC_ALL=C sort | paste -sd, -)
shift 2
check() {
    found=$(archs_of "$folder/$1.fatbin")
    [ "$found" = "$2" ] || { echo "holds $found, expected $2" && return 1; }
}
for image; do
    if [ "$image" = -- ]; then
        wanted=sm_90a
    else
        expect "$image: $wanted" check "$image" "$wanted"
    fi
done
done_testing
