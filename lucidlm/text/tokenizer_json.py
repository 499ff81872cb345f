"""The document of a tokenizer.json comes in, what it says goes out: bytes of each token, how it splits text.

ValueError, KeyError and their like mean that a document cannot be used: `tokenizer.py` turns them into a
WeightsError with the path.
"""

import json
import os
import re
from functools import cached_property

from lucidlm.errors import WeightsError
from lucidlm.text.byte_level import END_OF_TEXT, byte_of_character
from lucidlm.text.split_patterns import check_patterns

NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that UTF-8 never has: some vocabularies have no token for them."""
MOST_TOKENS, MOST_ADDED = 1 << 20, 1 << 16
"""Twice the largest vocabularies in use: a million tokens are read in some seconds."""
# A place where other patterns than GPT-2's split too: the space between two words of plain letters.
_WORD_SEAM = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_KEEPING = ("ByteLevel", "Split", "Digits", "Punctuation")
"""Pre-tokenizers that drop nothing, unless their behavior is Removed."""
_UNCOUNTED = "the bytes that were predicted could not be counted"


class TokenizerJson:
    """A byte-level BPE as a tokenizer.json describes it."""

    def __init__(self, document: dict) -> None:
        self.document = _completed(document)
        self.model: dict = self.document["model"]
        self.added: list[dict] = self.document["added_tokens"]
        self.steps = _flat(document.get("pre_tokenizer"), "pretokenizers")
        """How it splits text, step by step."""
        self._check_kind()
        self.control = {token["content"]: token["id"] for token in self.added if token["special"]}
        """The ids of the control tokens by name."""
        self.table = self._table()
        """The bytes of each id, b"" for control tokens."""
        self.lossless = not self._changes_text()
        """Whether tokens always spell the bytes of the text."""

    @cached_property
    def is_plain(self) -> bool:
        """Whether text is split as GPT-2 does and by nothing else."""
        return bool(
            self.document.get("normalizer") is None
            and len(self.steps) == 1
            and self.steps[0].get("use_regex", True)
            and not self.steps[0].get("add_prefix_space", True)
            and not any(self.model.get(key) for key in ("unk_token", "ignore_merges"))
            and not self._text_tokens
        )

    def end_of_text(self, named: object) -> int | None:
        """The id of the control token that ends a text: GPT-2's, the one in the settings, or a usual one."""
        if isinstance(named, dict):
            named = named.get("content")
        names = (END_OF_TEXT, str(named), "<|end_of_text|>", "</s>", "<eos>")
        return next((self.control[name] for name in names if name in self.control), None)

    def within(self, size: int) -> tuple[dict, list[str]]:
        """The document without control tokens whose ids are `size` or more, and their names.

        ValueError if a token that a text may contain has such an id: the model has no row for it.
        """
        beyond = {token["content"]: token for token in self.added if token["id"] >= size}
        names = [name for name, id in self.model["vocab"].items() if id >= size and name not in beyond]
        names += [name for name, token in beyond.items() if not token["special"]]
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise ValueError(f"{names[0][:40]!r}{more}")
        kept = [token for token in self.added if token["content"] not in beyond]
        vocabulary = {name: id for name, id in self.model["vocab"].items() if name not in beyond}
        document = {**self.document, "added_tokens": kept, "model": {**self.model, "vocab": vocabulary}}
        processor = json.dumps(document.get("post_processor"), ensure_ascii=False)
        if any(json.dumps(name, ensure_ascii=False) in processor for name in beyond):
            document["post_processor"] = None  # it puts a token before texts for which the model has no row
        return document, list(beyond)

    def library(self, source: str):
        """The tokenizer of the tokenizers library for the document; WeightsError if it has none."""
        import tokenizers

        # Encoding runs in our own threads: the library's pool does not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            library = tokenizers.Tokenizer.from_str(json.dumps(self.document))
            library.encode_special_tokens = True
            check_patterns(
                step["pattern"]["Regex"] for step in self.steps if "Regex" in step.get("pattern", {})
            )
            library.encode("a b", add_special_tokens=False)
            given = {token["content"]: token["id"] for token in self.added}
            if any(library.token_to_id(name) != id for name, id in given.items()):
                raise ValueError("the ids of its added tokens do not follow its vocabulary")
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's panics are not Exceptions
            raise WeightsError(
                f"{source}: the tokenizers library cannot read it ({reason_of(error)})"
            ) from None
        if name := self._control_token_of_a_text(library):
            raise WeightsError(
                f"{source}: its control token {name[:40]!r} can come from a text; take another tokenizer"
            )
        return library

    def word_seam(self, library) -> re.Pattern | None:
        """Where a text may be cut to encode it in pieces: between two words, if text is always split there.

        Unicode's normal forms join no letters across a space, so a normalizer does not matter.
        """
        spans = any(" " in token["content"] and token["content"].strip(" ") for token in self._text_tokens)
        if spans or self._changes_ends:
            return None
        split = [text for text, _ in library.pre_tokenizer.pre_tokenize_str("ab cd Ef gh")]
        return _WORD_SEAM if split == ["ab", "Ġcd", "ĠEf", "Ġgh"] else None

    def _check_kind(self) -> None:
        if self.model["type"] != "BPE":
            raise ValueError(f"its model is {self.model['type']}")
        if not any(step["type"] == "ByteLevel" for step in self.steps) or self.model.get("byte_fallback"):
            raise ValueError("its text is not split into bytes")
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                raise ValueError(f"its {key} marks where words begin or end, which bytes do not")
        if (most := max(len(self.model["vocab"]), len(self.model["merges"]))) > MOST_TOKENS:
            raise ValueError(f"it has {most:,} tokens or merges, at most {MOST_TOKENS:,} are read")
        if (count := len({token["content"] for token in self.added})) > MOST_ADDED:
            raise ValueError(f"it has {count:,} added tokens, at most {MOST_ADDED:,} are read")

    def _table(self) -> list[bytes]:
        added = {token["content"]: token for token in self.added}
        tokens = {id: _bytes_of(name) for name, id in self.model["vocab"].items() if name not in added}
        tokens |= {token["id"]: b"" if token["special"] else name.encode() for name, token in added.items()}
        if len(tokens) < len(self.model["vocab"].keys() | added.keys()):
            raise ValueError("two of its tokens have the same id")
        if min(tokens) < 0 or max(tokens) >= 2 * len(tokens) + 1000:
            raise ValueError(f"its ids run from {min(tokens)} to {max(tokens)} for {len(tokens)} tokens")
        table = [tokens.get(id, b"") for id in range(max(tokens) + 1)]
        if missing := {bytes([byte]) for byte in range(256) if byte not in NEVER_IN_UTF8} - set(table):
            raise ValueError(f"{len(missing)} of the bytes of UTF-8 have no token")
        return table

    def _changes_text(self) -> bool:
        """Whether tokens may spell other bytes than the text's; ValueError if they would spell less of it.

        Unicode's normal forms and a space in front change how a text is written, but not what it says.
        """
        normalizers = [step["type"] for step in _flat(self.document.get("normalizer"), "normalizers")]
        if lossy := [kind for kind in normalizers if kind not in ("NFC", "NFD")]:
            raise ValueError(f"its normalizer {lossy[0]} changes the text, and {_UNCOUNTED}")
        for step in self.steps:
            if step["type"] not in _KEEPING or step.get("behavior") == "Removed":
                raise ValueError(
                    f"its pre-tokenizer {step['type']} drops or replaces characters, and {_UNCOUNTED}"
                )
        if sum(step["type"] == "ByteLevel" for step in self.steps) > 1:
            raise ValueError(f"its text is split into bytes twice, and {_UNCOUNTED}")
        return bool(normalizers) or self._changes_ends

    @cached_property
    def _changes_ends(self) -> bool:
        """Whether a piece of text gets a space in front, or loses white space around an added token."""
        return any(
            step.get("add_prefix_space", True) for step in self.steps if step["type"] == "ByteLevel"
        ) or any(token["lstrip"] or token["rstrip"] for token in self._text_tokens)

    @cached_property
    def _text_tokens(self) -> list[dict]:
        """The added tokens that are text, not control tokens."""
        return [token for token in self.added if not token["special"]]

    def _control_token_of_a_text(self, library) -> str | None:
        """A control token that merges or whole words of the vocabulary make from a text; None if none."""
        for name in self.control.keys() & self.model["vocab"].keys():
            spelled = bytes(byte_of_character().get(character, 0) for character in name)
            text = spelled.decode("utf-8", errors="replace")
            for written in (text, "a" + text):
                if self.control[name] in library.encode(written, add_special_tokens=False).ids:
                    return name
        return None


