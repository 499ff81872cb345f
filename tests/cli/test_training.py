"""train, prepare and doctor: results on stdout, progress on stderr; runs repeat and resume."""

import json
import math
import shutil
from pathlib import Path

import pytest
from command_line import QUICK, shown

import lucidlm


def test_training_answers_with_json_on_stdout_and_progress_on_stderr(trained):
    assert trained.code == 0, trained.err
    values = shown(trained.out)
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


def test_a_prepared_folder_is_not_read_anew(call, home):
    call("prepare", "book.txt", "--tokenizer", "bytes", "--out", "ready")
    refused = call("train", "ready", "--field", "body", "--steps", "1", "--out", "unready")
    assert refused.code == 2
    assert "--field body: ready was prepared without it" in refused.lines[-1]


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


def test_preparing_says_what_it_wrote_and_training_takes_it(answer, home):
    said = answer("prepare", "book.txt", "--out", "prepared", "--tokenizer", "bytes").out
    assert said.startswith("prepared: ")
    assert "tokenizer bytes" in said
    assert (home / "prepared" / "manifest.json").exists()
    result = answer("train", "prepared", "--out", "from-prepared", "--steps", "1", *QUICK, "--json")
    assert shown(result.out)["step"] == 1
    assert not list((home / "from-prepared" / "data").glob("*.npy"))


def test_doctor_finds_this_machine_sound_and_json_has_what_it_prints(answer):
    values = shown(answer("doctor", "--device", "cpu", "--json").out)
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


def test_a_refused_run_stays_as_it_was(call, trained, home):
    before = (home / "run" / "metrics.jsonl").read_bytes()
    assert call("train", "book.txt", "--out", "run", "--steps", "1").code == 2
    assert (home / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_is_repeated_by_its_run_toml_and_changed_by_a_flag_over_it(answer, home):
    from safetensors.numpy import load_file

    answer("train", "--config", "run/run.toml", "--out", "again", "--json")
    one, two = (load_file(home / run / "model.safetensors") for run in ("run", "again"))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    changed = answer("train", "--config", "run/run.toml", "--out", "shorter", "--steps", "2", "--json")
    assert shown(changed.out)["step"] == 2
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
    again = shown(answer("train", "--resume", "--out", "run", "--json").out)
    before = shown(trained.out)
    assert {key: again[key] for key in again if key != "time_s"} == {
        key: before[key] for key in before if key != "time_s"
    }


def test_a_settings_file_that_names_the_weights_to_go_on_from_is_read(call, trained, home):
    (home / "on.toml").write_text('from_ = "run"\nsteps = 1\n')
    told = call("train", "book.txt", "--config", "on.toml", "--out", "run")
    assert told.code == 2
    assert "run is there already" in told.lines[-1]
