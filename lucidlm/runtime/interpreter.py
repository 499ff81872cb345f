"""Flags for Python processes that this one starts go out: they import from no other places than this one."""

import os
import sys


def own_flags() -> list[str]:
    """Flags of Python for a process of this package.

    Python puts the current folder first on the path of `-m` and `-c`. -P leaves it out, unless this process
    has it too: a file numpy.py among a user's texts must not be run. -E and -s, if this process has them:
    PYTHONPATH, or the packages of the user, are ignored there too.
    """
    flags = {
        "-P": not _imports_from_here(),
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
    }
    return [flag for flag, given in flags.items() if given]


def _imports_from_here() -> bool:
    try:
        here = os.path.realpath(os.curdir)
        return any(os.path.realpath(path) == here for path in sys.path)
    except OSError:  # the current folder was deleted
        return False
