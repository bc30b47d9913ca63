#!/usr/bin/env python3
"""Random tiny checkpoints of every supported architecture, with the logits transformers computes from them in fp32.

    python3 recipes/golden/make_architectures.py tests/data/arch

Writes OUT/<name>/ for each row of ARCHITECTURES:
  config.json, generation_config.json, *.safetensors
                      as `save_pretrained` writes them; one is sharded, two are bf16, one f16, the rest f32
  config_old.json     (some) the same model as transformers before 5 wrote it: `torch_dtype`, `rope_theta`,
                      `rope_scaling`, no `rope_parameters`, no `layer_types`, keys that have defaults left out
  golden.safetensors  ids I32 [T], logits F32 [T, V]: one sequence from position 0, no padding, eager attention,
                      computed in fp32 from the *stored* (rounded) weights
  golden.json         seed, versions, ids, logit range, `fp32_noise` (largest difference to the same model in fp64, as a
                      part of the range), `features` (how far the logits move when a feature is taken out, as a part of
                      the range: proof that the file tests it)

Weights come from numpy's PCG64, seeded by architecture and tensor name, so they do not depend on the torch version.
Their scale is above the usual initialisation, so logits spread over several units and attention is neither flat nor
one-hot. Norm weights lie around 1, biases are random. Takes about 10 s on a CPU; needs torch, transformers, numpy.
"""
import argparse
import hashlib
import json
import os
import shutil

import numpy as np

import golden_common as gc

SEED = 20250
BASE = dict(vocab_size=160, bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=128,
            num_hidden_layers=2, hidden_act="silu", rms_norm_eps=1e-5, tie_word_embeddings=False)

# name -> model_type, T tokens, stored dtype, rope (theta and, optionally, scaling), config values.
# `without`: feature -> config changes that take it out; the recipe proves that the logits then differ.
# `old`: keys left out of config_old.json because published configs of that age lack them.
ARCHITECTURES = {
    "llama2": dict(
        type="llama", tokens=48, dtype="float16", theta=1e4,
        config=dict(hidden_size=64, intermediate_size=101, num_attention_heads=4, num_key_value_heads=4),
        without={"rope_theta": dict(theta=5e5)},
        old=["head_dim", "rope_theta", "attention_bias", "mlp_bias"]),
    "llama3": dict(
        type="llama", tokens=48, dtype="bfloat16", theta=5e5,
        config=dict(hidden_size=96, intermediate_size=112, num_attention_heads=6, num_key_value_heads=2,
                    tie_word_embeddings=True),
        without={"rope_theta": dict(theta=1e4)}),
    "llama31": dict(
        type="llama", tokens=60, dtype="float32", shard="100KB", theta=1e4,
        scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=64),
        config=dict(hidden_size=64, intermediate_size=80, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                    max_position_embeddings=512),
        without={"rope_scaling": dict(scaling=None)}, old=["head_dim"]),
    "llama_bias": dict(
        type="llama", tokens=44, dtype="float32", theta=1e4,
        config=dict(hidden_size=48, intermediate_size=72, num_attention_heads=3, num_key_value_heads=1,
                    attention_bias=True, mlp_bias=True),
        without={"attention_bias": dict(zero="self_attn"), "mlp_bias": dict(zero="mlp")}),
    "llama_linear": dict(
        type="llama", tokens=52, dtype="float32", theta=1e4, scaling=dict(rope_type="linear", factor=4.0),
        config=dict(hidden_size=48, intermediate_size=64, num_attention_heads=3, num_key_value_heads=3),
        without={"rope_scaling": dict(scaling=None)}, old=["head_dim"], old_type_key="type"),
    "llama_yarn": dict(
        type="llama", tokens=60, dtype="bfloat16", theta=1e4,
        scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        config=dict(hidden_size=48, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                    max_position_embeddings=256),
        without={"rope_scaling": dict(scaling=None)}),
    "mistral": dict(
        type="mistral", tokens=56, dtype="float32", theta=1e4,
        config=dict(hidden_size=48, intermediate_size=72, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
                    sliding_window=16),
        without={"sliding_window": dict(sliding_window=None), "window_size_by_one": dict(sliding_window=17)},
        old=[]),
    "qwen2": dict(
        type="qwen2", tokens=56, dtype="float32", theta=1e6,
        config=dict(hidden_size=48, intermediate_size=101, num_attention_heads=3, num_key_value_heads=1,
                    num_hidden_layers=3, rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=16,
                    max_window_layers=1),
        without={"sliding_window": dict(use_sliding_window=False), "max_window_layers": dict(max_window_layers=0),
                 "qkv_bias": dict(zero="self_attn")},
        old=["layer_types"]),
    "qwen2_full": dict(
        type="qwen2", tokens=48, dtype="float32", theta=1e6,
        config=dict(hidden_size=64, intermediate_size=72, num_attention_heads=4, num_key_value_heads=2,
                    rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=16, max_window_layers=1,
                    tie_word_embeddings=True),
        without={"qkv_bias": dict(zero="self_attn")}),
    "qwen3": dict(
        type="qwen3", tokens=48, dtype="float32", theta=1e6,
        config=dict(hidden_size=64, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
                    rms_norm_eps=1e-6, use_sliding_window=False, max_window_layers=2, attention_bias=False,
                    tie_word_embeddings=True),
        without={"qk_norm_weights": dict(ones="_norm.weight", only="self_attn")}),
}


