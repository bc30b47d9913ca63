#!/usr/bin/env bash
# Proves the two commands of the README on a fresh Debian 12: builds a minimal root with debootstrap, puts the committed
# tree (git archive HEAD) into it, and runs ./demo and ./check there, as an unprepared user would.
#   tests/fresh.sh [--keep] [--only-packages]
# Needs root, debootstrap and git. The mirror is the one this machine's apt uses for Debian 12; on another system name one:
# SLUICE_DEBIAN_MIRROR=http://... . Downloaded packages are kept in ${XDG_CACHE_HOME:-~/.cache}/sluice-fresh for next time.
#   --keep           leave the root where it is, and say where
#   --only-packages  stop after the packages are installed, before anything is built
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
die() { printf 'fresh.sh: %s\n' "$*" >&2; exit 1; }
suite=bookworm

# ---- inside a mount namespace of its own: what is mounted here vanishes with this process --------------------------
if [ "${1:-}" = --in-namespace ]; then
    root=$2 cache=$3 only_packages=$4
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$cache" "$root/var/cache/apt/archives"
    inside() { # Nothing of this machine's environment goes in, but a proxy and CI's wish that warnings are errors.
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 ${CI:+CI="$CI"} \
            ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
            chroot "$root" sh -c "cd /usr/src/sluice && $1" </dev/null
    }
    if [ "$only_packages" = yes ]; then
        inside '. tools/common.sh && install_missing "$packages_build$packages_test"'
        exit
    fi
    begin=$SECONDS
    inside ./demo | tee "$root/tmp/demo.out"
    echo "fresh.sh: ./demo took $((SECONDS - begin)) s"
    [ "$(wc -w <"$root/tmp/demo.out")" -gt 50 ] || die "./demo generated no text"
    begin=$SECONDS
    inside ./check | tee "$root/tmp/check.out"
    echo "fresh.sh: ./check took $((SECONDS - begin)) s"
    tail -n 1 "$root/tmp/check.out" | grep -qE '^[1-9][0-9]* passed, 0 failed$' || die "./check did not pass"
    exit
fi

keep=no only_packages=no
for option in "$@"; do
    case $option in
    --keep) keep=yes ;;
    --only-packages) only_packages=yes ;;
    *) die "unknown option $option" ;;
    esac
done
[ "$(id -u)" -eq 0 ] || die "needs root"
for tool in debootstrap git unshare chroot; do
    command -v $tool >/dev/null 2>&1 || die "needs $tool"
done
mirror=${SLUICE_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' \
    'Created-By: Packages' 2>/dev/null | awk -v suite=$suite '$1 == "Debian" && $2 == suite && $3 == "main" { print $4; exit }')}
[ -n "$mirror" ] || die "no mirror for Debian $suite in this machine's apt sources; set SLUICE_DEBIAN_MIRROR"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice-fresh
mkdir -p "$cache/partial"
root=$(mktemp -d "${TMPDIR:-/tmp}/sluice-fresh.XXXXXX")
chmod 755 "$root"
clean() {
    if [ $keep = yes ]; then
        echo "fresh.sh: the root stays in $root"
    else
        rm -rf --one-file-system "$root"
    fi
}
trap clean EXIT
trap 'exit 130' INT TERM

begin=$SECONDS
echo "fresh.sh: Debian $suite from $mirror into $root"
debootstrap --variant=minbase --cache-dir="$cache" "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; rm -f "$root.log"; die "debootstrap failed"; }
rm -f "$root.log"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# A frozen mirror needs the same leave from apt inside as outside; the cache belongs to root.
{ apt-config dump | grep -E '^Acquire::(Check-|https?::Proxy|Retries)' || true
  echo 'APT::Sandbox::User "root";'; } >"$root/etc/apt/apt.conf.d/90outside"
mkdir -p "$root/usr/src/sluice"
git -C "$here" archive HEAD | tar -x -C "$root/usr/src/sluice"
echo "fresh.sh: the root is ready after $((SECONDS - begin)) s"
unshare --mount --propagation private "$here/tests/fresh.sh" --in-namespace "$root" "$cache" $only_packages
echo "fresh.sh: passed after $((SECONDS - begin)) s"
