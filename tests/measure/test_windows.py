import pytest

from lucidlm.measure.windows import scored_windows


@pytest.mark.parametrize(
    ("context_length", "stride"), [(1, 1), (2, 1), (5, 2), (8, 8), (9, 4), (16, 7), (16, 15)]
)
def test_windows_score_each_place_once_and_give_it_t_minus_s_places_before(context_length, stride):
    for n_inputs in range(3 * context_length + 8):
        windows = list(scored_windows(n_inputs, context_length, stride))
        scored = [place for _, first, end in windows for place in range(first, end)]
        assert scored == list(range(n_inputs))
        for number, (start, first, end) in enumerate(windows):
            assert start == number * stride
            assert start <= first < end <= start + context_length
            assert first == 0 or first - start >= context_length - stride
            assert end == min(start + context_length, n_inputs)
