#!/usr/bin/env bash
# Collects what is run on a GPU machine that has none of our libraries: the program, the CUDA module, plugins, tests and
# benches of device code, the shared libraries they need, and go.sh, which runs them there.
#   tests/cuda/run.sh [--build DIR] [--stage DIR] [--no-build] [--pack]
# --pack: also as one file beside it, DIR.tar.xz: each test holds all images, and what is the same is packed once.
# Prints the folder and its size. The source tree (models/tiny, tests/data) is expected beside it on the other machine; the
# folder's go.sh finds it two folders up, or in SLUICE_SOURCE.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build stage=.stage/gpu compile=yes pack=no
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=${2:?--build needs a directory}; shift ;;
    --stage) stage=${2:?--stage needs a directory}; shift ;;
    --no-build) compile=no ;;
    --pack) pack=yes ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
[ -e "$build/build.ninja" ] || { echo "run.sh: $build/ is no build directory (meson setup $build)" >&2; exit 1; }

# Programs of the suite "cuda", and benches of device code: <name>_cuda_bench, or <name>_bench that links the test host.
all=$(ninja -C "$build" -t targets all)
names=$(meson test -C "$build" --list --suite cuda 2>/dev/null | sed -n 's|.*/ *\([A-Za-z0-9_]*\) *$|\1|p' | sort -u | grep -v '_fake$' || true)
target_of() { printf '%s\n' "$all" | sed -n "s|^\(\([^:]*/\)\{0,1\}$1\): c_LINKER.*|\1|p" | head -n 1; }
tests= benches= helpers=
for name in $names; do
    target=$(target_of "$name")
    [ -n "$target" ] || target=$(target_of "${name}_test")
    [ -n "$target" ] || { echo "run.sh: no target for the test $name" >&2; exit 1; }
    tests+="$target "
done
for target in $(printf '%s\n' "$all" | sed -n 's|^\([^:]*_bench\): c_LINKER.*|\1|p' | sort -u); do
    case $target in
    */kernels_bench | */kernels_cuda_bench) helpers+="$target " ;; # of `sluice bench kernels`, which looks beside itself
    *cuda_bench | */cuda/*_bench) benches+="$target " ;;
    *) ! ninja -C "$build" -t query "$target" | grep -q 'testhost' || benches+="$target " ;;
    esac
done
plugins=$(printf '%s\n' "$all" | sed -n 's|^\(plugins/[^:]*\.so\): c_LINKER.*|\1|p')
module=$(printf '%s\n' "$all" | sed -n 's|^\([^:]*sluice-cuda\.so\): c_LINKER.*|\1|p' | head -n 1)
[ -n "$module" ] || echo "run.sh: this build has no sluice-cuda.so: what is collected runs on the CPU" >&2
steps=$(target_of decode_steps)
[ $compile = no ] || ninja -C "$build" sluice $steps $module $plugins $tests $benches $helpers >&2

rm -rf "$stage"
mkdir -p "$stage/lib" "$stage/tests" "$stage/benches"
put() { strip -o "$2" "$build/$1" 2>/dev/null || cp "$build/$1" "$2"; chmod +x "$2"; }
put sluice "$stage/sluice"
put "$steps" "$stage/decode_steps"
[ -z "$module" ] || put "$module" "$stage/sluice-cuda.so"
for p in $plugins; do
    mkdir -p "$stage/$(dirname "$p")"
    put "$p" "$stage/$p"
done
for t in $tests; do put "$t" "$stage/tests/${t##*/}"; done
for b in $benches; do put "$b" "$stage/benches/${b##*/}"; done
for h in $helpers; do put "$h" "$stage/${h##*/}"; done
# Shared libraries, but for the C library's own, which must be that of the machine.
find "$stage" -type f -perm -u+x -print0 | xargs -0 -n 1 ldd 2>/dev/null |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*|libcuda|libgcc_s)\.so' |
    while read -r library; do cp -L "$library" "$stage/lib/${library##*/}"; done
cp tests/cuda/go.sh tests/record.sh "$stage/"
git rev-parse HEAD >"$stage/commit" 2>/dev/null || echo unknown >"$stage/commit"
git diff --quiet HEAD 2>/dev/null || echo "with changes that are in no commit" >>"$stage/commit"
set -- $tests
echo "$stage: $# tests, $(set -- $benches; echo $#) benches, $(du -sh "$stage" | cut -f1)"
if [ $pack = yes ]; then # a window that reaches back over several tests
    tar -C "$(dirname "$stage")" -cf - "$(basename "$stage")" | xz -T1 --lzma2=preset=1,dict=192MiB >"$stage.tar.xz"
    echo "$stage.tar.xz: $(du -sh "$stage.tar.xz" | cut -f1); there: tar -C $(dirname "$stage") -xJf $stage.tar.xz"
fi
echo "there: bash $stage/go.sh test | bench | e2e | model | bytes (--help)"
