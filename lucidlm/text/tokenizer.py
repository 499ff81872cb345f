"""Text and token ids: any str or bytes goes in, ids come out, and the ids give the same bytes back.

One class for three vocabularies: GPT-2's own, one trained on the text at hand, and plain bytes; a fourth, any
other byte-level tokenizer.json, comes with the models of others. V is the vocabulary, end-of-text included.
"""

import base64
import collections
import functools
import hashlib
import importlib.resources
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.tokenizer_files import document_of
from lucidlm.text.tokenizer_json import (
    END_OF_TEXT,
    begin_of_text_of,
    byte_document,
    changes_text,
    completed,
    end_of_text_of,
    is_plain,
    library_of,
    plain_document,
    reason_of,
    table_of,
    within,
    word_seam_of,
)

SMALLEST_BPE, LARGEST_BPE = 257, 1 << 18
PIECE_CHARACTERS = 1 << 16
# Where a text offers no place to cut for so long, it is cut all the same: tiktoken's regex engine gives up on
# a run of a million spaces, and half of that is safe.
LONGEST_PIECE = 1 << 19

_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# Unicode's White_Space, which is the \s of both libraries; Python's has four control characters more.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# GPT-2's pattern takes whitespace only at the start of a token, so it always splits where whitespace begins.
_GPT2_SEAM = re.compile(f"(?<=[^{_SPACE}])[{_SPACE}]")
_ESCAPED = re.compile("[\udc80-\udcff]")
# Longer words cost the training of a vocabulary time and teach it nothing: it reads only their start.
_LONGEST_TRAINING_WORD = 1000
_LONG_RUN = re.compile(rf"(\S{{{_LONGEST_TRAINING_WORD}}})\S+|(\s{{{_LONGEST_TRAINING_WORD}}})\s+")

