"""Python objects come in and are sent through a pipe; at its other end they go out.

Only a command and the processes that it starts use this. The messages are pickles, and a pickle can run any
code. It is safe here because no other program has an end of these pipes, and no message is ever in a file.
"""

import pickle
from typing import IO, Any

_LENGTH_BYTES = 8
"""Each message begins with its length, so the one after an unreadable message can still be read."""


def send(pipe: IO[bytes], message: object) -> None:
    """Send a message. OSError if nobody reads.

    Any other error if it cannot be pickled; then nothing is sent.
    """
    data = pickle.dumps(message)
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message. EOFError at the end; any other error if the message cannot be unpickled."""
    length = int.from_bytes(_read(pipe, _LENGTH_BYTES), "little")
    return pickle.loads(_read(pipe, length))


def can_be_sent(message: object) -> bool:
    """Whether a message can be pickled and unpickled. An error of a library often cannot."""
    try:
        pickle.loads(pickle.dumps(message))
    except Exception:  # whatever an error's own code raises when it is copied
        return False
    return True


def _read(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data
