"""The command lucidlm, and python -m lucidlm: a command line comes in, an exit code goes out."""

import contextlib
import sys


def main() -> int:
    """`cli.main`; Ctrl-C while its modules are read, which takes a while, is one line and code 130."""
    try:
        from lucidlm.cli import main as command_line
    except (KeyboardInterrupt, RuntimeError) as error:
        # Python 3.11 makes a RuntimeError of a signal in a class that is being made.
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write("lucidlm: interrupted by Ctrl-C (SIGINT) before there was anything to save\n")
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
