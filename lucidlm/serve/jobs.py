"""What a request asks of the model's thread: jobs come in, each one piece of work at a time; events go out.

V vocabulary. A job knows nothing of the others: its numbers depend on its own request alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lucidlm.measure.explanation import explaining
from lucidlm.measure.protocol import Dtype, Protocol
from lucidlm.measure.scoring import Document
from lucidlm.model.attention import KVCache
from lucidlm.model.decoding import Decoding
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import for_generation, form_for
from lucidlm.model.sampling import distribution, next_token, usable
from lucidlm.serve.slots import ROWS, capacity_for
from lucidlm.serve.transcript import Piece, Transcript
from lucidlm.text.tokenizer import Tokenizer

PREFILL = 256
"""Tokens of a prompt that are read at a time: between two such parts the other texts get a token."""
SHOWN = 20
"""Tokens of a distribution that a step shows."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served, and the name under which a request asks for it."""

    name: str
    kind: str
    model: GPT
    tokenizer: Tokenizer
    writer: GPT | None = None
    """A copy that generates faster (`for_generation`); explanations are always by the model itself."""
    dtype: str = "float32"
    """dtype of the weights in the matmuls of generated text; explanations are in float32."""
    autocast: Dtype = "float32"
    """dtype that the weights are cast to at each step, where there is no writer."""
    source: str = ""
    """What the command line calls it: a path or a name."""

    @classmethod
    def of(
        cls, loaded: tuple[GPT, Tokenizer], *, name: str, kind: str, dtype: Dtype, source: str
    ) -> "Served":
        """A model that has been loaded, with the copy of it that generates fastest in this dtype."""
        model, tokenizer = loaded
        form = form_for(model, dtype, rows=ROWS)
        # On a GPU the weights stay as they are, and autocast shortens them.
        casts = "float32" if form.kernel is not None else dtype
        writer = for_generation(model, form) if form.kernel is not None else None
        return cls(name, kind, model, tokenizer, writer, dtype, casts, source)

    @property
    def generating(self) -> GPT:
        """The model that generates text."""
        return self.model if self.writer is None else self.writer


Event = object
"""What a job hands on: the Pieces of a text, or its one result; or the Exception that ended it."""


class Job(ABC):
    """Work for the model's thread. `deliver` is called on that thread and must not wait."""

    def __init__(self, served: Served, deliver: Callable[[Event], None]) -> None:
        self.served, self.deliver = served, deliver
        self.cancelled = False
        """Set by whoever asked for it, from any thread: the job is dropped before its next piece of work."""

    @property
    def size(self) -> int:
        """About how many tokens of a prompt the next piece of work is as long as."""
        return PREFILL

    @abstractmethod
    def advance(self) -> bool:
        """Does one piece of work; whether there is none left but the rows of a group."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what the work has in memory: who asked for the job may keep it for a while after its end."""


class Measurement(Job):
    """A measurement that is computed piece by piece, with one result."""

    def __init__(
        self,
        served: Served,
        deliver: Callable[[Event], None],
        work: Generator[object, None, object],
    ) -> None:
        super().__init__(served, deliver)
        self._work = work

    def advance(self) -> bool:
        """Scores the next piece of a window."""
        try:
            next(self._work)
        except StopIteration as done:
            self.deliver(done.value)
            return True
        return False

    def forget(self) -> None:
        """Drops the windows and the numbers so far."""
        self._work.close()


