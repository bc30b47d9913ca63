#!/usr/bin/env bash
# Runs on the GPU machine what run.sh collected. Short tables go to the terminal, files to $OUT (default: out/ beside this).
usage='usage: go.sh MODE [OPTIONS] [PATTERN]
  test [--memcheck | --racecheck | --initcheck]   tests of device code whose names contain PATTERN; under compute-sanitizer
                            they run their short form. Skipped tests count as failed: a device is expected here
  bench                     benches whose names contain PATTERN
  e2e                       models/tiny on the CPU and on the GPU: greedy tokens of 8 prompts, perplexity
  model [--full]            speed of the Llama-3.1-8B shape, random weights: rows named like PATTERN. Without --full the long
                            contexts are left out. READ_GBS, TFLOPS: ceilings measured in the same run, for the column "floor"
  all                       test, e2e, bench, model'
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export SLUICE_SOURCE=${SLUICE_SOURCE:-$(cd "$here/../.." && pwd)} SLUICE_BUILD=$here
export SLUICE_PLUGIN_PATH=$here/plugins LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ ! -e "$here/sluice-cuda.so" ] || export SLUICE_CUDA_MODULE=$here/sluice-cuda.so
out=${OUT:-$here/out}
mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
commit=$(head -n 1 "$here/commit") date=$(date -u +%Y-%m-%d)
device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
say() { printf '%s\n' "$*"; }

mode=${1:-}
[ $# -eq 0 ] || shift
tool= full=no pattern=
for word in "$@"; do
    case $word in
    --memcheck | --racecheck | --initcheck) tool=${word#--} ;;
    --full) full=yes ;;
    -*) say "$usage" >&2; exit 2 ;;
    *) pattern=$word ;;
    esac
done

# ---- tests ---------------------------------------------------------------------------------------------------------
run_tests() {
    local program name begin status n=0 bad=0 sanitizer=()
    if [ -n "$tool" ]; then
        command -v compute-sanitizer >/dev/null || { say "go.sh: no compute-sanitizer on this machine" >&2; return 1; }
        sanitizer=(compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20)
        # errors of calls are answers that the code asks for: the end of a parameter list, refusals under test
        [ "$tool" != memcheck ] || sanitizer+=(--report-api-errors no)
        export SLUICE_TEST_LENGTH=short # kernels are a hundred times slower
    fi
    export SLUICE_RESULTS=$tmp/results
    mkdir -p "$SLUICE_RESULTS"
    : >"$out/tests.log"
    for program in "$here"/tests/*"$pattern"*; do
        [ -x "$program" ] || continue
        name=${program##*/} begin=$SECONDS status=0 n=$((n + 1))
        printf '%s\n' '#!/bin/sh' "exec ${sanitizer[*]} '$program' \"\$@\"" >"$tmp/$name"
        chmod +x "$tmp/$name"
        timeout 300 sh "$here/record.sh" "$tmp/$name" >"$tmp/said" 2>&1 || status=$?
        { say "==== $name (exit status $status)"; cat "$tmp/said"; } >>"$out/tests.log"
        say "$(printf '%-36s %4d s  %s' "$name" $((SECONDS - begin)) "$([ $status = 0 ] && echo ok || echo "FAILED ($status)")")"
        [ $status = 0 ] || { bad=$((bad + 1)); grep -vE '^(ok|1\.\.|TAP)' "$tmp/said" | head -n 12 | cut -c 1-240; }
    done
    sh "$here/record.sh" --summary | tail -n 25 | tee "$tmp/summary"
    cat "$SLUICE_RESULTS"/*.results 2>/dev/null | awk -v commit="$commit" -v device="$device" -v tool="$tool" '
        { kind = $1; program = $2; sub(/:$/, "", program); sub(/^[a-z]+ [^ ]+ ?/, ""); gsub(/["\\]/, "")
          if (kind != "time") rows = rows (rows == "" ? "" : ",\n") "  {\"program\": \"" program "\", \"test\": \"" $0 "\", \"result\": \"" kind "\"}" }
        END { print "{\"commit\": \"" commit "\", \"device\": \"" device "\", \"tool\": \"" tool "\", \"tests\": [\n" rows "\n]}" }' >"$out/tests${tool:+-$tool}.json"
    say "log: $out/tests.log"
    [ $n -gt 0 ] && [ $bad = 0 ] && ! grep '^skipped: ' "$tmp/summary" | grep -qv 'only in long runs'
}

# ---- benches -------------------------------------------------------------------------------------------------------
run_benches() {
    local program status=0
    : >"$out/benches.txt"
    for program in "$here"/benches/*"$pattern"*; do
        [ -x "$program" ] || continue
        say "==== ${program##*/}" | tee -a "$out/benches.txt"
        timeout 200 "$program" 2>&1 | tee -a "$out/benches.txt" || { status=1; say "FAILED" | tee -a "$out/benches.txt"; }
    done
    grep -E '^\{' "$out/benches.txt" >"$out/benches.jsonl" # benches that also print rows of JSON
    return $status
}

