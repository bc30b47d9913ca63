#!/usr/bin/env python3
"""Trains a small tokenizer with each pipeline that published models have, and writes what `tokenizers` makes of the torture
text: tests/data/tokenizers/<name>/{tokenizer.json,golden.json}.

Run in a virtual environment: pip install tokenizers==0.23.3; python recipes/tokenizers/make_golden.py
"""
import collections
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from torture import DAMAGED, LINES, PROSE

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/tokenizers"
CORPUS = LINES + PROSE * 3

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3, QWEN2 = GPT4 % "1,3", GPT4.replace("{%s}", "")
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


def edge_tokens():
    """Added tokens with every flag, special and not."""
    return [
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=False, special=True),
        AddedToken("WORD", single_word=True, normalized=False), AddedToken("<norm>", normalized=True),
        AddedToken("Café", normalized=True), AddedToken("<a b>", normalized=False), AddedToken("<tool>", normalized=False),
        AddedToken("<long", normalized=False), AddedToken("<longer>", normalized=False),
        AddedToken("<longest>", normalized=True),
    ]


def byte_level(split, size, prefix=False):
    t = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not split)
    cuts = [pre_tokenizers.Split(Regex(s), "isolated", False) for s in split]
    t.pre_tokenizer = pre_tokenizers.Sequence(cuts + [level]) if cuts else level
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                      show_progress=False))
    return t


def template(before, after=()):
    ids = {text: i for text, i in [*before, *after]}
    whole = " ".join([*[text for text, _ in before], "$A", *[text for text, _ in after]])
    return processors.TemplateProcessing(single=whole, pair=whole + " $B", special_tokens=list(ids.items()))


def patched(t, change):
    """A tokenizer from t's JSON after change(json)."""
    j = json.loads(t.to_str())
    change(j)
    return Tokenizer.from_str(json.dumps(j))


def gpt2():
    t = byte_level([], 700)
    t.add_special_tokens(["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def gpt2_prefix():
    t = byte_level([], 450, prefix=True)
    t.add_special_tokens([special("<s>"), special("</s>"), special("<pad>", lstrip=True)])
    t.add_tokens(edge_tokens())
    return t


def llama3():
    t = byte_level([LLAMA3], 800)

    def change(j):
        j["model"]["ignore_merges"] = True
        # Words that no merge leads to: only ignore_merges finds them.
        j["model"]["merges"] = [m for i, m in enumerate(j["model"]["merges"]) if i % 9 or i < 100]
        known = set()
        alphabet = {k for k in j["model"]["vocab"] if len(k) == 1}
        kept = []
        for a, b in j["model"]["merges"]:
            if all(x in alphabet or x in known for x in (a, b)):
                known.add(a + b)
                kept.append([a, b])
        j["model"]["merges"] = kept

    t = patched(t, change)
    t.add_special_tokens([special("<|begin_of_text|>"), special("<|end_of_text|>"), special("<|reserved_0|>"),
                          special("<|reserved_1|>")])
    t.add_tokens(edge_tokens())
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template([("<|begin_of_text|>", bos)])])
    return t


def qwen2():
    t = byte_level([QWEN2], 800)
    t.normalizer = normalizers.NFC()
    t.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    t.add_tokens(edge_tokens())
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return t


def deepseek():
    t = byte_level(DEEPSEEK, 600)
    t.add_special_tokens([special("<s>"), special("</s>")])
    t.post_processor = template([("<s>", t.token_to_id("<s>"))], [("</s>", t.token_to_id("</s>"))])
    return t


SPACE = "\u2581"


def alphabet(size):
    """The most frequent characters; the trainer's own choice among equally frequent ones changes from run to run."""
    count = collections.Counter("".join(CORPUS).replace(" ", SPACE))
    return sorted(count, key=lambda c: (-count[c], c))[:size]


def sentencepiece(size):
    """Vocabulary and merges of a SentencePiece-like BPE: trained on words, byte tokens behind <unk> <s> </s>."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=first, limit_alphabet=90,
                                                      initial_alphabet=alphabet(90), show_progress=False))
    return patched(t, lambda j: j.update(added_tokens=[], pre_tokenizer=None))


def sentencepiece_decoder():
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                              decoders.Strip(" ", 1, 0)])


def legacy_normalizer():
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def llama2(normalized=False):
    t = sentencepiece(800)
    t.normalizer = legacy_normalizer()
    t.decoder = sentencepiece_decoder()
    t.add_special_tokens([AddedToken(x, special=True, normalized=normalized) for x in ("<unk>", "<s>", "</s>")])
    t.post_processor = template([("<s>", 1)])
    return t


def mistral():
    t = llama2(normalized=True)  # as the first published files had it
    t.add_tokens([AddedToken("[INST]"), AddedToken("[/INST]", normalized=False), *edge_tokens()])
    return t


def metaspace(scheme, split):
    t = sentencepiece(600)
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=split)
    # The llama tokenizer of newer transformers has the chain; others the Metaspace decoder.
    t.decoder = sentencepiece_decoder() if scheme == "first" else decoders.Sequence([
        decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=split)])
    t.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    t.add_tokens(edge_tokens())
    t.post_processor = template([("<s>", 1)], [("</s>", 2)])
    return t


def no_fallback():
    """Without byte tokens: unknown characters, not fused; no decoder."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], limit_alphabet=60,
                                                      initial_alphabet=alphabet(60), show_progress=False))
    return t


