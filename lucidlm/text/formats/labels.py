"""The label of an encoding, or a page, comes in; the Python codec that browsers would use goes out.

Rules: the Encoding Standard for labels, the HTML Standard for declarations in a page.
"""

import codecs
import functools
import re

_HEAD = 1 << 14
"""Bytes in which a page may declare its encoding: the standard asks for 1,024, browsers read more."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # first, as it begins with UTF-16's mark
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WIDER = {"gbk": "gb18030", "iso2022_jp": "iso2022_jp_ext"}
"""Codecs to use where Python's own decodes fewer characters than browsers do under the same label."""
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
    """The codec that a byte order mark at the start shows."""
    return next((codec for mark, codec in _MARKS.items() if data.startswith(mark)), None)


def codec_of_label(label: str) -> str | None:
    """Python's name of the codec that browsers use for this label: gb2312 is gb18030, iso-8859-1 is cp1252.

    For a label that the standard does not have, Python's own codec, or None.
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
    # UTF-7 can hide markup from security checks, so browsers do not support it.
    return None if codec.name in ("idna", "punycode", "utf-7", "undefined") else codec.name


@functools.cache
def _register(info: codecs.CodecInfo) -> None:
    """Register a codec that Python lacks under its name."""
    codecs.register(lambda name: info if name.replace("_", "-") == info.name else None)


def declared_codec(page: bytes) -> str | None:
    """The codec of the encoding that a page declares, in a meta element or its XML declaration."""
    head = page[:_HEAD]
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    found = [_codec_in_meta(head), _codec_in_declaration(head)]
    if _XHTML in head:  # XML: its declaration counts first
        found.reverse()
    return next((codec for codec in found if codec), None)


def _codec_in_declaration(head: bytes) -> str | None:
    declaration = _DECLARATION.match(head.lstrip())
    return _codec_declared(declaration[1] or declaration[2] or b"") if declaration else None


def _codec_in_meta(head: bytes) -> str | None:
    """The codec of the first meta element that names one. Comments and attribute values do not count."""
    place = 0
    while step := _STEP.search(head, place):
        attributes, place = _attributes(head, step.end()) if step["name"] else ({}, step.end())
        if (step["name"] or b"").lower() == b"meta" and (codec := _codec_in_attributes(attributes)):
            return codec
    return None


def _attributes(head: bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    """The attributes of a tag (the first of each name) and the place where they end."""
    attributes: dict[bytes, bytes] = {}
    while (found := _ATTRIBUTE.match(head, place)) and found.end() > place:
        place = found.end()
        attributes.setdefault(found[1].lower(), found[2] or found[3] or found[4] or b"")
    return attributes, place


def _codec_in_attributes(attributes: dict[bytes, bytes]) -> str | None:
    if b"charset" in attributes:
        return _codec_declared(attributes[b"charset"])
    if attributes.get(b"http-equiv", b"").lower() == b"content-type":
        charset = _CHARSET.search(attributes.get(b"content", b""))
        return _codec_declared(charset[1] or charset[2] or charset[3] or b"") if charset else None
    return None


def _codec_declared(label: bytes) -> str | None:
    codec = codec_of_label(label.decode("ascii", "replace"))
    if codec == "x-user-defined":
        return "cp1252"
    # A declaration that was read as ASCII is not in UTF-16: the standard then says UTF-8.
    return "utf-8" if codec and codec.startswith(("utf-16", "utf-32")) else codec


@functools.cache
def browser_errors(*, replace: bool = False) -> str:
    """The name of a decoder's error handler that decodes bytes which browsers know and Python does not.

    Other wrong bytes are an error, or U+FFFD with `replace`.
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
        return chr(first), problem.start + 1  # unused places of the Windows tables are control characters
    if problem.encoding == "gb18030" and first == 0x80:
        return "€", problem.start + 1
    if problem.encoding == "euc_jp" and rest and min(first, rest[0]) >= 0xA1:
        # Rows 13 and 89 to 92 are additions of NEC and IBM; Shift_JIS of Windows has the same rows.
        row, cell = first - 0xA1, rest[0] - 0xA1
        lead, trail = divmod(row * 94 + cell, 188)
        lead += 0x81 if lead < 0x1F else 0xC1
        trail += 0x40 if trail < 0x3F else 0x41
        try:
            return bytes([lead, trail]).decode("cp932"), problem.start + 2
        except UnicodeDecodeError:
            raise problem from None
    raise problem
