"""Made-up texts, and what became of them: lines of JSON, the parts and the files of a prepared folder."""

import json
import random

from models import WORDS

from lucidlm.text.corpus import train_documents, validation_documents
from lucidlm.text.excerpts import ids_of

SIZES = {"PORTION": 9000, "ENCODED": 11_000, "LOOKED_AT": 7000}
"""Bytes of a portion, of a chunk to encode and of one to compare: some kilobytes are then a large text."""


def words(seed, count):
    return " ".join(random.Random(seed).choices(WORDS, k=count)) + "."


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def decoded(corpus):
    """Both parts as texts, document by document."""
    return tuple(
        [corpus.tokenizer.decode(ids) for ids in ids_of(documents(corpus))]
        for documents in (train_documents, validation_documents)
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def texts(seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.choice((2, 40, 300)))
        yield "".join(word + draw.choice((" ", " ", ", ", "\n")) for word in words) + draw.choice(
            ("", "é 😀")
        )


def lines(seed, count, **changes):
    return "".join(json.dumps({"text": text}, **changes) + "\n" for text in texts(seed, count))
