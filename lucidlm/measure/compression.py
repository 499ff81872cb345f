"""The proof of the loss: a file goes in, a small one comes out if the model predicts it well, and goes back.

An entropy coder spends -log2 p bits on a token that the model gave the probability p, and the decoder has
seen only what was decoded before. So a model that is measured correctly makes a file of the evaluated bits,
and one whose evaluation looked ahead cannot: `compress` compares the two and refuses.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.coder import OtherProbabilitiesError, decode, encode
from lucidlm.measure.compressed_file import HEADER, Header, as_kept
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
"""What the coder's rounding may add to the evaluated bits: its tests see less than half of that."""
SPARE_BITS = 8 * 128
"""Bits allowed on top: the header of 94 bytes, the last words of the coder, and a reserve."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed file, and how many bits the evaluation predicts for it."""

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
        """Bytes that `evaluate` of the same file leaves out, by reason: for example the CR of line ends."""
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
                f"{HEADER.size} bytes and the coder's rounding",
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
    """`data` coded with the model's probabilities, in the same windows as `evaluate`.

    `source` is the file that holds the data: its name says how `evaluate` reads it (None: plain text).
    NumbersError if the file is larger than the evaluated bits allow: then the evaluation was wrong.
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
    header = Header(*windows, len(ids), len(data), of_model, _digest(data), arithmetic)
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
            f"the file takes at least {result.file_bits:,} bits, but the evaluation says {evaluated:,.0f}, "
            "which is too good to be true: its model sees the next tokens; do not trust that number"
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

    It uses the number of threads and the float32 kernels that the file was made with; `threads` sets
    another number, which may round differently. WeightsError where model or tokenizer are not those of
    `compress`, DataError (which names what differs) where the file is damaged or probabilities differ here.
    """
    header, words = Header.read(file)
    if header.model != model_hash(model, tokenizer):
        raise WeightsError(
            "the file was written with another model or tokenizer; give the ones that it was compressed with"
        )
    header.check(model)
    made = header.arithmetic
    with made.used(threads) if made is not None else contextlib.nullcontext():
        try:
            return _decoded(model, tokenizer, header, words, progress)
        except OtherProbabilitiesError:
            raise _explained(made, Arithmetic.here(model.device)) from None


def arithmetic_of(file: bytes) -> Arithmetic | None:
    """What a file was made with; None where it is of version 1, which does not record it."""
    return Header.read(file)[0].arithmetic


def _decoded(
    model: GPT, tokenizer: Tokenizer, header: Header, words: np.ndarray, progress: Progress
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
                raise OtherProbabilitiesError(_NOT_THE_SAME)
    if len(data) != header.n_bytes or _digest(data) != header.data:
        raise OtherProbabilitiesError(_NOT_THE_SAME)
    return bytes(data)


def predictions(
    model: GPT, n_tokens: int, *, context_length: int, stride: int, prefix_id: int | None
) -> Generator[np.ndarray, int, None]:
    """Logits (V,) of each next token, float64: it is sent the token that came, and answers with the next.

    Encoder and decoder both run this, one forward pass a token through the same shapes, so that their
    probabilities are equal to the last bit. Call it inside `evaluating`.
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


_NOT_THE_SAME = "what was decoded is not what was compressed"


def _explained(made: Arithmetic | None, here: Arithmetic) -> DataError:
    """What differs from where the file was made, and the way out."""
    if made is None:
        return DataError(
            f"{_NOT_THE_SAME}: a file of version 1 does not record its threads (here: {here.threads}); "
            "try --threads 1, 2, ... or decompress where it was compressed"
        )
    was, now = asdict(made), asdict(as_kept(here))
    differ = [
        f"{name.replace('_', ' ')}: {was[name]} there, {now[name]} here"
        for name in was
        if was[name] != now[name]
    ]
    if not differ:
        return DataError(
            f"{_NOT_THE_SAME}: threads, kernels, PyTorch and CPU are equal ({here}), so the file is "
            "damaged or of another machine; decompress where it was compressed"
        )
    way_out = "decompress where it was compressed"
    if all(line.startswith("threads") for line in differ):
        way_out = "leave out --threads"
    return DataError(f"{_NOT_THE_SAME}: other probabilities come out here ({'; '.join(differ)}); {way_out}")
