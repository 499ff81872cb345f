"""generate, compress and decompress on one tiny run."""

import re

import pytest
from command_line import shown


def test_a_file_comes_back_from_its_compression_byte_by_byte(answer, squeezed, home):
    told = answer("decompress", "run", "other.lucz", "--out", "back.txt").out
    assert told == f"back.txt: {len((home / 'other.txt').read_bytes())} bytes, checked\n"
    assert (home / "back.txt").read_bytes() == (home / "other.txt").read_bytes()
    values = shown(answer("compress", "run", "binary.txt", "--out", "binary.lucz", "--json").out)
    assert values["file_bytes"] == (home / "binary.lucz").stat().st_size
    assert abs(values["difference_bits"]) <= 0.002 * values["evaluated_bits"] + 1024


def test_generating_with_a_seed_is_the_same_twice_and_goes_on_from_the_prompt(answer):
    first, second = (
        answer("generate", "run", "The river", "--max-new-tokens", "12", "--seed", "7") for _ in range(2)
    )
    assert first.out == second.out
    assert first.out.startswith("The river")
    assert "seed" not in first.err


def test_generating_without_a_seed_prints_one_that_repeats_the_text(answer):
    first = answer("generate", "run", "The", "--max-new-tokens", "12")
    seed = re.search(r"seed (\d+)", first.err).group(1)
    assert answer("generate", "run", "The", "--max-new-tokens", "12", "--seed", seed).out == first.out


def test_generate_answers_with_json_for_each_text(answer):
    values = shown(
        answer("generate", "run", "A", "--num", "3", "--max-new-tokens", "4", "--seed", "1", "--json").out
    )
    assert len(values) == 3
    assert all({"text", "seed", "finish_reason"} <= value.keys() for value in values)


def test_generating_in_int8_measures_its_cost_on_the_runs_held_out_text_or_on_a_text_given(answer):
    own = answer("generate", "run", "The", "--max-new-tokens", "4", "--seed", "1", "--dtype", "int8")
    assert re.search(r"int8 costs [+-]0\.\d{4} bits per byte: .* held-out text of run\)", own.err)
    given = ("generate", "run", "The", "--max-new-tokens", "4", "--seed", "1", "--dtype", "int8")
    (value,) = shown(answer(*given, "--val", "other.txt", "--json").out)
    assert (value["dtype"], value["int8_cost"]["text"]) == ("int8", "other.txt")
    assert value["int8_cost"]["exact_bits_per_byte"] == pytest.approx(
        shown(answer("evaluate", "run", "other.txt", "--json", "--no-baselines").out)["bits_per_byte"]
    )


def test_a_model_without_text_of_its_own_measures_int8_on_the_bundled_story(answer):
    told = answer("generate", "modern-1m", "A", "--max-new-tokens", "1", "--seed", "1", "--dtype", "int8").err
    assert "the bundled story)" in told


def test_a_text_to_measure_int8_on_is_refused_with_another_dtype(call):
    refused = call("generate", "run", "The", "--val", "other.txt")
    assert refused.code == 2
    assert "--val other.txt: it measures the cost of --dtype int8" in refused.err
