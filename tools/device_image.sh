#!/bin/sh
# Compiles one .cu file into a fatbin and writes an assembler file that embeds it.
# Usage: device_image.sh NVCC INPUT.cu FATBIN ASSEMBLER DEPFILE SYMBOL NVCC-OPTION...
# SLUICE_IMAGE_CACHE=DIR: images are kept there by compiler, options and everything that was included, so that builds with
# other host compilers or sanitizers, whose device code is the same, need not compile it again.
set -eu
nvcc=$1 input=$2 fatbin=$3 assembler=$4 depfile=$5 symbol=$6
shift 6
begin=$(date +%s) from=
compile() { "$nvcc" -fatbin -std=c++17 -O3 -lineinfo --use_fast_math -MD -MF "$depfile" "$@" -o "$fatbin" "$input"; }
if [ -n "${SLUICE_IMAGE_CACHE:-}" ]; then
    "$nvcc" -M -MF "$depfile" -std=c++17 "$@" "$input"
    key=$({
        "$nvcc" --version
        printf '%s\n' "$@" && cat "$0"
        sed 's/^[^:]*://; s/\\$//' "$depfile" | tr ' ' '\n' | grep . | LC_ALL=C sort -u | tr '\n' '\0' | xargs -0 cat
    } | sha256sum | cut -c 1-40)
    kept=$SLUICE_IMAGE_CACHE/$symbol-$key
    if [ -e "$kept" ]; then
        cp "$kept" "$fatbin"
        from=", kept from another build"
    else
        compile "$@"
        mkdir -p "$SLUICE_IMAGE_CACHE"
        cp "$fatbin" "$kept.$$" && mv "$kept.$$" "$kept"
    fi
else
    compile "$@"
fi
# ninja wants the first output in front of the colon
sed -i "1s|^[^:]*:|$fatbin:|" "$depfile"
case $fatbin in /*) path=$fatbin ;; *) path=$PWD/$fatbin ;; esac
cat >"$assembler" <<END
    .section .rodata
    .balign 64
    .globl $symbol
    .hidden $symbol
$symbol:
    .incbin "$path"
    .globl ${symbol}_end
    .hidden ${symbol}_end
${symbol}_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
END
echo "device image $symbol: $(($(date +%s) - begin)) s, $(wc -c <"$fatbin") bytes$from"
