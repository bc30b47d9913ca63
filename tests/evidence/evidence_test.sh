#!/usr/bin/env bash
# The figures of docs/results/cuda are sound, and each kind of fault is found.
# Usage: evidence_test.sh PROGRAM
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../support/tap.sh"
program=$1
run() { bash "$here/evidence.sh" "$program" "$@"; }

expect "the repository's figures" run

# A small repository with one good file.
tree=$tap_tmp/tree
good='{"command": "sluice bench", "commit": "COMMIT", "date": "2026-11-24", "device": "NVIDIA H200", "metric": "decode | b1",
  "value": 240.0, "unit": "tok/s", "floor": 274, "peer": "torch 231"}'
fresh() {
    rm -rf "$tree"
    mkdir -p "$tree/docs/results/cuda" && cd "$tree" || exit 1
    printf '%s\n' '# Results' '' "$(sed -n "s/^begin='\(.*\)' end=.*/\1/p" "$here/evidence.sh")" \
        "$(sed -n "s/.* end='\(.*\)'$/\1/p" "$here/evidence.sh")" '' 'More.' >docs/results.md
    git init -q . && git -c user.name=x -c user.email=x@example.org commit -q --allow-empty -m x
    commit=$(git rev-parse HEAD)
}
rows() { printf '[%s]\n' "${1//COMMIT/$commit}" >docs/results/cuda/a.json; }
# Rows that differ from the good one by an edit; what is said of them.
refused() { # name, text, sed script
    fresh
    rows "$(sed -e "$3" <<<"$good")"
    run --write "$tree" >/dev/null 2>&1
    expect_failure "$1" "$2" run "$tree"
}

fresh
run --write "$tree"
expect "no figures at all" run "$tree"
expect "... and the text says so" grep -qx "Nothing was measured yet." docs/results.md
fresh
rows "$good"
expect_failure "a table that was not written" "not what its generator writes" run "$tree"
run --write "$tree"
expect "a good row" run "$tree"
expect "... is shown with its share of the ceiling" grep -qF '| decode \| b1 | 240 tok/s | 274 | 88 % | torch 231 | NVIDIA H200 | 2026-11-24, ' docs/results.md
expect "... and what stands around it stays" grep -qx "More." docs/results.md
run --write "$tree"
expect "writing twice changes nothing" run "$tree"
sed -i 's/88 %/89 %/' docs/results.md
expect_failure "a figure changed by hand" "not what its generator writes" run "$tree"

for field in command commit date device metric value unit floor peer; do
    refused "a row without $field" "lacks a field: $field" "s/\"$field\": \(\"[^\"]*\"\|[0-9.]*\),\{0,1\}//; s/274, }/274}/; s/\(.*\), *}\$/\1}/"
done
refused "a rate above its ceiling" "better than its floor" 's/240.0/274.5/'
refused "a time below its floor" "better than its floor" 's/240.0/270/; s/"tok\/s"/"us"/'
refused "an unknown unit" "unit is not known" 's/tok\/s/parsecs/'
refused "an unknown field" "not known: coment" 's/"peer"/"coment": "", "peer"/'
refused "a rate without ceiling" "need a floor" 's/274/null/'
refused "a value of nothing" "value is not a number above 0" 's/240.0/0/'
refused "a date in another form" "YYYY-MM-DD" 's/2026-11-24/24.11.2026/'
refused "a commit that is no commit" "hexadecimal" 's/COMMIT/main/'
refused "a commit that is not in the history" "is not in the history" 's/COMMIT/0123456789abcdef0123456789abcdef01234567/'
refused "a row that is no object" "is no object" 's/^{.*/5/; /^ /d'
fresh
rows ""
expect_failure "a file without rows" "no rows" run "$tree"
fresh
echo '[{' >docs/results/cuda/a.json
expect_failure "a file that is no JSON" "a.json: line" run "$tree"
fresh
rows "$(sed 's/240.0/280/; s/"tok\/s"/"us"/' <<<"$good"), $(sed 's/274/null/; s/240.0/1.2/; s/"tok\/s"/"x"/' <<<"$good")"
run --write "$tree"
expect "times above their floor, and figures that nothing bounds" run "$tree"

fresh
rows "$(sed 's/COMMIT/0123456789abcdef0123456789abcdef01234567/' <<<"$good")"
git -c user.name=x -c user.email=x@example.org commit -q --allow-empty -m y
git clone -q --depth 1 "file://$tree" "$tap_tmp/shallow" && mkdir -p "$tap_tmp/shallow/docs" && cp -r docs "$tap_tmp/shallow/"
run --write "$tap_tmp/shallow" >/dev/null
expect "a shallow clone cannot look commits up" run "$tap_tmp/shallow"
run "$tap_tmp/shallow" >"$tap_tmp/shallow.txt"
expect "... and says so" grep -qF "shallow clone" "$tap_tmp/shallow.txt"
done_testing
