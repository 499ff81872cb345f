"""Made-up histories of runs: losses in, validations and a History out."""

from collections.abc import Iterable

from lucidlm.measure.baseline import Baseline, Baselines
from lucidlm.runs.history import History, Step, Validation


def validation(
    step: int, loss: float, *, training: float = 2.9, epoch: float | None = None, tokens: int = 1000
) -> Validation:
    return Validation(
        step=step,
        epoch=step / 10 if epoch is None else epoch,
        validation_loss_nats=loss,
        validation_perplexity=2.718281828**loss,
        validation_bits_per_byte=loss / 2,
        validation_tokens=tokens,
        training_loss_nats=training,
        training_perplexity=2.718281828**training,
        training_bits_per_byte=training / 2,
        training_tokens=1000,
        time_s=step / 10,
    )


def taken(step: int, loss: float = 3.0) -> Step:
    """A training step."""
    return Step(
        step=step, epoch=step / 100, tokens=64 * step, loss_nats=loss, learning_rate_factor=1.0,
        grad_norm=0.5, tokens_per_s=1e4, mfu=None, time_s=step / 10,
    )  # fmt: skip


def curve(
    losses: Iterable[float], trainings: Iterable[float], *, every: int = 10, epochs: float = 10, tokens=1000
) -> History:
    """A run validated each `every` steps, first after `every`."""
    pairs = [*zip(losses, trainings, strict=True)]
    rows = [
        validation(every * place, float(loss), training=float(training), epoch=epochs * place / len(pairs),
                   tokens=tokens)
        for place, (loss, training) in enumerate(pairs, start=1)
    ]  # fmt: skip
    return History((), tuple(rows))


def counting(*, unigram: float = 2.4, ngram: float = 1.4) -> Baselines:
    """Bits per byte; a loss of 3.0 nats in these histories is 1.5."""
    rows = (Baseline("unigram_tokens", unigram), Baseline("ngram_bytes", ngram), Baseline("xz", 1.9))
    return Baselines(rows, heldout_bytes=1, training_bytes=1)


# Validation losses of a run that converges, one that still improves, one that overfits; training losses.
FALL = [3.6, 3.3, 3.1, 3.03, 3.005, 3.0, 3.0, 3.001, 2.999, 3.0, 3.001]
STILL = [3.6, 3.4, 3.3, 3.22, 3.16, 3.11, 3.07, 3.04, 3.01, 2.98, 2.95]
BEND = [3.6, 3.3, 3.1, 3.0, 3.03, 3.08, 3.14, 3.2, 3.27, 3.33, 3.4]
TRAIN = [3.5, 3.2, 3.0, 2.95, 2.93, 2.92, 2.91, 2.9, 2.9, 2.9, 2.9]
