#!/usr/bin/env python3
"""Estimates DuoAttention's gates without training, in seconds. Good enough to try things out; not the paper's method.

    python3 recipes/duoattention/estimate_gates.py --model models/tiny --text BOOK.txt --out gates --method mass

auc   as NVIDIA's kvpress: on each text the mean query and mean key of a head, repeated `--repeat` times, rotated; softmax
      of the last row; the score is the mean of the cumulative attention, averaged over the query group. A head that looks
      far back scores high.
mass  on contexts with hidden sentences and questions (duo_tasks.py): how much attention the answers' tokens pay outside of
      the first `sink` and last `recent` tokens; the largest of the query group, mean over tokens.

Scores are scaled to [0, 1] over all heads (smallest and largest), so `attention.sparsity` is the parameter to use with
them; a threshold means little. Writes OUT/full_attention_heads.tsv and OUT/config.json. Needs torch and tokenizers.
"""
import argparse
import math

import torch

from duo_model import Model, attend, load_tokenizer, write_gates
from duo_tasks import TASKS, Haystack, make_context, read_texts, rng_of


def layers_of(model, ids):
    """q, k before RoPE of each layer of a dense forward pass."""
    rotary = model.rotary(torch.arange(len(ids), device=model.device))
    x = model.embed(ids)
    for layer in range(model.layers):
        q, k, v = model.qkv(x, layer)
        yield layer, q, k, rotary
        x = model.finish_layer(x, attend(model.rotate(q, rotary), model.rotate(k, rotary), v), layer)


def auc(model, ids, n_context, args):
    """[layers, K] of one text."""
    rotary = model.rotary(torch.arange(args.repeat, device=model.device))
    out = torch.zeros(model.layers, model.K)
    for layer, q, k, _ in layers_of(model, ids):
        q = model.rotate(q.float().mean(0).expand(args.repeat, -1, -1), rotary)[-1]
        k = model.rotate(k.float().mean(0).expand(args.repeat, -1, -1), rotary).repeat_interleave(model.H // model.K, 1)
        p = torch.einsum("hd,shd->hs", q, k).div(math.sqrt(model.D)).softmax(-1)
        out[layer] = p.cumsum(-1).mean(-1).reshape(model.K, -1).mean(-1).cpu()
    return out


def mass(model, ids, n_context, args):
    out = torch.zeros(model.layers, model.K)
    i = torch.arange(len(ids), device=model.device)
    distance = i[n_context:, None] - i[None, :]
    outside = (distance >= args.recent) & (i[None, :] >= args.sink)
    for layer, q, k, rotary in layers_of(model, ids):
        q, k = model.rotate(q, rotary)[n_context:].float(), model.rotate(k, rotary).float()
        s = torch.einsum("tkgd,skd->kgts", q.unflatten(1, (model.K, -1)), k) / math.sqrt(model.D)
        p = s.masked_fill(distance < 0, -torch.inf).softmax(-1)
        out[layer] = (p * outside).sum(-1).mean(-1).amax(-1).cpu()
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--method", choices=["auc", "mass"], default="mass")
    p.add_argument("--samples", type=int, default=50)
    p.add_argument("--repeat", type=int, default=500, help="auc: tokens that the mean key stands for")
    p.add_argument("--length", type=int, default=1024, help="tokens of a text")
    p.add_argument("--task", choices=sorted(TASKS), default="needles")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--sink", type=int, default=64)
    p.add_argument("--recent", type=int, default=256)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    model, tokenizer = Model(a.model, a.device), load_tokenizer(a.model)
    haystack = Haystack(tokenizer, read_texts(a.text))
    total = torch.zeros(model.layers, model.K)
    for sample in range(a.samples):
        rng = rng_of(a.seed, sample)
        if a.method == "auc":
            ids, n_context = ([] if model.bos is None else [model.bos]) + haystack.piece(rng, a.length), 0
        else:
            ids, n_context = make_context(tokenizer, haystack, rng, a.task, a.length, a.pairs, model.bos)
        total += (auc if a.method == "auc" else mass)(model, torch.tensor(ids, device=a.device), n_context, a)
    scores = total / a.samples
    gates = (scores - scores.min()) / (scores.max() - scores.min()).clamp_min(1e-9)
    write_gates(a.out, gates, a.sink, a.recent,
                {"method": a.method, "samples": a.samples, "length": a.length, "seed": a.seed,
                 "scores": [[round(float(x), 5) for x in r] for r in scores]})
    for layer, row in enumerate(gates):
        print(f"layer {layer:2d}  " + "  ".join(f"{float(x):.3f}" for x in row))


if __name__ == "__main__":
    main()
