"""The twelve questions: a workshop in; what is known, the answer and what is shown after it out.

T tokens, V vocabulary. Each number is computed when it is asked for.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

import lucidlm as lm
from lucidlm.errors import ConfigError
from lucidlm.learn.workshop import Workshop
from lucidlm.model.decoding import Decoding
from lucidlm.model.gpt import GPT
from lucidlm.model.sampling import distribution

if TYPE_CHECKING:
    from lucidlm.text.tokenizer import Tokenizer

SENTENCE = "The Book allowed three inches for remarks."
"""The beginning of the bundled story."""
PROMPT = "There was a column for the "
"""Words of the first page after which several letters are likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The numbers of a step: what is known before the answer, the answer, and what is shown after it."""

    given: tuple[str, ...] = ()
    answer: float | int | str
    """A number, or the letter of a choice."""
    tolerance: float = 0.0
    """How far a number may be from the answer."""
    shown: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Whether this answer is right; ConfigError for no number where one is asked for."""
        if isinstance(self.answer, str):
            return answer.strip().lower() == self.answer
        return abs(number_of(answer) - self.answer) <= self.tolerance

    def judged(self, answer: str) -> str:
        """Whether the answer is right, and the right one."""
        digits = 3 if isinstance(self.answer, float) and self.answer < 100 else 0
        right = self.answer if isinstance(self.answer, str) else f"{self.answer:,.{digits}f}"
        return f"{'Right' if self.is_right(answer) else 'Not quite'}: {right}"


def number_of(answer: str) -> float:
    """The number that was answered; ConfigError where it is none."""
    try:
        number = float(answer.replace(",", ""))
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"answer {answer!r}: give a number")
    return number


def _ids(text: str, tokenizer: "Tokenizer") -> Tensor:
    """Ids (T,) of a text."""
    return torch.tensor(tokenizer.encode(text))


@torch.no_grad()
def _logits(model: GPT, ids: Tensor) -> Tensor:
    """Logits (T, V) of ids (T,)."""
    return model(ids[None])[0]


def _letter(first: bool, second: bool) -> str:
    """The right one of three choices."""
    return "a" if first else "b" if second else "c"


def shift_by_one(workshop: Workshop) -> Asked:
    """How many predictions a sentence gives."""
    tokenizer = lm.Tokenizer.gpt2()  # the lecture's, without its 162 million weights
    inputs, targets = lm.inputs_and_targets(_ids(SENTENCE, tokenizer))
    rows = [
        f"{tokenizer.decode([last])!r:>12} -> {tokenizer.decode([target])!r}"
        for last, target in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]
    return Asked(
        given=(f"{SENTENCE!r} is {len(inputs) + 1} tokens.",),
        answer=len(targets),
        shown=("last input -> target", *rows),
    )


def mean_of_surprisals(workshop: Workshop) -> Asked:
    """The loss of a sentence, from the probabilities of its targets."""
    model, tokenizer = workshop.lecture
    inputs, targets = lm.inputs_and_targets(_ids(SENTENCE, tokenizer))
    logits = _logits(model, inputs)
    of_targets = logits.softmax(-1).gather(-1, targets[:, None])[:, 0]
    mean, loss = of_targets.log().mean().item(), lm.cross_entropy(logits, targets).mean().item()
    rows = [
        f"{tokenizer.decode([target])!r:>12}  {probability:.3e}"
        for target, probability in zip(targets.tolist(), of_targets.tolist(), strict=True)
    ]
    return Asked(
        given=("target, and its probability:", *rows),
        answer=loss,
        tolerance=0.1,
        shown=(
            "ln p           " + "  ".join(f"{each:.2f}" for each in of_targets.log().tolist()),
            f"mean           {mean:.4f}",
            f"negative mean  {-mean:.4f} nats per token; lm.cross_entropy: {loss:.4f}",
        ),
    )


def effective_choices(workshop: Workshop) -> Asked:
    """The perplexity of the same sentence."""
    model, tokenizer = workshop.lecture
    inputs, targets = lm.inputs_and_targets(_ids(SENTENCE, tokenizer))
    loss = lm.cross_entropy(_logits(model, inputs), targets).mean().item()
    perplexity = lm.perplexity(loss)
    return Asked(
        given=(f"loss: {loss:.4f} nats per token",),
        answer=perplexity,
        tolerance=0.05 * perplexity,
        shown=(f"exp({loss:.4f}) = {perplexity:,.0f}; the vocabulary has {tokenizer.vocab_size:,} tokens",),
    )


