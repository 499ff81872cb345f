"""What gzip, xz, bzip2 and PPMd need for a held-out text after a training text: both in, their rows out."""

import bz2
import lzma
import os
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyppmd

from lucidlm.measure.baseline import ADAPTS, Baseline, row_of
from lucidlm.measure.baseline_texts import SEPARATOR, Text, seen_of
from lucidlm.runtime.progress import Progress

GZIP_WINDOW = 1 << 15
BZIP2_LEVEL = 9
"""Blocks of 900 KB."""
XZ_DICTIONARY = 1 << 26
PPMD_ORDER = 6
PPMD_CHUNK = 4
"""Held-out bytes that are coded at a time: their cost is what the output grows by."""

PPMD_CONTEXT = 8
"""Bytes before a held-out piece that PPMd reads: its longest context and the escapes from it. With more it
would learn the same text twice."""
PPMD_MEMORY = 1 << 30
PPMD_BYTES_A_BYTE = 24

_FED_AT_ONCE = 1 << 16
"""About 0.2 s of work for xz, the longest that a signal waits. The sizes do not depend on it."""


class _Compressor(Protocol):
    """What zlib, bz2 and lzma have in common."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compressed_rows(known: Text, text: Text, progress: Progress) -> list[Baseline]:
    """Size of compressed(training + held-out) minus compressed(training), for each compressor.

    They release the GIL, so they run in parallel. They see the documents as one text without borders.
    """
    training, heldout = b"".join(known.data), b"".join(text.scored)
    tail = one_block(training, heldout)
    # Not 9e: on tinyshakespeare xz takes as long and gives 0.003 bits per byte more.
    jobs: list[tuple[Callable[[], _Compressor], bytes]] = [
        (lambda: zlib.compressobj(9, wbits=31), training),
        (lambda: lzma.LZMACompressor(preset=9), training),
        (lambda: bz2.BZ2Compressor(BZIP2_LEVEL), training),
    ]
    if tail is not None:
        jobs.append((lambda: bz2.BZ2Compressor(BZIP2_LEVEL), tail))
    stop = threading.Event()
    total = 2 * len(jobs) + 1
    progress.stage("compressing", total)
    with ThreadPoolExecutor(min(total, os.cpu_count() or 1)) as pool:
        try:
            ppmd = pool.submit(_ppmd_bits, training, list(zip(_contexts(text), text.scored)), stop)
            # Twice over the training text, as only zlib can copy a compressor's state.
            twice = [(make, texts) for make, first in jobs for texts in ([first], [first, heldout])]
            sizes: list[int] = []
            for size in pool.map(lambda job: _compressed_size(*job, stop), twice):
                sizes.append(size)
                progress.advance()
            bits = ppmd.result()
            progress.advance()
        finally:
            stop.set()  # an interrupt would otherwise wait minutes for xz
    costs = [8 * (both - alone) / len(heldout) for alone, both in zip(sizes[::2], sizes[1::2])]
    return [
        Baseline("gzip", costs[0], ADAPTS, seen_of(known, GZIP_WINDOW), "level 9"),
        Baseline("xz", costs[1], ADAPTS, seen_of(known, XZ_DICTIONARY), "preset 9"),
        _bzip2(known, tail, costs[2:]),
        row_of("ppmd", bits, ADAPTS, _ppmd_sees(known), f"order {PPMD_ORDER}"),
    ]


def _bzip2(known: Text, tail: bytes | None, costs: list[float]) -> Baseline:
    """The cheaper row: after all training text, or after what fits into one block with this text."""
    if tail is None:
        cost, sees = costs[0], seen_of(known)
    elif costs[1] < costs[0]:
        cost, sees = costs[1], f"{seen_of(known, len(tail))}, one block with this text"
    else:
        cost, sees = costs[0], f"what shares its blocks of {100 * BZIP2_LEVEL} KB"
    return Baseline("bzip2", cost, ADAPTS, sees, f"level {BZIP2_LEVEL}")


def _contexts(text: Text) -> list[bytes]:
    """The bytes before each piece that PPMd reads."""
    return [bytes(data[data < SEPARATOR][-PPMD_CONTEXT:].astype(np.uint8)) for data in text.before_bytes]


def _ppmd_sees(known: Text) -> str:
    fits = PPMD_BYTES_A_BYTE * known.bytes <= PPMD_MEMORY
    return seen_of(known) if fits else f"{seen_of(known)} that fits in its memory of 1 GB"


def _compressed_size(make: Callable[[], _Compressor], texts: list[bytes], stop: threading.Event) -> int:
    compressor = make()
    size = 0
    for text in map(memoryview, texts):
        for start in range(0, len(text), _FED_AT_ONCE):
            if stop.is_set():
                return 0
            size += len(compressor.compress(text[start : start + _FED_AT_ONCE]))
    return size + len(compressor.flush())


def one_block(training: bytes, heldout: bytes) -> bytes | None:
    """The longest end of the training text that shares a block of bzip2 with all of the held-out text.

    None where all of it does, or nothing. Blocks are filled after runs were shortened: of 4 to 255 equal
    bytes 4 are kept and one counts the rest, so that some texts grow.
    """
    room = 100_000 * BZIP2_LEVEL - 20  # a block is full at 19 under its size
    data = np.frombuffer(training[-4 * room :] + heldout, np.uint8)
    starts = np.flatnonzero(np.diff(data, prepend=-1))  # of runs
    whole, rest = np.divmod(np.diff(starts, append=len(data)), 255)
    from_here = np.cumsum((5 * whole + np.where(rest < 4, rest, 5))[::-1])[::-1]
    fitting = starts[from_here <= room]
    kept = len(data) - int(fitting[0]) - len(heldout) if len(fitting) else 0
    return training[-kept:] if 0 < kept < len(training) else None


def _ppmd_bits(training: bytes, pieces: list[tuple[bytes, bytes]], stop: threading.Event) -> np.ndarray:
    """The cost of each held-out byte; the bytes before each piece, which come first, are read for nothing.

    Nothing restarts between chunks, so a chunk costs what the output grows by. The coder holds back 6 to 9
    bytes: the sum over a piece is right to 3. Of whole documents the sum over all is made exact, 8 *
    (compressed(training + held-out) - compressed(training)), what was held back being shared out.
    """
    memory = ppmd_memory(len(training) + sum(len(data) + PPMD_CONTEXT for _, data in pieces))
    encoder, size = ppmd_fed([training], memory, stop=stop)
    growth, lengths = [], []
    for before, data in pieces:
        encoder.encode(before)
        for start in range(0, len(data), PPMD_CHUNK):
            if stop.is_set():
                break
            chunk = data[start : start + PPMD_CHUNK]
            growth.append(len(encoder.encode(chunk)))
            lengths.append(len(chunk))
    bits = np.repeat(8 * np.array(growth) / lengths, lengths)
    if any(before for before, _ in pieces) or stop.is_set():
        return bits
    alone, size_alone = ppmd_fed([training], memory, stop=stop)
    exact = 8 * (size + sum(growth) + len(encoder.flush()) - size_alone - len(alone.flush()))
    return bits + (exact - bits.sum()) / len(bits)


def ppmd_fed(
    texts: Iterable[bytes], memory: int, *, order: int = PPMD_ORDER, stop: threading.Event | None = None
) -> tuple[pyppmd.Ppmd8Encoder, int]:
    """An encoder that has read the texts, and how many bytes it has put out; it ends early at `stop`."""
    # Variant I (Shkarin 2002), 0.003 bits per byte better than H; out of memory, it drops old contexts.
    encoder = pyppmd.Ppmd8Encoder(order, memory, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    size = 0
    for text in texts:
        for start in range(0, len(text), _FED_AT_ONCE):
            if stop is not None and stop.is_set():
                break
            size += len(encoder.encode(text[start : start + _FED_AT_ONCE]))
    return encoder, size


def ppmd_memory(size: int) -> int:
    """Bytes of memory in which a text of this size fits; what is not used is never touched.

    Measured: 6 a byte for English, 18 for noise, at order 6.
    """
    return min(PPMD_MEMORY, max(1 << 24, PPMD_BYTES_A_BYTE * size))
