"""generate, compress and decompress on one tiny run."""

import re

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
