#!/usr/bin/env bash
# Runs on the GPU machine what run.sh collected. Short tables go to the terminal, files to $OUT (default: out/ beside this).
usage='usage: go.sh MODE [OPTIONS] [PATTERN]
  test [--memcheck | --racecheck | --initcheck]   tests of device code whose names contain PATTERN; under compute-sanitizer
                            they run their short form. Skipped tests count as failed: a device is expected here
                            (SLUICE_SHARED=DIR: DIR/models/small, too)
  bench                     benches whose names contain PATTERN
  e2e                       models/tiny on the CPU and on the GPU: greedy tokens of 8 prompts, perplexity, and plugins on both
  model [--limit S] [-r N]  speed of shapes of models with random weights: the loads named like PATTERN..., each with its tests;
                            no load begins after S seconds (240); N repetitions (3). READ_GBS, TFLOPS: ceilings measured in
                            the same run, for the column "floor". Rows are written as they come
  bytes [--limit S]         bytes of decode steps as `sluice roofline` predicts them and as the DRAM counters (ncu) say; cases
                            named like PATTERN..., none begins after S seconds (240). Exit 3: no counters on this machine
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
tool= limit=240 repetitions=3 pattern=
while [ $# -gt 0 ]; do
    case $1 in
    --memcheck | --racecheck | --initcheck) tool=${1#--} ;;
    --limit) limit=${2:?--limit needs seconds}; shift ;;
    -r) repetitions=${2:?-r needs a number}; shift ;;
    -*) say "$usage" >&2; exit 2 ;;
    *) pattern=$1 ;;
    esac
    shift
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
    [ $n -gt 0 ] && [ $bad = 0 ] && ! grep '^skipped: ' "$tmp/summary" | grep -qvE 'only in long runs|needs ./check --with-shared'
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

perplexity() { # device, options ...
    local on=$1
    shift
    "$here/sluice" eval ppl -m "$SLUICE_SOURCE/models/tiny" --set engine.device="$on" --text "$SLUICE_SOURCE/LICENSE" --context 1024 "$@" >"$tmp/ppl" 2>&1 ||
        { tail -n 3 "$tmp/ppl" >&2; return 1; }
    sed -n 's/^ *"ppl": *//p' "$tmp/ppl" | tr -d ,
}

# Lines of two files that are the same, and where the others part.
compare_texts() {
    paste "$1" "$2" | awk -F'\t' '$1 == $2 { n++ } END { printf "%d of %d the same on CPU and GPU\n", n, NR }'
    paste -d'\n' "$1" "$2" | awk 'NR % 2 { a = $0; next } a != $0 { n = 0; while (substr(a, n + 1, 1) == substr($0, n + 1, 1)) n++
        at = n > 20 ? n - 20 : 1; print "  parts after " n " characters: ..." substr(a, at, 40) " | " substr($0, at, 40) }' | cut -c 1-160
}

# What a plugin computes on both devices: name | what is compared | most difference of perplexity | options | of the GPU alone.
# draw: on the GPU without and with the last options; a penalty too small for any logit makes the host draw.
variants() {
    cat <<VARIANTS
int8                | ppl  | 0.01 | --set quant.plugin=rtn --set quant.bits=8 |
int4 group 128      | ppl  | 0.01 | --set quant.plugin=rtn --set quant.bits=4 --set quant.group=128 |
e4m3                | ppl  | 0.05 | | --set quant.plugin=rtn --set quant.format=e4m3
cudnn               | ppl  | 0.01 | | --set attention.plugin=cudnn --set engine.deterministic=no
fast                | both | 0.01 | | --set engine.deterministic=no
tidaldecode         | text |      | --set attention.plugin=tidaldecode --set attention.token_budget=32 --set attention.select_heads=kv_group | --set engine.deterministic=no
token_recycling     | text |      | --set speculation.plugin=token_recycling |
kivi                | both | 0.02 | --set kvcache.plugin=kivi |
duoattention        | both | 0.02 | --set attention.plugin=duoattention --set kvcache.plugin=duoattention --set attention.pattern_file=$tmp/gates-tiny --set attention.sink_size=4 --set attention.recent_size=32 --set attention.window=exact |
sampled             | text |      | --set sampling.temperature=0.7 --set sampling.top_p=0.9 --set sampling.seed=5 --set engine.compute=bf16 |
drawn on the device | draw |      | --set sampling.temperature=0.7 --set sampling.top_p=0.9 --set sampling.top_k=100 --set sampling.seed=5 | --set sampling.presence_penalty=1e-30 --set sampling.penalty_last_n=8
drawn, min-p        | draw |      | --set sampling.temperature=1.2 --set sampling.min_p=0.05 --set sampling.top_p=1 --set sampling.seed=9 | --set sampling.presence_penalty=1e-30 --set sampling.penalty_last_n=8
VARIANTS
}

