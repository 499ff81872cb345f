import importlib.resources
import shutil

import pytest

from lucidlm.runs.lineage import held_out_seen_by, lineage_of, seen_by
from lucidlm.text.preparation import prepare

STORY = (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text(encoding="utf-8")


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run(name, text, from_): a folder that has of a run what its lineage is read from."""
    monkeypatch.chdir(tmp_path)

    def make(name, text, from_=None):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        prepare(f"{name}.txt", tmp_path / name / "data", tokenizer="bytes", split="end")
        lines = ['text = ["text.txt"]', *([f'from_ = "{from_}"'] if from_ else [])]
        (tmp_path / name / "run.toml").write_text("\n".join(lines), encoding="utf-8")

    return make


def test_a_runs_line_goes_back_over_the_weights_it_went_on_from(make_run):
    make_run("first", STORY[:20_000], "gpt2")
    make_run("second", STORY[20_000:40_000], "first")
    make_run("third", STORY[40_000:60_000], "second/checkpoints/step_000004")
    lineage = lineage_of("third")
    assert [name for name, _ in lineage.runs] == ["third", "second", "first"]
    assert lineage.unknown == ("gpt2",)
    assert lineage_of("third/checkpoints/step_000009").runs[0][0] == "third"


def test_a_model_without_a_training_text_has_none(make_run, tmp_path):
    (tmp_path / "model").mkdir()
    for model in ("lecture", "model", "gpt2"):
        assert lineage_of(model).runs == ()
        assert seen_by(model, [[STORY]]) is None


def test_a_run_whose_text_is_gone_or_that_went_on_from_itself_is_said_to_be_unknown(make_run):
    make_run("first", STORY[:20_000])
    make_run("second", STORY[20_000:40_000], "first")
    shutil.rmtree("first/data")
    assert lineage_of("second").unknown == ("first",)
    make_run("own", STORY[:20_000], "own")
    assert lineage_of("own").unknown == ("own",)


def test_what_the_run_before_was_trained_on_is_found(make_run):
    make_run("first", STORY[:20_000])
    make_run("second", STORY[20_000:40_000], "first")
    seen = seen_by("second", [[STORY[2000:8000]]])
    assert seen.share > 0.98
    assert seen.found_in == ("first",)


def test_a_held_out_text_that_the_run_before_was_trained_on_is_not_held_out(make_run, tmp_path):
    make_run("first", STORY[10_000:60_000])
    make_run("second", STORY[:40_000], "first")
    make_run("clean", STORY[60_000:80_000], "first")
    found = held_out_seen_by("second", tmp_path / "second")
    assert found.share > 0.5
    assert "held-out text also occurs" in found.sentence
    assert held_out_seen_by("clean", tmp_path / "clean").sentence == ""


def test_what_the_preparation_found_in_the_held_out_text_is_what_is_said(make_run, tmp_path):
    make_run("clean", STORY[:40_000])
    make_run("copied", STORY[:20_000] * 2)
    clean, copied = (held_out_seen_by(name, tmp_path / name) for name in ("clean", "copied"))
    assert (clean.share, clean.sentence) == (0, "")
    assert copied.share > 0.9
    assert "new text has a higher loss" in copied.sentence


def test_another_runs_held_out_text_is_looked_for(make_run, tmp_path):
    make_run("one", STORY[:40_000])
    make_run("other", STORY[:45_000] + STORY[:60_000][::-1])
    found = held_out_seen_by("other", tmp_path / "one")
    assert found.share > 0.8
    assert not found.held_out
