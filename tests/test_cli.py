"""Every verb on one tiny run: results on stdout, the rest on stderr, a slip is one line and exit code 2."""

import io
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import lucidlm
from lucidlm.cli import main
from lucidlm.errors import ConfigError
from lucidlm.runtime.places import path_text

WORDS = ["the", "river", "ran", "past", "a", "house", "and", "nobody", "knew", "why", "light", "fell"]
QUICK = ("--tokenizer", "bytes", "--preset", "modern-1m", "--context-length", "32", "--batch-tokens", "64")
QUICK += ("--threads", "1", "--dtype", "float32", "--device", "cpu")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left: exit code, results, the rest."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a book and texts that cannot be read as one."""
    folder = tmp_path_factory.mktemp("cli")
    draw = random.Random(0)
    book = "".join(" ".join(draw.choice(WORDS) for _ in range(8)).capitalize() + ".\n" for _ in range(60))
    (folder / "book.txt").write_text(book, encoding="utf-8")
    (folder / "other.txt").write_text("Nobody knew the house.\n" * 10, encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (folder / "latin.txt").write_bytes("Größe und Güte. ".encode("latin-1") * 20)
    (folder / "wrong.toml").write_text("stepz = 5\n")
    (folder / "broken.toml").write_text("steps = = 5\n")
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture(scope="session")
def squeezed(home: Path, trained: Answer) -> Path:
    """other.txt, compressed by the run."""
    assert trained.code == 0, trained.err
    command = ["compress", "run", "other.txt", "--out", "other.lucz", "--threads", "1"]
    subprocess.run([sys.executable, "-m", "lucidlm", *command], cwd=home, check=True, capture_output=True)
    return home / "other.lucz"


@pytest.fixture(scope="session")
def trained(home: Path) -> Answer:
    """The run that the other tests look at, made by the command itself in a process of its own."""
    command = ["train", "book.txt", "--out", "run", "--steps", "6", "--validate-every", "3", *QUICK, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", *command],
        cwd=home, capture_output=True, encoding="utf-8", timeout=110, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Answer]:
    """call("evaluate", "run", ...): the command in this process, in the folder with the book."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        if arguments[0] in ("evaluate", "explain", "generate", "compare", "compress", "decompress"):
            arguments = (*arguments, "--threads", "1")
        if arguments[:1] == ("train",):
            from lucidlm.training import setup

            monkeypatch.setattr(setup, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        if arguments[0] in ("import", "export"):  # which take all processors
            torch.set_num_threads(1)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def answer(call: Callable[..., Answer], trained: Answer) -> Callable[..., Answer]:
    """answer("evaluate", "run", ...): the same, where a run is needed and the command must succeed."""
    assert trained.code == 0, trained.err

    def run(*arguments: str) -> Answer:
        answered = call(*arguments)
        assert answered.code == 0, answered.err
        return answered

    return run


def _shown(numbers: str) -> dict:
    """Strict JSON: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(numbers, parse_constant=refuse)


def test_training_answers_with_json_on_stdout_and_progress_on_stderr(trained):
    assert trained.code == 0, trained.err
    values = _shown(trained.out)
    assert (values["run"], values["step"], values["interrupted"]) == ("run", 6, 0)
    assert values["best_step"] in (0, 3, 6)
    assert values["perplexity"] == pytest.approx(math.exp(values["loss_nats"]))
    assert values["tokens_scored"] == values["tokens_total"]
    assert "best" in values["verdict"]
    assert "validation loss" in trained.err
    assert "step      6" in trained.err
    assert "6 steps" in trained.err


def test_without_a_terminal_progress_is_plain_lines(trained):
    assert "\x1b" not in trained.err + trained.out
    assert "\r" not in trained.err


def test_evaluating_a_run_without_a_text_takes_its_own_validation_text_and_says_so(answer, trained):
    given = answer("evaluate", "run", "--json")
    values, when_trained = _shown(given.out), _shown(trained.out)
    for key in ("loss_nats", "bits_per_byte", "perplexity"):
        assert values[key] == pytest.approx(when_trained[key], rel=1e-6)
    keys = ("nats", "tokens_scored", "tokens_total", "bytes_scored", "bytes_total", "protocol")
    assert all(values[key] == when_trained[key] for key in keys if key != "nats")
    assert "validation text of run" in given.err
    assert "best weights" in given.err


def test_evaluate_prints_the_numbers_that_json_has(answer):
    values = _shown(answer("evaluate", "run", "other.txt", "--json").out)
    printed = answer("evaluate", "run", "other.txt").out
    assert f"{values['loss_nats']:.4f}" in printed
    assert f"{values['perplexity']:,.2f}" in printed
    assert f"{values['bits_per_byte']:.4f}" in printed
    assert values["bytes_total"] == 10 * len("Nobody knew the house.\n")


def test_every_verb_that_reads_a_text_says_what_it_left_out(answer, home):
    (home / "windows.txt").write_bytes(b"Nobody knew the house.\r\n" * 40)
    said = "40 of the file's 960 bytes: carriage returns of line ends"
    values = _shown(answer("evaluate", "run", "windows.txt", "--no-baselines", "--json").out)
    assert values["bytes_left_out"] == {"carriage_returns": 40}
    assert values["bytes_scored"] + 40 == values["bytes_of_files"] == (home / "windows.txt").stat().st_size
    assert said in answer("evaluate", "run", "windows.txt", "--no-baselines").out
    assert said in answer("explain", "run", "--file", "windows.txt").out
    assert said in answer("compare", "run", "run", "windows.txt").out
    for verb in (("explain", "run", "--file", "windows.txt"), ("compare", "run", "run", "windows.txt")):
        assert _shown(answer(*verb, "--json").out)["bytes_left_out"] == {"carriage_returns": 40}
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


def test_a_prepared_folder_is_not_read_anew(call, home):
    call("prepare", "book.txt", "--tokenizer", "bytes", "--out", "ready")
    refused = call("train", "ready", "--field", "body", "--steps", "1", "--out", "unready")
    assert refused.code == 2
    assert "--field body: ready was prepared without it" in refused.lines[-1]


@pytest.mark.parametrize(("command", "told"), [
    (("compare", "run", "modern-1m", "own"),
     "commas join the runs of one recipe: lucidlm compare run modern-1m,own"),
    (("evaluate", "run", "own"), "to compare two models: lucidlm compare run own"),
    (("train", "own"), "to go on with it: lucidlm train --resume --out own; to start from its weights: "
                       "lucidlm train TEXT --from own"),
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
    (("evaluate", "run", "own run/data"), "is a prepared folder, whose text is tokens"),
    (("train", "run/data", "own run/data"), "is a prepared folder, whose text is tokens"),
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


def test_a_text_with_runs_beside_it_is_the_text_that_they_were_trained_on(
    call, home, trained, monkeypatch, tmp_path
):
    shutil.copytree(home / "run", tmp_path / "runs" / "run")
    shutil.copy(home / "book.txt", tmp_path)
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    made = call("prepare", ".", "--tokenizer", "bytes", "--out", "runs/again/data")  # as training does it
    assert made.code == 0, made.err
    assert "skipped 1 file in another encoding (latin.txt)" in made.err
    former, manifest = (
        json.loads(Path(f"runs/{run}/data/manifest.json").read_text()) for run in ("run", "again")
    )
    assert [entry["path"] for entry in manifest["sources"]] == ["book.txt"]
    assert manifest["key"] == former["key"]
    # In its way: the former, and its own beginning.
    assert manifest["read"]["passed_over"]["own_folders"] == {"count": 2, "first": "runs/again"}


@pytest.mark.torture
def test_training_twice_on_the_current_folder_is_training_on_the_same_text(call, home, monkeypatch, tmp_path):
    shutil.copy(home / "book.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        made = call("train", ".", "--steps", "1", *QUICK)
        assert made.code == 0, made.err
    first, second = (
        json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/data/manifest.json"))
    )
    assert first["key"] == second["key"]
    assert first["sources"] == second["sources"]


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


def test_documents_are_listed_the_worst_first_in_table_csv_and_json(answer, home):
    texts = ["Nobody knew the house.", "ZQX! 123 {}", *(f"Past a river {n}." for n in range(30))]
    lines = [json.dumps({"text": text}) for text in texts]
    (home / "many.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ("evaluate", "run", "many.jsonl", "--no-baselines", "--by", "document")
    printed = answer(*command, "--csv", "many.csv").out
    table = printed[printed.index("by document, worst first (32 documents)") :].splitlines()
    assert "many.jsonl:2" in table[2]
    assert table[-1] == "... 12 more: --csv FILE and --json have all"
    values = _shown(answer(*command, "--json").out)
    rows = values["by_document"]
    assert len(rows) == 32
    assert sum(row["nats"] for row in rows) == pytest.approx(values["nats"])
    assert [row["bits_per_byte"] for row in rows] == sorted((r["bits_per_byte"] for r in rows), reverse=True)
    written = (home / "many.csv").read_text(encoding="utf-8").splitlines()
    assert len(written) == 33
    assert written[1].startswith("many.jsonl:2,")
    own = answer("evaluate", "run", "--no-baselines", "--by", "document").out
    assert "by piece, worst first (1 piece)" in own


def test_an_evaluation_is_a_gate(call, trained, home):
    assert trained.code == 0, trained.err
    command = ("evaluate", "run", "book.txt", "--no-baselines")
    stored = call(*command, "--json")
    (home / "base.json").write_text(stored.out, encoding="utf-8")
    bits = _shown(stored.out)["bits_per_byte"]

    def gate(*flags: str) -> tuple[int, str]:
        answered = call(*command, *flags)
        return answered.code, answered.lines[-1]

    assert gate("--max-bits", str(bits + 0.01))[0] == 0
    assert gate("--baseline", "base.json", "--max-bits", "99")[0] == 0
    code, line = gate("--max-bits", str(bits - 0.01))
    assert (code, line.partition(":")[0]) == (1, "gate failed")
    better = _shown(stored.out)
    better["units"] = [[nats - 0.02 * size, tokens, size] for nats, tokens, size in better["units"]]
    better["bits_per_byte"] -= 0.02 / math.log(2)
    (home / "better.json").write_text(json.dumps(better), encoding="utf-8")
    code, line = gate("--baseline", "better.json", "--max-bits", "99")
    assert code == 1
    assert line.startswith("gate failed: worse: ")
    assert "max-bits" not in line
    values = _shown(call(*command, "--baseline", "better.json", "--json").out)
    assert [verdict["passed"] for verdict in values["gate"]] == [False]
    assert "1 a gate failed (--max-bits, --baseline)" in call("evaluate", "--help").out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("other.txt", "--baseline", "base.json"), "another text"),
        (("book.txt", "--baseline", "base.json", "--stride", "4"), "give --stride 16"),
        (("book.txt", "--baseline", "book.txt"), "no stored result"),
        (("book.txt", "--baseline", "missing.json"), "cannot be read"),
        (("book.txt", "--max-bits", "-1"), "--max-bits -1.0"),
        (("book.txt", "--csv", "a.csv"), "--by document"),
        (("book.txt", "--by", "document", "--csv", "book.txt"), "the file that is read"),
        (("book.txt", "--max-bits", "2", "--protocol", "hf-guide"), "counts no bytes"),
    ],
)
def test_a_gate_that_cannot_be_is_one_line_and_exit_code_2(call, trained, home, flags, expected):
    if not (home / "base.json").exists():
        stored = call("evaluate", "run", "book.txt", "--no-baselines", "--json")
        (home / "base.json").write_text(stored.out, encoding="utf-8")
    answered = call("evaluate", "run", "--no-baselines", *flags)
    assert answered.code == 2
    assert answered.out == ""
    errors = [line for line in answered.lines if "best weights" not in line]
    assert len(errors) == 1
    assert expected in errors[0]


def test_evaluate_takes_stride_prefix_protocol_and_batch_size(answer):
    by_default = _shown(answer("evaluate", "run", "other.txt", "--json").out)
    alone = _shown(answer("evaluate", "run", "other.txt", "--json", "--batch-size", "1").out)
    assert alone["loss_nats"] == pytest.approx(by_default["loss_nats"], abs=1e-6)
    exact = _shown(answer("evaluate", "run", "other.txt", "--json", "--stride", "1").out)
    assert exact["protocol"]["stride"] == 1
    left_out = _shown(answer("evaluate", "run", "other.txt", "--json", "--prefix", "none").out)
    assert left_out["tokens_scored"] == by_default["tokens_scored"] - 1
    lecture = _shown(answer("evaluate", "run", "other.txt", "--json", "--protocol", "batch-mean").out)
    assert lecture["protocol"]["name"] == "batch-mean"


def test_evaluating_a_run_shows_it_between_its_baselines_with_a_verdict(answer):
    printed = answer("evaluate", "run", "other.txt").out
    for part in (
        "> ",
        "this model",
        "uniform over bytes",
        "xz",
        "n-gram of bytes",
        "verbatim",
        "Best static baseline, ",
        "Best baseline that adapts while reading, ",
    ):
        assert part in printed
    values = _shown(answer("evaluate", "run", "other.txt", "--json").out)
    assert {row["name"] for row in values["baselines"]["rows"]} >= {
        "gzip",
        "bzip2",
        "xz",
        "unigram of tokens",
    }
    assert values["memorization"]["rows"][0]["n"] == 4
    assert values["diagnosis"]["frequency_of"] == "the training text"
    plain = answer("evaluate", "run", "other.txt", "--no-baselines").out
    assert "xz" not in plain


def test_a_protocol_of_others_says_what_it_does_differently(answer):
    for protocol, says in (
        ("lm-eval", "evaluation harness"),
        ("hf-guide", "guide"),
        ("batch-mean", "course"),
    ):
        printed = answer("evaluate", "run", "other.txt", "--protocol", protocol).out
        assert f"protocol {protocol}: context 32" in printed
        assert says in printed


def test_a_run_has_a_report_and_evaluate_writes_one_of_any_text(answer, home):
    assert "report.html" in answer("info", "run").out + str(sorted((home / "run").iterdir()))
    told = answer("evaluate", "run", "other.txt", "--html", "pages/report.html")
    assert "pages/report.html: open it" in told.err
    own, other = (home / name for name in ("run/report.html", "pages/report.html"))
    for page, has_curves in ((own, True), (other, False)):
        text = page.read_text(encoding="utf-8")
        assert ('id="curves"' in text) == has_curves
        assert "this model" in text
        assert "95 % interval" in text
        assert len(text) < 2_500_000


def test_comparing_names_the_better_of_two(answer, home):
    short = ("--context-length", "32")  # so that the text has blocks enough for an interval
    printed = answer("compare", "run", "modern-1m", "book.txt", *short, "--html", "pages/compared.html").out
    assert "run predicts this text better than modern-1m" in printed
    assert "modern-1m" in (home / "pages" / "compared.html").read_text(encoding="utf-8")
    values = _shown(answer("compare", "run", "run", "book.txt", "--json").out)
    assert values["difference"] == 0
    assert values["same_model"] is True
    printed = answer("compare", "run", "run", "book.txt").out
    assert "run and run are the same model twice" in printed
    assert "0.0000 bits" not in printed


def test_comparing_recipes_takes_several_runs_of_each_and_none_twice(answer, call, home):
    for seed in range(1, 5):
        answer("import", "modern-1m", "--seed", str(seed), "--out", f"seeds/{seed}")
    shutil.copytree(home / "seeds" / "1", home / "seeds" / "copy")
    (home / "seeds" / "link").symlink_to(home / "seeds" / "1")
    command = ("book.txt", "--context-length", "32", "--json")
    several = _shown(answer("compare", "seeds/1,seeds/2", "seeds/3,seeds/4", *command).out)
    assert several["recipes"]["clause"].startswith("of these recipes")
    assert [len(several[side]["runs"]) for side in "ab"] == [2, 2]
    for a, b in (
        ("seeds/1,seeds/1", "seeds/3,seeds/3"),
        ("seeds/1,./seeds/../seeds/1", "seeds/3,seeds/4"),
        ("seeds/1,seeds/link", "seeds/3"),
        ("seeds/1,seeds/copy", "seeds/3,seeds/4"),
        ("seeds/1,seeds/2", "seeds/2"),
        ("seeds/1,seeds/2", "seeds/3,seeds/copy"),
        ("run,run/checkpoints/step_000006", "seeds/3,seeds/4"),
    ):
        refused = call("compare", a, b, *command)
        assert (refused.code, refused.out) == (2, "")
        errors = [line for line in refused.lines if line.startswith("lucidlm: ")]
        assert len(errors) == 1
        assert errors == refused.lines[-1:]
        assert "one run is not two seeds; give each run once" in errors[0]


def test_comparing_on_a_runs_own_held_out_text_scores_what_evaluate_scores(answer):
    alone = _shown(answer("evaluate", "run", "--no-baselines", "--json").out)
    both = _shown(answer("compare", "run", "run", "--json").out)
    assert both["bits_per_byte_a"] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    assert both["bytes_scored"] == alone["bytes_scored"]


def test_a_text_that_was_trained_on_is_called_so_above_the_number(answer, home):
    lines = answer("evaluate", "run", "book.txt", "--no-baselines").out.splitlines()
    assert "of this text was trained on" in lines[0]
    assert "`lucidlm evaluate run` without a text gives the held-out number" in lines[0]
    assert "held-out" not in " ".join(lines[1:])
    assert "no 95 % interval: it was trained on" in lines
    assert "like these" not in " ".join(lines)
    values = _shown(answer("evaluate", "run", "book.txt", "--json").out)
    assert (values["loss_interval"], values["bits_interval"]) == (None, None)
    assert values["ladder"]["no_interval"] == values["no_interval"]
    assert {rung["outcome"] for rung in values["ladder"]["rungs"]} == {"not tested"}
    own = _shown(answer("evaluate", "run", "--json").out)
    assert (
        values["memorization"]["heldout_tokens"]
        == own["memorization"]["heldout_tokens"]
        < own["tokens_total"] + 1
    )
    seen = values["seen_in_training"]
    assert 0.85 < seen["share"] < 0.95
    assert (seen["searched"], seen["documents"], seen["held_out"]) == (["run"], 0, False)


def test_a_text_of_ones_own_and_a_model_of_unknown_text_need_no_such_line(answer, home):
    own = answer("evaluate", "run", "other.txt", "--no-baselines").out
    assert own.startswith("loss")
    assert _shown(answer("evaluate", "run", "other.txt", "--json").out)["seen_in_training"]["share"] == 0
    elsewhere = _shown(answer("evaluate", "modern-1m", "book.txt", "--json").out)
    assert elsewhere["seen_in_training"] is None


def test_three_lines_forty_times_are_three_lines_for_the_interval_too(answer, home):
    lines = ["The first of three lines.", "A second one, no longer.", "The third ends it."]
    (home / "forty.txt").write_text("\n".join(lines * 40), encoding="utf-8")
    (home / "forty.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines * 40))
    for name, reason in (("forty.txt", "repeats itself"), ("forty.jsonl", "copies")):
        values = _shown(answer("evaluate", "run", name, "--no-baselines", "--json").out)
        assert (values["repetition"]["lines"], values["repetition"]["different_lines"]) == (120, 3)
        assert values["bits_interval"] is None
        assert reason in values["no_interval"]
    assert values["repetition"]["different_documents"] == 3
    printed = answer("evaluate", "run", "forty.jsonl", "--no-baselines").out
    assert "3 of 120 documents and 3 of 120 lines are different" in printed
    compared = _shown(answer("compare", "run", "modern-1m", "forty.jsonl", "--json").out)
    assert compared["interval"] is None
    assert compared["repetition"]["different_documents"] == 3


def test_comparing_says_which_model_was_trained_on_the_text(answer, home):
    told = answer("compare", "run", "modern-1m", "book.txt", "--html", "pages/seen.html")
    assert "of this text was trained on" in told.out.splitlines()[0]
    assert "of this text was trained on" in (home / "pages" / "seen.html").read_text(encoding="utf-8")
    seen = _shown(answer("compare", "run", "modern-1m", "book.txt", "--json").out)["seen_in_training"]
    assert seen["run"]["share"] > 0.85
    assert seen["modern-1m"] is None


def test_a_file_comes_back_from_its_compression_byte_by_byte(answer, squeezed, home):
    told = answer("decompress", "run", "other.lucz", "--out", "back.txt").out
    assert told == f"back.txt: {len((home / 'other.txt').read_bytes())} bytes, checked\n"
    assert (home / "back.txt").read_bytes() == (home / "other.txt").read_bytes()
    values = _shown(answer("compress", "run", "binary.txt", "--out", "binary.lucz", "--json").out)
    assert values["file_bytes"] == (home / "binary.lucz").stat().st_size
    assert abs(values["difference_bits"]) <= 0.002 * values["evaluated_bits"] + 1024


def test_explaining_writes_a_page_and_the_steps(answer, home):
    printed = answer("explain", "run", "--file", "other.txt", "--html", "pages/why.html").out
    assert printed.splitlines()[-2].startswith("torch's cross_entropy")
    assert "Why the loss is" in (home / "pages" / "why.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("weight", "code"), [(math.nan, 2), (3e38, 1)])
def test_numbers_that_are_none_are_named_and_nothing_is_written(call, home, trained, tmp_path, weight, code):
    # A weight that is NaN is refused when it is read; finite ones can still make logits that are none.
    import shutil

    import safetensors.torch

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(home / "run" / name, tmp_path / name)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][:] = weight
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    for verb in (("evaluate", str(tmp_path), "other.txt"), ("explain", str(tmp_path), "the house")):
        refused = call(*verb, "--html", str(tmp_path / "page.html"))
        assert refused.code == code
        assert refused.out == ""
        assert "NaN" in refused.err
        assert not (tmp_path / "page.html").exists()


def test_a_checkpoint_of_a_run_is_a_model_too(answer):
    values = _shown(answer("evaluate", "run/checkpoints/step_000006", "other.txt", "--json").out)
    assert values["loss_nats"] > 0


def test_explaining_gives_a_row_a_token_and_evaluates_loss(answer):
    values = _shown(answer("explain", "run", "--file", "other.txt", "--json", "--top-k", "3").out)
    tokens = values["texts"][0]["tokens"]
    assert len(tokens) == 10 * len("Nobody knew the house.\n")
    keys = {"id", "text", "probability", "log_probability", "nats", "bits", "rank", "entropy", "alternatives"}
    assert keys <= tokens[0].keys()
    assert all(len(token["alternatives"]) == 3 for token in tokens)
    mean = sum(token["nats"] for token in tokens) / len(tokens)
    evaluated = _shown(answer("evaluate", "run", "other.txt", "--json").out)
    assert mean == pytest.approx(values["loss_nats"], abs=1e-6)
    assert mean == pytest.approx(evaluated["loss_nats"], abs=1e-5)


def test_explain_prints_a_table_of_several_texts(answer):
    printed = answer("explain", "run", "the house", "nobody").out
    assert "the house" in printed
    assert "nobody" in printed
    assert "perplexity" in printed


def test_generating_with_a_seed_is_the_same_twice_and_goes_on_from_the_prompt(answer):
    first, second = (
        answer("generate", "run", "The river", "--max-new-tokens", "12", "--seed", "7") for _ in range(2)
    )
    assert first.out == second.out
    assert first.out.startswith("The river")
    assert "seed" not in first.err


def test_generating_without_a_seed_prints_one_that_repeats_the_text(answer):
    first = answer("generate", "run", "The", "--max-new-tokens", "12")
    seed = re.search(r"seed (\d+)", first.err).group(1)
    assert answer("generate", "run", "The", "--max-new-tokens", "12", "--seed", seed).out == first.out


def test_generate_answers_with_json_for_each_text(answer):
    values = _shown(
        answer("generate", "run", "A", "--num", "3", "--max-new-tokens", "4", "--seed", "1", "--json").out
    )
    assert len(values) == 3
    assert all({"text", "seed", "finish_reason"} <= value.keys() for value in values)


def test_info_names_shape_and_parameters_of_a_run_and_of_a_preset(answer):
    values = _shown(answer("info", "run", "--json").out)
    assert values["n_layers"] > 0
    assert values["vocab_size"] == 257
    assert "best" in values["verdict"]
    assert f"{values['parameters']:,}" in answer("info", "run").out
    assert _shown(answer("info", "modern-1m", "--json").out)["parameters"] > 100_000


def test_runs_are_listed_with_their_best_loss(answer, trained):
    rows = _shown(answer("runs", ".", "--json").out)
    mine = next(row for row in rows if Path(row["run"]) == Path("run"))
    assert (mine["steps"], mine["best_step"]) == (6, _shown(trained.out)["best_step"])
    assert f"{mine['validation_loss_nats']:.4f}" in answer("runs", ".").out
    for name in ("bits_per_byte", "perplexity"):
        assert mine[name] == _shown(trained.out)[name]
    assert mine["validation_tokens"] == _shown(trained.out)["tokens_scored"]
    evaluation = _shown(answer("info", "run", "--json").out)["evaluation"]
    assert evaluation["bits_per_byte"] == mine["bits_per_byte"]
    assert f"{mine['bits_per_byte']:.4f} bits per byte" in answer("info", "run").out


def test_a_run_that_was_killed_is_called_so_by_each_verb_and_in_its_report(answer, home, tmp_path):
    shutil.copytree(home / "run", home / "killed")
    lines = (home / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert '"end"' in lines[-1]
    (home / "killed" / "metrics.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    said = "killed was interrupted at step 6 of 6"
    rows = {row["run"]: row for row in _shown(answer("runs", ".", "--json").out)}
    assert (rows["killed"]["status"], rows["run"]["status"]) == ("interrupted", "finished")
    assert (rows["run"]["dtype"], rows["run"]["threads"]) == ("float32", 1)
    assert said in _shown(answer("info", "killed", "--json").out)["verdict"]
    assert "interrupted" not in _shown(answer("info", "run", "--json").out)["verdict"]
    evaluated = answer("evaluate", "killed", "--no-baselines", "--html", "killed.html").out
    assert evaluated.startswith(said)
    assert said in (home / "killed.html").read_text(encoding="utf-8")
    for command in (
        ("compare", "killed", "modern-1m", "other.txt"),
        ("compare", "modern-1m", "killed", "other.txt"),
        ("generate", "killed", "A", "--max-new-tokens", "2"),
        ("explain", "killed", "A house"),
        ("compress", "killed", "other.txt", "--out", str(tmp_path / "killed.lucz")),
        ("export", "killed", "--out", str(tmp_path / "killed")),
    ):
        told = answer(*command)
        assert [line.startswith(said) for line in told.lines].count(True) == 1, command
        assert "interrupted" not in told.out
    assert "interrupted" not in answer("generate", "run", "A", "--max-new-tokens", "2").err
    shutil.rmtree(home / "killed")


def test_no_runs_is_no_error(call):
    listed = call("runs", "nothing")
    assert (listed.code, listed.out) == (0, "")
    assert "no runs in nothing" in listed.err
    assert _shown(call("runs", "nothing", "--json").out) == []


def test_preparing_says_what_it_wrote_and_training_takes_it(answer, home):
    said = answer("prepare", "book.txt", "--out", "prepared", "--tokenizer", "bytes").out
    assert said.startswith("prepared: ")
    assert "tokenizer bytes" in said
    assert (home / "prepared" / "manifest.json").exists()
    result = answer("train", "prepared", "--out", "from-prepared", "--steps", "1", *QUICK, "--json")
    assert _shown(result.out)["step"] == 1
    assert not list((home / "from-prepared" / "data").glob("*.npy"))


def test_doctor_finds_this_machine_sound_and_json_has_what_it_prints(answer):
    values = _shown(answer("doctor", "--device", "cpu", "--json").out)
    assert values["sound"] is True
    assert values["versions"]["lucidlm"] == lucidlm.__version__
    assert len(values["checks"]) == 4
    assert all(check["passed"] and check["difference"] <= check["limit"] for check in values["checks"])
    assert set(values["speeds"]) == {"float32", "bfloat16"}


def test_doctor_calls_a_device_that_computes_wrong_numbers_wrong(call, monkeypatch):
    from lucidlm import doctor

    real = doctor._loss

    def wrong(model, ids, device, dtype):
        return real(model, ids, device, dtype) + (0.2 if str(dtype) == "torch.bfloat16" else 0.0)

    monkeypatch.setattr(doctor, "_loss", wrong)
    monkeypatch.setattr(doctor, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))
    found = call("doctor", "--device", "cpu")
    assert found.code == 1
    assert found.out.count("WRONG") == 2
    assert "wrong numbers" in found.out


def test_version_is_the_packages(call):
    assert call("--version") == Answer(0, f"{lucidlm.__version__}\n", "")


VERBS = ("train", "evaluate", "explain", "generate", "compare", "compress", "decompress")
VERBS += ("import", "export", "prepare", "info", "runs", "report", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_goes_to_stdout(call, verb):
    helped = call(verb, "--help")
    assert (helped.code, helped.err) == (0, "")
    assert f"lucidlm {verb}" in helped.out


def test_help_names_every_verb(call):
    assert all(verb in call("--help").out for verb in VERBS)


def test_help_of_every_verb_needs_no_torch():
    program = f"""
import sys
from lucidlm.cli import main
for verb in {VERBS!r}:
    try:
        main([verb, "--help"])
    except SystemExit as stopped:
        assert not stopped.code
    assert "torch" not in sys.modules, verb
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


SLIPS = {
    "missing file": (("train", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "empty file": (("train", "empty.txt", "--out", "new"), "empty.txt"),
    "binary file": (("train", "binary.txt", "--out", "new"), "binary.txt"),
    "other encoding": (("train", "latin.txt", "--out", "new"), "--encoding"),
    "folder without text": (("train", "nothing", "--out", "new"), "nothing"),
    "unknown preset": (("train", "book.txt", "--preset", "gigantic", "--out", "new"), "gigantic"),
    "unknown tokenizer": (("train", "book.txt", "--tokenizer", "runes", "--out", "new"), "runes"),
    "unknown device": (("train", "book.txt", "--device", "abacus", "--out", "new"), "abacus"),
    "two budgets": (("train", "book.txt", "--steps", "5", "--minutes", "1"), "--minutes and --steps"),
    "no steps": (("train", "book.txt", "--steps", "0"), "--steps 0"),
    "batch under a window": (("train", "book.txt", "--out", "new", *QUICK[:-6], "8", "--steps", "1"), "8"),
    "existing run": (("train", "book.txt", "--out", "run", "--steps", "1"), "--overwrite"),
    "unknown key": (("train", "book.txt", "--config", "wrong.toml"), "stepz"),
    "broken settings": (("train", "book.txt", "--config", "broken.toml"), "broken.toml"),
    "missing settings": (("train", "book.txt", "--config", "nowhere.toml"), "nowhere.toml"),
    "nothing to resume": (("train", "--resume", "--out", "nothing"), "nothing"),
    "resume without a run": (("train", "--resume"), "--out"),
    "unknown model": (("evaluate", "nowhere", "book.txt"), "nowhere"),
    "folder that is no model": (("evaluate", "nothing", "book.txt"), "nothing"),
    "preset without a text": (("evaluate", "modern-1m"), "text"),
    "missing text": (("evaluate", "run", "nowhere.txt"), "nowhere.txt"),
    "stride over the context": (("evaluate", "run", "book.txt", "--stride", "33"), "33"),
    "stride with the harness's windows": (
        ("evaluate", "run", "book.txt", "--protocol", "lm-eval", "--stride", "4"),
        "--stride 4",
    ),
    "context over the model's": (("evaluate", "run", "book.txt", "--context-length", "33"), "1 to 32"),
    "empty text to evaluate": (("evaluate", "run", "empty.txt"), "empty.txt"),
    "text that is no UTF-8": (("evaluate", "run", "latin.txt"), "--encoding"),
    "nothing to explain": (("explain", "run"), "--file"),
    "an empty text to explain": (("explain", "run", ""), "0 tokens"),
    "stride over the context in explain": (("explain", "run", "a", "--stride", "99"), "--stride 99"),
    "unknown model to compare": (("compare", "run", "nowhere", "book.txt"), "nowhere"),
    "no model to compare": (("compare", "run", ",", "book.txt"), "','"),
    "one run for two seeds": (("compare", "run,run", "modern-1m", "book.txt"), "run and run"),
    "missing file to compress": (("compress", "run", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "what was never compressed": (("decompress", "run", "book.txt", "--out", "new"), "lucidlm compress"),
    "another model to decompress": (
        ("decompress", "modern-1m", "other.lucz", "--out", "new"),
        "another model",
    ),
    "negative temperature": (("generate", "run", "A", "--temperature", "-1"), "-1"),
    "no tokens": (("generate", "run", "A", "--max-new-tokens", "-1"), "-1"),
    "missing text to prepare": (("prepare", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "unknown model to inform about": (("info", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize(("arguments", "named"), SLIPS.values(), ids=list(SLIPS))
def test_a_slip_is_one_line_that_names_it_and_exit_code_2(call, squeezed, home, arguments, named):
    slipped = call(*arguments)
    assert slipped.code == 2
    assert slipped.out == ""
    assert "Traceback" not in slipped.err
    errors = [line for line in slipped.lines if line.startswith("lucidlm: ")]
    assert len(errors) == 1
    assert slipped.lines[-1] == errors[0]
    assert named in errors[0]
    assert not (home / "new").exists()


def test_a_refused_run_stays_as_it_was(call, trained, home):
    before = (home / "run" / "metrics.jsonl").read_bytes()
    assert call("train", "book.txt", "--out", "run", "--steps", "1").code == 2
    assert (home / "run" / "metrics.jsonl").read_bytes() == before


PARSING = {
    "unknown flag": (("train", "book.txt", "--stepz", "5"), "--stepz"),
    "unknown verb": (("trane", "book.txt"), "trane"),
    "words for a number": (("train", "book.txt", "--steps", "many"), "many"),
    "unknown choice": (("train", "book.txt", "--dtype", "float8"), "float8"),
    "missing model": (("evaluate",), "MODEL"),
    "missing value": (("train", "book.txt", "--config"), "--config"),
}


@pytest.mark.parametrize(("arguments", "named"), PARSING.values(), ids=list(PARSING))
def test_what_cannot_be_parsed_is_named_on_stderr_with_exit_code_2(call, arguments, named):
    slipped = call(*arguments)
    assert slipped.code == 2
    assert slipped.out == ""
    assert named.lower() in slipped.err.lower()
    assert "Traceback" not in slipped.err


def test_debug_shows_where_an_error_came_from(call):
    with pytest.raises(ConfigError, match="--steps 0"):
        call("train", "book.txt", "--steps", "0", "--debug")


def test_debug_prints_the_traceback_and_still_fails(home):
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", "train", "--steps", "0", "--debug"],
        cwd=home, capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_no_color_holds_on_a_terminal(monkeypatch):
    from lucidlm.display import Display
    from lucidlm.runs.history import Step
    from lucidlm.training.loop import Report

    step = Step(
        step=3, epoch=0.1, tokens=10, loss_nats=2.0, learning_rate_factor=1.0, grad_norm=1.0,
        tokens_per_s=1e3, mfu=0.5, time_s=1.0,
    )  # fmt: skip
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m")
    drawn = {}
    for no_color in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to Rich
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        terminal = io.StringIO()
        monkeypatch.setattr(sys, "stderr", terminal)
        with Display() as display:
            display.watch(Report(step, 10, 1.0, notes=("a note",)))
        drawn[no_color] = terminal.getvalue()
        monkeypatch.undo()
    assert colour.search(drawn[False])
    assert "a note" in drawn[True]
    assert not colour.search(drawn[True])


def test_a_reader_that_has_enough_is_no_error(trained, home):
    program = "import sys; from lucidlm.cli import main; sys.exit(main(['runs', '.', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_a_run_is_repeated_by_its_run_toml_and_changed_by_a_flag_over_it(answer, home):
    from safetensors.numpy import load_file

    answer("train", "--config", "run/run.toml", "--out", "again", "--json")
    one, two = (load_file(home / run / "model.safetensors") for run in ("run", "again"))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    changed = answer("train", "--config", "run/run.toml", "--out", "shorter", "--steps", "2", "--json")
    assert _shown(changed.out)["step"] == 2
    assert "changed by the flags" in changed.err


def test_a_run_toml_from_before_there_was_a_choice_of_split_repeats_its_run(answer, home):
    answer("train", "book.txt", "--steps", "2", *QUICK, "--split", "end", "--out", "old", "--json")
    settings = (home / "old" / "run.toml").read_text()
    assert 'split = "end"' in settings
    (home / "old" / "run.toml").write_text(settings.replace('split = "end"\n', ""))
    manifest = json.loads((home / "old" / "data" / "manifest.json").read_bytes())
    del manifest["split"], manifest["files"]["manifest.json"]
    (home / "old" / "data" / "manifest.json").write_text(json.dumps(manifest))
    again = answer("train", "--config", "old/run.toml", "--out", "old2", "--json")
    assert "changed by the flags" not in again.err
    one, two = ((home / run / "model.safetensors").read_bytes() for run in ("old", "old2"))
    assert one == two


def test_resuming_a_finished_run_says_so_and_answers_again(answer, trained):
    again = _shown(answer("train", "--resume", "--out", "run", "--json").out)
    before = _shown(trained.out)
    assert {key: again[key] for key in again if key != "time_s"} == {
        key: before[key] for key in before if key != "time_s"
    }


def _command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "lucidlm", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_no_verb_shows_the_help(tmp_path):
    done = _command(cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "train" in done.stdout + done.stderr


SLIPS = [("train", "--stepz", "5"), ("trane",), ("train", "--steps", "many"), ("evaluate",), ("--nonsense",)]


@pytest.mark.parametrize("arguments", SLIPS)
def test_what_cannot_be_parsed_is_one_line(tmp_path, arguments):
    done = _command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"lucidlm: .*\n", done.stderr)


@pytest.mark.parametrize("arguments", [("--seed", str(10**20)), ("--out", "book.txt/run")])
def test_more_slips_are_one_line_and_exit_code_2(tmp_path, arguments):
    (tmp_path / "book.txt").write_text("The tide came in and the tide went out. " * 50)
    quick = ("train", "book.txt", "--steps", "1", "--preset", "modern-1m", "--tokenizer", "bytes")
    done = _command(*quick, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# Weights in and out


@pytest.mark.parametrize(("dtype", "stored"), [("auto", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_a_run_is_exported_and_its_export_opens(answer, tmp_path, dtype, stored):
    from safetensors import safe_open

    out = tmp_path / "out"
    said = answer("export", "run", "--out", str(out), "--dtype", dtype)
    assert said.out.startswith(f"{out}: ")
    assert said.out.endswith("opened again, logits equal\n")
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored}  # noqa: SIM118
    # What is imported keeps its type.
    answer("import", str(out), "--out", str(tmp_path / "again"))
    assert (tmp_path / "again" / "model.safetensors").stat().st_size == (
        out / "model.safetensors"
    ).stat().st_size
    found, own = (
        json.loads(answer("evaluate", str(each), "other.txt", "--json").out)
        for each in (tmp_path / "again", "run")
    )
    assert found["loss_nats"] == pytest.approx(own["loss_nats"], rel=1e-6 if dtype == "auto" else 1e-2)


def test_a_run_goes_to_gguf(answer, tmp_path):
    out = tmp_path / "run.gguf"
    said = answer("export", "run", "--format", "gguf", "--out", str(out))
    assert said.out.endswith("every tensor compared\n")
    assert out.read_bytes()[:4] == b"GGUF"


def test_openais_folder_is_imported_and_evaluated(answer, tmp_path):
    release = Path(__file__).parent / "weights" / "fixtures" / "openai-gpt2-tiny"
    answer("import", str(release), "--out", str(tmp_path / "gpt2"))
    numbers = [
        json.loads(answer("evaluate", str(each), "other.txt", "--json").out)["loss_nats"]
        for each in (release, tmp_path / "gpt2")
    ]
    assert numbers[0] == numbers[1]


def test_a_place_that_is_taken_is_refused_before_anything_is_read(call, tmp_path):
    taken = tmp_path / "mine.gguf"
    taken.write_text("mine")
    said = call("export", "no/such/model", "--format", "gguf", "--out", str(taken))
    assert said.code == 2
    assert "not overwritten" in said.err
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("evaluate", "run", "-", "--no-baselines", "--json"), '"bytes_total": 23,'),
        (("explain", "run", "--file", "-", "--json"), '"Nobody knew the house.'),
    ],
)
def test_a_dash_is_standard_input(home, trained, arguments, told):
    assert trained.code == 0, trained.err
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", *arguments],
        input="Nobody knew the house.\n", cwd=home,
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_a_dash_is_no_place_to_write(call, home):
    assert call("prepare", "book.txt", "--out", "-").code == 2
    assert not (home / "<stdin>").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is PyTorch's on Linux")
@pytest.mark.parametrize(
    ("environment", "command", "spins"),
    [
        ({}, ["info", "modern-1m"], 10_000),
        ({}, ["train", "no-such-text.txt"], 300_000),
        ({"GOMP_SPINCOUNT": "77"}, ["info", "modern-1m"], 77),
        ({"OMP_WAIT_POLICY": "active"}, ["info", "modern-1m"], 30_000_000_000),
    ],
)
def test_waiting_threads_leave_the_processor_soon_unless_the_user_says_otherwise(environment, command, spins):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", *command],
        env=inherited | environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr  # what the library itself says that it read


def test_memory_that_cannot_be_had_is_one_line_in_every_verb(call, trained, monkeypatch):
    from lucidlm.runtime import memory

    commands = [["evaluate", "run"], ["generate", "run"], ["export", "run", "--out", "none"]]
    commands += [["train", "book.txt", "--steps", "1", "--preset", "modern-1m", "--out", "none"]]
    with monkeypatch.context() as little:
        little.setattr(memory, "free_memory", lambda: memory.Free(1_000_000, "a limit"))
        for command in commands:
            refused = call(*command)
            assert refused.code == 2
            assert "1 MB are free (a limit)" in refused.lines[-1]
        assert "1,557,611,200" in call("info", "gpt2-1558m").out

    def fail(*arguments, **named):
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("lucidlm.measure.explanation.explain_texts", fail)
    failed = call("explain", "run", "the river")
    assert failed.code == 2
    assert failed.lines[-1].startswith("lucidlm: out of memory")


def test_a_settings_file_that_names_the_weights_to_go_on_from_is_read(call, trained, home):
    (home / "on.toml").write_text('from_ = "run"\nsteps = 1\n')
    told = call("train", "book.txt", "--config", "on.toml", "--out", "run")
    assert told.code == 2
    assert "run is there already" in told.lines[-1]


ODD = os.fsdecode(b"caf\xe9")
ODD_QUICK = [
    ["train", "--resume", "--out", ODD],
    ["prepare", f"{ODD}-texts", "--out", f"{ODD}-p", "--tokenizer", "bytes"],
    ["evaluate", ODD, f"{ODD}-texts", "--no-baselines", "--by", "document", "--csv", f"{ODD}.csv"],
    ["explain", ODD, "--file", f"{ODD}-texts/{ODD}.txt", "--html", f"{ODD}.html"],
    ["info", ODD],
]
ODD_SLOW = [
    ["evaluate", ODD, f"{ODD}-texts", "--html", f"{ODD}2.html"],
    ["compare", ODD, "run", f"{ODD}-texts/{ODD}.txt", "--html", f"{ODD}3.html"],
    ["compress", ODD, f"{ODD}-texts/{ODD}.txt", "--out", f"{ODD}.z"],
    ["decompress", ODD, f"{ODD}.z", "--out", f"{ODD}.back"],
    ["runs", "."],
    ["train", f"{ODD}-texts/{ODD}.txt", "--from", ODD, "--steps", "1", "--out", f"{ODD}-on"],
    ["train", "--config", f"{ODD}-on/run.toml", "--out", f"{ODD}-again"],
    ["train", f"{ODD}-p", "--steps", "1", "--out", f"{ODD}-prepared", *QUICK],
    ["train", "--resume", "--out", f"{ODD}-prepared"],
]


@pytest.mark.parametrize("commands", [ODD_QUICK, pytest.param(ODD_SLOW, marks=pytest.mark.torture)])
def test_names_that_are_no_utf8_are_read_and_written_by_every_verb(call, trained, home, commands):
    if not (home / ODD).exists():
        try:
            shutil.copytree(home / "run", home / ODD)
        except OSError:
            pytest.skip("this disk takes UTF-8 alone")
        (home / f"{ODD}-texts").mkdir()
        for name in ("a", ODD):
            shutil.copy(home / "other.txt", home / f"{ODD}-texts" / f"{name}.txt")
    for command in commands:
        told = call(*command)
        assert told.code == 0, (command, told.err)
    for page in home.glob(f"{ODD}*.[ch]*"):
        assert r"caf\udce9" in page.read_bytes().decode("utf-8")
    for manifest in home.glob(f"{ODD}-p/manifest.json"):
        assert json.loads(manifest.read_bytes())["sources"][1]["path"] == path_text(f"{ODD}-texts/{ODD}.txt")
    for back in home.glob(f"{ODD}.back"):
        assert back.read_bytes() == (home / "other.txt").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(
    ("umask", "mode"), [(0o077, 0o600), pytest.param(0o002, 0o664, marks=pytest.mark.torture)]
)
def test_every_file_that_is_written_obeys_the_umask(call, trained, home, umask, mode):
    place = f"umask-{umask:o}"
    (home / place).mkdir()
    before = os.umask(umask)
    try:
        quick = ["--steps", "1", "--preset", "modern-1m", "--context-length", "32", "--batch-tokens", "64"]
        commands = [["train", "book.txt", "--out", f"{place}/run", *quick, "--tensorboard"]]
        commands += [
            ["prepare", "book.txt", "--out", f"{place}/prepared"],
            ["export", "run", "--out", f"{place}/hf"],
        ]
        commands += [["export", "run", "--out", f"{place}/x.gguf", "--format", "gguf"]]
        commands += [["explain", "run", "the river", "--html", f"{place}/new/page.html"]]
        commands += [["compress", "run", "other.txt", "--out", f"{place}/x.z"]]
        for command in commands:
            told = call(*command)
            assert told.code == 0, (command, told.err)
    finally:
        os.umask(before)
    written = list((home / place).rglob("*"))
    assert any(path.name == "optimizer.safetensors" for path in written)
    odd = {
        path.name: oct(path.stat().st_mode)
        for path in written
        if path.is_file() and path.stat().st_mode & 0o777 != mode
    }
    assert odd == {}
    folders = {path.stat().st_mode & 0o777 for path in written if path.is_dir()}
    assert folders == {0o777 & ~umask}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on file sizes")
def test_a_limit_on_file_sizes_names_the_file_and_leaves_nothing(call, trained, home):
    import resource

    commands = {"limit-1": ["prepare", "book.txt"], "limit-2": ["export", "run"]}
    commands |= {"limit-3": ["explain", "run", "the river"], "limit-4": ["evaluate", "run", "book.txt"]}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for place, command in commands.items():
        flag = "--html" if command[0] in ("explain", "evaluate") else "--out"
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            told = call(*command, flag, place)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert told.code in (1, 2)
        assert place in told.lines[-1]
        assert "too large" in told.lines[-1]
        assert not [path for path in home.iterdir() if place in path.name]
