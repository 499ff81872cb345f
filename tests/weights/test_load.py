"""The one resolver: presets, folders, and what is neither."""

from pathlib import Path

import pytest
import torch
from models import BYTES, shape
from recorded import Recorded
from releases import FIXTURE

from lucidlm.errors import WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PRESETS
from lucidlm.weights.huggingface import save_model
from lucidlm.weights.load import Source, load, resolve


def test_a_preset_is_random_from_its_seed_and_says_so():
    lines = []
    before = torch.get_rng_state()
    model, tokenizer = load("modern-1m", seed=5, progress=Recorded(lines))
    again, _ = load("modern-1m", seed=5)
    other, _ = load("modern-1m", seed=6)
    assert lines == ["modern-1m: random weights, seed 5"]
    assert torch.equal(model.head.weight, again.head.weight)
    assert not torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert tokenizer.name == "bytes"
    assert not model.training


def test_a_folder_of_a_presets_name_is_meant_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = GPT(shape())
    save_model(model, BYTES, tmp_path / "lecture")
    loaded, _ = load("./lecture")
    assert loaded.n_parameters == model.n_parameters


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lectur", "did you mean lecture"),
        ("gpt2-larg", "did you mean gpt2-large"),
        ("no/such/folder", "no folder and no model of that name; there are gpt2"),
    ],
)
def test_what_is_neither_folder_nor_preset_is_told_what_is(name, told):
    with pytest.raises(WeightsError, match=told):
        load(name)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_refused_as_its_config_lies_beside_it(kind, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"model\.gguf: a file; give the folder"):
        load(kind(tmp_path / "model.gguf"))


def test_a_folder_without_a_model_is_told_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=r"notes\.txt"):
        load(tmp_path)


def test_a_tokenizer_larger_than_its_model_is_refused_with_both_sizes(tmp_path):
    model = GPT(shape(vocab_size=100))
    save_model(model, BYTES, tmp_path)
    with pytest.raises(WeightsError, match="257 tokens, its model 100"):
        load(tmp_path)


def test_published_names_give_openais_weights_with_end_of_text_first(tmp_path, monkeypatch):
    from lucidlm.weights import published

    monkeypatch.setattr("lucidlm.weights.load.published_folder", lambda name, progress: FIXTURE)
    assert set(published.PUBLISHED) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
    model, tokenizer = load("gpt2")
    assert model.document_prefix_id == tokenizer.end_of_text == 502
    again, _ = load(FIXTURE)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


def test_a_name_of_the_hub_is_fetched_and_a_path_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, prefix in (("gpt2", None), ("other", 7)):
        save_model(GPT(shape(document_prefix_id=prefix)), BYTES, tmp_path / place)
    asked = []

    def hub(name, progress):
        asked.append(name)
        return tmp_path / name.partition("/")[2]

    monkeypatch.setattr("lucidlm.weights.load.hub_folder", hub)
    assert load("owner/other")[0].document_prefix_id == 7
    # The published GPT-2's config.json does not say what stood before its documents.
    assert load("openai-community/gpt2")[0].document_prefix_id == BYTES.end_of_text
    assert asked == ["owner/other", "openai-community/gpt2"]
    assert load("owner/gpt2")[0].document_prefix_id is None
    assert load("./gpt2")[0].document_prefix_id is None
    assert load(str(tmp_path / "gpt2"))[0].document_prefix_id is None
    assert asked.pop() == "owner/gpt2"
    (tmp_path / "runs").mkdir()
    with pytest.raises(WeightsError, match="no folder"):
        load("runs/missing")
    assert len(asked) == 2


def test_a_source_says_what_a_model_is_and_which_run_wrote_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("runs", "one", "checkpoints", "step_000002")
    for place in (Path("runs/one"), checkpoint, Path("copy"), Path("theirs")):
        save_model(GPT(shape()), BYTES, place)
    Path("runs/one/run.toml").touch()
    Path("copy/state.json").touch()
    Path("runs/none").mkdir()
    Path("runs/none/run.toml").touch()
    run = Path("runs/one")
    expected = {
        "lecture": ("preset", None, None),
        "gpt2": ("published", None, None),
        "owner/model@v1": ("published", None, None),
        "runs/one": ("run", run, run),
        "runs/none": ("run", Path("runs/none"), Path("runs/none")),
        str(checkpoint): ("checkpoint", checkpoint, run),
        "copy": ("checkpoint", Path("copy"), None),
        "theirs": ("huggingface", Path("theirs"), None),
        str(FIXTURE): ("openai", FIXTURE, None),
    }
    found = {name: resolve(name) for name in expected}
    assert {name: (each.kind, each.path, each.run) for name, each in found.items()} == expected
    assert [name for name, each in found.items() if not each.has_weights] == ["runs/none"]
    assert torch.equal(load(found["theirs"])[0].head.weight, load("theirs")[0].head.weight)


def test_a_presets_or_published_name_means_that_beside_a_folder_too_and_one_note_says_so(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_model(GPT(shape()), BYTES, Path("modern-1m"))
    Path("modern-1m/run.toml").touch()
    lines = []
    assert load("modern-1m", progress=Recorded(lines))[0].config == PRESETS["modern-1m"].shape
    assert [line for line in lines if "./modern-1m" in line] == lines[:1]
    assert resolve("./modern-1m").run == resolve(Path("modern-1m")).run == Path("modern-1m")
    Path("gpt2").mkdir()
    assert resolve("gpt2") == Source("gpt2", "published")
