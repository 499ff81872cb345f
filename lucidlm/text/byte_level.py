"""Tokens and merges of a byte-level BPE come in, the document (JSON object) of a tokenizer.json goes out."""

import functools

END_OF_TEXT = "<|endoftext|>"
# The pattern of Qwen 2 and 3 (transformers, tokenization_qwen2.py).
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PLAIN_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@functools.cache
def byte_alphabet() -> list[str]:
    """The printable character for each byte in byte-level tokenizer files (GPT-2's encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@functools.cache
def byte_of_character() -> dict[str, int]:
    """The byte that each character of `byte_alphabet` stands for."""
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def byte_document(table: list[bytes], merges: list[tuple[bytes, bytes]]) -> dict:
    """The document of a byte-level BPE whose last id is end-of-text."""
    written = lambda token: "".join(map(byte_alphabet().__getitem__, token))  # noqa: E731
    vocabulary = {written(token): id for id, token in enumerate(table[:-1])}
    return plain_document(vocabulary, [[written(left), written(right)] for left, right in merges])


def plain_document(vocabulary: dict[str, int], merges: list[list[str]]) -> dict:
    """The document of a byte-level BPE that splits text as GPT-2 does, with end-of-text after its tokens."""
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
    """The document of the vocabulary and merges of an older folder.

    `special` are the names of its control tokens, `begin` the one that comes before each text.
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
