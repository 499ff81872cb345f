"""A training under way: what its loop keeps from step to step, and the report that it gives of each."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lucidlm.model.gpt import GPT
from lucidlm.report.card import Trained
from lucidlm.runs.history import Step, Validation, lowest, passed_its_best, untimed
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.run_toml import write_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.text.corpus import Corpus
from lucidlm.text.windows import Windows
from lucidlm.training.gradient import Gradient
from lucidlm.training.optim import Optimizers
from lucidlm.training.pace import Change, Pace
from lucidlm.training.validation import Samples
from lucidlm.weights.header import Origin


@dataclass(frozen=True, slots=True)
class Report:
    """What one step did, and what was done after it."""

    step: Step
    steps: int
    """Steps in all, as planned now."""
    time_left_s: float
    validation: Validation | None = None
    sample: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """A training under way."""

    folder: Path
    config: TrainConfig
    plan: Plan
    corpus: Corpus
    windows: Windows
    samples: Samples
    model: GPT
    optimizers: Optimizers
    gradient: Gradient
    peak_flops_per_s: float
    metrics: Metrics
    pace: Pace
    id: str
    """Names the run in its files; "" for a run that a former version began."""
    step: int = 0
    tokens: int = 0
    validations: list[Validation] = field(default_factory=list)
    kept: Validation | None = None
    """The losses of the best weights, which are in `best_state` or in the folder."""
    best_state: dict[str, Tensor] | None = None
    """The best weights, where they are not yet in the run's folder."""
    validation_pending: bool = True
    """Whether the validation of this step is still to come: a signal may end the run before it."""
    stopped_early: bool = False
    saved: tuple[int, int] = (0, -1)
    """Step and number of validations of the last checkpoint."""
    unsaved: str | None = None
    """Why the last save failed; None where it did not."""
    saved_at: float = field(default_factory=time.perf_counter)

    @property
    def unfinished(self) -> bool:
        """Whether steps of the plan are left."""
        return self.step < self.plan.steps and not self.stopped_early

    @property
    def best(self) -> Validation | None:
        """The losses of the best weights so far."""
        return self.kept or lowest(self.validations)

    @property
    def has_passed_its_best(self) -> bool:
        """Whether the run is to stop before its plan ends."""
        return self.plan.early_stop and passed_its_best(
            self.validations, decay_from=self.plan.early_stop_from
        )

    def trained(self) -> Trained:
        """What the model card says of the training."""
        epochs = self.windows.epoch_at(self.step, self.plan.batch_size)
        return Trained(self.folder, self.config, self.plan, self.corpus, self.step, epochs, self.best)

    def keep_weights(self, validation: Validation | None) -> None:
        """The weights of this step are the best from now on, with these losses."""
        self.kept = validation
        self.best_state = {
            name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()
        }

    def is_best(self, validation: Validation) -> bool:
        """Whether these losses are lower than those of the weights that are kept."""
        kept = self.kept.validation_loss_nats if self.kept is not None else math.nan
        return math.isnan(kept) or validation.validation_loss_nats < kept

    def change(self, change: Change) -> None:
        """Another plan from the next step on: run.toml has it before it takes effect."""
        self.plan = change.plan
        write_settings(self.folder, self.config, self.plan, id=self.id)
        self.metrics.event("plan", change.event)

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
