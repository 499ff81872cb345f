"""The proof of the loss: a file goes in, comes out as small as the model predicts it well, and goes back.

An entropy coder spends -log2 p bits on a token that the model gave the probability p, and whoever decodes has
seen only what was decoded before. So a model that is measured rightly makes a file of the evaluated bits, and
one whose evaluation looked ahead cannot: `compress` compares the two and refuses.

The file, little-endian, 94 bytes and then the coder's words:

    4s    magic, b"lucz"                       H    threads
    H     version, 2                           B    device, by its place in `_DEVICES`
    i     id that stands first, -1 for none    B    float32 kernels, by their place in `_KERNELS`
    I     context length                       7s   instructions of the CPU or generation of the GPU
    I     stride                               13s  start of PyTorch's version
    Q     number of tokens                     I    CRC-32 of all the rest of the file
    Q     number of bytes that they spell           then uint32, uint32, ...: constriction's range coder
    16s   start of `model_hash`
    16s   start of the bytes' SHA-256

Version 1 lacks the fields from the threads to PyTorch's version; it is still read.

V vocabulary. A token is coded in steps (`_coded`), as the coder's tables hold probabilities in 24 bits only:
which class of size its probability has, then which id of that class it is, in two steps where they are many.
"""

import contextlib
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from constriction import stream  # ty: ignore[missing-module-member]

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.scoring import Scorer, evaluating
from lucidlm.measure.windows import scored_windows
from lucidlm.model.gpt import GPT
from lucidlm.runtime.process import Arithmetic
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.tokenizer import Tokenizer

TOLERANCE = 0.002
"""What the coder's rounding may add to the evaluated bits, besides `SPARE_BITS` for header and last words."""
SPARE_BITS = 8 * 128

_HEADER = struct.Struct("<4sHiIIQQ16s16sHBB7s13sI")
_HEADER_1 = struct.Struct("<4sHiIIQQ16s16sI")
_MAGIC, _VERSION = b"lucz", 2
_DEVICES = ("other", "cpu", "cuda", "mps")
_KERNELS = ("other", "stock", "onednn", "ieee", "tf32")
_MOST_THREADS = 1024  # more than a machine has; a forged file must not start so many that the process dies
_CLASS_BITS = 8
# 2^-1000 is still a float64: what is less probable is coded as if it were that.
_MOST_BITS = 1000.0
# What a table over classes gives the least of them: 64 times 2^-24, so that rounding adds or takes 0.02 bits.
_LEAST = 2.0**-18
_GROUP = 256

