#!/usr/bin/env python3
"""Golden data of the quantisers gptq and spqr: one matrix, its inputs, and what the algorithms make of it.

    python3 recipes/golden/make_quant.py tests/data/quant/golden.safetensors

Written from the papers (GPTQ, arXiv 2210.17323, algorithm 1; SpQR, arXiv 2306.03078, algorithm 1) in float64 with explicit
inverses and no blocks, so that it shares nothing with the C code but the definitions. numpy only. Tensors: `weight` F32
[32, 64], `inputs` F32 [160, 64] (input 5 is dead), and for each case below codes and what they are decoded with."""
import argparse
import json
import struct

import numpy as np


def f16(x):
    return np.float16(np.float32(x))


def factor(h):
    """Upper U with inverse(h) = U^T U."""
    return np.linalg.cholesky(np.linalg.inv(h)).T


# ---- GPTQ


def gptq_fit(w, bits, sym, mse):
    lo, hi, top = min(w.min(), 0.0), max(w.max(), 0.0), 2.0**bits - 1
    if sym:
        hi = max(-lo, hi)
        lo = -hi
    if lo == hi:
        lo, hi = -1.0, 1.0
    best = None
    for i in range(80 if mse else 1):
        p = 1 - i / 100
        s = float(f16(p * (hi - lo) / top)) or 2.0**-24
        z = (top + 1) / 2 if sym else np.clip(np.rint(-p * lo / s), 0, top)
        e = (np.abs(s * (np.clip(np.rint(w / s) + z, 0, top) - z) - w) ** 2.4).sum()
        if best is None or e < best[0]:
            best = (e, s, z)
    return best[1], best[2]


def gptq(weight, h, bits, group, sym, act_order=False, static=False, mse=False, damp=0.01):
    w, h = weight.astype(np.float64).copy(), h.copy()
    n, k = w.shape
    size = k if group < 0 else group
    groups = (k + size - 1) // size
    top = 2.0**bits - 1
    scale, zero = np.zeros((n, groups)), np.zeros((n, groups))

    def fit(rows, g):
        for r in range(n):
            scale[r, g], zero[r, g] = gptq_fit(rows[r], bits, sym, mse)

    if group < 0:
        fit(w, 0)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    if static:
        for g in range(groups):
            fit(w[:, g * size:(g + 1) * size], g)
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(k)
    if act_order:  # a dead input's place is that of its true diagonal, 0
        d = np.diag(h).copy()
        d[dead] = 0
        order = np.argsort(-d, kind="stable")
    w, h = w[:, order], h[order][:, order]
    h += np.eye(k) * damp * np.diag(h).mean()
    u = factor(h)
    codes = np.zeros((n, k), np.uint8)
    for j in range(k):
        g = order[j] // size if static else j // size
        if group > 0 and not static and j % size == 0:
            fit(w[:, j:j + size], g)
        s, z = scale[:, g], zero[:, g]
        q = np.clip(np.rint(w[:, j] / s) + z, 0, top)
        codes[:, j] = q
        e = (w[:, j] - s * (q - z)) / u[j, j]
        w[:, j:] -= np.outer(e, u[j, j:])
    if static or group < 0:  # codes at the inputs' own places
        back = np.empty_like(codes)
        back[:, order] = codes
        codes, order = back, np.arange(k)
    return {"codes": codes, "scale": f16(scale), "zero": zero.astype(np.uint8), "order": order.astype(np.uint32)}


# ---- SpQR


def fit_range(x, bits):
    """x [..., n] -> scale, zero over the last axis; zeros are not rounded."""
    lo, hi, top = x.min(-1), x.max(-1), 2.0**bits - 1
    s = (hi - lo) / top
    return s, -lo / s


def code(x, s, z, bits):
    return np.clip(np.rint(x / np.maximum(s, 1e-9) + z), 0, 2.0**bits - 1)


def leave_one_out(w, d, bits, tau):
    """w [n, m]: which are likely outliers."""
    n, m = w.shape
    s, z = fit_range(w, bits)
    s, z = s[:, None], z[:, None]
    base = (((s * (code(w, s, z, bits) - z) - w) / d) ** 2).sum(1)
    marks = np.zeros((n, m), bool)
    for i in range(m):
        rest = np.delete(w, i, 1)
        s, z = fit_range(rest, bits)
        s, z = s[:, None], z[:, None]
        loo = (((s * (code(rest, s, z, bits) - z) - rest) / np.delete(d, i)) ** 2).sum(1)
        marks[:, i] = base - loo > tau
    return marks


