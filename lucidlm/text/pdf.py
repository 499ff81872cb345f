"""A PDF comes in, its text goes out page by page, in the order in which the file draws it.

What a font says of its glyphs is often not text: ligatures and other forms of letters become letters, glyphs
without a character become U+FFFD, and soft hyphens go, with the line end behind them; all are counted. Other
hyphens at line ends stay, as nothing tells those of a word ("well-known") from those of a broken one.
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
from lucidlm.text.account import (
    BLANK_PAGES,
    DAMAGED,
    DAMAGED_PAGES,
    ENCRYPTED,
    LETTER_FORMS,
    NO_TEXT,
    REPEATED_PAGES,
    SOFT_HYPHENS,
    UNKNOWN_GLYPHS,
    Account,
)
from lucidlm.text.decoding import File
from lucidlm.text.whole_files import LARGEST_PAGE, sound_file, too_large, whole

if TYPE_CHECKING:
    from pypdf import PdfReader

_SOFT_HYPHEN = re.compile("\xad(?:[ \t]*\r?\n)?")
_FORMS = re.compile("[\ufb00-\ufb4f\ufb50-\ufdcf\ufdf0-\ufdfb\ufe80-\ufefc]")
_NO_CHARACTER = re.compile(
    "[\0-\x08\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]"
)
"""Control characters, characters for private use and what is none."""


def read_pdf(file: File, account: Account) -> Iterator[str]:
    """The text of each page that has some; other pages are counted."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small fault that it has mended
    with sound_file(file.name, "PDF", Exception):  # many kinds come out of a damaged file
        reader = PdfReader(io.BytesIO(whole(file, account)))
        if reader.is_encrypted and not _opens_without_password(reader):
            raise DataError(
                f"{file.name}: encrypted; save a copy without a password, or convert it to .txt",
                reason=ENCRYPTED,
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
    for number in range(len(reader.pages)):
        label = f"page {number + 1} in {name}"
        try:
            page = reader.pages[number]
            if page.indirect_reference in seen:
                account.pass_over(REPEATED_PAGES, label)
                continue
            seen.add(page.indirect_reference or number)
            text = page.extract_text()
        except MemoryError:
            raise
        except Exception:  # many kinds, as of a file
            account.pass_over(DAMAGED_PAGES, label)
            continue
        text = mended(text, account).strip("\n")
        if text and not text.isspace():
            yield text
        else:
            account.pass_over(BLANK_PAGES, label)


def mended(text: str, account: Account) -> str:
    """The text with letters for their forms, U+FFFD for glyphs without a character, and no soft hyphens."""
    if text.isascii() and text.isprintable():
        return text
    text, forms = _FORMS.subn(lambda form: _letters(form[0]), text)
    text, unknown = _NO_CHARACTER.subn("\ufffd", text)
    text, hyphens = _SOFT_HYPHEN.subn("", text)
    account.saw(LETTER_FORMS, forms)
    account.saw(UNKNOWN_GLYPHS, unknown)
    account.saw(SOFT_HYPHENS, hyphens)
    return text


@functools.cache
def _letters(form: str) -> str:
    return unicodedata.normalize("NFKC", form)


def _nothing_read(name: str, pages: int, account: Account) -> DataError:
    if account.passed[DAMAGED_PAGES]:
        return DataError(
            f"{name}: no text in its {plural(pages, 'page')} ({'; '.join(account.passed_lines())}); "
            "convert it to .txt or get another copy",
            reason=DAMAGED,
        )
    return DataError(
        f"{name}: no text in its {plural(pages, 'page')}, which may be scanned images; "
        "run character recognition (OCR) first, for example ocrmypdf",
        reason=NO_TEXT,
    )


def _opens_without_password(reader: "PdfReader") -> bool:
    from pypdf.errors import DependencyError

    try:
        return bool(reader.decrypt(""))
    except DependencyError:  # AES needs a library that is not among ours
        return False
