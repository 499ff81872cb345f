"""Disks and limits that ran out: an error in, a line that says what to do out."""

import errno
import os

_FULL = "free some space there, or give another place"
_DESCRIPTORS = "raise the limit on open files (ulimit -n)"
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f unlimited)",
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
}


def way_out_of(error: BaseException) -> str:
    """Advice for an error of the system that something ran out; "" for another error."""
    return _WAYS_OUT.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def with_way_out(error: Exception) -> str:
    """Reason and advice for something that could not be written: "a: No space left (free some space)"."""
    if not isinstance(error, OSError):
        return "out of memory (free some memory)"
    reason = f"{_place(error)}{error.strerror}" if error.strerror else str(error)
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return f"{reason} ({way_out_of(error) or ('allow writing there' if refused else 'check the disk')})"


def ran_out(error: BaseException) -> str:
    """The line for an error that something ran out; "" for another error.

    Some libraries have only the system's text in their errors, so that is what is looked for in them.
    """
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