Bytes = bytes  # the class below has a method of that name
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Tokenizer:
    """Text to ids and back: `gpt2()`, `bytes()`, `train()`, `from_spec()` or `load()` give one.

    No control token is ever recognised in a text: "<|endoftext|>" there is thirteen characters like others.
    """

    def __init__(
        self,
        name: str,
        table: list[bytes],
        end_of_text: int | None,
        *,
        encode_text: Callable[[str], np.ndarray],
        document: Callable[[], dict],
        seam: re.Pattern | None = _GPT2_SEAM,
        lossless: bool = True,
    ):
        self.name = name
        self.vocab_size = len(table)
        self.end_of_text = end_of_text
        self.lossless = (
            lossless  # False: the tokenizer.json of others may change the text (NFC, a prefix space)
        )
        self._table = table
        self._encode_text = encode_text
        self._document = functools.cache(document)
        self._seam = seam

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's vocabulary of 50,257 from the ranks in this package, encoded by tiktoken."""
        return cls("gpt2", _gpt2_table(), 50256, encode_text=_gpt2_ids, document=_gpt2_document)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """Each UTF-8 byte is its own id, 256 is end-of-text."""
        table = [bytes([value]) for value in range(256)] + [b""]
        return cls(
            "bytes",
            table,
            256,
            encode_text=lambda text: np.frombuffer(text.encode("utf-8"), np.uint8),
            document=lambda: byte_document(table, []),
        )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        progress: Progress = SILENT,
    ) -> "Tokenizer":
        """A byte-level BPE learnt from `texts`; the same texts give the same vocabulary, to the byte.

        `vocab_size` counts the 256 bytes and end-of-text, which is the last id. A text too small for it gives
        a smaller vocabulary: `name` and `vocab_size` say which.
        """
        _check_vocab_size(vocab_size)
        return _from_document(_train_document(texts, vocab_size, progress))

    @classmethod
    def from_spec(cls, spec: str, texts: Iterable[str] | None = None) -> "Tokenizer":
        """The tokenizer of a spec: gpt2, bytes, bpe:N (trained on `texts`), a folder or a tokenizer.json."""
        if spec == "gpt2":
            return cls.gpt2()
        if spec == "bytes":
            return cls.bytes()
        if (size := bpe_size(spec)) is not None:
            if texts is None:
                raise ConfigError(
                    f"{spec}: this tokenizer is trained on a text and none was given; name the text"
                )
            return cls.train(texts, size)
        if spec and Path(spec).exists():
            return cls.load(spec)
        raise ConfigError(
            f"tokenizer {spec!r} is not known; take gpt2, bytes, bpe:N or a folder with tokenizer.json"
        )

    @classmethod
    def from_vocabulary(
        cls, vocabulary: dict[str, int], merges: list[list[str]], *, source: str = "tokenizer.json"
    ) -> "Tokenizer":
        """A byte-level BPE of these tokens and merges, written in `byte_alphabet`; end-of-text comes last.

        WeightsError with `source` where the two do not fit.
        """
        return _from_document(plain_document(vocabulary, merges), source=source)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """The tokenizer of a model folder or of a tokenizer.json; WeightsError where it is not byte-level.

        An older folder has vocab.json and merges.txt instead.
        """
        document, end_token, source = document_of(Path(path))
        return _from_document(document, end_token=end_token, source=str(source))

    def within(self, size: int, source: str = "tokenizer.json") -> tuple["Tokenizer", list[str]]:
        """The tokenizer for a model of `size` ids, and the names of control tokens that this leaves out.

        Programs add such tokens, for padding, without a row of the model for them. WeightsError where a token
        that a text may hold has no row.
        """
        if self.vocab_size <= size:
            return self, []
        try:
            document, names = within(self.document(), size)
        except ValueError as error:
            raise WeightsError(
                f"{source}: its tokenizer has {self.vocab_size:,} tokens, its model {size:,}, and a text may "
                f"hold {error}; take the tokenizer that belongs to the model"
            ) from None
        control = {token["content"]: token["id"] for token in document["added_tokens"] if token["special"]}
        end = next((name for name, id in control.items() if id == self.end_of_text), None)
        return _from_document(document, end_token=end, source=source), names

    def encode(self, text: str | Bytes) -> list[int]:
        """The ids of a text. Bytes that are no UTF-8 become single-byte tokens, so any bytes round-trip."""
        if not isinstance(text, str):
            return self._encode_bytes(text)
        if len(text) <= PIECE_CHARACTERS:
            return self.encode_piece(text).tolist()
        return np.concatenate(list(self.encode_pieces([text]))).tolist()

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of the joined pieces, array after array in bounded memory, on all cores.

        Joined they equal `encode("".join(pieces))`, wherever the pieces were cut.
        """
        return in_threads(self.encode_piece, self.cut(pieces))

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same text in pieces of about 64 Ki characters that can be encoded one by one.

        A piece ends at the first sure boundary between two tokens, or at 512 Ki characters without one.
        `encode` does the same, so the ids never depend on how a text came in.
        """
        waiting, start = "", 0
        for block in _blocks(pieces):
            waiting, start = waiting[start:] + block, 0
            while (end := self._end_of_piece(waiting, start)) is not None:
                yield waiting[start:end]
                start = end
        if start < len(waiting):
            yield waiting[start:]

    def encode_piece(self, piece: str) -> np.ndarray:
        """The ids of one piece of `cut`."""
        try:
            piece.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"U+{ord(piece[error.start]):04X} after {piece[max(0, error.start - 20) : error.start]!r} is "
                f"half of a surrogate pair, no character; give valid Unicode or bytes"
            ) from None
        return self._encode_text(piece).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD. Control tokens have no text."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> Bytes:
        """The exact bytes that the ids spell."""
        ids = np.asarray(ids if hasattr(ids, "__len__") else list(ids))
        if ids.size == 0:
            return b""
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(
                f"ids of shape {ids.shape} and type {ids.dtype} are no row of token ids; give integers"
            )
        for id in (int(ids.min()), int(ids.max())):
            self.token_bytes(id)
        return b"".join(map(self._table.__getitem__, ids.tolist()))

    def token_bytes(self, id: int) -> Bytes:
        """The bytes that one id spells, b"" for end-of-text and other control tokens."""
        if not 0 <= id < self.vocab_size:
            raise DataError(
                f"token id {id} is outside the vocabulary of {self.name} (0 to {self.vocab_size - 1})"
            )
        return self._table[id]

    def token_lengths(self) -> np.ndarray:
        """Bytes of each id, int32 (V,); control tokens have 0."""
        return np.fromiter(map(len, self._table), np.int32, self.vocab_size)

    @property
    def dtype(self) -> np.dtype:
        """The type that holds each id: uint16 where the vocabulary fits, else uint32."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @property
    def begin_of_text(self) -> int | None:
        """The token that other programs put before each text, as Llama 3's tokenizer.json says; or None.

        `encode` never does: what stands before a document is the model's matter.
        """
        return begin_of_text_of(self.document())

    def save(self, folder: str | os.PathLike, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json: transformers loads them and gives the same ids."""
        folder = Path(folder)
        document = self.document()
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            # Without it transformers reads control text in a prompt as control tokens.
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            "model_max_length": model_max_length or int(1e30),
        }
        if self.end_of_text is not None:
            names = {token["id"]: token["content"] for token in document["added_tokens"]}
            settings |= {"eos_token": names[self.end_of_text]}
            settings |= {"bos_token": names.get(self.begin_of_text, settings["eos_token"])}
        write_atomically(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False))
        write_atomically(
            folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        )

    def document(self) -> dict:
        """What tokenizer.json holds; not to be changed."""
        return self._document()

    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json with sorted keys and no blanks: equal fingerprints give equal ids."""
        canonical = json.dumps(self.document(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def _encode_bytes(self, data: Bytes) -> list[int]:
        text = bytes(data).decode("utf-8", errors="surrogateescape")
        if not _ESCAPED.search(text):
            return self.encode(text)
        encode_short = functools.lru_cache(1 << 12)(self.encode)
        ids: list[int] = []
        start = 0
        for escaped in itertools.chain(_ESCAPED.finditer(text), [None]):
            stretch = text[start : escaped.start() if escaped else None]
            ids += encode_short(stretch) if len(stretch) <= 8 else self.encode(stretch)
            if escaped:
                ids.append(self._byte_id(ord(escaped[0]) - 0xDC00))
                start = escaped.end()
        return ids

    def _byte_id(self, byte: int) -> int:
        if byte not in self._byte_ids:
            raise DataError(
                f"byte 0x{byte:02X} has no token in this {self.name} tokenizer, which has only the bytes of "
                "UTF-8; give text in UTF-8, or take another model"
            )
        return self._byte_ids[byte]

    @functools.cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {token[0]: id for id, token in enumerate(self._table) if len(token) == 1}

    def _end_of_piece(self, text: str, start: int) -> int | None:
        if self._seam is None or len(text) <= start + PIECE_CHARACTERS:
            return None
        limit = start + LONGEST_PIECE
        if seam := self._seam.search(text, start + PIECE_CHARACTERS, limit):
            return seam.start()
        return limit if len(text) > limit else None


def suggest(characters: int) -> tuple[str, str]:
    """The tokenizer for this amount of text, and one sentence why."""
    for limit, spec, reason in (
        (250_000, "bytes", "each token of a vocabulary of words would be seen too rarely"),
        (500_000, "bpe:512", "each token of a larger vocabulary would be seen too rarely"),
        (5_000_000, "bpe:1024", "a small vocabulary learns fastest from a few books"),
        (50_000_000, "bpe:4096", "there is text enough to learn common words as tokens"),
        (500_000_000, "bpe:16384", "there is text enough to learn most words as tokens"),
    ):
        if characters < limit:
            return spec, f"{plural(characters, 'character')}: {spec}, as {reason}"
    return "gpt2", f"{characters:,} characters: gpt2, as so much text fills GPT-2's vocabulary of 50,257"


def bpe_size(spec: str) -> int | None:
    """N of the spec "bpe:N", None for a spec of another kind."""
    if not spec.startswith("bpe:"):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", spec[4:]):
        raise ConfigError(f"tokenizer {spec!r}: after bpe: stands the size of the vocabulary, as in bpe:4096")
    _check_vocab_size(int(spec[4:]))
    return int(spec[4:])


def in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """function(item) of each item, in order, computed ahead on all cores: encoding lets Python's lock go."""
    items = iter(items)
    first = list(itertools.islice(items, 2))
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(first) < 2 or workers == 1:
        yield from map(function, itertools.chain(first, items))
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in itertools.chain(first, items):
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in blocks of a piece's size or more: short lines would be searched again and again."""
    waiting, size = [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_CHARACTERS:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def _check_vocab_size(size: int) -> None:
    if not SMALLEST_BPE <= size <= LARGEST_BPE:
        raise ConfigError(
            f"bpe:{size}: a vocabulary has {SMALLEST_BPE} (256 bytes and end-of-text) to {LARGEST_BPE} ids; "
            f"choose a size between them, or bytes"
        )


@functools.cache
def _gpt2_ranks() -> dict[bytes, int]:
    """Token -> rank, in the order of ranks, which are GPT-2's ids."""
    data = (importlib.resources.files("lucidlm.text") / "assets" / "gpt2.tiktoken").read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != _RANKS_SHA256:
        raise WeightsError(
            f"gpt2.tiktoken: SHA-256 {found[:12]}.. is not {_RANKS_SHA256[:12]}..; reinstall lucidlm"
        )
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}