def loss_at_the_start(workshop: Workshop) -> Asked:
    """The loss of random weights beside ln V, and the variance of the logits that explains the difference."""
    model, tokenizer = workshop.lecture
    ids = _ids(workshop.page, tokenizer)[: model.config.context_length]
    inputs, targets = lm.inputs_and_targets(ids)
    logits = _logits(model, inputs)
    loss, even = lm.cross_entropy(logits, targets).mean().item(), math.log(tokenizer.vocab_size)
    variance = logits.var(-1).mean().item()
    return Asked(
        given=(f"ln {tokenizer.vocab_size:,} = {even:.4f}",),
        answer=_letter(loss < even - 0.01, loss <= even + 0.01),
        shown=(
            f"loss of the untrained model on {len(targets)} tokens of the story: {loss:.4f}",
            f"variance of the logits of one input: {variance:.3f}",
            f"ln V + variance / 2 = {even + variance / 2:.4f}",
        ),
    )


def unseen_is_harder(workshop: Workshop) -> Asked:
    """Training and held-out loss at the end of the run."""
    end = workshop.validations[-1]
    training, heldout = end.training_loss_nats, end.validation_loss_nats
    return Asked(
        given=(f"loss on the training text after step {end.step}: {training:.3f} nats per token",),
        answer=_letter(heldout < 0.9 * training, heldout <= 1.1 * training),
        shown=(f"loss on the held-out text: {heldout:.3f} nats per token",),
    )


def turning_point(workshop: Workshop) -> Asked:
    """The step with the lowest validation loss."""
    each = workshop.validations
    best = min(each, key=lambda one: one.validation_loss_nats)
    training = [f"{one.step:>4}  {one.training_loss_nats:>13.3f}" for one in each]
    both = [
        f"{row}  {one.validation_loss_nats:>15.3f}{'  lowest' if one is best else ''}"
        for row, one in zip(training, each, strict=True)
    ]
    return Asked(
        given=("step  training loss", *training),
        answer=best.step,
        tolerance=0.15 * each[-1].step,
        shown=("step  training loss  validation loss", *both),
    )


def sum_then_divide(workshop: Workshop) -> Asked:
    """The loss of two texts of different length."""
    texts = {"A": workshop.next_page[:400], "B": "JANUARY 14TH, 1887"}
    scores = {name: lm.evaluate(*workshop.best, text=text) for name, text in texts.items()}
    pooled = sum(one.nats for one in scores.values()) / sum(one.tokens_scored for one in scores.values())
    of_means = sum(one.loss_nats for one in scores.values()) / len(scores)
    return Asked(
        given=tuple(
            f"text {name}: {one.tokens_scored} tokens, loss {one.loss_nats:.3f}"
            for name, one in scores.items()
        ),
        answer=pooled,
        tolerance=abs(of_means - pooled) / 4,
        shown=(
            f"nats of both / tokens of both: {pooled:.3f}",
            f"mean of the two losses:        {of_means:.3f}, in which a token of B counts more than one of A",
        ),
    )


def nearer_context(workshop: Workshop) -> Asked:
    """The loss of one text with a long and with a short stride."""
    context = workshop.best[0].config.context_length
    short = context // 8
    far, near = (
        lm.evaluate(*workshop.best, text=workshop.next_page, protocol=lm.Protocol(stride=stride)).loss_nats
        for stride in (context, short)
    )
    return Asked(
        given=(f"loss with stride {context}: {far:.4f} nats per token",),
        answer=_letter(near < far, near == far),
        shown=(
            f"loss with stride {short}: {near:.4f} nats per token",
            f"each token has at least {context - short} tokens before it, but for the first of the text",
        ),
    )


