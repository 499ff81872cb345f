"""The first bytes of a file come in, its format goes out: how to read it, or what the user can do with it."""

import re
import zipfile
from dataclasses import dataclass

HEAD = 1 << 10
"""Bytes that show a file's format: tar has its mark at byte 257."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A format that first bytes show."""

    name: str
    """Its name with an article: "a PNG image"."""
    advice: str = "give text"
    """What the user can do if it is not read."""
    kind: str = ""
    """How it is read: a kind of `File`, or the compression gz, bz2, xz or zst; "" if it is not read."""


_UNPACK = "unpack it and give the files in it"
_CONVERT = "convert it to .txt, .docx or .epub first"
_EXPORT = "export its text to .csv or .jsonl first"
_WEIGHTS = "give text; weights are given as a model"
_PACKED = (
    (rb"\x1f\x8b\x08", Signature("a gzip file", kind="gz")),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", Signature("a bzip2 file", kind="bz2")),
    (rb"\xfd7zXZ\x00", Signature("an xz file", kind="xz")),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", Signature("a Zstandard file", kind="zst")),
)
_READ = (
    (rb"%PDF-\d", Signature("a PDF", kind="pdf")),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", Signature("a zip archive", kind="zip")),
    (rb".{257}ustar(?:\x0000|  \x00)", Signature("a tar archive", kind="tar")),
    (rb"PAR1[\0-\x08\x0e-\x1f]", Signature("a Parquet file", kind="parquet")),
)
_OTHER = (
    (rb"\x04\x22\x4d\x18", Signature("an LZ4 file", "unpack it first (lz4 -d FILE)")),
    (rb"\x1f\x9d", Signature("a file compressed by compress", "unpack it first (gzip -d FILE)")),
    (rb"\x5d\0\0.{2}(?:\xff{8}|.{5}\0{3})", Signature("an LZMA file", "unpack it first (xz -d FILE)")),
    (rb"LZIP\x01", Signature("an lzip file", "unpack it first")),
    (rb"7z\xbc\xaf\x27\x1c", Signature("a 7z archive", _UNPACK)),
    (rb"Rar!\x1a\x07", Signature("a RAR archive", _UNPACK)),
    (rb"MSCF\0\0\0\0", Signature("a cabinet archive", _UNPACK)),
    (rb"!<arch>\n", Signature("an ar archive", _UNPACK)),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Signature(
        "a Microsoft Office file of before 2007, or an encrypted one", _CONVERT)),
    (rb"\xffWPC", Signature("a WordPerfect file", _CONVERT)),
    (rb".{60}(?:BOOKMOBI|TEXtREAd)", Signature("a Mobipocket or Kindle book", _CONVERT)),
    (rb"ITSF\x03", Signature("a compiled HTML help file", _CONVERT)),
    (rb"ITOLITLS", Signature("a Microsoft Reader book", _CONVERT)),
    (rb"AT&TFORM.{4}DJV", Signature("a DjVu document", "convert it to .txt first")),
    (rb"\xf7\x02", Signature("a TeX DVI file", "convert it to PDF first")),
    (rb"\x89PNG\r\n\x1a\n", Signature("a PNG image")),
    (rb"\xff\xd8\xff", Signature("a JPEG image")),
    (rb"GIF8[79]a", Signature("a GIF image")),
    (rb"(?:II\*\0|MM\0\*)", Signature("a TIFF image")),
    (rb"BM.{4}\0{4}", Signature("a BMP image")),
    (rb"\0\0\x01\0[\x01-\x40]\0", Signature("an icon")),
    (rb"8BPS\0\x01", Signature("a Photoshop image")),
    (rb"\0\0\0\x0cjP  \r\n", Signature("a JPEG 2000 image")),
    (rb"RIFF.{4}WEBP", Signature("a WebP image")),
    (rb"RIFF.{4}WAVE", Signature("a WAV recording")),
    (rb"RIFF.{4}AVI ", Signature("an AVI video")),
    (rb".{4}ftyp(?:heic|heix|mif1|avif)", Signature("a HEIF or AVIF image")),
    (rb".{4}ftypM4[AB] ", Signature("an MPEG-4 recording")),
    (rb".{4}ftyp", Signature("an MP4 or QuickTime video")),
    (rb"\x1a\x45\xdf\xa3", Signature("a Matroska or WebM video")),
    (rb"FLV\x01", Signature("a Flash video")),
    (rb"\0\0\x01[\xb3\xba]", Signature("an MPEG video")),
    (rb"0&\xb2u\x8ef\xcf\x11", Signature("a Windows Media file")),
    (rb"OggS\0", Signature("an Ogg recording or video")),
    (rb"fLaC\0", Signature("a FLAC recording")),
    (rb"ID3[\x02-\x04]\0|\xff[\xfb\xf3\xf2\xfa]", Signature("an MP3 recording")),
    (rb"MThd\0\0\0\x06", Signature("a MIDI file")),
    (rb"\x7fELF[\x01\x02][\x01\x02]", Signature("a program or library (ELF)")),
    (rb"MZ.{58}.{4}", Signature("a program or library of Windows or DOS")),
    (rb"(?:\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe)", Signature("a program or library (Mach-O)")),
    (rb"\xca\xfe\xba\xbe", Signature("a Java class or a Mach-O program")),
    (rb"\0asm\x01\0\0\0", Signature("a WebAssembly module")),
    (rb"dex\n03", Signature("an Android program")),
    (rb".[\x0c-\x0e]\r\n", Signature("a compiled Python file", "give its source")),
    (rb"SQLite format 3\0", Signature("an SQLite database", _EXPORT)),
    (rb"ORC", Signature("an ORC file", _EXPORT)),
    (rb"Obj\x01", Signature("an Avro file", _EXPORT)),
    (rb"ARROW1\0\0", Signature("an Arrow file", _EXPORT)),
    (rb"\xff\xff\xff\xff.{2}\0\0", Signature("an Arrow stream", _EXPORT)),
    (rb"FEA1", Signature("a Feather file", _EXPORT)),
    (rb"\x89HDF\r\n\x1a\n", Signature("an HDF5 file", _EXPORT)),
    (rb"CDF[\x01\x02\x05]", Signature("a NetCDF file", _EXPORT)),
    (rb"MATLAB 5\.0 MAT-file", Signature("a MATLAB file", _EXPORT)),
    (rb"\0\x01\0\0(?:Standard Jet|Standard ACE)", Signature("an Access database", _EXPORT)),
    (rb"\x93NUMPY[\x01-\x03]", Signature("a numpy array")),
    (rb"GGUF[\x01-\xff]\0\0\0", Signature("a GGUF model", _WEIGHTS)),
    (rb".{7}\0\{\s*\"", Signature("a safetensors file", _WEIGHTS)),
    (rb"\x80[\x02-\x05](?:\x95|[\}\]\(Xc\x8a.])", Signature(
        "a Python pickle", "pickles are not read, as they can run code: write its texts as .jsonl or .txt")),
    (rb"wOF[F2]|OTTO\0|\0\x01\0\0\0[\x01-\x40]", Signature("a font")),
    (rb"PACK\0\0\0[\x02\x03]", Signature("a git pack")),
    (rb"\xde\x12\x04\x95|\x95\x04\x12\xde", Signature("compiled translations", "give its .po")),
    (rb"(?:\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\n\r\r\n)", Signature("a network capture")),
    (rb"bplist0", Signature("a binary property list", "convert it to JSON first")),
)  # fmt: skip
"""Formats that are not read. Only files with control characters are looked up: some begin like text."""
_IN_ZIP = {
    "word/document.xml": Signature("a Word document", kind="docx"),
    "xl/workbook.xml": Signature("an Excel workbook", "save its sheet as .csv first, then --field COLUMN"),
    "xl/workbook.bin": Signature("an Excel workbook", "save its sheet as .csv first, then --field COLUMN"),
    "ppt/presentation.xml": Signature("a PowerPoint presentation", _CONVERT),
    "META-INF/MANIFEST.MF": Signature("a Java archive"),
    "AndroidManifest.xml": Signature("an Android package"),
    "FixedDocSeq.fdseq": Signature("an XPS document", "convert it to PDF first"),
    "META-INF/container.xml": Signature("an EPUB", kind="epub"),
}
_TYPES_IN_ZIP = {
    "application/epub+zip": Signature("an EPUB", kind="epub"),
    "application/vnd.oasis.opendocument.text": Signature("an OpenDocument text", kind="odt"),
    "application/vnd.oasis.opendocument.text-template": Signature("an OpenDocument text", kind="odt"),
    "application/vnd.oasis.opendocument.spreadsheet": Signature(
        "an OpenDocument spreadsheet", "save its sheet as .csv first, then --field COLUMN"
    ),
}
"""Formats by the content of the member `mimetype`, which EPUB and OpenDocument have."""
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a]")
"""Bytes that text does not have, in any encoding but UTF-16 and UTF-32."""


