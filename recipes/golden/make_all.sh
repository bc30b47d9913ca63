#!/bin/sh
# Makes all golden data that needs torch and transformers, and the reference perplexities.
#   recipes/golden/make_all.sh OUT TINY_DIR [SMALL_DIR BOOK.txt]
# OUT gets arch/ and tiny/ (copy them to tests/data/) and, with a book, ppl_tiny.json and ppl_small.json; versions.txt
# says with what. OUT/golden.tar.gz holds all of it. PYTHON names the interpreter, WINDOWS the number of windows of 2048
# tokens (default 32).
set -eu
if [ $# -ne 2 ] && [ $# -ne 4 ]; then
    echo "usage: make_all.sh OUT TINY_DIR [SMALL_DIR BOOK.txt]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
windows=${WINDOWS:-32}
out=${1%/}
tiny=$2
mkdir -p "$out"
show='import sys, torch, transformers, numpy; print("python", sys.version.split()[0], "torch", torch.__version__,
    "transformers", transformers.__version__, "numpy", numpy.__version__, "cuda", torch.cuda.is_available())'
"$python" -c "$show" >"$out/versions.txt"
cat "$out/versions.txt"
"$python" "$here/make_architectures.py" "$out/arch"
"$python" "$here/make_tiny.py" --model "$tiny" "$out/tiny"
"$python" "$here/measure_reference.py" --model "$tiny" --text "$here/prose_watson.txt" --context 256 --device cpu \
    --out "$out/tiny/ppl.json" >/dev/null
if [ $# -eq 4 ]; then
    for model in "$tiny" "$3"; do
        name=$(basename "$model")
        "$python" "$here/measure_reference.py" --model "$model" --text "$4" --context 2048 --windows "$windows" \
            --out "$out/ppl_$name.json" >/dev/null
        echo "perplexity of $name:"
        grep -E '^ "(ppl|nll_sum|n_tokens|windows|device|seconds)"' "$out/ppl_$name.json"
    done
fi
tar -C "$out" --exclude golden.tar.gz -czf "$out.tar.gz.part" .
mv "$out.tar.gz.part" "$out/golden.tar.gz"
ls -l "$out"