PIPELINES = {
    "gpt2": gpt2, "gpt2_prefix": gpt2_prefix, "llama3": llama3, "qwen2": qwen2, "deepseek": deepseek, "llama2": llama2,
    "mistral": mistral, "metaspace_first": lambda: metaspace("first", False),
    "metaspace_always": lambda: metaspace("always", True), "metaspace_never": lambda: metaspace("never", True),
    "no_fallback": no_fallback,
}


def encode(t, text, add_special, parse_special):
    t.encode_special_tokens = not parse_special
    return t.encode(text, add_special_tokens=add_special).ids


def decoded(t, ids):
    """What is absent equals its neighbour: skipped = decoded, plain = ids.

    Special tokens are taken out by id: version 0.23 looks their normalised spelling up among the plain ones, does not find
    it and leaves special tokens with normalized=True in the text.
    """
    out = {"ids": ids, "decoded": t.decode(ids, skip_special_tokens=False)}
    specials = {i for i, token in t.get_added_tokens_decoder().items() if token.special}
    skipped = t.decode([i for i in ids if i not in specials], skip_special_tokens=True)
    return out if skipped == out["decoded"] else {**out, "skipped": skipped}


def text_golden(t, text):
    out = decoded(t, encode(t, text, True, True))
    plain = encode(t, text, False, False)
    return out if plain == out["ids"] else {**out, "plain": plain}


def golden(t, seed):
    rng = random.Random(seed)
    ids = sorted(t.get_vocab().values())
    low = [i for i in ids if i < 300]
    lists = [[rng.choice(ids if k % 2 else low) for _ in range(rng.randint(1, 40))] for k in range(40)]
    return {
        "lines": [text_golden(t, x) for x in LINES],
        "whole": text_golden(t, "\n".join(LINES)),
        "damaged": [encode(t, bytes.fromhex(x).decode("utf-8", errors="replace"), False, True) for x in DAMAGED],
        "random": [decoded(t, x) for x in lists],
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def legacy_merges(j):
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]


def parts_golden(base):
    """Single components, put into the base tokenizer's file one after the other."""
    nfs = [{"type": x} for x in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")]
    strips = [{"type": "Strip", "strip_left": a, "strip_right": b} for a in (True, False) for b in (True, False)]
    replaces = [{"type": "Replace", "pattern": {"String": "o"}, "content": "00"},
                {"type": "Replace", "pattern": {"Regex": r"\s+|\d"}, "content": "_"},
                {"type": "Replace", "pattern": {"Regex": r"^"}, "content": ">"},
                {"type": "Replace", "pattern": {"Regex": r"x*"}, "content": "-"}]
    sequences = [{"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, strips[0]]}]
    cuts = [{"type": "Split", "pattern": p, "behavior": b, "invert": i}
            for p in ({"Regex": r"\s+|[[:punct:]]".replace("[[:punct:]]", r"\p{P}")}, {"String": "the"})
            for b in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous") for i in (False, True)]
    cuts += [{"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False}
             for r in (r"\w+", r"\W+", r"\h+", r"\S+", r"[^\S\n]+", r"\p{Han}+|\p{Hiragana}+|\p{^Lu}", r"^.|.$", r"\d")]
    others = [{"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False},
              {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"},
              {"type": "Punctuation", "behavior": "Contiguous"}]
    metas = [{"type": "Metaspace", "replacement": SPACE, "prepend_scheme": s, "split": p}
             for s in ("first", "always", "never") for p in (True, False)]
    seqs = [{"type": "Sequence", "pretokenizers": [others[0], others[4], metas[0]]},
            {"type": "Sequence", "pretokenizers": [cuts[0], metas[2]]}]
    variants = [{"normalizer": n} for n in nfs + strips + replaces + sequences]
    variants += [{"pre_tokenizer": p} for p in cuts + others + metas + seqs]
    variants += [{"normalizer": strips[0], "pre_tokenizer": metas[0]}, {"normalizer": nfs[2], "pre_tokenizer": metas[0]}]
    strip = {"type": "Strip", "content": " ", "start": 2, "stop": 2}
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    variants += [{"decoder": d} for d in (
        None, {"type": "Fuse"}, {"type": "ByteFallback"},
        {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": True})]
    picked = [i for i, x in enumerate(LINES) if len(x) < 125 and (i % 9 == 0 or i in (3, 5, 10, 11, 16, 19, 26, 28, 48))]
    out = []
    for v in variants:
        t = patched(base, lambda j: j.update(v))
        texts = [t.encode(LINES[i], add_special_tokens=False).ids for i in picked]
        # The reference panics when Strip finds nothing but what it strips: such texts are left out.
        decoded = [t.decode(x, skip_special_tokens=False) if LINES[i].strip() else None for i, x in zip(picked, texts)]
        out.append({"change": v, "ids": texts, "decoded": decoded if "decoder" in v else None})
    return {"lines": picked, "variants": out}


def main():
    write(OUT / "texts.json", {"lines": LINES, "damaged": DAMAGED})
    for seed, (name, make) in enumerate(PIPELINES.items()):
        t = make()
        j = json.loads(t.to_str())
        if seed % 2 == 0:
            legacy_merges(j)  # both spellings of merges are found in the wild
        write(OUT / name / "tokenizer.json", j)
        t = Tokenizer.from_file(str(OUT / name / "tokenizer.json"))
        write(OUT / name / "golden.json", golden(t, seed))
        print(name, t.get_vocab_size())
    base = Tokenizer.from_file(str(OUT / "metaspace_first/tokenizer.json"))
    write(OUT / "parts.json", parts_golden(base))
    tiny = Tokenizer.from_file(str(ROOT / "models/tiny/tokenizer.json"))
    write(OUT / "tiny/golden.json", golden(tiny, 99))


if __name__ == "__main__":
    main()
