"""An EPUB comes in, the text of its pages goes out in the order of its spine; what is not read is counted.

The content of a page decides how it is read, not its declared type. Names are matched loosely. A book without
a spine is read in the order of its manifest. Copy protection and a book without pages are errors.
"""

import io
import posixpath
import re
import unicodedata
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from lucidlm.errors import DataError
from lucidlm.runtime.wording import one_line
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, decode_page, is_utf8
from lucidlm.text.formats.labels import codec_of_mark
from lucidlm.text.formats.markup import elements_of, visible_text
from lucidlm.text.formats.whole_files import LARGEST_PAGE, ZIP_FAULTS, faults_of, too_large, whole

_LARGEST_PACKAGE = 8 << 20
"""Bytes of a package file: enough to list a hundred thousand files."""
_PAGE = re.compile(r"\.(x?html?|xht|txt)$", re.IGNORECASE)
_MARKED_PAGE = re.compile(r"\.(x?html?|xht)$", re.IGNORECASE)
_PAGE_TYPE = re.compile(r"text/(?!css|javascript)|application/(xhtml|xml|x-dtbook)", re.IGNORECASE)
_MARKUP = re.compile(r"\s*<[?!a-zA-Z]")
_WIDE = re.compile(rb"\xff\xfe|\xfe\xff|<\0|\0<")
_PICTURE = re.compile(rb"%PDF|GIF8|\xff\xd8\xff|\x89PNG|RIFF|OggS|ID3")
_END_OF_ARCHIVE = b"PK\5\6"


@dataclass(frozen=True, slots=True)
class _Item:
    """An entry of the manifest."""

    href: str
    media_type: str
    fallback: str


@dataclass(slots=True)
class _Package:
    """The content of a package file: the files by id, the reading order as ids."""

    name: str
    items: dict[str, _Item] = field(default_factory=dict)
    spine: list[str] = field(default_factory=list)


