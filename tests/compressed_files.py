"""Compressed files as a forger or another machine makes them: a header with a checksum that fits."""

import struct
import zlib

import numpy as np
from models import STORY

from lucidlm.measure import compression
from lucidlm.text.tokenizer import Tokenizer

HEADER = struct.Struct("<4sHiIIQQ16s16sHBB7s13sI")
HEADER_1 = struct.Struct("<4sHiIIQQ16s16sI")
OF_THE_FILE = ("magic", "version", "prefix", "context", "stride", "tokens", "bytes", "model", "data")
FIELDS = (*OF_THE_FILE, "threads", "device", "kernels", "capability", "torch", "crc")

PAIRS = Tokenizer.train([f"{STORY} " * 4, "a banana, an ananas"], 300)
"""A vocabulary in which a token has several bytes."""


def sealed(file: bytes) -> bytes:
    """The file with a checksum that fits, as one who forges it would write."""
    before, after = file[: HEADER.size - 4], file[HEADER.size :]
    return before + struct.pack("<I", zlib.crc32(before + after)) + after


def changed(file: bytes, **fields) -> bytes:
    """The file with other numbers in its header, sealed."""
    header = dict(zip(FIELDS, HEADER.unpack_from(file), strict=True)) | fields
    return sealed(HEADER.pack(*header.values()) + file[HEADER.size :])


def as_version_1(file: bytes, **fields) -> bytes:
    """The file as the first release wrote it."""
    header = dict(zip(FIELDS, HEADER.unpack_from(file), strict=True)) | {"version": 1} | fields
    before = HEADER_1.pack(*(header[name] for name in OF_THE_FILE), 0)[:-4]
    after = file[HEADER.size :]
    return before + struct.pack("<I", zlib.crc32(before + after)) + after


def elsewhere(monkeypatch) -> None:
    """From now on other probabilities come out, as on another machine."""
    step = compression.predictions

    def predictions(*arguments, **how):
        noise = np.random.default_rng(0)
        steps = step(*arguments, **how)
        came = None
        while True:
            logits = steps.send(came)
            came = yield logits + 0.1 * noise.standard_normal(len(logits))

    monkeypatch.setattr(compression, "predictions", predictions)