def one_unit_for_all(workshop: Workshop) -> Asked:
    """Two untrained models with different tokenizers, in nats per token and in bits per byte."""
    names, text = ("lecture", "modern-1m"), workshop.page[:500]
    scores = [lm.evaluate(*model, text=text) for model in (workshop.lecture, lm.load("modern-1m"))]
    return Asked(
        given=tuple(
            f"{name:<10} {one.loss_nats:7.3f} nats per token, {one.tokens_scored} tokens"
            for name, one in zip(names, scores, strict=True)
        ),
        answer="a" if scores[0].bits_per_byte < scores[1].bits_per_byte else "b",
        shown=tuple(
            f"{name:<10} {one.bits_per_byte:7.3f} bits per byte, {one.bytes_scored} bytes"
            for name, one in zip(names, scores, strict=True)
        ),
    )


def sharper_odds(workshop: Workshop) -> Asked:
    """The odds of the two likeliest tokens at temperature 0.5."""
    model, tokenizer = workshop.best
    logits = _logits(model, _ids(PROMPT, tokenizer))[-1]
    lines, odds = {}, {}
    for name, decoding in (
        ("temperature 1", Decoding(temperature=1)),
        ("temperature 0.5", Decoding(temperature=0.5)),
        ("temperature 1, top-k 2", Decoding(temperature=1, top_k=2)),
    ):
        top = distribution(logits, decoding).topk(3)
        tokens = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        texts = "  ".join(f"{tokenizer.decode([token])!r} {p:.3f}" for token, p in tokens if p > 0)
        odds[name] = (top.values[0] / top.values[1]).item()
        lines[name] = f"{name:<22}  {texts}  odds of the first two {odds[name]:.2f}"
    first, *others = lines.values()
    return Asked(
        given=(f"the likeliest tokens after {PROMPT!r}:", first),
        answer=odds["temperature 0.5"],
        tolerance=0.05 * odds["temperature 0.5"],
        shown=tuple(others),
    )


def recited(workshop: Workshop) -> Asked:
    """How much of the training text the weights of the run generate, after the characters before it."""
    prompt, true = workshop.page[1000:1048], workshop.page[1048:1148]
    copied, shown = 0, []
    for name, model in (("best", workshop.best), ("last", workshop.last)):
        text = lm.generate(*model, prompt, lm.Decoding(max_new_tokens=len(true), temperature=0)).text
        copied = next((at for at, pair in enumerate(zip(text, true)) if pair[0] != pair[1]), len(true))
        shown.append(f"{name} weights: {copied:>3} of {len(true)} characters, {text[:40]!r}...")
    return Asked(
        given=(f"prompt from the training text: {prompt!r}",),
        answer=_letter(copied < 10, copied < 50),
        shown=tuple(shown),
    )


def yes_or_no(workshop: Workshop) -> Asked:
    """Binary cross entropy of the question whether the next byte is a space."""
    model, tokenizer = workshop.best
    inputs, targets = lm.inputs_and_targets(_ids(" who was schoolmaster on the Holm", tokenizer))
    space = tokenizer.encode(" ")[0]
    chance = _logits(model, inputs).softmax(-1)[:, space]
    logits, answers = chance.logit(), (targets == space).float()  # the logit of yes: ln p - ln(1 - p)
    losses = lm.binary_cross_entropy(logits, answers)
    worst = int(chance.where(answers == 0, 0.0).argmax())
    columns = (targets.tolist(), chance.tolist(), answers.tolist(), losses.tolist())
    rows = [
        f"{tokenizer.decode([target])!r:>6}  {p:8.3f}  {'yes' if yes else 'no':>6}  {nats:.3f}"
        for target, p, yes, nats in zip(*columns, strict=True)
    ]
    two = lm.cross_entropy(torch.stack([torch.zeros_like(logits), logits], -1), answers.long()).mean()
    torchs = F.binary_cross_entropy_with_logits(logits, answers)
    return Asked(
        given=(f"p(space) = {chance[worst]:.3f}. The next byte is {tokenizer.decode([targets[worst]])!r}.",),
        answer=losses[worst].item(),
        tolerance=0.05,
        shown=(
            f"-ln(1 - {chance[worst]:.3f}) = {losses[worst]:.3f} nats",
            "target  p(space)  answer  loss in nats",
            *rows,
            f"mean: binary cross entropy {losses.mean():.4f}, torch's {torchs:.4f}",
            f"cross entropy of the two logits 0 and ln p - ln(1 - p): {two:.4f}",
        ),
    )
