#!/usr/bin/env python3
"""Golden data of `sluice eval ppl` and `sluice eval kld`: perplexity by each protocol, and what rounded weights do to the
distribution of the next token, by transformers in fp32.

    python3 recipes/golden/make_statistics.py --model models/tiny --text recipes/golden/prose_watson.txt \
        --out tests/data/tiny/statistics.json

The other model is the same checkpoint with --bits (2) bits of mantissa left of bf16's 7, in every tensor, rounded to nearest
even on the bits themselves: u -> (u + ((u >> k) & 1) + (1 << (k - 1)) - 1) >> k << k with k = 7 - bits. Only the payload of
model.safetensors changes, so that a test can make it as easily.

`protocols`, as docs/eval.md defines them, windows of --context (256), --stride (100):
  bos      BOS and W-1 tokens of the text (encoded without special tokens); all W-1 predicted
  gptq     the text encoded with the tokenizer's special tokens, cut into W; W-1 predicted in each, the mean of the means
  lcpp     the same windows, first token replaced by BOS; predictions at positions W/2 .. W-2
  strided  windows that begin every --stride tokens; the tokens that no window before had, the rest of the text included
`kld`: base = the checkpoint, test = the rounded one, at the positions of lcpp; KLD = sum of p_base (ln p_base - ln p_test)
over ln p_base > -16; percentiles between neighbours (numpy's default); pm = standard error of a mean, tokens counted as
independent; dp = p_test - p_base of the token that came.

Logits in fp32, log-softmax and sums in fp64, on the CPU. `tiny` takes 10 s.
"""
import argparse
import math
import os
import shutil
import struct
import tempfile

import numpy as np
from tokenizers import Tokenizer

import golden_common as gc


def rounded_copy(model, bits, out):
    """The checkpoint with fewer bits of mantissa."""
    for name in os.listdir(model):
        if name != "model.safetensors":
            shutil.copy(os.path.join(model, name), out)
    with open(os.path.join(model, "model.safetensors"), "rb") as f:
        data = bytearray(f.read())
    begin = 8 + struct.unpack_from("<Q", data)[0]
    u = np.frombuffer(data, np.uint16, offset=begin).astype(np.uint32)
    k = 7 - bits
    u = (u + ((u >> k) & 1) + (1 << (k - 1)) - 1) >> k << k
    data[begin:] = u.astype(np.uint16).tobytes()
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(data)


def logprobs(model, row):
    """[T, V] float64: row t predicts token t + 1."""
    import torch

    return torch.log_softmax(gc.logits_of(model, row).double(), -1).numpy()


def nll(model, row, first):
    """Of the tokens row[first:], one after the other."""
    lp = logprobs(model, row)
    return np.array([-lp[t - 1, row[t]] for t in range(first, len(row))])


