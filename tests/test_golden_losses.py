"""The losses of 20 steps of three tiny trainings are the stored ones: a refactor that moves one is seen."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("benchmark_golden_losses", BENCHMARKS / "golden_losses.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_losses_are_those_stored(golden):
    """To the last bit on a kind of machine that is stored, else to 1e-6 in float64; it says which."""
    entries = golden.stored()
    assert entries
    compared, moved = golden.differences(golden.all_losses(), entries)
    how = "bit by bit" if compared else f"{golden.kind_of_machine()} is not stored: with a tolerance"
    assert not moved, (
        f"compared {how}; if this is meant, python benchmarks/golden_losses.py --store\n" + "\n".join(moved)
    )


def test_a_loss_that_moves_by_a_bit_or_is_missing_is_told(golden):
    kind, name = golden.kind_of_machine(), "classic, AdamW, float64"
    entry = {"kind": kind, "losses": {name: [(5.5).hex(), (5.25).hex()]}}
    assert golden.differences({name: [5.5, 5.25]}, [entry]) == (True, [])
    compared, moved = golden.differences({name: [5.5, 5.25 + 2**-50]}, [entry])
    assert compared
    assert [line.partition(":")[0] for line in moved] == [f"{name}, step 1"]
    assert golden.differences({name: [5.5]}, [entry])[1] == [f"{name}: 1 losses, 2 stored"]
    elsewhere = {**entry, "kind": {**kind, "cpu": "another"}}
    assert golden.differences({name: [5.5, 5.25 + 2**-50]}, [elsewhere]) == (False, [])
    assert golden.differences({name: [5.5, 5.25 + 2e-6]}, [elsewhere])[1]
    assert golden.differences({name: [5.5, float("nan")]}, [elsewhere])[1]
