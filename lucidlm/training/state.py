"""A training under way: what its loop keeps from step to step, and the report that it gives of each."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lucidlm.model.gpt import GPT
from lucidlm.report.card import Trained
from lucidlm.runs.history import Step, Validation, lowest, passed_its_best, untimed
from lucidlm.runs.metrics import Metrics
from lucidlm.runs.run_toml import read_settings, write_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.distributed import ALONE, World, is_divided, whole
from lucidlm.text.corpus import Corpus
from lucidlm.text.windows import Windows
from lucidlm.training.gradient import Gradient
from lucidlm.training.optim import Optimizers
from lucidlm.training.pace import Change, Pace
from lucidlm.training.snapshot import Writing
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
    world: World = ALONE
    """The processes that train it; the first writes its files."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
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
    writing: Writing | None = None
    """A save that is written while training goes on."""
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
        """The weights of this step are the best from now on, with these losses.

        The first process keeps them; of another one `best_state` is empty.
        """
        self.kept = validation
        state = self.whole_state()
        self.best_state = {name: tensor.cpu().clone() for name, tensor in state.items()}

    @property
    def divided(self) -> bool:
        """Whether each process has only a part of the weights."""
        return any(map(is_divided, self.model.parameters()))

    def whole_state(self) -> dict[str, Tensor]:
        """The weights of this step by name, whole, on the first process; {} on others. All call it."""
        found = ((name, whole(tensor.detach())) for name, tensor in self.model.state_dict().items())
        return {name: tensor for name, tensor in found if self.world.first}

    def whole_model(self) -> GPT | None:
        """The model with the weights of this step, on the first process; None on others. All call it."""
        if not self.divided:
            return self.model if self.world.first else None
        state = self.whole_state()
        return model_with(self.model, state, self.device) if self.world.first else None

    def is_best(self, validation: Validation) -> bool:
        """Whether these losses are lower than those of the weights that are kept."""
        kept = self.kept.validation_loss_nats if self.kept is not None else math.nan
        return math.isnan(kept) or validation.validation_loss_nats < kept

    def change(self, change: Change | None) -> None:
        """Another plan from the next step on: run.toml has it before it takes effect.

        The first process gives it; the others, without one, read it there.
        """
        if change is not None:
            write_settings(self.folder, self.config, change.plan, id=self.id)
            self.metrics.event("plan", change.event)
        self.world.told(lambda: True)
        plan = change.plan if change is not None else read_settings(self.folder)[1]
        assert plan is not None
        self.plan = plan

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


def model_with(model: GPT, state: dict[str, Tensor], device: torch.device) -> GPT:
    """A model of the same shape with these weights, on a device, in eval mode."""
    found = GPT.empty(model.config)
    found.load_state_dict({name: tensor.to(device) for name, tensor in state.items()}, assign=True)
    if model.config.tied_head:
        found.head.weight = found.token_embedding.weight
    return found.eval()
