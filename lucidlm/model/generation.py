"""From logits to text: decoding strategies one by one, and the loop that draws token by token with a cache.

V vocabulary. Each strategy takes the logits (V,) of one place and returns logits (V,), -inf where it forbids.
"""

import codecs
import contextlib
import math
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.model.attention import KVCache
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import log_softmax
from lucidlm.runtime.device import seed_from
from lucidlm.runtime.ranges import Range, check_ranges
from lucidlm.text.tokenizer import Tokenizer

_TEMPERATURES = Range(1e-9, 1e6)
"""Of a smaller one float32 has nothing left to divide by: 0 says the same."""
_STRATEGIES = {
    "top_p": Range(0, 1, without_least=True),
    "min_p": Range(0, 1),
    # A larger or smaller one says no more, and its product with a logit may be too large for float32.
    "repetition_penalty": Range(1e-3, 1e3),
}
MOST_NEW_TOKENS, MOST_TEXTS = 10**6, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How the next token is chosen; the defaults draw as the model believes, a little sharper."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and self.temperature not in _TEMPERATURES:
            raise ConfigError(
                f"--temperature {self.temperature}: it must be 0 (the likeliest token), or {_TEMPERATURES}"
            )
        if self.top_k is not None and not _is_whole(self.top_k, least=1):
            raise ConfigError(
                f"--top-k {self.top_k}: it must be a whole number of at least 1; leave it out for all tokens"
            )
        check_ranges(self, _STRATEGIES)


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    id: int
    text: str
    """The whole characters that are certain with this token; joined they are the generated text."""
    log_probability: float
    """What the model gave it before any strategy changed the odds."""
    finish_reason: str | None = None
    """On the last token: "stop" (a stop string), "end_of_text" or "length"."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A prompt and what the model went on with."""

    prompt: str
    text: str
    tokens: tuple[Token, ...]
    finish_reason: str
    seed: int

    def __str__(self) -> str:
        """Prompt and text, as one."""
        return self.prompt + self.text

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        return asdict(self)


# The strategies


