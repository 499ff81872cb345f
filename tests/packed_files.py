"""Word and OpenDocument texts, archives, and files that are no text, as bytes, built by hand."""

import io
import pickle
import tarfile
import zipfile
from xml.sax.saxutils import escape

import numpy as np
from safetensors.numpy import save

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
STRICT = 'xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"'
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
OF = "urn:oasis:names:tc:opendocument:xmlns"
ODF = " ".join(f'xmlns:{name}="{OF}:{uri}:1.0"' for name, uri in
               [("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing")])  # fmt: skip
ODT_TYPE = "application/vnd.oasis.opendocument.text"


def packed(members: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def docx(body: str, namespace: str = W, **parts: str) -> bytes:
    document = f'<?xml version="1.0"?><w:document {namespace} {MC}><w:body>{body}</w:body></w:document>'
    others = {f"word/{name}.xml": part for name, part in parts.items()}
    return packed({"[Content_Types].xml": "<Types/>", "word/document.xml": document} | others)


def odt(body: str, **members: str) -> bytes:
    text = f"<office:body><office:text>{body}</office:text></office:body>"
    content = f"<office:document-content {ODF}>{text}</office:document-content>"
    return packed(
        {"mimetype": ODT_TYPE, "content.xml": content} | {f"{n}.xml": m for n, m in members.items()}
    )


def p(text: str) -> str:
    return f'<w:p><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def zipped(members: dict[str, str | bytes], change=lambda info: None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
            change(info)
    return file.getvalue()


def tarred(members: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in members.items():
            written.writestr(name, data)
    return file.getvalue()


def numpy_file(data: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, data)
    return file.getvalue()


NAMED = {
    "an LZ4 file": b"\x04\x22\x4d\x18\x60\x40" + b"\0" * 20,
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\x04" + b"\0" * 30,
    "a RAR archive": b"Rar!\x1a\x07\x01\0" + b"\0" * 20,
    "a Microsoft Office file of before 2007, or an encrypted one": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    + b"\0" * 50,
    "a Mobipocket or Kindle book": b"A_Book".ljust(60, b"\0") + b"BOOKMOBI" + b"\0" * 10,
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "a GIF image": b"GIF89a\x01\0\x01\0\x80\0",
    "a TIFF image": b"II*\0\x08\0\0\0",
    "a WebP image": b"RIFF\x24\0\0\0WEBPVP8 ",
    "a WAV recording": b"RIFF\x24\0\0\0WAVEfmt ",
    "a HEIF or AVIF image": b"\0\0\0\x18ftypheic\0\0\0\0",
    "an MP4 or QuickTime video": b"\0\0\0\x18ftypisom\0\0\x02\0",
    "a Matroska or WebM video": b"\x1a\x45\xdf\xa3\x01\0\0\0",
    "an Ogg recording or video": b"OggS\0\x02\0\0\0\0",
    "a FLAC recording": b"fLaC\0\0\0\x22",
    "an MP3 recording": b"ID3\x04\0\0\0\0\x1f",
    "a program or library (ELF)": b"\x7fELF\x02\x01\x01\0",
    "a program or library of Windows or DOS": b"MZ\x90\0\x03\0".ljust(80, b"\0"),
    "a Java class or a Mach-O program": b"\xca\xfe\xba\xbe\0\0\0\x34",
    "a WebAssembly module": b"\0asm\x01\0\0\0\x01",
    "a compiled Python file": b"\xa7\r\r\n\0\0\0\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n\0",
    "a GGUF model": b"GGUF\x03\0\0\0\0",
    "a font": b"wOF2\0\x01\0\0",
    "a numpy array": numpy_file(np.arange(3)),
    "a safetensors file": save({"a": np.zeros(3, np.float32)}),
    "a Python pickle": pickle.dumps({"text": "one"}),
    "an Excel workbook": archive(**{"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"}),
    "a PowerPoint presentation": archive(**{"ppt/presentation.xml": b"x"}),
    "a PyTorch file": archive(**{"archive/data.pkl": b"x", "archive/data/0": b"x"}),
    "an archive of numpy arrays": archive(**{"a.npy": b"x"}),
    "a Java archive": archive(**{"META-INF/MANIFEST.MF": b"x"}),
    "an OpenDocument spreadsheet": archive(mimetype=b"application/vnd.oasis.opendocument.spreadsheet"),
}
