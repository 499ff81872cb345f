"""Python objects go in, messages on a pipe come out, and back: between a command and its own processes.

The messages are pickles, which can run any code. That is safe here alone: a command makes each pipe for one
process that it starts, no other program has an end of it, and no message is ever read from a file.
"""

import pickle
from typing import IO, Any

_LENGTH_BYTES = 8
"""Each message begins with its length: after one that cannot be unpickled, the next one can still be read."""


def send(pipe: IO[bytes], message: object) -> None:
    """Write a message. OSError if nobody reads.

    If it cannot be pickled, any error of pickle, before a byte is written.
    """
    data = pickle.dumps(message)
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message. EOFError at the end; any error if it cannot be unpickled."""
    length = int.from_bytes(_read(pipe, _LENGTH_BYTES), "little")
    return pickle.loads(_read(pipe, length))


def can_be_sent(message: object) -> bool:
    """Whether a message can be pickled and read again. A library's error class may take other arguments."""
    try:
        pickle.loads(pickle.dumps(message))
    except Exception:
        return False
    return True


def _read(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data
