"""A PDF comes in, its text goes out page by page."""

import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lucidlm.errors import DataError
from lucidlm.text.account import Account
from lucidlm.text.decoding import File
from lucidlm.text.whole_files import sound_file, whole

if TYPE_CHECKING:
    from pypdf import PdfReader


def read_pdf(file: File, account: Account) -> Iterator[str]:
    """The text of a PDF page by page, in the order in which the file draws it."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small fault that it has mended
    with sound_file(file.name, "PDF", Exception):  # many kinds come out of a damaged file
        reader = PdfReader(io.BytesIO(whole(file, account)))
        if reader.is_encrypted and not _opens_without_password(reader):
            raise DataError(f"{file.name}: encrypted; save a copy without a password, or convert it to .txt")
        empty = True
        for page in reader.pages:
            if text := page.extract_text().strip("\n"):
                empty = empty and text.isspace()
                yield text + "\n"
        if empty:
            raise DataError(
                f"{file.name}: no text in its {len(reader.pages):,} pages, which may be scanned images; "
                "run character recognition (OCR) first, for example ocrmypdf"
            )


def _opens_without_password(reader: "PdfReader") -> bool:
    from pypdf.errors import DependencyError

    try:
        return bool(reader.decrypt(""))
    except DependencyError:  # AES needs a library that is not among ours
        return False
