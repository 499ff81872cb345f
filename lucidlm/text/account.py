"""Counts of a text's bytes come in while files are read; notes on what was left out or changed go out.

All bytes are bytes of UTF-8, so the counts add up: text + left out == read.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lucidlm.runtime.wording import one_line, plural

BYTE_ORDER_MARKS = "byte_order_marks"
CARRIAGE_RETURNS = "carriage_returns"
GUTENBERG = "gutenberg_frames"
JSON, TABLE = "json", "table"

_NUMBERED = re.compile(r"\[(?:(?P<one>[^\[\]|]*)\|)?(?P<many>[^\[\]|]*)\]")
MARK_BYTES = 3
"""Bytes of one byte order mark in UTF-8."""

_LEFT_OUT = {
    BYTE_ORDER_MARKS: "of [a |]byte order mark[|s]",
    CARRIAGE_RETURNS: "carriage return[s] of [a |]line end[|s]",
    GUTENBERG: "of Project Gutenberg's headers and footers",
    JSON: "of JSON around the texts",
    TABLE: "of a table around the texts",
}
"""Why bytes were left out. The key is that of --json; the words follow a number of bytes.

In all these tables [s] and [one|many] depend on the number.
"""
LONE_RETURNS = "lone_carriage_returns"
SURROGATES = "lone_surrogates"
NO_UTF8 = "bytes_that_are_no_utf8"
NO_FOOTER, NO_HEADER = "gutenberg_headers_without_footer", "gutenberg_footers_without_header"
MARKS_KEPT = "gutenberg_marks_kept"
EMPTY_LINES, BLANK = "empty_documents", "blank_documents"
REPEATED_FIELDS = "fields_that_stand_twice"
TRAILING = "bytes_behind_packed_files"
CUES, TAGS, NOTES = "subtitles", "subtitle_tags", "subtitle_notes"
DELETED, COMMENTS, FRAMES, HIDDEN = "deleted_passages", "comments", "page_headers", "hidden_passages"
EMBEDDED = "embedded_parts"
BY_CONTENT, NOT_PACKED = "files_read_by_content", "files_not_packed_as_named"
MARKUP = "markup_"
"""Prefix of the keys for the formats in `_MARKUP`."""
BETTER_ENCODING = "files_that_read_better_in_another_encoding"
UNDECODABLE = "characters_not_in_the_encoding"
FIELD_UNUSED, ENCODING_UNUSED = "files_without_fields", "files_that_tell_their_encoding"
OTHER_LABELS = "pages_in_utf8_that_declare_another_encoding"
HIDDEN_TEXT, CONTROLS, SOFT_HYPHENS = "characters_of_hidden_text", "control_characters", "soft_hyphens"
DEEP_TAGS = "deeply_nested_tags"
NO_CONTAINER, NO_PACKAGE, NO_SPINE = "epubs_without_container", "epubs_without_package", "epubs_without_spine"
LETTER_FORMS, UNKNOWN_GLYPHS = "letter_forms", "unknown_glyphs"
FLAGGED_PAGES = "pages_in_the_encoding_asked_for"
_SEEN = {
    HIDDEN_TEXT: "character[s] of hidden text left out",
    CONTROLS: "control character[s] removed",
    SOFT_HYPHENS: "soft hyphen[s] removed",
    LETTER_FORMS: "[ligature or letter form|ligatures or letter forms] replaced by plain letters",
    UNKNOWN_GLYPHS: "glyph[s] without a known character replaced by U+FFFD",
    DEEP_TAGS: "deeply nested tag[s] ignored, [its|their] text kept",
    NO_CONTAINER: "EPUB[s] whose container names no package: the first package in [it|each] is read",
    NO_PACKAGE: "EPUB[s] whose package names no page: read in the order of [its|their] archive",
    NO_SPINE: "EPUB[s] without a spine: read in the order of [its|their] manifest",
    FLAGGED_PAGES: "page[s] not in UTF-8, decoded as --encoding says",
    LONE_RETURNS: "carriage return[s] read as [a line feed|line feeds]",
    SURROGATES: "lone surrogate[s] replaced by U+FFFD",
    NO_UTF8: "place[s] where the tokens' bytes are not UTF-8 replaced by U+FFFD",
    NO_FOOTER: "Project Gutenberg header[s] removed; no footer was found",
    NO_HEADER: "Project Gutenberg footer[s] removed; no header was found",
    MARKS_KEPT: "uncertain mark[s] of Project Gutenberg headers or footers kept",
    TRAILING: "byte[s] after the end of [a compressed file|compressed files] ignored",
    CUES: "subtitle[s] kept without number[|s] and times",
    TAGS: "subtitle tag[s] left out",
    NOTES: "subtitle note[s] or style[s] left out",
    DELETED: "passage[s] deleted under tracked changes left out",
    COMMENTS: "comment[s] left out",
    FRAMES: "page header[s] [or footer|and footers] left out",
    EMBEDDED: "embedded document[s], chart[s] or diagram[s] left out",
    HIDDEN: "hidden passage[s] left out",
    BY_CONTENT: "file[s] read as the format that the first bytes show, not the name",
    NOT_PACKED: "file[s] named as compressed but not compressed: read as [it is|they are]",
    UNDECODABLE: "wrong character[s] of [a page|pages] replaced by U+FFFD",
    FIELD_UNUSED: "file[s] without fields read whole: --field does not apply to [it|them]",
    ENCODING_UNUSED: "file[s] whose format fixes the encoding: --encoding does not apply to [it|them]",
    BETTER_ENCODING: "file[s] that read[s|] better in another encoding (omit --encoding to see which)",
    OTHER_LABELS: "page[s] in UTF-8 read as that, although another encoding is declared",
    REPEATED_FIELDS: "text[s] not read: the record has the field twice, and the last one counts",
    EMPTY_LINES: "document[s] with an empty text skipped",
    BLANK: "document[s] of white space only",
}
"""What was changed or ignored without a count of bytes."""
_MARKUP = {
    "rtf": ("RTF", "save it as .docx, .odt or .txt to read its text alone"),
    "html": ("HTML", "name it .html to read its text alone"),
    "xml": ("XML", ""),
    "sgml": ("SGML", ""),
    "json": ("JSON", "name it .jsonl or .json and give --field to read its texts alone"),
    "table": ("table", "name it .csv or .tsv and give --field to read its texts alone"),
    "notebook": ("Jupyter notebook", "export it as Markdown to read its text alone"),
    "latex": ("LaTeX", ""),
    "rst": ("reStructuredText", ""),
    "asciidoc": ("AsciiDoc", ""),
    "org": ("Org", ""),
    "wikitext": ("wikitext", ""),
    "yaml": ("YAML", ""),
    "toml": ("TOML", ""),
    "ini": ("INI", ""),
    "mail": ("mail", ""),
    "log": ("log", ""),
    "postscript": ("PostScript", "convert it to PDF to read its text alone"),
    "subtitles": ("subtitle", "name it .srt or .vtt if it has that format, to read its text alone"),
}
_SEEN |= {
    MARKUP + what: f"{name} file[s] read as plain text, markup included{f' ({advice})' * bool(advice)}"
    for what, (name, advice) in _MARKUP.items()
}
GIVEN_TWICE, HIDDEN_FILES, OWN_FOLDERS = "given_twice", "hidden", "own_folders"
LINKED_FOLDERS, LOOSE_LINKS, SPECIAL = "linked_folders", "loose_links", "special"
OTHER_KINDS, EMPTY_FILES, UNREADABLE = "other_kinds", "empty_files", "unreadable"
BINARY, OTHER_ENCODING, NO_FIELD, DAMAGED = "binary", "other_encoding", "no_field", "damaged"
NO_TEXT, NO_TOKENS, UNFIT, ENCRYPTED = "no_text", "no_tokens", "unfit", "encrypted"
MISSING_PAGES, UNKNOWN_PAGES = "pages_missing", "pages_not_in_manifest"
NO_TEXT_PAGES, BLANK_PAGES, DAMAGED_PAGES = "pages_of_another_kind", "pages_without_text", "damaged_pages"
ENCRYPTED_PAGES, REPEATED_PAGES, UNLISTED_PAGES = "encrypted_pages", "repeated_pages", "pages_not_in_spine"
OTHER_VERSIONS, UNREADABLE_PAGES = "other_versions", "pages_of_unknown_glyphs"
LINKS = "links"
_PASSED = {
    OTHER_KINDS: "file[s] of [another kind|other kinds]",
    HIDDEN_FILES: "hidden file[s] or folder[s]",
    OWN_FOLDERS: "folder[s] that [is a run, a model or a prepared text|are runs, models or prepared texts]",
    LINKED_FOLDERS: "link[s] to [a folder|folders]",
    LOOSE_LINKS: "broken link[s]",
    SPECIAL: "socket[s], pipe[s] or device[s]",
    GIVEN_TWICE: "file[s] given twice",
    EMPTY_FILES: "empty file[s]",
    UNREADABLE: "file[s] or folder[s] that cannot be read",
    BINARY: "binary file[s]",
    OTHER_ENCODING: "file[s] in [another encoding|other encodings]",
    NO_FIELD: "file[s] without the field of the text (--field)",
    DAMAGED: "damaged file[s]",
    ENCRYPTED: "encrypted file[s]",
    NO_TEXT: "file[s] without text",
    MISSING_PAGES: "missing page[s]",
    UNKNOWN_PAGES: "page[s] of a spine that the manifest does not list",
    NO_TEXT_PAGES: "page[s] that [is|are] not text",
    BLANK_PAGES: "page[s] without text",
    DAMAGED_PAGES: "damaged page[s]",
    ENCRYPTED_PAGES: "encrypted page[s]",
    REPEATED_PAGES: "page[s] listed again",
    UNLISTED_PAGES: "page[s] outside the reading order",
    OTHER_VERSIONS: "other version[s] of a book",
    UNREADABLE_PAGES: "page[s] whose fonts do not name [its|their] characters",
    LINKS: "link[s] in an archive",
    NO_TOKENS: ".bin file[s] without token ids of GPT-2",
    UNFIT: "file[s] that cannot be used as text",
}
"""Why a file of a folder, or a member of an archive, was not read: the values of `DataError.reason`."""
_FORMATS = {
    "html": "HTML",
    "epub": "EPUB",
    "pdf": "PDF",
    "docx": "Word documents",
    "odt": "OpenDocument texts",
    "srt": "subtitles",
    "vtt": "subtitles",
    "tokens": "GPT-2 tokens",
}


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8; half a surrogate pair counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _worded(words: str, *, one: bool) -> str:
    """The words for one or for many: of "file[s] that [is|are] empty" the parts that fit the number."""
    return _NUMBERED.sub(lambda part: part["one"] or "" if one else part["many"], words)


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
    """Bytes of .gz, .bz2 and .xz files and of archives."""
    first: dict[str, str] = field(default_factory=dict)
    """The first document with each key of `left_out` and `seen`."""
    documents: Counter[str] = field(default_factory=Counter)
    """Number of documents with each of these keys; the key "" counts all documents."""
    passed: Counter[str] = field(default_factory=Counter)
    """Files of a folder, or members of a file, that were not read, by reason."""
    first_passed: dict[str, str] = field(default_factory=dict)
    """The first of them, by reason."""

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
            assert reason in _PASSED, reason
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

    def left_out_line(self) -> str:
        """How many bytes were left out, of how many, and why; "" if none were."""
        if not (total := self.left_out.total()):
            return ""
        of = "text's" if not self.files else "file's" if self.files == 1 else "files'"
        alike = not self.files or self.stored == self.read
        whole = f"the {of} {plural(self.read, 'byte')}" if alike else f"{plural(self.read, 'byte')} of UTF-8"
        reasons = [self._said(what, count, _LEFT_OUT[what]) for what, count in self.left_out.items()]
        if len(reasons) == 1:  # its count is the total: say it once
            only = reasons[0].split(" ", 1)[1]
            article = "a " if self.left_out[CARRIAGE_RETURNS] == 1 else ""
            return f"{total:,} of {whole}: {article}{only.removeprefix('of ')}"
        return f"{total:,} of {whole}: {', '.join(reasons)}"

    def lines(self) -> list[str]:
        """Notes for the user: what was left out, skipped or changed, and how bytes became text."""
        lines = [f"left out {line}"] if (line := self.left_out_line()) else []
        return lines + self.other_lines()

    def other_lines(self) -> list[str]:
        """`lines` without the line on bytes that were left out."""
        lines = self.passed_lines()
        lines += [self._said(what, count, _SEEN[what]) for what, count in self.seen.items()]
        how = [
            f"text extracted from {plural(count, 'byte')} of {_FORMATS[kind]}"
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
        for reason, words in _PASSED.items():
            if count := self.passed[reason]:
                more = f" and {count - 1:,} more" if count > 1 else ""
                words = _worded(words, one=count == 1)
                lines.append(f"skipped {count:,} {words} ({one_line(self.first_passed[reason])}{more})")
        return lines

    def _said(self, what: str, count: int, words: str) -> str:
        """A count in words. With several documents: also the name of the first document."""
        where, documents = "", self.documents[what]
        if documents and self.documents[""] > 1 and what not in (JSON, TABLE):
            more = f" and {plural(documents - 1, 'more document')}"
            where = f" ({one_line(self.first[what])}{more if documents > 1 else ''})"
        one = count == (MARK_BYTES if what == BYTE_ORDER_MARKS else 1)
        return f"{count:,} {_worded(words, one=one)}{where}"

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
