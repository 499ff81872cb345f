"""The tokenizer files of a model folder come in, the document of a tokenizer.json goes out.

Folders from 2020 to 2022 have no tokenizer.json. Tokenizers like GPT-2's have vocab.json (token -> id) and
merges.txt (one pair per line, in order), with added_tokens.json and special_tokens_map.json.
"""

from pathlib import Path
from typing import Any

from lucidlm.errors import WeightsError
from lucidlm.runtime.small_files import read_small_file, read_small_object
from lucidlm.text.byte_level import END_OF_TEXT, pieces_document

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
ADDED, SPECIAL_TOKENS = "added_tokens.json", "special_tokens_map.json"
TOKENIZER_FILES = (TOKENIZER, SETTINGS, VOCABULARY, MERGES, ADDED, SPECIAL_TOKENS)
"""All files of a folder that may be read."""
LARGEST_FILE = 1 << 26
"""Bytes of one file: twice what the largest vocabularies in use need."""

# Tokenizers that split text as GPT-2 does: tokenizer_class, or model_type of config.json.
_LIKE_GPT2 = ("gpt2", "gptneo", "gptj", "gptneox", "codegen", "roberta", "bart", "longformer", "opt")
_LIKE_QWEN = ("qwen2", "qwen3")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def document_of(path: Path) -> tuple[dict, object, Path]:
    """The document of a folder's tokenizer or of a file; its end token as in the settings; the file.

    WeightsError if there is no tokenizer, or no JSON.
    """
    folder = path if path.is_dir() else path.parent
    settings = _object(folder / SETTINGS, missing={})
    older = path.name in (VOCABULARY, MERGES) or (path.is_dir() and not (path / TOKENIZER).exists())
    if older and any((folder / name).exists() for name in (VOCABULARY, MERGES)):
        special = _object(folder / SPECIAL_TOKENS, missing={})
        end = settings.get("eos_token") or special.get("eos_token") or END_OF_TEXT
        return _older_document(folder, settings, special), end, folder / VOCABULARY
    file = path / TOKENIZER if path.is_dir() else path
    return _object(file), settings.get("eos_token"), file


def _object(path: Path, missing: dict | None = None) -> dict[str, Any]:
    """The JSON object of a file; `missing` if there is no file; WeightsError for other content."""
    if missing is not None and not path.exists():
        return missing
    return read_small_object(path, WeightsError, LARGEST_FILE, missing=_instead(path.parent))


def _instead(folder: Path) -> str:
    if any((folder / name).exists() for name in ("tokenizer.model", "spiece.model")):
        return "tokenizer.model is for SentencePiece or tiktoken, and only byte-level BPE is read"
    return f"give a model folder with {TOKENIZER}, or with {VOCABULARY} and {MERGES}"


def _older_document(folder: Path, settings: dict, special: dict) -> dict:
    """vocab.json and merges.txt as one document; WeightsError for another kind of tokenizer."""
    kind = _split_of(folder, settings)
    vocabulary = _object(folder / VOCABULARY)
    try:
        lines = read_small_file(folder / MERGES, LARGEST_FILE, WeightsError).decode("utf-8").split("\n")
    except FileNotFoundError:
        raise WeightsError(f"{folder / MERGES}: not there; {_instead(folder)}") from None
    except UnicodeDecodeError as error:
        raise WeightsError(
            f"{folder / MERGES}: not UTF-8 ({error.reason}); copy or download it again"
        ) from None
    lines = [line.rstrip("\r") for line in lines[lines[0].startswith("#version") :]]
    merges = [line.split(" ") for line in lines if line.strip()]
    for number, merge in enumerate(merges, start=1):
        if len(merge) != 2 or any(end.endswith("</w>") for end in merge):
            raise WeightsError(
                f"{folder / MERGES}: {' '.join(merge)!r:.60} (merge {number:,}) is not a pair of "
                "byte-level tokens; only byte-level BPE is read"
            )
    named = [found.get(key) for found in (settings, special) for key in _NAMED]
    named += special.get("additional_special_tokens") or []
    begin = settings.get("bos_token") or special.get("bos_token") or END_OF_TEXT
    return pieces_document(
        vocabulary,
        merges,
        added=_object(folder / ADDED, missing={}),
        special={END_OF_TEXT, *(name for token in named if (name := _name(token)))},
        begin=_name(begin) if settings.get("add_bos_token") is True else None,
        like_qwen=kind == "qwen",
        prefix_space=settings.get("add_prefix_space") is True,
    )


def _split_of(folder: Path, settings: dict) -> str:
    """How the tokenizer splits text, "gpt2" or "qwen": its two files do not say it."""
    named = settings.get("tokenizer_class")
    found = named or _object(folder / "config.json", missing={}).get("model_type") or "gpt2"
    plain = str(found).lower().replace("_", "").removesuffix("fast").removesuffix("tokenizer")
    for kind, known in (("gpt2", _LIKE_GPT2), ("qwen", _LIKE_QWEN)):
        if plain in known:
            return kind
    raise WeightsError(
        f"{folder / VOCABULARY}: it is not known how {str(found)[:60]} splits text; save it as {TOKENIZER} "
        "with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def _name(token: object) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
