"""What decides on kept pieces besides the texts goes out as a hash: this code, Python, and libraries."""

import hashlib
import importlib.metadata
import sys
import unicodedata
from pathlib import Path

import lucidlm

LIBRARIES = ("numpy", "pyarrow", "pypdf", "selectolax", "tiktoken", "tokenizers", "webencodings")
"""They read files, or turn text into tokens. An update may change what comes out."""
_ROOM = Path(__file__).parent


def made_by(room: Path = _ROOM) -> str:
    """The hash. The version alone does not tell two states of a checkout apart, so the code is in it too."""
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
