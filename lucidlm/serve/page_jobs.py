"""Work that the views of the lens ask the model's thread for, beside what programs ask for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lucidlm.errors import ServerError
from lucidlm.measure.comparison import comparing
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.serve.jobs import Event, Job, Measurement, Served


@dataclass(frozen=True, slots=True)
class PlaceLogits:
    """The logits from which one token of a text was predicted."""

    target: int
    logits: torch.Tensor  # (V,), float32, on the CPU


class Logits(Job):
    """The logits of the scored token `place` (from 0) of a text, as its explanation has them."""

    def __init__(
        self,
        served: Served,
        deliver: Callable[[Event], None],
        text: str,
        place: int,
        *,
        protocol: Protocol = LUCID,
    ) -> None:
        super().__init__(served, deliver)
        scorer = Scorer(served.model, served.tokenizer, protocol)
        self._pieces = scorer.pieces([text])
        self._place, self._seen = place, 0

    def advance(self) -> bool:
        """Scores the next piece of the text; done where it holds the place."""
        piece = next(self._pieces, None)
        if piece is None:
            raise ServerError(
                f"place {self._place}: the text has {self._seen} tokens that are predicted",
                "give a smaller one",
                param="place",
            )
        row = self._place - self._seen
        self._seen += len(piece.targets)
        if row >= len(piece.targets):
            return False
        self.deliver(PlaceLogits(int(piece.targets[row]), piece.logits[row].float().cpu()))
        return True

    def forget(self) -> None:
        """Drops the windows of the text."""
        self._pieces = iter(())


class Compares(Measurement):
    """The comparison of two models on a text, by the function of `lucidlm compare`."""

    def __init__(self, served: Served, other: Served, deliver: Callable[[Event], None], text: str) -> None:
        models = [(each.model, each.tokenizer) for each in (served, other)]
        super().__init__(served, deliver, comparing(*models, [text], names=(served.name, other.name)))
