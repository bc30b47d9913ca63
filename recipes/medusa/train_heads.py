#!/usr/bin/env python3
"""Trains Medusa heads for a frozen Llama-like checkpoint, measures them, and writes them as safetensors.

    python3 recipes/medusa/train_heads.py --model DIR --text FILE... --out OUT [--layout b]

Head k reads the hidden row that the output head reads (after the last norm) and predicts the token at offset k + 2:
  y = h + SiLU(W1 h + b1), once for each of --layers blocks; logits = W2 y.
  layout b: W2 is the model's own output head, for every head; saved are W1 and b1 only.
  layout a: each head has its own W2, which begins as a copy.
W1 begins as zero, b1 as the framework's default. Loss: sum over heads of cross-entropy at j against token j + 2 + k.
Data: windows of the texts, and rows that the model writes itself behind prompts from them (--generate); of these only
what the model wrote is learned. AdamW, cosine with warm-up, bf16 on a GPU and fp32 on a CPU, seeds fixed.
Then acc[k][r] is measured on greedy continuations of prompts that were not trained on: how often the token of rank r
of head k is the greedy token at its offset, divided by the number of times it was tried.

Writes OUT/medusa_heads.safetensors and, beside it, OUT/medusa_heads.json with the data, steps, losses and accuracies.
The safetensors header carries the accuracies too (`accuracy`), from which `tree = auto` builds its tree.
--init FILE takes heads from a safetensors or .pt file; with --steps 0 they are only converted and measured.
Runs offline. Needs torch and transformers.
"""
import argparse
import json
import math
import os
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F

import medusa_data as data

RANKS = 10


class Head(torch.nn.Module):
    def __init__(self, hidden, layers):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden) for _ in range(layers))
        for block in self.blocks:
            torch.nn.init.zeros_(block.weight)
        self.out = None  # layout a: its own W2

    def forward(self, h, shared):
        for block in self.blocks:
            h = h + F.silu(block(h))
        return F.linear(h, shared if self.out is None else self.out)


def make_heads(args, hidden, lm_head):
    heads = torch.nn.ModuleList(Head(hidden, args.layers) for _ in range(args.heads))
    if args.layout == "a":
        for head in heads:
            head.out = torch.nn.Parameter(lm_head.detach().float().clone())
    if args.init:
        load_heads(args.init, heads, args.layout)
    return heads.to(args.device)


def load_heads(path, heads, layout):
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file
        tensors = load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {k.removeprefix("medusa_head."): v for k, v in tensors.items()}
    for k, head in enumerate(heads):
        for i, block in enumerate(head.blocks):
            block.weight.data.copy_(tensors[f"{k}.{i}.linear.weight"].float())
            block.bias.data.copy_(tensors[f"{k}.{i}.linear.bias"].float())
        if layout == "a" and f"{k}.{len(head.blocks)}.weight" in tensors:
            head.out.data.copy_(tensors[f"{k}.{len(head.blocks)}.weight"].float())


def head_tensors(heads, dtype):
    out = {}
    for k, head in enumerate(heads):
        for i, block in enumerate(head.blocks):
            out[f"{k}.{i}.linear.weight"] = block.weight.detach().to(dtype).cpu().contiguous()
            out[f"{k}.{i}.linear.bias"] = block.bias.detach().to(dtype).cpu().contiguous()
        if head.out is not None:
            out[f"{k}.{len(head.blocks)}.weight"] = head.out.detach().to(dtype).cpu().contiguous()
    return out


def autocast(args):
    return torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda")


def train(model, heads, lm_head, rows, first_label, args, log):
    """rows [n, window]; first_label [n]: labels in front of this index are not learned. Returns the losses by step."""
    params = [p for p in heads.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0)
    warm = max(1, int(args.steps * args.warmup))
    generator = torch.Generator().manual_seed(args.seed + 1)
    order, at, losses, begin = torch.randperm(len(rows), generator=generator), 0, [], time.time()
    for step in range(args.steps):
        scale = (step + 1) / warm
        if step >= warm:
            scale = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, args.steps - warm)))
        for group in opt.param_groups:
            group["lr"] = args.lr * scale
        if at + args.batch > len(order):
            order, at = torch.randperm(len(rows), generator=generator), 0
        pick = order[at : at + args.batch]
        at += args.batch
        ids, first = rows[pick].long().to(args.device), first_label[pick].to(args.device)
        with torch.no_grad():
            h = model.model(input_ids=ids, use_cache=False).last_hidden_state
        by_head = []
        for k, head in enumerate(heads):
            offset = k + 2
            labels = ids[:, offset:]
            position = torch.arange(offset, ids.shape[1], device=args.device)
            labels = labels.masked_fill(position[None, :] < first[:, None], -100)
            with autocast(args):
                logits = head(h[:, :-offset], lm_head)
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
            loss.backward()
            by_head.append(loss.detach())
        opt.step()
        opt.zero_grad(set_to_none=True)
        if step % args.log_every == 0 or step == args.steps - 1:
            losses.append({"step": step, "loss": [round(float(v), 4) for v in by_head]})
            log(f"step {step} loss {losses[-1]['loss']} {time.time() - begin:.0f} s")
    return losses


