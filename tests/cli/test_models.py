"""info, import and export on one tiny run, and what they write opens again."""

import json

import pytest
from command_line import shown
from releases import FIXTURE


def test_info_names_shape_and_parameters_of_a_run_and_of_a_preset(answer):
    values = shown(answer("info", "run", "--json").out)
    assert values["n_layers"] > 0
    assert values["vocab_size"] == 257
    assert "best" in values["verdict"]
    assert f"{values['parameters']:,}" in answer("info", "run").out
    assert shown(answer("info", "modern-1m", "--json").out)["parameters"] > 100_000


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
    answer("import", str(FIXTURE), "--out", str(tmp_path / "gpt2"))
    numbers = [
        json.loads(answer("evaluate", str(each), "other.txt", "--json").out)["loss_nats"]
        for each in (FIXTURE, tmp_path / "gpt2")
    ]
    assert numbers[0] == numbers[1]


def test_a_place_that_is_taken_is_refused_before_anything_is_read(call, tmp_path):
    taken = tmp_path / "mine.gguf"
    taken.write_text("mine")
    said = call("export", "no/such/model", "--format", "gguf", "--out", str(taken))
    assert said.code == 2
    assert "not overwritten" in said.err
    assert taken.read_text() == "mine"
