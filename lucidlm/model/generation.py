"""From a prompt to text: the loop that samples token by token, with a cache of keys and values.

V vocabulary.
"""

import codecs
import contextlib
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from lucidlm.errors import ConfigError, DataError
from lucidlm.model.attention import KVCache
from lucidlm.model.decoding import Decoding
from lucidlm.model.gpt import GPT
from lucidlm.model.sampling import next_token, usable
from lucidlm.runtime.device import seed_from
from lucidlm.runtime.ranges import SEEDS, is_whole
from lucidlm.text.tokenizer import Tokenizer

DEFAULT = Decoding()
MOST_TEXTS = 4096


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    id: int
    text: str
    """The characters that this token completes; joined, they are the generated text."""
    log_probability: float
    """The model's own, before any strategy."""
    finish_reason: str | None = None
    """On the last token: "stop" (a stop string), "end_of_text" or "length"."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A prompt and the text that the model generated from it."""

    prompt: str
    text: str
    tokens: tuple[Token, ...]
    finish_reason: str
    seed: int

    def __str__(self) -> str:
        """Prompt and text."""
        return self.prompt + self.text

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        return asdict(self)


@overload
def generate(
    model: GPT, tokenizer: Tokenizer, prompt: str, decoding: Decoding = ..., *, seed: int | None = ...
) -> Generation: ...


@overload
def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: Sequence[str],
    decoding: Decoding = ...,
    *,
    seed: int | None = ...,
) -> list[Generation]: ...


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str],
    decoding: Decoding = DEFAULT,
    *,
    seed: int | None = None,
) -> Generation | list[Generation]:
    """The text that the model generates from a prompt; for a list of prompts, a list of generations.

    A list runs as one batch, and each prompt gives the text that it gives alone. An empty prompt starts a
    document. Text ends at end-of-text, before a stop string or after `max_new_tokens`. When the context is
    full, its older half is dropped and the rest is run again. Without a seed, a fresh one is drawn; the
    Generation has it. DataError for an empty prompt where the model knows no end-of-text.

    >>> from lucidlm import Decoding, generate, load
    >>> model, tokenizer = load("modern-1m")  # random weights
    >>> generate(model, tokenizer, "Once", Decoding(max_new_tokens=3, temperature=0)).finish_reason
    'length'
    >>> [each.prompt for each in generate(model, tokenizer, ["Once", "The"], Decoding(max_new_tokens=2))]
    ['Once', 'The']
    """
    if isinstance(prompt, str):
        return generate_batch(model, tokenizer, [prompt], decoding, seed=seed)[0]
    return generate_batch(model, tokenizer, prompt, decoding, seed=seed)


def stream(
    model: GPT, tokenizer: Tokenizer, prompt: str, decoding: Decoding = DEFAULT, *, seed: int | None = None
) -> Iterator[Token]:
    """`generate` for one prompt, token by token: the texts of the tokens join to the generated text."""
    row = _Row(model, tokenizer, prompt, decoding, _fresh(seed))
    # Not a generator function itself: a prompt or seed that cannot be is refused now, not at the first token.
    return (token for _, token in _decode(model, [row]))


def generate_batch(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    decoding: Decoding = DEFAULT,
    *,
    num: int = 1,
    seed: int | None = None,
) -> list[Generation]:
    """`num` generations for each prompt, all in one batch; see `generate`.

    Each row has a random generator of its own, so its text does not depend on the other rows: the first text
    of a prompt is that of `generate` with the same seed.
    """
    if not is_whole(num, least=1, most=MOST_TEXTS):
        raise ConfigError(
            f"--num {num}: it must be a whole number from 1 to {MOST_TEXTS:,}; another --seed gives more"
        )
    seed = _fresh(seed)
    rows = [
        _Row(model, tokenizer, prompt, decoding, seed if number == 0 else seed_from(seed, number))
        for prompt in prompts
        for number in range(num)
    ]
    tokens: list[list[Token]] = [[] for _ in rows]
    for number, token in _decode(model, rows):
        tokens[number].append(token)
    return [row.generation(row_tokens) for row, row_tokens in zip(rows, tokens, strict=True)]


