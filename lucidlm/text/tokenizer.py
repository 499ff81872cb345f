"""Any str or bytes comes in, token ids go out, and the ids give the same bytes back.

One class for GPT-2's vocabulary, one learnt from a text, plain bytes, and any byte-level tokenizer.json. V is
the size of the vocabulary, end-of-text included.
"""

import builtins
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text import gpt2_ranks
from lucidlm.text.byte_level import END_OF_TEXT, byte_document, plain_document
from lucidlm.text.threads import in_threads
from lucidlm.text.tokenizer_files import document_of
from lucidlm.text.tokenizer_json import TokenizerJson, begin_of_text_of, reason_of
from lucidlm.text.vocabulary import bpe_size, check_vocab_size, train_document

PIECE_CHARACTERS = 1 << 16
# A text without a place to cut is cut after this many characters all the same: tiktoken's regex engine fails
# on a run of a million spaces, and half of that is safe.
LONGEST_PIECE = 1 << 19

# Unicode's White_Space, which \s means in both libraries. Python's \s has four control characters more.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# GPT-2's pattern has whitespace only at the start of a token, so it always splits before whitespace.
_GPT2_SEAM = re.compile(f"(?<=[^{_SPACE}])[{_SPACE}]")
_ESCAPED = re.compile("[\udc80-\udcff]")


