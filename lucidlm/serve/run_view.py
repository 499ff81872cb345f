"""A run's folder comes in, what the view Train shows of it goes out: curves, samples, speed, baselines.

A run is read again only when its files have changed: many clients may ask for it every second.
"""

import contextlib
import math
import statistics
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lucidlm.errors import LucidError
from lucidlm.measure.baseline import NAMES
from lucidlm.measure.ngrams import fit_orders, nats_of_documents
from lucidlm.report.curves import Rows, curves_of, rows_of, thinned, thinning
from lucidlm.runs.data import CORPUS, corpus_of_run
from lucidlm.runs.history import METRICS, SAMPLES, History, read_history
from lucidlm.runs.listing import row_of
from lucidlm.runs.records import read_events
from lucidlm.runs.run_toml import read_settings
from lucidlm.runs.settings import Plan
from lucidlm.runtime.locks import is_locked
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.serve.transcript import spelled
from lucidlm.text.corpus import Corpus, validation_documents
from lucidlm.text.excerpts import as_excerpt
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.whole import SETTINGS

KEPT = 8
"""Runs that are kept in memory as they were read; a run of 10,000 steps takes about 10 MB."""
LAST_STEPS = 20
"""Steps whose median is the speed."""
LARGEST_COUNTED_BYTES = 20_000_000
"""Training text whose tokens are counted while a run trains: a second or two."""
TOKENIZER = "tokenizer.json"

Line = tuple[str, float]
"""A baseline: its name, and nats per token."""
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it was when its files were read."""

    row: dict[str, Any]
    """What `lucidlm runs --json` says of it."""
    history: History
    rows: Rows
    plan: Plan | None
    samples: tuple[dict[str, Any], ...]
    lines: tuple[Line, ...]
    read_s: float
    """Seconds that reading took."""

    @property
    def size(self) -> int:
        """How many steps are one point of the curve of batches."""
        return thinning(len(self.history.steps))

    def head(self) -> dict[str, Any]:
        """What changes from step to step, beside the points."""
        return self.row | {
            "time_s": max((row[3] for row in (*self.rows.batch[-1:], *self.rows.validation[-1:])), default=0),
            "tokens_per_s": self._tokens_per_s,
            "time_left_s": self._time_left_s,
            "vocab_size": self.plan.model.vocab_size if self.plan is not None else None,
            "lines": self.lines,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it."""
        name = Path(self.row["run"]).name
        curves = curves_of(self.history, name).to_dict() | {
            "batch": thinned(self.rows.batch, self.size),
            "training": self.rows.training,
            "validation": self.rows.validation,
        }
        return self.head() | {
            "curves": curves,
            "validations": [asdict(each) for each in self.history.validations],
            "samples": self.samples,
        }

    @property
    def _tokens_per_s(self) -> float | None:
        speeds = [each.tokens_per_s for each in self.history.steps[-LAST_STEPS:]]
        return statistics.median(speeds) if speeds else None

    @property
    def _time_left_s(self) -> float | None:
        if self.row["status"] != "training" or self.plan is None or not self._tokens_per_s:
            return None
        steps = max(0, self.plan.steps - self.history.last_step)
        return steps * self.plan.batch_tokens / self._tokens_per_s


@dataclass(slots=True)
class _Known:
    """What was read of one run, each part with the state of the files that it was read from."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    parts: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def part(self, name: str, stamp: Any, read: Callable[[], _Read]) -> _Read:
        """The part, read again where the stamp is another one."""
        if name not in self.parts or self.parts[name][0] != stamp:
            self.parts[name] = stamp, read()
        return self.parts[name][1]


class RunViews:
    """The runs that were read last. To be called from any thread, not from the event loop: it reads files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, _Known] = OrderedDict()
        self._rows: dict[Path, tuple[Any, dict[str, Any]]] = {}

    def rows(self, runs: list[Path]) -> list[dict[str, Any]]:
        """What the list says of each run."""
        found = {run: self._row(run) for run in runs}
        with self._lock:
            self._rows = {run: self._rows[run] for run in runs if run in self._rows}
        return list(found.values())

    def _row(self, run: Path) -> dict[str, Any]:
        stamp = _stamp_of(run)
        if (known := self._rows.get(run)) is not None and known[0] == stamp:
            return known[1]
        row = row_of(run)
        self._rows[run] = stamp, row
        return row

    def view(self, run: Path) -> RunView:
        """One run."""
        with self._lock:
            known = self._known.setdefault(run, _Known())
            self._known.move_to_end(run)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        with known.lock:
            return known.part("view", _stamp_of(run), partial(_view_of, run, known))