@torch.no_grad()
def measure(model, heads, lm_head, prompts, args, banned):
    """hits[k][r] and tries[k] over greedy continuations of prompts [n, prompt]."""
    hits = torch.zeros(len(heads), RANKS, dtype=torch.float64)
    tries = [0] * len(heads)
    for at in range(0, len(prompts), args.measure_batch):
        part = prompts[at : at + args.measure_batch].to(args.device)
        ids = data.generate(model, part, args.prompt + args.measure_tokens, 0.0, None, banned).long()
        h = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for k, head in enumerate(heads):
            offset = k + 2
            for j in range(args.prompt - 1, ids.shape[1] - offset):
                best = head(h[:, j].float(), lm_head.float()).topk(RANKS, -1).indices
                hits[k] += (best == ids[:, j + offset, None]).sum(0).double().cpu()
                tries[k] += len(ids)
    return hits, tries


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True, help="checkpoint directory (Hugging Face layout)")
    p.add_argument("--text", required=True, nargs="+", help=".txt or .jsonl (key text), also with .xz behind")
    p.add_argument("--out", required=True)
    p.add_argument("--layout", choices=["a", "b"], default="b", help="a: own W2 a head; b: the model's (default)")
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--layers", type=int, default=1, help="ResBlocks a head")
    p.add_argument("--init", help="begin with these heads")
    p.add_argument("--max-mb", type=float, default=16, help="characters taken of each text, in millions (0: all)")
    p.add_argument("--window", type=int, default=320, help="tokens of a row")
    p.add_argument("--prompt", type=int, default=64, help="of them, the prompt of a generated row")
    p.add_argument("--generate", type=int, default=6000000, help="tokens that the model writes itself")
    p.add_argument("--generate-batch", type=int, default=2048)
    p.add_argument("--temperatures", default="0,0.7,1.0", help="of the batches, in turn; 0: greedy")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--batch", type=int, default=64, help="rows a step")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup", type=float, default=0.1, help="part of the steps")
    p.add_argument("--measure-prompts", type=int, default=512)
    p.add_argument("--measure-tokens", type=int, default=64)
    p.add_argument("--measure-batch", type=int, default=256)
    p.add_argument("--save", choices=["bf16", "f16", "f32"], default="bf16")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--log-every", type=int, default=100)
    args = p.parse_args()

    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.prompt < 2 or args.window < args.prompt + args.heads + 2:
        p.error("--window leaves no room for a prompt and the heads' offsets")
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
    start = time.time()

    def log(text):
        print(f"[{time.time() - start:6.1f} s] {text}", flush=True)

    import transformers
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    model = model.to(args.device).eval().requires_grad_(False)
    config = model.config
    lm_head = model.get_output_embeddings().weight
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    banned = sorted({i for i in eos if i is not None} | {tokenizer.token_to_id(t) for t in special})
    bos = config.bos_token_id if config.bos_token_id is not None else 0

    ids, used = data.encode_texts(tokenizer, args.text, int(args.max_mb * 1e6))
    rows = data.windows(ids, args.window, bos)
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed))]
    n_held = min(args.measure_prompts, max(1, len(rows) // 10))
    held, rows = shuffled[:n_held], shuffled[n_held:]
    log(f"{len(ids)} tokens of text: {len(rows)} windows, {n_held} more held out")

    own = data.self_text(model, rows, args, banned, log) if args.steps > 0 else rows[:0]
    heads = make_heads(args, config.hidden_size, lm_head)
    first = torch.cat([torch.zeros(len(rows), dtype=torch.long), torch.full((len(own),), args.prompt, dtype=torch.long)])
    losses = train(model, heads, lm_head, torch.cat([rows, own]), first, args, log) if args.steps > 0 else []
    saved = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[args.save]
    tensors = head_tensors(heads, saved)
    for head in heads:  # what is measured is what is saved
        for q in head.parameters():
            q.data = q.data.to(saved).float()
    hits, tries = measure(model, heads, lm_head, held[:, : args.prompt], args, banned)
    acc = [[float(hits[k][r]) / tries[k] for r in range(RANKS)] for k in range(args.heads)]
    for k in range(args.heads):
        log(f"head {k}: rank 0 {acc[k][0]:.4f}, ten ranks {sum(acc[k]):.4f}, {tries[k]} tries")

    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "medusa_heads.safetensors")
    metadata = {"format": "pt", "plugin": "medusa", "layout": args.layout,
                "base_model": os.path.basename(os.path.normpath(args.model)),
                "base_model_sha256": data.sha256_file(os.path.join(args.model, "model.safetensors")),
                "accuracy": "; ".join(" ".join(f"{v:.6f}" for v in row) for row in acc)}
    data.write_safetensors(path, tensors, metadata)
    doc = {"recipe": "recipes/medusa/train_heads.py", "heads_sha256": data.sha256_file(path), "metadata": metadata,
           "arguments": {k: os.path.basename(v) if k in ("model", "init", "out") and v else v
                         for k, v in vars(args).items() if k != "text"},
           "texts": used, "text_windows": len(rows), "generated_rows": len(own),
           "generated_tokens": len(own) * (args.window - args.prompt), "held_out_prompts": len(held),
           "tokens_seen": args.steps * args.batch * args.window, "losses": losses, "accuracy": acc, "tries": tries,
           "seconds": round(time.time() - start, 1), "torch": torch.__version__,
           "transformers": transformers.__version__,
           "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu"}
    with open(os.path.join(args.out, "medusa_heads.json"), "w", encoding="utf-8") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")
    log(f"wrote {path}, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
