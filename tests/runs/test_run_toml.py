"""Settings come back from run.toml as they were written, and what is none is refused by name."""

import dataclasses
import json
import os
import tomllib
from pathlib import Path

import pytest

from lucidlm.errors import ConfigError, RunError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import Recipe
from lucidlm.runs.run_toml import read_settings, read_toml, write_settings
from lucidlm.runs.settings import Plan, TrainConfig


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Path:
    """A run for a run.toml."""
    folder = Path("run")
    folder.mkdir()
    return folder


REQUESTS = {
    "nothing asked": TrainConfig(),
    "everything asked": TrainConfig(
        text=("a b.txt", 'quo"te.txt', "back\\slash", "größe"),
        out="run",
        steps=7,
        preset="modern-1m",
        tokenizer="bpe:500",
        context_length=32,
        drop_rate=0.1,
        batch_tokens=64,
        micro_batch=2,
        val=("v.txt",),
        val_fraction=0.25,
        raw=True,
        optim=Recipe(name="adamw", lr=1e-4, weight_decay=0.0, warmup_steps=3, clip=0.0),
        validate_every=3,
        early_stop=False,
        sample_prompt="Zwölf\n'Boxkämpfer'",
        seed=0,
        dtype="bfloat16",
        threads=2,
        checkpointing=True,
        tensorboard=True,
        track="trackio",
    ),
    "minutes": TrainConfig(minutes=1.5),
    "epochs": TrainConfig(epochs=0.5),
}


@pytest.mark.parametrize("config", REQUESTS.values(), ids=list(REQUESTS))
def test_settings_come_back_as_they_were_written(config, make_tiny_plan, run):
    plan = make_tiny_plan(
        steps=9,
        model=GPTConfig(family="gpt2", vocab_size=300, drop_rate=0.1, qkv_bias=True, tied_head=True),
        schedule=((-1, 0.0), (3, 1.0), (9, 1 / 3)),
        dtype="bfloat16",
        early_stop=True,
    )
    write_settings(run, config, plan)
    assert read_settings(run) == (config, plan)
    assert read_settings(run / "run.toml") == (config, plan)


def test_a_run_from_before_rows_were_evened_goes_on_without(make_tiny_plan, run):
    write_settings(run, TrainConfig(steps=9), make_tiny_plan(steps=9))
    path = run / "run.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "row_beta" not in line))
    plan = read_settings(run)[1]
    assert plan is not None
    assert plan.optim.row_beta == 0.0


def test_a_settings_file_of_ones_own_needs_no_plan():
    Path("mine.toml").write_text('text = "book.txt"\nsteps = 5\n[optim]\nlr = 1e-3\n')
    assert read_settings(Path("mine.toml")) == (
        TrainConfig(text="book.txt", steps=5, optim=Recipe(lr=1e-3)),
        None,
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("stepz = 5", "stepz"),
        ("[plan]\nstepz = 5", "stepz"),
        ("steps = 'many'", "steps"),
        ("steps = true", "steps is true or false; give a number"),
        ("[plan]\nthreads_from = [[true, 1]]", "threads_from is true or false; give a number"),
        ("text = true", "valid string"),
        ("dtype = 'float16'", "dtype"),
        ("[optim]\nname = 'sgd'", "optim"),
    ],
)
def test_a_setting_that_is_unknown_or_of_the_wrong_kind_is_refused_by_name(content, named):
    Path("mine.toml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_settings(Path("mine.toml"))
    assert "mine.toml" in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"steps = = 5", b"\xff\xfe\x00"])
def test_a_file_that_is_no_toml_is_refused_by_name(content):
    Path("mine.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine.toml: not valid TOML"):
        read_toml(Path("mine.toml"))


def test_a_settings_file_that_is_not_there_is_refused_by_name():
    with pytest.raises(RunError, match=r"nowhere.toml"):
        read_settings(Path("nowhere.toml"))


def test_a_plan_that_lacks_a_setting_is_refused(make_tiny_plan, run):
    write_settings(run, TrainConfig(), make_tiny_plan())
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace("batch_size = 4", ""))
    with pytest.raises(ConfigError, match="batch_size"):
        read_settings(run)


def test_every_setting_of_plan_and_request_is_in_run_toml_or_was_not_given(make_tiny_plan, run):
    write_settings(run, REQUESTS["everything asked"], make_tiny_plan())
    values = read_toml(run / "run.toml")
    not_given = {"minutes", "epochs", "from_"}  # each contradicts a setting that is given
    assert {field.name for field in dataclasses.fields(TrainConfig)} - values.keys() == not_given
    assert {field.name for field in dataclasses.fields(Plan)} == values["plan"].keys()


@pytest.mark.parametrize("content", ["[optim]\nlearning_rate = 5", "[plan.model]\nlearning_rate = 5"])
def test_an_unknown_setting_of_a_table_is_refused_by_name(content, tmp_path):
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match="learning_rate"):
        read_settings(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("manifest", "split"),
    [
        (None, "end"),
        ([], "end"),
        ("damaged", "end"),
        ({"split": {"design": 5}}, "end"),
        ({"validation_sources": [{"path": "v"}]}, "auto"),
        ({"validation_sources": [], "documents": [{"train_bytes": 9, "validation_bytes": 1}]}, "end"),
        (
            {"validation_sources": [], "documents": [{"train_bytes": 9, "validation_bytes": 0}] * 30},
            "documents",
        ),
    ],
)
def test_a_run_from_before_there_was_a_choice_repeats_with_its_own_split(
    make_tiny_plan, run, manifest, split
):
    write_settings(run, TrainConfig(text=("book.txt",), steps=3), make_tiny_plan())
    settings = (run / "run.toml").read_text()
    assert 'split = "auto"' in settings
    (run / "run.toml").write_text(settings.replace('split = "auto"\n', ""))
    if manifest is not None:
        (run / "data").mkdir()
        counts = {"train": {"documents": 27}, "validation": {"documents": 3}}
        (run / "data" / "manifest.json").write_text(
            json.dumps(manifest | counts if isinstance(manifest, dict) else manifest)
        )
    assert read_settings(run)[0].split == split


def test_paths_that_are_no_utf8_come_back_from_the_settings(make_tiny_plan, run):
    odd = os.fsdecode(b"caf\xe9")
    config = TrainConfig(
        text=(f"{odd}.txt", r"a\b", r"looks\udce9escaped"), val=(odd,), out=odd, from_=f"runs/{odd}"
    )
    write_settings(run, config, make_tiny_plan())
    assert tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))["text"][0] == r"caf\udce9.txt"
    assert read_settings(run)[0] == config


@pytest.mark.parametrize("plan", ['"x"', "0", "true", "[]"])
def test_a_plan_that_is_no_table_is_refused(tmp_path, plan):
    (tmp_path / "run.toml").write_text(f'text = "book.txt"\nplan = {plan}\n')
    with pytest.raises(ConfigError, match=r"run\.toml: plan = .*give a table"):
        read_settings(tmp_path)
