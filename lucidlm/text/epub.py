"""An EPUB comes in, the text of its pages goes out in the order of its spine."""

import io
import posixpath
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

from lucidlm.errors import DataError
from lucidlm.text import whole_files
from lucidlm.text.account import Account
from lucidlm.text.decoding import File, decode_page
from lucidlm.text.markup import visible_text
from lucidlm.text.whole_files import sound_file, too_large, whole

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"
_CIPHER = "{http://www.w3.org/2001/04/xmlenc#}CipherReference"


def read_epub(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The pages of an EPUB in the order of its spine."""
    faults = (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, RuntimeError, EOFError, ValueError)
    with sound_file(file.name, "EPUB", *faults):
        place = io.BytesIO(whole(file, account)) if file.packings else file.path
        with zipfile.ZipFile(place) as archive:
            for page in _pages_of_epub(archive, file.name):
                data = _member(archive, page, file.name)
                text, _ = decode_page(data, f"{file.name} ({page})", encoding, account)
                if visible := visible_text(text):
                    yield visible + "\n"


def _pages_of_epub(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Names of the pages in the archive: none of them encrypted, not too much together."""
    root = _xml(archive, "META-INF/container.xml", name).find(f".//{_CONTAINER}rootfile")
    if root is None:
        raise DataError(f"{name}: a damaged EPUB (it names no package); get another copy")
    package_name = root.get("full-path", "")
    package = _xml(archive, package_name, name)
    items = {item.get("id"): item for item in package.iter(f"{_PACKAGE}item")}
    spine = [items.get(reference.get("idref")) for reference in package.iter(f"{_PACKAGE}itemref")]
    pages = [
        _name_in_archive(archive, package_name, item.get("href", ""), name)
        for item in spine
        if item is not None and item.get("media-type") in ("application/xhtml+xml", "text/html")
    ]
    _refuse_encrypted(archive, pages, name)
    if sum(archive.getinfo(page).file_size for page in pages) > whole_files.LARGEST:
        raise too_large(name, "epub")
    return pages


def _name_in_archive(archive: zipfile.ZipFile, package: str, href: str, name: str) -> str:
    href = href.partition("#")[0]
    for spelling in (href, urllib.parse.unquote(href)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(package), spelling))
        if path.startswith(("../", "/")):
            raise DataError(f"{name}: the page {href!r} points outside of the EPUB; get another copy")
        if path in archive.NameToInfo:
            return path
    raise DataError(f"{name}: a damaged EPUB (the page {href!r} is missing); get another copy")


def _refuse_encrypted(archive: zipfile.ZipFile, pages: list[str], name: str) -> None:
    """Copy protection is an error; fonts alone may be scrambled."""
    locked = {page for page in pages if archive.getinfo(page).flag_bits & 1}
    if "META-INF/encryption.xml" in archive.NameToInfo:
        encryption = _xml(archive, "META-INF/encryption.xml", name)
        scrambled = {urllib.parse.unquote(place.get("URI", "")) for place in encryption.iter(_CIPHER)}
        locked |= scrambled.intersection(pages)
    if locked:
        raise DataError(
            f"{name}: copy-protected (DRM: {len(locked)} of {len(pages)} pages are encrypted); "
            "give a copy without protection"
        )


def _xml(archive: zipfile.ZipFile, member: str, name: str) -> ElementTree.Element:
    data = _member(archive, member, name)
    if b"<!ENTITY" in data:  # a few lines of them can unpack to gigabytes
        raise DataError(f"{name}: {member} defines entities, which an EPUB has no need of; get another copy")
    return ElementTree.fromstring(data)


def _member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    info = archive.NameToInfo.get(member)
    if info is None:
        raise DataError(f"{name}: not an EPUB, or a damaged one ({member!r} is missing); get another copy")
    if info.file_size > whole_files.LARGEST:
        raise too_large(name, "epub")
    return archive.read(info)  # never more than file_size, whatever is packed
