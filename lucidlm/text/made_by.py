"""Goes out: a hash of all code that kept pieces depend on, this package's, Python's and the libraries'."""

import hashlib
import importlib.metadata
import sys
import unicodedata
from pathlib import Path

import lucidlm

LIBRARIES = ("numpy", "pyarrow", "pypdf", "selectolax", "tiktoken", "tokenizers", "webencodings")
"""They read files or encode text. A new version may give another result."""
_ROOM = Path(__file__).parent


def made_by(room: Path = _ROOM) -> str:
    """The hash. Two states of a checkout may have the same version, so it includes the code itself."""
    digest = hashlib.sha256(repr((lucidlm.__version__, sys.version, unicodedata.unidata_version)).encode())
    for name in LIBRARIES:
        digest.update(f"{name} {_version_of(name)}\n".encode())
    for path in sorted(room.rglob("*.py")):
        digest.update(
            f"{path.relative_to(room).as_posix()} ".encode() + hashlib.sha256(path.read_bytes()).digest()
        )
    return digest.hexdigest()[:32]


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""  # an extra that is not installed
