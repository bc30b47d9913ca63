# Sourced by tests that are shell scripts: their results as TAP lines (ok, not ok, skip), the plan at the end.
tap_n=0
tap_bad=0
ok() { tap_n=$((tap_n + 1)) && echo "ok $tap_n - $1"; }
# not_ok NAME [FILE with details]
not_ok() {
    tap_n=$((tap_n + 1)) tap_bad=$((tap_bad + 1))
    echo "not ok $tap_n - $1"
    [ -z "${2:-}" ] || sed 's/^/# /' "$2"
}
skip() { tap_n=$((tap_n + 1)) && echo "ok $tap_n - $1 # SKIP $2"; }
# Runs a command: ok if it succeeds, else not ok with its output. expect NAME COMMAND...
expect() {
    tap_name=$1
    shift
    if "$@" >"$tap_tmp/output" 2>&1; then ok "$tap_name"; else not_ok "$tap_name" "$tap_tmp/output"; fi
}
# The opposite: the command must fail, and its output must contain the text. expect_failure NAME TEXT COMMAND...
expect_failure() {
    tap_name=$1 tap_text=$2
    shift 2
    if "$@" >"$tap_tmp/output" 2>&1; then
        echo "succeeded, but a failure was expected" >>"$tap_tmp/output"
        not_ok "$tap_name" "$tap_tmp/output"
    elif grep -qF -- "$tap_text" "$tap_tmp/output"; then
        ok "$tap_name"
    else
        echo "failed, but without saying: $tap_text" >>"$tap_tmp/output"
        not_ok "$tap_name" "$tap_tmp/output"
    fi
}
done_testing() {
    echo "1..$tap_n"
    [ "$tap_bad" -eq 0 ]
}
tap_tmp=$(mktemp -d)
trap 'rm -rf "$tap_tmp"' EXIT
