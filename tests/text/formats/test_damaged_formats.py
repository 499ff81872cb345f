import bz2
import gzip
import lzma
import random

import pytest
from packed_files import NAMED, docx, odt, p, tarred, zipped
from written_files import epub, pdf

from lucidlm.errors import LucidError
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts
from lucidlm.text.reading import Reading

TEXT = 'Käse und Würste, sagte er. "Quoted", yes\n' * 5
PAGE = '<?xml version="1.0" encoding="koi8-r"?><html xmlns="http://www.w3.org/1999/xhtml"><p>Все'
FILES = {
    "txt": [TEXT.encode(encoding) for encoding in ("utf-8", "utf-16", "cp1252", "utf-16-be")],
    "html": [f"<meta charset=gb2312><p>{TEXT}".encode(), "<p>朱镕基".encode("gbk"), PAGE.encode("koi8-r")],
    "xml": [b'<?xml version="1.0"?><html><p>x'],
    "csv": [b'a,text\n1,"x, y"\n2,z\n' * 3, b"a;text\n1;2\n"],
    "tsv": [b'a\ttext\n1\t"x\n'],
    "json": [
        b'[{"text":"one"},{"text":"two"}]',
        b'["a","b"]',
        b'{"text":"a"}',
        b'{"text":"a"}\n{"text":"b"}',
    ],
    "jsonl": [b'{"text":"a"}\n{"text":"b"}\n'],
    "srt": ["1\n00:00:01,000 --> 00:00:02,000\n<i>Hé</i>\n\n".encode()],
    "vtt": [b"WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000\nHi\n"],
    "docx": [docx(p("one") + p("two"))],
    "odt": [odt("<text:p>one</text:p>")],
    "epub": [epub({"a.xhtml": "<p>One"})],
    "pdf": [pdf("A page.")],
    "zip": [zipped({"a.txt": "one", "b.html": "<p>x", "c.csv": "text\n1"})],
    "tar": [tarred({"a.txt": "one", "b/c.txt": "two"})],
    "gz": [gzip.compress(TEXT.encode())],
    "bz2": [bz2.compress(TEXT.encode())],
    "xz": [lzma.compress(TEXT.encode())],
    "bin": [b"\0\1" * 50],
}
ENCODINGS = (
    "utf-8",
    "utf-16",
    "cp1252",
    "gb2312",
    "shift_jis",
    "x-sjis",
    "utf-16-le",
    "cp037",
    "iso2022_jp",
    "hz",
)
PIECES = (b"\0", b'"', b"<", b"\xff", b"\n", b",", b"PK\3\4", b"\x1f\x8b\x08", b"\xef\xbb\xbf", b"\xff\xfe")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with up to 20 of them changed, taken out or put in, or cut off."""
    for _ in range(chance.choice((0, 1, 1, 2, 5, 20))):
        place = chance.randrange(len(data)) if data else 0
        match chance.randrange(4):
            case 0:
                data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
            case 1:
                data = data[:place] + data[place + chance.randrange(1, 20) :]
            case 2:
                data = data[:place] + chance.choice(PIECES) + data[place:]
            case _:
                data = data[:place] if chance.random() < 0.3 else data
    return data


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 120))]
)
def test_a_damaged_file_is_read_with_an_account_that_adds_up_or_refused_in_one_line(tmp_path, seed):
    chance = random.Random(seed)
    every = [data for files in FILES.values() for data in files] + list(NAMED.values())
    read = 0
    for _ in range(80):
        kind = chance.choice(list(FILES))
        path = tmp_path / f"a.{kind}"
        path.write_bytes(damaged(chance.choice(FILES[kind] if chance.random() < 0.8 else every), chance))
        encoding = chance.choice(ENCODINGS) if chance.random() < 0.3 else "utf-8"
        field = chance.choice(("text", "text", "2", "nope"))
        account = Account()
        try:
            texts = list(read_texts([path], account, reading=Reading(encoding=encoding, field=field)))
        except LucidError as problem:
            lines = [str(problem)]
        else:
            read += 1
            lines = account.lines()
            assert account.text == sum(len(text.encode()) for _, text in texts)
        assert not [line for line in lines if "\n" in line]
    assert 8 < read < 70
