#!/bin/sh
# The rooms of the source tree and their order: who may include whom, that core and cli name no plugin, that file names
# are unique, that Python stays in recipes/, and that nothing half done or of one machine is left in a file.
# Usage: rooms.sh [ROOT]. Prints "file:line: what is wrong" for each fault; exit status 1 if there was one.
set -eu
cd "${1:-$(dirname "$0")/..}"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

find . \( -name .git -o -path './build*' -o -path './.cache' -o -path './shared' -o -path './.stage' \) -prune -o \( -type f -o -type l \) -print |
    sed 's|^\./||' | LC_ALL=C sort >"$tmp/files"
grep -E '\.(c|h|cc|cpp|hpp|cu|cuh)$' "$tmp/files" >"$tmp/sources" || true
: >"$tmp/faults"

# ---- includes ------------------------------------------------------------------------------------------------------
# A room may include itself and what stands behind it. "self": only its own folder of that depth. Tests, benches and fuzz
# targets that stand beside what they test are no part of the room.
cat >"$tmp/order" <<'RULES'
sdk/include sdk/include
sdk/lib sdk/include sdk/lib
sdk/kernels sdk/include sdk/lib sdk/kernels
core sdk/include sdk/lib sdk/kernels core
plugins sdk/include sdk/lib self
cli core/include cli
RULES
while read -r file; do
    case $file in *_test.* | *_bench.* | *_fuzz.*) continue ;; esac
    sed -n 's|^[ \t]*#[ \t]*include[ \t]*\([<"]\)\([^>"]*\)[>"].*|\1\2|p;T;=' "$file" | paste -d' ' - - | sed "s|^|$file |"
done <"$tmp/sources" >"$tmp/includes"
# What a build makes is in no room: output: 'name' of a meson.build.
grep -E '(^|/)meson\.build$' "$tmp/files" | tr '\n' '\0' | xargs -0 sed -n "s/.*output: *'\([^']*\)'.*/\1/p" >"$tmp/made"
awk -v files="$tmp/files" -v made="$tmp/made" -v order="$tmp/order" '
    function base(path) { sub(/.*\//, "", path); return path }
    # The file that an include means: of those with its name, one whose path ends as the include says; the own room first.
    function resolve(target, room,    n, i, path, found) {
        while (sub(/^\.\.?\//, "", target)) {}
        n = split(where[base(target)], path, " ")
        for (i = 1; i <= n; i++) {
            if (substr("/" path[i], length(path[i]) - length(target) + 1) != "/" target) continue
            if (found == "" || inside(path[i], room)) found = path[i]
        }
        return found
    }
    function inside(path, room) { return index(path, room "/") == 1 }
    function self(path,    part) { split(path, part, "/"); return part[1] "/" part[2] "/" part[3] }
    BEGIN {
        while ((getline path < files) > 0) where[base(path)] = where[base(path)] " " path
        while ((getline path < made) > 0) generated[path] = 1
        while ((getline rule < order) > 0) {
            n_rooms++
            room[n_rooms] = rule
            sub(/ .*/, "", room[n_rooms])
            allowed[n_rooms] = substr(rule, length(room[n_rooms]) + 2)
        }
    }
    {
        quote = substr($2, 1, 1)
        target = substr($2, 2)
        if (quote == "<" && target !~ /^sluice\//) next # a system header
        if (base(target) in generated) next
        for (r = 1; r <= n_rooms; r++) {
            if (!inside($1, room[r])) continue
            meant = resolve(target, room[r])
            if (meant == "") {
                print $1 ":" $3 ": includes " target ", which is not in the tree"
                continue
            }
            n = split(allowed[r], may, " ")
            good = 0
            for (i = 1; i <= n; i++)
                good = good || inside(meant, may[i] == "self" ? self($1) : may[i])
            if (!good) print $1 ":" $3 ": " room[r] " must not include " meant
        }
    }' "$tmp/includes" >>"$tmp/faults"

# ---- core and cli name no plugin -----------------------------------------------------------------------------------
# "none" is a word of the INI as well: `[speculation] plugin = none` means that nothing is drafted. Another word that only looks
# like a plugin's id is followed by a remark that ends in "no plugin".
ids=$(sed -n 's|^plugins/\([a-z0-9_]*\)/\([a-z0-9_]*\)/meson\.build$|\2|p' "$tmp/files" | grep -vx none | paste -sd'|')
if [ -n "$ids" ]; then
    grep -E '^(core|cli)/' "$tmp/sources" | grep -vE '_(test|bench|fuzz)\.' >"$tmp/neutral" || true
    while read -r file; do
        grep -nE "\"([a-z]+[._/])?($ids)\"" "$file" | grep -v 'no plugin \*/' | sed "s|^\([0-9]*\):|$file:\1: names a plugin:|" || true
    done <"$tmp/neutral" >>"$tmp/faults"
fi

# ---- names, languages, leftovers -----------------------------------------------------------------------------------
awk '{ name = $0; sub(/.*\//, "", name)
       if (name in seen) print $0 ":1: the same file name as " seen[name]
       if (name != tolower(name)) print $0 ":1: file name is not lower case"
       seen[name] = $0 }' "$tmp/sources" >>"$tmp/faults"
while read -r file; do
    case $file in
    recipes/* | *.safetensors | *.so) continue ;;
    *.py | *.ipynb) echo "$file:1: Python outside recipes/" ;;
    *) head -n 1 "$file" 2>/dev/null | tr -d '\0' | grep -qE '^#!.*python' && echo "$file:1: Python outside recipes/" ;;
    esac
done <"$tmp/files" >>"$tmp/faults" || true
# Split so that this file does not contain what it looks for. Absolute paths may name only what every machine has.
marks='TO''DO|FIX''ME|XX''X'
grep -E '\.(c|h|cu|cuh|sh|awk|md|ini|map|py)$|(^|/)(meson\.build|meson_options\.txt|demo|check|run)$' "$tmp/files" |
    tr '\n' '\0' | xargs -0 grep -nHE "(^|[^A-Za-z0-9_])($marks)([^A-Za-z0-9_]|\$)" |
    sed 's|^\([^:]*:[0-9]*\):|\1: left over: |' >>"$tmp/faults" || true
grep -E '\.(c|h|cu|cuh|sh|awk|md|ini|py|json)$|(^|/)(meson\.build|demo|check|run)$' "$tmp/files" | grep -v '^models/' |
    tr '\n' '\0' | xargs -0 grep -nHoE "(^|[[:space:]\"'=(:])/[a-z]+/[A-Za-z0-9_.-]+" |
    grep -vE "[[:space:]\"'=(:]/(usr|etc|proc|sys|dev|tmp|var|bin|sbin|lib|run|opt|v1|nonexistent|path)/" |
    sed 's|^\([^:]*:[0-9]*\):|\1: a path of one machine: |' >>"$tmp/faults" || true

cat "$tmp/faults"
[ ! -s "$tmp/faults" ]
