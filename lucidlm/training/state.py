"""A training under way: what its loop keeps from step to step."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lucidlm.model.gpt import GPT
from lucidlm.report.card import Trained
from lucidlm.runs.history import Validation, lowest, untimed
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.text.corpus import Corpus
from lucidlm.text.windows import Windows
from lucidlm.training.clock import Clock
from lucidlm.training.optim import Optimizers
from lucidlm.training.prediction import Compressibility
from lucidlm.training.validation import Samples
from lucidlm.weights.header import Origin


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """A training under way: what its loop keeps from step to step."""

    folder: Path
    config: TrainConfig
    plan: Plan
    corpus: Corpus
    windows: Windows
    samples: Samples
    model: GPT
    optimizers: Optimizers
    hidden: Callable[[Tensor], Tensor]
    """model.hidden, or its compiled form."""
    dtype: torch.dtype
    peak_flops_per_s: float
    metrics: Metrics
    clock: Clock
    most_steps: int
    """More than these the text does not bear, however much time is left."""
    final_tokens: int
    """Tokens of validation text that there is time to evaluate at the end."""
    step: int = 0
    tokens: int = 0
    validations: list[Validation] = field(default_factory=list)
    id: str = ""
    """What names the run in its files; "" of one that a former version began."""
    kept: Validation | None = None
    """The losses of the best weights, which are in `best_state` or in the folder."""
    best_state: dict[str, Tensor] | None = None
    """The best weights, where they are not yet in the run's folder."""
    validation_pending: bool = True
    """Whether the validation of this step is still to come: a signal may end the run before it."""
    stopped_early: bool = False
    evaluated_per_s: float = 0.0
    """Tokens a second at the last validation."""
    alone_s: float | None = None
    """Seconds of a step on one thread, where the plan has tried that."""
    text: Compressibility | None = None
    """What the plan has measured of the text; None for a run that was given its plan."""
    last_seconds: list[float] = field(default_factory=list)
    """Seconds of the last three steps."""
    saved: tuple[int, int] = (0, -1)
    """Step and number of validations of the last checkpoint."""
    unsaved: str | None = None
    """Why the last save failed; None where it did not."""
    saved_at: float = field(default_factory=time.perf_counter)
    saving_s: float = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether steps of the plan are left."""
        return self.step < self.plan.steps and not self.stopped_early

    @property
    def best(self) -> Validation | None:
        """The losses of the best weights so far."""
        return self.kept or lowest(self.validations)

    def trained(self) -> Trained:
        """What the model card says of the training."""
        epochs = self.windows.epoch_at(self.step, self.plan.batch_size)
        return Trained(self.folder, self.config, self.plan, self.corpus, self.step, epochs, self.best)

    def is_best(self, validation: Validation) -> bool:
        """Whether these losses are lower than those of the weights that are kept."""
        kept = self.kept.validation_loss_nats if self.kept is not None else math.nan
        return math.isnan(kept) or validation.validation_loss_nats < kept

    @property
    def origin(self) -> Origin:
        """Whose the weights of this step are."""
        now = self.validations[-1] if self.validations else None
        return self._origin(self.step, now if now is not None and now.step == self.step else None)

    @property
    def best_origin(self) -> Origin:
        """Whose the best weights are."""
        return self.origin if self.kept is None else self._origin(self.kept.step, self.kept)

    def _origin(self, step: int, validation: Validation | None) -> Origin:
        return Origin(self.id, step, None if validation is None else untimed(validation))

    @property
    def reserve_s(self) -> float:
        """Seconds that the last save and the evaluation at the end will take, by what they took before."""
        tokens = min(self.final_tokens, self.corpus.validation_tokens)
        evaluating_s = tokens / self.evaluated_per_s if self.evaluated_per_s else 0.0
        evaluating_s = min(evaluating_s, 0.05 * (self.clock.deadline_s or 0.0))
        return 1.0 + 2 * self.saving_s + evaluating_s + self.judging_s

    @property
    def judging_s(self) -> float:
        """Seconds for the baselines and for the model's own writing, at the end."""
        return 0.03 * (self.clock.deadline_s or 0.0)