class Tokenizer:
    """Text to ids and back. Made by `gpt2()`, `bytes()`, `train()`, `from_spec()` or `load()`.

    Control tokens are never recognised in a text: "<|endoftext|>" there is thirteen plain characters.

    >>> Tokenizer.gpt2().encode("Every effort moves you")
    [6109, 3626, 6100, 345]
    >>> Tokenizer.gpt2().decode([6109, 3626, 6100, 345])
    'Every effort moves you'
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
        self.lossless = lossless
        """False for a tokenizer.json that may change the text (NFC, a space in front)."""
        self._table = table
        self._encode_text = encode_text
        self._document = functools.cache(document)
        self._seam = seam

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's tokenizer, 50,257 tokens."""
        return cls(
            "gpt2",
            gpt2_ranks.table(),
            gpt2_ranks.END_OF_TEXT_ID,
            encode_text=gpt2_ranks.ids,
            document=gpt2_ranks.document,
        )

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """The tokenizer of bytes: each byte of UTF-8 is its own id, 256 is end-of-text."""
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
        """A byte-level BPE learnt from `texts`. The same texts always give the same vocabulary.

        `vocab_size` includes the 256 bytes and end-of-text, the last id. A small text may give a smaller
        vocabulary: see `name` and `vocab_size` of the result.
        """
        check_vocab_size(vocab_size)
        return _from_document(train_document(texts, vocab_size, progress))

    @classmethod
    def from_spec(cls, spec: str, texts: Iterable[str] | None = None) -> "Tokenizer":
        """The tokenizer of a spec: gpt2, bytes, bpe:N (trained on `texts`), a folder or a tokenizer.json."""
        if spec == "gpt2":
            return cls.gpt2()
        if spec == "bytes":
            return cls.bytes()
        if (size := bpe_size(spec)) is not None:
            if texts is None:
                raise ConfigError(f"{spec}: this tokenizer is learnt from a text; give the text")
            return cls.train(texts, size)
        if spec and Path(spec).exists():
            return cls.load(spec)
        raise ConfigError(
            f"tokenizer {spec!r} is not known; give gpt2, bytes, bpe:N or a folder with tokenizer.json"
        )

    @classmethod
    def from_vocabulary(
        cls, vocabulary: dict[str, int], merges: list[list[str]], *, source: str = "tokenizer.json"
    ) -> "Tokenizer":
        """A byte-level BPE of these tokens and merges, written in `byte_alphabet`; end-of-text comes last.

        WeightsError, with `source`, if the two do not fit.
        """
        return _from_document(plain_document(vocabulary, merges), source=source)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """The tokenizer of a model folder or a tokenizer.json; WeightsError if it is not byte-level BPE.

        An older folder may have vocab.json and merges.txt instead.
        """
        document, end_token, source = document_of(Path(path))
        return _from_document(document, end_token=end_token, source=str(source))

    def within(self, size: int, source: str = "tokenizer.json") -> tuple["Tokenizer", list[str]]:
        """The tokenizer for a model with `size` ids, and the names of control tokens that were dropped.

        Some programs add control tokens without a row in the model. WeightsError if a token that a text may
        contain has no row.
        """
        if self.vocab_size <= size:
            return self, []
        file = TokenizerJson(self.document())
        try:
            document, names = file.within(size)
        except ValueError as error:
            raise WeightsError(
                f"{source}: its tokenizer has {self.vocab_size:,} tokens, its model {size:,}, and a text may "
                f"contain {error}; take the tokenizer that belongs to the model"
            ) from None
        end = next((name for name, id in file.control.items() if id == self.end_of_text), None)
        return _from_document(document, end_token=end, source=source), names

    def encode(self, text: str | builtins.bytes) -> list[int]:
        """The ids of a text. Bytes that are not UTF-8 become single-byte tokens: any bytes round-trip."""
        if not isinstance(text, str):
            return self._encode_bytes(text)
        if len(text) <= PIECE_CHARACTERS:
            return self.encode_piece(text).tolist()
        return np.concatenate(list(self.encode_pieces([text]))).tolist()

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of the joined pieces, in several arrays, in bounded memory and on all cores.

        Together they equal `encode("".join(pieces))`, wherever the pieces were cut.
        """
        return in_threads(self.encode_piece, self.cut(pieces))

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same text in pieces of about 64 Ki characters that can be encoded one by one.

        A piece ends at a certain boundary between two tokens, or after 512 Ki characters without one.
        `encode` cuts in the same way, so the ids do not depend on how a text is passed.
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
                f"half of a surrogate pair; give valid Unicode or bytes"
            ) from None
        return self._encode_text(piece).astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD. Control tokens have no text."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> builtins.bytes:
        """The exact bytes that the ids spell."""
        ids = np.asarray(ids if hasattr(ids, "__len__") else list(ids))
        if ids.size == 0:
            return b""
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(
                f"ids of shape {ids.shape} and type {ids.dtype} are not a row of token ids; give integers"
            )
        for id in (int(ids.min()), int(ids.max())):
            self.token_bytes(id)
        return b"".join(map(self._table.__getitem__, ids.tolist()))

    def token_bytes(self, id: int) -> builtins.bytes:
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
        """The dtype for ids: uint16 if the vocabulary fits, else uint32."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @property
    def begin_of_text(self) -> int | None:
        """The token that other programs put before each text, as Llama 3's tokenizer.json says; or None.

        `encode` adds none: the prefix of a document is a setting of the model.
        """
        return begin_of_text_of(self.document())

    def save(self, folder: str | os.PathLike, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json: transformers loads them and gives the same ids."""
        folder = Path(folder)
        document = self.document()
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            # Without this, transformers reads control text in a prompt as control tokens.
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
        """The content of tokenizer.json; do not change it."""
        return self._document()

    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json with sorted keys and no spaces: equal fingerprints give equal ids."""
        canonical = json.dumps(self.document(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def _encode_bytes(self, data: builtins.bytes) -> list[int]:
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


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in blocks of at least a piece's size, so that `cut` does not search short lines again."""
    waiting, size = [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_CHARACTERS:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def _from_document(document: dict, *, end_token: object = None, source: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, with the fastest implementation that gives its ids."""
    try:
        file = TokenizerJson(document)
        end_of_text = file.end_of_text(end_token)
        ours = file.is_plain and list(file.control) == [END_OF_TEXT] and end_of_text == len(file.table) - 1
        if ours and begin_of_text_of(file.document) is None and (known := _known_tokenizer(file)):
            return known
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(
            f"{source}: {reason_of(error)}; only byte-level BPE that keeps the text is read"
        ) from None
    library = file.library(source)
    return Tokenizer(
        f"bpe:{len(file.table)}" if ours else "custom",
        file.table,
        end_of_text,
        encode_text=functools.partial(_library_ids, library, source),
        document=lambda: file.document,
        seam=_GPT2_SEAM if file.is_plain else file.word_seam(library),
        lossless=file.lossless,
    )


def _library_ids(library, source: str, text: str) -> np.ndarray:
    try:
        return np.array(library.encode_batch_fast([text], add_special_tokens=False)[0].ids, np.uint32)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library's panics are not Exceptions
        raise DataError(
            f"{source}: the tokenizers library fails on this text ({reason_of(error)}); "
            "remove the text, or take another tokenizer"
        ) from None


def _known_tokenizer(file: TokenizerJson) -> Tokenizer | None:
    """GPT-2's tokenizer or the bytes, if vocabulary and merges are theirs."""
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in file.model["merges"]]
    for known in (Tokenizer.gpt2, Tokenizer.bytes):
        tokenizer = known()
        if file.table == tokenizer._table and merges == [
            *map(tuple, tokenizer.document()["model"]["merges"])
        ]:
            return tokenizer
    return None
