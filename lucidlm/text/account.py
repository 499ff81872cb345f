"""What became of a text's bytes: counts come in while files are read, lines on what was left out go out.

All bytes are those of UTF-8, so that what was kept and what was left out add up: text + left out == read.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lucidlm.runtime.wording import one_line, plural

BYTE_ORDER_MARKS = "byte_order_marks"
CARRIAGE_RETURNS = "carriage_returns"
GUTENBERG = "gutenberg_frames"
JSON, TABLE = "json", "table"

MARK_BYTES = 3
"""Of one byte order mark in UTF-8."""

_LEFT_OUT = {
    BYTE_ORDER_MARKS: ("of a byte order mark", "of byte order marks"),
    CARRIAGE_RETURNS: ("carriage return of a line end", "carriage returns of line ends"),
    GUTENBERG: ("of Project Gutenberg's headers and footers", "of Project Gutenberg's headers and footers"),
    JSON: ("of JSON around the texts", "of JSON around the texts"),
    TABLE: ("of a table around the texts", "of a table around the texts"),
}
"""Why bytes were left out: the key of --json, and what follows one byte, or many, in a line."""
LONE_RETURNS = "lone_carriage_returns"
SURROGATES = "lone_surrogates"
NO_UTF8 = "bytes_that_are_no_utf8"
NO_FOOTER, NO_HEADER = "gutenberg_headers_without_footer", "gutenberg_footers_without_header"
MARKS_KEPT = "gutenberg_marks_kept"
EMPTY_LINES = "empty_documents"
REPEATED_FIELDS = "fields_that_stand_twice"
TRAILING = "bytes_behind_packed_files"
CUES, TAGS, NOTES = "subtitles", "subtitle_tags", "subtitle_notes"
DELETED, COMMENTS, FRAMES, HIDDEN = "deleted_passages", "comments", "page_headers", "hidden_passages"
EMBEDDED = "embedded_parts"
BY_CONTENT, NOT_PACKED = "files_read_by_content", "files_not_packed_as_named"
MARKUP = "markup_"
"""Before the name of a format in `_MARKUP`."""
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
    HIDDEN_TEXT: ("character of hidden text left out", "characters of hidden text left out"),
    CONTROLS: ("control character removed", "control characters removed"),
    SOFT_HYPHENS: ("soft hyphen removed", "soft hyphens removed"),
    LETTER_FORMS: (
        "ligature or other form of letters written as letters",
        "ligatures and other forms of letters written as letters",
    ),
    UNKNOWN_GLYPHS: (
        "glyph without a character replaced by U+FFFD",
        "glyphs without characters replaced by U+FFFD",
    ),
    DEEP_TAGS: (
        "tag nested too deep ignored, its text kept",
        "tags nested too deep ignored, their text kept",
    ),
    NO_CONTAINER: (
        "EPUB whose container names no package: the first one in it is read",
        "EPUBs whose container names no package: the first one in them is read",
    ),
    NO_PACKAGE: (
        "EPUB whose package names no page: read in the order of its archive",
        "EPUBs whose package names no page: read in the order of their archive",
    ),
    NO_SPINE: (
        "EPUB without a spine: read in the order of its manifest",
        "EPUBs without a spine: read in the order of their manifest",
    ),
    FLAGGED_PAGES: (
        "page that is not UTF-8 read as --encoding says",
        "pages that are not UTF-8 read as --encoding says",
    ),
    LONE_RETURNS: ("carriage return read as a line feed", "carriage returns read as line feeds"),
    SURROGATES: ("lone surrogate replaced by U+FFFD", "lone surrogates replaced by U+FFFD"),
    NO_UTF8: (
        "place where tokens spell no UTF-8 replaced by U+FFFD",
        "places where tokens spell no UTF-8 replaced by U+FFFD",
    ),
    NO_FOOTER: (
        "Project Gutenberg header removed without a footer: none was found",
        "Project Gutenberg headers removed without a footer: none was found",
    ),
    NO_HEADER: (
        "Project Gutenberg footer removed without a header: none was found",
        "Project Gutenberg footers removed without a header: none was found",
    ),
    MARKS_KEPT: (
        "line that marks a Project Gutenberg header or footer kept: what it marks is not sure to be one",
        "lines that mark Project Gutenberg headers or footers kept: what they mark is not sure to be one",
    ),
    TRAILING: (
        "byte behind the end of a packed file passed over",
        "bytes behind the end of packed files passed over",
    ),
    CUES: (
        "subtitle kept without its number and times",
        "subtitles kept without their numbers and times",
    ),
    TAGS: ("tag of a subtitle left out", "tags of subtitles left out"),
    NOTES: ("note or style among subtitles left out", "notes or styles among subtitles left out"),
    DELETED: (
        "passage that was deleted under tracked changes left out",
        "passages that were deleted under tracked changes left out",
    ),
    COMMENTS: ("comment left out", "comments left out"),
    FRAMES: ("page header or footer left out", "page headers and footers left out"),
    EMBEDDED: (
        "embedded document, chart or diagram left out",
        "embedded documents, charts or diagrams left out",
    ),
    HIDDEN: ("hidden passage left out", "hidden passages left out"),
    BY_CONTENT: (
        "file read as what its first bytes say, not as its name says",
        "files read as what their first bytes say, not as their names say",
    ),
    NOT_PACKED: (
        "file read as it is: it is not compressed, although its name says so",
        "files read as they are: they are not compressed, although their names say so",
    ),
    UNDECODABLE: (
        "character of a page that is wrong in its encoding replaced by U+FFFD",
        "characters of pages that are wrong in their encodings replaced by U+FFFD",
    ),
    FIELD_UNUSED: (
        "file read whole, as it has no fields: --field is not for it",
        "files read whole, as they have no fields: --field is not for them",
    ),
    ENCODING_UNUSED: (
        "file whose format tells its encoding: --encoding is not for it",
        "files whose formats tell their encodings: --encoding is not for them",
    ),
    BETTER_ENCODING: (
        "file that reads better in another encoding than the given one (leave --encoding out to see which)",
        "files that read better in another encoding than the given one (leave --encoding out to see which)",
    ),
    OTHER_LABELS: (
        "page read as UTF-8, which it is, though it declares another encoding",
        "pages read as UTF-8, which they are, though they declare another encoding",
    ),
    REPEATED_FIELDS: (
        "text not read, as its record has the field again: the last one is read",
        "texts not read, as their records have the field again: the last one is read",
    ),
    EMPTY_LINES: ("document with an empty text skipped", "documents with an empty text skipped"),
}
"""What was changed or passed over without bytes of its own."""
_MARKUP = {
    "rtf": ("RTF", "save it as .docx, .odt or .txt to have its text alone"),
    "html": ("HTML", "name it .html to have its text alone"),
    "xml": ("XML", ""),
    "sgml": ("SGML", ""),
    "json": ("JSON", "name it .jsonl or .json and give --field to have its texts alone"),
    "table": ("table", "name it .csv or .tsv and give --field to have its texts alone"),
    "notebook": ("Jupyter notebook", "export it as Markdown to have its text alone"),
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
    "postscript": ("PostScript", "convert it to PDF to have its text alone"),
    "subtitles": ("subtitle", "name it .srt or .vtt if it is that, to have its text alone"),
}
for _what, (_format, _better) in _MARKUP.items():
    _way = f" ({_better})" * bool(_better)
    _SEEN[MARKUP + _what] = (
        f"{_format} file read as plain text, markup included{_way}",
        f"{_format} files read as plain text, markup included{_way}",
    )
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
    OTHER_KINDS: ("file of another kind", "files of other kinds"),
    HIDDEN_FILES: ("hidden file or folder", "hidden files or folders"),
    OWN_FOLDERS: (
        "folder that is a run, a model or a prepared text",
        "folders that are runs, models or prepared texts",
    ),
    LINKED_FOLDERS: ("link to a folder", "links to folders"),
    LOOSE_LINKS: ("link that leads nowhere", "links that lead nowhere"),
    SPECIAL: ("socket, pipe or device", "sockets, pipes or devices"),
    GIVEN_TWICE: ("file that is given twice", "files that are given twice"),
    EMPTY_FILES: ("empty file", "empty files"),
    UNREADABLE: ("file or folder that cannot be read", "files or folders that cannot be read"),
    BINARY: ("binary file", "binary files"),
    OTHER_ENCODING: ("file in another encoding", "files in other encodings"),
    NO_FIELD: (
        "file without the field of the text (--field)",
        "files without the field of the text (--field)",
    ),
    DAMAGED: ("damaged file", "damaged files"),
    ENCRYPTED: ("encrypted file", "encrypted files"),
    NO_TEXT: ("file without text", "files without text"),
    MISSING_PAGES: ("page that is missing", "pages that are missing"),
    UNKNOWN_PAGES: ("page of a spine that the manifest lacks", "pages of a spine that the manifest lacks"),
    NO_TEXT_PAGES: ("page that is not text", "pages that are not text"),
    BLANK_PAGES: ("page without text", "pages without text"),
    DAMAGED_PAGES: ("damaged page", "damaged pages"),
    ENCRYPTED_PAGES: ("encrypted page", "encrypted pages"),
    REPEATED_PAGES: ("page that is listed again", "pages that are listed again"),
    UNLISTED_PAGES: ("page that is not in the reading order", "pages that are not in the reading order"),
    OTHER_VERSIONS: ("other version of a book", "other versions of a book"),
    UNREADABLE_PAGES: (
        "page whose fonts do not tell its characters",
        "pages whose fonts do not tell their characters",
    ),
    LINKS: ("link of an archive", "links of an archive"),
    NO_TOKENS: (".bin file without token ids of GPT-2", ".bin files without token ids of GPT-2"),
    UNFIT: ("file that cannot be used as text", "files that cannot be used as text"),
}
"""Why a file of a folder, or a member of an archive, was not read: also what `DataError.reason` may be."""
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
    """How many bytes a text has in UTF-8; half a surrogate pair counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _bytes_are(count: int) -> str:
    return f"{plural(count, 'byte')} {'is' if count == 1 else 'are'}"


