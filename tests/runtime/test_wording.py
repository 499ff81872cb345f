import pytest

from lucidlm.runtime.wording import duration, plural


@pytest.mark.parametrize(("count", "noun", "says"), [
    (0, "step", "0 steps"), (1, "head", "1 head"), (2000, "document", "2,000 documents"),
    (1.0, "byte", "1 byte"), (1.5, "byte", "1.5 bytes"), (1, "piece of it", "1 piece of it"),
    (2, "piece of it", "2 pieces of it"),
])  # fmt: skip
def test_a_noun_has_its_s_unless_the_count_is_one(count, noun, says):
    assert plural(count, noun) == says


@pytest.mark.parametrize(("seconds", "says"), [
    (0.0, "under 1 second"), (1.2, "1 second"), (59.4, "59 seconds"), (59.6, "1.0 minutes"),
    (156, "2.6 minutes"),
])  # fmt: skip
def test_a_short_time_is_never_called_no_minutes(seconds, says):
    assert duration(seconds) == says
