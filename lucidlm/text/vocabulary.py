"""An amount of text comes in, a suitable tokenizer goes out; texts come in, a vocabulary goes out."""

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator

from lucidlm.errors import ConfigError
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.byte_level import plain_document

SMALLEST_BPE, LARGEST_BPE = 257, 1 << 18
_AT_ONCE = 1 << 19
"""Characters that the library gets at once."""
# Longer words cost training time and teach nothing: only their beginning is used.
_LONGEST_WORD = 1000
_LONG_RUN = re.compile(rf"(\S{{{_LONGEST_WORD}}})\S+|(\s{{{_LONGEST_WORD}}})\s+")


def suggest(characters: int) -> tuple[str, str]:
    """The tokenizer for this amount of text, and the reason in words.

    The limits are rules of thumb: each token must occur often enough to be learnt.

    >>> suggest(85_424)[0]
    'bytes'
    """
    for limit, spec, reason in (
        (250_000, "bytes", "too few to learn a larger vocabulary"),
        (500_000, "bpe:512", "too few to learn more than 512 tokens"),
        (5_000_000, "bpe:1024", "a small vocabulary learns fastest from a few books"),
        (50_000_000, "bpe:4096", "enough to learn common words as tokens"),
        (500_000_000, "bpe:16384", "enough to learn most words as tokens"),
    ):
        if characters < limit:
            return spec, f"{plural(characters, 'character')}: {reason}"
    return "gpt2", f"{characters:,} characters: enough for GPT-2's vocabulary of 50,257"


def bpe_size(spec: str) -> int | None:
    """N of the spec "bpe:N"; None for another spec."""
    if not spec.startswith("bpe:"):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", spec[4:]):
        raise ConfigError(f"tokenizer {spec!r}: give the size of the vocabulary after bpe:, as in bpe:4096")
    check_vocab_size(int(spec[4:]))
    return int(spec[4:])


def check_vocab_size(size: int) -> None:
    """ConfigError for a size that a vocabulary cannot have."""
    if not SMALLEST_BPE <= size <= LARGEST_BPE:
        raise ConfigError(
            f"bpe:{size}: a vocabulary has {SMALLEST_BPE} (256 bytes and end-of-text) to {LARGEST_BPE} ids; "
            f"choose a size in this range, or bytes"
        )


_training = threading.Lock()


def train_document(texts: Iterable[str], vocab_size: int, progress: Progress) -> dict:
    """The document of a byte-level BPE learnt from these texts."""
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
        # The library's threads are used only here: later its pool would warn at a fork, or hang in the child.
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
        for start in range(0, len(text), _AT_ONCE):
            piece = text[start : start + _AT_ONCE]
            yield _LONG_RUN.sub(lambda run: run[1] or run[2], piece)
            progress.advance(len(piece))
