#!/bin/sh
# Runs one test program and records the result of each of its test functions, so that ./check can count them.
#   record.sh PROGRAM ARGUMENTS...   runs it; what it says is passed on, so is its exit status. Used as meson's --wrapper.
#   record.sh --summary              prints failures, skipped tests with their reasons and the counts of all recorded
#                                    programs; exit status 1 if anything failed or nothing ran
# SLUICE_RESULTS names the directory of the records. cmocka is asked for TAP; a program that does not speak TAP counts as
# one test by its exit status. A program that was killed leaves a record without results and counts as failed.
set -u
dir=${SLUICE_RESULTS:?names the directory of the records}

if [ "${1:-}" = --summary ]; then
    for raw in "$dir"/*.raw; do
        [ -e "$raw" ] || continue
        results=${raw%.raw}.results
        if [ -e "$results" ]; then
            cat "$results"
        else
            name=${raw##*/}
            echo "fail ${name%.*.raw}: did not finish (killed, or took too long)"
        fi
    done | awk '
        $1 == "pass" { passed++ }
        $1 == "fail" { failed++; sub(/^fail /, ""); print "failed:  " $0 }
        $1 == "skip" { skipped++; sub(/^skip /, ""); reasons = reasons "skipped: " $0 "\n" }
        $1 == "time" && $2 > 20 && $3 !~ /_fuzz$|^fresh$/ { slow = slow "slow:    " $3 " took " $2 " s; no test may take over 20 s\n" }
        END {
            printf "%s%s%d skipped\n%d passed, %d failed\n", reasons, slow, skipped, passed, failed
            exit failed > 0 || passed == 0
        }'
    exit
fi

name=$(basename "$1")
name=${name%.sh}
raw=$(mktemp "$dir/$name.XXXXXX") && mv "$raw" "$raw.raw" || exit 99
begin=$(date +%s)
CMOCKA_MESSAGE_OUTPUT=TAP "$@" >"$raw.raw"
status=$?
cat "$raw.raw"
awk -v program="$name" -v status=$status -v seconds=$(($(date +%s) - begin)) '
    function result(kind, what) { n++; n_failed += kind == "fail"; print kind " " program ": " what }
    /^1\.\.[0-9]+/ { planned += substr($1, 4) }
    /^# skipped: / { reason = substr($0, 12) }
    /^skipped: / { group = substr($0, 10) } # said once, by the set-up of a whole group
    /^(not )?ok [0-9]+/ {
        what = $0
        sub(/^(not )?ok [0-9]+ (- )?/, "", what)
        if (match(what, /# SKIP ?/)) { # "name # SKIP reason", or as cmocka has it "# SKIP name"
            before = substr(what, 1, RSTART - 1)
            after = substr(what, RSTART + RLENGTH)
            sub(/ +$/, "", before)
            if (before == "")
                result("skip", after " (" (reason != "" ? reason : group != "" ? group : "no reason given") ")")
            else
                result("skip", before " (" (after == "" ? reason : after) ")")
        } else
            result(/^not/ ? "fail" : "pass", what)
        reason = ""
    }
    END {
        if (n == 0 && planned == 0)
            result(status == 0 ? "pass" : status == 77 ? "skip" : "fail", "exit status " status)
        else if (n < planned)
            result("fail", "ended after " n " of " planned " tests, exit status " status)
        else if (status != 0 && n_failed == 0)
            result("fail", "exit status " status)
        print "time " seconds " " program
    }' "$raw.raw" >"$raw.part" && mv "$raw.part" "$raw.results"
exit $status
