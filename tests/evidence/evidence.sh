#!/usr/bin/env bash
# The figures measured on GPUs: docs/results/cuda/*.json, and what docs/results.md shows of them.
#   evidence.sh PROGRAM [--write] [ROOT]
# PROGRAM is the built tests/evidence. Checks the rows, that their commits are in this history, and that docs/results.md is
# what --write would write between its two marks. In a shallow clone commits cannot be looked up; it says so.
set -uo pipefail
program=${1:?evidence.sh PROGRAM [--write] [ROOT]}
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
[ -x "$program" ] || { echo "evidence.sh: $program is not built"; exit 2; }
shift
write=no
[ "${1:-}" != --write ] || { write=yes; shift; }
cd "${1:-$(dirname "$0")/../..}" || exit 2
begin='<!-- figures of results/cuda, written by tests/evidence/evidence.sh -->' end='<!-- end of the figures of results/cuda -->'
shopt -s nullglob
files=(docs/results/cuda/*.json)
bad=0

"$program" check "${files[@]}" || bad=1

if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "no git repository here: commits of rows were not looked up"
elif [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    echo "a shallow clone: commits of rows were not looked up"
elif [ ${#files[@]} -gt 0 ]; then
    while read -r commit file; do
        git merge-base --is-ancestor "$commit^{commit}" HEAD 2>/dev/null ||
            { echo "$file: commit $commit is not in the history"; bad=1; }
    done < <("$program" commits "${files[@]}" | sort -u)
fi

# Everything up to the first mark, the tables, everything from the second on.
for mark in "$begin" "$end"; do
    [ "$(grep -cxF -- "$mark" docs/results.md)" = 1 ] || { echo "docs/results.md: expected one line \"$mark\""; exit 1; }
done
new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    sed "/^${begin//\//\\/}\$/q" docs/results.md
    "$program" table "${files[@]}" || bad=1
    echo
    sed -n "/^${end//\//\\/}\$/,\$p" docs/results.md
} >"$new"
if [ $write = yes ]; then
    [ $bad = 0 ] && cat "$new" >docs/results.md
elif ! cmp -s "$new" docs/results.md; then
    echo "docs/results.md is not what its generator writes: run tests/evidence/evidence.sh build/tests/evidence --write"
    diff docs/results.md "$new" | head -n 20
    bad=1
fi
exit $bad
