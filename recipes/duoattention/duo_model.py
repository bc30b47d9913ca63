"""A Llama-style checkpoint in plain torch, for DuoAttention's recipes: weights out of safetensors files, the layers as
functions, attention left to the caller. Needs torch alone; the tokenizer needs `tokenizers`.

Serves what `sluice` calls llama, mistral and qwen2 without sliding windows: RMSNorm, half-split RoPE without scaling,
grouped heads, SwiGLU, optional biases of q, k, v and o.
"""
import json
import math
import os
import struct

import torch
import torch.nn.functional as F

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path):
    """{name: tensor} of one file."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(bytes(data[8 : 8 + n]))
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        flat = torch.frombuffer(data, dtype=DTYPES[t["dtype"]], count=(end - begin) // DTYPES[t["dtype"]].itemsize,
                                offset=8 + n + begin)
        out[name] = flat.reshape(t["shape"])
    return out


class Model:
    """Weights on a device in one dtype, frozen."""

    def __init__(self, folder, device="cpu", dtype=torch.float32):
        with open(os.path.join(folder, "config.json")) as f:
            c = json.load(f)
        rope = c.get("rope_parameters") or {}
        scaling = c.get("rope_scaling") or {k: v for k, v in rope.items() if k == "rope_type" and v != "default"}
        if scaling or c.get("hidden_act", "silu") != "silu":
            raise SystemExit(f"{folder}: RoPE scaling {scaling}, activation {c.get('hidden_act')}: not served by this recipe")
        self.folder, self.device, self.dtype = folder, device, dtype
        self.layers, self.H = c["num_hidden_layers"], c["num_attention_heads"]
        self.K = c.get("num_key_value_heads") or self.H
        self.D = c.get("head_dim") or c["hidden_size"] // self.H
        self.E, self.eps = c["hidden_size"], c.get("rms_norm_eps", 1e-6)
        self.theta = c.get("rope_theta") or rope.get("rope_theta") or 10000.0
        self.bos, self.max_context = c.get("bos_token_id"), c["max_position_embeddings"]
        self.w = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".safetensors"):
                for k, t in read_safetensors(os.path.join(folder, name)).items():
                    self.w[k] = t.to(device=device, dtype=dtype)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def norm(self, x, name):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.w[name + ".weight"].float() * y).to(x.dtype)

    def embed(self, ids):
        return F.embedding(ids, self.w["model.embed_tokens.weight"])

    def head(self, x):
        """Logits of residual rows."""
        name = "lm_head" if "lm_head.weight" in self.w else "model.embed_tokens"
        return F.linear(self.norm(x, "model.norm"), self.w[name + ".weight"])

    def rotary(self, position):
        """cos, sin [T, D/2] of positions [T], in f32."""
        inv = self.theta ** (-torch.arange(0, self.D, 2, device=self.device, dtype=torch.float32) / self.D)
        angle = position.float()[:, None] * inv
        return angle.cos(), angle.sin()

    @staticmethod
    def rotate(x, rotary):
        """x [..., T, heads, D]"""
        cos, sin = (r[:, None, :] for r in rotary)
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def qkv(self, x, layer):
        """q [..., T, H, D], k and v [..., T, K, D] of residual rows, before RoPE."""
        p = f"model.layers.{layer}."
        x = self.norm(x, p + "input_layernorm")
        q, k, v = (self.linear(x, p + f"self_attn.{n}_proj").unflatten(-1, (-1, self.D)) for n in "qkv")
        for t, n in ((q, "q"), (k, "k")):
            if p + f"self_attn.{n}_norm.weight" in self.w:
                raise SystemExit(f"{self.folder}: norms on q and k are not served by this recipe")
        return q, k, v

    def finish_layer(self, x, o, layer):
        """Residual rows behind the layer, o [..., T, H, D] being what its attention gave."""
        p = f"model.layers.{layer}."
        x = x + self.linear(o.flatten(-2), p + "self_attn.o_proj")
        y = self.norm(x, p + "post_attention_layernorm")
        y = F.silu(self.linear(y, p + "mlp.gate_proj")) * self.linear(y, p + "mlp.up_proj")
        return x + self.linear(y, p + "mlp.down_proj")


def attend(q, k, v, mask=None):
    """Softmax attention: q [T, H, D], k and v [S, K, D], mask [T, S] of what is seen; None: causal, T = S."""
    G = q.shape[-2] // k.shape[-2]
    k, v = k.repeat_interleave(G, -2), v.repeat_interleave(G, -2)
    q, k, v = (t.transpose(-3, -2).unsqueeze(0) for t in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1 / math.sqrt(q.shape[-1]))
    return o.squeeze(0).transpose(-3, -2)


def load_tokenizer(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def write_gates(folder, gates, sink, recent, note):
    """full_attention_heads.tsv [layers, K] and config.json, as the plugin and the official code read them."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "full_attention_heads.tsv"), "w") as f:
        for row in gates:
            f.write("\t".join(f"{float(x):.6f}" for x in row) + "\n")
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"sink_size": sink, "recent_size": recent, **note}, f, indent=2)
        f.write("\n")
