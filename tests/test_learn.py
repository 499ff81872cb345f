"""The path of twelve steps: each answer equals a textbook, progress is kept, the page has the same words."""

import json
import math
import re
import shlex
import sys
from functools import cached_property
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import SMALLEST, shape

import lucidlm as lm
from lucidlm.cli import app, main
from lucidlm.errors import ConfigError
from lucidlm.learn import path, questions
from lucidlm.learn.questions import SENTENCE, Asked
from lucidlm.learn.workshop import PAGE_RUN, Workshop
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.runs.settings import Plan, TrainConfig

ROOT = Path(__file__).parent.parent


def small_lecture() -> tuple[GPT, lm.Tokenizer]:
    """A model on GPT-2's tokens whose logits vary, as those of the lecture do, in milliseconds."""
    torch.manual_seed(0)
    model = GPT(shape(vocab_size=50257, context_length=64, emb_dim=8, init="torch"))
    return model.eval(), lm.Tokenizer.gpt2()


class SmallWorkshop(Workshop):
    """A workshop whose lecture is a small model."""

    @cached_property
    def lecture(self):
        return small_lecture()


class Recorded:
    """How far the training of a workshop says that it is."""

    done = 0

    def stage(self, name: str, total: int | None = None) -> None:
        self.total = total

    def advance(self, n: int = 1) -> None:
        self.done += n

    def note(self, line: str) -> None: ...


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A workshop with a run of a few steps on a model as small as its page."""
    settings = TrainConfig(steps=6, tokenizer="bytes", dtype="float32", threads=1)
    plan = Plan(
        model=SMALLEST.changed(context_length=32),
        optim=Recipe(name="adamw", lr=4e-3, matrix_lr=0.02, weight_decay=0.0).filled(PLAIN),
        batch_size=4,
        micro_batch=4,
        steps=6,
        schedule=((0, 1.0),),
        validate_every=3,
        validation_tokens=128,
        dtype="float32",
        threads=1,
        early_stop=False,
    )
    seen = Recorded()
    made = SmallWorkshop(tmp_path_factory.mktemp("learn"), seen, settings=settings, plan=plan)
    assert [one.step for one in made.validations] == [0, 3, 6]
    assert SmallWorkshop(made.folder).run == made.run  # found: the run of PAGE_RUN has 120 steps
    assert made.validations == SmallWorkshop(made.folder).validations
    assert (seen.total, seen.done) == (6, 6)
    return made


def test_a_sentence_has_a_target_less_than_tokens(workshop):
    assert questions.shift_by_one(workshop).answer == len(lm.Tokenizer.gpt2().encode(SENTENCE)) - 1


def test_the_loss_is_torchs_cross_entropy_and_the_perplexity_its_exponential(workshop):
    model, tokenizer = workshop.lecture
    ids = torch.tensor(tokenizer.encode(SENTENCE))
    with torch.no_grad():
        expected = F.cross_entropy(model(ids[None, :-1])[0], ids[1:]).item()
    assert questions.mean_of_surprisals(workshop).answer == pytest.approx(expected, rel=1e-6)
    assert questions.effective_choices(workshop).answer == pytest.approx(math.exp(expected), rel=1e-5)


def test_random_logits_cost_more_than_even_ones(workshop):
    asked = questions.loss_at_the_start(workshop)
    assert asked.answer == "c"
    numbers = [float(line.rpartition(" ")[2]) for line in asked.shown]
    assert numbers[0] == pytest.approx(numbers[2], abs=0.1)  # 64 targets are a small sample


def test_the_course_of_the_run_decides_what_is_asked_of_it(workshop):
    losses = {one.step: one.validation_loss_nats for one in workshop.validations}
    assert questions.turning_point(workshop).answer == min(losses, key=losses.get)
    end = workshop.validations[-1]
    ratio = end.validation_loss_nats / end.training_loss_nats
    assert questions.unseen_is_harder(workshop).answer == (
        "a" if ratio < 0.9 else "b" if ratio <= 1.1 else "c"
    )


def test_the_loss_of_two_texts_is_that_of_all_their_tokens_and_the_mean_of_means_is_wrong(workshop):
    asked = questions.sum_then_divide(workshop)
    texts = [workshop.next_page[:400], "JANUARY 14TH, 1887"]
    assert asked.answer == pytest.approx(lm.explain(*workshop.best, texts).loss_nats, rel=1e-5)
    means = [lm.explain(*workshop.best, text).loss_nats for text in texts]
    assert not asked.is_right(f"{sum(means) / 2}")


def test_a_shorter_stride_is_compared_with_a_stride_of_the_context(workshop):
    far, near = (
        lm.evaluate(*workshop.best, text=workshop.next_page, protocol=lm.Protocol(stride=n)).loss_nats
        for n in (32, 4)
    )
    assert questions.nearer_context(workshop).answer == ("a" if near < far else "c")


def test_the_model_with_larger_tokens_needs_fewer_bits_and_more_nats(workshop):
    asked = questions.one_unit_for_all(workshop)
    assert asked.answer == "a"
    nats = [float(line.split()[1]) for line in asked.given]
    assert nats[0] > nats[1]


def test_half_the_temperature_squares_the_odds(workshop):
    model, tokenizer = workshop.best
    ids = torch.tensor(tokenizer.encode(questions.PROMPT))
    with torch.no_grad():
        first, second = model(ids[None])[0, -1].softmax(-1).topk(2).values.tolist()
    assert questions.sharper_odds(workshop).answer == pytest.approx((first / second) ** 2, rel=1e-4)


def test_a_model_that_has_seen_little_recites_nothing(workshop):
    assert questions.recited(workshop).answer == "a"


def test_binary_cross_entropy_is_minus_the_logarithm_of_what_the_wrong_answer_left(workshop):
    asked = questions.yes_or_no(workshop)
    probability = float(asked.given[0].split()[2].rstrip("."))
    assert asked.answer == pytest.approx(-math.log(1 - probability), abs=0.01)


def test_an_answer_is_right_within_its_tolerance():
    number = Asked(answer=1234.0, tolerance=10, shown=())
    assert number.is_right("1,225")
    assert not number.is_right("1,223")
    letter = Asked(answer="b", shown=())
    assert letter.is_right(" B ")
    assert not letter.is_right("a")


@pytest.mark.parametrize(
    ("step", "kind", "others"),
    [(1, "1,225", ("b", "nan", "")), (4, " B ", ("1", "bb", "d", "")), (9, "b", ("c", "ab"))],
)
def test_an_answer_of_another_kind_than_the_questions_is_refused(step, kind, others):
    path.step_of(step).check(kind)
    for answer in others:
        with pytest.raises(ConfigError, match="answer "):
            path.step_of(step).check(answer)


def test_progress_is_kept_and_a_damaged_file_is_no_progress(tmp_path):
    path.mark_done(tmp_path, 3)
    path.mark_done(tmp_path, 1)
    assert path.done_in(tmp_path) == {1, 3}
    assert path.contents(tmp_path).count("[x]") == 2
    assert path.contents(tmp_path).endswith("lucidlm learn 2")
    (tmp_path / path.PROGRESS).write_text('{"done"')
    assert path.done_in(tmp_path) == set()


def test_the_verb_asks_checks_and_remembers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Workshop, "lecture", property(lambda _: small_lecture()))
    monkeypatch.setattr("sys.stdin", None)
    out = ["--out", str(tmp_path)]
    assert main(["learn", "1", *out]) == 0  # no terminal: the question alone
    assert path.STEPS[0].question in " ".join(capsys.readouterr().out.split())
    assert main(["learn", "1", "--answer", "8", *out]) == 1
    assert main(["learn", "1", "--answer", "7", "--json", *out]) == 0
    values = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert (values["step"], values["right"], values["expected"]) == (1, True, 7)
    assert path.done_in(tmp_path) == {1}
    assert (tmp_path / "page.txt").read_text() == (tmp_path / "story.txt").read_text()[:4000]
    for wrong in (["13"], ["1", "--answer", "seven"], ["--answer", "7"], ["1", "--json"]):
        assert main(["learn", *wrong, *out]) == 2
    assert main(["learn", *out]) == 0


def test_an_answer_of_another_kind_is_refused_before_a_model_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lm, "train", lambda *_, **__: pytest.fail("trained"))
    assert main(["learn", "5", "--answer", "7", "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("typed", "code"), [(["seven", "7"], 0), (["8"], 1), (["seven", EOFError], 0)])
def test_on_a_terminal_the_question_is_asked_until_the_answer_is_of_its_kind_or_the_input_ends(
    tmp_path, monkeypatch, capsys, typed, code
):
    answers = iter(typed)

    def typed_next(_: str) -> str:
        if (answer := next(answers)) is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", typed_next)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert main(["learn", "1", "--out", str(tmp_path)]) == code
    assert next(answers, None) is None
    assert path.done_in(tmp_path) == ({1} if typed[-1] == "7" else set())


@pytest.mark.parametrize("step", path.STEPS, ids=lambda step: step.title)
def test_the_command_of_a_step_is_one_that_the_program_takes(step):
    program, *arguments = shlex.split(step.command)
    if program == "python":
        exec(compile(arguments[1], step.title, "exec"), {})
        return
    assert program == "lucidlm"
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    if arguments[0] == "train":  # the command trains what the step trains
        settings = bound.arguments["settings"]
        assert settings == lm.TrainConfig(
            **{name: getattr(PAGE_RUN, name) for name in PAGE_RUN.__dataclass_fields__}
            | {"out": "learn/page"}
        )
        assert bound.arguments["texts"] == ("learn/page.txt",)


def test_the_page_tells_the_steps():
    assert (ROOT / "docs" / "learn.md").read_text(encoding="utf-8") == path.page()


def test_the_page_lists_the_lessons_of_the_lens():
    script = (ROOT / "lucidlm" / "serve" / "lens" / "lessons.js").read_text(encoding="utf-8")
    titles = re.findall(r'^    title: "(.*)",$', script, re.M)
    views = [each.capitalize() for each in re.findall(r'^    view: "(\w+)"', script, re.M)]
    assert [(title, view) for title, view, _ in path.IN_THE_LENS] == list(zip(titles, views, strict=True))
