"""What ran out, a disk or a limit: an error comes in, a line with the way out goes out."""

import errno
import os

_FULL = "make room there, or give another place"
_DESCRIPTORS = "raise the limit on open files (ulimit -n)"
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f unlimited)",
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
}


def way_out_of(error: BaseException) -> str:
    """What to do where a system says that something ran out; "" for another error."""
    return _WAYS_OUT.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def with_way_out(error: Exception) -> str:
    """Why something could not be written, and what to do about it: "a: No space left (make room)"."""
    if not isinstance(error, OSError):
        return "no memory is left (make memory free)"
    reason = f"{_place(error)}{error.strerror}" if error.strerror else str(error)
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return f"{reason} ({way_out_of(error) or ('allow writing there' if refused else 'check the disk')})"


def ran_out(error: BaseException) -> str:
    """The line for an error that something ran out; "" for another. Some libraries say it in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        way_out = way_out_of(error)
        return f"{_place(error)}{error.strerror}; {way_out}" if way_out else ""
    if not isinstance(error, RuntimeError | OSError) and type(error).__name__ != "SafetensorError":
        return ""
    said = " ".join(str(error).split())
    ways = (way_out for number, way_out in _WAYS_OUT.items() if os.strerror(number) in said)
    return next((f"{said[:300]}; {way_out}" for way_out in ways), "")


def _place(error: OSError) -> str:
    named = isinstance(error.filename, str | bytes | os.PathLike)
    return f"{os.fsdecode(error.filename)}: " if named else ""
