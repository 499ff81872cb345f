import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from lucidlm.errors import DataError
from lucidlm.text import windows
from lucidlm.text.hashing import hash_of
from lucidlm.text.windows import IGNORE_INDEX, Windows, inputs_and_targets


def test_targets_are_the_inputs_one_token_later_and_views_of_the_same_memory():
    ids = np.arange(12).reshape(3, 4)
    inputs, targets = inputs_and_targets(ids)
    np.testing.assert_array_equal(inputs, [[0, 1, 2], [4, 5, 6], [8, 9, 10]])
    np.testing.assert_array_equal(targets, [[1, 2, 3], [5, 6, 7], [9, 10, 11]])
    assert np.shares_memory(inputs, ids)
    assert np.shares_memory(targets, ids)


def test_tensors_are_cut_as_arrays_are():
    ids = torch.arange(10).reshape(2, 5)
    inputs, targets = inputs_and_targets(ids)
    torch.testing.assert_close(targets[:, :-1], inputs[:, 1:])
    assert inputs.shape == targets.shape == (2, 4)
    assert inputs.untyped_storage().data_ptr() == ids.untyped_storage().data_ptr()
    inputs, targets = inputs_and_targets(torch.tensor([7, 8]))
    assert (inputs.tolist(), targets.tolist()) == ([7], [8])


@pytest.mark.parametrize(
    "ids", [np.zeros((3, 1), int), torch.zeros(1, dtype=torch.long), np.array(5), [1, 2, 3]]
)
def test_under_two_tokens_and_what_is_no_array_is_an_error(ids):
    with pytest.raises(DataError):
        inputs_and_targets(ids)


def test_the_module_does_not_import_torch():
    code = "import sys, lucidlm.text.windows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shuffle_is_a_bijection_for_every_size_to_300():
    for n in range(1, 301):
        shuffled = windows.shuffled(np.arange(n, dtype=np.uint64), n, np.uint64(n * 977))
        assert sorted(shuffled.tolist()) == list(range(n))


def test_the_shuffle_of_a_huge_range_stays_in_it_repeats_nothing_and_looks_random():
    n = 2**33 + 7
    places = np.concatenate([np.arange(5000, dtype=np.uint64), np.arange(n - 5000, n, dtype=np.uint64)])
    shuffled = windows.shuffled(places, n, np.uint64(2**64 - 1))
    assert shuffled.max() < n
    assert len(set(shuffled.tolist())) == len(places)
    # The mean of 10,000 uniform draws is normal with standard deviation n / sqrt(12 * 10,000).
    assert abs(shuffled.astype(float).mean() - n / 2) < 5 * n / np.sqrt(12 * len(places))


def test_each_place_of_a_small_shuffle_is_equally_likely():
    n, draws = 10, 1500
    counts = np.zeros((n, n))
    for key in range(draws):
        order = windows.shuffled(np.arange(n, dtype=np.uint64), n, hash_of(key))
        counts[np.arange(n), order.astype(int)] += 1
    chi_square = ((counts - draws / n) ** 2 / (draws / n)).sum()
    assert chi_square < 81 + 5 * np.sqrt(2 * 81)  # (n-1)^2 degrees of freedom, five standard deviations


def scored_targets(data, context_length, batch_size, steps, seed=0):
    """Place of each target in the file, read off tokens that are their own places."""
    found = []
    cut = Windows(data, context_length)
    for step in range(steps):
        inputs, targets = cut.batch_at(seed=seed, step=step, batch_size=batch_size)
        assert inputs.shape == targets.shape == (batch_size, context_length)
        assert inputs.dtype == targets.dtype == np.int64
        kept = targets != IGNORE_INDEX
        np.testing.assert_array_equal(inputs[kept] + 1, targets[kept])
        assert (inputs[~kept] == 0).all()
        found += [row[row != IGNORE_INDEX].tolist() for row in targets]
    return found


@pytest.mark.parametrize("context_length", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 15, 16, 17, 50])
def test_every_target_is_covered_exactly_once_an_epoch(tokens, context_length):
    n_windows = -(-(tokens - 1) // context_length)
    for batch_size in (1, 3, 5):
        epochs = 4
        steps = -(-n_windows * epochs // batch_size)
        rows = scored_targets(np.arange(tokens), context_length, batch_size, steps)
        for epoch in range(epochs):
            targets = itertools.chain(*rows[epoch * n_windows : (epoch + 1) * n_windows])
            assert sorted(targets) == list(range(1, tokens))


def test_a_batch_depends_on_seed_and_step_alone_and_batches_of_any_size_are_one_sequence():
    data = np.arange(1000)
    one = scored_targets(data, 16, 1, 200)
    assert scored_targets(data, 16, 8, 25) == one
    assert scored_targets(data, 16, 1, 200, seed=1) != one
    backwards = [
        Windows(data, 16).batch_at(seed=0, step=step, batch_size=4)[1] for step in reversed(range(50))
    ]
    again = [Windows(data, 16).batch_at(seed=0, step=step, batch_size=4)[1] for step in range(50)]
    np.testing.assert_array_equal(backwards[::-1], again)


def test_epochs_differ_in_order_and_in_the_borders_of_their_windows():
    rows = scored_targets(np.arange(641), 64, 1, 20)
    first, second = rows[:10], rows[10:]
    assert first != second
    assert sorted(row[0] for row in first) != sorted(row[0] for row in second)
    assert [row[0] for row in first] != sorted(row[0] for row in first)


def test_the_sequence_is_the_same_in_every_version_and_on_every_machine():
    inputs, _ = Windows(np.arange(10_000), 8).batch_at(seed=123, step=7, batch_size=4)
    assert inputs[:, 0].tolist() == [7733, 4941, 4413, 9484]


def test_negative_and_huge_seeds_and_steps_work():
    cut = Windows(np.arange(100), 8)
    for seed in (-1, 2**64, 2**63 - 1):
        assert (cut.batch_at(seed=seed, step=2**70, batch_size=2)[1] > 0).any()


def test_epoch_at_counts_windows():
    cut = Windows(np.arange(1001), 10)
    assert (cut.n_targets, cut.n_windows) == (1000, 100)
    assert cut.epoch_at(25, 8) == 2.0


def test_a_text_without_a_target_and_a_context_of_nothing_are_errors():
    with pytest.raises(DataError, match="1 token"):
        Windows(np.array([1]), 8)
    with pytest.raises(DataError, match="--context-length"):
        Windows(np.arange(5), 0)


def test_memory_and_time_of_a_batch_do_not_grow_with_the_file():
    tokens = np.broadcast_to(np.uint16(1), (2**40,))
    inputs, targets = Windows(tokens, 8).batch_at(seed=0, step=2**35, batch_size=4)
    assert (inputs == 1).all()
    assert (targets == 1).all()
