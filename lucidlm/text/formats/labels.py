"""A label of an encoding, or a page, comes in; the codec of Python that reads it as browsers do goes out.

The rules are those of the Encoding Standard (labels) and of the HTML Standard (what a page says of itself).
"""

import codecs
import functools
import re

_HEAD = 1 << 14
"""Where a page may say what its encoding is: the standard asks for 1,024 bytes, browsers look at more."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which begins it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WIDER = {"gbk": "gb18030", "iso2022_jp": "iso2022_jp_ext"}
"""Codecs that read what browsers read under the same label, where Python's own reads less."""
_XHTML = b"http://www.w3.org/1999/xhtml"
_STEP = re.compile(
    rb"<!--(?:.*?(?<=--)>|.*)|<(?P<name>/?[a-z][^\t\n\f\r />]*)|<[!/?][^>]*>", re.IGNORECASE | re.DOTALL
)
_ATTRIBUTE = re.compile(
    rb"""[\t\n\f\r /]*(?!>)(=?[^\t\n\f\r />=]*)[\t\n\f\r ]*"""
    rb"""(?:=[\t\n\f\r ]*(?:"([^"]*)"|'([^']*)'|([^"'\t\n\f\r >][^\t\n\f\r >]*)|(?=[\t\n\f\r >])))?"""
)
_CHARSET = re.compile(rb"""charset[\t\n\f\r ]*=[\t\n\f\r ]*(?:"([^"]*)"|'([^']*)'|([^"'\s;][^\s;]*))""", re.I)
_DECLARATION = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*(?:"([^"]*)"|'([^']*)')[^>]*>""")


def codec_of_mark(data: bytes) -> str | None:
    """The codec that a byte order mark at the start tells."""
    return next((codec for mark, codec in _MARKS.items() if data.startswith(mark)), None)


def codec_of_label(label: str) -> str | None:
    """Python's name of the codec that browsers use for this label: gb2312 is gb18030, iso-8859-1 is cp1252.

    Python's own codec where the standard has no such label; None where Python has none either.
    """
    import webencodings

    found = webencodings.lookup(label)
    if found is None or found.name == "replacement":  # hz and ISO-2022-KR, which browsers refuse to read
        return _python_codec(label.strip())
    if found.name == "x-user-defined":
        _register(found.codec_info)
    return _WIDER.get(found.codec_info.name, found.codec_info.name)


def _python_codec(name: str) -> str | None:
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refuses codecs that do not make text
    except (LookupError, ValueError):
        return None
    # UTF-7 hides markup from whoever checks a page, so that browsers do not know it.
    return None if codec.name in ("idna", "punycode", "utf-7", "undefined") else codec.name


@functools.cache
def _register(info: codecs.CodecInfo) -> None:
    """Make a codec that Python has not findable by its name."""
    codecs.register(lambda name: info if name.replace("_", "-") == info.name else None)


def declared_codec(page: bytes) -> str | None:
    """The codec of the encoding that a page declares: in its meta elements or its XML declaration."""
    head = page[:_HEAD]
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    told = [_told_by_meta(head), _told_by_declaration(head)]
    if _XHTML in head:  # is XML, whose own rule comes first
        told.reverse()
    return next((codec for codec in told if codec), None)


def _told_by_declaration(head: bytes) -> str | None:
    declaration = _DECLARATION.match(head.lstrip())
    return _codec_told(declaration[1] or declaration[2] or b"") if declaration else None


def _told_by_meta(head: bytes) -> str | None:
    """The codec of the first meta element that names one: neither in a comment nor in an attribute."""
    place = 0
    while step := _STEP.search(head, place):
        attributes, place = _attributes(head, step.end()) if step["name"] else ({}, step.end())
        if (step["name"] or b"").lower() == b"meta" and (codec := _told_by(attributes)):
            return codec
    return None


def _attributes(head: bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    """Names and values of a tag's attributes, the first of each name, and where they end."""
    attributes: dict[bytes, bytes] = {}
    while (found := _ATTRIBUTE.match(head, place)) and found.end() > place:
        place = found.end()
        attributes.setdefault(found[1].lower(), found[2] or found[3] or found[4] or b"")
    return attributes, place


def _told_by(attributes: dict[bytes, bytes]) -> str | None:
    if b"charset" in attributes:
        return _codec_told(attributes[b"charset"])
    if attributes.get(b"http-equiv", b"").lower() == b"content-type":
        charset = _CHARSET.search(attributes.get(b"content", b""))
        return _codec_told(charset[1] or charset[2] or charset[3] or b"") if charset else None
    return None


def _codec_told(label: bytes) -> str | None:
    codec = codec_of_label(label.decode("ascii", "replace"))
    if codec == "x-user-defined":
        return "cp1252"
    # A declaration that can be read as ASCII is not written in UTF-16: the standard takes UTF-8.
    return "utf-8" if codec and codec.startswith(("utf-16", "utf-32")) else codec


@functools.cache
def browser_errors(*, replace: bool = False) -> str:
    """The name of an error handler for decoders: bytes that browsers' tables have and Python's have not.

    Others are an error, or U+FFFD.
    """
    name = f"lucidlm-browser{'-replace' * replace}"
    codecs.register_error(name, _or_replaced if replace else _as_browsers)
    return name


def _or_replaced(problem: UnicodeError) -> tuple[str, int]:
    try:
        return _as_browsers(problem)
    except UnicodeDecodeError as wrong:
        return "\ufffd", wrong.end


def _as_browsers(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeDecodeError):
        raise problem
    first, *rest = problem.object[problem.start : problem.start + 2]
    if problem.encoding == "charmap" and 0x80 <= first <= 0x9F:
        return chr(first), problem.start + 1  # the unused places of Windows' tables are control characters
    if problem.encoding == "gb18030" and first == 0x80:
        return "€", problem.start + 1
    if problem.encoding == "euc_jp" and rest and min(first, rest[0]) >= 0xA1:
        # Rows 13 and 89 to 92, which NEC and IBM added: Windows' Shift_JIS has the same table.
        row, cell = first - 0xA1, rest[0] - 0xA1
        lead, trail = divmod(row * 94 + cell, 188)
        lead += 0x81 if lead < 0x1F else 0xC1
        trail += 0x40 if trail < 0x3F else 0x41
        try:
            return bytes([lead, trail]).decode("cp932"), problem.start + 2
        except UnicodeDecodeError:
            raise problem from None
    raise problem
