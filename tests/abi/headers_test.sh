#!/bin/sh
# Every public header compiles alone, without a warning: C11 by gcc and clang, C++17 by g++ and clang++, CUDA by nvcc.
# Usage: headers_test.sh INCLUDE_DIR COMPILER...   A compiler that is not installed is a skipped case with that reason.
. "$(dirname "$0")/../support/tap.sh"
include=$1
shift

compile() { # compiler header
    echo "#include \"$2\"" >"$tap_tmp/alone.c"
    case $1 in
    nvcc) # the device pass; what the host pass sees is C++17, above
        cp "$tap_tmp/alone.c" "$tap_tmp/alone.cu"
        nvcc -std=c++17 -I"$include" -Werror all-warnings -Wno-deprecated-gpu-targets -ptx -o "$tap_tmp/alone.ptx" \
            "$tap_tmp/alone.cu" ;;
    *++) "$1" -x c++ -std=c++17 -I"$include" -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$tap_tmp/alone.c" ;;
    *) "$1" -std=c11 -I"$include" -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$tap_tmp/alone.c" ;;
    esac
}

headers=$(cd "$include" && find sluice -name '*.h' | LC_ALL=C sort)
[ -n "$headers" ] || not_ok "headers found in $include"
for compiler in "$@"; do
    command -v "$compiler" >/dev/null 2>&1 || {
        skip "$compiler: every header alone" "$compiler is not installed"
        continue
    }
    for header in $headers; do
        expect "$compiler: $header alone" compile "$compiler" "$header"
    done
done
done_testing
