import errno
import json
import os
from pathlib import Path

import gguf
import pytest
import torch
from models import BYTES
from recorded import Recorded

from lucidlm.errors import ConfigError, PlaceError, RunError, WeightsError
from lucidlm.measure.evaluation import evaluate
from lucidlm.measure.protocol import Protocol
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.locks import lock
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights import export as module
from lucidlm.weights.export import FIXED_TEXT, export
from lucidlm.weights.huggingface import open_model, save_model
from lucidlm.weights.load import load


@pytest.fixture
def model(lively_gpt):
    lively_gpt.config = lively_gpt.config.changed(document_prefix_id=256)
    return lively_gpt


def test_a_folder_opens_in_transformers_with_the_same_logits_and_ids(model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(model, BYTES, tmp_path / "out")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(FIXED_TEXT, return_tensors="pt").input_ids[:, :64]
    assert ids[0].tolist() == BYTES.encode(FIXED_TEXT)[:64]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(ids).logits
        torch.testing.assert_close(theirs, model(ids), atol=1e-4, rtol=0)


@pytest.fixture
def beginning(tmp_path):
    """A folder as Llama 3's: its tokenizer puts a token first, and config.json knows nothing of it."""
    tokenizer = Tokenizer.train(["the tide and the lamp, the tide and the clock " * 9], 270)
    document = json.loads(json.dumps(tokenizer.document()))
    first = {"id": 270, "content": "<begin>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"].append(first | flags)
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<begin>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<begin>": {"id": "<begin>", "ids": [270], "tokens": ["<begin>"]}},
    }
    shape = {"vocab_size": 271, "context_length": 64, "emb_dim": 32, "n_layers": 1, "n_heads": 2}
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape, family="modern", qk_norm=False))
    save_model(model, tokenizer, tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path / "llama"


def test_a_token_that_a_tokenizer_puts_first_is_the_models_prefix_here_and_stays_first_there(beginning):
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = load(beginning)
    assert (model.document_prefix_id, tokenizer.begin_of_text, tokenizer.end_of_text) == (270, 270, 269)
    out = beginning.parent / "out"
    export(model, tokenizer, out)
    export(model, tokenizer, out.with_suffix(".gguf"), format="gguf", kind="f32")
    theirs = AutoTokenizer.from_pretrained(out)
    ids = theirs("the tide and the lamp", return_tensors="pt").input_ids
    assert ids[0].tolist() == [270, *tokenizer.encode("the tide and the lamp")]
    assert (theirs.bos_token_id, theirs.eos_token_id) == (270, 269)
    oracle = AutoModelForCausalLM.from_pretrained(out)
    assert (oracle.config.bos_token_id, oracle.generation_config.bos_token_id) == (270, 270)
    loss = oracle(ids, labels=ids).loss.item()
    result = evaluate(model, tokenizer, "the tide and the lamp")
    assert result.tokens_scored == ids.shape[1] - 1
    assert result.loss_nats == pytest.approx(loss, rel=1e-5)
    with pytest.raises(ConfigError, match="before each text"):
        evaluate(model, tokenizer, "the tide", protocol=Protocol("lm-eval"))
    fields = GGUFReader(out.with_suffix(".gguf")).fields
    found = {name: fields[f"tokenizer.ggml.{name}"].contents() for name in ("bos_token_id", "add_bos_token")}
    assert found == {"bos_token_id": 270, "add_bos_token": True}


def test_what_was_exported_comes_back_bitwise(model, tmp_path):
    export(model, BYTES, tmp_path / "out")
    again, tokenizer = load(tmp_path / "out")
    assert again.config == model.config
    assert again.document_prefix_id == 256
    assert tokenizer.fingerprint() == BYTES.fingerprint()
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_gguf_file_holds_every_tensor(model, tmp_path):
    export(model, BYTES, tmp_path / "out.gguf", format="gguf", kind="f32")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert (found["output.weight"] == model.head.weight.detach().numpy()).all()


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_place_that_is_taken_is_left_alone(model, tmp_path, format):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PlaceError):
        export(model, BYTES, tmp_path / "out", format=format)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("format", ["hf", "gguf"])
@pytest.mark.parametrize("place", [".", "", "..", "link", "\udcff"])
def test_a_place_that_cannot_be_written_is_named_before_the_work(model, tmp_path, monkeypatch, format, place):
    (tmp_path / "inside" / "real").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "inside")
    Path("link").symlink_to("real")
    with pytest.raises(RunError, match=r"--out|link"):
        export(model, BYTES, place, format=format)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "link", "real"]


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_what_a_killed_export_left_is_gone_after_the_next_and_two_at_once_are_told(model, tmp_path, format):
    left = tmp_path / (".out.tmp" if format == "hf" else ".out.12345.tmp")
    left.mkdir() if format == "hf" else left.write_bytes(b"GGUF")
    with lock(tmp_path / "out"), pytest.raises(RunError, match="in use by another"):
        export(model, BYTES, tmp_path / "out", format=format)
    export(model, BYTES, tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_file_that_is_there_is_left_alone(model, tmp_path, format):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(PlaceError):
        export(model, BYTES, tmp_path / "out", format=format)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_progress_counts_up_to_the_end(model, tmp_path, format):
    told = Recorded()
    export(
        model,
        BYTES,
        tmp_path / "out",
        format=format,
        progress=told,
    )
    assert [name for name, *_ in told.stages] == ["writing tensors", "comparing tensors"]
    assert all(done == total > 0 for _, done, total in told.stages)


def test_weights_streamed_from_a_folder_give_the_models_logits(model, tmp_path):
    save_model(model, BYTES, tmp_path)
    ids = torch.randint(0, 257, (2, 20))
    with torch.no_grad():
        assert torch.equal(module.logits_of(open_model(tmp_path), ids), model(ids))


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_full_disk_is_named_and_nothing_is_left(model, tmp_path, monkeypatch, format):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"out: No space left on device, .* GB are free there"):
        export(model, BYTES, tmp_path / "out", format=format)
    assert not list(tmp_path.iterdir())


def test_a_format_that_is_not_known_is_named(model, tmp_path):
    with pytest.raises(ConfigError, match=r"--format onnx: .*hf, gguf"):
        export(model, BYTES, tmp_path / "out", format="onnx")


def test_what_does_not_come_back_the_same_is_not_left_there(model, tmp_path, monkeypatch):
    original = module.save_model

    def changed(model, *rest, **settings):
        state = {name: weight.clone() for name, weight in model.state_dict().items()}
        state["final_norm.weight"][0] += 1
        original(model, *rest, **settings, state=state)

    monkeypatch.setattr(module, "save_model", changed)
    with pytest.raises(WeightsError, match="apart from the model's; nothing was written"):
        export(model, BYTES, tmp_path / "out")
    assert not list(tmp_path.iterdir())
