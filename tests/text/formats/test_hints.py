import re
import shutil
import subprocess

import pytest
from language_samples import SAMPLES
from written_files import read_one, refusal, refused, written

from lucidlm.text import reasons
from lucidlm.text.reading import Reading

ADVISED = re.compile(r"--encoding (\S+?)(?:,|$| or)")


def follow(path) -> list[str]:
    """The texts that come out when the advice of the refusal is followed."""
    message = refusal(path)
    flags = ADVISED.findall(message)
    assert flags, message
    return [read_one(path, reading=Reading(encoding=flag))[0] for flag in flags]


@pytest.mark.parametrize(("language", "encoding"), [
    ("Russian", "cp1251"), ("Russian", "koi8-r"), ("Japanese", "shift_jis"), ("Japanese", "euc_jp"),
    ("Japanese", "iso2022_jp"), ("Chinese", "gb2312"), ("Taiwanese", "big5"), ("Korean", "euc_kr"),
    ("German", "cp1252"), ("German without quotes", "latin-1"), ("German", "mac-roman"),
    ("Polish", "iso8859-2"), ("German", "utf-16-le"), ("German", "utf-16-be"), ("Chinese", "utf-16-be"),
    ("Greek", "utf-32-le"), ("Russian", "utf-16"), ("Russian", "utf-32"),
])  # fmt: skip
def test_the_advised_encoding_reads_what_was_written(tmp_path, language, encoding):
    text = (SAMPLES[language][0] + "\n") * 12
    for before in ("", "An English line comes first.\n" * 40_000 if language == "Russian" else "\n"):
        texts = follow(written(tmp_path / "a.txt", (before + text).encode(encoding)))
        assert texts[0] == before + text


def test_a_wrong_flag_is_answered_by_the_right_one(tmp_path):
    chinese = written(tmp_path / "a.txt", ("朱镕基说，喆字不在旧表里。我们明天再说吧。\n" * 5).encode("gbk"))
    assert "--encoding gb18030" in refusal(chinese, reading=Reading(encoding="gb2312"))
    russian = written(tmp_path / "b.txt", "Все счастливые семьи похожи друг на друга.\n".encode())
    for wrong in ("ascii", "cp1252", "utf-16"):
        assert "--encoding utf-8" in refusal(russian, reading=Reading(encoding=wrong))


@pytest.mark.parametrize(("language", "encoding"), [
    ("Russian", "utf-8"), ("Japanese", "euc_jp"), ("Chinese", "gb18030"), ("Taiwanese", "big5hkscs"),
    ("Korean", "cp949"),
])  # fmt: skip
def test_a_few_wrong_bytes_do_not_make_it_another_encoding(tmp_path, language, encoding):
    text = (SAMPLES[language][0] + "\n") * 20
    data = text.encode(encoding)
    place = data.index(b"\n")
    path = written(tmp_path / "a.txt", data[:place] + b"\xff\xff" + data[place:])
    for reading in (Reading(), Reading(encoding=encoding)):
        message = refusal(path, reading=reading)
        assert "--encoding" not in message
        command = re.search(rf"nearly all of it is {encoding}: .*?(iconv .*?) gives", message)[1].split()
    if shutil.which("iconv"):
        mended = subprocess.run([*command, str(path)], capture_output=True).stdout
        assert read_one(written(tmp_path / "b.txt", mended))[0] == text


def test_nul_bytes_in_a_text_can_be_taken_out_as_advised(tmp_path):
    path = written(tmp_path / "a.txt", b"one\0two \xc3\xa9\n" * 30)
    assert r"tr -d '\000'" in refusal(path)
    with path.open("rb") as file:
        mended = subprocess.run(["tr", "-d", r"\000"], stdin=file, capture_output=True, check=True).stdout
    assert read_one(written(tmp_path / "b.txt", mended))[0] == "onetwo é\n" * 30


def test_noise_is_given_no_encoding(tmp_path):
    noise = bytes(128 + (i * i * 7 + i * 31) % 127 for i in range(3000))
    assert "--encoding if you know it" in refusal(written(tmp_path / "a.txt", noise))