run_variants() {
    local name what most both only cpu gpu status=0 n=3
    write_gates 6 2 >"$tmp/gates-tiny"
    prompts=("${prompts[@]:0:$n}")
    while IFS='|' read -r name what most both only; do
        name=$(trim "$name") what=$(trim "$what") most=$(trim "$most")
        case $what in ppl | both)
            if cpu=$(perplexity cpu $both) && gpu=$(perplexity cuda $both $only); then
                awk -v name="$name" -v a="$cpu" -v b="$gpu" -v most="$most" 'BEGIN { d = b / a - 1; ok = (d < most && d > -most)
                    printf "%-16s perplexity %.4f on the CPU, %.4f on the GPU: %+.2f%%%s\n", name, a, b, 100 * d, (ok ? "" : ", more than " 100 * most "%: FAILED"); exit !ok }' || status=1
            elif grep -q 'runs on the CPU only' "$tmp/ppl"; then
                printf '%-16s not served on the GPU\n' "$name"; continue
            else
                say "$name: perplexity FAILED"; status=1
            fi ;;
        draw)
            if greedy cuda $both >"$tmp/a.txt" 2>"$tmp/a.err" && greedy cuda $both $only >"$tmp/b.txt" 2>>"$tmp/a.err"; then
                printf '%-16s text of %d prompts: %s of the device and of the host the same\n' "$name" $n \
                    "$(paste "$tmp/a.txt" "$tmp/b.txt" | awk -F'\t' '$1 == $2 { k++ } END { print k + 0 }')"
                cmp -s "$tmp/a.txt" "$tmp/b.txt" || status=1
            else
                say "$name: FAILED: $(tail -n 2 "$tmp/a.err")"; status=1
            fi ;;
        esac
        case $what in text | both)
            if greedy cpu $both >"$tmp/a.txt" 2>"$tmp/a.err" && greedy cuda $both $only >"$tmp/b.txt" 2>>"$tmp/a.err"; then
                printf '%-16s text of %d prompts: ' "$name" $n
                compare_texts "$tmp/a.txt" "$tmp/b.txt"
                [ "$name" = sampled ] || paste "$tmp/a.txt" "$tmp/b.txt" | awk -F'\t' '$1 == $2 || substr($1, 1, 60) == substr($2, 1, 60) { n++ } END { exit !(2 * n >= NR) }' ||
                    { say "$name: fewer than half begin alike: FAILED"; status=1; }
            else
                say "$name: text FAILED: $(tail -n 2 "$tmp/a.err")"; status=1
            fi ;;
        esac
    done < <(variants)
    return $status
}

