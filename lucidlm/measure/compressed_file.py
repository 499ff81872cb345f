"""The compressed file: what it was made with and the coder's words go in, bytes go out, and back, checked.

Little-endian, 94 bytes and then the words:

    4s    magic, b"lucz"                       H    threads
    H     version, 2                           B    device, by its place in `_DEVICES`
    i     id of the prefix, -1 for none        B    float32 kernels, by their place in `_KERNELS`
    I     context length                       7s   instructions of the CPU or generation of the GPU
    I     stride                               13s  start of PyTorch's version
    Q     number of tokens                     I    CRC-32 of all the rest of the file
    Q     number of bytes that they spell           then uint32, uint32, ...: constriction's range coder
    16s   start of `model_hash`
    16s   start of the bytes' SHA-256

Version 1 lacks the fields from the threads to PyTorch's version; it is still read.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from lucidlm.errors import DataError
from lucidlm.measure.scoring import Predictor
from lucidlm.runtime.process import Arithmetic
from lucidlm.runtime.wording import plural

HEADER = struct.Struct("<4sHiIIQQ16s16sHBB7s13sI")
_HEADER_1 = struct.Struct("<4sHiIIQQ16s16sI")
_MAGIC, _VERSION = b"lucz", 2
_DEVICES = ("other", "cpu", "cuda", "mps")
_KERNELS = ("other", "stock", "onednn", "ieee", "tf32")
_MOST_THREADS = 1024  # more than a machine has: a forged file must not start so many that the process dies


@dataclass(frozen=True, slots=True)
class Header:
    """All of a compressed file except the words."""

    prefix_id: int | None
    context_length: int
    stride: int
    tokens: int
    n_bytes: int
    model: bytes
    data: bytes
    arithmetic: Arithmetic | None
    """None: a file of version 1."""

    def packed(self) -> bytes:
        """The header's bytes up to the checksum."""
        prefix = -1 if self.prefix_id is None else self.prefix_id
        numbers = (prefix, self.context_length, self.stride, self.tokens, self.n_bytes)
        assert self.arithmetic is not None, "files of version 1 are only read"
        made = _packed(self.arithmetic)
        return HEADER.pack(_MAGIC, _VERSION, *numbers, self.model, self.data, *made, 0)[:-4]

    def sealed(self, words: np.ndarray) -> bytes:
        """The whole file: header with its checksum, and the coder's words."""
        coded = words.astype("<u4").tobytes()
        fields = self.packed()
        return fields + struct.pack("<I", zlib.crc32(coded, zlib.crc32(fields))) + coded

    @classmethod
    def read(cls, file: bytes) -> tuple["Header", np.ndarray]:
        """Header and words of a file that is whole, or a DataError."""
        if file[:4] != _MAGIC:
            raise DataError(
                f"no file of `lucidlm compress`: it starts with {file[:4]!r}, not with {_MAGIC!r}; "
                "give one that compress wrote"
            )
        layout = _HEADER_1 if file[4:6] == b"\1\0" else HEADER
        if len(file) < layout.size:
            raise DataError(
                f"the file has {plural(len(file), 'byte')}, its header alone {layout.size}: it was cut off"
            )
        _, version, prefix, *fields, crc = layout.unpack_from(file)
        if version not in (1, _VERSION):
            raise DataError(
                f"the file is of version {version}, this lucidlm reads 1 to {_VERSION}; get a newer one"
            )
        arithmetic = _unpacked(*fields[6:]) if version > 1 else None
        header = cls(None if prefix == -1 else prefix, *fields[:6], arithmetic)
        coded = file[layout.size :]
        # Before any decoding: hours of it could come before the bytes' own checksum.
        if zlib.crc32(coded, zlib.crc32(file[: layout.size - 4])) != crc or len(coded) % 4:
            raise DataError("the file's checksum is wrong: it was damaged or cut off; take another copy")
        return header, np.frombuffer(coded, "<u4").astype(np.uint32)

    def check(self, model: Predictor) -> None:
        """DataError for a number that is out of range: only a file that was made by hand has one."""
        for what, value, least, most in (
            ("context length", self.context_length, 1, model.context_length),
            ("stride", self.stride, 1, self.context_length),
            ("prefix id", self.prefix_id or 0, 0, model.vocab_size - 1),
            ("number of tokens", self.tokens, min(1, self.n_bytes), self.n_bytes),
            ("number of threads", self.arithmetic.threads if self.arithmetic else 1, 1, _MOST_THREADS),
        ):
            if not least <= value <= most:
                raise DataError(
                    f"the file's {what} is {value}, it can be {least} to {most}: it was damaged; "
                    "take another copy"
                )


def as_kept(arithmetic: Arithmetic) -> Arithmetic:
    """The arithmetic as it comes back from a header, which keeps the start of two fields only."""
    return _unpacked(*_packed(arithmetic))


def _packed(arithmetic: Arithmetic) -> tuple[int, int, int, bytes, bytes]:
    device, kernels = (
        names.index(name) if name in names else 0
        for names, name in ((_DEVICES, arithmetic.device), (_KERNELS, arithmetic.kernels))
    )
    texts = (arithmetic.capability.encode()[:7], arithmetic.torch_version.encode()[:13])
    return min(arithmetic.threads, _MOST_THREADS), device, kernels, *texts


def _unpacked(threads: int, device: int, kernels: int, capability: bytes, version: bytes) -> Arithmetic:
    texts = (text.rstrip(b"\0").decode("ascii", "replace") for text in (capability, version))
    named = (
        names[place] if place < len(names) else "other"
        for names, place in ((_DEVICES, device), (_KERNELS, kernels))
    )
    return Arithmetic(threads, *named, *texts)