def make_config(spec, **change):
    """The transformers config of a row; rope goes in as this version of transformers wants it."""
    from transformers import AutoConfig

    values = {**BASE, **spec["config"]}
    scaling = change.pop("scaling", spec.get("scaling"))
    theta = change.pop("theta", spec["theta"])
    values.update(change)
    if gc.transformers_version()[0] >= 5:
        values["rope_parameters"] = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    else:
        values["rope_theta"] = theta
        values["rope_scaling"] = dict(scaling) if scaling else None
    return AutoConfig.for_model(spec["type"], **values)


def rng_of(name, tensor):
    digest = hashlib.sha256(f"{SEED}/{name}/{tensor}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest[:16], dtype=np.uint32).tolist())


def draw(name, tensor, shape, tied):
    """fp32 values of one tensor. Matrices keep unit variance times `gain`; the input of each is RMS-normed or alike."""
    g = rng_of(name, tensor).standard_normal(shape)
    if tensor.endswith("norm.weight"):
        w = 1.0 + 0.25 * g
    elif tensor.endswith(".bias"):
        w = 0.5 * g
    elif tensor.endswith("embed_tokens.weight"):
        w = g * (2.5 / np.sqrt(shape[1]) if tied else 1.0)
    else:
        gain = 1.2
        for part, value in (("q_proj", 1.4), ("k_proj", 1.4), ("lm_head", 2.5), ("up_proj", 1.5), ("o_proj", 1.5)):
            if part in tensor:
                gain = value
        w = g * (gain / np.sqrt(shape[1]))
    return w.astype(np.float32)


def fill(model, name, tied):
    import torch

    for tensor, p in model.named_parameters():
        p.data.copy_(torch.from_numpy(draw(name, tensor, tuple(p.shape), tied)))


def old_config(doc, spec):
    """config.json as transformers 4.40 would have written it."""
    new = dict(doc)
    rope = new.pop("rope_parameters", None) or {}
    theta = rope.pop("rope_theta", new.get("rope_theta", spec["theta"]))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not rope and new.get("rope_scaling"):
        rope = dict(new["rope_scaling"])
        kind = rope.get("rope_type", rope.get("type"))
    new["rope_theta"] = theta
    new["rope_scaling"] = None
    if kind != "default":
        rest = {k: v for k, v in rope.items() if k not in ("rope_type", "type")}
        new["rope_scaling"] = {spec.get("old_type_key", "rope_type"): kind, **rest}
    new["torch_dtype"] = new.pop("dtype", new.get("torch_dtype", spec["dtype"]))
    new["transformers_version"] = "4.40.0"
    for key in spec["old"]:
        new.pop(key, None)
    return dict(sorted(new.items()))


def config_from(doc):
    from transformers import AutoConfig

    doc = dict(doc)
    doc.pop("transformers_version", None)
    return AutoConfig.for_model(doc.pop("model_type"), **doc)


def spread(a, b, span):
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max() / span)