@torch.inference_mode()
def _decode(model: GPT, rows: list["_Row"]) -> Iterator[tuple[int, Token]]:
    """(row, token) until every row has ended; the cache holds the rows that have not."""
    alive = [number for number, row in enumerate(rows) if row.left > 0]
    if not alive:
        return
    # As small as possible: the context of published models is a hundred times the length of most texts.
    cache = model.new_cache(len(alive), max(len(rows[number].ids) + rows[number].left for number in alive))
    modules = list(model.modules())
    with _without_dropout(modules):
        logits = _prefill(model, [rows[number] for number in alive], cache)
    while True:
        kept = []
        logits = usable(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        # Of all rows at once: a softmax over V takes as long as a layer of a small model.
        log_probabilities = logits.log_softmax(-1)
        for place, number in enumerate(alive):
            token = rows[number].draw(logits[place], log_probabilities[place])
            yield number, token
            if token.finish_reason is None:
                kept.append(place)
        if not kept:
            return
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            cache.keep_rows(kept)
        with _without_dropout(modules):
            logits = _step(model, [rows[number] for number in alive], cache)


def _prefill(model: GPT, rows: list["_Row"], cache: KVCache) -> Tensor:
    """Logits (rows, V) after each row's prompt; the prompts are padded on the right to run as one batch.

    On the right, because attention is causal: no token sees the padding behind it.
    """
    lengths = [len(row.ids) for row in rows]
    prompts = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for place, row in enumerate(rows):
        prompts[place, : len(row.ids)] = torch.tensor(row.ids)
    hidden = model.hidden(prompts.to(model.device), cache)
    cache.truncate(lengths)  # forgets the padding behind shorter prompts
    # The head runs on the last position of each row only: V is the model's largest dimension.
    return model.head(hidden[torch.arange(len(rows)), torch.tensor(lengths) - 1])


def _step(model: GPT, rows: list["_Row"], cache: KVCache) -> Tensor:
    """Logits (rows, V) after each row's last token; a row whose context is full drops its older half first.

    Half, and not one token: every dropped token shifts the positions of all others, so the whole context has
    to be run again. Dropping a half does that once in context / 2 tokens.
    """
    for place, row in enumerate(rows):
        if cache.lengths[place] >= model.config.context_length:
            row.ids = _newest_half(row.ids, model)
            single = model.new_cache(1)
            if len(row.ids) > 1:
                model.hidden(torch.tensor([row.ids[:-1]], device=model.device), single)
            cache.replace_row(place, single)
    last = torch.tensor([[row.ids[-1]] for row in rows], device=model.device)
    return model.head(model.hidden(last, cache)[:, -1])


def _newest_half(ids: list[int], model: GPT) -> list[int]:
    return ids[-max(1, model.config.context_length // 2) :]


@contextlib.contextmanager
def _without_dropout(modules: Sequence[nn.Module]) -> Generator[None]:
    """Every module in eval mode inside, and as before outside: the caller may train between two tokens."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Row:
    """One text that is being generated: its tokens, its random generator, and the text not given out yet."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, prompt: str, decoding: Decoding, seed: int) -> None:
        self.prompt, self.tokenizer, self.decoding, self.seed = prompt, tokenizer, decoding, seed
        self.left = decoding.max_new_tokens
        self.generator = torch.Generator().manual_seed(seed)
        # A token may end in the middle of a character: the decoder keeps its bytes until the rest arrives.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""
        """Text that may be the beginning of a stop string."""
        self.ids = tokenizer.encode(prompt) or self._beginning(model)
        if max(self.ids) >= model.config.vocab_size:
            raise DataError(
                f"the prompt has token {max(self.ids)} and the model knows {model.config.vocab_size} tokens: "
                "this tokenizer is not the model's; load both from one folder"
            )
        if len(self.ids) >= model.config.context_length:
            self.ids = _newest_half(self.ids, model)

    def _beginning(self, model: GPT) -> list[int]:
        end = self.tokenizer.end_of_text
        if end is None or end >= model.config.vocab_size:
            raise DataError("an empty prompt needs a model that knows an end-of-text token; give a prompt")
        return [end]

    def draw(self, logits: Tensor, log_probabilities: Tensor) -> Token:
        """The next token, drawn from logits (V,) and added to the row."""
        # Ids beyond the tokenizer's vocabulary pad the model's to a round size: they have no text.
        drawable = logits[: self.tokenizer.vocab_size]
        id = next_token(drawable, self.decoding, ids=self.ids, generator=self.generator)
        # Of all logits: the model gave the padding its share of the probability.
        log_probability = log_probabilities[id].item()
        self.ids.append(id)
        self.left -= 1
        ending = "end_of_text" if id == self.tokenizer.end_of_text else "length" if self.left == 0 else None
        # At the end, bytes that never became a character become U+FFFD.
        text = self.held + self.decoder.decode(self.tokenizer.token_bytes(id), final=ending is not None)
        found = [text.find(string) for string in self.decoding.stop if string in text]
        if found:
            return Token(id, text[: min(found)], log_probability, "stop")
        held = 0 if ending else max((overlap(text, string) for string in self.decoding.stop), default=0)
        self.held = text[len(text) - held :]
        return Token(id, text[: len(text) - held], log_probability, ending)

    def generation(self, tokens: Sequence[Token]) -> Generation:
        """The row's tokens as a record."""
        text = "".join(token.text for token in tokens)
        reason = tokens[-1].finish_reason if tokens else None
        return Generation(self.prompt, text, tuple(tokens), reason or "length", self.seed)


def overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a beginning of `string`."""
    return next(
        (size for size in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:size])), 0
    )


def _fresh(seed: int | None) -> int:
    """The seed, or a fresh one: small enough to type again."""
    if seed is None:
        return secrets.randbelow(2**31)
    if not is_whole(seed, least=0, most=SEEDS.most):
        raise ConfigError(f"--seed {seed}: it must be a whole number from 0 to 2^63 - 1")
    return int(seed)
