#!/usr/bin/env python3
"""One text out of a JSON-lines file of {author, title, text}.

    python3 recipes/golden/extract_book.py books.jsonl "Heart of Darkness" book.txt
    python3 recipes/golden/extract_book.py books.jsonl 2 book.txt

TITLE is a number (line, from 0) or a part of the title, upper and lower case alike, that fits exactly one line. The
text is written as UTF-8, unchanged: no line-end conversion, no final line feed added. Standard library only.
"""
import argparse
import json


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("jsonl")
    p.add_argument("title", help="line number from 0, or a part of the title")
    p.add_argument("out")
    args = p.parse_args()
    with open(args.jsonl, encoding="utf-8") as f:
        books = [json.loads(line) for line in f if line.strip()]
    if args.title.isdigit():
        found = books[int(args.title):int(args.title) + 1]
    else:
        found = [b for b in books if args.title.lower() in b["title"].lower()]
    if len(found) != 1:
        titles = "".join(f"\n  {i} {b['title']}" for i, b in enumerate(books))
        p.error(f"{len(found)} texts fit {args.title!r}; there are:{titles}")
    with open(args.out, "w", encoding="utf-8", newline="") as f:
        f.write(found[0]["text"])
    print(f"{found[0]['title']}: {len(found[0]['text'])} characters in {args.out}")


if __name__ == "__main__":
    main()