run_e2e() {
    local status=0 on
    for on in cpu cuda; do
        greedy $on >"$tmp/$on.txt" 2>"$tmp/$on.err" || { say "greedy on $on FAILED:"; tail -n 5 "$tmp/$on.err"; return 1; }
        perplexity $on >"$tmp/$on.ppl" 2>"$tmp/$on.err" || { say "perplexity on $on FAILED:"; cat "$tmp/$on.err"; status=1; }
        "$here/sluice" bench -m "$SLUICE_SOURCE/models/tiny" --set engine.device=$on -p 512 -n 128 -r 3 | tail -n +$([ $on = cpu ] && echo 1 || echo 3)
    done
    printf 'greedy text of %d prompts, 64 tokens (CPU: f32, GPU: bf16 activations; ties may part): ' ${#prompts[@]}
    compare_texts "$tmp/cpu.txt" "$tmp/cuda.txt"
    say "perplexity, CPU: $(cat "$tmp/cpu.ppl")"
    say "perplexity, GPU: $(cat "$tmp/cuda.ppl")"
    cp "$tmp/cpu.txt" "$out/greedy-cpu.txt"
    cp "$tmp/cuda.txt" "$out/greedy-cuda.txt"
    paste "$tmp/cpu.txt" "$tmp/cuda.txt" | awk -F'\t' '$1 == $2 { n++ } END { exit !(2 * n >= NR) }' || status=1
    run_variants || status=1
    return $status
}

# ---- speed of a shape ----------------------------------------------------------------------------------------------
# Processes, each with one load of its weights, in the order of what is wanted first:
# name | shape | GB of device memory | options
loads() {
    cat <<LOADS
fast     | llama-3.1-8b | 45  | $fast -c 131072 --set engine.max_seqs=64 --set engine.kv_memory_mb=20000 $long_chunks $draw
det      | llama-3.1-8b | 45  | -c 131072 --set engine.max_seqs=2 --set engine.kv_memory_mb=20000 $draw
cudnn    | llama-3.1-8b | 30  | $fast -c 20480 --set engine.max_seqs=1 $long_chunks --set attention.plugin=cudnn
int4     | llama-3.1-8b | 20  | $fast -c 8192 --set engine.max_seqs=2 $chunks --set quant.plugin=rtn --set quant.bits=4 --set quant.group=128
verify   | llama-3.1-8b | 25  | $fast -c 8192 --set engine.max_seqs=1 $tree
tidal7b  | llama-2-7b   | 75  | $fast -c 103424 --set engine.max_seqs=1 $tidal
dense7b  | llama-2-7b   | 75  | $fast -c 103424 --set engine.max_seqs=1
e4m3     | llama-3.1-8b | 20  | $fast -c 8192 --set engine.max_seqs=2 $chunks --set quant.plugin=rtn --set quant.format=e4m3
tidal8   | llama-3.1-8b | 130 | $fast -c 103424 --set engine.max_seqs=8 $tidal
dense8   | llama-3.1-8b | 130 | $fast -c 103424 --set engine.max_seqs=8
int4head | llama-3.1-8b | 20  | $fast -c 8192 --set engine.max_seqs=2 --set quant.plugin=rtn --set quant.bits=4 --set quant.group=128 --set quant.head=yes
verify-d | llama-3.1-8b | 25  | -c 8192 --set engine.max_seqs=1 $tree
duo8     | llama-3.1-8b | 130 | $fast -c 103424 --set engine.max_seqs=8 $duo
duo      | llama-3.1-8b | 45  | $fast -c 131072 --set engine.max_seqs=1 $duo
LOADS
}
# Tests of a load, in this order: load | test of sluice bench | name | work a step in GB, or of a token in GFLOP | must | peers
# Values are tok/s, or with "ms" milliseconds a step. A load can be named when it runs alone: go.sh model LOAD.
rows() {
    cat <<'ROWS'
fast     | tg128@512      | decode b1 ctx 512, fast       | 15.08 GB        | 235   | torch.compile + CUDA graph 231, llama.cpp F16 209
fast     | tg64@1024x64   | decode b64 ctx 1K             | 23.87 GB        | 9300  | torch.compile + CUDA graph 8936
fast     | pp4096         | prefill 4K                    | 15.0 GFLOP      | 38000 | torch eager 33300, llama.cpp 21400
fast     | pp16384        | prefill 16K                   | 18.3 GFLOP      | 31000 | torch eager 27500, llama.cpp 16700
fast     | tg64@32768     | decode b1 ctx 32K, fast       | 19.31 GB        | 195   | torch 185, llama.cpp 150
fast     | tg64@130048    | decode b1 ctx 128K, fast      | 32.05 GB        | 125   | torch 121, llama.cpp 82
fast     | tg64@4096      | decode b1 ctx 4K, fast        | 15.55 GB        |       |
fast     | ts128@512      | sampled b1 ctx 512, fast      | 15.08 GB        | 235   |
fast     | ts64@1024x64   | sampled b64 ctx 1K            | 23.87 GB        | 9300  |
det      | tg128@512      | decode b1 ctx 512             | 15.08 GB        | 235   | torch.compile + CUDA graph 231, llama.cpp F16 209
det      | tg64@32768     | decode b1 ctx 32K             | 19.31 GB        | 195   | torch 185, llama.cpp 150
det      | tg64@130048    | decode b1 ctx 128K            | 32.05 GB        | 125   | torch 121, llama.cpp 82
det      | tg64@4096      | decode b1 ctx 4K              | 15.55 GB        |       |
det      | ts128@512      | sampled b1 ctx 512            | 15.08 GB        | 235   |
det      | pp4096         | prefill 4K deterministic      | 15.0 GFLOP      |       |
cudnn    | pp4096         | prefill 4K cudnn              | 15.0 GFLOP      | 38000 | torch eager 33300, llama.cpp 21400
cudnn    | pp16384        | prefill 16K cudnn             | 18.3 GFLOP      | 31000 | torch eager 27500, llama.cpp 16700
int4     | tg128@512      | int4 decode b1 512            | 4.73 GB         | 500   | llama.cpp Q4_0 344
int4     | pp4096         | int4 prefill 4K               | 15.0 GFLOP      | 25000 | llama.cpp Q4_0 11100
verify   | tg64@4096      | verify 64 nodes ctx 4K, fast  | 15.55 GB ms     | 5.3   |
tidal7b  | tg64@102400    | tidaldecode 7B b1 100K        | 20.3 GB         |       | paper: 2.1 times dense (A100)
dense7b  | tg64@102400    | dense 7B b1 100K              | 66.9 GB         |       |
e4m3     | pp4096         | e4m3 prefill 4K               | 7.5 GFLOP       |       |
e4m3     | tg128@512      | e4m3 decode b1 512            | 8.11 GB         |       |
tidal8   | tg64@102400x8  | tidaldecode 8B b8 100K        | 29.1 GB         |       |
dense8   | tg64@102400x8  | dense 8B b8 100K              | 122.4 GB        |       |
int4head | tg128@512      | int4 decode b1 512, head too  | 3.94 GB         | 500   | llama.cpp Q4_0 344
verify-d | tg64@4096      | verify 64 nodes ctx 4K        | 15.55 GB ms     | 5.3   |
duo8     | tg64@102400x8  | duoattention 8B b8 100K       | 68.8 GB         |       | paper: 1.77 times dense (roofline)
duo      | tg64@130048    | duoattention 8B b1 128K       | 23.5 GB         |       |
ROWS
}
# Quotients of two rows' values: name | above | below | must | least or most | what would be ideal | peers
quotients() {
    cat <<'QUOTIENTS'
deterministic over fast, decode b1 512     | decode b1 ctx 512            | decode b1 ctx 512, fast  |     | least |      |
deterministic over fast, decode b1 32K     | decode b1 ctx 32K            | decode b1 ctx 32K, fast  |     | least |      |
deterministic over fast, decode b1 128K    | decode b1 ctx 128K           | decode b1 ctx 128K, fast |     | least |      |
sampled over greedy, b1 512                | sampled b1 ctx 512, fast     | decode b1 ctx 512, fast  |     | least | 1    |
sampled over greedy, b64 1K                | sampled b64 ctx 1K           | decode b64 ctx 1K        |     | least | 1    |
e4m3 over bf16, prefill 4K                 | e4m3 prefill 4K              | prefill 4K               | 1.4 | least | 2    |
verify of 64 over decode, 4K, fast         | verify 64 nodes ctx 4K, fast | decode b1 ctx 4K, fast   | 1.3 | most  | 1    |
verify of 64 over decode, 4K               | verify 64 nodes ctx 4K       | decode b1 ctx 4K         | 1.3 | most  | 1    |
tidaldecode over dense, 7B b1 100K         | tidaldecode 7B b1 100K       | dense 7B b1 100K         | 2.6 | least | 3.3  | paper 2.1 (A100)
tidaldecode over dense, 8B b8 100K         | tidaldecode 8B b8 100K       | dense 8B b8 100K         | 3.0 | least | 4.2  |
QUOTIENTS
}

# Gates of layers x KV heads in which every second head streams, not the same ones in neighbouring layers.
write_gates() { awk -v L="$1" -v K="$2" 'BEGIN { for (l = 0; l < L; l++) for (h = 0; h < K; h++) printf "%g%s", (l + h) % 2 + (l * K + h) / 1e4, h + 1 < K ? "\t" : "\n" }'; }

# A matrix for token_recycling in which eight tokens follow every token: a whole tree can be drafted at once.
write_successors() { # file, vocabulary
    local header="{\"recycling.M\":{\"dtype\":\"I32\",\"shape\":[$2,8],\"data_offsets\":[0,$(($2 * 32))]}}" row= i
    while [ $((${#header} % 8)) != 0 ]; do header+=' '; done
    for i in 1 2 3 4 5 6 7 8; do row+=$(printf '\\x%02x\\x%02x\\x00\\x00' $((i * 37 % 256)) $((i + 3))); done
    { printf "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((${#header} % 256)) $((${#header} / 256)))$header"
      printf "$row" >"$tmp/row"
      i=1
      while [ $i -lt "$2" ]; do cat "$tmp/row" "$tmp/row" >"$tmp/rows2"; mv "$tmp/rows2" "$tmp/row"; i=$((2 * i)); done
      head -c $(($2 * 32)) "$tmp/row"; } >"$1"
}

number() { printf '%s\n' "$2" | sed -n "s/.*\"$1\": *\(-\{0,1\}[0-9.eE+-]*\).*/\1/p"; }
trim() { printf '%s' "$*" | sed 's/^ *//; s/ *$//'; }

write_model_json() { awk 'BEGIN { printf "[" } { printf "%s\n  %s", (NR == 1 ? "" : ","), $0 } END { print "\n]" }' "$tmp/rows" >"$out/model.json"; }

# One line of the table and of the evidence. name, value, unit, floor, must, peers, command, note
tell_row() {
    awk -v name="$1" -v value="$2" -v unit="$3" -v floor="$4" -v must="$5" -v peer="$6" -v command="$7" -v note="$8" -v shape="$shape" \
        -v commit="$commit" -v date="$date" -v device="$device" -v rows="$tmp/rows" 'BEGIN {
        least = (unit == "ms" || unit == "of a decode step"); digits = (unit == "tok/s" ? "%.1f" : "%.3f")
        bounded = floor + 0 > 0
        share = bounded ? sprintf("%.1f%%", 100 * (least ? floor / value : value / floor)) : "-"
        met = "-"
        if (must != "") { met = "not met"; if (least ? value + 0 <= must + 0 : value + 0 >= must + 0) met = "met" }
        printf "%-42s " digits " %-5s floor " digits "  share %6s  must %6s %-7s %s  %s\n", name, value, unit, floor, share, (must == "" ? "-" : must), met, note, (peer == "" ? "" : "(" peer ")")
        printf "{\"command\": \"%s\", \"commit\": \"%s\", \"date\": \"%s\", \"device\": \"%s\", \"metric\": \"%s shape, %s\", \"value\": " digits ", \"unit\": \"%s\", \"floor\": " (bounded ? digits : "%s") ", \"peer\": %s%s%s}\n",
               command, commit, date, device, shape, name, value, unit, (bounded ? floor : "null"), (peer == "" ? "null" : "\"" peer "\""),
               (must == "" ? "" : ", \"must\": " must), (note == "" ? "" : ", \"note\": \"" note "\"") >>rows }'
    write_model_json
}

# What sluice bench said of one test.
tell_test() { # load, command, line
    local line=$3 test load word name work must peer value unit floor kind
    kind=$([ "$(number n_prompt "$line")" != 0 ] && echo pp || { case $line in *'"sampled":true'*) echo ts ;; *) echo tg ;; esac; })
    test=$kind$([ $kind = pp ] && number n_prompt "$line" || number n_gen "$line")
    [ "$(number n_depth "$line")" = 0 ] || test+=@$(number n_depth "$line")
    [ "$(number n_sequences "$line")" = 1 ] || test+=x$(number n_sequences "$line")
    while IFS='|' read -r load word name work must peer; do
        [ "$(trim "$load")" = "$1" ] && [ "$(trim "$word")" = "$test" ] || continue
        name=$(trim "$name") work=($work)
        if [ "${work[2]:-}" = ms ]; then
            value=$(number ms_step "$line") unit=ms floor=$(awk "BEGIN { print 1000 * ${work[0]} / $gbs }")
        elif [ "${work[1]}" = GB ]; then
            value=$(number median_ts "$line") unit=tok/s floor=$(awk "BEGIN { print $gbs / ${work[0]} * $(number n_sequences "$line") }")
        else
            value=$(number median_ts "$line") unit=tok/s floor=$(awk "BEGIN { print 1000 * $tflops / ${work[0]} }")
        fi
        printf '%s\t%s\t%s\n' "$name" "$value" "$(number ms_step "$line")" >>"$tmp/values"
        local note
        note="idle $(awk "BEGIN { printf \"%.1f%%\", 100 * $(number idle_share "$line") }") load $(awk "BEGIN { printf \"%.1f s\", $(number load_ns "$line") / 1e9 }")"
        [ $kind = pp ] || note+=" $(awk "BEGIN { printf \"%.2f ms\", $(number ms_step "$line") }")"
        [ "$(number graphs "$line")" = 0 ] || note+=", $(number graphs "$line") graphs: $(number graph_nodes "$line") nodes, $(number graph_others "$line") no kernels, $(number graph_dependent "$line") of $(number graph_edges "$line") edges early"
        [ "${work[2]:-}" != ms ] || note+=" $(awk "BEGIN { printf \"%.1f nodes\", $(number nodes_step "$line") }")"
        tell_row "$name" "$value" $unit "$floor" "$(trim "$must")" "$(trim "$peer")" "$2 --tests $test" "$note"
    done < <(rows)
}

tell_quotients() {
    local name above below must way ideal peer a b
    while IFS='|' read -r name above below must way ideal peer; do
        name=$(trim "$name") above=$(trim "$above") below=$(trim "$below") way=$(trim "$way")
        # of times where a step may take longer, of rates elsewhere
        a=$(awk -F'\t' -v n="$above" -v c=$([ $way = most ] && echo 3 || echo 2) '$1 == n { print $c; exit }' "$tmp/values")
        b=$(awk -F'\t' -v n="$below" -v c=$([ $way = most ] && echo 3 || echo 2) '$1 == n { print $c; exit }' "$tmp/values")
        [ -n "$a" ] && [ -n "$b" ] || continue
        case $name in *7B*) shape=llama-2-7b ;; *) shape=llama-3.1-8b ;; esac
        tell_row "$name" "$(awk "BEGIN { print $a / $b }")" "$([ $way = most ] && echo 'of a decode step' || echo x)" "$(trim "$ideal")" "$(trim "$must")" "$(trim "$peer")" "go.sh model" ""
    done < <(quotients)
}

