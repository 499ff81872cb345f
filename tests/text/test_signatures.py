import io
import json
import pickle
import re
import shutil
import sqlite3
import subprocess
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save
from written_files import epub, pdf, read_one, refusal, written

from lucidlm.text.signatures import not_text, packing_of, readable_as


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
    "a Zstandard file": b"\x28\xb5\x2f\xfd\x04\x00" + b"\x01" * 40,
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
    "a Parquet file": b"PAR1\x15\x04\x15\0",
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


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.unknown"])
def test_what_is_no_text_is_named_by_its_first_bytes(tmp_path, what, name):
    message = refusal(written(tmp_path / name, NAMED[what]))
    assert f"this is {what}; " in message
    assert "--encoding" not in message


def test_a_database_is_named(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.txt")
    connection.execute("create table texts (text)")
    connection.close()
    assert "this is an SQLite database; export its text" in refusal(tmp_path / "a.txt")


def test_the_first_words_of_a_text_do_not_make_it_another_file(tmp_path):
    for start in (
        "BM",
        "MZ",
        "ORC",
        "PAR1",
        "GIF89a",
        "ID3",
        "FLV",
        "PACK",
        "RIFF    WAVE",
        "OTTO",
        "BZh9",
        "%PDF",
    ):
        text = f"{start} stands at the start of this café's menu.\n"
        assert read_one(written(tmp_path / "a.txt", text))[0] == text
        assert "--encoding cp1252" in refusal(written(tmp_path / "b.txt", text.encode("cp1252")))
    assert packing_of(b"\x1f\x8b") is readable_as(b"PK") is not_text(b"") is None


@pytest.mark.parametrize("name", ["a.txt", "a", "a.md", "a.html", "a.docx", "a.zip"])
def test_what_has_a_reader_is_read_by_its_content_and_that_is_said(tmp_path, name):
    said = "1 file read as what its first bytes say, not as its name says"
    for data, expected in ((pdf("A page."), "A page.\n"), (epub({"a.xhtml": "<p>A page."}), "A page.\n\n")):
        text, notes = read_one(written(tmp_path / name, data))
        assert text == expected
        assert said in notes


def test_a_parquet_file_can_be_written_as_advised(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.parquet"
    pandas.DataFrame({"body": ["one", "two é"]}).to_parquet(path)
    message = refusal(path)
    assert "orient='records', lines=True), then --field COLUMN" in message
    pandas.read_parquet(path).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert [json.loads(line)["body"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        "one",
        "two é",
    ]


@pytest.mark.parametrize("tool", ["zstd", "lz4", "gzip"])
def test_what_is_packed_otherwise_can_be_unpacked_as_advised(tmp_path, tool):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    path = tmp_path / {"zstd": "a.txt.zst", "lz4": "a.txt.lz4", "gzip": "a.txt.Z"}[tool]
    if tool == "gzip":  # as compress writes it: 9 bits a letter
        letters = sum(letter << 9 * place for place, letter in enumerate(b"one text"))
        path.write_bytes(b"\x1f\x9d\x90" + letters.to_bytes(9, "little"))
    else:
        text = written(tmp_path / "b.txt", "one text")
        subprocess.run([tool, "-q", str(text), "-o" if tool == "zstd" else "-z", str(path)][:5], check=True)
    command = re.search(r"unpack it first \((.*) FILE\)", refusal(path))[1].split()
    done = subprocess.run([*command, str(path)], check=True, capture_output=True)
    if done.stdout:  # where lz4 writes without a terminal
        written(tmp_path / "a.txt", done.stdout)
    assert read_one(tmp_path / "a.txt")[0] == "one text"
