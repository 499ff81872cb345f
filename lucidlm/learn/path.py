"""The path: a number of a step in; its lesson, its question, whether an answer is right, and progress out."""

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidlm.errors import ConfigError, RunError
from lucidlm.learn import questions
from lucidlm.learn.questions import PROMPT, SENTENCE, Asked, number_of
from lucidlm.learn.workshop import Workshop
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.small_files import read_small_json

PROGRESS = "progress.json"
WIDTH, LETTERS = 88, "abcd"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the path: what to know, a command to try, a question, and how its answer is computed."""

    title: str
    lesson: str
    command: str
    question: str
    why: str
    """What explains the answer."""
    choices: tuple[str, ...] = ()
    work: Callable[[Workshop], Asked] = field(kw_only=True)

    def check(self, answer: str) -> None:
        """ConfigError for an answer that is no number or, where there are choices, none of their letters."""
        letters = LETTERS[: len(self.choices)]
        if not letters:
            number_of(answer)
        elif answer.strip().lower() not in tuple(letters):
            raise ConfigError(f"answer {answer!r}: give one of the letters {', '.join(letters)}")

    def lesson_lines(self) -> Iterator[str]:
        """What to know and a command to try, for a terminal."""
        yield from textwrap.wrap(self.lesson, WIDTH)
        yield from ("", f"    {self.command}", "")

    def why_lines(self) -> Iterator[str]:
        """What explains the answer."""
        yield from ("", *textwrap.wrap(self.why, WIDTH))

    def question_lines(self) -> Iterator[str]:
        """The question and its choices."""
        yield from textwrap.wrap(self.question, WIDTH)
        yield from (f"  {letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))


STEPS = (
    Step(
        "Inputs and targets",
        "A language model reads tokens and predicts the next one. Training needs no labels: the target of "
        "each token is the token after it. Inputs are all tokens but the last, targets all but the first.",
        f'lucidlm explain lecture "{SENTENCE}"',
        "How many predictions does a model make on this sentence, if nothing comes before it?",
        "Each token but the first is a target once. With a token before the text (end-of-text), the first"
        " one is a target too: evaluate says which of the two it did.",
        work=questions.shift_by_one,
    ),
    Step(
        "From logits to the loss",
        "For each input the model gives one logit for each token of the vocabulary. Softmax makes them "
        "probabilities that add up to 1. Only one of them matters: that of the target. Take its logarithm,"
        " the mean over all targets, and the negative of that. This is the cross entropy, the loss.",
        f'lucidlm explain lecture "{SENTENCE}" --top-k 3',
        "What is the mean of -ln p, the loss in nats per token? (The natural logarithm of 0.00002 is -10.8.)",
        "-ln p is the surprisal of a token: 0 for a certain token, and large for a token that was thought"
        " impossible. The mean makes texts of different length comparable.",
        work=questions.mean_of_surprisals,
    ),
    Step(
        "Perplexity",
        "The exponential of the loss is the perplexity. It says: the model is as uncertain as if it chose "
        "at random among that many equally likely tokens.",
        "lucidlm evaluate lecture learn/page.txt",
        "What is the perplexity of this loss? (exp(11) is 59,874.)",
        "An untrained model is about as uncertain as its vocabulary is large. Training lowers this "
        "number; GPT-2's smallest model reaches 29 on WikiText-2 (Radford 2019).",
        work=questions.effective_choices,
    ),
    Step(
        "The loss before training",
        "A model that gives each of V tokens the same probability has a loss of ln V. A new model has random "
        "weights, so its logits are small random numbers: almost equal, but not quite.",
        "lucidlm evaluate lecture learn/page.txt",
        "Is the loss of the untrained model lower than ln V, equal to it (within 0.01), or higher?",
        "The logits of a new model vary a little. Where it is wrong by chance, it loses more than it "
        "gains where it is right: on average the loss is ln V plus half the variance of the logits. So "
        "10.98 on the course's book is more than ln 50,257 = 10.82. A loss far above that means a mistake"
        " in the initialization.",
        ("lower", "equal", "higher"),
        work=questions.loss_at_the_start,
    ),
    Step(
        "Held-out text",
        "A model can memorize its training text, so the loss on that text says little. A part of the"
        " text is held out: it is never trained on. Its loss, the validation loss, says how well the model"
        " predicts new text of the same kind. This step trains on the first page of the story.",
        "lucidlm train learn/page.txt --out learn/page --steps 120 --preset modern-1m --tokenizer bytes "
        "--context-length 128 --batch-tokens 1024 --no-early-stop",
        "What is the loss on the held-out text, compared with the training text?",
        "A small loss on text that was trained on can be memory. Only the loss on held-out text says "
        "something about new text.",
        ("lower", "about the same (within 10 %)", "higher"),
        work=questions.unseen_is_harder,
    ),
    Step(
        "Overfitting",
        "While a model learns what all pages have in common, both losses fall. Later it learns what only "
        "the training text has: that loss goes on falling, and the validation loss rises. This is "
        "overfitting. The best weights are those with the lowest validation loss; a run keeps them, "
        "whatever comes after.",
        "lucidlm info learn/page",
        "At which step was the validation loss lowest? (You see the training loss only.)",
        "From that step on the model learns the page, not the language. A larger text moves this point to"
        " the right: more text is the best help against overfitting.",
        work=questions.turning_point,
    ),
    Step(
        "Sum first, divide once",
        "Losses of several texts or batches must not be averaged: a short text would count as much as a "
        "long one. Add the nats of all tokens, and divide by the number of all tokens. Many programs "
        "compute a mean of means, and their loss changes with the batch size.",
        "lucidlm evaluate learn/page learn/page.txt learn/story.txt --by document --no-baselines",
        "What is the loss of both texts together?",
        "The mean of the two losses counts each text the same, so a token of the short text counts more. "
        "A sum of nats divided once counts each token the same, with any batch size.",
        work=questions.sum_then_divide,
    ),
    Step(
        "The stride",
        "A model sees at most its context length. A longer text is read in windows. With a stride of one "
        "context length the windows do not overlap, and the first tokens of each have almost nothing "
        "before them. With a shorter stride windows overlap, and only the new tokens of each are scored: "
        "more context, more work.",
        "lucidlm evaluate learn/page learn/story.txt --stride 128 --no-baselines",
        "The stride becomes eight times shorter. What happens to the loss?",
        "With more context a prediction is easier, so the same model on the same text has a lower loss. A"
        " loss without its stride and context length cannot be compared.",
        ("it falls", "it stays equal", "it rises"),
        work=questions.nearer_context,
    ),
    Step(
        "Bits per byte",
        "Tokenizers cut a text into different numbers of tokens, so losses per token cannot be compared. "
        "The bytes of the text are the same for all: nats / ln 2 / bytes gives bits per byte.",
        "lucidlm compare lecture modern-1m learn/page.txt",
        "Both models have random weights. Which one needs fewer bits per byte?",
        "The model of bytes has the lower loss per token, because its tokens are smaller. In bits per "
        "byte the other one is ahead, though neither is trained: GPT-2's tokenizer has already learnt "
        "which letters form words.",
        ("lecture", "modern-1m"),
        work=questions.one_unit_for_all,
    ),
    Step(
        "Temperature and top-k",
        "To generate text, a token is drawn from the probabilities, again and again. The temperature "
        "divides the logits first: below 1 likely tokens become likelier, above 1 the choice is more "
        "random. Top-k keeps the k likeliest tokens only.",
        f'lucidlm generate learn/page "{PROMPT}" --temperature 0.5 --top-k 40',
        "What are the odds of the two likeliest tokens at temperature 0.5?",
        "Dividing the logits by 0.5 squares the odds: p becomes p^(1/temperature), scaled to a sum of 1. "
        "Top-k removes the rest and leaves the odds of the others as they are.",
        work=questions.sharper_odds,
    ),
    Step(
        "Memorization",
        "A model that overfits can recite its training text. The test: give it some characters of that "
        "text, let it generate with temperature 0, and count how many characters are the same as in the "
        "text.",
        "lucidlm evaluate learn/page",
        "The last weights generate 100 characters. How many are copied before the first difference?",
        "The last weights have seen the page more than thirty times. The best weights, kept at the lowest"
        " validation loss, cannot recite it. A model that recites looks excellent on its training text.",
        ("0 to 9", "10 to 49", "50 or more"),
        work=questions.recited,
    ),
    Step(
        "Binary cross entropy",
        "Some questions have two answers: is this mail spam, is the next byte a space? One probability p "
        "is enough. The loss is -ln p if the answer is yes, and -ln(1 - p) if it is no. It is the cross "
        "entropy of two classes.",
        "python -c 'import torch, lucidlm as lm; "
        "print(lm.binary_cross_entropy(torch.tensor([2.0]), torch.tensor([0.0])))'",
        "What is the loss of this prediction in nats?",
        "It is the cross entropy of two classes whose logits are 0 and ln p - ln(1 - p). A confident "
        "wrong answer costs most: at p = 1 the loss is infinite.",
        work=questions.yes_or_no,
    ),
)


def step_of(number: int) -> Step:
    """The step of a number; ConfigError where there is none."""
    if not 1 <= number <= len(STEPS):
        raise ConfigError(f"step {number}: the steps are 1 to {len(STEPS)}; lucidlm learn lists them")
    return STEPS[number - 1]


def done_in(folder: Path) -> set[int]:
    """The steps that were answered rightly, as progress.json has them."""
    try:
        values = read_small_json(folder / PROGRESS, RunError)
    except (FileNotFoundError, ValueError):
        return set()
    return {each for each in values if isinstance(each, int)} if isinstance(values, list) else set()


def mark_done(folder: Path, number: int) -> None:
    """Adds a step to progress.json."""
    write_atomically(folder / PROGRESS, json.dumps(sorted(done_in(folder) | {number})).encode())


def contents(folder: Path) -> str:
    """The list of steps, with what is done."""
    done = done_in(folder)
    rows = [f"[{'x' if n in done else ' '}] {n:>2}  {step.title}" for n, step in enumerate(STEPS, 1)]
    following = next((n for n in range(1, len(STEPS) + 1) if n not in done), 1)
    return "\n".join([*rows, "", f"Next: lucidlm learn {following}"])


def record_of(number: int, asked: Asked, answer: str) -> dict[str, Any]:
    """Stable keys, for --json."""
    return {
        "step": number,
        "title": step_of(number).title,
        "given": list(asked.given),
        "answer": answer,
        "right": asked.is_right(answer),
        "expected": asked.answer,
        "tolerance": asked.tolerance,
        "shown": list(asked.shown),
    }


def page() -> str:
    """docs/learn.md: the same path, for a reader."""
    steps = (_section(number, step) for number, step in enumerate(STEPS, 1))
    lessons = (
        f"| {title} | {view} | {', '.join(map(str, numbers))} |" for title, view, numbers in IN_THE_LENS
    )
    return "\n".join([INTRODUCTION, *steps, LENS, *lessons, ""])


LENS = """## The same path in the lens

