"""Recipes are compared by several runs of each, and one run alone says what it cannot tell."""

import json

import numpy as np
import pytest
import torch
from comparisons import BYTES, STORY, copied, lively, longer

from lucidlm.errors import ConfigError
from lucidlm.measure.compared import places_of, shown_number
from lucidlm.measure.comparison import compare


@pytest.fixture(scope="module")
def recipes():
    """Three runs of each of two recipes: alike but for a little noise of their own."""

    def runs(seed: int, first: int):
        found = []
        for number in range(first, first + 3):
            model = lively(257, seed=seed, prefix=256)
            torch.manual_seed(number)
            with torch.no_grad():
                model.head.weight.add_(0.02 * torch.randn_like(model.head.weight))
            found.append((model, BYTES))
        return found

    return runs(1, 10), runs(1, 20), runs(2, 30)


def test_recipes_are_their_runs_means_and_each_run_is_shown(recipes):
    a, _, b = recipes
    result = compare(a, b, longer(8), names=(["a1", "a2", "a3"], ["b1", "b2", "b3"]))
    alone = [compare(one, other, longer(8)) for one, other in zip(a, b, strict=True)]
    assert result.difference == pytest.approx(np.mean([each.difference for each in alone]), rel=1e-6)
    for run, each in zip(result.a.runs, alone, strict=True):
        assert result.bits_per_byte(run) == pytest.approx(each.bits_per_byte_a, rel=1e-6)
    for part in (
        "a1",
        "a2",
        "a3",
        "b1",
        "b2",
        "b3",
        "recipe A (3 runs)",
        "mean",
        "for these recipes on pages",
    ):
        assert part in str(result)
    assert result.recipes.of == "recipes on pages"
    assert result.recipes.high - result.recipes.low >= result.interval.high - result.interval.low
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [run["name"] for run in values["a"]["runs"]] == ["a1", "a2", "a3"]
    assert values["recipes"]["low"] == result.recipes.low
    assert values["recipes"]["clause"].startswith("for these recipes on")
    assert "mean of 3 runs" in result._repr_html_()


def test_runs_of_one_recipe_have_no_winner_and_those_of_another_do(recipes):
    a, same, other = recipes
    assert compare(a, same, longer(8)).verdict.startswith("No difference that these runs and this text")
    found = compare(a, other, longer(8))
    better = "A" if found.difference < 0 else "B"
    assert found.verdict.startswith(f"recipe {better} (3 runs) predicts this text better")


def test_one_run_on_a_side_is_about_weights_and_a_line_says_that_a_seed_may_turn_it_round(recipes):
    a, same, other = recipes
    for left, right in ((a[0], same[0]), (a, same[0]), (a[0], same), (a, other[0]), (other[0], a)):
        result = compare(left, right, longer(8))
        assert result.recipes is None
        assert not result.of_recipes
        said = f"{result.verdict} {result.notes[0]}"
        assert "another seed of the same recipe may reverse it" in said
        assert "Two or more runs on each side" in said
        assert "recipe A" not in str(result)
        assert "recipe B" not in str(result)
    assert result.verdict.startswith("B (3 runs) predicts this text better than A, by ")


def test_words_and_signs_say_the_same_whoever_is_better(recipes):
    a, same, other = recipes
    for left, right in ((a, other), (other, a), (a[0], other[0]), (other[0], a[0])):
        result = compare(left, right, longer(8))
        better, worse = (result.a, result.b) if result.difference < 0 else (result.b, result.a)
        by = f"{abs(result.difference):.4f}"
        assert result.verdict.startswith(
            f"{better.name} predicts this text better than {worse.name}, by {by} "
        )
        exactly = (
            f"On exactly these {len(longer(8).encode()):,} bytes, {better.name} needs {by} bits per byte"
        )
        assert f"{exactly} less than {worse.name}" in result.notes[0]
        assert f"where {better.short} saves the most bits:" in str(result)
        assert f"Where {better.short} saves the most bits" in result._repr_html_()
        assert f"-{by}" not in str(result)
    result = compare(a, same, longer(8))
    interval = result.recipes
    assert f"recipe A minus recipe B is {result.difference:+.4f} bits per byte" in result.verdict
    assert f"{interval.low:+.4f} to {interval.high:+.4f}" in result.verdict
    assert ("A (3 runs) needs" if result.difference < 0 else "B (3 runs) needs") in result.notes[0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.0000"), (-0.0, "0.0000"), (-0.06149, "-0.0615"), (12.0, "+12.0000"), (1.26e-6, "+0.0000013")],
)
def test_a_small_number_keeps_two_digits_and_zero_has_no_sign(value, shown):
    assert shown_number(value, places_of(value), sign="+") == shown
    assert shown_number(-1e-9, 4, sign="+") == "0.0000"


def test_a_run_that_is_given_twice_is_no_second_seed(recipes):
    a, same, _ = recipes
    copy_of_it = copied(a[0])
    for left, right in (
        ([a[0], a[0]], same),  # one object
        ([a[0], copy_of_it], same),  # its copy
        (a, [same[0], copy_of_it]),  # on the other side
        (a, a[1]),
        (same[2], [same[1], same[2]]),
    ):
        with pytest.raises(ConfigError, match="equal weights: one run is not two seeds"):
            compare(left, right, STORY)


def test_names_are_one_a_run(recipes):
    a, same, _ = recipes
    with pytest.raises(ConfigError, match="2 names for 3 runs"):
        compare(a, same, STORY, names=(["x", "y"], "B"))
    assert [run.name for run in compare(a, same, STORY).b.runs] == ["B1", "B2", "B3"]
