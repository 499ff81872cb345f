import codecs
import errno
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidlm.errors import ConfigError, DataError
from lucidlm.text.account import Account
from lucidlm.text.formats import decoding
from lucidlm.text.formats.decoding import (
    File,
    cannot_read,
    counted,
    decode,
    known_encoding,
    read_text,
    with_lf,
    without_surrogates,
)


def decoded(data: bytes, encoding: str = "utf-8", block: int = 1 << 20) -> tuple[str, dict]:
    """The text of bytes that come in blocks of this length, with LF, and all that was counted."""
    account = Account()
    blocks = (data[start : start + block] for start in range(0, len(data), block))
    text = "".join(with_lf(counted(decode(blocks, "a.txt", encoding, account), account), account))
    assert account.text == len(text.encode())
    return text, account.left_out | account.seen


def refusal(data: bytes, encoding: str = "utf-8", block: int = 1 << 20) -> str:
    with pytest.raises(DataError) as caught:
        decoded(data, encoding, block)
    message = str(caught.value)
    assert message.startswith("a.txt: ")
    assert "\n" not in message
    return message


def stored(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(path, str(path), "text", ("gz",) if path.suffix == ".gz" else ())


def refusal_of_file(file: File) -> str:
    with pytest.raises(DataError) as caught:
        "".join(read_text(file, "utf-8", Account()))
    assert str(caught.value).startswith(f"{file.name}: ")
    return str(caught.value)


def test_line_ends_and_byte_order_mark_are_normalised_and_said():
    text, counts = decoded(codecs.BOM_UTF8 + b"one\r\ntwo\rthree\nfour\r")
    assert text == "one\ntwo\nthree\nfour\n"
    assert counts == {"byte_order_marks": 3, "carriage_returns": 1, "lone_carriage_returns": 2}
    assert decoded(b"one\r\n") == ("one\n", {"carriage_returns": 1})
    assert decoded(b"one\r") == ("one\n", {"lone_carriage_returns": 1})
    assert decoded(b"one\n") == ("one\n", {})
    assert decoded(b"\r\r\n\r\n\r\r") == (
        "\n" * 5,
        {"carriage_returns": 2, "lone_carriage_returns": 3},
    )


@given(
    text=st.text(st.sampled_from("a\r\n😀é\ufeff"), max_size=30),
    block=st.integers(1, 5),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16"]),
)
def test_where_blocks_are_cut_changes_nothing(text, block, encoding):
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found, counts = decoded(text.encode(encoding), encoding, block)
    assert found == expected
    assert counts.get("carriage_returns", 0) == text.count("\r\n")
    marks = text.startswith("\ufeff") + (encoding == "utf-16" and bool(text))
    assert counts.get("byte_order_marks", 0) == 3 * marks
    read = len(expected.encode()) + counts.get("carriage_returns", 0) + 3 * marks
    assert read == len(text.encode()) + 3 * (encoding == "utf-16" and bool(text))


def test_a_long_string_goes_out_in_pieces(monkeypatch):
    monkeypatch.setattr(decoding, "_BLOCK", 3)
    pieces = list(with_lf(["one\r\ntwo", "", "three\r"], Account()))
    assert "".join(pieces) == "one\ntwothree\n"
    assert max(map(len, pieces)) <= 4  # a CR that waited comes on top


def test_utf16_says_how_to_read_it():
    for encoding in ("utf-16", "utf-32"):
        assert f"--encoding {encoding}" in refusal("Käse".encode(encoding))
    assert "BOM" in refusal(b"K\0a\0", "utf-16")


def test_an_encoding_has_one_name():
    assert known_encoding("UTF8") == known_encoding("utf_8") == known_encoding("utf-8-sig") == "utf-8"


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "", "a\0b"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(ConfigError, match="try utf-8"):
        known_encoding(name)


@pytest.mark.parametrize("place", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 2**21 + 5])
def test_an_invalid_byte_is_named_with_its_place(tmp_path, place):
    data = b"x" * place + b"\xe9 caf"
    message = refusal_of_file(stored(tmp_path / "a.txt", data))
    assert f"byte {place} is 0xe9" in message
    assert "--encoding cp1252" in message
    packed = stored(tmp_path / "a.txt.gz", gzip.compress(data, 1))
    assert f"byte {place} of the decompressed file is 0xe9" in refusal_of_file(packed)


def test_the_place_is_right_when_the_bad_character_began_in_the_block_before():
    # the euro sign without its last byte
    assert "byte 3 is 0xe2" in refusal(b"abc\xe2\x82 tail", block=4)
    assert "byte 7 is 0xe2" in refusal(b"abcdefg\xe2\x82", block=4)


def test_a_likely_encoding_is_named():
    assert "--encoding cp1252" in refusal(b"it\x92s")
    assert "--encoding cp1252" in refusal(b"caf\xe9 au lait")
    assert "--encoding utf-8" in refusal("кот".encode(), "ascii")


def test_ascii_control_bytes_are_text_but_nul_bytes_are_not():
    assert decoded(b"\x01\x7f\x1b[0m") == ("\x01\x7f\x1b[0m", {})
    assert "looks like a binary file (byte 5 is 0x00)" in refusal(b"\x7fABC\x02\0\0\xff")


def test_a_gz_cut_off_damaged_or_not_one_is_refused(tmp_path):
    packed = gzip.compress(b"all of it " * 1000)
    assert "truncated" in refusal_of_file(stored(tmp_path / "a.txt.gz", packed[: len(packed) // 2]))
    assert "truncated" in refusal_of_file(stored(tmp_path / "b.txt.gz", packed[:-4]))
    for damaged in (b"plain text", packed[:-8] + b"\0" * 8, packed[:12] + b"\xff" * 9 + packed[21:]):
        assert "damaged .gz" in refusal_of_file(stored(tmp_path / "c.txt.gz", damaged))


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    file = stored(tmp_path / "a.txt", b"x")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", file.name)

    monkeypatch.setattr(Path, "open", denied)
    assert refusal_of_file(file) == (
        f"{file.name}: cannot be read (Permission denied); allow reading it, or give another file"
    )


def test_half_a_surrogate_pair_is_replaced_and_said():
    account = Account()
    assert without_surrogates("a\ud83db", account) == "a\ufffdb"
    assert account.lines() == ["1 lone surrogate replaced by U+FFFD"]


def test_a_process_without_descriptors_says_so_and_passes_no_file_over():
    with pytest.raises(ConfigError, match="ulimit -n"):
        raise cannot_read("a.txt", OSError(errno.EMFILE, "Too many open files"))
