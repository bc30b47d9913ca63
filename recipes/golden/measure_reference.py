#!/usr/bin/env python3
"""Perplexity of a checkpoint on plain text, by transformers in fp32: the number `sluice eval ppl` must reproduce.

    python3 recipes/golden/measure_reference.py --model DIR --text book.txt --context 2048 --windows 32 [--out FILE]

Definition (one text file; several files are measured apart and also summed):
  1. The file's bytes are UTF-8 text; line ends stay as they are. The whole text is encoded at once, without special
     tokens: t[0..M).
  2. With W = --context, window i is the W tokens  BOS, t[i*(W-1)], ..., t[(i+1)*(W-1) - 1].  Windows do not overlap and
     do not see each other; positions start at 0 in each. Only full windows count: the last M mod (W-1) tokens are left
     out. The first N = --windows of them are measured (0: all). BOS is token 0 of these models (--bos).
  3. The tokens fed are the first W-1 of a window; logits at position j predict the window's token j+1. So each window
     gives W-1 predictions, the first of them after BOS alone, and each token of the text is predicted once.
  4. nll = -log softmax(logits)[token], natural logarithm; logits in fp32, log-softmax and sums in fp64.
     ppl = exp(nll_sum / n_tokens), n_tokens = N * (W-1).

Prints JSON {ppl, nll_sum, n_tokens, windows, ...}, `nll_by_window` included, so that a difference can be found.
Uses a GPU when torch sees one (TF32 is off), otherwise the CPU: `tiny` takes 1 s a window of 2048 on two cores, `small`
7 s.
"""
import argparse
import json
import math
import os
import sys
import time

from tokenizers import Tokenizer

import golden_common as gc


def window_nll(model, window, device):
    """Sum of nll over the W-1 predictions of one window."""
    import torch

    row = torch.tensor([window], dtype=torch.long, device=device)
    logits = model(input_ids=row[:, :-1], use_cache=False).logits[0]
    total = 0.0
    for at in range(0, logits.shape[0], 512):  # fp64 copies of a part at a time
        part = logits[at:at + 512].double()
        pick = row[0, 1 + at:1 + at + part.shape[0]]
        total += float((torch.logsumexp(part, -1) - part.gather(1, pick[:, None])[:, 0]).sum())
    return total


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True, nargs="+", help="plain UTF-8 text files")
    p.add_argument("--context", type=int, default=2048, help="W: tokens in a window, BOS included (default 2048)")
    p.add_argument("--windows", type=int, default=0, help="first N windows of each file (default 0: all)")
    p.add_argument("--bos", type=int, default=0, help="token at the start of each window (default 0)")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--out", help="also write the JSON there")
    args = p.parse_args()
    gc.set_exact()
    import torch

    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    tok.no_truncation()
    model = gc.load_fp32(args.model, device=device)
    start, files = time.time(), []
    for path in args.text:
        with open(path, encoding="utf-8", newline="") as f:
            ids = tok.encode(f.read(), add_special_tokens=False).ids
        step = args.context - 1
        n = len(ids) // step
        n = min(n, args.windows) if args.windows else n
        if n < 1:
            raise SystemExit(f"{path}: {len(ids)} tokens do not fill a window of {args.context}")
        nll = []
        for i in range(n):
            nll.append(window_nll(model, [args.bos] + ids[i * step:(i + 1) * step], device))
            print(f"\r{os.path.basename(path)} window {i + 1}/{n}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        files.append({"text": os.path.basename(path), "text_sha256": gc.sha256_file(path), "text_tokens": len(ids),
                      "ppl": math.exp(math.fsum(nll) / (n * step)), "nll_sum": math.fsum(nll), "n_tokens": n * step,
                      "windows": n, "nll_by_window": [round(v, 6) for v in nll]})
    nll_sum, n_tokens = math.fsum(f["nll_sum"] for f in files), sum(f["n_tokens"] for f in files)
    doc = {"recipe": "recipes/golden/measure_reference.py", "model": os.path.basename(os.path.normpath(args.model)),
           "model_sha256": gc.sha256_file(os.path.join(args.model, "model.safetensors")), "context": args.context,
           "bos": args.bos, "ppl": math.exp(nll_sum / n_tokens), "nll_sum": nll_sum, "n_tokens": n_tokens,
           "windows": sum(f["windows"] for f in files), "device": device, "seconds": round(time.time() - start, 1),
           **gc.versions(), "files": files}
    print(json.dumps(doc, indent=1, ensure_ascii=False))
    if args.out:
        gc.write_json(args.out, doc)


if __name__ == "__main__":
    main()
