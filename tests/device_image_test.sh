#!/bin/sh
# tools/device_image.sh embeds what the compiler wrote, and reuses an image when, and only when, nothing of it has changed.
# A script stands in for nvcc: it counts how often it compiles.
. "$(dirname "$0")/support/tap.sh"
here=$(cd "$(dirname "$0")" && pwd)
cd "$tap_tmp" || exit 1
unset SLUICE_IMAGE_CACHE # of the build that runs this
cat >nvcc <<'END'
#!/bin/sh
[ "$1" != --version ] || { cat version; exit; }
depends=no
while [ $# -gt 1 ]; do
    case $1 in
    -M) depends=yes ;;
    -MF) depfile=$2; shift ;;
    -o) output=$2; shift ;;
    esac
    shift
done
printf 'wrong.o : \\\n %s \\\n  header.cuh\n' "$1" >"$depfile"
[ $depends = yes ] || { echo once >>compiled; cat "$1" header.cuh >"$output"; }
END
chmod +x nvcc
echo 1 >version
echo "kernel" >k.cu
echo "header" >header.cuh
image() { sh "$here/../tools/device_image.sh" ./nvcc k.cu "${out:-k.fatbin}" k.S k.d slk_image_k "${arch:--arch=sm_90a}" >said 2>&1; }
compiled() { wc -l <compiled | tr -d ' '; }
count_is() { [ "$(compiled)" = "$1" ]; }

expect "an image is compiled" image
expect "... its bytes are embedded" grep -qF ".incbin \"$PWD/k.fatbin\"" k.S
expect "... ninja learns what it depends on" grep -q "^k.fatbin:" k.d
expect "... time and size are told" grep -Eq '^device image slk_image_k: [0-9]+ s, [0-9]+ bytes$' said
image
expect "without a cache it is compiled again" count_is 2
SLUICE_IMAGE_CACHE=$tap_tmp/cache
export SLUICE_IMAGE_CACHE
image
expect "with a cache it is compiled once" count_is 3
out=other.fatbin image
expect "... and then kept" count_is 3
expect "... which is said" grep -q "kept from another build" said
expect "... the same bytes" cmp k.fatbin other.fatbin
expect "... for the other output" grep -qF ".incbin \"$PWD/other.fatbin\"" k.S
expect "... with its dependences" grep -q "^other.fatbin:" k.d
echo "changed" >header.cuh
image
expect "a changed header is seen" count_is 4
arch=-arch=sm_80 image
expect "... other options too" count_is 5
echo 2 >version
image
expect "... another compiler too" count_is 6
printf '#!/bin/sh\necho broken code >&2\nexit 1\n' >nvcc
told() { image || { cat said && return 1; }; }
expect_failure "a compiler that fails is a failure" "broken code" told
done_testing
