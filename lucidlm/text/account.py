"""Counts of a text's bytes come in while files are read; notes on what was left out or changed go out.

All bytes are bytes of UTF-8, so the counts add up: text + left out == read.
"""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from lucidlm.runtime.wording import one_line, plural
from lucidlm.text import reasons


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8; half a surrogate pair counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _bytes_are(count: int) -> str:
    return f"{plural(count, 'byte')} {'is' if count == 1 else 'are'}"


@dataclass(slots=True)
class Account:
    """Counts of what reading did with the bytes of one document, or of all documents."""

    read: int = 0
    """Bytes of all characters that were read, byte order marks included."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Bytes of `read` that are not in the text, by reason."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often something was changed or ignored."""
    files: int = 0
    """0 for a text that was given as a string."""
    stored: int = 0
    """Bytes of the files on the disk. Equal to `read` if the next three are empty."""
    extracted: Counter[str] = field(default_factory=Counter)
    """Bytes of files whose text had to be extracted, by format."""
    decoded: Counter[str] = field(default_factory=Counter)
    """Bytes in other encodings than UTF-8, by encoding."""
    packed: int = 0
    """Bytes of .gz, .bz2, .xz and .zst files and of archives."""
    first: dict[str, str] = field(default_factory=dict)
    """The first document with each key of `left_out` and `seen`."""
    documents: Counter[str] = field(default_factory=Counter)
    """Number of documents with each of these keys; the key "" counts all documents."""
    passed: Counter[str] = field(default_factory=Counter)
    """Files of a folder, or members of a file, that were not read, by reason."""
    first_passed: dict[str, str] = field(default_factory=dict)
    """The first of them, by reason."""

    def to_fields(self) -> dict[str, Any]:
        """All counts, for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> "Account":
        """The account that has given these."""
        names = ("left_out", "seen", "extracted", "decoded", "documents", "passed")
        counts: dict[str, Any] = {name: Counter(values[name]) for name in names}
        return cls(**(values | counts))

    @property
    def text(self) -> int:
        """Bytes of the text that was kept."""
        return self.read - self.left_out.total()

    def clear(self) -> None:
        """Reset what reading counts, before a second reading."""
        self.read = 0
        for counts in (self.left_out, self.seen, self.decoded, self.passed, self.first_passed):
            counts.clear()

    def leave_out(self, reason: str, count: int) -> None:
        """Count bytes that were read and are not in the text."""
        if count:
            self.left_out[reason] += count

    def saw(self, what: str, times: int = 1) -> None:
        """Count a change."""
        if times:
            self.seen[what] += times

    def pass_over(self, reason: str, name: str, count: int = 1) -> None:
        """Count files of a folder, or members of a file, that were not read; `name` is the first of them."""
        if count:
            assert reason in reasons.PASSED, reason
            self.passed[reason] += count
            self.first_passed.setdefault(reason, name)

    def add(self, other: "Account", source: str | None = None) -> None:
        """Add another account: that of the document `source`, or (None) of the bytes around documents."""
        self.read += other.read
        self.files += other.files
        self.stored += other.stored
        self.packed += other.packed
        self.left_out.update(other.left_out)
        self.seen.update(other.seen)
        self.extracted.update(other.extracted)
        self.decoded.update(other.decoded)
        for reason, count in other.passed.items():
            self.pass_over(reason, other.first_passed[reason], count)
        if source is not None:
            self.documents[""] += 1
            for what in (*other.left_out, *other.seen):
                self.documents[what] += 1
                self.first.setdefault(what, source)

    def join(self, other: "Account") -> None:
        """Add an account of many documents that come after those of this one."""
        self.add(other)
        self.documents.update(other.documents)
        for what, source in other.first.items():
            self.first.setdefault(what, source)

    def left_out_line(self) -> str:
        """How many bytes were left out, of how many, and why; "" if none were."""
        if not (total := self.left_out.total()):
            return ""
        of = "text's" if not self.files else "file's" if self.files == 1 else "files'"
        alike = not self.files or self.stored == self.read
        whole = f"the {of} {plural(self.read, 'byte')}" if alike else f"{plural(self.read, 'byte')} of UTF-8"
        said = [self._said(what, count, reasons.LEFT_OUT[what]) for what, count in self.left_out.items()]
        if len(said) == 1:  # its count is the total: say it once
            only = said[0].split(" ", 1)[1]
            article = "a " if self.left_out[reasons.CARRIAGE_RETURNS] == 1 else ""
            return f"{total:,} of {whole}: {article}{only.removeprefix('of ')}"
        return f"{total:,} of {whole}: {', '.join(said)}"

    def lines(self) -> list[str]:
        """Notes for the user: what was left out, skipped or changed, and how bytes became text."""
        lines = [f"left out {line}"] if (line := self.left_out_line()) else []
        return lines + self.other_lines()

    def other_lines(self) -> list[str]:
        """`lines` without the line on bytes that were left out."""
        lines = self.passed_lines()
        lines += [self._said(what, count, reasons.SEEN[what]) for what, count in self.seen.items()]
        how = [
            f"text extracted from {plural(count, 'byte')} of {reasons.FORMATS[kind]}"
            for kind, count in self.extracted.items()
        ]
        how += [f"{_bytes_are(count)} {encoding}" for encoding, count in self.decoded.items()]
        how += [f"{_bytes_are(self.packed)} packed"] * bool(self.packed)
        if self.extracted or (how and self.stored != self.read):
            files = "file" if self.files == 1 else f"{self.files:,} files"
            gave = f"gave {plural(self.read, 'byte')} of UTF-8"
            lines.append(f"{plural(self.stored, 'byte')} of the {files} {gave} ({'; '.join(how)})")
        return lines

    def passed_lines(self) -> list[str]:
        """What was not read: a line for each reason, in the order of the table."""
        lines = []
        for reason, words in reasons.PASSED.items():
            if count := self.passed[reason]:
                more = f" and {count - 1:,} more" if count > 1 else ""
                words = reasons.worded(words, one=count == 1)
                lines.append(f"skipped {count:,} {words} ({one_line(self.first_passed[reason])}{more})")
        return lines

    def _said(self, what: str, count: int, words: str) -> str:
        """A count in words. With several documents: also the name of the first document."""
        where, documents = "", self.documents[what]
        if documents and self.documents[""] > 1 and what not in (reasons.JSON, reasons.TABLE):
            more = f" and {plural(documents - 1, 'more document')}"
            where = f" ({one_line(self.first[what])}{more if documents > 1 else ''})"
        one = count == (reasons.MARK_BYTES if what == reasons.BYTE_ORDER_MARKS else 1)
        return f"{count:,} {reasons.worded(words, one=one)}{where}"

    def to_dict(self) -> dict[str, Any]:
        """Stable keys for --json and manifests; bytes_of_files is None for a text given as a string."""
        return {
            "bytes_of_files": self.stored if self.files else None,
            "bytes_as_utf8": self.read,
            "bytes_left_out": dict(self.left_out),
            "changes": dict(self.seen),
            "passed_over": {
                reason: {"count": count, "first": self.first_passed[reason]}
                for reason, count in self.passed.items()
            },
            "extracted_from": dict(self.extracted),
            "decoded_from": dict(self.decoded),
            "bytes_packed": self.packed,
        }
