"""What a tokenizer.json says: written for a byte-level BPE, and read where someone else wrote one.

A document is the file's JSON object. ValueError, KeyError and their like tell that one cannot be used:
`tokenizer.py` makes a WeightsError of them, with the path.
"""

import functools
import json
import os
import re

from lucidlm.errors import WeightsError
from lucidlm.text.split_patterns import check_patterns

END_OF_TEXT = "<|endoftext|>"
NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that no text holds: vocabularies that were made without a full alphabet have no token for them."""
MOST_TOKENS, MOST_ADDED = 1 << 20, 1 << 16
"""Twice what the largest vocabularies in use have: a million are read in some seconds."""
# What other patterns split too: the space between two words of plain letters.
_WORD_SEAM = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_KEEPING = ("ByteLevel", "Split", "Digits", "Punctuation")
"""Pre-tokenizers that only cut, unless what they cut at is to be removed."""
_UNCOUNTED = "the bytes that were predicted could not be counted"
# Of Qwen 2 and 3 (transformers, tokenization_qwen2.py).
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PLAIN_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@functools.cache
def byte_alphabet() -> list[str]:
    """The printable character by which byte-level tokenizer files write each byte (GPT-2's encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def byte_document(table: list[bytes], merges: list[tuple[bytes, bytes]]) -> dict:
    """tokenizer.json of a byte-level BPE whose last id is end-of-text."""
    written = lambda token: "".join(map(byte_alphabet().__getitem__, token))  # noqa: E731
    vocabulary = {written(token): id for id, token in enumerate(table[:-1])}
    return plain_document(vocabulary, [[written(left), written(right)] for left, right in merges])


def plain_document(vocabulary: dict[str, int], merges: list[list[str]]) -> dict:
    """tokenizer.json of a byte-level BPE split as GPT-2 does, end-of-text behind its tokens."""
    end = {
        "id": len(vocabulary),
        "content": END_OF_TEXT,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**end, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": dict(_PLAIN_SPLIT),
        "post_processor": None,
        "decoder": dict(_PLAIN_SPLIT),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocabulary, END_OF_TEXT: len(vocabulary)},
            "merges": merges,
        },
    }