def spqr(weight, h, bits, threshold, act_order, qq=3, simplified=False, damp=1.0):
    w, h = weight.astype(np.float64).copy(), h.copy()
    n, k = w.shape
    G = k // 16
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(k)
    w, h = w[:, order], h[order][:, order]
    dead = np.diag(h) == 0
    h += np.eye(k) * damp * np.abs(np.diag(h)).mean()
    h[dead, dead] = 1
    w[:, dead] = 0
    u = factor(h)
    d = np.diag(u)
    tau = threshold * (w.var(0, ddof=1) / d**2).mean() if np.isfinite(threshold) else np.inf
    codes, outlier = np.zeros((n, k), np.uint8), np.zeros((n, k), np.uint8)
    exact = np.zeros((n, k))
    stat, second = np.zeros((n, G), np.uint8), np.zeros((n // 16, G, 4), np.float16)
    for j in range(k):
        if j % 16 == 0:
            group = w[:, j:j + 16].copy()
            if not simplified and np.isfinite(tau):
                marks = leave_one_out(group, d[j:j + 16], bits, tau)
                for r in range(n):
                    if marks[r].any():
                        rest = group[r, ~marks[r]]
                        group[r, marks[r]] = rest.mean() if rest.size else 0
            s, z = fit_range(group, bits)
            for t in range(n // 16):
                rows = slice(16 * t, 16 * t + 16)
                for i, x in enumerate((s, z)):
                    ss, sz = fit_range(x[rows], qq)
                    c = code(x[rows], ss, sz, qq)
                    x[rows] = ss * (c - sz)
                    stat[rows, j // 16] |= c.astype(np.uint8) << 4 * i
                    second[t, j // 16, 2 * i:2 * i + 2] = f16(ss), f16(sz)
        q = code(w[:, j], s, z, bits)
        value = s * (q - z)
        e = (w[:, j] - value) / d[j]
        out = e**2 > tau
        q[out] = code(np.zeros(out.sum()), s[out], z[out], bits)
        value[out] = w[out, j]
        outlier[:, j], exact[:, j], codes[:, j] = out, w[:, j], q
        e = (w[:, j] - value) / d[j]
        w[:, j + 1:] -= np.outer(e, u[j, j + 1:])
    st = stat.astype(np.float32)
    second32 = second.astype(np.float32).repeat(16, 0)  # [n, G, 4]
    s = second32[..., 0] * (np.float32(stat & 15) - second32[..., 1])
    z = second32[..., 2] * (np.float32(stat >> 4) - second32[..., 3])
    base = s.repeat(16, 1) * (codes.astype(np.float32) - z.repeat(16, 1))
    value = base + np.where(outlier, f16(exact.astype(np.float32) - base).astype(np.float32), 0)
    return {"codes": codes, "stat": stat, "second": second, "outlier": outlier, "value": value.astype(np.float32),
            "order": order.astype(np.uint32)}


# ---- the file

DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "uint32": "U32"}


def write(path, tensors, text):
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, at = {"__metadata__": text}, 0
    for name in order:
        t = tensors[name]
        header[name] = {"dtype": DTYPES[t.dtype.name], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for name in order:
            f.write(np.ascontiguousarray(tensors[name]).tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    args = p.parse_args()
    rng = np.random.default_rng(7)
    weight = (rng.standard_normal((32, 64)) * 0.1).astype(np.float32)
    weight[rng.integers(0, 32, 24), rng.integers(0, 64, 24)] *= 6
    mix = rng.standard_normal((64, 64)) * 0.3 + np.eye(64)
    inputs = (rng.standard_normal((160, 64)) @ mix * np.exp(rng.standard_normal(64) * 0.5)).astype(np.float32)
    inputs[:, 5] = 0
    h = inputs.T.astype(np.float64) @ inputs.astype(np.float64)
    tensors = {"weight": weight, "inputs": inputs}
    cases = {
        "gptq.4g16": gptq(weight, h, 4, 16, True),
        "gptq.3g32a_act": gptq(weight, h, 3, 32, False, act_order=True),
        "gptq.4g32a_static": gptq(weight, h, 4, 32, False, act_order=True, static=True),
        "gptq.2row_mse": gptq(weight, h, 2, -1, False, mse=True),
        "gptq.8g32_act": gptq(weight, h, 8, 32, True, act_order=True),
        "spqr.3": spqr(weight, h, 3, 0.2, True),
        "spqr.4_identity": spqr(weight, h, 4, 0.1, False, damp=0.01),
        "spqr.2_simplified": spqr(weight, h, 2, 0.2, True, simplified=True),
        "spqr.3_inf": spqr(weight, h, 3, np.inf, True),
    }
    for name, parts in cases.items():
        for part, t in parts.items():
            tensors[f"{name}.{part}"] = t
        if name.startswith("spqr"):
            print(f"{name}: {100 * parts['outlier'].mean():.2f} % outliers")
    write(args.out, tensors, {"made_by": "recipes/golden/make_quant.py", "numpy": np.__version__})


if __name__ == "__main__":
    main()