def begin_of_text_of(document: dict) -> int | None:
    """The token that other programs put before each text, as Llama 3's file says; None if they put none."""
    try:
        processor = document.get("post_processor") or {}
        for step in processor.get("processors", [processor]):
            if step.get("type") == "TemplateProcessing":
                name = step["single"][0]["SpecialToken"]["id"]
                first = step["special_tokens"][name]["ids"][0]
                return next(token["id"] for token in document["added_tokens"] if token["id"] == first)
    except (AttributeError, KeyError, IndexError, TypeError, StopIteration):
        pass  # the template begins with the text
    return None


def reason_of(error: BaseException) -> str:
    """The message of an error in one line."""
    text = " ".join(str(error).split())[:200]
    return f"{text} is missing or unknown" if isinstance(error, KeyError) else text or type(error).__name__


def _completed(document: dict) -> dict:
    """The document with parts that older files leave out: the hub's own gpt2 has no type of model."""
    model = document["model"]
    if model.get("type") is None:
        if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
            raise ValueError("its model has no type, and not the vocabulary and merges of a BPE")
        model = {**model, "type": "BPE"}
    model = {**model, "dropout": None}  # dropout of merges would give random ids
    added = document.get("added_tokens") or []
    return {**document, "model": model, "added_tokens": added, "truncation": None, "padding": None}


def _bytes_of(name: str) -> bytes:
    try:
        return bytes(map(byte_of_character().__getitem__, name))
    except KeyError:
        raise ValueError(f"its token {name!r} is not written in bytes") from None


def _flat(step: dict | None, inner: str) -> list[dict]:
    """A step, or the steps of a sequence, which may hold sequences."""
    if not step:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [found for each in step[inner] for found in _flat(each, inner)]
