"""Contexts that ask for something said long before: haystack, hidden sentences, questions with answers.

`needles`: the sentences that this project's models were trained on (they answer in these words and no others).
`passkey`: those of the paper, 10 keys of 32 random words of the NATO alphabet, for models that can read.
"""
import json
import lzma
import random

WORDS = ("able acid actor angle apple autumn bacon badge bamboo basket beach bench bishop blanket bottle branch bridge bronze "
         "butter cabin camera candle carbon castle cattle chain cherry circle clock cloud copper corner cotton cousin daisy "
         "desert doctor dragon eagle engine estate fabric falcon farmer feather forest fossil garden ginger glass grape guitar "
         "hammer harbor helmet honey island ivory jacket jungle kettle ladder lantern lemon letter lizard magnet maple marble "
         "meadow mirror monkey museum needle ocean olive orange oyster palace pencil pepper planet pocket prince quartz rabbit "
         "river rocket saddle salmon school shadow silver spider summer temple").split()
NATO = ("alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo sierra "
        "tango uniform victor whiskey x-ray yankee zulu").split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


def read_texts(path, at_least=20000):
    """Texts of a plain file, or the "text" of each line of a .jsonl or .jsonl.xz."""
    if ".jsonl" not in path:
        with open(path, encoding="utf-8") as f:
            return [f.read()]
    with lzma.open(path, "rt", encoding="utf-8") if path.endswith(".xz") else open(path, encoding="utf-8") as f:
        return [t for t in (json.loads(line)["text"] for line in f) if len(t) >= at_least]


class Haystack:
    """Token ids of all texts in one row; a context is a piece of it."""

    def __init__(self, tokenizer, texts, limit=4_000_000):
        self.ids = []
        for t in texts:
            for i in range(0, len(t), 100_000):
                self.ids += tokenizer.encode(t[i : i + 100_000], add_special_tokens=False).ids
            if len(self.ids) >= limit:
                break

    def piece(self, rng, n):
        if len(self.ids) <= n:
            raise SystemExit(f"--text has {len(self.ids)} tokens, a context needs {n}")
        begin = rng.randrange(len(self.ids) - n)
        return self.ids[begin : begin + n]


def needle_pairs(rng, n):
    keys = set()
    while len(keys) < n:
        keys.add("-".join(rng.sample(WORDS, 2)))
    for key in sorted(keys, key=lambda _: rng.random()):
        number = str(rng.randrange(10**6, 10**7))
        yield (f" One of the special magic numbers for {key} is: {number}.",
               f"\nWhat is the special magic number for {key} mentioned in the provided text? "
               f"The special magic number for {key} mentioned in the provided text is {number}.")


def passkey_pairs(rng, n):
    for i in range(n):
        words = " ".join(rng.choices(NATO, k=32))
        yield (f" Remember this sequence of words, it's the {ORDINALS[i]} passkey to the vault: {words}.",
               f"\nBased on the content of the book, what is the {ORDINALS[i]} passkey to the vault?\nPasskey: {words}")


TASKS = {"needles": needle_pairs, "passkey": passkey_pairs}


def make_context(tokenizer, haystack, rng, task, length, n_pairs=10, bos=None, multiple=1):
    """(ids, n_context): about `length` tokens, of which those from n_context on are questions and answers, in another
    order than what they ask for. multiple: the length is one of this."""
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids
    pairs = list(TASKS[task](rng, n_pairs))
    hidden, asked = [encode(h) for h, _ in pairs], [a for _, a in pairs]
    rng.shuffle(asked)
    asked = encode("".join(asked))
    start = [] if bos is None else [bos]
    room = length - len(asked) - sum(map(len, hidden)) - len(start)
    if room < 100:
        raise SystemExit(f"{n_pairs} pairs leave no text in a context of {length} tokens; use fewer (--pairs)")
    room += -(length) % multiple
    text = haystack.piece(rng, room)
    depths = sorted(rng.choices([0.05 + 0.9 * i / 999 for i in range(1000)], k=n_pairs))
    ids, done = start, 0
    for h, d in zip(hidden, depths):
        ids = ids + text[done : int(d * room)] + h
        done = int(d * room)
    ids = ids + text[done:]
    return ids + asked, len(ids)


def rng_of(seed, step):
    return random.Random(seed * 1_000_003 + step)