def pieces_document(
    vocabulary: dict[str, int],
    merges: list[list[str]],
    *,
    added: dict[str, int],
    special: set[str],
    begin: str | None,
    like_qwen: bool,
    prefix_space: bool,
) -> dict:
    """tokenizer.json of the vocabulary and merges of an older folder.

    `special` names its control tokens, `begin` the one that stands before each text.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    tokens = {name: id for name, id in vocabulary.items() if name in special} | added
    described = [
        {"id": id, "content": name, **flags, "normalized": name not in special, "special": name in special}
        for name, id in sorted(tokens.items(), key=lambda token: str(token[1]).zfill(9))
    ]
    document = plain_document({}, merges)
    split: dict = {**_PLAIN_SPLIT, "add_prefix_space": prefix_space, "use_regex": not like_qwen}
    if like_qwen:
        first = {"type": "Split", "pattern": {"Regex": _QWEN}, "behavior": "Isolated", "invert": False}
        split = {"type": "Sequence", "pretokenizers": [first, split]}
        document["normalizer"] = {"type": "NFC"}
    document["model"]["vocab"] = vocabulary
    if begin in tokens:
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": begin, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [tokens[begin]], "tokens": [begin]}},
        }
    return document | {"added_tokens": described, "pre_tokenizer": split}


def completed(document: dict) -> dict:
    """The document with what older files leave out, as the hub's own gpt2 leaves out the model's type."""
    model = document["model"]
    if model.get("type") is None:
        if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
            raise ValueError("its model has no type, and not the vocabulary and merges of a BPE")
        model = {**model, "type": "BPE"}
    added = document.get("added_tokens") or []
    return {**document, "model": model, "added_tokens": added, "truncation": None, "padding": None}


def table_of(document: dict) -> tuple[list[bytes], dict[str, int]]:
    """Bytes of each id, and the ids of the control tokens by name."""
    model = document["model"]
    if model["type"] != "BPE":
        raise ValueError(f"its model is {model['type']}")
    if not any(step["type"] == "ByteLevel" for step in _steps(document)) or model.get("byte_fallback"):
        raise ValueError("its text is not split into bytes")
    if affixes := [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]:
        raise ValueError(f"its {affixes[0]} marks where words begin or end, which bytes do not")
    if (most := max(len(model["vocab"]), len(model["merges"]))) > MOST_TOKENS:
        raise ValueError(f"it has {most:,} tokens or merges, at most {MOST_TOKENS:,} are read")
    added = {token["content"]: token for token in document.get("added_tokens") or []}
    if len(added) > MOST_ADDED:
        raise ValueError(f"it has {len(added):,} added tokens, at most {MOST_ADDED:,} are read")
    tokens = {id: _bytes_of(name) for name, id in model["vocab"].items() if name not in added}
    tokens |= {token["id"]: b"" if token["special"] else name.encode() for name, token in added.items()}
    if len(tokens) < len(model["vocab"].keys() | added.keys()):
        raise ValueError("two of its tokens have one id")
    if min(tokens) < 0 or max(tokens) >= 2 * len(tokens) + 1000:
        raise ValueError(f"its ids run from {min(tokens)} to {max(tokens)} for {len(tokens)} tokens")
    table = [tokens.get(id, b"") for id in range(max(tokens) + 1)]
    if missing := {bytes([byte]) for byte in range(256) if byte not in NEVER_IN_UTF8} - set(table):
        raise ValueError(f"{len(missing)} of the bytes that text is made of have no token")
    return table, {name: token["id"] for name, token in added.items() if token["special"]}


def within(document: dict, size: int) -> tuple[dict, list[str]]:
    """The document without control tokens whose ids are `size` or more, and their names.

    ValueError where a token that a text may hold has such an id: the model has no row for it.
    """
    beyond = {token["content"]: token for token in document["added_tokens"] if token["id"] >= size}
    names = [name for name, id in document["model"]["vocab"].items() if id >= size and name not in beyond]
    names += [name for name, token in beyond.items() if not token["special"]]
    if names:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        raise ValueError(f"{names[0][:40]!r}{more}")
    kept = [token for token in document["added_tokens"] if token["content"] not in beyond]
    vocabulary = {name: id for name, id in document["model"]["vocab"].items() if name not in beyond}
    document = {**document, "added_tokens": kept, "model": {**document["model"], "vocab": vocabulary}}
    processor = json.dumps(document.get("post_processor"), ensure_ascii=False)
    if any(json.dumps(name, ensure_ascii=False) in processor for name in beyond):
        document["post_processor"] = None  # it puts a token before texts that the model has no row for
    return document, list(beyond)


def changes_text(document: dict) -> bool:
    """Whether tokens may spell other bytes than the text's; ValueError where they would spell less of it.

    Unicode's canonical forms and a space in front change how a text is written, and nothing that it says.
    """
    normalizers = [step["type"] for step in _flat(document.get("normalizer"), "normalizers")]
    if lossy := [kind for kind in normalizers if kind not in ("NFC", "NFD")]:
        raise ValueError(f"its normalizer {lossy[0]} changes the text, and {_UNCOUNTED}")
    for step in _steps(document):
        if step["type"] not in _KEEPING or step.get("behavior") == "Removed":
            raise ValueError(
                f"its pre-tokenizer {step['type']} drops or replaces characters, and {_UNCOUNTED}"
            )
    if sum(step["type"] == "ByteLevel" for step in _steps(document)) > 1:
        raise ValueError(f"its text is split into bytes twice, and {_UNCOUNTED}")
    return bool(normalizers) or _changes_ends(document)


def _changes_ends(document: dict) -> bool:
    """Whether a piece of text gets a space in front, or loses white space around an added token."""
    return any(
        step.get("add_prefix_space", True) for step in _steps(document) if step["type"] == "ByteLevel"
    ) or any(token["lstrip"] or token["rstrip"] for token in _text_tokens(document))


def _text_tokens(document: dict) -> list[dict]:
    """The added tokens that stand for text: all but control tokens."""
    return [token for token in document.get("added_tokens") or [] if not token["special"]]


def is_plain(document: dict) -> bool:
    """Whether text is split as GPT-2 does and by nothing else."""
    steps = _steps(document)
    model = document["model"]
    odd = ("unk_token", "ignore_merges")
    return (
        document.get("normalizer") is None
        and len(steps) == 1
        and steps[0].get("use_regex", True)
        and not steps[0].get("add_prefix_space", True)
        and not any(model.get(key) for key in odd)
        and not _text_tokens(document)
    )


def end_of_text_of(control: dict[str, int], end_token: object) -> int | None:
    """The id among the control tokens that ends a text: GPT-2's, the settings' own, or a usual name's."""
    if isinstance(end_token, dict):
        end_token = end_token.get("content")
    names = (END_OF_TEXT, str(end_token), "<|end_of_text|>", "</s>", "<eos>")
    return next((control[name] for name in names if name in control), None)


