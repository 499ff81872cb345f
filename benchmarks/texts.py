"""The name of a text comes in; its bytes go out, cut into what a run gets and a test part.

A name is a file, FILE:BYTES for its first so many bytes, story for the bundled one, or one of code:BYTES,
manual-de:BYTES, manual-fr:BYTES, made from the standard library and the manual pages of this machine.
"""

import gzip
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lucidlm.text


@dataclass(frozen=True, slots=True)
class Text:
    """A text by its name, cut into the part that a run gets and the test part."""

    name: str
    kind: str
    train: bytes
    test: bytes


def text_of(spec: str) -> Text:
    """The text of that name, its test part cut off."""
    name, _, size = spec.partition(":")
    if not size and (name == "code" or name.startswith("manual-")):
        raise SystemExit(f"{name}: it needs a size in bytes, as in {name}:200000")
    kind = {"code": "code", "manual-de": "German", "manual-fr": "French"}.get(name, "English")
    if name == "story":
        data = (Path(lucidlm.text.__file__).parent / "assets" / "story.txt").read_bytes()
    elif name == "code":
        data = _joined((path.read_bytes() for path in _modules()), int(size))
    elif name.startswith("manual-"):
        pages = sorted(Path(f"/usr/share/man/{name[-2:]}").glob("man[178]/*.gz"))
        data = _joined((_without_markup(path) for path in pages if not path.is_symlink()), int(size))
    else:
        data = Path(name).read_bytes()
        kind, name = "logs" if name.endswith(".log") else kind, Path(name).stem
    data = data[: int(size)] if size else data
    train, test = cut(data.decode("utf-8", "ignore").encode())
    return Text(f"{name}-{size}" if size else name, kind, train, test)


def cut(data: bytes) -> tuple[bytes, bytes]:
    """The first 90 % of the bytes and the rest; the cut moves to the next whole character."""
    place = len(data) * 9 // 10
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place += 1
    return data[:place], data[place:]


def _modules() -> Iterator[Path]:
    """Modules of the standard library, without its tests and tables."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not {"site-packages", "test", "tests", "encodings", "pydoc_data"} & set(path.parts):
            yield path


def _without_markup(path: Path) -> bytes:
    """A page of the manual without its commands."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", "ignore").splitlines()
    words = (
        re.sub(r"^\.[A-Za-z]+ *|\\f[A-Z]|\\&|\"", "", line)
        for line in lines
        if line[:2] != ".\\" and "po4a" not in line
    )
    return "\n".join(line.replace("\\-", "-") for line in words if not line.startswith((".", "'"))).encode()


def _joined(parts: Iterable[bytes], size: int) -> bytes:
    """The parts one after the other, up to `size` bytes."""
    found = b""
    for part in parts:
        found += part + b"\n"
        if len(found) >= size:
            break
    return found[:size]
