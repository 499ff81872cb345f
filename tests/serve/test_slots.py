import pytest
import torch
from models import TINY, shape, sharp

from lucidlm.serve.slots import ROWS, Slots, capacity_for

ODD = shape(emb_dim=60, n_heads=3, head_dim=20)
"""Rows whose memory begins at no multiple of 64 bytes."""


@pytest.fixture(params=[*TINY, "odd"])
def model(request):
    return sharp((TINY | {"odd": ODD})[request.param].changed(context_length=301))


def grown(model, slots, ids, others, steps=6):
    """Logits of a text of given ids, step by step, while the other rows hold `others`."""
    with torch.inference_mode():
        rows = {}
        for other in others:
            rows[_seated(model, slots, other)] = other
        row = _seated(model, slots, ids)
        found = []
        for number in range(steps):
            last = {each: (5 * each + number) % 250 for each in rows} | {row: (7 * number) % 250}
            found.append(slots.step(last)[row].clone())
    return torch.stack(found)


def _seated(model, slots, ids):
    single = model.new_cache(1, slots.capacity)
    model.hidden(torch.tensor([ids]), single)
    return slots.take(single)


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    """Rows are shared out among the threads: each must compute the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_a_row_has_the_same_bits_alone_and_among_others_in_any_place(model, threads):
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(250, (size,), generator=draw).tolist() for size in (3, 40, 1, 90, 17, 2, 60)]
    alone = grown(model, Slots(model, 301), [9, 8, 7, 6], [])
    for count in range(1, ROWS):
        among = grown(model, Slots(model, 301), [9, 8, 7, 6], texts[:count])
        assert torch.equal(alone, among), count


def test_a_row_that_was_used_before_has_nothing_left_of_it(model):
    slots = Slots(model, 256)
    fresh = grown(model, slots, [1, 2, 3], [])
    slots.leave(0)
    with torch.inference_mode():
        slots.cache.keys[0].fill_(torch.nan)  # as a damaged text may leave it
        slots.cache.values[0].fill_(torch.nan)
    again = Slots(model, 256)
    assert torch.equal(grown(model, again, [1, 2, 3], []), fresh)
    assert torch.equal(grown(model, slots, [1, 2, 3], []), fresh)


def test_the_logits_are_those_of_the_whole_text_at_once(model):
    found = grown(model, Slots(model, 256), [9, 8, 7], [[1, 2]], steps=5)
    ids = [9, 8, 7, *((7 * number) % 250 for number in range(5))]
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0, 3:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_that_are_idle_never_fill_up(model):
    with torch.inference_mode():
        slots = Slots(model, 64)
        for number in range(8):  # 160 steps: rows that come, go and stay free
            row = _seated(model, slots, [number + 1, 2])
            for _ in range(20):
                logits = slots.step({row: 7})
                assert logits[row].isfinite().all()
            assert slots.cache.lengths[row] == 22
            slots.leave(row)
            assert slots.cache.lengths == [0] * ROWS


@pytest.mark.parametrize(
    ("tokens", "context", "expected"), [(1, 64, 64), (256, 1024, 256), (257, 1024, 1024), (1024, 1024, 1024)]
)
def test_the_capacity_of_a_row_depends_on_its_own_tokens(tokens, context, expected):
    assert capacity_for(tokens, context) == expected
