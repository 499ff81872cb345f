"""Coloured tokens: the columns of explained texts in, their colours and a compact form for the page out.

The script templates/tokens.js reads that form: it draws a span for each token, the legend and the panel.
"""

import base64
import gzip
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lucidlm.pages.page import LEVELS, in_script, token_span

if TYPE_CHECKING:
    from markupsafe import Markup

WRITTEN_TOKENS = 5000
"""Longer texts are coloured by the script alone: spans for a text of 52 KB would add 1 MB to its page."""
LARGEST_CODE = 0xFFFF
"""Of `short_probabilities`: 0."""


def colour_edges(values: np.ndarray, most: float) -> np.ndarray:
    """The least value of each level but the first: (LEVELS - 1,), inf for a level that stays empty.

    The scale from 0 to `most` is logarithmic, as most tokens of a good model cost little. If all values fall
    into one or two of its levels (random weights: each token costs about ln V), the levels are spread over
    the values, an equal number of them in each.

    >>> colour_edges(np.array([0.1, 3.0, 9.0]), most=np.expm1(8)).round(2)
    array([   1.72,    6.39,   19.09,   53.6 ,  147.41,  402.43, 1095.63])
    >>> colour_edges(np.array([10.1, 10.5, 11.3]), most=10.8).round(2)
    array([10.3, 10.3, 10.9, 10.9, 10.9,  inf,  inf])
    """
    edges = np.expm1(np.arange(1, LEVELS) / LEVELS * np.log1p(max(most, 1e-9)))
    distinct = np.unique(values[np.isfinite(values)])
    if len(distinct) < 2 or np.ptp(np.searchsorted(edges, distinct, side="right")) > 1:
        return edges
    above = -(-np.arange(1, LEVELS) * len(distinct) // LEVELS)  # the first value of each level
    bounds = np.append((distinct[1:] + distinct[:-1]) / 2, np.inf)
    return bounds[above - 1]


def token_view(
    columns: dict[str, np.ndarray], spell: Callable[[int], str], edges: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What the page shows of a text: `spans`, a piece of HTML at a time, and `data`, JSON for the script.

    `columns` are those of ExplainedTokens, `edges` the levels of each quantity that can colour.
    """
    used = np.union1d(columns["given_id"], np.union1d(columns["id"], columns["alternative_ids"]))
    data = {
        "tokens": len(columns["id"]),
        "given": int(columns["given_id"][0]),
        "edges": {name: [float(x) if np.isfinite(x) else None for x in of] for name, of in edges.items()},
        "spell": {int(id): spell(int(id)) for id in used},
        "packed": packed(columns),
    }
    return {"spans": _spans(columns, spell, edges["nats"]), "data": in_script(data)}


def _spans(
    columns: dict[str, np.ndarray], spell: Callable[[int], str], edges: np.ndarray
) -> "Iterator[Markup]":
    """The text without the script: neighbours of one level share a span, a long text has no colours."""
    texts = [spell(id) for id in columns["id"].tolist()]
    if len(texts) > WRITTEN_TOKENS:
        yield token_span("".join(texts), 0)
        return
    levels = np.searchsorted(edges, -columns["log_probability"].astype(np.float64), side="right")
    starts = np.flatnonzero(np.diff(levels, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(texts)], strict=True):
        yield token_span("".join(texts[start:end]), int(levels[start]))


def packed(columns: dict[str, np.ndarray]) -> str:
    """The columns that the script reads, as base64 of gzip: about 30 bytes a token.

    All first bytes of a column's numbers come before all second ones: so equal exponents and zeros are side
    by side, where gzip finds them. The token before and the running loss follow from the rest.
    """
    parts = [
        columns["id"].astype("<i4"),
        columns["rank"].astype("<i4"),
        columns["probability"].astype("<f4"),
        columns["log_probability"].astype("<f4"),
        columns["entropy"].astype("<f4"),
        columns["alternative_ids"].astype("<i4"),
        short_probabilities(columns["alternative_probabilities"]).astype("<u2"),
    ]
    planes = (
        np.frombuffer(part.tobytes(), np.uint8).reshape(-1, part.itemsize).T.tobytes() for part in parts
    )
    return base64.b64encode(gzip.compress(b"".join(planes), mtime=0)).decode("ascii")


def short_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities to three digits in two bytes: 900 times the power of ten plus the digits over 100.

    >>> short_probabilities(np.array([1.0, 0.5, 0.0123, 0.0]))
    array([    0,  1300,  1823, 65535])
    """
    positive = np.maximum(probabilities.astype(np.float64), 1e-45)
    power = np.ceil(-np.log10(positive))
    digits = np.rint(positive * 10 ** (power + 2))
    power, digits = np.where(digits == 1000, (power - 1, 100.0 * np.ones_like(digits)), (power, digits))
    return np.where(probabilities > 0, 900 * power + digits - 100, LARGEST_CODE).astype(np.int64)
