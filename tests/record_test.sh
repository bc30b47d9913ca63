#!/bin/sh
# record.sh counts test functions, and no way of failing escapes it.
. "$(dirname "$0")/support/tap.sh"
here=$(cd "$(dirname "$0")" && pwd)
export SLUICE_RESULTS="$tap_tmp/results"

# Runs one program (a shell script given as text) under record.sh and compares the last lines of the summary.
summary_of() { # name, expected summary, expected status of the program, script
    rm -rf "$SLUICE_RESULTS" && mkdir "$SLUICE_RESULTS"
    printf '#!/bin/sh\n%s\n' "$4" >"$tap_tmp/program.sh" && chmod +x "$tap_tmp/program.sh"
    "$here/record.sh" "$tap_tmp/program.sh" >"$tap_tmp/said" 2>&1
    status=$?
    "$here/record.sh" --summary >"$tap_tmp/summary"
    summary_status=$?
    case $2 in *" 0 failed") good=0 ;; *) good=1 ;; esac
    printf '%s\n' "$2" >"$tap_tmp/expected"
    { diff "$tap_tmp/expected" "$tap_tmp/summary" && echo "status $status, summary $summary_status"; } >"$tap_tmp/output"
    if [ $? -eq 0 ] && [ "$status" -eq "$3" ] && [ "$summary_status" -eq $good ]; then
        ok "$1"
    else
        not_ok "$1" "$tap_tmp/output"
    fi
}
summary_of "passing tests are counted" "0 skipped
3 passed, 0 failed" 0 'echo 1..3; echo "ok 1 - a"; echo "ok 2 - b"; echo noise; echo "ok 3 - c"'
summary_of "a failed test is counted and named" "failed:  program: b
0 skipped
1 passed, 1 failed" 1 'echo 1..2; echo "ok 1 - a"; echo "not ok 2 - b"; exit 1'
summary_of "skipped tests show their reason" "skipped: program: b (no GPU here)
skipped: program: c (not installed)
2 skipped
1 passed, 0 failed" 0 'echo 1..3; echo "ok 1 - a"; echo "# skipped: no GPU here"; echo "not ok 2 # SKIP b"
echo "ok 3 - c # SKIP not installed"'
summary_of "a reason said once holds for the whole group" "skipped: program: a (no driver)
skipped: program: b (no driver)
2 skipped
1 passed, 0 failed" 0 'echo 1..3; echo "skipped: no driver"; echo "ok 1 # SKIP a"; echo "ok 2 # SKIP b"; echo "ok 3 - c"'
summary_of "a program that dies half-way fails" "failed:  program: ended after 1 of 3 tests, exit status 134
0 skipped
1 passed, 1 failed" 134 'echo 1..3; echo "ok 1 - a"; exit 134'
summary_of "an error after the last test fails" "failed:  program: exit status 23
0 skipped
1 passed, 1 failed" 23 'echo 1..1; echo "ok 1 - a"; exit 23'
summary_of "a program without TAP counts by its status" "0 skipped
1 passed, 0 failed" 0 'echo hello'
summary_of "... also when it fails" "failed:  program: exit status 3
0 skipped
0 passed, 1 failed" 3 'exit 3'

rm -rf "$SLUICE_RESULTS" && mkdir "$SLUICE_RESULTS"
printf '#!/bin/sh\necho 1..1; echo "ok 1 - a"; kill -KILL $PPID; sleep 1\n' >"$tap_tmp/program.sh"
"$here/record.sh" "$tap_tmp/program.sh" >/dev/null 2>&1
expect_failure "a program that was killed fails" "did not finish" "$here/record.sh" --summary
rm -rf "$SLUICE_RESULTS" && mkdir "$SLUICE_RESULTS"
expect_failure "no test at all fails" "0 passed, 0 failed" "$here/record.sh" --summary
done_testing