run_model() {
    local load args memory total status=0 tests command line begin started=$SECONDS
    gbs=${READ_GBS:-} tflops=${TFLOPS:-990}
    # Without a measured ceiling: what the data sheet says, which nothing exceeds.
    case $device in *H200*) gbs=${gbs:-4800} ;; *) gbs=${gbs:-3350} ;; esac
    local fast='--set engine.deterministic=no'
    local chunks='--set engine.prefill_chunk=4096 --set engine.max_rows=4096'
    local long_chunks='--set engine.prefill_chunk=16384 --set engine.max_rows=16384'
    local tidal='--set attention.plugin=tidaldecode --set attention.token_budget=256 --set attention.select_heads=kv_group'
    local tree="--set speculation.plugin=token_recycling --set speculation.cut=64 --set speculation.init=$tmp/successors"
    local duo="--set attention.plugin=duoattention --set kvcache.plugin=duoattention --set attention.pattern_file=$tmp/gates"
    local draw='--set sampling.temperature=0.8 --set sampling.top_k=40 --set sampling.top_p=0.95'
    total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | awk 'NR == 1 { print int($1 * 1.048576 / 1000) }')
    write_successors "$tmp/successors" 128256
    write_gates 32 8 >"$tmp/gates"
    : >"$tmp/rows"; : >"$tmp/values"; : >"$out/model.jsonl"
    say "$device, bf16 unless said; ceilings: $gbs GB/s, $tflops TFLOP/s"
    while IFS='|' read -r load shape memory args; do
        load=$(trim "$load") shape=$(trim "$shape") memory=$(trim "$memory")
        case $load in $pattern*) ;; *) continue ;; esac
        if [ "$memory" -gt "${total:-0}" ]; then say "$load: left out, wants $memory GB of device memory, there are ${total:-0}"; continue; fi
        if [ $((SECONDS - started)) -gt "$limit" ]; then say "$load: left out, the $limit s of --limit are over"; status=1; continue; fi
        tests=$(rows | awk -F'|' -v load="$load" '{ gsub(/ /, "", $1); gsub(/ /, "", $2) } $1 == load { printf "%s%s", n++ ? "," : "", $2 }')
        command="sluice bench --shape $shape --set engine.device=cuda $(printf '%s' "$args" | tr -s ' ' | sed "s/^ //; s/ \$//; s|$tmp/||g") --fill synthetic -r $repetitions -o jsonl"
        begin=$SECONDS
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$out/model.jsonl"
            tell_test "$load" "$command" "$line"
        done < <(timeout 120 "$here/sluice" bench --shape "$shape" --set engine.device=cuda $args --fill synthetic -r "$repetitions" -o jsonl \
            --tests "$tests" 2>"$tmp/err" || say '"failed"')
        if grep -q . "$tmp/err"; then say "$load, $tests FAILED: $(head -n 3 "$tmp/err")"; status=1; fi
        say "  ($load: $((SECONDS - begin)) s)"
    done < <(loads)
    tell_quotients
    say "rows for docs/results/cuda: $out/model.json"
    return $status
}

