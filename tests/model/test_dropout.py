"""Dropout keeps the mean and drops the given part; a mask depends on its seed and its place alone."""

import pytest
import torch

from lucidlm.model.dropout import TAPE_LENGTH, Dropout, Tape

RATE = 0.3


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape(RATE, dtype=torch.float32, longest=4096, seed=0)


def _dropped(tape: Tape | None, seed: int = 0) -> torch.Tensor:
    dropout = Dropout(RATE).train()
    dropout.places = None if tape is None else tape.places(seed)
    return dropout(torch.ones(64, 64))


@pytest.mark.parametrize("taped", [True, False])
def test_a_part_is_dropped_and_the_rest_scaled_up(tape, taped):
    torch.manual_seed(0)
    values = _dropped(tape if taped else None).unique().tolist()
    assert values == [0.0, pytest.approx(1 / (1 - RATE))]
    dropped = torch.cat([_dropped(tape if taped else None, seed) for seed in range(20)])
    # 82,000 draws: one standard error is 0.0016.
    assert (dropped == 0).float().mean().item() == pytest.approx(RATE, abs=0.008)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.012)


@pytest.mark.parametrize("taped", [True, False])
def test_dropout_that_is_off_changes_nothing(tape, taped):
    x = torch.randn(5, 7)
    for dropout in (Dropout(RATE).eval(), Dropout(0.0).train()):
        dropout.places = tape.places(0) if taped else None
        assert dropout(x) is x


def test_masks_are_a_function_of_the_seed(tape):
    first, again, other = (tape.places(seed).mask(torch.Size((64, 64))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_next_mask_is_another_one(tape):
    places = tape.places(0)
    masks = [places.mask(torch.Size((64, 64))) == 0 for _ in range(8)]
    for place, mask in enumerate(masks):
        for other in masks[:place]:
            # Independent masks drop the same place with probability RATE^2.
            assert (mask & other).float().mean().item() == pytest.approx(RATE**2, abs=0.025)


def test_a_mask_is_a_view_of_the_tape_and_the_gradient_goes_through_it(tape):
    dropout = Dropout(RATE).train()
    dropout.places = tape.places(3)
    x = torch.randn(8, 16, requires_grad=True)
    dropout(x).sum().backward()
    mask = tape.places(3).mask(x.shape)
    assert torch.equal(x.grad, mask)
    assert mask.untyped_storage().data_ptr() == tape.factors.untyped_storage().data_ptr()


def test_every_place_of_the_tape_fits_the_longest_mask():
    small = Tape(0.5, dtype=torch.bfloat16, longest=TAPE_LENGTH, seed=0)
    places = small.places(0)
    for _ in range(50):
        assert places.mask(torch.Size((TAPE_LENGTH,))).numel() == TAPE_LENGTH