def read_epub(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text of each page, in order. Encoding: UTF-8, else what the page declares, else `encoding`."""
    with faults_of(file.name, "EPUB", *ZIP_FAULTS), _archive_of(file, account) as archive:
        yield from _Book(archive, file.name, encoding, account).pages()


def _archive_of(file: File, account: Account) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(whole(file, account)) if file.packings else file.path)
    except zipfile.BadZipFile:
        data = whole(file, Account())
        end = data.rfind(_END_OF_ARCHIVE)
        if end < 0:
            raise
        # Bytes were appended to the archive, whose last record has 22 bytes and a comment of this length.
        end += 22 + int.from_bytes(data[end + 20 : end + 22], "little")
        return zipfile.ZipFile(io.BytesIO(data[:end]))


class _Book:
    """One EPUB while it is read."""

    def __init__(self, archive: zipfile.ZipFile, name: str, encoding: str, account: Account) -> None:
        self.archive = archive
        self.name = name
        self.encoding = encoding
        self.account = account

    def pages(self) -> Iterator[str]:
        """The text of each page that has text."""
        pages = self._pages()
        if not pages and not self.account.passed:
            raise DataError(
                f"{self.name}: not an EPUB (it has no pages); get another copy", reason=reasons.DAMAGED
            )
        self._refuse_protected(pages)
        if sum(self.archive.NameToInfo[page].file_size for page in pages) > LARGEST_PAGE:
            raise too_large(self.name, "epub", LARGEST_PAGE)
        for page in pages:
            if page in self._encrypted:
                self._pass_over(reasons.ENCRYPTED_PAGES, page)
            elif text := self._text_of(page):
                yield text + "\n"

    def _pages(self) -> list[str]:
        """The members that are pages: of the first package with pages, else all in the archive's order."""
        packages = self._packages()
        for number, package in enumerate(packages, 1):
            if pages := self._pages_of(package):
                for other in packages[number:]:
                    self._pass_over(reasons.OTHER_VERSIONS, other.name)
                if len(packages) == 1:  # with several, unlisted pages belong to the other versions
                    self._count_unlisted(package)
                return pages
        pages = [name for name in self.archive.namelist() if _PAGE.search(name) and "META-INF/" not in name]
        self.account.saw(reasons.NO_PACKAGE, bool(pages))
        return pages

    def _packages(self) -> list[_Package]:
        """The packages that the container names, or else all in the archive."""
        named: dict[str, bool] = {}
        for name, attributes in self._elements(self._member("META-INF/container.xml")):
            if name == "rootfile" and (member := self._member(attributes.get("full-path", ""))):
                is_package = "package" in attributes.get("media-type", "package")
                named.setdefault(member, is_package or member.lower().endswith(".opf"))
        there = sorted((name for name in named), key=lambda name: not named[name])  # a PDF may come first
        if not any(named.values()):
            found = [name for name in self.archive.namelist() if name.lower().endswith(".opf")]
            self.account.saw(reasons.NO_CONTAINER, bool(found))
            there = sorted(found, key=lambda name: name.count("/")) + there
        return [self._package(name) for name in there]

    def _package(self, member: str) -> _Package:
        package = _Package(member)
        for name, attributes in self._elements(member):
            if name == "item" and (key := attributes.get("id", "").strip()):
                item = [attributes.get(what, "").strip() for what in ("href", "media-type", "fallback")]
                package.items.setdefault(key, _Item(*item))
            elif name == "itemref":
                package.spine.append(attributes.get("idref", "").strip())
        return package

    def _pages_of(self, package: _Package) -> list[str]:
        """The package's pages in the order of its spine, or of its manifest if the spine gives none."""
        pages: dict[str, None] = {}
        found: dict[str, str] = {}
        for key in package.spine:
            if key not in package.items:
                self._pass_over(reasons.UNKNOWN_PAGES, key)
                continue
            page = found.get(key) or self._readable(package, key)
            found[key] = page
            if page and page in pages:
                self._pass_over(reasons.REPEATED_PAGES, page)
            elif page:
                pages[page] = None
        named = set(package.spine) if pages else set()
        others = [
            page
            for key, item in package.items.items()
            if key not in named
            and (_PAGE_TYPE.match(item.media_type) or _PAGE.search(item.href))
            and (page := self._member(item.href, package.name)) not in pages
            and page
        ]
        if pages:
            for page in others:
                self._pass_over(reasons.UNLISTED_PAGES, page)
            return list(pages)
        self.account.saw(reasons.NO_SPINE, bool(others))
        return list(dict.fromkeys(others))

    def _count_unlisted(self, package: _Package) -> None:
        """Count the pages of the archive that the package does not list."""
        listed = {self._member(item.href, package.name) for item in package.items.values()}
        for name in self.archive.namelist():
            hidden = any(part.startswith(".") or part in ("__MACOSX", "META-INF") for part in name.split("/"))
            if _MARKED_PAGE.search(name) and not hidden and name not in listed:
                self._pass_over(reasons.UNLISTED_PAGES, name)

    def _readable(self, package: _Package, key: str) -> str:
        """The first member that is text among an item and its fallbacks; "" if none is."""
        tried: set[str] = set()
        reason, first = reasons.MISSING_PAGES, package.items[key].href
        while key in package.items and key not in tried:
            tried.add(key)
            item = package.items[key]
            if member := self._member(item.href, package.name):
                if self._is_text(member):
                    return member
                reason = reasons.NO_TEXT_PAGES
            key = item.fallback
        self._pass_over(reason, first)
        return ""

    def _is_text(self, member: str) -> bool:
        """Whether a member begins like text. True if it cannot be opened: reading it gives the error."""
        try:
            with self.archive.open(self.archive.NameToInfo[member]) as opened:
                head = opened.read(1024)
        except (*ZIP_FAULTS, OSError):
            return True
        if member in self._encrypted:
            return True
        return bool(_WIDE.match(head)) or not (8 * head.count(0) > len(head) or _PICTURE.match(head))

    def _text_of(self, member: str) -> str:
        try:
            data = self._read(member)
        except (*ZIP_FAULTS, OSError):
            self._pass_over(reasons.DAMAGED_PAGES, member)
            return ""
        # --encoding is only for pages that are not UTF-8.
        flagged = self.encoding != "utf-8" and not is_utf8(data)
        encoding = self.encoding if flagged else "utf-8"
        try:
            text, _ = decode_page(data, f"{self.name} ({_shown(member)})", encoding, self.account)
        except DataError as problem:
            if problem.reason != reasons.BINARY:
                raise
            self._pass_over(reasons.NO_TEXT_PAGES, member)
            return ""
        self.account.saw(reasons.FLAGGED_PAGES, flagged and not codec_of_mark(data))
        if _MARKUP.match(text) or re.search(r"\.x?html?$", member, re.IGNORECASE):
            text = visible_text(text, self.account, f"{self.name} ({_shown(member)})", xhtml=True)
        else:
            text = text.strip("\r\n") + "\n"
        if not text.strip():
            self._pass_over(reasons.BLANK_PAGES, member)
            return ""
        return text

    def _read(self, member: str) -> bytes:
        return self.archive.read(self.archive.NameToInfo[member])  # never more than its checked size

    @cached_property
    def _encrypted(self) -> set[str]:
        """Encrypted members: by the archive's own flag or by META-INF/encryption.xml."""
        locked = {name for name, info in self.archive.NameToInfo.items() if info.flag_bits & 1}
        for name, attributes in self._elements(self._member("META-INF/encryption.xml")):
            if name == "cipherreference" and (member := self._member(attributes.get("uri", ""))):
                locked.add(member)
        return locked

    def _refuse_protected(self, pages: list[str]) -> None:
        """DataError if half of the pages or more are encrypted. Encrypted fonts do not matter."""
        locked = sum(page in self._encrypted for page in pages)
        if locked and 2 * locked >= len(pages):
            raise DataError(
                f"{self.name}: copy-protected (DRM: {locked:,} of {len(pages):,} pages are encrypted); "
                "give a copy without protection",
                reason=reasons.ENCRYPTED,
            )

    def _elements(self, member: str) -> list[tuple[str, dict[str, str]]]:
        """The elements of an XML file in order: local names and attributes; [] without a file."""
        if not member:
            return []
        if self.archive.NameToInfo[member].file_size > _LARGEST_PACKAGE:
            raise too_large(f"{self.name} ({_shown(member)})", "package", _LARGEST_PACKAGE)
        try:
            data = self._read(member).lstrip()
        except (*ZIP_FAULTS, OSError):
            self._pass_over(reasons.DAMAGED_PAGES, member)
            return []
        try:
            text, _ = decode_page(data, member, "utf-8", Account())
        except DataError:
            text = data.decode("latin-1")  # only names are read from it, and they are ASCII
        return elements_of(text)

    def _member(self, href: str, package: str = "") -> str:
        """The member that a reference means: the exact name, else a similar one; "" if there is none."""
        plain = href.partition("#")[0].replace("\\", "/")
        bare = plain.partition("?")[0]
        for spelling in dict.fromkeys((plain, urllib.parse.unquote(plain), bare, urllib.parse.unquote(bare))):
            below = posixpath.normpath(posixpath.join(posixpath.dirname(package), spelling))
            for path in (_within(below), _within(posixpath.normpath(spelling))):
                if path in self.archive.NameToInfo:
                    return path
                if (near := _folded(path)) in self._near_names:
                    return self._near_names[near]
        return ""

    @cached_property
    def _near_names(self) -> dict[str, str]:
        return {_folded(name): name for name in self.archive.namelist() if not name.endswith("/")}

    def _pass_over(self, reason: str, member: str) -> None:
        self.account.pass_over(reason, f"{_shown(member)} in {self.name}")


def _shown(member: str) -> str:
    """A name from the book, short enough for a message."""
    name = one_line(member)
    return name if len(name) <= 100 else f"{name[:100]}..."


def _within(path: str) -> str:
    """A path below the root of the archive: leading / and ../ are dropped."""
    while path.startswith(("../", "/")):
        path = path.removeprefix("..").removeprefix("/")
    return path


def _folded(name: str) -> str:
    """A name for loose matching: case, direction of slashes and forms of accents do not count."""
    return unicodedata.normalize("NFC", urllib.parse.unquote(name).replace("\\", "/")).casefold().lstrip("/")
