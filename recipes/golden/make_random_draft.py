#!/usr/bin/env python3
"""A random one-layer model with the vocabulary of another checkpoint: a draft whose proposals are nearly all wrong.

    python3 recipes/golden/make_random_draft.py --like models/tiny --out tests/data/random_draft

Llama, 1 layer, width 32, 2 heads of 16, FFN 64, tied bf16 embeddings. Tokenizer files are copied. Weights come from
numpy's PCG64 with a fixed seed; only numpy is needed.
"""
import argparse
import json
import os
import shutil

import numpy as np

SEED = 77
WIDTH, HEADS, HEAD_DIM, FFN = 32, 2, 16, 64


def bf16(x):
    """fp32 -> bf16 bits, rounded to nearest even."""
    u = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt", "recipe": "make_random_draft.py", "seed": str(SEED)}}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            f.write(t.astype("<u2").tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--like", required=True, help="checkpoint whose tokenizer and context the draft shares")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    with open(os.path.join(args.like, "config.json"), encoding="utf-8") as f:
        like = json.load(f)
    os.makedirs(args.out, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(os.path.join(args.like, name), os.path.join(args.out, name))

    config = {**like, "hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": 1,
              "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD_DIM,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(config, indent=1) + "\n")

    rng = np.random.default_rng(SEED)
    inner, layer = HEADS * HEAD_DIM, "model.layers.0."
    shapes = {"model.embed_tokens.weight": (like["vocab_size"], WIDTH)}
    for name, shape in (("self_attn.q_proj", (inner, WIDTH)), ("self_attn.k_proj", (inner, WIDTH)),
                        ("self_attn.v_proj", (inner, WIDTH)), ("self_attn.o_proj", (WIDTH, inner)),
                        ("mlp.gate_proj", (FFN, WIDTH)), ("mlp.up_proj", (FFN, WIDTH)), ("mlp.down_proj", (WIDTH, FFN)),
                        ("input_layernorm", (WIDTH,)), ("post_attention_layernorm", (WIDTH,))):
        shapes[layer + name + ".weight"] = shape
    shapes["model.norm.weight"] = (WIDTH,)
    tensors = {}
    for name, shape in shapes.items():
        g = rng.standard_normal(shape)
        # Layers outweigh the embedding, so that the tied head does not just propose the last token again.
        scale = 0.3 if "embed" in name else 2.0 / np.sqrt(shape[-1])
        tensors[name] = bf16(1 + 0.1 * g if "norm" in name else scale * g)
    path = os.path.join(args.out, "model.safetensors")
    write_safetensors(path, tensors)
    print(f"{sum(t.size for t in tensors.values())} parameters, {os.path.getsize(path)} bytes in {path}")


if __name__ == "__main__":
    main()
