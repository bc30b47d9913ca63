"""Prompts for make_tiny.py.

`MAIN` needs 64 tokens of greedy continuation each without an end-of-text token and without near-ties; make_tiny.py
refuses a prompt that breaks this. `SHORT` are candidates for prompts40.json: the first 40 without near-ties are taken.
"""
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def prose(limit):
    """Opening of `A Study in Scarlet` (A. C. Doyle, 1887, public domain), up to `limit` characters."""
    with open(os.path.join(HERE, "prose_watson.txt"), encoding="utf-8") as f:
        text = "\n\n".join(" ".join(p.split()) for p in f.read().split("\n\n"))
    return text[:limit].rsplit(". ", 1)[0] + "."


def needle():
    """About 600 tokens of running text with three needles; the last question is left open."""
    keys = (("silver-garden", "4815162"), ("winter-candle", "2718281"), ("marble-river", "3141592"))
    parts = [s if s.endswith(".") else s + "." for s in prose(1820).split(". ")]
    text = []
    for i, sentence in enumerate(parts):
        text.append((" " if i else "") + sentence)
        for k, at in enumerate((2, 5, 8)):
            if i == at:
                text.append(f" One of the special magic numbers for {keys[k][0]} is: {keys[k][1]}.")
    ask = "\nWhat is the special magic number for {0} mentioned in the provided text?" \
          " The special magic number for {0} mentioned in the provided text is"
    return "".join(text) + ask.format(keys[0][0]) + f" {keys[0][1]}." + ask.format(keys[1][0]), f" {keys[1][1]}."


NEEDLE_TEXT, NEEDLE_ANSWER = needle()

# name, text, what the continuation must start with (or None)
MAIN = [
    ("prose", "It was on a cold night in the winter of 1897 that I was awakened by", None),
    ("code", "if (argc < 2) {\n    fprintf(stderr, \"usage: %s file\\n\", argv[0]);\n    return 1;\n}\n\n", None),
    ("needle", NEEDLE_TEXT, NEEDLE_ANSWER),
    ("unicode", "Café Zürich — naïve façade, “Ω ≈ 3.14”, 東京の天気は晴れ, Привет, мир! 🙂👩‍🚀\n"
                "The words above are written in", None),
    ("list", "Monday: fish and potatoes\nTuesday: bread and cheese\nWednesday: roast beef\nThursday:", None),
]

SHORT = [
    "Once upon a time", "It was the best of", "The king turned to his", "In the beginning", "She opened the door and",
    "\"Where have you been?\" said", "The ship sailed at dawn", "He had never seen", "My dear sir,", "CHAPTER II.\n\n",
    "Of all the men in the village,", "It is a truth", "The horses were", "\"No,\" replied the doctor,",
    "When the snow had melted,", "def __init__(self", "#include <stdio.h>\n", "for (i = 0; i <", "return self.",
    "import numpy as np\n", "static int", "    if not isinstance(", "struct strbuf", "git commit", "/* This function",
    "fn main() {\n", "except ValueError:", "class Parser(object):\n", "The --verbose option", "curl_easy_setopt(",
    "A list is", "Abstract\n========\n\n", "1. First,\n2. Second,\n3.", "12 + 30 =", "January, February, March,",
    "Question: what is the", "    \t\n\n  ", "éèê ñ ü", "«Bonjour»", "日本", "🙂", "...", "A", " a", "THE END", "<html>",
    "{\"name\": \"", "http://www.", "x", "To be, or not to be", "We, the people of", "London, June 12th", "* * *\n\n",
    "Chapter the last", "the the the", "Rust is a", "PEP: 8\nTitle:", "redis-cli SET",
]
