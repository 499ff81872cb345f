"""Files to read: small ones written by hand, and what reading them gives."""

import io
import zipfile
from pathlib import Path

import pytest
from pypdf import PdfWriter

from lucidlm.errors import DataError, LucidError
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents, read_texts
from lucidlm.text.reading import Reading


def read(*sources, **options):
    return [document.text() for document in read_documents([str(source) for source in sources], **options)]


def read_one(source, **options):
    account = Account()
    ((_, text),) = read_texts([source], account, **options)
    return text, account.lines()


def refused(*sources, **options) -> LucidError:
    """The error of reading these sources, whose message is one line."""
    with pytest.raises(LucidError) as caught:
        read(*sources, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def refusal(*sources, **options) -> str:
    return str(refused(*sources, **options))


def reason_of(*sources, **options) -> str:
    """The code of that error: a key of `PASSED` in text/reasons.py."""
    error = refused(*sources, **options)
    assert isinstance(error, DataError)
    return error.reason


def written(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="{}" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def zipped(members: dict[str, str | bytes]) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def package(items: dict[str, str], spine: list[str], types: dict[str, str] | None = None) -> str:
    """A package file: `items` are ids and names, `spine` ids."""
    media = {"": "application/xhtml+xml", **(types or {})}
    manifest = "".join(
        f'<item id="{key}" href="{name}" media-type="{media.get(key, media[""])}"/>'
        for key, name in items.items()
    )
    order = "".join(f'<itemref idref="{key}"/>' for key in spine)
    return (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f"<manifest>{manifest}</manifest><spine>{order}</spine></package>"
    )


def epub(pages: dict[str, str | bytes], spine=None, folder="OEBPS/", hrefs=None, extra=None) -> bytes:
    """An EPUB of `pages`, in the order of `spine`."""
    names = list(pages)
    items = {f"i{number}": (hrefs or {}).get(name, name) for number, name in enumerate(names)}
    order = [f"i{names.index(name)}" for name in spine or names]
    return zipped({
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER.format(f"{folder}content.opf"),
        f"{folder}content.opf": package(items, order),
        **{folder + name: page for name, page in pages.items()},
        **(extra or {}),
    })  # fmt: skip


def accounted(path: Path | str, **options) -> tuple[str, dict[str, int]]:
    """The text of a file, and all counts of what was changed, left out or passed over."""
    account = Account()
    ((_, text),) = read_texts([path], account, reading=Reading(**options))
    return text, {**account.seen, **account.passed}


def encryption(*names: str) -> str:
    data = "".join(f'<CipherData><CipherReference URI="{name}"/></CipherData>' for name in names)
    return f'<encryption xmlns="http://www.w3.org/2001/04/xmlenc#">{data}</encryption>'


def pdf(*pages: str, glyphs: dict[str, str] | None = None, kids: str = "", stream: str = "") -> bytes:
    """A PDF with one line of text a page, built by hand.

    `glyphs`: what the font says that characters are; `kids`: another list of pages, "4 0 R" is the first;
    `stream`: entries of the streams of pages that begin with "broken".
    """
    count = len(pages)
    kids = kids or " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    font = f"/ToUnicode {4 + 2 * count} 0 R " if glyphs else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {font}/Encoding /WinAnsiEncoding >>",
    ]
    for n, page in enumerate(pages):
        line = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" if page else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        entries = stream if page.startswith("broken") else ""
        objects.append(f"<< /Length {len(line)} {entries} >>\nstream\n{line}\nendstream")
    if glyphs:
        lines = "".join(
            f"<{ord(code):02x}> <{text.encode('utf-16-be', 'surrogatepass').hex()}>\n"
            for code, text in glyphs.items()
        )
        codes = "1 begincodespacerange\n<00> <ff>\nendcodespacerange\n"
        cmap = f"{codes}{len(glyphs)} beginbfchar\n{lines}endbfchar"
        objects.append(f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return data + (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(data)}\n%%EOF\n"
    ).encode("latin-1")


def encrypted(data: bytes, user: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user_password=user, owner_password="owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()