def _stamp_of(run: Path) -> Any:
    """What differs when a run's files have changed, or when its training has begun or ended."""
    return is_locked(run), _times(run, METRICS, SAMPLES, SETTINGS, WEIGHTS, MANIFEST)


def _times(run: Path, *names: str) -> list[tuple[int, int] | None]:
    """Time and size of each of these files; None where there is none."""
    found = []
    for name in names:
        try:
            status = (run / name).stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return found


def _view_of(run: Path, known: _Known) -> RunView:
    began = time.perf_counter()
    history, plan = History((), ()), None
    with contextlib.suppress(LucidError, OSError, ValueError, RecursionError):  # the row says what is wrong
        history = read_history(run)
    with contextlib.suppress(LucidError, OSError):
        _, plan = read_settings(run)
    tokenizer = known.part("tokenizer", _times(run, TOKENIZER), partial(_tokenizer_of, run))
    unigram = None
    if not history.baselines and history.steps:
        stamp = _times(run, f"{CORPUS}/{MANIFEST}")
        unigram = known.part("unigram", stamp, partial(_unigram_of, run))
    return RunView(
        row_of(run, history),
        history,
        rows_of(history),
        plan,
        tuple(_samples_of(run, tokenizer)),
        tuple(lines_of(history, plan, unigram)),
        time.perf_counter() - began,
    )


def _tokenizer_of(run: Path) -> Tokenizer | None:
    try:
        return Tokenizer.load(run)
    except (LucidError, OSError):
        return None


def _samples_of(run: Path, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, each with the tokens of its probe; a damaged line is passed over."""
    try:
        events = list(read_events(run / SAMPLES))
    except (LucidError, OSError):
        return []
    found = []
    for event in events:
        with contextlib.suppress(KeyError, TypeError, LucidError):
            ids, numbers = event["probe_ids"], event["probe_log_probabilities"]
            # The first token has none where nothing stands before it.
            padded = [None] * (len(ids) - len(numbers)) + numbers
            texts = [spelled(tokenizer, id) if tokenizer is not None else f"<id {id}>" for id in ids]
            probe = [
                {"text": text, "log_probability": number} for text, number in zip(texts, padded, strict=True)
            ]
            found.append({key: event[key] for key in ("step", "prompt", "text")} | {"probe": probe})
    return found


def lines_of(history: History, plan: Plan | None, unigram: float | None = None) -> list[Line]:
    """The baselines in nats per token: those of the run's end; before it, uniform and unigram."""
    final = history.final
    if history.baselines and final is not None and final.bits_per_byte:
        nats_per_bit = final.loss_nats / final.bits_per_byte
        return [(each.name, each.bits_per_byte * nats_per_bit) for each in history.baselines]
    lines = [] if plan is None else [(NAMES["uniform_vocabulary"], math.log(plan.model.vocab_size))]
    return lines + ([] if unigram is None else [(NAMES["unigram_tokens"], unigram)])


def _unigram_of(run: Path) -> float | None:
    """`unigram_nats` of a run; None where its text cannot be read, or is so large that it takes too long."""
    try:
        corpus = corpus_of_run(run)
        return unigram_nats(corpus) if corpus.train_bytes <= LARGEST_COUNTED_BYTES else None
    except (LucidError, OSError):
        return None


def unigram_nats(corpus: Corpus) -> float:
    """Nats per held-out token by the training text's frequencies, as a run's baseline at its end has it."""
    tokenizer = corpus.tokenizer
    start = tokenizer.end_of_text
    orders = fit_orders(np.asarray(corpus.train[:]), 1, tokenizer.vocab_size, start_id=start)
    pieces = [as_excerpt(each) for each in validation_documents(corpus)]
    nats = nats_of_documents(
        orders,
        [each.ids for each in pieces],
        tokenizer.vocab_size,
        prefix_id=start,
        before=[each.before for each in pieces],
    )
    return float(nats.mean())
