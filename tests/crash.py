"""A command that may crash in, what ended it out, in one line: in the test's own process it is a page."""

import signal
import subprocess


def crash_of(command: list[str]) -> str | None:
    """The name of the signal that ended the command, or the last line of its error; None: it ended well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
