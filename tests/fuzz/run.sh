#!/bin/sh
# Builds the fuzz targets with clang in build-fuzz/ and runs each for SLUICE_FUZZ_SECONDS (60) with its seeds in
# tests/fuzz/corpus/<name>/, a record for each. What a target finds is kept in build-fuzz/found/. Usage: run.sh [JOBS]
set -eu
cd "$(dirname "$0")/../.."
. tools/common.sh
jobs=${1:-}
seconds=${SLUICE_FUZZ_SECONDS:-60}
ls tests/fuzz/*_fuzz.c >/dev/null 2>&1 || die "no fuzz target in tests/fuzz/"
say "building the fuzz targets (clang, in build-fuzz/)"
CC=clang
export CC
configure build-fuzz --buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true -Dtests=true \
    -Dc_args=-fsanitize=fuzzer-no-link
build build-fuzz fuzz
failed=0
mkdir -p build-fuzz/found
for source in tests/fuzz/*_fuzz.c; do
    target=$(basename "$source" .c)
    name=${target%_fuzz}
    work=build-fuzz/corpus-$name
    mkdir -p "$work"
    seeds=tests/fuzz/corpus/$name
    [ -d "$seeds" ] || seeds=
    say "fuzzing $name for $seconds s"
    tests/record.sh "build-fuzz/tests/fuzz/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix=build-fuzz/found/"$name"- "$work" $seeds >"build-fuzz/$name.log" 2>&1 || {
        tail -n 40 "build-fuzz/$name.log"
        failed=1
    }
    grep -E 'stat::number_of_executed_units|^Done' "build-fuzz/$name.log" || true
done
exit $failed
