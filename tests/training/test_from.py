"""Going on from weights that are there: an own run, a model folder."""

from dataclasses import replace

import pytest
import torch

from lucidlm.errors import ConfigError, LucidError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import read_settings
from lucidlm.runs.settings import TrainConfig
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.training.loop import train
from lucidlm.training.plan import GO_ON
from lucidlm.training.start import copy_weights
from lucidlm.weights.huggingface import load_model, save_model
from lucidlm.weights.load import load

pytestmark = pytest.mark.usefixtures("quick_judging")
BOOK = "The tide came in and went out again. Anna wrote down when. Nobody read it but the lamp.\n"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A model folder with a tokenizer of its own, and a text to go on with."""
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer.train([BOOK], 270)
    torch.manual_seed(3)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "context_length": 24,
        "emb_dim": 32,
        "n_layers": 1,
        "n_heads": 2,
    }
    model = GPT(GPTConfig(**shape, qkv_bias=True, tied_head=True, document_prefix_id=tokenizer.end_of_text))
    save_model(model, tokenizer, tmp_path / "base")
    (tmp_path / "book.txt").write_text(BOOK * 60, encoding="utf-8")
    return tmp_path / "base"


def config(**changes) -> TrainConfig:
    settings = {"text": "book.txt", "out": "run", "steps": 4, "validate_every": 2, "batch_tokens": 96}
    settings |= {"from_": "base", "dtype": "float32", "threads": 1, "device": "cpu"}
    return TrainConfig(**(settings | changes))


def test_the_run_has_the_weights_shape_and_tokenizer_it_went_on_from(base, quick_probes):
    result = train(config(steps=1))
    _, plan = read_settings(result.run)
    model, tokenizer = load(base)
    assert replace(plan.model, drop_rate=0.0) == replace(model.config, drop_rate=0.0)
    assert load(result.run)[1].fingerprint() == tokenizer.fingerprint()
    assert plan.optim.name == "adamw"
    assert plan.optim.lr == pytest.approx(min(1e-3, GO_ON.lr * 768 / 32))
    assert plan.schedule[-1][1] == 0.0


def test_before_the_first_step_its_validation_loss_is_the_bases(base, quick_probes):
    from lucidlm.measure.evaluation import evaluate_documents
    from lucidlm.runs.data import corpus_of_run
    from lucidlm.text.corpus import validation_documents

    result = train(config())
    first = read_history(result.run).validations[0]
    assert first.step == 0
    model, tokenizer = load(base)
    documents = [*validation_documents(corpus_of_run(result.run))]
    before = evaluate_documents(model, tokenizer, documents)
    assert first.validation_loss_nats == pytest.approx(before.loss_nats, rel=1e-6)
    assert f"{before.loss_nats:.4f} before" in result.verdict
    assert result.evaluation.loss_nats < before.loss_nats


def test_it_is_repeated_and_resumed_without_the_base_to_the_same_weights(base, quick_probes, monkeypatch):
    import shutil

    once = train(config())
    asked, plan = read_settings(once.run)
    again = train(replace(asked, out="again"), plan=plan)
    weights = [load_model(run).state_dict() for run in (once.run, again.run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    shutil.rmtree(base)
    assert train(TrainConfig(out="again"), resume=True).step == once.step


def test_a_shorter_context_takes_the_first_positions(base):
    model, _ = load(base)
    shorter = GPT(replace(model.config, context_length=8))
    copy_weights(model, shorter.eval())
    ids = torch.arange(8)[None]
    torch.testing.assert_close(shorter(ids), model(ids))


def test_what_contradicts_the_base_is_refused_before_anything_is_made(base, tmp_path, quick_probes):
    with pytest.raises(ConfigError, match="--preset"):
        config(preset="modern-1m")
    with pytest.raises(ConfigError, match="--tokenizer"):
        config(tokenizer="bytes")
    with pytest.raises(ConfigError, match="--context-length 25"):
        train(config(context_length=25))
    with pytest.raises(WeightsError, match="nowhere"):
        train(config(from_="nowhere"))
    prepare(["book.txt"], "prepared", tokenizer="bytes")
    with pytest.raises(ConfigError, match="another tokenizer"):
        train(config(text="prepared"))
    assert not (tmp_path / "run").exists()


def test_a_text_prepared_with_the_bases_tokenizer_is_taken(base, quick_probes):
    prepare(["book.txt"], "prepared", tokenizer=str(base))
    assert train(config(text="prepared", steps=1)).evaluation is not None


def test_a_run_is_overwritten_by_one_that_goes_on_from_it(base, quick_probes):
    first = train(config())
    before = load(first.run)[0].state_dict()
    train(config(from_="run", steps=1), overwrite=True)
    start = read_history(first.run).validations[0]
    assert start.validation_loss_nats == pytest.approx(first.best.validation_loss_nats, abs=1e-6)
    assert not torch.equal(before["head.weight"], load("run")[0].state_dict()["head.weight"])
    assert sorted(path.name for path in base.parent.iterdir()) == ["base", "book.txt", "run"]


@pytest.mark.parametrize("slip", [{"from_": "typo"}, {"text": "no-such.txt"}, {"batch_tokens": 7}])
def test_a_run_that_cannot_begin_leaves_the_one_that_it_was_to_overwrite(base, quick_probes, slip):
    train(config())
    before = {path: path.read_bytes() for path in (base.parent / "run").rglob("*") if path.is_file()}
    with pytest.raises(LucidError):
        train(config(**slip), overwrite=True)
    after = {path: path.read_bytes() for path in (base.parent / "run").rglob("*") if path.is_file()}
    assert after == before
    assert sorted(path.name for path in base.parent.iterdir()) == ["base", "book.txt", "run"]
