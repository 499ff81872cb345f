"""The clock of a training: steps are counted in, changes of the plan that keep it in its time come out.

Only a new run with --minutes has a deadline. A run without one, a repeated and a resumed run never look at
the clock. A change is written to run.toml before it takes effect, so that both stay exact.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from lucidlm.runs.settings import Plan
from lucidlm.runtime.probes import core_share
from lucidlm.runtime.wording import plural
from lucidlm.training.prediction import Compressibility, predict
from lucidlm.training.schedule import moved, shortened

CONTENDED, QUIET = 0.5, 0.8
"""Shares of a core that a thread gets: with less, probes mislead; with more, no other program computes."""
LEAST_SHARE_TO_JUDGE, LATE_SHARE = 0.15, 0.8
"""No change before this part of the time, by too few steps; after the later part small delays count."""
FAR_BEHIND, BEHIND = 0.7, 0.97
"""Where less than this part of the planned steps is possible, the end moves at once: early, late in a run."""
JUDGING_SHARE = 0.03
"""Baselines and the model's own writing at the end take about this part of the time."""
LEAST_FINAL_TOKENS = 1024
"""Tokens that are evaluated at the end, however late it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """A plan as it goes on, and what is written of that."""

    plan: Plan
    event: dict[str, Any]
    """For metrics.jsonl."""
    note: str


@dataclass(slots=True, kw_only=True)
class Pace:
    """How long a run has taken, how fast it is, and when it must have ended."""

    clock: Callable[[], float] = time.perf_counter
    used: Callable[[], float] = time.process_time
    """Seconds that this process has computed, its workers included."""
    deadline_s: float | None = None
    """Seconds after the beginning; None for a run that never looks at the clock."""
    most_steps: int = sys.maxsize
    """More steps than these would teach nothing new, however much time is left."""
    final_tokens: int = sys.maxsize
    """Tokens of validation text that there is time to evaluate at the end."""
    text: Compressibility | None = None
    """What the plan has measured of the text: the prediction is renewed from it."""
    began: float = field(init=False)
    used_before_s: float = field(init=False)
    seconds_per_step: float = 0.0
    """Mean since `first`, validations and checkpoints included."""
    first: tuple[int, float] | None = None
    """The step and the time from which the speed is counted."""
    evaluated_per_s: float = 0.0
    """Tokens a second at the last validation."""
    saving_s: float = 0.0
    """Seconds of the last save."""
    looked: bool = False
    """Whether the planned look at the clock, where the decay begins, is over."""

    def __post_init__(self) -> None:
        self.began, self.used_before_s = self.clock(), self.used()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    def count(self, step: int) -> None:
        """A step has ended. The first one warms caches up, so that it is not counted."""
        if self.first is None:
            self.first = step, self.elapsed_s
        elif step > self.first[0]:
            self.seconds_per_step = (self.elapsed_s - self.first[1]) / (step - self.first[0])

    def left_s(self, *, reserve_s: float = 0.0) -> float:
        """Seconds until the deadline less what the end will take."""
        return max(0.0, (self.deadline_s or math.inf) - self.elapsed_s - reserve_s)

    def change(self, plan: Plan, step: int) -> Change | None:
        """The change that this step calls for, if any; none without a deadline."""
        return None if self.deadline_s is None else self._other_end(plan, step)

    def _other_end(self, plan: Plan, step: int) -> Change | None:
        """Another last step, so that the run ends in time: when the decay begins, or before if it must."""
        if not self.seconds_per_step:
            return None
        possible = step + int(self.left_s(reserve_s=self._reserve_s) / self.seconds_per_step)
        # A constant rate has no decay to move: `decay_from` is then a third of its steps.
        planned_look = not self.looked and step >= plan.decay_from
        if not planned_look and not self._is_late(possible, plan.steps):
            return None
        self.looked = self.looked or planned_look
        steps = max(step + 1, min(possible, self.most_steps))
        if abs(steps - plan.steps) <= plan.steps // 50:
            return None
        if not plan.decays:
            schedule = plan.schedule
        elif step >= plan.decay_from:
            schedule = shortened(plan.schedule, step=step, steps=steps)
        else:
            down = max(step, plan.decay_from * steps // plan.steps)
            schedule = moved(plan.schedule, down=down, steps=steps)
        changed = replace(plan, steps=steps, schedule=schedule)
        predicted = predict(self.text, changed) if self.text else None
        return Change(
            changed,
            {"step": step, "steps": steps, "schedule": schedule},
            f"the machine is {'slower' if steps < plan.steps else 'faster'} than planned: "
            f"{plural(steps, 'step')} instead of {plan.steps:,} (saved in run.toml)"
            + (f"; predicted now: {predicted}" if predicted else ""),
        )

    def _is_late(self, possible: int, planned: int) -> bool:
        """Whether the run would end too late: by much while it may still catch up, by little near the end."""
        assert self.deadline_s is not None
        share = self.elapsed_s / self.deadline_s
        if share < LEAST_SHARE_TO_JUDGE:
            return False
        return possible < planned * (FAR_BEHIND if share < LATE_SHARE else BEHIND)

    @property
    def _reserve_s(self) -> float:
        """Seconds that the last save and the evaluation at the end will take, by what they took before."""
        assert self.deadline_s is not None
        evaluating_s = self.final_tokens / self.evaluated_per_s if self.evaluated_per_s else 0.0
        return 1.0 + 2 * self.saving_s + min(evaluating_s, 0.05 * self.deadline_s) + self._judging_s

    @property
    def _judging_s(self) -> float:
        return JUDGING_SHARE * (self.deadline_s or 0.0)

    def tokens_to_evaluate(self) -> int:
        """Tokens of the validation text that there is time for, at the end."""
        if self.deadline_s is None or not self.evaluated_per_s:
            return self.final_tokens
        # However slow the machine has become, this takes at most a fiftieth over the time.
        seconds = max(self.left_s(reserve_s=self._judging_s), self.deadline_s / 50)
        return min(self.final_tokens, max(LEAST_FINAL_TOKENS, int(seconds * self.evaluated_per_s)))

    def effort(self) -> float:
        """The part of the usual work for baselines and memorization: what other programs leave of a core."""
        if self.deadline_s is None:
            return 1.0
        # A run computes nearly all the time, so that what it got is what there was.
        used = (self.used() - self.used_before_s) / max(1e-9, self.elapsed_s)
        share = min(1.0, used, core_share())
        return share if share < QUIET else 1.0
