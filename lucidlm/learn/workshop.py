"""What the steps compute with: a folder in; the story, the lecture's model and a model that overfits out."""

import importlib.resources
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import lucidlm as lm
from lucidlm.runs.history import Validation, read_history
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from lucidlm.model.gpt import GPT
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.training.state import Report

PAGE_CHARACTERS = 4000
"""A tenth of it is enough to see the validation loss turn, and 120 steps are enough to overfit."""
PAGE_RUN = TrainConfig(
    steps=120,
    preset="modern-1m",
    tokenizer="bytes",
    context_length=128,
    batch_tokens=1024,
    early_stop=False,
)
"""The run of step 5: its validation loss is lowest before the middle, and at the end it recites the page."""


@dataclass(frozen=True)
class Workshop:
    """The parts that the steps share; each is made when a step first needs it.

    `folder` gets story.txt, page.txt, the run page/ and progress.json.
    """

    folder: Path
    progress: Progress = SILENT
    settings: TrainConfig = PAGE_RUN
    plan: Plan | None = None

    @cached_property
    def story(self) -> str:
        """The bundled story."""
        return (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text("utf-8")

    @property
    def page(self) -> str:
        """The first page of the story, which the run is trained on (but for its held-out tenth)."""
        return self.story[:PAGE_CHARACTERS]

    @property
    def next_page(self) -> str:
        """The half page after it, which no run of the path is trained on."""
        return self.story[PAGE_CHARACTERS : PAGE_CHARACTERS + 2000]

    @cached_property
    def lecture(self) -> "tuple[GPT, Tokenizer]":
        """The course's model with random weights."""
        return lm.load("lecture")

    @cached_property
    def run(self) -> Path:
        """The run on the first page: trained if it is not there, resumed if it was interrupted."""
        run = self.folder / "page"
        resume = (run / "run.toml").exists()
        if not resume or read_history(run).final is None:
            self.write_texts()
            settings = TrainConfig() if resume else replace(self.settings, text=str(self.folder / "page.txt"))
            # Its own stage only: the notes of a training would give later answers away.
            self.progress.stage("training on the first page (once, about 30 seconds)", self.settings.steps)
            done = 0

            def watch(report: "Report") -> None:
                nonlocal done
                self.progress.advance(report.step.step - done)
                done = report.step.step

            plan = None if resume else self.plan
            lm.train(replace(settings, out=str(run)), plan=plan, resume=resume, watch=watch)
        return run

    @cached_property
    def validations(self) -> tuple[Validation, ...]:
        """The losses during the run."""
        return read_history(self.run).validations

    @cached_property
    def best(self) -> "tuple[GPT, Tokenizer]":
        """The weights of the run with the lowest validation loss."""
        return lm.load(str(self.run))

    @cached_property
    def last(self) -> "tuple[GPT, Tokenizer]":
        """The weights of the run after its last step."""
        return lm.load(str(max((self.run / "checkpoints").iterdir())))

    def write_texts(self) -> None:
        """Writes the story and its first page: the commands of the steps name them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("story.txt", self.story), ("page.txt", self.page)):
            if not (self.folder / name).exists():
                write_atomically(self.folder / name, text.encode())
