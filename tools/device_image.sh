#!/bin/sh
# Compiles one .cu file into a fatbin and writes an assembler file that embeds it.
# Usage: device_image.sh NVCC INPUT.cu FATBIN ASSEMBLER DEPFILE SYMBOL NVCC-OPTION...
set -eu
nvcc=$1 input=$2 fatbin=$3 assembler=$4 depfile=$5 symbol=$6
shift 6
begin=$(date +%s)
"$nvcc" -fatbin -std=c++17 -O3 -lineinfo --use_fast_math -MD -MF "$depfile" "$@" -o "$fatbin" "$input"
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
echo "$symbol: $(($(date +%s) - begin)) s, $(wc -c <"$fatbin") bytes"