def penalise_repetition(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Makes tokens already there less likely: positive logits divided, negative multiplied (Keskar 2019)."""
    if penalty == 1.0 or not ids:
        return logits
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharper under 1, flatter over 1: p becomes p^(1/temperature), shared out again."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Only the k largest stay; of equal ones the lower id."""
    if k >= logits.numel():
        return logits
    smallest = logits.topk(k).values[-1]
    larger, equal = logits > smallest, logits == smallest
    # topk leaves open which of several equal logits it takes, so the places left go by id.
    places = k - larger.sum()
    return logits.masked_fill(~(larger | (equal & (equal.cumsum(0) <= places))), -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Only the fewest tokens whose probabilities reach p together stay, one at least (Holtzman 2020)."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(descending=True, stable=True)
    mass = ordered.softmax(0).cumsum(0)
    # A token stays while what stands before it has not reached p; the first stays though p rounds to 0.
    cut = torch.cat((mass.new_zeros(1, dtype=torch.bool), mass[:-1] >= p))
    return logits.scatter(0, order[cut], -torch.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Only tokens at least `share` times as likely as the likeliest stay (Nguyen 2024)."""
    if share <= 0:
        return logits
    return logits.masked_fill(logits < logits.max() + math.log(share), -torch.inf)


def distribution(logits: Tensor, decoding: Decoding, ids: Sequence[int] = ()) -> Tensor:
    """Probabilities (V,) of the next token's draw: all strategies in their order. Temperature 0 is argmax."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = _usable(penalise_repetition(logits, ids, decoding.repetition_penalty))
    if decoding.temperature == 0:
        return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)
    # Off the largest first, or dividing by a tiny temperature would overflow: it cancels out.
    logits = apply_temperature(logits - logits.max(), decoding.temperature)
    if decoding.top_k is not None:
        logits = keep_top_k(logits, decoding.top_k)
    logits = keep_min_p(keep_top_p(logits, decoding.top_p), decoding.min_p)
    return logits.softmax(0)


def next_token(
    logits: Tensor, decoding: Decoding, *, ids: Sequence[int] = (), generator: torch.Generator | None = None
) -> int:
    """The id of the next token, drawn from the distribution of logits (V,) after the strategies.

    `ids` are the tokens so far, which a repetition penalty looks at. WeightsError for NaN.
    """
    probabilities = distribution(logits, decoding, ids)
    if decoding.temperature == 0:
        return int(probabilities.argmax())
    # On the CPU, so that a seed draws the same on every device.
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


def _usable(logits: Tensor) -> Tensor:
    """The logits, some of them finite and none +inf: infinite ones share all the probability."""
    largest = logits.max().item()  # NaN if any of them is
    if math.isnan(largest):
        raise WeightsError(
            "the model's logits hold NaN: its weights are damaged or overflowed; take another checkpoint"
        )
    if largest == -math.inf:
        raise WeightsError("the model forbids every token: all its logits are -inf; take another checkpoint")
    if largest == math.inf:
        return torch.zeros_like(logits).masked_fill(logits < math.inf, -torch.inf)
    return logits


# The loop


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> Generation:
    """What the model goes on with after the prompt; print it to see both. See `generate_batch`."""
    (generation,) = generate_batch(
        model,
        tokenizer,
        [prompt],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
    )
    return generation


def stream(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> Iterator[Token]:
    """`generate`, a token at a time: their texts are whole characters and join to the generated text."""
    decoding = Decoding(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    row = _Row(model, tokenizer, prompt, stop, max_new_tokens, _fresh(seed))
    # Not itself a generator function: a parameter that cannot be is said now, not at the first token.
    return (token for _, token in _decode(model, [row], decoding))


def generate_batch(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    num: int = 1,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> list[Generation]:
    """`num` texts after each of the prompts, which may be of different lengths, in one batch.

    Each row draws from a generator of its own, so that what it says does not depend on the rows beside it:
    the first text of a prompt is that of `generate` with the same seed. No prompt: from the beginning of a
    document. When the context is full, its older half is dropped and the rest is run again; of a prompt that
    does not leave room for one token the newest half of a context is kept. Text ends at end-of-text or before
    a `stop` string. Raises ConfigError for a parameter that cannot be, DataError for an empty prompt where no
    end-of-text is known.
    """
    decoding = Decoding(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    if not _is_whole(num, least=1) or num > MOST_TEXTS:
        raise ConfigError(
            f"--num {num}: it must be a whole number from 1 to {MOST_TEXTS:,}; another --seed gives more"
        )
    seed = _fresh(seed)
    rows = [
        _Row(model, tokenizer, prompt, stop, max_new_tokens, seed if number == 0 else seed_from(seed, number))
        for prompt in prompts
        for number in range(num)
    ]
    tokens: list[list[Token]] = [[] for _ in rows]
    for number, token in _decode(model, rows, decoding):
        tokens[number].append(token)
    return [
        Generation(
            prompt=row.prompt,
            text="".join(token.text for token in row_tokens),
            tokens=tuple(row_tokens),
            finish_reason=row_tokens[-1].finish_reason or "length" if row_tokens else "length",
            seed=row.seed,
        )
        for row, row_tokens in zip(rows, tokens, strict=True)
    ]


@torch.inference_mode()
def _decode(model: GPT, rows: list["_Row"], decoding: Decoding) -> Iterator[tuple[int, Token]]:
    """(row, token) until every row has ended; the cache holds the rows that have not."""
    alive = [number for number, row in enumerate(rows) if row.left > 0]
    if not alive:
        return
    # No larger than needed: the context of models of others is a hundred times most texts.
    cache = model.new_cache(len(alive), max(len(rows[number].ids) + rows[number].left for number in alive))
    logits = _begin(model, [rows[number] for number in alive], cache)
    while True:
        kept = []
        for place, number in enumerate(alive):
            token = rows[number].draw(logits[place], decoding)
            yield number, token
            if token.finish_reason is None:
                kept.append(place)
        if not kept:
            return
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            cache.keep_rows(kept)
        logits = _advance(model, [rows[number] for number in alive], cache)


def _begin(model: GPT, rows: list["_Row"], cache: KVCache) -> Tensor:
    """Logits (rows, V) after each row's prompt; the prompts are padded on the right to run as one batch."""
    lengths = [len(row.ids) for row in rows]
    prompts = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for place, row in enumerate(rows):
        prompts[place, : len(row.ids)] = torch.tensor(row.ids)
    with _without_dropout(model):
        hidden = model.hidden(prompts.to(model.device), cache)
        cache.truncate(lengths)  # the padding behind shorter prompts is forgotten
        return model.head(hidden[torch.arange(len(rows)), torch.tensor(lengths) - 1])


def _advance(model: GPT, rows: list["_Row"], cache: KVCache) -> Tensor:
    """Logits (rows, V) after each row's last token; rows whose context is full lose its older half first."""
    with _without_dropout(model):
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
def _without_dropout(model: GPT) -> Generator[None]:
    """Every module in eval mode meanwhile, and then as it was: the caller may train between two tokens."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Row:
    """One text under way: its tokens, its generator, and what of its bytes has not been given out yet."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        prompt: str,
        stop: Sequence[str],
        max_new_tokens: int,
        seed: int,
    ) -> None:
        if not _is_whole(max_new_tokens, least=0) or max_new_tokens > MOST_NEW_TOKENS:
            raise ConfigError(
                f"--max-new-tokens {max_new_tokens}: it must be a whole number from 0 to "
                f"{MOST_NEW_TOKENS:,}; give the last text as the next prompt"
            )
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self.stop:
            raise ConfigError('--stop "": it would stop before the first token; leave it out')
        self.prompt, self.tokenizer, self.left, self.seed = prompt, tokenizer, max_new_tokens, seed
        self.generator = torch.Generator().manual_seed(seed)
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

    def draw(self, logits: Tensor, decoding: Decoding) -> Token:
        """The next token, drawn and written down."""
        logits = _usable(logits)
        # Ids that are padding stand for no text: they keep their share of the probability, undrawn.
        drawable = logits[: self.tokenizer.vocab_size]
        id = next_token(drawable, decoding, ids=self.ids, generator=self.generator)
        log_probability = log_softmax(logits)[id].item()
        self.ids.append(id)
        self.left -= 1
        ending = "end_of_text" if id == self.tokenizer.end_of_text else "length" if self.left == 0 else None
        # At the end, bytes that never became a character are shown as U+FFFD.
        text = self.held + self.decoder.decode(self.tokenizer.token_bytes(id), final=ending is not None)
        found = [text.find(string) for string in self.stop if string in text]
        if found:
            return Token(id, text[: min(found)], log_probability, "stop")
        held = 0 if ending else max((_overlap(text, string) for string in self.stop), default=0)
        self.held = text[len(text) - held :]
        return Token(id, text[: len(text) - held], log_probability, ending)


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of text that a string begins with."""
    return next(
        (size for size in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:size])), 0
    )


def _fresh(seed: int | None) -> int:
    if seed is None:
        return secrets.randbelow(2**31)
    if not _is_whole(seed, least=0) or seed >= 2**63:
        raise ConfigError(f"--seed {seed}: it must be a whole number from 0 to 2^63 - 1")
    return int(seed)


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
