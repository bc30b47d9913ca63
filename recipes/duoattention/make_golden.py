#!/usr/bin/env python3
"""Golden data for the plugin's tests: the reference's algorithm on models/tiny, chunk by chunk, in fp32 on the CPU.

    python3 recipes/duoattention/make_golden.py --model models/tiny --text recipes/golden/prose_watson.txt \\
        --out plugins/attention/duoattention/duo_golden.json

As in the official code each layer keeps two caches: full heads append; streaming heads attend to [stored rows] ++ [chunk],
causal and bottom-right aligned, then keep rows [0, sink) and the last `recent`. Nothing here knows the masks by which the
plugin says the same. A case has the chunks' sizes (the last ones of 1 are decoding) and, for some tokens, the ids and
logits of the eight largest.
"""
import argparse
import json

import torch

from duo_model import Model, attend, load_tokenizer

GATES = [[0.9, 0.1], [0.05, 0.8], [0.7, 0.75], [0.2, 0.15], [0.6, 0.3], [0.25, 0.95]]
SINK, RECENT = 4, 24
CASES = {
    "chunk_50": [50, 50, 50, 30] + [1] * 20,
    "chunk_whole": [180] + [1] * 20,
    "single": [1] * 200,
}
ROWS = [20, 49, 50, 77, 99, 100, 131, 179, 180, 190, 199]


class Cache:
    def __init__(self, streams):
        self.streams, self.k, self.v = streams, [None] * len(streams), [None] * len(streams)

    def step(self, q, k, v):
        """q [T, H, D], k and v [T, K, D] rotated -> o [T, H, D]."""
        T, G, out = q.shape[0], q.shape[1] // len(self.streams), []
        for h, streams in enumerate(self.streams):
            kh, vh = k[:, h : h + 1], v[:, h : h + 1]
            if self.k[h] is not None:
                kh, vh = torch.cat([self.k[h], kh]), torch.cat([self.v[h], vh])
            S = kh.shape[0]
            mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
            out.append(attend(q[:, h * G : (h + 1) * G], kh, vh, mask))
            if streams and S > SINK + RECENT:
                kh, vh = (torch.cat([t[:SINK], t[S - RECENT :]]) for t in (kh, vh))
            self.k[h], self.v[h] = kh, vh
        return torch.cat(out, 1)


def run(model, ids, chunks):
    """Logits [T, V]."""
    caches, out, done = [Cache([g < 0.5 for g in row]) for row in GATES], [], 0
    for n in chunks:
        rotary = model.rotary(torch.arange(done, done + n))
        x = model.embed(torch.tensor(ids[done : done + n]))
        for layer in range(model.layers):
            q, k, v = model.qkv(x, layer)
            x = model.finish_layer(x, caches[layer].step(model.rotate(q, rotary), model.rotate(k, rotary), v), layer)
        out.append(model.head(x))
        done += n
    return torch.cat(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    model = Model(a.model)
    with open(a.text, encoding="utf-8") as f:
        ids = ([model.bos] + load_tokenizer(a.model).encode(f.read(), add_special_tokens=False).ids)[:200]
    doc = {"made_by": "recipes/duoattention/make_golden.py", "gates": GATES, "sink": SINK, "recent": RECENT, "ids": ids, "cases": {}}
    for name, chunks in CASES.items():
        top = run(model, ids, chunks).topk(8, -1)
        doc["cases"][name] = {"chunks": chunks, "rows": {str(r): {"ids": top.indices[r].tolist(),
                              "logits": [round(float(x), 5) for x in top.values[r]]} for r in ROWS}}
    with open(a.out, "w") as f:
        cases = ",\n".join(f" {json.dumps(n)}: {json.dumps(c)}" for n, c in doc.pop("cases").items())
        f.write("{\n" + "".join(f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in doc.items()) + f'"cases": {{\n{cases}\n}}}}\n')


if __name__ == "__main__":
    main()
