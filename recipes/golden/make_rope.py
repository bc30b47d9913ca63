#!/usr/bin/env python3
"""RoPE tables as transformers computes them in fp32 on a CPU, for the loader's test.

Writes OUT (tests/data/rope.json): for each case the configuration, `inv_freq_bits` (fp32 as integers, [dim/2]), and
cos and sin of every `step`-th pair at `positions`, attention factor included.

usage: make_rope.py OUT        needs torch, transformers; takes 1 s
"""
import argparse
import json

import torch
import transformers
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 7, 1000, 8191, 8192, 131071, 1000000]
STEP = 9
BASE = {"model_type": "llama", "hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 131072}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
CASES = [
    ("plain_1e4", 128, 1e4, None),
    ("plain_5e5", 64, 5e5, None),
    ("plain_1e6", 128, 1e6, None),
    ("linear", 128, 1e4, {"type": "linear", "factor": 3.0}),
    ("llama31_8b", 128, 5e5, dict(LLAMA3, factor=8.0)),
    ("llama32_1b", 64, 5e5, dict(LLAMA3, factor=32.0)),
    ("llama3_odd", 64, 1e4, {"rope_type": "llama3", "factor": 3.0, "low_freq_factor": 1.5, "high_freq_factor": 3.7,
                             "original_max_position_embeddings": 1000}),
    ("yarn_qwen", 128, 1e6, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn_full", 96, 1e5, {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 32768,
                            "truncate": False, "beta_fast": 20, "beta_slow": 2, "mscale": 0.7,
                            "mscale_all_dim": 1.1}),
    ("yarn_given", 64, 1e4, {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
                             "attention_factor": 1.25}),
]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    args = ap.parse_args()
    cases = []
    for name, dim, theta, scaling in CASES:
        config = dict(BASE, head_dim=dim, rope_theta=theta)
        if scaling:
            config["rope_scaling"] = scaling
        rope = LlamaRotaryEmbedding(AutoConfig.for_model(**json.loads(json.dumps(config))))
        cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))
        cases.append({"name": name, "config": config,
                      "inv_freq_bits": rope.inv_freq.view(torch.int32).tolist(),
                      "cos": cos[0, :, : dim // 2 : STEP].tolist(), "sin": sin[0, :, : dim // 2 : STEP].tolist()})
    head = {"command": "python3 recipes/golden/make_rope.py OUT", "transformers": transformers.__version__,
            "torch": torch.__version__, "positions": POSITIONS, "step": STEP}
    with open(args.out, "w", encoding="utf-8") as f:
        f.write(json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
