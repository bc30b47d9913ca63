#!/usr/bin/env python3
"""Learns DuoAttention's gates for a checkpoint, as in the paper (arXiv 2410.10819, section 2.3; weights stay frozen).

    python3 recipes/duoattention/train_gates.py --model models/tiny --text BOOK.txt --out gates \\
        --lengths 384 1024 --steps 300 --sink 16 --recent 64

Writes OUT/full_attention_heads.tsv (a line a layer, a gate a KV head) and OUT/config.json, which `attention.pattern_file`
reads. Two copies of a context run side by side: the first with full attention; in the second each KV head gives
gate * (what the first copy's head gave) + (1 - gate) * (attention to the first `sink` and last `recent` tokens). Loss: mean
squared distance of the final hidden states on question and answer tokens, + reg * mean |gate|. AdamW, lr 0.02, warm-up over
the first and decay over the last fifth of the steps; gates are clamped to [0, 1] before each step.

Needs torch and tokenizers; no network, no transformers.
"""
import argparse
import json
import time

import torch

from duo_model import Model, attend, load_tokenizer, write_gates
from duo_tasks import TASKS, Haystack, make_context, read_texts, rng_of


def streaming_mask(n, sink, recent, device):
    i = torch.arange(n, device=device)
    distance = i[:, None] - i[None, :]
    return (distance >= 0) & ((distance < recent) | (i[None, :] < sink))


def two_copies(model, ids, gates, sink, recent):
    """Final hidden rows [T, E] of the full and of the mixed copy."""
    rotary = model.rotary(torch.arange(len(ids), device=model.device))
    mask = streaming_mask(len(ids), sink, recent, model.device)
    G = model.H // model.K
    full = mixed = model.embed(ids)
    for layer in range(model.layers):
        with torch.no_grad():
            q, k, v = model.qkv(full, layer)
            o_full = attend(model.rotate(q, rotary), model.rotate(k, rotary), v)
            full = model.finish_layer(full, o_full, layer)
        q, k, v = model.qkv(mixed, layer)
        o = attend(model.rotate(q, rotary), model.rotate(k, rotary), v, mask)
        gate = gates[layer].repeat_interleave(G)[None, :, None].to(o.dtype)
        mixed = model.finish_layer(mixed, gate * o_full + (1 - gate) * o, layer)
    return model.norm(full, "model.norm"), model.norm(mixed, "model.norm")


def schedule(step, steps):
    """Factor on the learning rate: up over the first fifth, down over the last one, never below 0.1."""
    fifth = max(1, steps // 5)
    return max(0.1, min(1.0, (step + 1) / fifth, (steps - step) / fifth))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="folder with config.json, *.safetensors, tokenizer.json")
    p.add_argument("--text", required=True, help="haystack: plain text, or .jsonl / .jsonl.xz with \"text\"")
    p.add_argument("--out", required=True, help="folder of the gates")
    p.add_argument("--task", choices=sorted(TASKS), default="needles")
    p.add_argument("--pairs", type=int, default=10, help="sentences hidden, and questions")
    p.add_argument("--lengths", type=int, nargs=2, default=(1000, 8000), metavar=("MIN", "MAX"))
    p.add_argument("--intervals", type=int, default=50, help="lengths drawn from, evenly between MIN and MAX")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--sink", type=int, default=128)
    p.add_argument("--recent", type=int, default=256)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--reg", type=float, default=0.05)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", choices=["auto", "f32", "bf16"], default="auto", help="auto: bf16 on a GPU")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if not 0 < a.lengths[0] <= a.lengths[1] or a.recent < 1 or a.sink < 0 or a.steps < 1:
        p.error("lengths must ascend; steps and recent are at least 1, sink at least 0")

    torch.manual_seed(a.seed)
    bf16 = a.dtype == "bf16" or (a.dtype == "auto" and a.device != "cpu")
    model = Model(a.model, a.device, torch.bfloat16 if bf16 else torch.float32)
    tokenizer = load_tokenizer(a.model)
    haystack = Haystack(tokenizer, read_texts(a.text))
    gates = torch.ones(model.layers, model.K, device=a.device, requires_grad=True)
    optimizer = torch.optim.AdamW([gates], lr=a.lr, weight_decay=0.0)
    begin, low, high = time.time(), *a.lengths
    for step in range(a.steps):
        rng = rng_of(a.seed, step)
        length = low + (high - low) * rng.randrange(a.intervals) // max(1, a.intervals - 1)
        ids, n_context = make_context(tokenizer, haystack, rng, a.task, length, a.pairs, model.bos, 16)
        for group in optimizer.param_groups:
            group["lr"] = a.lr * schedule(step, a.steps)
        with torch.no_grad():
            gates.clamp_(0, 1)
        full, mixed = two_copies(model, torch.tensor(ids, device=a.device), gates, a.sink, a.recent)
        distance = (full[n_context:].float() - mixed[n_context:].float()).pow(2).mean()
        loss = distance + a.reg * gates.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, a.steps // 20) == 0 or step == a.steps - 1:
            print(f"step {step:5d}  tokens {len(ids):6d}  distance {distance.item():.5f}  mean gate {gates.mean().item():.3f}  "
                  f"above 0.5: {(gates > 0.5).sum().item()} of {gates.numel()}  {time.time() - begin:.0f} s", flush=True)
    with torch.no_grad():
        gates = gates.clamp(0, 1).cpu()
    note = {k: v for k, v in vars(a).items() if k not in ("sink", "recent", "out", "model", "text", "device")}
    write_gates(a.out, gates, a.sink, a.recent, {"method": "trained", **note})
    print(json.dumps({"out": a.out, "seconds": round(time.time() - begin), "gates": [[round(float(x), 3) for x in r] for r in gates]}))


if __name__ == "__main__":
    main()