[The lens](lens.md) shows a model of yours. Its view Learn has these lessons. Each opens the view that is
named, with numbers of that model, and the view leads back to it. The stride is among the words of Compare;
you can try temperature and top-k in Generate.

| lesson | view | step above |
|---|---|---|"""
IN_THE_LENS = (
    ("Inputs and targets", "Explain", (1,)),
    ("Logits", "Explain", (2,)),
    ("Softmax", "Explain", (2, 10)),
    ("The probability of the target", "Explain", (2,)),
    ("The logarithm", "Explain", (2,)),
    ("The mean, and its negative", "Explain", (2, 7)),
    ("Cross entropy", "Explain", (2, 4)),
    ("Perplexity", "Explain", (3,)),
    ("Bits per byte", "Compare", (9,)),
    ("Training and validation loss", "Train", (5,)),
    ("Why it overfits", "Train", (6, 11)),
    ("Two classes: binary cross entropy", "Generate", (12,)),
)
"""The lessons of the lens: title, view, and the steps that say more."""


INTRODUCTION = """# Learn in twelve steps

How is the quality of a language model measured? Each step takes a minute: read, predict, and then see the
computed answer. `lucidlm learn` lists the steps, `lucidlm learn 1` asks the first question. All numbers are
computed on your machine, from the story that comes with lucidlm, and the terminal shows those that a question
needs. The files go to the folder `learn`: delete it when you are done.
"""


def _section(number: int, step: Step) -> str:
    choices = "".join(
        f"\n- {letter}) {choice}" for letter, choice in zip(LETTERS, step.choices, strict=False)
    )
    question = textwrap.fill(f"**Question.** {step.question}", 110)
    return "\n".join(
        (
            f"## {number}. {step.title}\n",
            textwrap.fill(step.lesson, 110) + "\n",
            f"```\n{step.command}\n```\n",
            question + ("\n" + choices if choices else "") + "\n",
            f"Answer it with `lucidlm learn {number}`.\n",
            f"<details><summary>Why</summary>\n\n{textwrap.fill(step.why, 110)}\n\n</details>\n",
        )
    )
