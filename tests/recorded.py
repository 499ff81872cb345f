"""A progress that remembers what it was called with."""

from collections.abc import Callable


class Recorded:
    """Stages as [name, units done, total], and notes; `at` gets the stage at each advance."""

    def __init__(self, notes: list | None = None, at: Callable[[str], None] = lambda name: None) -> None:
        self.notes = [] if notes is None else notes
        self.stages: list[list] = []
        self.steps = 0
        self.at = at

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append([name, 0, total])

    def advance(self, n: int = 1) -> None:
        self.stages[-1][1] += n
        self.steps += 1
        self.at(self.stages[-1][0])

    def note(self, line: str) -> None:
        self.notes.append(line)
