"""make bench: ours against other programs, and against an earlier revision; tables, pictures and JSON out.

python benchmarks/peers.py [--only step small learning] [--text tinyshakespeare.txt] [--peers PYTHON]

It writes build/bench/*.json, two pictures in docs/ and the marked parts of docs/numbers.md. Parts: step (a
training step of GPT-2's smallest shape), small (small models, now and at --against), learning (seconds to
some bits per byte of --text). Each says at what load it ran: run it on a quiet machine.
"""

import argparse
import sys
from pathlib import Path

import learning
import small_models
import steps
from tables import ROOT, load, machine, revision, write

BEFORE = "0d0fd38"
"""The last revision before training, generation and evaluation were made faster."""


def step(given: argparse.Namespace) -> tuple[object, str]:
    """Tables of a training step, ours and others'."""
    sizes = [size for size in steps.SIZES if not given.sizes or str(size) in given.sizes]
    results, peak = steps.measured(sizes, python=given.peers)
    (ROOT / "docs" / "steps.svg").write_text(steps.picture(results), encoding="utf-8")
    versions = sorted(
        {f"{steps.CONTESTANTS[each.name].package} {each.version}" for each in results if each.version}
    )
    text = (
        f"{', '.join(versions)}. The machine's peak in bfloat16: {peak / 1e9:,.0f} GFLOP/s.\n\n"
        f"{steps.tables(results, peak)}\n\n![tokens a second of the fastest step](steps.svg)"
    )
    return {"peak_flops_per_s": peak, "results": steps.records(results)}, text


def small(given: argparse.Namespace) -> tuple[object, str]:
    """The table of small models."""
    results = small_models.measured(given.against)
    return small_models.records(results), small_models.tables(results, given.against)


def learn(given: argparse.Namespace) -> tuple[object, str]:
    """The row of a text, and its curve."""
    result = learning.measured(given.text, minutes=given.minutes)
    (ROOT / "docs" / "learning.svg").write_text(learning.picture(result), encoding="utf-8")
    text = f"{learning.tables(result)}\n\n![bits per byte against seconds](learning.svg)"
    return learning.records(result), text


PARTS = {"step": step, "small": small, "learning": learn}


def main() -> None:
    """Measures the parts that are asked for and writes them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="all, if not given; learning needs --text")
    parser.add_argument("--text", type=Path, help="of the part learning")
    parser.add_argument("--minutes", type=float, default=3.0, help="of the part learning")
    parser.add_argument("--sizes", nargs="+", choices=list(map(str, steps.SIZES)), help="of the part step")
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the other programs")
    parser.add_argument("--against", default=BEFORE, help="the git revision of the part small")
    given = parser.parse_args()
    if given.text is None and "learning" in (given.only or ()):
        parser.error("the part learning needs --text FILE (make bench: TEXT=FILE)")
    if given.text is not None and not given.text.is_file():
        parser.error(f"--text {given.text}: there is no such file")
    for name in given.only or PARTS:
        if name == "learning" and given.text is None:
            print("learning: left out, as it needs --text FILE (make bench: TEXT=FILE)", file=sys.stderr)
            continue
        before = load()
        results, text = PARTS[name](given)
        head = f"{machine()}. Revision {revision()}; load {before} before, {load()} after."
        write(
            name, {"machine": head, "results": results}, f"{head}\n\n{text}", folder=ROOT / "build" / "bench"
        )
        print(f"{name}: {head}\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
