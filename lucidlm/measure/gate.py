"""An evaluation as a gate in CI: a result and a limit or an older result come in, pass or fail goes out."""

import json
import math
import os
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.intervals import Design, Interval, interval_of_ratio
from lucidlm.measure.protocol import Counted
from lucidlm.measure.scoring import Scorer
from lucidlm.runtime.small_files import LARGEST_RECORD

NO_DIFFERENCE = 1e-4
"""Bits per byte that are no difference: what is printed, and more than other threads or kernels change."""
_SAME = {
    "name": ("protocol", "--protocol {}"),
    "context_length": ("context length", "--context-length {}"),
    "stride": ("stride", "--stride {}"),
    "prefix": ("prefix", "--prefix {}"),
}
"""What two results must share to be compared: its name, and the flag that sets it."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that `evaluate --json` printed earlier."""

    path: str
    bits_per_byte: float
    interval: tuple[float, float] | None
    """95 % interval of the bits per byte."""
    protocol: dict[str, Any]
    text_sha256: str
    design: Design
    units: np.ndarray | None
    """Nats, tokens and bytes of each unit, (n, 3); None where there were too many to store."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a result is good enough, in one line."""

    passed: bool
    line: str
    difference: float | None = None
    """Bits per byte more than the stored result."""
    interval: Interval | None = None
    """Paired 95 % interval of the difference."""
    joint: float | None = None
    """Half the width of the joint interval, where nothing can be paired."""

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        ends = [self.interval.low, self.interval.high] if self.interval else None
        return {
            "passed": self.passed,
            "line": self.line,
            "difference": self.difference,
            "paired_interval": ends,
            "joint_half_width": self.joint,
        }


def check_limit(max_bits: float) -> float:
    """The limit; ConfigError for a number that cannot be one."""
    if not (math.isfinite(max_bits) and max_bits > 0):
        raise ConfigError(f"--max-bits {max_bits}: it must be a number of bits per byte over 0, such as 2.5")
    return max_bits


def below_limit(evaluation: Evaluation, max_bits: float) -> Verdict:
    """Whether the bits per byte are at most `max_bits`."""
    bits = _bits(evaluation, f"--max-bits {max_bits:g}")
    passed = bits <= max_bits
    where = "within" if passed else "over"
    return Verdict(passed, f"{bits:.4f} bits per byte, {where} --max-bits {max_bits:g}")


def no_worse(evaluation: Evaluation, stored: StoredResult) -> Verdict:
    """Whether the result is no worse than a stored one of the same text, by what the text can show.

    Worse is: by more than the paired 95 % interval of the difference, unit by unit; where units cannot be
    paired (another tokenizer on one long text), by more than both intervals together.
    """
    bits = _bits(evaluation, f"--baseline {stored.path}")
    _check_comparable(evaluation, stored)
    difference = bits - stored.bits_per_byte
    paired = _paired(evaluation, stored)
    joint = None if paired else _joint(evaluation, stored)
    if paired is not None:
        worse = paired.low > 0 and difference > NO_DIFFERENCE
        better = paired.high < 0 and difference < -NO_DIFFERENCE
        how = f"paired 95 % interval {paired.low:+.4f} to {paired.high:+.4f}"
    elif joint is not None:
        worse, better = (sign * difference > max(joint, NO_DIFFERENCE) for sign in (1, -1))
        how = f"joint 95 % interval {difference - joint:+.4f} to {difference + joint:+.4f}"
    elif difference > NO_DIFFERENCE:
        raise _cannot_tell(evaluation, stored, difference)
    else:
        worse = better = False
        how = "no interval is needed"
    word = "worse" if worse else "better" if better else "no worse"
    line = f"{bits:.4f} bits per byte, {stored.path} had {stored.bits_per_byte:.4f}"
    return Verdict(not worse, f"{word}: {line}: {difference:+.4f} ({how})", difference, paired, joint)


def _cannot_tell(evaluation: Evaluation, stored: StoredResult, difference: float) -> DataError:
    """The error where a result is larger and neither result has an interval."""
    more = "more documents" if evaluation.design == "documents" else "a longer text"
    if evaluation.no_interval is not None and evaluation.no_interval.code == "seen":
        more = "a text that the model was not trained on"
    return DataError(
        f"{stored.path}: {difference:+.4f} bits per byte, and this text cannot tell whether that is worse "
        f"({evaluation.no_interval or 'the stored result has no interval'}); give {more}, or --max-bits X"
    )