@pytest.mark.parametrize(("language", "encoding", "given", "better"), [
    ("Russian", "utf-8", "cp1251", True), ("Russian", "koi8-r", "cp1251", True),
    ("German", "utf-8", "cp1252", True), ("German without quotes", "utf-16-be", "utf-16-le", True),
    ("Japanese", "cp932", "latin-1", True), ("German", "cp1252", "latin-1", True),
    ("Russian", "cp1251", "cp1251", False), ("German", "cp1252", "cp1252", False),
    ("French", "latin-1", "cp1252", False), ("Japanese", "utf-16-be", "utf-16-be", False),
    ("Taiwanese", "big5", "big5", False),
])  # fmt: skip
def test_an_encoding_that_makes_worse_text_is_said(tmp_path, language, encoding, given, better):
    path = written(tmp_path / "a.txt", (SAMPLES[language][0] + "\n").encode(encoding))
    said = [note for note in read_one(path, reading=Reading(encoding=given))[1] if "reads better" in note]
    assert bool(said) == better
    if better and encoding != "utf-8":
        assert f"--encoding {encoding}" in refusal(path)  # as the note says, without the flag


@pytest.mark.parametrize(("written_in", "given"), [
    ("utf-8-sig", "cp1252"), ("utf-8-sig", "utf-16"), ("utf-16-le", "utf-16-be"), ("utf-16-be", "utf-8"),
    ("utf-32-le", "utf-16-le"), ("utf-16-le", "latin-1"),
])  # fmt: skip
def test_a_byte_order_mark_contradicts_another_encoding(tmp_path, written_in, given):
    text = "Käse\n"
    mark = "" if written_in == "utf-8-sig" else "\ufeff"
    path = written(tmp_path / "a.txt", (mark + text).encode(written_in))
    advice = refusal(path, reading=Reading(encoding=given)).rpartition("; ")[2]
    right = (
        Reading() if advice == "omit --encoding" else Reading(encoding=advice.removeprefix("add --encoding "))
    )
    assert read_one(path, reading=right)[0] == text
    if mark:
        assert read_one(path, reading=Reading(encoding=written_in))[0] == text


@pytest.mark.parametrize(("language", "encoding"), [("Korean", "iso2022_kr"), ("Chinese", "hz")])
def test_letters_that_are_written_as_ascii_are_known(tmp_path, language, encoding):
    text = (SAMPLES[language][0] + "\n") * 6
    assert follow(written(tmp_path / "a.txt", text.encode(encoding))) == [text]


def test_signs_of_such_encodings_in_a_program_are_text(tmp_path):
    for text in ('format("~{~a~}", "~{~w, ~}", "~{ab~}", "~{%s~}")\n' * 9, "\x1b$B\n" * 9):
        assert read_one(written(tmp_path / "a.txt", text)) == (text, [])


@pytest.mark.parametrize(("encoding", "given"), [
    ("utf-8", "utf-8"), ("utf-16", "utf-16"), ("cp932", "cp932"), ("gb18030", "gb2312")])  # fmt: skip
def test_a_text_that_ends_within_a_character_can_be_cut_as_advised(tmp_path, encoding, given):
    data = "日本人一大年\n中国人大学".encode(encoding)
    path = written(tmp_path / "a.txt", data[:-1])
    error = refused(path, reading=Reading(encoding=given))
    assert error.reason == reasons.DAMAGED
    left = int(re.search(r"head -c -(\d+) FILE", str(error))[1])
    cut = written(tmp_path / "b.txt", data[:-1][:-left])
    assert read_one(cut, reading=Reading(encoding=given))[0] == "日本人一大年\n中国人大"


def test_ascii_is_not_taken_for_a_cut_text(tmp_path):
    assert "--encoding utf-8" in refusal(
        written(tmp_path / "a.txt", "abcde"), reading=Reading(encoding="utf-16-le")
    )
    assert "--encoding cp1252" in refusal(written(tmp_path / "b.txt", b"an empty caf\xe9"))


def test_a_file_that_was_never_written_is_called_that(tmp_path):
    error = refused(written(tmp_path / "a.txt", bytes(5000)))
    assert error.reason == reasons.BINARY
    assert "5,000" in str(error)


def test_pairs_that_are_written_half_by_half_are_called_that(tmp_path):
    data = ("abc \ud83d\ude00 é\n" * 3).encode("utf-8", "surrogatepass")
    message = refusal(written(tmp_path / "a.txt", data))
    assert "CESU-8" in message
    assert "--encoding" not in message
