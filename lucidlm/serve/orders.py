"""A form of /v1/completions comes in; which texts are asked for, of which model, goes out."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lucidlm.errors import ConfigError, DataError, ServerError
from lucidlm.model.decoding import Decoding
from lucidlm.runtime.device import seed_from
from lucidlm.serve.forms import CompletionForm, GenerateForm, Sampling
from lucidlm.serve.jobs import Served, Wanted
from lucidlm.serve.limits import Limits


@dataclass(frozen=True, slots=True)
class Order:
    """The texts of one request: n for each prompt."""

    served: Served
    prompts: tuple[tuple[int, ...], ...]
    wanted: tuple[Wanted, ...]
    """What each of the n texts of a prompt is to be; they differ in their seeds."""
    max_tokens: int
    logprobs: int | None
    echo: bool

    @property
    def reads_prompts(self) -> bool:
        """Whether the log-probabilities of the prompts are asked for."""
        return self.echo and self.logprobs is not None


def served_as(models: Mapping[str, Served], name: str | None) -> Served:
    """The model of a name, or the first one; ServerError 404. A name is a key here, never a path."""
    if not models:
        raise ServerError("no model is served yet", "train one, or serve one: lucidlm serve gpt2", status=404)
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise ServerError(
            f"there is no model {name[:80]!r} here",
            f"there is {', '.join(models)}",
            status=404,
            param="model",
        )
    return models[name]


def order_of(form: CompletionForm, models: Mapping[str, Served], limits: Limits) -> Order:
    """The texts that a form asks for; ServerError for what cannot be done."""
    served = served_as(models, form.model)
    echo, logprobs, n = bool(form.echo), form.logprobs, form.n or 1
    max_tokens = 16 if form.max_tokens is None else form.max_tokens
    if max_tokens == 0 and not echo:
        raise ServerError(
            "max_tokens 0 gives nothing without echo", "give 1 or more, or echo", param="max_tokens"
        )
    if form.best_of not in (None, n):
        raise ServerError(f"best_of {form.best_of}: it is not supported", "leave it out", param="best_of")
    prompts = _prompts(form.prompt, served)
    if len(prompts) * n > limits.texts:
        raise ServerError(
            f"{len(prompts)} prompts with n = {n} are {len(prompts) * n} texts",
            f"ask for at most {limits.texts} at once",
            param="prompt",
        )
    for prompt in prompts:
        check_context(served, len(prompt), max_tokens, "max_tokens")
    stop = (form.stop,) if isinstance(form.stop, str) else tuple(form.stop or ())
    decoding, bias = _decoding(form, max_tokens, stop), _bias(form.logit_bias, served)
    seed = secrets.randbelow(2**31) if form.seed is None else form.seed
    wanted = tuple(
        Wanted(
            decoding=decoding,
            # As `generate --num` has it: the first text is that of n = 1.
            seed=seed if number == 0 else seed_from(seed, number),
            logit_bias=bias,
            logprobs=logprobs,
            echo=echo,
        )
        for number in range(n)
    )
    return Order(served, prompts, wanted, max_tokens, logprobs, echo)


def wanted_steps(form: GenerateForm, served: Served) -> tuple[tuple[int, ...], Wanted]:
    """The prompt of /api/generate, and its one text."""
    (prompt,) = _prompts(form.prompt, served)
    check_context(served, len(prompt), form.max_new_tokens, "max_new_tokens")
    seed = secrets.randbelow(2**31) if form.seed is None else form.seed
    decoding = _decoding(form, form.max_new_tokens, tuple(form.stop))
    return prompt, Wanted(decoding=decoding, seed=seed, logprobs=0, steps=True)


def check_context(served: Served, prompt: int, new: int, param: str) -> None:
    """ServerError where prompt and new tokens are more than the model reads at once."""
    context = served.model.config.context_length
    if prompt + new > context:
        raise ServerError(
            f"the prompt has {prompt:,} tokens and {param} is {new:,}; the context of {served.name} is "
            f"{context:,} tokens", "give a shorter prompt or ask for fewer", param=param,
        )  # fmt: skip


def _prompts(given: Any, served: Served) -> tuple[tuple[int, ...], ...]:
    """Token ids of each prompt."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    return tuple(_prompt(each, served) for each in (given if several else [given]))


def _prompt(given: str | list[int], served: Served) -> tuple[int, ...]:
    tokenizer, model = served.tokenizer, served.model
    if isinstance(given, str):
        try:
            ids = tokenizer.encode(given)
        except DataError as error:
            raise ServerError(str(error), param="prompt") from None
        if not ids:  # as `generate` has it: an empty prompt is the beginning of a document
            end = tokenizer.end_of_text
            if end is None or end >= model.vocab_size:
                raise ServerError("an empty prompt needs a model with an end-of-text token", param="prompt")
            ids = [end]
    else:
        ids = given
    size = min(tokenizer.vocab_size, model.vocab_size)
    if max(ids) >= size:
        raise ServerError(
            f"token id {max(ids)}: the ids of {served.name} end at {size - 1}", "encode with its tokenizer",
            param="prompt",
        )  # fmt: skip
    return tuple(ids)


def _decoding(form: Sampling, max_tokens: int, stop: tuple[str, ...]) -> Decoding:
    try:
        return Decoding(
            max_new_tokens=max_tokens,
            temperature=1.0 if form.temperature is None else form.temperature,
            top_k=form.top_k,
            top_p=1.0 if form.top_p is None else form.top_p,
            min_p=form.min_p or 0.0,
            stop=stop,
        )
    except ConfigError as error:
        raise ServerError(str(error).removeprefix("--")) from None


def _bias(given: dict[str, float] | None, served: Served) -> tuple[tuple[int, float], ...]:
    bias = tuple((int(id), value) for id, value in (given or {}).items())
    size = served.tokenizer.vocab_size
    if bias and max(bias)[0] >= min(size, served.model.vocab_size):
        raise ServerError(
            f"logit_bias has token id {max(bias)[0]}: the ids of {served.name} end at {size - 1}",
            param="logit_bias",
        )
    return bias