def packing_of(head: bytes) -> Signature | None:
    """The compression of a file."""
    return _first(_PACKED, head)


def readable_as(head: bytes) -> Signature | None:
    """The format of a file that has its own reader; a "zip" has to be opened to know more."""
    return _first(_READ, head)


def not_text(head: bytes) -> Signature | None:
    """The format of a file that is not text; None if it may be text or is unknown."""
    return _first(_PACKED + _READ + _OTHER, head) if _CONTROLS.search(head) else None


def _first(table: tuple[tuple[bytes, Signature], ...], head: bytes) -> Signature | None:
    return next((what for pattern, what in table if re.match(pattern, head[:HEAD], re.DOTALL)), None)


def format_in_zip(archive: zipfile.ZipFile) -> Signature:
    """The format that the members of a zip file show; "zip" for a plain archive."""
    names = archive.NameToInfo
    if "mimetype" in names and names["mimetype"].file_size < HEAD and not names["mimetype"].flag_bits & 1:
        told = archive.read("mimetype").decode("latin-1").strip()
        if told in _TYPES_IN_ZIP:
            return _TYPES_IN_ZIP[told]
        if told.startswith("application/vnd.oasis.opendocument"):
            return Signature("an OpenDocument file", _CONVERT)
    if found := next((what for member, what in _IN_ZIP.items() if member in names), None):
        return found
    if any(name.endswith("/data.pkl") for name in names):
        return Signature("a PyTorch file", _WEIGHTS)
    if names and all(name.endswith(".npy") for name in names):
        return Signature("an archive of numpy arrays", _EXPORT)
    return Signature("a zip archive", kind="zip")
