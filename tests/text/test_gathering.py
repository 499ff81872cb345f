"""Files are read in portions by any number of processes: the same text, the same errors."""

import shutil

import pytest
from made_texts import contents, lines
from recorded import Recorded

from lucidlm.errors import DataError
from lucidlm.text import preparation
from lucidlm.text.preparation import prepare


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage", ["{no json", '["caf\\xe9", 1]', '{"text": 5}', "\r", '{"text": "caf\udce9"}']
)
def test_a_bad_line_of_a_divided_file_gives_the_error_of_the_whole_file(tmp_path, monkeypatch, damage):
    rows = lines(1, 150).splitlines()
    rows[111] = damage
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))

    def outcome(workers=1):
        try:
            prepare(path, tmp_path / "out", tokenizer="bytes", workers=workers)
        except DataError as error:
            return str(error)
        files = contents(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        return files

    divided = outcome(workers=2 if damage in ("\r", "{no json") else 1)
    monkeypatch.setattr(preparation, "PORTION", 1 << 26)
    assert divided == outcome()
    assert isinstance(divided, dict) == (damage == "\r")  # the end of a line, so this is a blank one


@pytest.mark.usefixtures("small")
def test_the_first_bad_file_is_told_by_many_processes_too_and_what_was_read_is_kept(sources, tmp_path):
    good = (tmp_path / "windows.jsonl").read_bytes()
    for name in ("windows.jsonl", "book.txt"):
        (tmp_path / name).write_bytes(b"\xff\xfe\xff not text")
    said = []
    for workers in (1, 2):
        with pytest.raises(DataError) as caught:
            prepare(sources, tmp_path / "out", tokenizer="bytes", workers=workers)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "windows.jsonl" in said[0]
    assert not (tmp_path / "out").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.parts").glob("read-*.text")}
    assert len(kept) >= 3
    (tmp_path / "windows.jsonl").write_bytes(good)
    (tmp_path / "book.txt").write_text("mended " * 900)
    seen = {}

    def look(stage):
        if stage == "looking for copies" and not seen:
            seen.update((path.name, path.stat().st_mtime_ns) for path in (tmp_path / ".out.parts").iterdir())

    prepare(sources, tmp_path / "out", tokenizer="bytes", progress=Recorded(at=look))
    again = [name for name, time in kept.items() if seen.get(name) == time]
    assert len(again) >= 3
    assert not list(tmp_path.glob(".*"))
