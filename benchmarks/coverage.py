"""How often a 95 % interval holds the truth: texts whose mean is known in, a table for docs/numbers.md out.

python benchmarks/coverage.py [--texts 1000] [--book tinyshakespeare.txt] [--only WORDS]. One sigma of 1,000
draws at 95 % is 0.7 %. Each cell: percent held, median width in nats, and where some texts had no interval
the percent that had one.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.measure.intervals import Design, interval_of_ratio

MEAN = 2.5
"""Nats per token, of all simulated texts in the mean."""
TOKENS = 400
"""Of a document, in the median."""
NOISE = 3.0
"""Variance within a document, tokens * NOISE * level^2: losses of neighbouring tokens go together."""
SIZES = (10, 30, 100, 300)

Units = tuple[np.ndarray, np.ndarray, float]
"""Sums and counts of the units of a text, and the true ratio."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of text: units of which it is made, and what its number is to say."""

    name: str
    design: Design
    text: Callable[[np.random.Generator, int], Units]
    """A generator and the number of units -> one text."""
    exempt: Callable[[int], bool] = lambda n: False
    """Of how many units the stated exceptions are."""


def _lognormal(draw: np.random.Generator, n: int, sigma: float) -> np.ndarray:
    """Factors with mean 1."""
    return np.exp(sigma * draw.standard_normal(n) - sigma**2 / 2)


def documents(sigma: float, *, level: Callable[[np.random.Generator, np.ndarray], np.ndarray], mean: float):
    """Documents of lognormal sizes, each with a level of its own."""

    def text(draw: np.random.Generator, n: int) -> Units:
        counts = np.ceil(TOKENS * np.exp(sigma * draw.standard_normal(n)))
        levels = level(draw, counts)
        return draw.gamma(counts / NOISE, levels * NOISE), counts, mean

    return text


def dominating(size: float, effect: float):
    """Documents of 300 tokens and one of another size."""

    def text(draw: np.random.Generator, n: int) -> Units:
        counts = np.full(n, 300.0)
        counts[0] = size
        return draw.gamma(counts / NOISE, MEAN * _lognormal(draw, n, effect) * NOISE), counts, MEAN

    return text


def levels(effect: float):
    return lambda draw, counts: MEAN * _lognormal(draw, len(counts), effect)


