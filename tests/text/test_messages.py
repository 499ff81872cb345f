"""Messages on a pipe: what is sent comes out, also after a message that cannot be read."""

import io

import pytest
import worker_tasks
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidlm.text.messages import can_be_sent, receive, send


@settings(max_examples=30, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.binary() | st.text(), st.lists, max_leaves=9))
def test_messages_come_out_as_they_went_in_and_one_that_is_unreadable_does_not_harm_the_next(message):
    pipe = io.BytesIO()
    for sent in (message, worker_tasks.Unreadable(), message):
        send(pipe, sent)
    pipe.seek(0)
    assert receive(pipe) == message
    with pytest.raises(LookupError):
        receive(pipe)
    assert receive(pipe) == message
    with pytest.raises(EOFError):
        receive(pipe)


@pytest.mark.parametrize("bytes_left", [0, 1, 7, 8, 9, 60])
def test_a_message_that_was_cut_is_the_end(bytes_left):
    pipe = io.BytesIO()
    send(pipe, "x" * 100)
    with pytest.raises(EOFError):
        receive(io.BytesIO(pipe.getvalue()[:bytes_left]))


def test_of_a_message_that_cannot_be_pickled_no_byte_is_sent():
    pipe = io.BytesIO()
    with pytest.raises(Exception, match="lambda"):
        send(pipe, lambda: 1)
    assert pipe.getvalue() == b""
    assert not can_be_sent(lambda: 1)
    assert not can_be_sent(worker_tasks.Unreadable())
    assert can_be_sent({"a": [1]})
