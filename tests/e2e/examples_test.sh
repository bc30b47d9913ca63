#!/bin/sh
# Every INI of examples/ and docs/report/ says what it is for; those of examples/ stand in examples/README.md and run on the
# embedded model. Speaks TAP.  examples_test.sh SLUICE
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../support/tap.sh"
sluice=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$here/../.." || exit 1

says_what() { # file: the first line is a comment, one sentence
    head -n 1 "$1" | grep -qE '^; [A-Z].{20,}\.$' || { echo "$1: the first line must say what it is for"; return 1; }
}
is_listed() { grep -qF "($(basename "$1"))" examples/README.md || { echo "$1 is not in examples/README.md"; return 1; }; }
generates() { # file options...
    file=$1
    shift
    timeout 60 "$sluice" run --config "$file" "$@" -t 1 -n 8 --seed 1 -p "$prompt" >"$tap_tmp/text" || return 1
    [ "$(wc -c <"$tap_tmp/text")" -gt 8 ] || { echo "no text came out"; return 1; }
}
runs() { says_what "$1" && is_listed "$1" && generates "$@"; }

# Long enough that caches are cut, heads chosen, pages left out.
prompt=$(head -c 2600 recipes/golden/prose_watson.txt)
head -c 3000 recipes/golden/prose_watson.txt >"$tap_tmp/text.txt"
for file in examples/*.ini; do
    if grep -q 'sluice quantize' "$file"; then # what its comment says
        expect "$file packs" "$sluice" quantize --config "$file" --text "$tap_tmp/text.txt" -o "$tap_tmp/packed.safetensors" --samples 1 --length 64
        expect "$file runs" runs "$file" --set "quant.artifact=$tap_tmp/packed.safetensors"
    else
        expect "$file runs" runs "$file"
    fi
done
for file in docs/report/configs/*.ini; do
    expect "$file says what it is" says_what "$file"
done

# What an example promises: the same tokens as without its technique.
"$sluice" run --config examples/dense.ini -t 1 -n 24 -q -p "$prompt" >"$tap_tmp/dense"
for name in lossless_only fastest_greedy draft_model self_drafting; do
    "$sluice" run --config examples/$name.ini -t 1 -n 24 -q -p "$prompt" >"$tap_tmp/drafted"
    expect "examples/$name.ini changes no token" cmp "$tap_tmp/dense" "$tap_tmp/drafted"
done
done_testing
