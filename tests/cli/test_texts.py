"""The verbs read texts alike: the same flags, the same account, and a run is not taken for a text."""

import json
import shlex
import shutil

import pytest
from command_line import shown


def test_every_verb_that_reads_a_text_says_what_it_left_out(answer, home):
    (home / "windows.txt").write_bytes(b"Nobody knew the house.\r\n" * 40)
    said = "40 of the file's 960 bytes: carriage returns of line ends"
    values = shown(answer("evaluate", "run", "windows.txt", "--no-baselines", "--json").out)
    assert values["bytes_left_out"] == {"carriage_returns": 40}
    assert values["bytes_scored"] + 40 == values["bytes_of_files"] == (home / "windows.txt").stat().st_size
    assert said in answer("evaluate", "run", "windows.txt", "--no-baselines").out
    assert said in answer("explain", "run", "--file", "windows.txt").out
    assert said in answer("compare", "run", "run", "windows.txt").out
    for verb in (("explain", "run", "--file", "windows.txt"), ("compare", "run", "run", "windows.txt")):
        assert shown(answer(*verb, "--json").out)["bytes_left_out"] == {"carriage_returns": 40}
    assert said in answer("prepare", "windows.txt", "--out", "windows", "--tokenizer", "bytes").err


def test_every_verb_that_reads_texts_takes_encoding_field_and_raw(answer, home):
    frame = (
        "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n",
        "*** END OF THE PROJECT GUTENBERG EBOOK A ***\n",
    )
    text = f"{frame[0]}Größe fell.\n{frame[1]}" * 3
    (home / "mail.jsonl").write_bytes(json.dumps({"body": text}, ensure_ascii=False).encode("latin-1"))
    flags = ("--encoding", "latin-1", "--field", "body", "--raw")
    for command in (
        ("evaluate", "run", "mail.jsonl", "--no-baselines"),
        ("compare", "run", "modern-1m", "mail.jsonl"),
        ("explain", "run", "--file", "mail.jsonl"),
    ):
        values = json.loads(answer(*command, *flags, "--json").out)
        assert values["bytes_as_utf8"] - values["bytes_left_out"]["json"] == len(text.encode())
        assert "gutenberg_frames" not in values["bytes_left_out"]
    answer("prepare", "mail.jsonl", *flags, "--tokenizer", "bytes", "--out", "mail")
    counts = json.loads((home / "mail" / "manifest.json").read_text())
    assert counts["train"]["bytes"] + counts["validation"]["bytes"] == len(text.encode())


@pytest.mark.parametrize(
    "command",
    [("evaluate", "run"), ("compare", "run", "run"), ("explain", "run")],
)
def test_a_flag_for_texts_without_a_text_is_refused(call, trained, command):
    refused = call(*command, "--raw")
    assert refused.code == 2
    assert refused.lines == ["lucidlm: --raw: no text is given to read so; give one, or leave this out"]


@pytest.mark.parametrize(("command", "told"), [
    (("compare", "run", "modern-1m", "own"),
     "commas join the runs of one recipe: lucidlm compare run modern-1m,own"),
    (("evaluate", "run", "own"), "to compare two models: lucidlm compare run own"),
    (("train", "own"), "to continue that training: lucidlm train --resume --out own; to start a new one "
                       "from its weights: lucidlm train TEXT --from own"),
    (("train", "book.txt", "own"), "lucidlm train --resume --out own"),
    (("train", "book.txt", "--val", "own"), "give a file or a folder of texts"),
    (("prepare", "own", "--out", "prepared own"), "give a file or a folder of texts"),
    (("explain", "run", "--file", "own"), "give a file or a folder of texts"),
])  # fmt: skip
def test_a_run_that_is_given_as_a_text_is_refused_with_what_was_meant(call, home, trained, command, told):
    if not (home / "own").exists():
        shutil.copytree(home / "run", home / "own")
    refused = call(*command)
    assert refused.code == 2
    assert refused.lines[-1].startswith("lucidlm: own is a run, not a text; ")
    assert told in refused.lines[-1]


@pytest.mark.parametrize(("command", "told"), [
    (("evaluate", "run", "book.txt", "--baseline", "own run"),
     "own run is a run, not a stored result; store its result first: "
     "lucidlm evaluate 'own run' TEXT --json > FILE"),
    (("train", "--config", "own run"), "give its settings: --config 'own run'/run.toml"),
    (("compress", "run", "own run", "--out", "x"), "own run is a run, not a file; give a file"),
    (("evaluate", "run", "own run/data"), "is a prepared folder"),
    (("train", "run/data", "own run/data"), "is a prepared folder"),
])  # fmt: skip
def test_a_run_where_a_file_is_expected_is_refused_with_what_was_meant(call, home, trained, command, told):
    if not (home / "own run").exists():
        shutil.copytree(home / "run", home / "own run")
    refused = call(*command)
    assert refused.code == 2
    assert told in refused.lines[-1]


def test_what_a_message_says_to_do_with_a_model_can_be_done(call, home, trained):
    assert call("export", "modern-1m", "--seed", "7", "--out", "a model").code == 0
    for command in (("evaluate", "run"), ("compare", "run", "modern-1m")):
        advice = call(*command, "a model").lines[-1].partition(": lucidlm ")[2]
        assert advice
        done = call(*shlex.split(advice), "--context-length", "8")
        assert done.code == 0, done.err


def test_a_text_to_explain_that_is_also_the_name_of_a_file_is_said(answer):
    assert "book.txt reads it" in answer("explain", "run", "book.txt").err
    assert "also the name of" not in answer("explain", "run", "--file", "other.txt").err


def test_what_a_folder_has_besides_texts_is_said_by_each_verb(answer, home):
    (home / "mixed").mkdir()
    shutil.copy(home / "other.txt", home / "mixed")
    (home / "mixed" / "app.log").write_text("started")
    (home / "mixed" / "broken.pdf").write_bytes(b"%PDF-")
    for command in (
        ("evaluate", "run", "--no-baselines"),
        ("compare", "run", "run"),
        ("explain", "run", "--file"),
    ):
        printed = answer(*command, "mixed").out
        assert "skipped 1 file of another kind (mixed/app.log)" in printed
        assert "skipped 1 damaged file (mixed/broken.pdf)" in printed
