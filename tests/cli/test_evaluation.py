"""evaluate on one tiny run: numbers, tables, gates, baselines."""

import json
import math
import shutil

import pytest
from command_line import shown

from lucidlm.measure.intervals import MOSTLY_SEEN


def test_evaluating_a_run_without_a_text_takes_its_own_validation_text_and_says_so(answer, trained):
    given = answer("evaluate", "run", "--json")
    values, when_trained = shown(given.out), shown(trained.out)
    for key in ("loss_nats", "bits_per_byte", "perplexity"):
        assert values[key] == pytest.approx(when_trained[key], rel=1e-6)
    keys = ("nats", "tokens_scored", "tokens_total", "bytes_scored", "bytes_total", "protocol")
    assert all(values[key] == when_trained[key] for key in keys if key != "nats")
    assert "validation text of run" in given.err
    assert "best weights" in given.err


def test_evaluate_prints_the_numbers_that_json_has(answer):
    values = shown(answer("evaluate", "run", "other.txt", "--no-baselines", "--json").out)
    printed = answer("evaluate", "run", "other.txt", "--no-baselines").out
    assert f"{values['loss_nats']:.4f}" in printed
    assert f"{values['perplexity']:,.2f}" in printed
    assert f"{values['bits_per_byte']:.4f}" in printed
    assert values["bytes_total"] == 10 * len("Nobody knew the house.\n")


def test_documents_are_listed_the_worst_first_in_table_csv_and_json(answer, home):
    texts = ["Nobody knew the house.", "ZQX! 123 {}", *(f"Past a river {n}." for n in range(30))]
    lines = [json.dumps({"text": text}) for text in texts]
    (home / "many.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ("evaluate", "run", "many.jsonl", "--no-baselines", "--by", "document")
    printed = answer(*command, "--csv", "many.csv").out
    table = printed[printed.index("by document, worst first (32 documents)") :].splitlines()
    assert "many.jsonl:2" in table[2]
    assert table[-1] == "... 12 more: --csv FILE and --json have all"
    values = shown(answer(*command, "--json").out)
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
    bits = shown(stored.out)["bits_per_byte"]

    def gate(*flags: str) -> tuple[int, str]:
        answered = call(*command, *flags)
        return answered.code, answered.lines[-1]

    assert gate("--max-bits", str(bits + 0.01))[0] == 0
    assert gate("--baseline", "base.json", "--max-bits", "99")[0] == 0
    code, line = gate("--max-bits", str(bits - 0.01))
    assert (code, line.partition(":")[0]) == (1, "gate failed")
    better = shown(stored.out)
    better["units"] = [[nats - 0.02 * size, tokens, size] for nats, tokens, size in better["units"]]
    better["bits_per_byte"] -= 0.02 / math.log(2)
    (home / "better.json").write_text(json.dumps(better), encoding="utf-8")
    code, line = gate("--baseline", "better.json", "--max-bits", "99")
    assert code == 1
    assert line.startswith("gate failed: worse: ")
    assert "max-bits" not in line
    values = shown(call(*command, "--baseline", "better.json", "--json").out)
    assert [verdict["passed"] for verdict in values["gate"]] == [False]
    assert "1 a gate failed (--max-bits, --baseline)" in call("evaluate", "--help").out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("other.txt", "--baseline", "base.json"), "another text"),
        (("book.txt", "--baseline", "base.json", "--stride", "4"), "give --stride 16"),
        (("book.txt", "--baseline", "book.txt"), "not a stored result"),
        (("book.txt", "--baseline", "missing.json"), "cannot be read"),
        (("book.txt", "--max-bits", "-1"), "--max-bits -1.0"),
        (("book.txt", "--csv", "a.csv"), "--by document"),
        (("book.txt", "--by", "document", "--csv", "book.txt"), "--csv book.txt: "),
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
    by_default = shown(answer("evaluate", "run", "other.txt", "--no-baselines", "--json").out)
    alone = shown(answer("evaluate", "run", "other.txt", "--no-baselines", "--json", "--batch-size", "1").out)
    assert alone["loss_nats"] == pytest.approx(by_default["loss_nats"], abs=1e-6)
    exact = shown(answer("evaluate", "run", "other.txt", "--no-baselines", "--json", "--stride", "1").out)
    assert exact["protocol"]["stride"] == 1
    left_out = shown(
        answer("evaluate", "run", "other.txt", "--no-baselines", "--json", "--prefix", "none").out
    )
    assert left_out["tokens_scored"] == by_default["tokens_scored"] - 1
    lecture = shown(
        answer("evaluate", "run", "other.txt", "--no-baselines", "--json", "--protocol", "batch-mean").out
    )
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
        "Best baseline that stops learning after training, as the model does: ",
        "Best baseline that also learns from the text it is scored on: ",
    ):
        assert part in printed
    values = shown(answer("evaluate", "run", "other.txt", "--json").out)
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


def test_a_text_that_was_trained_on_is_called_so_above_the_number(answer, home):
    lines = answer("evaluate", "run", "book.txt", "--no-baselines").out.splitlines()
    assert "of this text was trained on" in lines[0]
    assert "`lucidlm evaluate run` without a text gives the held-out number" in lines[0]
    assert "held-out" not in " ".join(lines[1:])
    assert str(MOSTLY_SEEN) in lines
    assert "like these" not in " ".join(lines)
    values = shown(answer("evaluate", "run", "book.txt", "--json").out)
    assert (values["loss_interval"], values["bits_interval"]) == (None, None)
    assert values["ladder"]["no_interval"] == values["no_interval"]
    assert {rung["outcome"] for rung in values["ladder"]["rungs"]} == {"not tested"}
    own = shown(answer("evaluate", "run", "--json").out)
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
    assert (
        shown(answer("evaluate", "run", "other.txt", "--no-baselines", "--json").out)["seen_in_training"][
            "share"
        ]
        == 0
    )
    elsewhere = shown(answer("evaluate", "modern-1m", "book.txt", "--json").out)
    assert elsewhere["seen_in_training"] is None


def test_three_lines_forty_times_are_three_lines_for_the_interval_too(answer, home):
    lines = ["The first of three lines.", "A second one, no longer.", "The third ends it."]
    (home / "forty.txt").write_text("\n".join(lines * 40), encoding="utf-8")
    (home / "forty.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines * 40))
    for name, reason in (("forty.txt", "repeats itself"), ("forty.jsonl", "copies")):
        values = shown(answer("evaluate", "run", name, "--no-baselines", "--json").out)
        assert (values["repetition"]["lines"], values["repetition"]["different_lines"]) == (120, 3)
        assert values["bits_interval"] is None
        assert reason in values["no_interval"]
    assert values["repetition"]["different_documents"] == 3
    printed = answer("evaluate", "run", "forty.jsonl", "--no-baselines").out
    assert "3 of 120 documents and 3 of 120 lines" in printed
    compared = shown(answer("compare", "run", "modern-1m", "forty.jsonl", "--json").out)
    assert compared["interval"] is None
    assert compared["repetition"]["different_documents"] == 3


@pytest.mark.parametrize(("weight", "code"), [(math.nan, 2), (3e38, 1)])
def test_numbers_that_are_none_are_named_and_nothing_is_written(call, home, trained, tmp_path, weight, code):
    # A weight that is NaN is refused when it is read; finite ones can still make logits that are none.

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
    values = shown(answer("evaluate", "run/checkpoints/step_000006", "other.txt", "--json").out)
    assert values["loss_nats"] > 0