_Choose = Callable[[np.ndarray, int | None], int]
"""(weights (n,), the wanted one) -> the one that came: the encoder writes it, the decoder reads it."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A file, and what the evaluation said that it would take."""

    file: bytes
    evaluated_bits: float
    """Sum of -log2 p over the tokens that `evaluate` scores."""
    tokens: int
    bytes: int
    """Length of what was compressed."""
    arithmetic: Arithmetic
    """What it was computed with, as the file's header has it."""
    account: Account = field(default_factory=Account, compare=False)
    """How `evaluate` of the same file makes a text of its bytes; empty where it is not a text."""

    @property
    def left_out(self) -> dict[str, int]:
        """Bytes of it that `evaluate` of the same file leaves out, by reason: the CR of line ends, say."""
        return dict(self.account.left_out)

    @property
    def file_bits(self) -> int:
        """Size of the file, header included."""
        return 8 * len(self.file)

    @property
    def bits_per_byte(self) -> float:
        """Bits of the file for each byte of what was compressed."""
        return self.file_bits / self.bytes if self.bytes else math.nan

    @property
    def evaluated_bits_per_byte(self) -> float:
        """Bits that the evaluation counts for each byte of what was compressed."""
        return self.evaluated_bits / self.bytes if self.bytes else math.nan

    @property
    def ratio(self) -> float:
        """How many times smaller the file is; under 1, it is larger."""
        return self.bytes / len(self.file)

    def to_dict(self) -> dict[str, Any]:
        """Flat and stable keys, for --json."""
        return {
            "bytes": self.bytes,
            "tokens": self.tokens,
            "file_bytes": len(self.file),
            "ratio": self.ratio,
            "bits_per_byte": self.bits_per_byte,
            "evaluated_bits": self.evaluated_bits,
            "evaluated_bits_per_byte": self.evaluated_bits_per_byte,
            "difference_bits": self.file_bits - self.evaluated_bits,
            "evaluate_leaves_out": self.left_out,
            "arithmetic": asdict(self.arithmetic),
        }

    def __str__(self) -> str:
        """Before and after, and the two numbers that prove each other."""
        before = f"{plural(self.bytes, 'byte')} in {plural(self.tokens, 'token')}"
        sizes = f"{before} -> {plural(len(self.file), 'byte')}"
        if not self.bytes:
            return f"{sizes}, the header alone"
        times = f"{self.ratio:.2f} times smaller" if self.ratio >= 1 else f"{1 / self.ratio:.2f} times larger"
        more = self.file_bits - self.evaluated_bits
        share = f", {more / self.evaluated_bits:.2%}" if self.evaluated_bits else ""
        return "\n".join(
            (
                f"{sizes}, {times}",
                self._counted(),
                f"bits per byte: {self.bits_per_byte:.4f} in the file, "
                f"{self.evaluated_bits_per_byte:.4f} in the evaluation",
                f"the file takes {more:+,.0f} bits{share} against the evaluation: the header of "
                f"{_HEADER.size} bytes and the coder's rounding",
                f"made with {self.arithmetic}",
            )
        )

    def _counted(self) -> str:
        """Which bytes the numbers are of: `evaluate FILE` reads a text, this a file."""
        counted = "counted: every byte of the file as it is"
        how = "; ".join(self.account.lines())
        if not how:
            return counted
        text = f"{plural(self.account.text, 'byte')} of text"
        return f"{counted}; `evaluate` of it counts {text}, so its bits are of other bytes: {how}"


def compress(
    model: GPT,
    tokenizer: Tokenizer,
    data: bytes,
    *,
    protocol: Protocol = LUCID,
    source: str | None = None,
    progress: Progress = SILENT,
) -> Compressed:
    """`data` coded with the model's own probabilities, window for window as `evaluate` asks for them.

    `source` is the file that holds it, whose name tells what `evaluate` reads in it (None: plain text).

    NumbersError where the file comes out larger than the evaluated bits allow: then the evaluation was wrong.
    """
    if protocol.name != "lucid":
        raise ConfigError(f"--protocol {protocol.name}: compress codes every token once; use lucid")
    if protocol.dtype != "float32":
        raise ConfigError(f"--dtype {protocol.dtype}: compress computes in float32; leave it out")
    scorer = Scorer(model, tokenizer, protocol)
    ids = _ids_of(tokenizer, data)
    nats = 0.0
    for piece in scorer.pieces([np.array(ids, np.int64)]):
        nats += piece.exact_nats.sum().item()  # in evaluate's order: sum() would round otherwise
    evaluated = nats / math.log(2)
    allowed = evaluated * (1 + TOLERANCE) + SPARE_BITS
    windows = (scorer.prefix_id, scorer.context_length, scorer.stride)
    of_model, arithmetic = model_hash(model, tokenizer), Arithmetic.here(model.device)
    header = _Header(*windows, len(ids), len(data), of_model, _digest(data), arithmetic)
    asked = predictions(
        model,
        len(ids),
        context_length=scorer.context_length,
        stride=scorer.stride,
        prefix_id=scorer.prefix_id,
    )
    with evaluating(model, torch.float32):
        words = encode(ids, asked, most_bits=allowed, progress=progress)
    result = Compressed(
        header.sealed(words),
        evaluated,
        len(ids),
        len(data),
        arithmetic,
        account=_account(data, source),
    )
    if result.file_bits > allowed:
        raise NumbersError(
            f"the file takes at least {result.file_bits:,} bits, the evaluation says {evaluated:,.0f}: the "
            "evaluation is too good to be true, its model sees what comes next; do not trust that number"
        )
    return result