# ---- the model on both devices -------------------------------------------------------------------------------------
prompts=("The sea was" "Once upon a time" "int main(void) {" "In the beginning of" "She said that" "# Usage" "The old man looked" "1 2 3 4")

greedy() { # device, options ...
    local on=$1 p
    shift
    for p in "${prompts[@]}"; do
        "$here/sluice" run -m "$SLUICE_SOURCE/models/tiny" --set engine.device="$on" -p "$p" -n 64 -q "$@" | tr '\n\t' '~ ' || return 1
        say ""
    done
}

run_e2e() {
    local status=0 same on
    for on in cpu cuda; do
        greedy $on >"$tmp/$on.txt" 2>"$tmp/$on.err" || { say "greedy on $on FAILED:"; tail -n 5 "$tmp/$on.err"; return 1; }
        "$here/sluice" eval ppl -m "$SLUICE_SOURCE/models/tiny" --set engine.device=$on --text "$SLUICE_SOURCE/LICENSE" --context 1024 \
            >"$tmp/$on.ppl" 2>&1 || { say "perplexity on $on FAILED:"; tail -n 5 "$tmp/$on.ppl"; status=1; }
        "$here/sluice" bench -m "$SLUICE_SOURCE/models/tiny" --set engine.device=$on -p 512 -n 128 -r 3 | tail -n +$([ $on = cpu ] && echo 1 || echo 3)
    done
    same=$(paste "$tmp/cpu.txt" "$tmp/cuda.txt" | awk -F'\t' '$1 == $2 { n++ } END { print n + 0 }')
    say "greedy text of ${#prompts[@]} prompts, 64 tokens: $same the same on CPU (f32) and GPU (bf16 activations; ties may part)"
    paste -d'\n' "$tmp/cpu.txt" "$tmp/cuda.txt" | awk 'NR % 2 { a = $0; next } a != $0 { n = 0; while (substr(a, n + 1, 1) == substr($0, n + 1, 1)) n++
        print "  parts after " n " characters: ..." substr(a, n - 20, 40) "|" substr($0, n - 20, 40) }' | cut -c 1-160
    say "perplexity, CPU: $(sed -n 's/^ *"ppl": *//p' "$tmp/cpu.ppl" | tr -d ,)"
    say "perplexity, GPU: $(sed -n 's/^ *"ppl": *//p' "$tmp/cuda.ppl" | tr -d ,)"
    cp "$tmp/cpu.txt" "$out/greedy-cpu.txt"
    cp "$tmp/cuda.txt" "$out/greedy-cuda.txt"
    [ "$same" -ge $((${#prompts[@]} / 2)) ] || status=1
    return $status
}

# ---- speed of a shape ----------------------------------------------------------------------------------------------
# name | long | bench options | GB read a step, or TFLOP a token | must, tok/s (H200) | peer
rows() {
    cat <<'ROWS'
decode b1 ctx 512    | no  | -p 0 -n 128 -d 512 -c 1024                                   | 15.08 GB | 235   | torch.compile + CUDA graph 231, llama.cpp F16 209
decode b1 512, fast  | no  | -p 0 -n 128 -d 512 -c 1024 --set engine.deterministic=no     | 15.08 GB | 235   | torch.compile + CUDA graph 231, llama.cpp F16 209
decode b64 ctx 1K    | no  | -p 0 -n 64 -d 1024 -c 2048 -b 64 --set engine.max_seqs=64 --set engine.deterministic=no | 23.87 GB | 9300 | torch.compile + CUDA graph 8936
prefill 4K           | no  | -p 4096 -n 0 -c 8192 @fast                                   | 15.0 GFLOP | 38000 | torch eager 33300, llama.cpp 21400
prefill 4K cudnn     | no  | -p 4096 -n 0 -c 8192 @fast --set attention.plugin=cudnn      | 15.0 GFLOP | 38000 | torch eager 33300, llama.cpp 21400
prefill 16K cudnn    | no  | -p 16384 -n 0 -c 20480 @fast --set attention.plugin=cudnn    | 18.3 GFLOP | 31000 | torch eager 27500, llama.cpp 16700
int4 decode b1 512   | no  | -p 0 -n 128 -d 512 -c 1024 --set quant.plugin=rtn --set quant.bits=4 | 4.73 GB | 500 | llama.cpp Q4_0 344
int4 prefill 4K      | no  | -p 4096 -n 0 -c 8192 @fast --set quant.plugin=rtn --set quant.bits=4 | 15.0 GFLOP | 25000 | llama.cpp Q4_0 11100
decode b1 ctx 32K    | yes | -p 0 -n 64 -d 32768 -c 34816                                 | 19.31 GB | 195   | torch 185, llama.cpp 150
decode b1 ctx 128K   | yes | -p 0 -n 64 -d 130048 -c 131072                               | 32.05 GB | 125   | torch 121, llama.cpp 82
ROWS
}

run_model() {
    local name long args work must peer status=0 command line
    local gbs=${READ_GBS:-} tflops=${TFLOPS:-990}
    # Without a measured ceiling: what the data sheet says, which nothing exceeds.
    case $device in *H200*) gbs=${gbs:-4800} ;; *) gbs=${gbs:-3350} ;; esac
    : >"$tmp/rows"
    say "$device, shape llama-3.1-8b, bf16; ceilings: $gbs GB/s, $tflops TFLOP/s"
    printf '%-20s %10s %10s %8s %8s  %s\n' row tok/s ceiling share must peers
    while IFS='|' read -r name long args work must peer; do
        name=$(echo $name) work=$(echo $work) must=$(echo $must) peer=$(echo $peer)
        args=${args/@fast/--set engine.prefill_chunk=4096 --set engine.max_rows=4096 --set engine.deterministic=no}
        [ $long = no ] || [ $full = yes ] || continue
        case $name in *"$pattern"*) ;; *) continue ;; esac
        command="sluice bench --shape llama-3.1-8b --set engine.device=cuda$(echo " $args" | tr -s ' ' | sed 's/ $//') --fill synthetic -r 3 -o jsonl"
        line=$(timeout 300 "$here/sluice" ${command#sluice } 2>"$tmp/err") ||
            { say "$name FAILED: $(tail -n 1 "$tmp/err")"; status=1; continue; }
        echo "$line" >>"$out/model.jsonl"
        echo "$line" | sed 's/.*"avg_ts": *\([0-9.e+]*\).*/\1/' | awk -v name="$name" -v work="$work" -v gbs="$gbs" -v tflops="$tflops" \
            -v must="$must" -v peer="$peer" -v command="$command" -v commit="$commit" -v date="$date" -v device="$device" -v rows="$tmp/rows" '
            { split(work, w, " "); batch = match(name, /b[0-9]+/) ? substr(name, RSTART + 1, RLENGTH - 1) : 1
              ceiling = w[2] == "GB" ? gbs / w[1] * batch : tflops * 1000 / w[1]
              printf "%-20s %10.1f %10.1f %7.1f%% %8s  %s\n", name, $1, ceiling, 100 * $1 / ceiling, must, peer
              printf "{\"command\": \"%s\", \"commit\": \"%s\", \"date\": \"%s\", \"device\": \"%s\", \"metric\": \"Llama-3.1-8B shape, %s\", \"value\": %.1f, \"unit\": \"tok/s\", \"floor\": %.1f, \"peer\": \"%s\"}\n",
                     command, commit, date, device, name, $1, ceiling, peer >>rows }'
    done < <(rows)
    awk 'BEGIN { print "[" } { print (NR > 1 ? ",\n" : "") $0 } END { print "]" }' ORS= "$tmp/rows" >"$out/model.json"
    say "rows for docs/results/cuda: $out/model.json"
    return $status
}

case $mode in
test) run_tests ;;
bench) run_benches ;;
e2e) run_e2e ;;
model) run_model ;;
all) s=0; for f in run_tests run_e2e run_benches run_model; do $f || s=1; done; exit $s ;;
*) say "$usage"; [ "$mode" = --help ] || exit 2 ;;
esac
