"""The check for copies: clean corpora and planted copies come in, a table of what was found comes out.

    python benchmarks/leaks.py tinyshakespeare.txt

Chinese, German, Japanese and Russian texts are the messages of the programs that are installed here
(/usr/share/locale); where there are none, their rows are left out.
"""

import gettext
import json
import random
import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lucidlm.text.preparation import prepare

Documents = list[str]
HELD_OUT = 40
"""Validation documents; 10 of them are copies where copies are planted."""


def main() -> None:
    """Both tables."""
    book = Path(sys.argv[1]).read_text(encoding="utf-8")
    print("| clean corpus | documents: training, validation | found |\n|---|---|---|")
    for name, train, validation in clean_corpora(book):
        leaks = check(train, validation)
        print(f"| {name} | {len(train):,}, {len(validation):,} | {shown(leaks)} |", flush=True)
    print("\n| planted in 10 of 40 | " + " | ".join(texts := list(planted_in(book))) + " |")
    print("|---" * (len(texts) + 1) + "|")
    for name, change in changes(book):
        cells = []
        for documents in planted_in(book).values():
            rng = random.Random(1)
            copies = [change(document, documents[:HELD_OUT], rng) for document in documents[-10:]]
            cells.append(found(check(documents[HELD_OUT:], documents[10:HELD_OUT] + copies)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    speed(book)


def check(train: Documents, validation: Documents) -> dict:
    """What the manifest says of copies between these."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{part}.jsonl" for part in ("train", "validation")]
        for path, texts in zip(paths, (train, validation)):
            path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        corpus = prepare(paths[0], Path(folder) / "out", tokenizer="bytes", validation=paths[1])
        taken_out = len(train) - corpus.manifest["train"]["documents"]
        return corpus.manifest["leaks"] | {"notes": corpus.notes, "taken_out": taken_out}


def shown(leaks: dict) -> str:
    """What was found, in short; examples where it is anything."""
    if (
        not leaks["near_documents"]
        and not leaks["passages"]
        and not leaks["share"]
        and not leaks["taken_out"]
    ):
        return f"nothing (templates {leaks['template_share']:.0%})"
    examples = [each["text"] for each in leaks["examples"][:3]]
    return (
        f"{leaks['near_documents']} documents, {leaks['passages']} passages, {leaks['share']:.2%}: {examples}"
    )


def found(leaks: dict) -> str:
    """How many of the 10 copies were found: taken out of training, as documents or by their passages."""
    documents = {each["validation"] for each in leaks["documents"] + leaks["examples"]}
    planted = {name for name in documents if int(name.rpartition(":")[2]) > HELD_OUT - 10}
    more = len(documents) - len(planted)
    return f"{min(10, leaks['taken_out'] + len(planted))}" + (f" and {more} others" if more else "")


# Corpora without copies


def clean_corpora(book: str) -> Iterator[tuple[str, Documents, Documents]]:
    """Name, training and validation documents."""
    story = (Path(__file__).parents[1] / "lucidlm/text/assets/story.txt").read_text(encoding="utf-8")
    chunks = [story[start : start + 2000] for start in range(0, len(story), 2000)]
    yield "prose, pieces of 2,000 characters", *split(chunks)
    yield "prose, one text", [story[:80_000]], [story[80_000:]]
    yield "plays, pieces of 3,000 characters", *split(pieces(book, 3000))
    yield "plays, one text", [book[:1_000_000]], [book[1_000_000:]]
    yield "verse, one sonnet's length a document", *split(pieces(book[:300_000], 600))
    modules = [path.read_text(encoding="utf-8") for path in sorted(standard_library())]
    yield "code, modules of Python", *split(modules)
    rng = random.Random(0)
    for name, record in RECORDS.items():
        lines = list(dict.fromkeys(record(rng) for _ in range(3000)))
        cut = len(lines) * 9 // 10
        yield f"{name}, one text", ["\n".join(lines[:cut])], ["\n".join(lines[cut:])]
        yield f"{name}, a document each", lines[:cut], lines[cut:]
    singles = iter(sentences(story))
    html = [PAGE.format(number, next(singles), next(singles)) for number in range(200)]
    yield "HTML pages of one layout", *split(html)
    yield "modules with one licence header", *split([LICENSE + module for module in modules])
    for language in ("zh_CN", "de", "ja", "ru", "fr"):
        train, held_out = catalog(language, "git"), catalog(language, "coreutils")
        if train and held_out:
            yield f"messages of two programs, {language}", together(train), together(held_out)


def pieces(text: str, size: int) -> Documents:
    return [text[start : start + size] for start in range(0, len(text) - size, size)]


def split(documents: Documents) -> tuple[Documents, Documents]:
    """Every fifth document is held out."""
    return [each for place, each in enumerate(documents) if place % 5], documents[::5]


def standard_library() -> Iterator[Path]:
    names = """
        abc argparse ast asyncore base64 bdb bisect calendar cgi chunk cmd code codecs collections
        configparser contextlib copy csv dataclasses datetime decimal difflib dis doctest enum
        filecmp fileinput fractions ftplib functools getopt getpass gettext glob gzip hashlib heapq
        hmac imaplib inspect ipaddress keyword linecache locale lzma mailbox mimetypes netrc numbers
        operator optparse os pathlib pdb pickle platform plistlib poplib pprint profile pyclbr queue
        quopri random reprlib sched secrets selectors shelve shlex shutil smtplib socket sqlite3 ssl
        stat statistics string subprocess symtable tabnanny tarfile tempfile textwrap threading
        timeit token tokenize trace traceback turtle types typing uuid warnings wave weakref
    """
    for name in names.split():
        path = Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py"
        if path.exists():
            yield path


def catalog(language: str, package: str) -> Documents:
    """The translated messages of a program that have 20 characters or more, each once."""
    try:
        with open(f"/usr/share/locale/{language}/LC_MESSAGES/{package}.mo", "rb") as file:
            messages = gettext.GNUTranslations(file)._catalog  # ty: ignore[missing-attribute]
    except OSError:
        return []
    return [text for text in dict.fromkeys(messages.values()) if text and len(text) >= 20]


def together(messages: Documents) -> Documents:
    return ["\n".join(messages[start : start + 25]) for start in range(0, len(messages), 25)]


def sentences(text: str) -> Documents:
    return [each for each in re.split(r"(?<=[.!?])\s+", text) if len(each) > 40]


def _time(rng: random.Random) -> str:
    minute = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} {minute}"


FIRST_NAMES = ["anna", "ben", "carla", "david", "eva", "frank", "gina", "hugo", "ines", "jan"]
LAST_NAMES = ["adams", "brown", "clark", "davies", "evans", "foster", "green", "harris", "irwin", "jones"]
USERS = [f"{first}.{last}" for first in FIRST_NAMES for last in LAST_NAMES]
CITIES = ["Berlin", "Hamburg", "Cologne", "Munich", "Frankfurt", "Stuttgart", "Leipzig", "Dresden", "Bremen"]
PATHS = [
    "/index.html",
    "/about.html",
    "/products/list",
    "/products/search",
    "/cart/checkout",
    "/login",
    "/api/v1/items",
]
AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    "curl/7.88.1",
]


def _record(rng: random.Random) -> str:
    items = [{"article": rng.randrange(500), "count": rng.randint(1, 9)} for _ in range(rng.randint(1, 4))]
    whose = {"id": rng.randrange(10**6), "customer": rng.choice(USERS), "city": rng.choice(CITIES)}
    what = {"currency": "EUR", "status": rng.choice(("paid", "open", "late")), "items": items}
    return json.dumps(whose | {"country": "Germany", "amount": round(rng.expovariate(0.01), 2)} | what)


RECORDS: dict[str, Callable[[random.Random], str]] = {
    "log lines": lambda rng: (
        f"{_time(rng)} INFO [worker-{rng.randint(1, 8)}] request {rng.randrange(10**6)} of user "
        f"{rng.choice(USERS)} handled in {rng.randint(1, 900)} ms, status {rng.choice((200, 200, 404, 500))}"
    ),
    "long log lines, few values": lambda rng: (
        f"{_time(rng)} WARNING connection of user {rng.choice(USERS)} from {rng.choice(CITIES)} was closed "
        f"by the remote side before the answer to request {rng.choice(PATHS)} had been sent completely; the "
        "client will try again"
    ),
    "access log": lambda rng: (
        f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)} - - [{_time(rng)}] "
        f'"GET {rng.choice(PATHS)} HTTP/1.1" 200 {rng.randrange(10**5)} '
        f'"https://example.org{rng.choice(PATHS)}" "{rng.choice(AGENTS)}"'
    ),
    "CSV rows": lambda rng: (
        f"{_time(rng)},{rng.choice(CITIES)},{rng.gauss(12, 8):.1f},{rng.random():.3f},{rng.randrange(1000)},"
        f"{rng.choice(USERS)},{rng.choice('ABCDE')}"
    ),
    "JSON records": _record,
    "questions of one form": lambda rng: (
        f"How far is it from {rng.choice(CITIES)} to {rng.choice(CITIES)} on the way through "
        f"{''.join(rng.choice('bcdfglmnprst') + rng.choice('aeiou') for _ in range(4)).title()}? "
    ),
    "numbers": lambda rng: " ".join(str(rng.randrange(1000)) for _ in range(20)),
}
PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>Page {}</title>
<link rel="stylesheet" href="style.css"></head><body><nav><ul><li><a href="/">Home</a></li>
<li><a href="/news">News</a></li><li><a href="/contact">Contact</a></li>
<li><a href="/imprint">Imprint</a></li></ul></nav><main><p>{}</p><p>{}</p></main><footer>Copyright 2024
The Example Company. All rights reserved. No part of this page may be copied without written
permission.</footer></body></html>"""
LICENSE = """# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file
# except in compliance with the License. You may obtain a copy of the License at
# https://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software distributed under the License
# is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND.
"""


# Planted copies


def planted_in(book: str) -> dict[str, Documents]:
    """The texts in which copies are planted."""
    texts = {"plays": pieces(book, 3000)}
    code = "\n".join(path.read_text(encoding="utf-8") for path in standard_library())
    texts["code"] = pieces(code, 3000)[:600]
    for language in ("zh_CN", "de"):
        if messages := catalog(language, "git"):
            text = re.sub(r"\s+", "", "".join(messages)) if language == "zh_CN" else "\n".join(messages)
            size = 1200 if language == "zh_CN" else 3000
            texts[f"messages, {language}"] = pieces(text, size)
    return texts


def changes(book: str) -> Iterator[tuple[str, Callable[[str, Documents, random.Random], str]]]:
    """What is done to a copy: (document, other documents, generator) -> the copy."""
    yield "nothing", lambda text, others, rng: text
    for percent in (0.5, 1, 2, 3, 5, 10, 15, 20):
        yield (
            f"{percent} % of the words changed",
            lambda text, others, rng, share=percent / 100: changed(text, others, rng, share),
        )
    yield "upper case", lambda text, others, rng: text.upper()
    yield "punctuation removed", lambda text, others, rng: re.sub(r"[^\w\s]", "", text)
    yield (
        "lines of 180 characters",
        lambda text, others, rng: "\n".join(
            text.replace("\n", "")[start : start + 180] for start in range(0, len(text), 180)
        ),
    )
    yield (
        "half of the document",
        lambda text, others, rng: text[: len(text) // 2] + rng.choice(others)[len(text) // 2 :],
    )
    yield "a quarter", lambda text, others, rng: text[: len(text) // 4] + rng.choice(others)[len(text) // 4 :]
    yield "190 characters", lambda text, others, rng: rng.choice(others) + text[:190]
    yield "14 words", lambda text, others, rng: first_words(text) + rng.choice(others)


def first_words(text: str) -> str:
    """14 words, or as many characters as they would have in Chinese."""
    return " ".join(text.split()[:14]) if " " in text else text[:25]


def changed(text: str, others: Documents, rng: random.Random, share: float) -> str:
    """The text with some of its words, or of its characters where it has no spaces, taken from elsewhere."""
    if text.count(" ") > len(text) / 50:
        pool = rng.choice(others).split()
        words = re.split(r"(\s+)", text)
        return "".join(rng.choice(pool) if rng.random() < share and word.strip() else word for word in words)
    pool = rng.choice(others)
    return "".join(rng.choice(pool) if rng.random() < share else letter for letter in text)


def speed(book: str) -> None:
    """Seconds of the check alone."""
    from lucidlm.text.copies import CopySearch

    rng = random.Random(0)
    words = list(dict.fromkeys(re.findall(r"\w+", book)))
    large = " ".join(rng.choice(words) for _ in range(1_700_000))
    for name, text in (("tinyshakespeare", book), ("10 MB", large)):
        began = time.process_time()
        cut = len(text) * 9 // 10
        search = CopySearch([[text[cut:]]])
        search.look([(0, [text[:cut]])])
        search.copies()
        print(f"\n{name}, {len(text):,} characters: {time.process_time() - began:.2f} s", end="")
    print()


if __name__ == "__main__":
    main()
