"""Helpers shared by the golden-data recipes: versions, JSON in a readable layout, fp32 loading, exact logits.

Works with transformers 4.45 to 5.17 and torch 2.4 or newer; torch and transformers are imported when first needed, so
that recipes without them (extract_book.py, make_random_draft.py) do not load this file at all.
"""
import hashlib
import json
import os

import numpy as np


def set_exact(threads=None):
    """Plain fp32 everywhere: no TF32, deterministic kernels, no gradient."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def transformers_version():
    import transformers

    return tuple(int("".join(c for c in p if c.isdigit()) or 0) for p in transformers.__version__.split(".")[:2])


def versions():
    import torch
    import transformers

    return {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}


def load_fp32(path, config=None, device="cpu"):
    """The checkpoint in `path` as an eager-attention model, weights widened to fp32. `config` replaces config.json."""
    import torch
    from transformers import AutoModelForCausalLM

    key = "dtype" if transformers_version() >= (4, 56) else "torch_dtype"
    more = {key: torch.float32, "attn_implementation": "eager"}
    if config is not None:
        more["config"] = config
    model = AutoModelForCausalLM.from_pretrained(path, **more).float().eval().to(device)
    wrong = [n for n, p in model.named_parameters() if p.dtype != torch.float32]
    if wrong:
        raise SystemExit(f"{path}: not in fp32 after loading: {wrong[:3]}")
    return model


def logits_of(model, ids):
    """Logits [T, V] of one sequence without a cache, in the model's dtype, on the CPU."""
    import torch

    row = torch.tensor([[int(i) for i in ids]], dtype=torch.long, device=next(model.parameters()).device)
    return model(input_ids=row, use_cache=False).logits[0].detach().cpu()


def sha256_file(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def write_json(path, doc):
    """One key a line down to three levels, number lists on one line: small, and diffs stay readable."""

    def flat(v):
        inner = v if isinstance(v, list) else []
        return not isinstance(v, dict) and not any(isinstance(x, (dict, list)) for x in inner)

    def text(v, depth):
        pad = " " * (depth + 1)
        if flat(v) or depth >= 3 or not v:
            return json.dumps(v, ensure_ascii=False)
        if isinstance(v, list):
            return "[\n" + ",\n".join(pad + text(x, depth + 1) for x in v) + "\n" + " " * depth + "]"
        rows = (f"{pad}{json.dumps(k, ensure_ascii=False)}: {text(x, depth + 1)}" for k, x in v.items())
        return "{\n" + ",\n".join(rows) + "\n" + " " * depth + "}"

    with open(path, "w", encoding="utf-8") as f:
        f.write(text(doc, 0) + "\n")


def save_tensors(path, tensors, metadata):
    """A safetensors file from numpy arrays. `metadata`: str -> str."""
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata=metadata)
    os.chmod(path, 0o644)


def size_of_tree(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files)
