#!/usr/bin/env python3
"""Greedy continuations and logits of the embedded model `tiny`, by transformers in fp32.

    python3 recipes/golden/make_tiny.py --model models/tiny tests/data/tiny

Writes
  golden.json         the five prompts of tiny_prompts.MAIN: text, prompt_ids (token 0, then the text encoded as a
                      whole), greedy_ids (64, the largest logit each time, end-of-text not obeyed; none
                      occurs), greedy_text, margins (largest minus second largest logit at each of the 64 steps),
                      min_margin
  golden.safetensors  last.<name> F32 [V]: logits at the last prompt position of each prompt;
                      all.ids I32 [T], all.logits F32 [T, V]: every position of the prompt `prose`
  prompts40.json      40 short prompts, 16 greedy ids each; `eos_at` is the first step whose id ends a text, or null
Every step is a full forward pass without a cache. Prompts with a margin below MIN_MARGIN are not usable: another fp32
implementation might rightly choose the other token. A prompt with an expected answer (needle) must give it.
Takes about half a minute on two CPU cores; needs torch, transformers, tokenizers, numpy.
"""
import argparse
import json
import os

import numpy as np
from tokenizers import Tokenizer

import golden_common as gc
import tiny_prompts

MIN_MARGIN = 2e-3
N_MAIN, N_SHORT, SHORT_PROMPTS = 64, 16, 40
ALL_POSITIONS, ALL_LIMIT = "prose", 24
BOS = 0


def greedy(model, ids, n):
    """n argmax steps after `ids`: new ids, margins, logits [T, V] of the prompt."""
    ids, new, margins, first = list(ids), [], [], None
    for _ in range(n):
        logits = gc.logits_of(model, ids + new).numpy()
        if first is None:
            first = logits
        low, high = np.partition(logits[-1], -2)[-2:]
        new.append(int(logits[-1].argmax()))
        margins.append(float(high - low))
    return new, margins, first


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--model", required=True, help="folder of the checkpoint `tiny`")
    args = p.parse_args()
    gc.set_exact()
    os.makedirs(args.out, exist_ok=True)
    tok = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    model = gc.load_fp32(args.model)
    with open(os.path.join(args.model, "generation_config.json"), encoding="utf-8") as f:
        eos = json.load(f)["eos_token_id"]
    eos = set(eos if isinstance(eos, list) else [eos])

    def encode(text):
        ids = [BOS] + tok.encode(text, add_special_tokens=False).ids
        if ids != tok.encode(text).ids:
            raise SystemExit("the tokenizer's template is not `token 0, then the text`")
        return ids

    meta = {"recipe": "recipes/golden/make_tiny.py", "command": "python3 recipes/golden/make_tiny.py --model DIR OUT",
            "model_sha256": gc.sha256_file(os.path.join(args.model, "model.safetensors")),
            "tokenizer_sha256": gc.sha256_file(os.path.join(args.model, "tokenizer.json")), **gc.versions()}
    prompts, tensors = [], {}
    for name, text, answer in tiny_prompts.MAIN:
        ids = encode(text)
        new, margins, logits = greedy(model, ids, N_MAIN)
        out = tok.decode(new, skip_special_tokens=False)
        at = int(np.argmin(margins))
        print(f"{name}: {len(ids)} tokens, min margin {margins[at]:.4f} at {at}: {out!r}", flush=True)
        if min(margins) < MIN_MARGIN:
            raise SystemExit(f"prompt {name}: near-tie, change the prompt")
        if eos & set(new):
            raise SystemExit(f"prompt {name}: the text ends within {N_MAIN} tokens, change the prompt")
        if answer and not out.startswith(answer):
            raise SystemExit(f"prompt {name}: {answer!r} was not retrieved")
        tensors[f"last.{name}"] = logits[-1]
        if name == ALL_POSITIONS:
            if len(ids) > ALL_LIMIT:
                raise SystemExit(f"prompt {name}: {len(ids)} tokens are too many for all positions")
            tensors["all.ids"], tensors["all.logits"] = np.array(ids, dtype=np.int32), logits
        prompts.append({"name": name, "text": text, "prompt_ids": ids, "greedy_ids": new, "greedy_text": out,
                        "answer": answer, "min_margin": round(margins[at], 5),
                        "margins": [round(m, 4) for m in margins]})
    gc.write_json(os.path.join(args.out, "golden.json"),
                  {**meta, "all_positions_of": ALL_POSITIONS, "prompts": prompts})
    gc.save_tensors(os.path.join(args.out, "golden.safetensors"), tensors, {k: str(v) for k, v in meta.items()})

    short, left_out = [], []
    for text in tiny_prompts.SHORT:
        ids = encode(text)
        new, margins, _ = greedy(model, ids, N_SHORT)
        if min(margins) < MIN_MARGIN:
            left_out.append(text)
            continue
        end = next((i for i, t in enumerate(new) if t in eos), None)
        short.append({"text": text, "prompt_ids": ids, "greedy_ids": new, "min_margin": round(min(margins), 5),
                      "eos_at": end})
        if len(short) == SHORT_PROMPTS:
            break
    if len(short) < SHORT_PROMPTS:
        raise SystemExit(f"only {len(short)} prompts without near-ties; left out: {left_out}")
    print(f"{len(short)} short prompts, left out for near-ties: {left_out}")
    gc.write_json(os.path.join(args.out, "prompts40.json"), {**meta, "min_margin_asked": MIN_MARGIN, "prompts": short})
    print(f"total {gc.size_of_tree(args.out)} bytes in {args.out}")


if __name__ == "__main__":
    main()