def _bits(evaluation: Evaluation, flag: str) -> float:
    if not evaluation.bytes_scored:
        raise ConfigError(
            f"{flag}: protocol {evaluation.protocol.name} counts no bytes, so there are no bits per byte; "
            "use --protocol lucid or lm-eval"
        )
    return evaluation.bits_per_byte


def _check_comparable(evaluation: Evaluation, stored: StoredResult) -> None:
    if evaluation.text_sha256 != stored.text_sha256:
        raise DataError(
            f"{stored.path}: a result of another text (SHA-256 {stored.text_sha256[:12]}, this one "
            f"{evaluation.text_sha256[:12]}); give the text it was made with, or store a new result"
        )
    _check_protocol(evaluation.protocol, stored)


def check_settings(stored: StoredResult, scorer: Scorer) -> None:
    """ConfigError, before minutes are spent, where the stored result was counted in another way."""
    _check_protocol(scorer.counted(), stored)


def _check_protocol(protocol: Counted, stored: StoredResult) -> None:
    for key, (name, flag) in _SAME.items():
        ours, theirs = getattr(protocol, key), stored.protocol[key]
        if ours != theirs:
            value = {"end-of-text": "auto"}.get(theirs, theirs)
            raise ConfigError(
                f"{stored.path}: a result of another {name} ({theirs}, this one {ours}); give "
                f"{flag.format(value)}, or store a new result"
            )


def _paired(evaluation: Evaluation, stored: StoredResult) -> Interval | None:
    """The interval of the difference in bits per byte; None where the units are not the same bytes."""
    ours, theirs = evaluation.units, stored.units
    if theirs is None or evaluation.design != stored.design or ours.shape != theirs.shape:
        return None
    if not np.allclose(ours[:, 2], theirs[:, 2], rtol=0, atol=1e-3):
        return None
    differences = (ours[:, 0] - theirs[:, 0]) / math.log(2)
    return interval_of_ratio(
        differences,
        ours[:, 2],
        design=evaluation.design,
        fraction=evaluation.fraction,
        same=evaluation.same,
    )[0]


def _joint(evaluation: Evaluation, stored: StoredResult) -> float | None:
    """Half the width of the interval of the difference, if both results are taken to be independent."""
    ours = evaluation.bits_interval
    if ours is None or stored.interval is None:
        return None
    return math.hypot(evaluation.bits_per_byte - ours.low, stored.interval[1] - stored.bits_per_byte)


def read_result(path: str | os.PathLike) -> StoredResult:
    """A stored result; DataError for a file that is not one."""
    try:
        with open(path, "rb") as file:  # it may be a pipe: --baseline <(lucidlm evaluate ...)
            data = file.read(LARGEST_RECORD)
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read ({problem.strerror or problem}); store a result with: lucidlm evaluate "
            f"MODEL TEXT --json > {path}"
        ) from problem
    try:
        return _result(str(path), json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        empty = "it is empty: a shell empties the file that output goes to before the command runs"
        reason = empty if not data.strip() else _reason(problem)
        raise DataError(
            f"{path}: not a stored result ({reason}); make one with: "
            "lucidlm evaluate MODEL TEXT --json > FILE"
        ) from problem


def _reason(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "not JSON"
    return f"no {problem}" if isinstance(problem, KeyError) else " ".join(str(problem).split())


def _result(path: str, values: Any) -> StoredResult:
    if not isinstance(values, dict):
        raise TypeError("not a JSON object")
    units, interval, protocol = values["units"], values["bits_interval"], values["protocol"]
    if values["design"] not in get_args(Design):
        raise ValueError(f"design {values['design']!r}")
    for key in _SAME:
        if key not in protocol:
            raise KeyError(key)
    return StoredResult(
        path,
        _number(values["bits_per_byte"], "bits_per_byte"),
        (_number(interval["low"], "low"), _number(interval["high"], "high")) if interval else None,
        protocol,
        str(values["text_sha256"]),
        values["design"],
        _units(units) if units is not None else None,
    )


def _number(value: Any, name: str) -> float:
    """A finite number of a JSON file."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {json.dumps(value)}, not a number")
    return float(value)


def _units(rows: Any) -> np.ndarray:
    units = np.asarray(rows, np.float64)
    if units.ndim != 2 or units.shape[1] != 3 or not np.isfinite(units).all():
        raise ValueError("units are not rows of nats, tokens and bytes")
    return units
