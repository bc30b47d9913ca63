#!/usr/bin/env bash
# Measures the comparison of docs/report/ and writes it there. See docs/report/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

usage="usage: tools/report.sh SHARED [OPTIONS of sluice compare]
  SHARED   a folder with models/small, models/draft, data/wikitext2_valid.txt, data/prompts/spec_bench_question.jsonl and
           data/train/books2.jsonl.xz
  Everything is kept in build/report/: a run that was stopped goes on where it was."
case ${1:-} in
'' | -h | --help) say "$usage"; exit $(($# == 0 ? 2 : 0)) ;;
esac
shared=$(cd "$1" && pwd)
shift
sluice=$PWD/build/sluice
[ -x "$sluice" ] || die "build/sluice is not built: meson setup build --buildtype=release && ninja -C build"

# Names without folders, so that nothing in the report speaks of this machine.
work=build/report
mkdir -p $work/configs
for link in models/small models/draft data/wikitext2_valid.txt data/prompts/spec_bench_question.jsonl; do
    [ -e "$shared/$link" ] || die "$shared/$link is not there"
    ln -sfn "$shared/$link" "$work/${link##*/}"
done
ln -sf wikitext2_valid.txt $work/text.txt
ln -sf spec_bench_question.jsonl $work/prompts.jsonl
cp docs/results/*-duoattention-gates-small.tsv $work/
for file in docs/report/configs/*.ini; do
    sed 's|^pattern_file = .*/|pattern_file = ../|' "$file" >"$work/configs/${file##*/}.new"
done
cd $work

# Text that no measurement uses, for what is packed with data.
[ -s calibration.txt ] || { xz -dc "$shared/data/train/books2.jsonl.xz" 2>/dev/null || true; } | head -c 4000000 |
    sed 's/^.*"text": "//; s/\\n/\n/g; s/\\"/"/g' >calibration.txt
for name in gptq_4bit spqr_4bit; do
    [ -s $name.safetensors ] || {
        say "packing $name"
        "$sluice" quantize --config configs/$name.ini.new -m small --set engine.device=cpu --text calibration.txt -o $name.safetensors \
            --samples 24 --length 512
    }
    echo "artifact = ../$name.safetensors" >>configs/$name.ini.new
done
for file in configs/*.ini.new; do # a file that did not change keeps its results
    mv "$file" "${file%.new}"
done

# The base first, then kind by kind.
names="dense half_rows kivi_4bit kivi_2bit shadowkv snapkv_half snapkv_eighth h2o_half streaming_512 gemfilter_512
    duoattention_half quest_256 tidaldecode_256 rtn_8bit rtn_4bit rtn_4bit_g128 rtn_4bit_rotated gptq_4bit
    prompt_lookup token_recycling swift sps_draft least_memory three_together quest_on_kivi spqr_4bit"
files=()
for name in $names; do
    files+=("configs/$name.ini")
done
"$sluice" compare "${files[@]}" -m small -c 4096 --text text.txt --prompts prompts.jsonl \
    --bench "--tests 'pp512 tg32 tg16@512 tg16@2048'" \
    --ppl "--context 1024 --windows 6 --steps 96" \
    --kld "--context 1024 --windows 4 --steps 96" \
    --retrieval "--length 2048 --questions 40 --mode multi_request" \
    --spec "-n 64 --temperatures 0 --limit 1" -o out "$@"
cp out/report.html out/report.md out/report.json ../../docs/report/
cd ../..
if browser=$(command -v chromium || command -v google-chrome); then # the picture that the README shows
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1.5 --window-size=1200,1340 \
        --screenshot=docs/report/report.png "file://$PWD/docs/report/report.html" >/dev/null 2>&1
fi
say "docs/report/ is written: report.html, report.md, report.json and, where there is chromium, report.png"