def pareto(draw: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Heavy tails: no third moment."""
    return MEAN * (draw.pareto(2.5, len(counts)) + 1) * 1.5 / 2.5


def bombs(effect: float):
    """3 % of the units cost three times as much."""

    def level(draw: np.random.Generator, counts: np.ndarray) -> np.ndarray:
        return (
            MEAN
            / 1.06
            * _lognormal(draw, len(counts), effect)
            * np.where(draw.random(len(counts)) < 0.03, 3, 1)
        )

    return level


def falling(slope: float):
    """The loss falls with a document's size; it has a level of its own besides."""
    return lambda draw, counts: MEAN * (counts / TOKENS) ** -slope * _lognormal(draw, len(counts), 0.2)


def falling_mean(sigma: float, slope: float) -> float:
    """Its true ratio, over all sizes."""
    sizes = np.ceil(TOKENS * np.exp(sigma * np.random.default_rng(0).standard_normal(1_000_000)))
    return MEAN * float((sizes ** (1 - slope)).sum() / (TOKENS**-slope * sizes.sum()))


def autoregressive(draw: np.random.Generator, n: int, rho: float) -> np.ndarray:
    noise, found = draw.standard_normal(n), np.empty(n)
    found[0] = noise[0]
    for place in range(1, n):
        found[place] = rho * found[place - 1] + math.sqrt(1 - rho**2) * noise[place]
    return found


def chapters(draw: np.random.Generator, n: int, length: int) -> np.ndarray:
    """Chapters with a level of their own, half of the variance; the text begins anywhere in one."""
    numbers = (np.arange(n) + draw.integers(length)) // length
    return math.sqrt(0.5) * (draw.standard_normal(numbers[-1] + 1)[numbers] + draw.standard_normal(n))


def long_memory(draw: np.random.Generator, n: int, hurst: float) -> np.ndarray:
    """Fractional Gaussian noise, exactly (Davies & Harte 1987)."""
    lags = np.arange(n + 1.0)
    power = 2 * hurst
    covariance = 0.5 * ((lags + 1) ** power - 2 * lags**power + np.abs(lags - 1) ** power)
    circle = np.concatenate((covariance, covariance[-2:0:-1]))
    spectrum = np.fft.fft(circle).real.clip(0)
    noise = draw.standard_normal(len(circle)) + 1j * draw.standard_normal(len(circle))
    return np.fft.fft(np.sqrt(spectrum / len(circle)) * noise).real[:n]


def blocks(change: Callable[[np.random.Generator, int], np.ndarray]):
    """Blocks of 256 tokens; `change` (n,) has mean 0 and variance 1."""

    def text(draw: np.random.Generator, n: int) -> Units:
        return 256 * (MEAN + 0.3 * change(draw, n)), np.full(n, 256.0), MEAN

    return text


def strata(change: Callable[[np.random.Generator, int], np.ndarray]):
    """A book of 10 n pieces, one of each ten drawn; the truth is the book's own mean."""

    def text(draw: np.random.Generator, n: int) -> Units:
        book = MEAN + 0.3 * change(draw, 10 * n)
        drawn = book.reshape(n, 10)[np.arange(n), draw.integers(0, 10, n)]
        return 256 * drawn, np.full(n, 256.0), float(book.mean())

    return text


def _heavy(draw: np.random.Generator, n: int) -> np.ndarray:
    return (pareto(draw, np.ones(n)) / MEAN - 1) / 0.894


def _bombs(draw: np.random.Generator, n: int) -> np.ndarray:
    return bombs(0.2)(draw, np.ones(n)) / MEAN - 1


def few(n: int) -> bool:
    return n <= 30


def always(n: int) -> bool:
    return True


SCENARIOS = (
    *(
        Scenario(
            f"documents, sizes sigma {sigma:g}, level 20 %",
            "documents",
            documents(sigma, level=levels(0.2), mean=MEAN),
        )
        for sigma in (0, 0.5, 1, 1.5, 2)
    ),
    Scenario("documents, sizes sigma 1, level 5 %", "documents", documents(1, level=levels(0.05), mean=MEAN)),
    Scenario("documents, sizes sigma 1, no level", "documents", documents(1, level=levels(0), mean=MEAN)),
    Scenario("documents, sizes sigma 2, no level", "documents", documents(2, level=levels(0), mean=MEAN)),
    Scenario(
        "documents, sizes sigma 1.5, level 50 %", "documents", documents(1.5, level=levels(0.5), mean=MEAN)
    ),
    Scenario(
        "documents, sizes sigma 1, loss falls with size",
        "documents",
        documents(1, level=falling(0.1), mean=falling_mean(1, 0.1)),
    ),
    Scenario(
        "documents, sizes sigma 1, loss falls fast",
        "documents",
        documents(1, level=falling(0.2), mean=falling_mean(1, 0.2)),
    ),
    Scenario("documents of 300 tokens, one of 6,000", "documents", dominating(6000, 0.2)),
    Scenario("documents of 300 tokens, one of 60,000", "documents", dominating(60_000, 0.2)),
    Scenario("documents of 300 tokens, one of 60,000, no level", "documents", dominating(60_000, 0)),
    Scenario("documents, equal sizes, Pareto 2.5", "documents", documents(0, level=pareto, mean=MEAN), few),
    Scenario("documents, sizes sigma 1, Pareto 2.5", "documents", documents(1, level=pareto, mean=MEAN), few),
    Scenario(
        "documents, equal sizes, 3 % cost 3 x", "documents", documents(0, level=bombs(0.2), mean=MEAN), few
    ),
    Scenario(
        "documents, sizes sigma 1, 3 % cost 3 x", "documents", documents(1, level=bombs(0.2), mean=MEAN), few
    ),
    *(
        Scenario(f"pages, AR {rho:g}", "pages", blocks(lambda draw, n, rho=rho: autoregressive(draw, n, rho)))
        for rho in (0, 0.3, 0.6, 0.8)
    ),
    Scenario("pages, chapters of 12 blocks", "pages", blocks(lambda draw, n: chapters(draw, n, 12))),
    Scenario("pages, Pareto 2.5", "pages", blocks(_heavy), few),
    Scenario("pages, 3 % cost 3 x", "pages", blocks(_bombs), few),
    *(
        Scenario(
            f"pages, long memory {hurst:g}",
            "pages",
            blocks(lambda draw, n, hurst=hurst: long_memory(draw, n, hurst)),
            always,
        )
        for hurst in (0.7, 0.8)
    ),
    Scenario("book in strata, independent pages", "strata", strata(lambda draw, n: draw.standard_normal(n))),
    Scenario("book in strata, chapters of 12 pages", "strata", strata(lambda draw, n: chapters(draw, n, 12))),
    Scenario("book in strata, long memory 0.8", "strata", strata(lambda draw, n: long_memory(draw, n, 0.8))),
    Scenario(
        "book in strata, a trend",
        "strata",
        strata(lambda draw, n: np.linspace(-1.5, 1.5, n) + draw.standard_normal(n)),
    ),
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the intervals of many texts did."""

    held: float
    """Share of the intervals that held the truth; NaN where no text had one."""
    width: float
    with_interval: float
    """Share of the texts that had an interval."""
    cautioned: float
    """Share of the intervals that carried a caution."""

    def __str__(self) -> str:
        if not self.with_interval:
            return "none"
        part = "" if self.with_interval > 0.995 else f"; {self.with_interval:.0%}"
        return f"{100 * self.held:.1f} ({self.width:.2f}{part})"


def coverage(texts: Iterator[Units], design: Design, *, fraction: float = 0.0) -> Coverage:
    """Of some texts."""
    held, widths, cautions, count = 0, [], 0, 0
    for sums, counts, truth in texts:
        count += 1
        interval, why = interval_of_ratio(sums, counts, design=design, fraction=fraction)
        assert (interval is None) == bool(why)
        if interval is not None:
            held += interval.low <= truth <= interval.high
            cautions += bool(interval.caution)
            widths.append(interval.high - interval.low)
    if not widths:
        return Coverage(math.nan, math.nan, 0.0, 0.0)
    return Coverage(held / len(widths), float(np.median(widths)), len(widths) / count, cautions / len(widths))


def simulated(scenario: Scenario, n: int, texts: int, *, seed: int = 0) -> Coverage:
    """Of `texts` texts of n units each."""
    draw = np.random.default_rng([seed, n, *scenario.name.encode()])
    fraction = 0.1 if scenario.design == "strata" else 0.0
    return coverage((scenario.text(draw, n) for _ in range(texts)), scenario.design, fraction=fraction)


def real_losses(path: str, order: int = 5, given: int = 100_000) -> np.ndarray:
    """Bits of each byte of a text behind its first `given`, by an n-gram model that was given those."""
    from lucidlm.measure.ngrams import fit_orders, nats_of_documents

    with open(path, "rb") as file:
        ids = np.frombuffer(file.read(), np.uint8).astype(np.int64)
    return nats_of_documents(fit_orders(ids[:given], order, 256), [ids[given:]], 256) / math.log(2)


def books(losses: np.ndarray, size: int, pieces: int, texts: int, *, seed: int = 0) -> Coverage:
    """Of "books" of `size` bytes cut from real losses: a tenth held out, one piece a stratum."""
    draw = np.random.default_rng([seed, size, pieces])
    sums = np.concatenate(([0.0], np.cumsum(losses)))
    length = size // (10 * pieces)

    def book() -> Units:
        start = int(draw.integers(0, len(losses) - size + 1))
        edges = start + np.arange(pieces + 1) * size // pieces
        firsts = edges[:-1] + draw.integers(0, np.diff(edges) - length + 1)
        held_out = sums[firsts + length] - sums[firsts]
        return held_out, np.full(pieces, float(length)), float(sums[start + size] - sums[start]) / size

    return coverage((book() for _ in range(texts)), "strata", fraction=0.1)


BOOKS = ((51_000, 20), (102_000, 20), (102_000, 40), (256_000, 20), (256_000, 40))


def table(texts: int, only: str = "") -> Iterator[str]:
    """The table's lines; cells outside 93 to 98 % are bold, those of the stated exceptions end with *."""
    yield "| text | " + " | ".join(f"n = {n}" for n in SIZES) + " |"
    yield "|---" * (1 + len(SIZES)) + "|"
    for scenario in SCENARIOS:
        if only not in scenario.name:
            continue
        cells = []
        for n in SIZES:
            found = simulated(scenario, n, texts)
            inside = not found.with_interval or 0.93 <= found.held <= 0.98
            cells.append(
                (f"{found}" if inside else f"**{found}**")
                + ("*" if scenario.exempt(n) and not inside else "")
            )
        yield f"| {scenario.name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--book", help="a text of 1 MB or so: real losses by an n-gram")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    arguments = parser.parse_args()
    for line in table(arguments.texts, arguments.only):
        print(line, flush=True)
    if arguments.book:
        losses = real_losses(arguments.book)
        print("\n| book of | pieces | held (width) |\n|---|---|---|")
        for size, pieces in BOOKS:
            print(
                f"| {size:,} bytes | {pieces} | {books(losses, size, pieces, arguments.texts)} |", flush=True
            )


if __name__ == "__main__":
    main()