@functools.cache
def _gpt2_table() -> list[bytes]:
    return [*_gpt2_ranks(), b""]


@functools.cache
def _gpt2_encoding():
    import tiktoken

    return tiktoken.Encoding(
        "gpt2-lucidlm",
        pat_str=_GPT2_PATTERN,
        mergeable_ranks=_gpt2_ranks(),
        special_tokens={END_OF_TEXT: 50256},
    )


def _gpt2_ids(text: str) -> np.ndarray:
    return _gpt2_encoding().encode_to_numpy(text, disallowed_special=())


@functools.cache
def _gpt2_document() -> dict:
    ranks = _gpt2_ranks()
    merges = [_last_merge(token, ranks) for token in ranks if len(token) > 1]
    return byte_document(_gpt2_table(), merges)


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made this one: what merging by rank leaves before the last step."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranked = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        first = ranked.index(min(ranked))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


_training = threading.Lock()


def _train_document(texts: Iterable[str], vocab_size: int, progress: Progress) -> dict:
    import tokenizers

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # end-of-text comes last
        min_frequency=2,  # a pair seen once teaches nothing
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with _training:
        # The library's own threads, here alone: its pool would warn at each later fork, or hang in the child.
        before = os.environ.get("TOKENIZERS_PARALLELISM")
        os.environ["TOKENIZERS_PARALLELISM"] = before or "true"
        try:
            trained.train_from_iterator(_training_texts(texts, progress), trainer)
        finally:
            os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
    model = json.loads(trained.to_str())["model"]
    return plain_document(model["vocab"], model["merges"])