def protocols(model, plain, special, bos, w, stride):
    out = {}

    def note(name, windows):
        sums = [float(v.sum()) for v in windows]
        each = np.concatenate(windows)
        n = each.size
        mean = each.sum() / n
        out[name] = {"windows": len(windows), "n_tokens": n, "nll_sum": float(each.sum()), "mean_nll": float(mean),
                     "ppl": math.exp(mean), "ppl_pm": math.exp(mean) * math.sqrt(((each**2).mean() - mean**2) / (n - 1)),
                     "nll_by_window": sums}

    n = len(plain) // (w - 1)
    note("bos", [nll(model, [bos] + plain[i * (w - 1):(i + 1) * (w - 1)], 1) for i in range(n)])
    n = len(special) // w
    cut = [special[i * w:(i + 1) * w] for i in range(n)]
    note("gptq", [nll(model, row, 1) for row in cut])
    means = [s / (w - 1) for s in out["gptq"]["nll_by_window"]]
    out["gptq"]["ppl"] = math.exp(sum(means) / n)  # as the papers' scripts have it
    note("lcpp", [nll(model, [bos] + row[1:], w // 2 + 1) for row in cut])
    windows, seen, begin = [], 0, 0
    while True:
        end = min(begin + w, len(special))
        row = special[begin:end]
        windows.append(nll(model, row, max(seen - begin, 1)))
        seen = end
        if end == len(special):
            break
        begin += stride
    note("strided", windows)
    return out


def divergence(base, test, special, bos, w):
    kld, dp, same, nb, nt = [], [], [], [], []
    for i in range(len(special) // w):
        row = [bos] + special[i * w + 1:(i + 1) * w]
        lb, lq = logprobs(base, row), logprobs(test, row)
        for t in range(w // 2, w - 1):
            b, q, token = lb[t], lq[t], row[t + 1]
            keep = b > -16
            kld.append(float((np.exp(b[keep]) * (b[keep] - q[keep])).sum()))
            same.append(int(b.argmax() == q.argmax()))
            nb.append(-b[token])
            nt.append(-q[token])
            dp.append(math.exp(q[token]) - math.exp(b[token]))
    kld, dp, same, nb, nt = (np.array(x, np.float64) for x in (kld, dp, same, nb, nt))
    n = kld.size

    def pm(x):
        return float(math.sqrt(((x**2).mean() - x.mean()**2) / (n - 1)))

    rms = math.sqrt((dp**2).mean())
    at = {"kld_median": .5, "kld_p90": .9, "kld_p95": .95, "kld_p99": .99, "kld_p999": .999, "kld_max": 1.0}
    return {"tokens": n, "kld_mean": float(kld.mean()), "kld_mean_pm": pm(kld),
            **{k: float(np.quantile(kld, v)) for k, v in at.items()}, "same_top": float(same.mean()),
            "same_top_pm": math.sqrt(same.mean() * (1 - same.mean()) / (n - 1)), "dp_mean": float(dp.mean()),
            "dp_mean_pm": pm(dp), "dp_rms": rms, "dp_min": float(dp.min()), "dp_median": float(np.quantile(dp, .5)),
            "dp_max": float(dp.max()), "ppl": math.exp(nt.mean()), "ppl_base": math.exp(nb.mean()),
            "ln_ppl_ratio": float((nt - nb).mean()), "ln_ppl_ratio_pm": pm(nt - nb)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--stride", type=int, default=100)
    p.add_argument("--bits", type=int, default=2, help="mantissa bits that are left (default 2)")
    p.add_argument("--bos", type=int, default=0)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    gc.set_exact()
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    tok.no_truncation()
    with open(args.text, encoding="utf-8", newline="") as f:
        text = f.read()
    plain, special = (tok.encode(text, add_special_tokens=s).ids for s in (False, True))
    if special[0] != args.bos or special[1:] != plain:
        raise SystemExit("the tokenizer does not put BOS in front of a text")
    base = gc.load_fp32(args.model)
    with tempfile.TemporaryDirectory() as folder:
        rounded_copy(args.model, args.bits, folder)
        rounded_sha256 = gc.sha256_file(os.path.join(folder, "model.safetensors"))
        test = gc.load_fp32(folder)
    doc = {"recipe": "recipes/golden/make_statistics.py", "model": os.path.basename(os.path.normpath(args.model)),
           "model_sha256": gc.sha256_file(os.path.join(args.model, "model.safetensors")), "bits": args.bits,
           "rounded_sha256": rounded_sha256, "text": os.path.basename(args.text),
           "text_sha256": gc.sha256_file(args.text), "context": args.context, "stride": args.stride, "bos": args.bos,
           **gc.versions(), "protocols": protocols(base, plain, special, args.bos, args.context, args.stride),
           "kld": divergence(base, test, special, args.bos, args.context)}
    gc.write_json(args.out, doc)
    for name, r in doc["protocols"].items():
        print(f"{name:8} ppl {r['ppl']:.6f} +- {r['ppl_pm']:.6f}, {r['n_tokens']} tokens in {r['windows']} windows")
    print(f"kld mean {doc['kld']['kld_mean']:.8f}, same top {doc['kld']['same_top']:.4f}, {doc['kld']['tokens']} tokens")


if __name__ == "__main__":
    main()
