"""A PDF comes in, its text goes out page by page, in the order in which the file draws it.

The characters that a font names for its glyphs need cleaning: ligatures and other letter forms become plain
letters, glyphs without a character become U+FFFD, soft hyphens are removed with the line end after them. All
are counted. Other hyphens at line ends stay: a hyphen of the word ("well-known") looks the same as one that
only breaks it.
"""

import functools
import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File
from lucidlm.text.formats.whole_files import LARGEST_PAGE, faults_of, too_large, whole

if TYPE_CHECKING:
    from pypdf import PdfReader
    from pypdf.generic import DictionaryObject, PdfObject

_SOFT_HYPHEN = re.compile("\xad(?:[ \t]*\r?\n)?")
_FORMS = re.compile("[\ufb00-\ufb4f\ufb50-\ufdcf\ufdf0-\ufdfb\ufe80-\ufefc]")
_FORMS_DEEP = 8
_NOTES = ("/Text", "/FreeText", "/Highlight", "/Underline", "/StrikeOut", "/Squiggly", "/Caret", "/Stamp")
_NO_CHARACTER = re.compile(
    "[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]"
)
"""Control characters, private-use characters and noncharacters."""


def read_pdf(file: File, account: Account) -> Iterator[str]:
    """The text of each page that has text; other pages are counted."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small fault that it repairs
    # Not only PdfReadError: with bytes changed at random, pypdf 6 also raised TypeError and
    # AttributeError while opening a file and while reading a page.
    with faults_of(file.name, "PDF", Exception):
        reader = PdfReader(io.BytesIO(whole(file, account)))
        if reader.is_encrypted and not _opens_without_password(reader):
            raise DataError(
                f"{file.name}: encrypted; save a copy without a password, or convert it to .txt",
                reason=reasons.ENCRYPTED,
            )
        given = 0
        for text in _texts(reader, file.name, account):
            given += len(text)
            if given > LARGEST_PAGE:
                raise too_large(file.name, "pdf", LARGEST_PAGE)
            yield text + "\n"
        if not given:
            raise _nothing_read(file.name, len(reader.pages), account)


def _texts(reader: "PdfReader", name: str, account: Account) -> Iterator[str]:
    seen: set[object] = set()
    forms: set[int] = set()
    numbered = False
    for number in range(len(reader.pages)):
        label = f"page {number + 1} in {name}"
        try:
            page = reader.pages[number]
            if page.indirect_reference in seen:
                account.pass_over(reasons.REPEATED_PAGES, label)
                continue
            seen.add(page.indirect_reference or number)
            numbered |= _without_numbered(page, forms)
            text = page.extract_text()
            account.saw(reasons.COMMENTS, _annotations(page))
        except MemoryError:
            raise
        except Exception:  # as when opening the file: one damaged page is skipped, not the file
            account.pass_over(reasons.DAMAGED_PAGES, label)
            continue
        if numbered:  # pypdf gives one U+FFFD per byte, and a glyph number has two
            text = text.replace("\ufffd\ufffd", "\ufffd")
        own = Account()
        own.saw(reasons.UNKNOWN_GLYPHS, text.count("\ufffd"))
        text = cleaned(text, own).strip("\n")
        if 2 * text.count("\ufffd") > len("".join(text.split())) > 0:
            account.pass_over(reasons.UNREADABLE_PAGES, label)
        elif text and not text.isspace():
            account.seen.update(own.seen)
            yield text
        else:
            account.pass_over(reasons.BLANK_PAGES, label)


def _without_numbered(holder: "DictionaryObject", seen: set[int], depth: int = 0) -> bool:
    """Remove the fonts of a page or form that give only numbers of glyphs; whether there was one.

    pypdf would read these numbers as UTF-16, which gives random Chinese characters. Without the font it gives
    U+FFFD for each byte.
    """
    resources, found = _dictionary(holder.get("/Resources")), False
    fonts = _dictionary(resources.get("/Font"))
    for name in list(fonts):
        if _has_glyph_numbers(_dictionary(fonts.get(name))):
            del fonts[name]
            found = True
    for form in _dictionary(resources.get("/XObject")).values() if depth < _FORMS_DEEP else ():
        form = _dictionary(form)
        if id(form) not in seen and form.get("/Subtype") == "/Form":
            seen.add(id(form))
            found |= _without_numbered(form, seen, depth + 1)
    return found


def _annotations(page: "DictionaryObject") -> int:
    """Number of comments that somebody wrote on a page."""
    found = page.get("/Annots")
    found = found.get_object() if found is not None else None
    notes = [_dictionary(note) for note in found] if isinstance(found, list) else []
    return sum(note.get("/Subtype") in _NOTES and bool(note.get("/Contents")) for note in notes)


def _has_glyph_numbers(font: "DictionaryObject") -> bool:
    if font.get("/Subtype") != "/Type0" or "/ToUnicode" in font:
        return False
    if font.get("/Encoding") not in ("/Identity-H", "/Identity-V"):
        return False
    inner = font.get("/DescendantFonts")
    inner = inner.get_object() if inner is not None else None
    descendant = _dictionary(inner[0]) if isinstance(inner, list) and inner else {}
    ordering = _dictionary(descendant.get("/CIDSystemInfo")).get("/Ordering")
    # Codes that are Unicode need a map to glyphs: without one they are glyph numbers.
    return ordering != "UCS" and descendant.get("/CIDToGIDMap", "/Identity") == "/Identity"


def _dictionary(value: "PdfObject | None") -> "DictionaryObject":
    from pypdf.generic import DictionaryObject

    found = value.get_object() if value is not None else None
    return found if isinstance(found, DictionaryObject) else DictionaryObject()


def cleaned(text: str, account: Account) -> str:
    """The text with plain letters, U+FFFD for glyphs without a character, and no soft hyphens."""
    if text.isascii() and text.isprintable():
        return text
    text, forms = _FORMS.subn(lambda form: _plain_letters(form[0]), text)
    text, unknown = _NO_CHARACTER.subn("\ufffd", text)
    text, hyphens = _SOFT_HYPHEN.subn("", text)
    account.saw(reasons.LETTER_FORMS, forms)
    account.saw(reasons.UNKNOWN_GLYPHS, unknown)
    account.saw(reasons.SOFT_HYPHENS, hyphens)
    return text


@functools.cache
def _plain_letters(form: str) -> str:
    return unicodedata.normalize("NFKC", form)


def _nothing_read(name: str, pages: int, account: Account) -> DataError:
    if account.passed[reasons.DAMAGED_PAGES]:
        return DataError(
            f"{name}: no text in its {plural(pages, 'page')} ({'; '.join(account.passed_lines())}); "
            "convert it to .txt or get another copy",
            reason=reasons.DAMAGED,
        )
    if account.passed[reasons.UNREADABLE_PAGES]:
        return DataError(
            f"{name}: the fonts of its {plural(pages, 'page')} do not name their characters; run character "
            "recognition (OCR) first, for example ocrmypdf -f",
            reason=reasons.NO_TEXT,
        )
    return DataError(
        f"{name}: no text in its {plural(pages, 'page')}, which may be scanned images; "
        "run character recognition (OCR) first, for example ocrmypdf",
        reason=reasons.NO_TEXT,
    )


def _opens_without_password(reader: "PdfReader") -> bool:
    from pypdf.errors import DependencyError

    try:
        return bool(reader.decrypt(""))
    except DependencyError:  # AES needs a library that lucidlm does not install
        return False
