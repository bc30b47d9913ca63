"""Token windows for train_heads.py: cut from texts, and written by the model itself."""
import hashlib
import json
import lzma
import os
import time


def open_text(path):
    if path.endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8", newline="")
    return open(path, encoding="utf-8", newline="")


def read_documents(path):
    """Documents of a .txt or .jsonl file (objects with the key text), either of them with .xz behind."""
    name = path[:-3] if path.endswith(".xz") else path
    with open_text(path) as f:
        if name.endswith(".jsonl"):
            for line in f:
                if line.strip():
                    yield json.loads(line)["text"]
        else:
            yield f.read()


def sha256_file(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for part in iter(lambda: f.read(1 << 20), b""):
            h.update(part)
    return h.hexdigest()


def write_safetensors(path, tensors, metadata):
    """The same bytes for the same content (the library's own writer orders the metadata anew in every process)."""
    import torch

    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    header, at = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name, t in sorted(tensors.items()):
        n = t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, t in sorted(tensors.items()):
            f.write(t.contiguous().view(torch.uint8).numpy().tobytes())


def encode_texts(tokenizer, paths, max_chars):
    """All token ids of the texts, shortened to max_chars a file in an even way: each document gives its beginning."""
    ids, used = [], []
    for path in paths:
        docs = list(read_documents(path))
        total = sum(len(d) for d in docs)
        share = min(1.0, max_chars / max(1, total)) if max_chars > 0 else 1.0
        pieces = []
        for d in docs:  # pieces of 20,000 characters: the tokenizer works on many at once
            d = d[: max(2000, int(len(d) * share))]
            pieces += [d[i : i + 20000] for i in range(0, len(d), 20000)]
        before = len(ids)
        for e in tokenizer.encode_batch(pieces, add_special_tokens=False):
            ids += e.ids
        used.append({"file": os.path.basename(path), "sha256": sha256_file(path), "documents": len(docs),
                     "characters": sum(len(p) for p in pieces), "tokens": len(ids) - before})
    return ids, used


def windows(ids, length, bos):
    """[n, length] rows that begin with BOS, as prompts of these models do; the rest of the text follows gaplessly."""
    import torch

    body = length - 1
    n = len(ids) // body
    rows = torch.tensor(ids[: n * body], dtype=torch.int32).view(n, body)
    return torch.cat([torch.full((n, 1), bos, dtype=torch.int32), rows], 1)


def generate(model, prompts, length, temperature, generator, banned):
    """Continues prompts [B, P] to [B, length]. temperature 0: greedy. Banned ids (end of text and other special
    tokens) are never written, so that rows keep one length."""
    import torch

    ids = prompts.long()
    past, new = None, ids
    with torch.no_grad():
        while ids.shape[1] < length:
            out = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = out.past_key_values
            logits = out.logits[:, -1].float()
            logits[:, banned] = float("-inf")
            if temperature > 0:
                new = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
            else:
                new = logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, new], 1)
    return ids.int()


def self_text(model, rows, args, banned, log):
    """--generate tokens of the model's own, in batches whose temperatures take turns. rows: windows to take prompts
    from. Returns rows [n, window] on the CPU, the number of prompt tokens in front of each being --prompt."""
    import torch

    temperatures = [float(t) for t in args.temperatures.split(",")]
    generator = torch.Generator(device=args.device).manual_seed(args.seed)
    made, n, turn, begin = [], 0, 0, time.time()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed))
    while n < args.generate and len(rows) > 0:
        pick = order[[(turn * args.generate_batch + i) % len(rows) for i in range(args.generate_batch)]]
        prompts = rows[pick][:, : args.prompt].to(args.device)
        t = temperatures[turn % len(temperatures)]
        made.append(generate(model, prompts, args.window, t, generator, banned).cpu())
        n += args.generate_batch * (args.window - args.prompt)
        turn += 1
        log(f"generated {n} of {args.generate} tokens, {n / (time.time() - begin):.0f} a second")
    return torch.cat(made) if made else rows[:0]
