"""What a user can fix: one tree of errors, each a line that names the value, the limit and the way out."""


class LucidError(Exception):
    """Something the user can change: the command line prints its message without a traceback and exits 2."""

    exit_code = 2


class ConfigError(LucidError):
    """A setting that cannot work, or two that contradict each other."""


class DataError(LucidError):
    """A text, a token file or a prepared folder that cannot be used as it is.

    `reason` is a key of text/account.py: a folder is read without such a file, and counts it there.
    """

    def __init__(self, message: str, *, reason: str = "unfit") -> None:
        super().__init__(message)
        self.reason = reason


class FetchError(DataError):
    """A file that cannot be fetched."""

    def __init__(self, address: str, code: str, problem: str, advice: str) -> None:
        super().__init__(f"{address}: {problem}; {advice}")
        self.code, self.problem = code, problem


class WeightsError(LucidError):
    """A model folder that is damaged, unknown or does not fit."""


class NumbersError(WeightsError):
    """A number that nobody should trust: logits that are NaN, an evaluation too good to be true."""

    exit_code = 1


class RunError(LucidError):
    """A run folder that is in use, in the way, damaged or of another text."""


class InUseError(RunError):
    """A place that another process of lucidlm holds."""


class PlaceError(RunError):
    """A place where nothing can be written, or nothing should be."""


class OutputError(LucidError):
    """Standard output that cannot be written: the work is done, its result is not shown."""

    exit_code = 1