def decompress(
    model: GPT,
    tokenizer: Tokenizer,
    file: bytes,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> bytes:
    """The bytes that `compress` was given, or an error: never other bytes.

    It computes on as many threads, and with the float32 kernels, that the file was made with; `threads` asks
    for others, which may round otherwise. WeightsError where model or tokenizer are not those of `compress`,
    DataError where the file is damaged or other probabilities come out here; it names what differs.
    """
    header, words = _Header.read(file)
    if header.model != model_hash(model, tokenizer):
        raise WeightsError(
            "the file was written with another model or tokenizer; give the ones that it was compressed with"
        )
    header.check(model)
    made = header.arithmetic
    with made.used(threads) if made is not None else contextlib.nullcontext():
        try:
            return _decoded(model, tokenizer, header, words, progress)
        except _OtherProbabilitiesError:
            raise _explained(made, Arithmetic.here(model.device)) from None


def arithmetic_of(file: bytes) -> Arithmetic | None:
    """What a file was made with; None where it is of version 1, which does not record it."""
    return _Header.read(file)[0].arithmetic


def _decoded(
    model: GPT, tokenizer: Tokenizer, header: "_Header", words: np.ndarray, progress: Progress
) -> bytes:
    asked = predictions(
        model,
        header.tokens,
        context_length=header.context_length,
        stride=header.stride,
        prefix_id=header.prefix_id,
    )
    data = bytearray()
    with evaluating(model, torch.float32):
        for done, id in enumerate(decode(words, header.tokens, asked, progress=progress), start=1):
            spelled = tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""
            data += spelled
            # Each token spells a byte or more: what cannot come right is not decoded to its end.
            if not spelled or len(data) + header.tokens - done > header.n_bytes:
                raise _OtherProbabilitiesError(_NOT_THE_SAME)
    if len(data) != header.n_bytes or _digest(data) != header.data:
        raise _OtherProbabilitiesError(_NOT_THE_SAME)
    return bytes(data)


def predictions(
    model: GPT, n_tokens: int, *, context_length: int, stride: int, prefix_id: int | None
) -> Generator[np.ndarray, int, None]:
    """Logits (V,) of each next token, float64: it is sent the token that came, and answers with the next.

    Encoder and decoder both run this, one forward pass a token through the same shapes, so that their
    probabilities are equal to the last bit. It wants `evaluating` around it.
    """
    sequence = [] if prefix_id is None else [prefix_id]
    if prefix_id is None and n_tokens:
        sequence.append((yield np.zeros(model.config.vocab_size)))  # nothing is known: all are as probable
    n_inputs = n_tokens - (prefix_id is None)
    # No larger than needed: the context of models of others is a hundred times most texts.
    cache = model.new_cache(1, max(1, min(context_length, n_inputs)))
    for start, first, end in scored_windows(n_inputs, context_length, stride):
        cache.truncate([0])
        unread = sequence[start : first + 1]
        for _ in range(first, end):
            inputs = torch.tensor([unread], device=model.device)
            # The head at one place: after a long context all its logits would be hundreds of megabytes.
            logits = model.head(model.hidden(inputs, cache)[0, -1])  # (V,)
            unread = [(yield logits.cpu().double().numpy())]
            sequence += unread


def encode(
    ids: Iterable[int],
    predictions: Generator[np.ndarray, int, None],
    *,
    most_bits: float = math.inf,
    progress: Progress = SILENT,
) -> np.ndarray:
    """The coder's words (n,), uint32; only their start once they are clearly more than `most_bits`."""
    ids = list(ids)
    encoder = stream.queue.RangeEncoder()

    def write(weights: np.ndarray, wanted: int | None) -> int:
        assert wanted is not None, "an encoder knows what it writes"
        if len(weights) > 1:
            encoder.encode(wanted, stream.model.Categorical(weights, perfect=False))
        return wanted

    progress.stage("encoding tokens", len(ids))
    for _ in _all_coded(write, ids, predictions):
        progress.advance()
        if encoder.num_bits() > most_bits:
            break
    return encoder.get_compressed()


def decode(
    words: np.ndarray,
    n_tokens: int,
    predictions: Generator[np.ndarray, int, None],
    *,
    progress: Progress = SILENT,
) -> Iterator[int]:
    """The ids that were encoded to these words with the same predictions; DataError where none can be."""
    decoder = stream.queue.RangeDecoder(words)

    def read(weights: np.ndarray, wanted: int | None) -> int:
        if len(weights) == 1:
            return 0
        try:
            return int(decoder.decode(stream.model.Categorical(weights, perfect=False)))
        except AssertionError:  # what the library raises for words that no encoder writes
            raise _OtherProbabilitiesError(_NOT_THE_SAME) from None

    progress.stage("decoding tokens", n_tokens)
    for id in _all_coded(read, (None for _ in range(n_tokens)), predictions):
        progress.advance()
        yield id


def model_hash(model: GPT, tokenizer: Tokenizer) -> bytes:
    """16 bytes that another shape, another weight or another tokenizer would change."""
    # Dropout and how the weights were drawn do not change what they predict; the header has the prefix.
    without = ("drop_rate", "init", "document_prefix_id")
    shape = {key: value for key, value in model.config.to_dict().items() if key not in without}
    digest = hashlib.sha256(json.dumps([shape, tokenizer.fingerprint()], sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"\n{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()[:16]


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the coder's words."""

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
        return _HEADER.pack(_MAGIC, _VERSION, *numbers, self.model, self.data, *made, 0)[:-4]

    def sealed(self, words: np.ndarray) -> bytes:
        """The whole file: header with its checksum, and the coder's words."""
        coded = words.astype("<u4").tobytes()
        fields = self.packed()
        return fields + struct.pack("<I", zlib.crc32(coded, zlib.crc32(fields))) + coded

    @classmethod
    def read(cls, file: bytes) -> tuple["_Header", np.ndarray]:
        """Header and words of a file that is whole, or a DataError."""
        if file[:4] != _MAGIC:
            raise DataError(
                f"no file of `lucidlm compress`: it starts with {file[:4]!r}, not with {_MAGIC!r}; "
                "give one that compress wrote"
            )
        layout = _HEADER_1 if file[4:6] == b"\1\0" else _HEADER
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

    def check(self, model: GPT) -> None:
        """DataError where a number cannot be: only a file that was made by hand has those."""
        of = model.config
        for what, value, least, most in (
            ("context length", self.context_length, 1, of.context_length),
            ("stride", self.stride, 1, self.context_length),
            ("prefix id", self.prefix_id or 0, 0, of.vocab_size - 1),
            ("number of tokens", self.tokens, min(1, self.n_bytes), self.n_bytes),
            ("number of threads", self.arithmetic.threads if self.arithmetic else 1, 1, _MOST_THREADS),
        ):
            if not least <= value <= most:
                raise DataError(
                    f"the file's {what} is {value}, it can be {least} to {most}: it was damaged; "
                    "take another copy"
                )


def _all_coded(
    choose: _Choose, ids: Iterable[int | None], predictions: Generator[np.ndarray, int, None]
) -> Iterator[int]:
    """Each id once it is coded, and its prediction made of those before it alone."""
    came: Any = None
    for place, id in enumerate(ids):
        logits = predictions.send(came)
        if not np.isfinite(logits).all():
            raise NumbersError(f"the logits at token {place:,} hold NaN or infinity; take another checkpoint")
        came = _coded(choose, logits, id)
        yield came


def _coded(choose: _Choose, logits: np.ndarray, id: int | None) -> int:
    """The id that was coded with the probabilities of these logits, close to -log2 p bits for any p.

    A table's entry is p + 2^-24 at worst, so that a table over V ids would make the improbable ones too cheap
    and the probable ones dearer. Ids whose p differ by less than 2^8 share a class: in it no p is small.
    """
    below = logits - logits.max()
    bits = np.minimum((np.log(np.exp(below).sum()) - below) / math.log(2), _MOST_BITS)  # (V,)
    classes = (bits // _CLASS_BITS).astype(np.int64)
    present = np.flatnonzero(np.bincount(classes))
    masses = np.bincount(classes, weights=np.exp2(-bits))[present]
    number = choose(np.maximum(masses, _LEAST), _place(present, None if id is None else int(classes[id])))
    _pay(choose, _LEAST / float(masses[number]))
    members = np.flatnonzero(classes == present[number])
    weights = np.exp2(_CLASS_BITS * present[number] - bits[members])  # over 2^-8, and 1 at most
    wanted = _place(members, id)
    if len(members) > _GROUP:
        of_groups = np.add.reduceat(weights, np.arange(0, len(members), _GROUP))
        group = choose(of_groups, None if wanted is None else wanted // _GROUP)
        inside = slice(group * _GROUP, (group + 1) * _GROUP)
        members, weights = members[inside], weights[inside]
        wanted = _place(members, id)
    return int(members[choose(weights, wanted)])


def _pay(choose: _Choose, times: float) -> None:
    """Spends log2(times) bits: a class under the least mass was too cheap by so much."""
    while times > 1:
        share = min(times, 1 / _LEAST)
        choose(np.array([1 / share, 1 - 1 / share]), 0)
        times /= share


def _place(ordered: np.ndarray, value: int | None) -> int | None:
    return None if value is None else int(np.searchsorted(ordered, value))


def _ids_of(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Ids that spell exactly `data`: the tokenizer's own, or a token a byte where those would not."""
    ids = tokenizer.encode(data)
    # The tokenizer.json of others may change a text; and a decoder takes a token without bytes for damage.
    lengths = tokenizer.token_lengths()
    if tokenizer.decode_bytes(ids) == data and (not ids or lengths[ids].min() > 0):
        return ids
    of_bytes = {tokenizer.token_bytes(id): int(id) for id in np.flatnonzero(lengths == 1)}
    return [of_bytes[data[place : place + 1]] for place in range(len(data))]


def _account(data: bytes, source: str | None) -> Account:
    """How the text that `evaluate` reads is made of these bytes; empty where it would read none."""
    account = Account()
    try:
        if source is None:
            given_text(data.decode("utf-8"), account)
        else:
            for _ in read_texts([source], account):
                pass
    except (UnicodeDecodeError, DataError):
        return Account()
    return account


def _digest(data: bytes | bytearray) -> bytes:
    return hashlib.sha256(data).digest()[:16]


class _OtherProbabilitiesError(DataError):
    """What was decoded cannot be what was encoded."""


_NOT_THE_SAME = "what was decoded is not what was compressed"


def _explained(made: Arithmetic | None, here: Arithmetic) -> DataError:
    """What differs from where the file was made, and the way out."""
    if made is None:
        return DataError(
            f"{_NOT_THE_SAME}: a file of version 1 does not record its threads, here are {here.threads}; "
            "try --threads 1, 2, ... or decompress where it was compressed"
        )
    # The header keeps the start of the version and of the capability only.
    was, now = asdict(made), asdict(_kept(here))
    differ = [
        f"{name.replace('_', ' ')}: {was[name]} there, {now[name]} here"
        for name in was
        if was[name] != now[name]
    ]
    if not differ:
        return DataError(
            f"{_NOT_THE_SAME}: threads, kernels, PyTorch and processor are equal ({here}), so the file is "
            "damaged or of another machine; decompress where it was compressed"
        )
    way_out = "decompress where it was compressed"
    if all(line.startswith("threads") for line in differ):
        way_out = "leave out --threads"
    return DataError(f"{_NOT_THE_SAME}: other probabilities come out here ({'; '.join(differ)}); {way_out}")


def _kept(arithmetic: Arithmetic) -> Arithmetic:
    """As it comes back from a header."""
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
