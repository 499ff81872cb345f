"""GPT-2's ranks come in from a file of this package, its table, ids of a text and tokenizer.json go out."""

import base64
import functools
import hashlib
import importlib.resources
import itertools

import numpy as np

from lucidlm.errors import WeightsError
from lucidlm.text.byte_level import END_OF_TEXT, byte_document

END_OF_TEXT_ID = 50256
_RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@functools.cache
def ranks() -> dict[bytes, int]:
    """The rank of each token, in order. Ranks are GPT-2's ids."""
    data = (importlib.resources.files("lucidlm.text") / "assets" / "gpt2.tiktoken").read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != _RANKS_SHA256:
        raise WeightsError(
            f"gpt2.tiktoken: SHA-256 {found[:12]}.. is not {_RANKS_SHA256[:12]}..; reinstall lucidlm"
        )
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}


@functools.cache
def table() -> list[bytes]:
    """The bytes of each id; b"" for end-of-text."""
    return [*ranks(), b""]


@functools.cache
def _encoding():
    import tiktoken

    return tiktoken.Encoding(
        "gpt2-lucidlm",
        pat_str=_PATTERN,
        mergeable_ranks=ranks(),
        special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
    )


def ids(text: str) -> np.ndarray:
    """The ids of a text, by tiktoken. Control text in it is plain text."""
    return _encoding().encode_to_numpy(text, disallowed_special=())


@functools.cache
def document() -> dict:
    """The document of tokenizer.json."""
    found = ranks()
    merges = [_last_merge(token, found) for token in found if len(token) > 1]
    return byte_document(table(), merges)


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made this one: what merging by rank leaves before the last step."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranked = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        first = ranked.index(min(ranked))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]
