import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import BYTES, FOREIGN

from lucidlm.serve.transcript import Transcript, spelled


def written(ids, stop=(), echoed=(), *, every=1):
    """Tokens and text of a transcript whose pieces are released after every so many tokens."""
    transcript = Transcript(BYTES, stop)
    transcript.echo(echoed)
    tokens, text = [], ""
    for number, id in enumerate(ids, 1):
        stopped = transcript.add(id, last=number == len(ids))
        if number % every == 0 or transcript.ended:
            some, part = transcript.release()
            tokens += some
            text += part
        if stopped:
            break
    if not ids:
        transcript.close()
        tokens, text = transcript.release()
    return list(tokens), text


def slices(tokens, text):
    ends = [token.start for token in tokens[1:]] + [len(text)] * bool(tokens)
    return [text[token.start : end] for token, end in zip(tokens, ends, strict=True)]


# A mix of whole characters, their parts and bytes that are no UTF-8.
TEXTS = st.lists(st.one_of(st.sampled_from([*FOREIGN, "a", "b"]).map(str.encode), st.binary(max_size=2)))
STOPS = st.lists(st.text("ab猫ö🙂", min_size=1, max_size=3), max_size=3)


@given(TEXTS, STOPS, st.integers(0, 9), st.integers(1, 5))
def test_offsets_slice_the_text_and_no_stop_string_is_in_it_streamed_or_not(parts, stop, echoed, every):
    ids = list(b"".join(parts))
    prompt, ids = ids[:echoed], ids[echoed:]
    tokens, text = written(ids, stop, prompt)
    assert "".join(slices(tokens, text)) == text
    for token, part in zip(tokens, slices(tokens, text), strict=True):
        whole = spelled(BYTES, token.id)
        assert part in whole or whole.startswith("bytes:") or "\ufffd" in part
    assert written(ids, stop, prompt, every=every) == (tokens, text)
    echo = Transcript(BYTES)
    echo.echo(prompt)
    generated = text[len(echo.text) :]
    assert not any(string in generated for string in stop)
    whole = BYTES.decode([*prompt, *ids])
    assert whole.startswith(text)
    if not any(string in whole[len(echo.text) :] for string in stop):
        assert text == whole
        assert [token.id for token in tokens] == [*prompt, *ids]


@given(TEXTS, STOPS)
def test_what_is_released_is_never_the_beginning_of_a_stop_string(parts, stop):
    ids = list(b"".join(parts))
    transcript = Transcript(BYTES, stop)
    released = ""
    for id in ids:
        if transcript.add(id):
            break
        released += transcript.release()[1]
        if released == transcript.text:  # nothing is held: the next token may be anything
            assert not any(
                released.endswith(string[:size]) for string in stop for size in range(1, len(string))
            )
    assert not any(string in released for string in stop)


@pytest.mark.parametrize(
    ("id", "expected"), [(65, "A"), (0xC3, "bytes:\\xc3"), (256, "<|endoftext|>"), (300, "<id 300>")]
)
def test_a_token_is_spelled_as_openai_does(id, expected):
    assert spelled(BYTES, id) == expected


def test_an_echoed_prompt_may_contain_a_stop_string():
    _, text = written(list(b"cd"), ["ab"], list(b"ab"))
    assert text == "abcd"