class Scores(Measurement):
    """The explanation of some texts, by the function of `lucidlm explain`."""

    def __init__(
        self,
        served: Served,
        deliver: Callable[[Event], None],
        documents: Sequence[Document],
        *,
        top_k: int,
        protocol: Protocol,
    ) -> None:
        work = explaining(served.model, served.tokenizer, documents, top_k=top_k, protocol=protocol)
        super().__init__(served, deliver, work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a text is to be, beside its prompt."""

    decoding: Decoding
    seed: int
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """How many alternatives of each token; None: no log-probabilities either."""
    echo: bool = False
    steps: bool = False
    """Whether each token brings the distributions that it was drawn from."""


class Completion(Job):
    """One text that grows: first its prompt is read, part by part, then it takes a row of a group."""

    def __init__(
        self, served: Served, deliver: Callable[[Event], None], prompt: Sequence[int], wanted: Wanted
    ) -> None:
        super().__init__(served, deliver)
        self.wanted = wanted
        self.ids = list(prompt)
        self.generated = 0
        self.ended = False
        self.row = -1
        self._held_from = 0
        """How many tokens the text had when it took its row."""
        self.capacity = capacity_for(
            len(prompt) + wanted.decoding.max_new_tokens, served.model.config.context_length
        )
        self._prompt = list(prompt)
        self._cache: KVCache | None = None
        self._generator = torch.Generator().manual_seed(wanted.seed)
        self._transcript = Transcript(served.tokenizer, wanted.decoding.stop)
        if wanted.echo:
            self._transcript.echo(prompt)

    @property
    def size(self) -> int:
        """Tokens of the next part of the prompt."""
        read = self._cache.lengths[0] if self._cache is not None else 0
        return min(PREFILL, max(0, len(self._prompt) - read))

    @property
    def held(self) -> int:
        """Tokens that the text has added since it took its row."""
        return self.generated - self._held_from

    def advance(self) -> bool:
        """Reads the next part of the prompt; after the last one, draws the first token."""
        if self.generated:
            return True  # it was set aside, and goes on with the cache that it has
        model = self.served.generating
        if self._cache is None:
            self._cache = model.new_cache(1, self.capacity)
        done = self._cache.lengths[0]
        part = self._prompt[done : done + PREFILL]
        hidden = model.hidden(torch.tensor([part], device=model.device), self._cache)
        if done + len(part) < len(self._prompt):
            return False
        self.draw(model.head(hidden[0, -1:])[0])
        return True

    def leave_cache(self) -> KVCache:
        """The keys and values so far, which the row of a group takes over."""
        cache, self._cache = self._cache, None
        assert cache is not None, "the prompt has been read"
        self._held_from = self.generated
        return cache

    def keep_cache(self, cache: KVCache) -> None:
        """Takes back keys and values until there is a row again."""
        self._cache = cache

    def forget(self) -> None:
        """Drops the keys and values that are not in a row."""
        self._cache = None

    def draw(self, logits: Tensor) -> None:
        """Draws the next token from logits (V,), and hands on what it completes."""
        wanted, tokenizer = self.wanted, self.served.tokenizer
        logits = usable(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        # Ids beyond the tokenizer's vocabulary pad the model's to a round size: they have no text.
        drawable = self._biased(logits[: tokenizer.vocab_size])
        id = next_token(drawable, wanted.decoding, ids=self.ids, generator=self._generator)
        log_probability, top = self._log_probabilities(logits, id)
        step = self._step(logits, drawable) if wanted.steps else None
        self.ids.append(id)
        self.generated += 1
        end = id == tokenizer.end_of_text
        last = end or self.generated == wanted.decoding.max_new_tokens
        stopped = self._transcript.add(id, log_probability, top, step=step, last=last)
        self.ended = last or stopped
        reason = ("stop" if end or stopped else "length") if self.ended else None
        tokens, text = self._transcript.release()
        if tokens or text or reason:
            self.deliver(Piece(tokens, text, reason, self.generated))

    def _biased(self, logits: Tensor) -> Tensor:
        if not self.wanted.logit_bias:
            return logits
        ids, values = zip(*self.wanted.logit_bias, strict=True)
        places = torch.tensor(ids, device=logits.device)
        return logits.index_add(0, places, torch.tensor(values, dtype=logits.dtype, device=logits.device))

    def _log_probabilities(
        self, logits: Tensor, id: int
    ) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        """The model's own, of the token and of the likeliest ones: no bias, temperature or filter in them."""
        if self.wanted.logprobs is None:
            return None, ()
        values = logits.log_softmax(0)
        top = values.topk(min(self.wanted.logprobs, len(values)))
        return values[id].item(), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def _step(self, logits: Tensor, drawable: Tensor) -> dict[str, Any]:
        """The distribution before and after top-k, top-p and min-p, and the probability that they cut off."""
        decoding = self.wanted.decoding
        model = logits.softmax(0)
        before = distribution(drawable, replace(decoding, top_k=None, top_p=1.0, min_p=0.0), self.ids)
        after = distribution(drawable, decoding, self.ids)
        order = before.argsort(descending=True, stable=True)[:SHOWN]
        return {
            "cut_off": before[after == 0].sum().item(),
            "kept": int((after > 0).sum()),
            "ids": order.tolist(),
            "model": model[order].tolist(),
            "before": before[order].tolist(),
            "after": after[order].tolist(),
        }