@dataclass(slots=True)
class Account:
    """What became of the bytes of one document, or of all that was read; counts only."""

    read: int = 0
    """Bytes of UTF-8 of all characters that were read, a byte order mark included."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Bytes of `read` that are not in the text, by reason."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often something was changed or passed over."""
    files: int = 0
    """0 for a text that was given as a string."""
    stored: int = 0
    """Bytes of the files on the disk: `read`, unless one of the next three is not empty."""
    extracted: Counter[str] = field(default_factory=Counter)
    """Bytes of the files whose text is not their bytes, by format."""
    decoded: Counter[str] = field(default_factory=Counter)
    """Bytes in another encoding than UTF-8, by encoding."""
    packed: int = 0
    """Bytes of .gz, .bz2 and .xz files and of archives."""
    first: dict[str, str] = field(default_factory=dict)
    """The first document with each of these."""
    documents: Counter[str] = field(default_factory=Counter)
    """Documents with each of these; "" counts all."""
    passed: Counter[str] = field(default_factory=Counter)
    """Files of a folder, or members of a file, that were not read, by reason."""
    first_passed: dict[str, str] = field(default_factory=dict)
    """The first of them."""

    @property
    def text(self) -> int:
        """Bytes of the text that was kept."""
        return self.read - self.left_out.total()

    def clear(self) -> None:
        """Count again, before a second reading."""
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
        """Add the counts of another account, of the document `source` or of what stands around documents."""
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
        """How many bytes were left out, of how many, and why; "" for none."""
        if not (total := self.left_out.total()):
            return ""
        of = "text's" if not self.files else "file's" if self.files == 1 else "files'"
        alike = not self.files or self.stored == self.read
        whole = f"the {of} {plural(self.read, 'byte')}" if alike else f"{plural(self.read, 'byte')} of UTF-8"
        reasons = [self._said(what, count, _LEFT_OUT[what]) for what, count in self.left_out.items()]
        if len(reasons) == 1:  # whose count is the total
            only = reasons[0].split(" ", 1)[1]
            article = "a " if self.left_out[CARRIAGE_RETURNS] == 1 else ""
            return f"{total:,} of {whole}: {article}{only.removeprefix('of ')}"
        return f"{total:,} of {whole}: {', '.join(reasons)}"

    def lines(self) -> list[str]:
        """What a reader should know: what was left out, what was changed, how bytes became other bytes."""
        lines = [f"left out {line}"] if (line := self.left_out_line()) else []
        return lines + self.other_lines()

    def other_lines(self) -> list[str]:
        """`lines` without what was left out."""
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
        """What was not read, a line for each reason, in the order of the table of reasons."""
        lines = []
        for reason, words in _PASSED.items():
            if count := self.passed[reason]:
                more = f" and {count - 1:,} more" if count > 1 else ""
                lines.append(
                    f"skipped {count:,} {words[count > 1]} ({one_line(self.first_passed[reason])}{more})"
                )
        return lines

    def _said(self, what: str, count: int, words: tuple[str, str]) -> str:
        """A count with its reason and, of several documents, where."""
        where, documents = "", self.documents[what]
        if documents and self.documents[""] > 1 and what not in (JSON, TABLE):
            more = f" and {documents - 1:,} more document{'' if documents == 2 else 's'}"
            where = f" ({one_line(self.first[what])}{more if documents > 1 else ''})"
        one = count == (MARK_BYTES if what == BYTE_ORDER_MARKS else 1)
        return f"{count:,} {words[not one]}{where}"

    def to_dict(self) -> dict[str, Any]:
        """Flat and stable keys, for --json and manifests; bytes_of_files is None for a given text."""
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
