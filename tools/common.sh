# Sourced by demo, check and .ci/run: which packages are missing, how a build directory is made. Not a program.
# The callers stand in the repository root.

# What each step needs: Debian's (and Ubuntu's) package, and how to see that it is there - a command, a header, a
# pkg-config module - so that a tool installed in another way counts too.
packages_build="
gcc              cmd gcc
libc6-dev        cpp stdio.h
meson            cmd meson
ninja-build      cmd ninja
pkg-config       cmd pkg-config
libinih-dev      pc  inih
libjansson-dev   pc  jansson
libpcre2-dev     pc  libpcre2-8
libutf8proc-dev  pc  libutf8proc
liblapack-dev    pc  lapack
"
packages_test="
g++              cmd g++
binutils         cmd readelf
libcmocka-dev    pc  cmocka
"
packages_clang="
clang            cmd clang++
"
packages_browser="
chromium         cmd chromium
"
packages_fuzz="
clang            cmd clang
libclang-rt-dev  cfuzz -
"

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

have() { # kind name
    case $1 in
    cmd) command -v "$2" >/dev/null 2>&1 ;;
    cpp) echo "#include <$2>" | gcc -E - >/dev/null 2>&1 ;;
    pc) pkg-config --exists "$2" >/dev/null 2>&1 ;;
    cfuzz) # can clang link a libFuzzer target? Into a file of its own: a failing linker removes what it was to write
        local target status=0
        target=$(mktemp)
        echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n == 1; }' |
            clang -x c -fsanitize=fuzzer,address,undefined -o "$target" - >/dev/null 2>&1 || status=$?
        rm -f "$target"
        return $status ;;
    esac
}

missing() { # list
    printf '%s\n' "$1" | while read -r package kind name; do
        [ -z "$package" ] || have "$kind" "$name" || printf '%s ' "$package"
    done
}

# Installs what is missing from a list. Only this needs root; everything else runs as the caller.
install_missing() { # list
    want=$(missing "$1")
    [ -n "$want" ] || return 0
    say "missing packages: $want"
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1 ||
        die "this is not a Debian or Ubuntu system; please install what these packages hold, then run me again: $want"
    root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            die "neither root nor sudo here; as root: apt-get install --no-install-recommends $want"
        root=sudo
        say "installing them with sudo (only this step)"
    else
        say "installing them"
    fi
    # Unquoted: several words. The debconf front end must never ask.
    { $root apt-get -qq update &&
        $root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
            install --no-install-recommends $want </dev/null >/dev/null; } ||
        die "apt-get could not install: $want"
    left=$(missing "$1")
    [ -z "$left" ] || die "still missing after apt-get: $left"
}

# Configures a build directory, or brings an old one up to date; one that meson cannot use any more (made from another
# source path, by another meson) is made anew. configure DIR OPTIONS...
configure() {
    dir=$1
    shift
    log=$(mktemp)
    info=$dir/meson-info/meson-info.json
    if [ -e "$dir/build.ninja" ] && grep -qsF "\"source\": \"$PWD\"" "$info" &&
        grep -qsF "\"full\": \"$(meson --version)\"" "$info" &&
        meson setup --reconfigure "$dir" "$@" >"$log" 2>&1; then
        rm -f "$log"
        return
    fi
    if [ -e "$dir" ] && [ ! -d "$dir/meson-private" ] && [ -n "$(ls -A "$dir")" ]; then
        die "$dir/ is there and is not a build directory of meson; please move it away"
    fi
    rm -rf "$dir"
    meson setup "$dir" "$@" >"$log" 2>&1 || { cat "$log" >&2; die "meson setup $dir failed"; }
    rm -f "$log"
}

# CI must not miss device code where it can be compiled: -Dcuda=enabled fails without nvcc. Elsewhere what is there is used.
cuda_option() {
    if [ "${CI:-}" = true ] && { command -v nvcc >/dev/null 2>&1 || [ -d /usr/local/cuda ]; }; then
        echo -Dcuda=enabled
    else
        echo -Dcuda=auto
    fi
}

# What compiles device code, and for what.
tell_nvcc() {
    local nvcc
    nvcc=$(command -v nvcc 2>/dev/null) || nvcc=/usr/local/cuda/bin/nvcc
    if [ -x "$nvcc" ]; then
        say "device code: $nvcc, $("$nvcc" --version | sed -n 's/.*release \([^,]*\), \(V[0-9.]*\).*/\1 (\2)/p')"
    else
        say "device code: there is no nvcc, so none is built"
    fi
}

# Seconds and bytes of the device images that the build in $log made; CI has six minutes of two cores for them.
tell_images() {
    grep '^device image ' "$log" || return 0
    sed -n 's/^device image .*: \([0-9]*\) s, \([0-9]*\) bytes.*/\1 \2/p' "$log" |
        awk '{ n++; s += $1; b += $2 } END { printf "%d device images: %d s of nvcc, %d bytes%s\n", n, s, b, s > 720 ? "; that is MORE THAN 6 MINUTES OF 2 CORES" : "" }'
}

# build DIR [TARGET]: quiet unless it fails or warns.
build() {
    log=$(mktemp)
    ninja -C "$1" ${2:-} ${jobs:+-j "$jobs"} >"$log" 2>&1 || { cat "$log" >&2; die "build failed in $1/"; }
    ! grep -n 'warning:' "$log" >&2 || say "the build gave warnings, above"
    tell_images
    rm -f "$log"
}