def begin_of_text_of(document: dict) -> int | None:
    """The token that other programs put before each text, as Llama 3's file says; None: they put none."""
    try:
        processor = document.get("post_processor") or {}
        for step in processor.get("processors", [processor]):
            if step.get("type") == "TemplateProcessing":
                name = step["single"][0]["SpecialToken"]["id"]
                first = step["special_tokens"][name]["ids"][0]
                return next(token["id"] for token in document["added_tokens"] if token["id"] == first)
    except (AttributeError, KeyError, IndexError, TypeError, StopIteration):
        pass  # it begins with the text
    return None


def library_of(document: dict, source: str):
    """The tokenizers library's own reading of it; WeightsError, with the source's name, where it has none."""
    import tokenizers

    # Encoding runs in threads of our own: the library's pool does not survive a fork, and says so on stderr.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(document))
        library.encode_special_tokens = True
        check_patterns(
            step["pattern"]["Regex"] for step in _steps(document) if "Regex" in step.get("pattern", {})
        )
        library.encode("a b", add_special_tokens=False)
        given = {token["content"]: token["id"] for token in document["added_tokens"]}
        if any(library.token_to_id(name) != id for name, id in given.items()):
            raise ValueError("the ids of its added tokens do not follow its vocabulary")
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library's panics are no Exception
        raise WeightsError(f"{source}: the tokenizers library cannot read it ({reason_of(error)})") from None
    if name := _control_token_of_a_text(document, library):
        raise WeightsError(
            f"{source}: its control token {name[:40]!r} is what such text becomes; take another tokenizer"
        )
    return library


def _control_token_of_a_text(document: dict, library) -> str | None:
    """A control token that merges, or whole words of the vocabulary, make of a text; None where none is."""
    control = {token["content"]: token["id"] for token in document["added_tokens"] if token["special"]}
    for name in control.keys() & document["model"]["vocab"].keys():
        spelled = bytes(_byte_of_character().get(character, 0) for character in name)
        text = spelled.decode("utf-8", errors="replace")
        for written in (text, "a" + text):
            if control[name] in library.encode(written, add_special_tokens=False).ids:
                return name
    return None


def word_seam_of(document: dict, library) -> re.Pattern | None:
    """Where a text may be cut, to be encoded in pieces: between two words, if the file always splits there.

    None where it does not. Unicode's forms join no letters over a blank, so a normalizer is not in the way.
    """
    spans = any(" " in token["content"] and token["content"].strip(" ") for token in _text_tokens(document))
    if spans or _changes_ends(document):
        return None
    split = [text for text, _ in library.pre_tokenizer.pre_tokenize_str("ab cd Ef gh")]
    return _WORD_SEAM if split == ["ab", "Ġcd", "ĠEf", "Ġgh"] else None


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())[:200]
    return f"{text} is missing or unknown" if isinstance(error, KeyError) else text or type(error).__name__


def _bytes_of(name: str) -> bytes:
    try:
        return bytes(map(_byte_of_character().__getitem__, name))
    except KeyError:
        raise ValueError(f"its token {name!r} is not written in bytes") from None


@functools.cache
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def _steps(document: dict) -> list[dict]:
    """How a tokenizer.json splits text, step by step."""
    return _flat(document.get("pre_tokenizer"), "pretokenizers")


def _flat(step: dict | None, inner: str) -> list[dict]:
    """A step, or those of a sequence, in which there may be others."""
    if not step:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [found for each in step[inner] for found in _flat(each, inner)]