# ---- bytes of a decode step ----------------------------------------------------------------------------------------
# name | shape | depth | most difference in % | options
byte_cases() {
    cat <<CASES
dense-2k   | llama-3.1-8b | 2048  | 10 | --set engine.deterministic=no
dense-32k  | llama-3.1-8b | 32768 | 10 | --set engine.deterministic=no
int4-2k    | llama-3.1-8b | 2048  | 10 | --set engine.deterministic=no --set quant.plugin=rtn --set quant.bits=4 --set quant.group=128
kivi4-32k  | llama-3.1-8b | 32768 | 10 | --set engine.deterministic=no --set kvcache.plugin=kivi --set kvcache.bits=4
tidal-32k  | llama-3.1-8b | 32768 | 10 | --set engine.deterministic=no --set attention.plugin=tidaldecode --set attention.token_budget=256 --set attention.select_heads=kv_group
dense-1b   | llama-3.2-1b | 2048  | 10 | --set engine.deterministic=no
CASES
}

# Bytes that all kernels of a run read and wrote. depth, steps, options ...
counted() {
    local depth=$1 steps=$2 sets=() word
    shift 2
    for word in "$@"; do [ "$word" = --set ] || sets+=("$word"); done
    timeout 240 ncu --clock-control none --cache-control none --replay-mode kernel --metrics dram__bytes_read.sum,dram__bytes_write.sum \
        --csv --page raw --print-units base "$here/decode_steps" "$depth" "$steps" "${sets[@]}" >"$tmp/ncu.csv" 2>"$tmp/ncu.err" || return 1
    # a heading, a line of units, then a line a kernel; numbers may have separators
    awk -F'","' 'function number(x) { gsub(/[",]/, "", x); return x + 0 }
        /"Kernel Name"/ { for (i = 1; i <= NF; i++) { if ($i ~ /dram__bytes_read/) r = i; if ($i ~ /dram__bytes_write/) w = i; if ($i ~ /Kernel Name/) k = i }; next }
        !k || $1 !~ /^"[0-9]/ { next }
        { read += number($r); written += number($w); n++; name = $k; gsub(/"/, "", name); of[name] += number($r) + number($w) }
        END { for (name in of) printf "%s\t%.0f\n", name, of[name] >by; if (!n) exit 1; printf "%.0f %.0f %d\n", read, written, n }' by="$tmp/kernels.$steps" "$tmp/ncu.csv"
}

run_bytes() {
    local name shape depth most args status=0 started=$SECONDS few many predicted
    command -v ncu >/dev/null || { say "go.sh: no ncu on this machine"; return 3; }
    : >"$out/bytes.jsonl"
    while IFS='|' read -r name shape depth most args; do
        name=$(trim "$name") shape=$(trim "$shape") depth=$(trim "$depth") most=$(trim "$most")
        case $name in $pattern*) ;; *) continue ;; esac
        if [ $((SECONDS - started)) -gt "$limit" ]; then say "$name: left out, the $limit s of --limit are over"; status=1; continue; fi
        args="--set model.shape=$shape --set engine.device=cuda --set engine.max_seqs=1 --set engine.prefill_chunk=4096 --set engine.max_rows=4096
            --set engine.max_context=$((depth + 256)) $(trim "$args")"
        if ! few=$(counted "$depth" 1 $args) || ! many=$(counted "$depth" 3 $args); then
            say "$name FAILED: $(grep -hE 'ERR_|==ERROR==|decode_steps:' "$tmp/ncu.csv" "$tmp/ncu.err" | head -n 2)"
            status=1
            grep -qhE 'ERR_NVGPUCTRPERM|LibraryNotLoaded' "$tmp/ncu.csv" "$tmp/ncu.err" && { say "the counters cannot be read on this machine"; return 3; }
            continue
        fi
        # steps behind depth + 2 and depth + 3 rows
        "$here/sluice" roofline --hw h200 $args -p $((depth + 2)) -n 3 -o json >"$tmp/roofline.json" 2>"$tmp/err" ||
            { say "$name FAILED: $(head -n 2 "$tmp/err")"; status=1; continue; }
        predicted=$(awk '/^  "decode": \{/ { here = 1 } here && /^    "bytes":/ { gsub(/[^0-9.eE+]/, "", $2); printf "%.0f", $2 / 2; exit }' "$tmp/roofline.json")
        printf '%s %s %s\n' "$few" "$many" "$predicted" | awk -v name="$name" -v most="$most" -v commit="$commit" -v date="$date" -v device="$device" -v shape="$shape" -v depth="$depth" -v json="$out/bytes.jsonl" '{
            read = ($4 - $1) / 2; written = ($5 - $2) / 2; measured = read + written; d = $7 > 0 ? measured / $7 - 1 : 9; ok = 100 * d < most && 100 * d > -most
            printf "%-10s predicted %8.3f GB, DRAM read %8.3f GB, written %6.3f GB: %+.1f%%, %d kernels a step%s\n", name, $7 / 1e9, read / 1e9, written / 1e9, 100 * d, ($6 - $3) / 2, (ok ? "" : ", more than " most "%: FAILED")
            printf "{\"case\": \"%s\", \"shape\": \"%s\", \"depth\": %d, \"predicted_bytes\": %.0f, \"dram_read\": %.0f, \"dram_written\": %.0f, \"commit\": \"%s\", \"date\": \"%s\", \"device\": \"%s\"}\n", name, shape, depth, $7, read, written, commit, date, device >>json
            exit !ok }' || {
            status=1 # where the bytes are, measured and predicted
            awk -F'\t' 'NR == FNR { few[$1] = $2; next } { d = ($2 - few[$1]) / 2; if (d > 1e7) printf "    %8.3f GB  %.100s\n", d / 1e9, $1 }' "$tmp/kernels.1" "$tmp/kernels.3" | sort -rn | head -n 12
            "$here/sluice" roofline --hw h200 $args -p $((depth + 2)) -n 3 | sed -n '/^## decode/,/^A step/p' | grep '^|' | cut -c 1-100; }
    done < <(byte_cases)
    say "rows: $out/bytes.jsonl"
    return $status
}

case $mode in
test) run_tests ;;
bytes) run_bytes ;;
bench) run_benches ;;
e2e) run_e2e ;;
model) run_model ;;
all) s=0; for f in run_tests run_e2e run_benches run_model; do $f || s=1; done; exit $s ;;
*) say "$usage"; [ "$mode" = --help ] || exit 2 ;;
esac