def _training_texts(texts: Iterable[str], progress: Progress) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), LONGEST_PIECE):
            piece = text[start : start + LONGEST_PIECE]
            yield _LONG_RUN.sub(lambda run: run[1] or run[2], piece)
            progress.advance(len(piece))


def _from_document(document: dict, *, end_token: object = None, source: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, by the fastest way that gives its ids."""
    try:
        document = completed(document)
        table, control = table_of(document)
        plain = is_plain(document)
        end_of_text = end_of_text_of(control, end_token)
        ours = plain and list(control) == [END_OF_TEXT] and end_of_text == len(table) - 1
        if ours and begin_of_text_of(document) is None and (known := _known_tokenizer(document, table)):
            return known
        lossless = not changes_text(document)
        document["model"] = {**document["model"], "dropout": None}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(
            f"{source}: {reason_of(error)}; only byte-level BPE that keeps the text is read"
        ) from None
    library = library_of(document, source)
    return Tokenizer(
        f"bpe:{len(table)}" if ours else "custom",
        table,
        end_of_text,
        encode_text=functools.partial(_library_ids, library, source),
        document=lambda: document,
        seam=_GPT2_SEAM if plain else word_seam_of(document, library),
        lossless=lossless,
    )


def _library_ids(library, source: str, text: str) -> np.ndarray:
    try:
        return np.array(library.encode_batch_fast([text], add_special_tokens=False)[0].ids, np.uint32)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library's panics are no Exception
        raise DataError(
            f"{source}: the tokenizers library gives up on this text ({reason_of(error)}); "
            "leave the text out, or take another tokenizer"
        ) from None


def _known_tokenizer(document: dict, table: list[bytes]) -> Tokenizer | None:
    """GPT-2's own or the bytes, where vocabulary and merges are theirs."""
    merges = [
        tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in document["model"]["merges"]
    ]
    for known in (Tokenizer.gpt2, Tokenizer.bytes):
        tokenizer = known()
        if table == tokenizer._table and merges == list(map(tuple, tokenizer.document()["model"]["merges"])):
            return tokenizer
    return None