def without_feature(path, spec, change, ids):
    """Logits of the stored weights with one feature taken out."""
    import torch

    change = dict(change)
    zero, ones, only = change.pop("zero", None), change.pop("ones", None), change.pop("only", "")
    model = gc.load_fp32(path, config=make_config(spec, **change))
    hit = 0
    for tensor, p in model.named_parameters():
        if zero and zero in tensor and tensor.endswith(".bias"):
            p.data.zero_()
            hit += 1
        if ones and only in tensor and tensor.endswith(ones):
            p.data.copy_(torch.ones_like(p))
            hit += 1
    if (zero or ones) and not hit:
        raise SystemExit(f"{path}: no tensor for {zero or ones}")
    return gc.logits_of(model, ids).numpy()


def make(name, spec, out):
    import torch
    from transformers import AutoModelForCausalLM

    path = os.path.join(out, name)
    shutil.rmtree(path, ignore_errors=True)
    config = make_config(spec)
    tied = bool(config.tie_word_embeddings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    fill(model, name, tied)
    model.to(getattr(torch, spec["dtype"])).save_pretrained(path, max_shard_size=spec.get("shard", "1GB"))
    shards = [f for f in os.listdir(path) if f.endswith(".safetensors")]
    if bool(spec.get("shard")) != (len(shards) > 1):
        raise SystemExit(f"{path}: {len(shards)} weight files")

    ids = rng_of(name, "ids").integers(0, config.vocab_size, spec["tokens"])
    model = gc.load_fp32(path)
    logits = gc.logits_of(model, ids).numpy()
    if logits.dtype != np.float32 or logits.shape != (len(ids), config.vocab_size) or not np.isfinite(logits).all():
        raise SystemExit(f"{name}: logits are {logits.dtype} {logits.shape}")
    span = float(logits.max() - logits.min())
    noise = spread(gc.logits_of(model.double(), ids).numpy(), logits, span)
    if noise > 2e-5:
        raise SystemExit(f"{name}: fp32 noise {noise} is too near the tests' tolerance of 1e-4")
    if not 4 < span < 60:
        raise SystemExit(f"{name}: logit range {span}")

    features = {}
    for feature, change in spec["without"].items():
        features[feature] = spread(without_feature(path, spec, change, ids), logits, span)
        if features[feature] < 1e-3:
            raise SystemExit(f"{name}: {feature} moves the logits only by {features[feature]} of their range")

    if "old" in spec:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            old = old_config(json.load(f), spec)
        with open(os.path.join(path, "config_old.json"), "w", encoding="utf-8") as f:
            f.write(json.dumps(old, indent=2) + "\n")
        again = gc.logits_of(gc.load_fp32(path, config=config_from(old)), ids).numpy()
        if spread(again, logits, span) > 1e-6:
            raise SystemExit(f"{name}: config_old.json describes another model")

    meta = {"recipe": "recipes/golden/make_architectures.py", "seed": SEED, **gc.versions()}
    gc.save_tensors(os.path.join(path, "golden.safetensors"), {"ids": ids.astype(np.int32), "logits": logits},
                    {k: str(v) for k, v in meta.items()})
    gc.write_json(os.path.join(path, "golden.json"), {
        "name": name, "command": "python3 recipes/golden/make_architectures.py OUT", **meta,
        "stored_dtype": spec["dtype"],
        "tokens": len(ids), "vocab": int(config.vocab_size), "logit_min": float(logits.min()),
        "logit_max": float(logits.max()), "logit_range": span, "fp32_noise": float(f"{noise:.3g}"),
        "features": {k: float(f"{v:.3g}") for k, v in features.items()}, "ids": [int(i) for i in ids]})
    moved = ", ".join(f"{k} {v:.2g}" for k, v in features.items())
    print(f"{name:13} {gc.size_of_tree(path):8d} bytes, range {span:5.1f}, noise {noise:.1e}, moves: {moved}",
          flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", help="folder that gets one folder for each architecture")
    p.add_argument("--only", nargs="*", help="names of architectures (default: all)")
    args = p.parse_args()
    unknown = set(args.only or []) - set(ARCHITECTURES)
    if unknown:
        p.error(f"unknown: {sorted(unknown)}; there are {sorted(ARCHITECTURES)}")
    gc.set_exact()
    for name, spec in ARCHITECTURES.items():
        if not args.only or name in args.only:
            make(name, spec, args.out)
    print(f"total {gc.size_of_tree(args.out)} bytes in {args.out}")


if __name__ == "__main__":
    main()
