"""What reading may leave out, change or skip: the key of each reason, and its words for one or many."""

import re

BYTE_ORDER_MARKS = "byte_order_marks"
CARRIAGE_RETURNS = "carriage_returns"
GUTENBERG = "gutenberg_frames"
JSON, TABLE = "json", "table"

_NUMBERED = re.compile(r"\[(?:(?P<one>[^\[\]|]*)\|)?(?P<many>[^\[\]|]*)\]")
MARK_BYTES = 3
"""Bytes of one byte order mark in UTF-8."""

LEFT_OUT = {
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
CONTROL_TOKENS = "control_tokens"
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
SEEN = {
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
    CONTROL_TOKENS: "control token[s] within [a document|documents] left out",
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
SEEN |= {
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
PASSED = {
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
    NO_TOKENS: ".bin or .ds file[s] without token ids that can be read",
    UNFIT: "file[s] that cannot be used as text",
}
"""Why a file of a folder, or a member of an archive, was not read: the values of `DataError.reason`."""
FORMATS = {
    "html": "HTML",
    "epub": "EPUB",
    "pdf": "PDF",
    "docx": "Word documents",
    "odt": "OpenDocument texts",
    "srt": "subtitles",
    "vtt": "subtitles",
    "tokens": "GPT-2 tokens",
    "ds": "datatrove tokens",
    "parquet": "Parquet",
}


def worded(words: str, *, one: bool) -> str:
    """The words for one or for many: of "file[s] that [is|are] empty" the parts that fit the number."""
    return _NUMBERED.sub(lambda part: part["one"] or "" if one else part["many"], words)
