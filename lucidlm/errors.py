"""Errors that a user can fix: one tree; each message is a line with the value, the limit and the way out."""


class LucidError(Exception):
    """An error that the user can fix: the command line prints its message without a traceback and exits 2."""

    exit_code = 2

    def __init__(self, fault: str, advice: str = "") -> None:
        """The message is both; a caller that knows better advice takes `fault` alone."""
        super().__init__(f"{fault}; {advice}" if advice else fault)
        self.fault = fault


class ConfigError(LucidError):
    """A setting that cannot work, or two settings that contradict each other."""


class DataError(LucidError):
    """A text, a token file or a prepared folder that cannot be used as it is.

    `reason` is a key of `PASSED` in text/reasons.py: in a folder, the file is skipped and counted under it.
    """

    def __init__(self, fault: str, advice: str = "", *, reason: str = "unfit") -> None:
        super().__init__(fault, advice)
        self.reason = reason


class FetchError(DataError):
    """A file that cannot be fetched."""

    def __init__(self, address: str, code: str, problem: str, advice: str) -> None:
        super().__init__(f"{address}: {problem}", advice)
        self.code, self.problem = code, problem


class WeightsError(LucidError):
    """A model folder that is damaged, of an unknown kind, or does not fit."""


class NumbersError(WeightsError):
    """A number that nobody should trust: NaN logits, or an evaluation that is too good to be true."""

    exit_code = 1


class RunError(LucidError):
    """A run folder that is in use, in the way, damaged, or belongs to another text."""


class InUseError(RunError):
    """A place that another lucidlm process uses."""


class PlaceError(RunError):
    """A place where nothing can or should be written."""


class OutputError(LucidError):
    """Standard output that cannot be written: the work is done, but its result is lost."""

    exit_code = 1


class ServerError(LucidError):
    """A request that the server refuses: `status` is that of HTTP, `param` the field that is wrong."""

    def __init__(
        self,
        fault: str,
        advice: str = "",
        *,
        status: int = 400,
        param: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(fault, advice)
        self.status, self.param, self.retry_s = status, param, retry_s
